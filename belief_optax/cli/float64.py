"""The equations of a step in NumPy's float64: what a compiler should have made of them.

A step is traced as XLA gets it, and each equation is run on NumPy arrays, floats in float64. The mathematics is not
written a second time, and no compiler has a say: what differs from this by more than rounding was compiled wrongly.
Whether the equations are those of the paper is another question, which the tests of the package answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np


class Unknown(Exception):
  """An equation that this file does not know."""


def trace(function: Callable[..., Any], *args: Any) -> Callable[..., list[Any]]:
  """A function as NumPy runs it: it takes the flat arguments and returns the flat results.

  Raises:
    Unknown: when it is called, if it holds an equation that has no counterpart here.
  """
  closed = jax.make_jaxpr(function)(*args)
  return lambda *flat: _run(closed.jaxpr, closed.consts, [_wide(x) for x in flat])


def _wide(x: Any) -> np.ndarray:
  """Floats in float64, the rest as it is."""
  x = np.asarray(x)
  return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
  env = dict(zip(jaxpr.invars, args, strict=True)) | dict(zip(jaxpr.constvars, map(_wide, consts), strict=True))
  read = lambda atom: _wide(atom.val) if isinstance(atom, jax.extend.core.Literal) else env[atom]
  for equation in jaxpr.eqns:
    with np.errstate(all='ignore'):  # of a branch that is not taken, as in XLA
      outs = _equation(equation, [read(atom) for atom in equation.invars])
    env.update(zip(equation.outvars, outs, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: Any, ins: Sequence[Any]) -> Sequence[Any]:
  name, params = equation.primitive.name, equation.params
  inner = params.get('jaxpr') or params.get('call_jaxpr')
  if name in ('jit', 'pjit', 'closed_call', 'core_call', 'custom_jvp_call', 'custom_vjp_call') and inner is not None:
    return _run(inner.jaxpr, inner.consts, ins)
  if name in ('cpu_barrier', 'optimization_barrier', 'stop_gradient', 'pvary', 'name'):
    return ins
  if name not in _NUMPY:
    raise Unknown(f'{name} has no counterpart in NumPy here')
  aval: Any = equation.outvars[0].aval
  floats = jnp.issubdtype(aval.dtype, jnp.floating)
  out = np.asarray(_NUMPY[name](params, *ins), np.float64 if floats else aval.dtype)
  return [np.broadcast_to(out, aval.shape)]


def _broadcast(params: Mapping[str, Any], x: Any) -> Any:
  sides = [1] * len(params['shape'])
  for axis, side in zip(params['broadcast_dimensions'], np.shape(x), strict=True):
    sides[axis] = side
  return np.broadcast_to(np.reshape(x, sides), params['shape'])


def _divide(_: Mapping[str, Any], x: Any, y: Any) -> Any:
  """Of integers the quotient, rounded towards 0, as XLA has it."""
  return np.trunc(x / y) if np.issubdtype(np.asarray(x).dtype, np.integer) else x / y


_UNARY = {
  'abs': np.abs, 'exp': np.exp, 'expm1': np.expm1, 'log': np.log, 'log1p': np.log1p, 'neg': np.negative,
  'not': np.invert, 'sign': np.sign, 'sqrt': np.sqrt, 'square': np.square, 'is_finite': np.isfinite,
  'floor': np.floor, 'ceil': np.ceil, 'tanh': np.tanh, 'copy': np.array,
}  # fmt: skip
_BINARY = {
  'add': np.add, 'add_any': np.add, 'sub': np.subtract, 'mul': np.multiply, 'max': np.maximum, 'min': np.minimum,
  'pow': np.power, 'rem': np.fmod, 'eq': np.equal, 'ne': np.not_equal, 'lt': np.less, 'le': np.less_equal,
  'gt': np.greater, 'ge': np.greater_equal, 'and': np.bitwise_and, 'or': np.bitwise_or, 'xor': np.bitwise_xor,
  'atan2': np.arctan2,
}  # fmt: skip
_REDUCTIONS = {'reduce_sum': np.sum, 'reduce_max': np.max, 'reduce_min': np.min, 'reduce_prod': np.prod,
               'reduce_and': np.all, 'reduce_or': np.any}  # fmt: skip
_NUMPY: dict[str, Callable[..., Any]] = {
  **{name: lambda _, x, f=f: f(x) for name, f in _UNARY.items()},
  **{name: lambda _, x, y, f=f: f(x, y) for name, f in _BINARY.items()},
  **{name: lambda params, x, f=f: f(x, axis=tuple(params['axes'])) for name, f in _REDUCTIONS.items()},
  'broadcast_in_dim': _broadcast,
  'clamp': lambda _, low, x, high: np.clip(x, low, high),
  'convert_element_type': lambda params, x: _converted(x, params['new_dtype']),
  'div': _divide,
  'integer_pow': lambda params, x: x ** params['y'],
  'reshape': lambda params, x: np.reshape(x, params['new_sizes']),
  'rsqrt': lambda _, x: 1 / np.sqrt(x),
  'select_n': lambda _, which, *cases: np.choose(np.asarray(which, int), cases),
  'squeeze': lambda params, x: np.squeeze(x, tuple(params['dimensions'])),
  'transpose': lambda params, x: np.transpose(x, params['permutation']),
}


def _converted(x: Any, dtype: Any) -> Any:
  """Floats stay in float64."""
  return x if jnp.issubdtype(dtype, jnp.floating) else np.asarray(x).astype(dtype)
