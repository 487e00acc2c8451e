"""What an argument may be, said once: its range, its error message, its normal form.

A hyperparameter is a Python number (a constant of the compiled step), an array or tracer (data of the
compiled step) or a schedule `count -> value`. Only Python numbers can be checked when an optimizer is built.
"""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOAT32_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Range:
  """The values that a number may have, and the words that say so.

  Attributes:
    words: what an error message says of it.
    contains: whether a number lies in it.
    guard: what becomes of a value that only arrives during a step, from an array or a schedule; None for the value.
  """

  words: str
  contains: Callable[[float], bool]
  guard: Callable[[Any], Any] | None = None


def _survives_float32(value: float) -> bool:
  # XLA flushes denormals to zero, so a smaller eps would silently be no eps at all.
  return value == 0 or FLOAT32_TINY <= value < math.inf or (jax.config.read('jax_enable_x64') and 0 < value < math.inf)


def _rate(least: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """A rate of 1 makes an average that never moves, and a bias mass of 0: NaN is better than a step without a scale."""
  return lambda b: b + jnp.sqrt(jnp.where(least(b) & (b < 1), 0.0, -1.0))  # plus 0 or, as jax_debug_nans sees, NaN


FINITE = Range('a finite number', math.isfinite)
NONNEGATIVE = Range('a finite number >= 0', lambda v: 0 <= v < math.inf)
POSITIVE = Range('a finite number > 0', lambda v: 0 < v < math.inf)
DECAY_RATE = Range('a number in [0, 1)', lambda v: 0 <= v < 1, _rate(lambda b: b >= 0))
POSITIVE_DECAY_RATE = Range('a number in (0, 1)', lambda v: 0 < v < 1, _rate(lambda b: b > 0))
FRACTION = Range('a number in [0, 1]', lambda v: 0 <= v <= 1)
MOMENTUM = FRACTION
EPSILON = Range(f'0 or a finite number >= {FLOAT32_TINY:.4g} (float32 flushes smaller ones to 0)', _survives_float32)
THRESHOLD = Range(
  'a finite number >= 4 (the variance of the step is infinite at rho <= 4)', lambda v: 4 <= v < math.inf
)


def at(value: Any, count: Any) -> Any:
  """The value of a hyperparameter after `count` steps: what a schedule gives, else itself."""
  return value(count) if callable(value) else value


def is_array(value: Any) -> bool:
  """Whether a hyperparameter is data of the compiled step: an array or a tracer."""
  return isinstance(value, jax.Array | np.ndarray)


def as_data(value: float, dtype: Any) -> np.ndarray:
  """A number as a scalar array."""
  return np.asarray(value, dtype)


def hyperparameter(name: str, value: Any, allowed: Range) -> Any:
  """Returns a hyperparameter in its normal form, or raises an error that names it.

  Args:
    name: the argument's name, for the error message.
    value: a Python or NumPy number, a scalar array, or a schedule `count -> value`.
    allowed: the range of Python numbers.

  Returns:
    A Python number, the array, or the schedule.

  Raises:
    TypeError: if `value` is none of these, or a decay rate in 16 bits.
    ValueError: if a number is out of range or an array is not a scalar.
  """
  if isinstance(value, np.generic):
    if isinstance(value, np.floating):
      check_real(name, value.dtype, allowed)
    value = value.item()
  if is_array(value):
    return _scalar_array(name, value, allowed)
  if isinstance(value, numbers.Real) and not isinstance(value, bool):
    try:
      number = float(value)  # an int that int32 cannot hold is a number too
    except OverflowError:
      number = math.inf
    if not allowed.contains(number):
      raise ValueError(f'{name} must be {allowed.words}, got {value!r}.')
    return number
  if callable(value) and not isinstance(value, type):
    return value
  raise TypeError(f'{name} must be a number, a scalar array or a schedule (count -> value), got {value!r}.')


def _scalar_array(name: str, value: Any, allowed: Range) -> Any:
  if np.ndim(value):
    raise ValueError(
      f'{name} must be a scalar, got an array of shape {np.shape(value)}; use jax.vmap for a population.'
    )
  check_real(name, value.dtype, allowed)
  return value


def check_real(name: str, dtype: Any, allowed: Range) -> None:
  """Raises where an array or the value of a schedule has a dtype that cannot hold the hyperparameter."""
  if not jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.integer):
    raise TypeError(f'{name} must be real, got dtype {dtype}.')
  if allowed.guard is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
    # bfloat16(0.999) == 1: the moment would never move, and its bias mass would be 0.
    raise TypeError(
      f'{name} arrived as {dtype}, which cannot hold a decay rate (0.999 rounds to 1 in bfloat16). '
      'With optax.inject_hyperparams pass hyperparam_dtype=jnp.float32.'
    )


def choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
  """Returns `value` if it is one of `allowed`, or raises a ValueError that lists them."""
  if not any(type(value) is type(one) and value == one for one in allowed):
    raise ValueError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}.')
  return value


def flag(name: str, value: Any) -> bool:
  """Returns a Python bool, or raises a TypeError: a flag chooses the recipe, so it cannot be data."""
  if isinstance(value, bool | np.bool_):
    return bool(value)
  raise TypeError(f'{name} must be True or False, got {value!r}.')


# Of what cannot be data of the compiled step.
STATIC_HINT = 'with optax.inject_hyperparams name it in static_args'


def integer(name: str, value: Any) -> int:
  """Returns a Python int, or raises a TypeError: it shapes the compiled step, so it cannot be data."""
  try:
    if not isinstance(value, bool):
      return operator.index(value)
  except TypeError:
    pass
  raise TypeError(f'{name} must be an integer ({STATIC_HINT}), got {value!r}.')


def positive_integer(name: str, value: Any) -> int:
  """Returns a Python int >= 1, or raises an error that names it."""
  if (value := integer(name, value)) < 1:
    raise ValueError(f'{name} must be an integer >= 1, got {value!r}.')
  return value


def state_dtype(name: str, value: Any) -> Any:
  """Returns the dtype in which a slot is kept, or None for the default (float32 or wider)."""
  if value is None:
    return None
  try:
    dtype = jnp.dtype(value)
  except TypeError:
    dtype = None
  if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
    raise TypeError(f"{name} must be None or a floating dtype such as 'float32' or 'bfloat16', got {value!r}.")
  return dtype


def is_zero(value: Any) -> bool:
  """Whether a hyperparameter is the Python number 0, so that the piece that it drives can be left out."""
  return isinstance(value, numbers.Real) and value == 0


# The fields of a line.


def hyper(default: Any = dataclasses.MISSING, *, allowed: Range, constant: bool = True) -> Any:
  """Declares a hyperparameter of a piece: a number in the range `allowed`, an array or a schedule.

  With `constant=False` an eager step takes a number as data too, so that a sweep over it compiles once.
  """
  normal = lambda name, v: hyperparameter(name, v, allowed)
  return dataclasses.field(default=default, metadata={'normal': normal, 'allowed': allowed, 'constant': constant})


def optional_hyper(default: Any = None, *, allowed: Range) -> Any:
  """Declares a hyperparameter that may be None."""
  normal = lambda name, v: None if v is None else hyperparameter(name, v, allowed)
  return dataclasses.field(default=default, metadata={'normal': normal, 'allowed': allowed, 'constant': True})


def option(default: Any = dataclasses.MISSING, *, normal: Callable[[str, Any], Any]) -> Any:
  """Declares an option of a piece: a static value that `normal(name, value)` checks and returns."""
  return dataclasses.field(default=default, metadata={'normal': normal})
