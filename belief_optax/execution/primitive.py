"""The call of a rule on arrays, as a primitive of JAX: a machine loop on the CPU, and the rule itself everywhere else.

What transforms a step (derivatives, vmap, an export, another platform) sees the rule, as XLA's path does. Only where a
program for the CPU is made does the primitive become a custom call.
"""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from belief_optax.execution import halves, native
from belief_optax.execution.ir import Operand, Unserved, type_of
from belief_optax.execution.switch import Mode


class Call(NamedTuple):
  """A rule and the arrays of one leaf.

  Attributes:
    rule: a jitted function (g, p, kept, scalars, t) -> (result, kept); the same object for equal rules.
    arrays: g, p and kept.
    scalars: the scalars, and t.
    applies: whether the result is the parameter, and not an update.
    after: a bool that is never true, computed from what has to be read before the step overwrites it; or None.
  """

  rule: Callable[..., Any]
  arrays: tuple[Any, Any, dict[str, Any]]
  scalars: Sequence[Any]
  applies: bool
  after: Any = None

  def by_rule(self) -> tuple[Any, dict[str, Any]]:
    """The step by the rule itself."""
    g, p, kept = self.arrays
    if self.after is not None:  # XLA copies what it cannot see to be read before it is overwritten
      kept = {key: jnp.where(self.after, jnp.zeros_like(x), x) for key, x in kept.items()}
    return self.rule(g, p, kept, *_split(self.scalars))


class Signature(NamedTuple):
  """What a machine loop depends on: all but the shape.

  Attributes:
    rule: the rule, jitted.
    structure: how its arrays are nested.
    operands: their dtypes.
    scalars: the dtypes of the scalars.
    over: the operand whose place the first result takes: the parameter's, or the gradient's.
    kept: how many of the last operands are kept, each of which is overwritten too.
    whole: whether the first result is wanted, and not only what is kept.
    rank: how many axes the arrays have, at least 1; 1 where the loop is the same for all.
    x64: whether numbers are 64 bits wide.
    located: whether one more scalar says where the array lies, of which this is a part.
  """

  rule: Callable[..., Any]
  structure: Any
  operands: tuple[Operand, ...]
  scalars: tuple[np.dtype, ...]
  over: int
  kept: int
  whole: bool
  rank: int
  x64: bool
  located: bool = False

  def flat(self, *args: Any) -> list[Any]:
    """The rule on a flat list of arrays and scalars: the result, and what is kept."""
    n = len(self.operands)
    args, origin = (args[:-1], args[-1:]) if self.located else (args, ())
    arrays, (*scalars, t) = args[:n], args[n:]
    results = jax.tree.leaves(self.rule(*self.structure.unflatten(arrays), scalars, t, *origin))
    return results if self.whole else results[1:]

  @property
  def of_part(self) -> 'Signature':
    """That of the loop for a part of an array: where elements have an index, it has to know which part."""
    if not loop_of(self).indexed:
      return self
    return self._replace(located=True, scalars=(*self.scalars, np.dtype(np.uint32)))

  @property
  def overwritten(self) -> list[int]:
    """The operand whose place each result takes."""
    kept = range(len(self.operands) - self.kept, len(self.operands))
    return [self.over, *kept] if self.whole else [*kept]


def run(calls: Sequence[Call], mode: Mode, in_place: bool) -> list[tuple[Any, dict[str, Any]]]:
  """Runs rules on their arrays, each as a machine loop where there is one.

  Args:
    calls: the rules and arrays.
    mode: which way is in force.
    in_place: whether results should take the place of what they follow: where the program may overwrite its arguments.

  Returns:
    The result and what is kept of each.

  Raises:
    ValueError: if the mode is `'native'` and there is no loop.
  """
  results: list[Any] = [None] * len(calls)
  shared: dict[Signature, list[int]] = {}
  for i, call in enumerate(calls):
    signature = None if mode == 'xla' else _served(call, mode)
    if signature is not None and in_place and not call.applies:
      signature = _first_half(signature, call)
    if signature is None:
      results[i] = call.by_rule()
    elif call.arrays[0].size >= native.LARGE:
      (results[i],) = _bind(signature, [call], in_place, mode)
    else:
      shared.setdefault(signature, []).append(i)
  for signature, places in shared.items():  # small arrays share a call
    for first in range(0, len(places), native.SHARED):
      some = places[first : first + native.SHARED]
      for i, result in zip(some, _bind(signature, [calls[i] for i in some], in_place, mode), strict=True):
        results[i] = result
  return results


def _split(scalars: Sequence[Any]) -> tuple[list[Any], Any]:
  return list(scalars[:-1]), scalars[-1]


def _first_half(signature: Signature, call: Call) -> Signature | None:
  """The loop of what is kept, where the update follows from it; None where nothing is kept: XLA fuses what remains."""
  if not signature.kept:
    return None
  return signature._replace(whole=halves.second(call.rule, call.arrays, call.scalars) is None)


def why_not(call: Call) -> str:
  """Why a rule has no machine loop for these arrays; '' if it has one."""
  found = _found(call)
  return found if isinstance(found, str) else ''


def _found(call: Call) -> Signature | str:
  """The signature of a call that has a machine loop, or why it has none."""
  if jax.default_backend() != 'cpu':
    return f'the arrays are on {jax.default_backend()}, where XLA fuses a step'
  if reason := native.available():
    return reason
  try:
    signature = signature_of(call)
    loop_of(signature)
  except Unserved as e:
    return str(e)
  return signature


def signature_of(call: Call) -> Signature:
  """What its loop depends on; raises `Unserved` where its arrays do not fit one."""
  shape = call.arrays[0].shape
  leaves, structure = jax.tree.flatten(call.arrays)
  if not all(isinstance(n, int) for n in shape):
    raise Unserved(f'the shape {shape} is not known, as in an exported program')
  if not math.prod(shape):
    raise Unserved('an empty array needs no loop')
  for x in leaves:
    if x.shape[: len(shape)] != shape:
      raise Unserved(f'an array of shape {x.shape} does not have one entry for each of {shape}')
    type_of(x.dtype)
  operands = tuple(Operand(np.dtype(x.dtype), x.shape[len(shape) :]) for x in leaves)
  scalars = tuple(np.dtype(k.dtype) for k in call.scalars)
  over = int(call.applies)  # g is the first, p the second
  x64 = bool(jax.config.read('jax_enable_x64'))
  one = Signature(call.rule, structure, operands, scalars, over, len(call.arrays[2]), True, 1, x64)
  own = one._replace(rank=max(len(shape), 1))
  return one if _target(own) == _target(one) else own


def _served(call: Call, mode: Mode) -> Signature | None:
  """The signature of a call that has a machine loop, None if it has none; where there must be one, an error."""
  found, g = _found(call), call.arrays[0]
  if not isinstance(found, str):
    return found
  if mode == 'native' and 0 not in g.shape:
    raise ValueError(f"execution 'native' cannot run the step of an array {g.dtype}{list(g.shape)}: {found}.")
  return None


@functools.lru_cache(1024)
def written(signature: Signature) -> Any:
  """The loop of a signature, or why there is none: an exception would not be remembered."""
  try:
    return native.write(signature.flat, signature.operands, signature.scalars, signature.rank)
  except Unserved as e:
    return e


def _target(signature: Signature) -> str:
  """The name of a loop, or ''."""
  return getattr(written(signature), 'target', '')


def loop_of(signature: Signature) -> native.Loop:
  """The loop of a signature; raises `Unserved` where there is none."""
  loop = written(signature)
  if isinstance(loop, Unserved):
    raise loop
  return loop


# The primitive.

step_p = jax.extend.core.Primitive('belief_optax_step')
step_p.multiple_results = True


def _bind(
  signature: Signature, calls: Sequence[Call], in_place: bool, mode: Mode
) -> Iterator[tuple[Any, dict[str, Any]]]:
  arrays = [x for call in calls for x in jax.tree.leaves(call.arrays)]
  out = step_p.bind(
    *arrays, *calls[0].scalars, signature=signature, leaves=len(calls), in_place=in_place, strict=mode == 'native'
  )
  n = len(loop_of(signature).results)
  for i, call in enumerate(calls):
    own = out[i * n : (i + 1) * n]
    after = dict(zip(sorted(call.arrays[2]), own[signature.whole :], strict=True))
    if signature.whole:
      yield own[0], after
    else:
      g, p, _ = call.arrays
      yield halves.second(call.rule, call.arrays, call.scalars)(g, p, after, *_split(call.scalars)), after


def _leaves(args: Sequence[Any], signature: Signature, leaves: int) -> Iterator[list[Any]]:
  """The operands of each leaf, each with the scalars."""
  n, scalars = len(signature.operands), list(args[leaves * len(signature.operands) :])
  for i in range(leaves):
    yield [*args[i * n : (i + 1) * n], *scalars]


def _by_rule(*args: Any, signature: Signature, leaves: int, **_: Any) -> list[Any]:
  """What the primitive computes, in terms of the rule."""
  return [x for each in _leaves(args, signature, leaves) for x in signature.flat(*each)]


def _abstract(*avals: Any, signature: Signature, leaves: int, **_: Any) -> list[Any]:
  out = []
  for each in _leaves(avals, signature, leaves):
    arrays, results = each[: len(signature.operands)], loop_of(signature).results
    if all(_place(x) == _place(arrays[0]) for x in arrays) and not any(
      x.trailing for x in (*signature.operands, *results)
    ):
      out += [arrays[0].update(dtype=x.dtype, weak_type=False) for x in results]
    else:  # how arrays that lie in different places meet is known by JAX
      with jax.numpy_dtype_promotion('standard'):
        out += map(jax.typeof, jax.eval_shape(signature.flat, *each))
  return out


def _place(aval: Any) -> Any:
  """How an array lies on an explicit mesh and inside `shard_map`."""
  return aval.sharding, getattr(aval, 'vma', None)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
  moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

  def of(*some: Any) -> list[Any]:
    args = list(primals)
    for i, x in zip(moving, some, strict=True):
      args[i] = x
    return _by_rule(*args, **params)

  with jax.numpy_dtype_promotion('standard'):
    return jax.jvp(of, [primals[i] for i in moving], [tangents[i] for i in moving])


def _batch(args: Sequence[Any], axes: Sequence[Any], **params: Any) -> Any:
  with jax.numpy_dtype_promotion('standard'):
    out = jax.vmap(functools.partial(_by_rule, **params), in_axes=tuple(axes))(*args)
  return out, [0] * len(out)


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
  """A lowering by a function of JAX."""

  def of(*args: Any, **params: Any) -> Any:
    with jax.numpy_dtype_promotion('standard'):
      return function(*args, **params)

  return mlir.lower_fun(of, multiple_results=True)


_by_xla = _traced(_by_rule)


def _on_cpu(ctx: Any, *args: Any, signature: Signature, leaves: int, in_place: bool, strict: bool) -> Any:
  params = {'signature': signature, 'leaves': leaves, 'in_place': in_place}
  where, reason = _program(ctx)
  loop, target = loop_of(signature.of_part if where == 'partitioned' else signature), ''
  try:
    target = target if where == 'elsewhere' else native.compiled(loop)
  except Exception as e:  # whatever LLVM says, XLA does the same without it
    where, reason = 'elsewhere', f'{type(e).__name__}: {e}'
    if not strict:
      warnings.warn(f'belief_optax: a step runs without its machine loop ({reason}).', RuntimeWarning, stacklevel=2)
  if where == 'here':
    aliases = _aliases(ctx, args, signature, leaves) if in_place else {}
    return jax.ffi.ffi_lowering(target, operand_output_aliases=aliases)(ctx, *args)
  if where == 'partitioned':
    return _by_parts(ctx, *args, **params, strict=strict)
  if strict:
    raise ValueError(f"execution 'native' cannot run a step: {reason}.")
  return _by_xla(ctx, *args, **params)


def _aliases(ctx: Any, args: Sequence[Any], signature: Signature, leaves: int) -> dict[int, int]:
  """Which operand each result overwrites.

  XLA copies what a program must not overwrite. Parameters and state are donated in a training loop; the gradients are
  made inside of the program, and where they are arguments of it they are not donated.
  """
  n, places = len(signature.operands), signature.overwritten
  pairs = ((i * n + x, i * len(places) + y) for i in range(leaves) for y, x in enumerate(places))
  fits = lambda x, y: _type(ctx.avals_in[x]) == _type(ctx.avals_out[y])
  return {x: y for x, y in pairs if fits(x, y) and not (x % n == 0 and _is_argument(args[x]))}


def _is_argument(value: Any) -> bool:
  """Whether a value of a program is an argument of its function."""
  return type(getattr(value, 'owner', None)).__name__ == 'Block'


def _program(ctx: Any) -> tuple[str, str]:
  """Where a program runs: `'here'`, on one device; `'partitioned'` by XLA; or `'elsewhere'`, and what that means."""
  module = ctx.module_context
  if getattr(module.lowering_parameters, 'for_export', False):
    return 'elsewhere', 'an exported program runs in processes that have no such loop'
  around = module.axis_context
  manual = getattr(around, 'manual_axes', None)
  if manual is not None:
    if set(manual) == set(around.mesh.axis_names):
      return 'here', ''
    return 'elsewhere', 'some axes of the mesh are manual and others are not'
  if getattr(around, 'num_devices', None) == 1:
    return 'here', ''
  if getattr(around, 'device_assignment', None) is None:
    return 'elsewhere', 'this JAX does not say on which devices the program will run'
  return 'partitioned', ''


# Parts of arrays: an elementwise loop on each, without communication.


@_traced
def _by_parts(*args: Any, signature: Signature, leaves: int, in_place: bool, strict: bool) -> list[Any]:
  out = []
  for each in _leaves(args, signature, leaves):
    rank = each[0].ndim
    out += _partitioned(signature, rank, in_place, strict)(*each) if rank else signature.flat(*each)
  return out


@functools.lru_cache(1024)
def _partitioned(signature: Signature, rank: int, in_place: bool, strict: bool) -> Callable[..., Any]:
  """The loop on one array, of which each device holds a part: that which it holds of the state."""
  own = signature.of_part
  loop, scalars, leading = loop_of(own), len(signature.scalars), signature.overwritten[-1]
  replaced = signature.overwritten if in_place else []

  def spread(sharding: Any, mesh: Any) -> list[Any]:
    """The sharding of an array for all operands: what stands behind the axes of the parameter is whole."""
    spec = [*sharding.spec, *[None] * rank][:rank]
    return [NamedSharding(mesh, PartitionSpec(*spec)) for _ in signature.operands]

  def part(mesh: Any, args: Any, results: Any) -> Any:
    del results
    whole = NamedSharding(mesh, PartitionSpec())
    operands = spread(args[leading].sharding, mesh)
    shape = args[0].shape

    def local(*arrays: Any) -> Any:
      with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):  # a part lies on one device, whatever mesh is set
        origin = [_origin(shape, arrays[0].shape, operands[0])] if own.located else []
        if origin and origin[0].ndim:  # only its rows are one piece each
          if strict:
            raise ValueError(
              "execution 'native' cannot run a step: its rounding asks for the index of an element, and a part of an "
              'array that is split so is not one piece.'
            )
          return own.flat(*arrays, *origin)
        like = [jax.ShapeDtypeStruct((*arrays[0].shape, *x.trailing), x.dtype) for x in loop.results]
        aliases = {x: y for y, x in enumerate(replaced) if _type(arrays[x]) == _type(like[y])}
        return jax.ffi.ffi_call(loop.target, like, input_output_aliases=aliases)(*arrays, *origin)

    return mesh, local, [operands[0]] * len(loop.results), (*operands, *[whole] * scalars)

  def infer(mesh: Any, args: Any, results: Any) -> Any:
    del results
    return [spread(args[leading].sharding, mesh)[0]] * len(loop.results)

  axes = [f'd{i}' for i in range(rank)]
  named = lambda x: ' '.join([*axes, *(f't{len(x.trailing)}{i}' for i in range(len(x.trailing)))])
  given = [*map(named, signature.operands), *[''] * scalars]
  rule = f'{", ".join(given)} -> {", ".join(map(named, loop.results))}'
  call = custom_partitioning(lambda *args: signature.flat(*args))
  call.def_partition(part, infer_sharding_from_operands=infer, sharding_rule=rule)
  return call


def _origin(whole: tuple[int, ...], part: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
  """uint32, what the index of an element of an array is more than its index in the part: a scalar for one piece."""
  origin = jnp.uint32(0)
  for axis, names in enumerate(sharding.spec):
    stride, own = (math.prod(shape[axis + 1 :]) for shape in (whole, part))
    place = jnp.uint32(0)
    for name in () if names is None else names if isinstance(names, tuple) else (names,):
      place = place * np.uint32(sharding.mesh.shape[name]) + jax.lax.axis_index(name).astype(jnp.uint32)
    origin = origin + place * np.uint32(part[axis] * stride % 2**32)
    if stride != own and part[axis] > 1:
      origin = origin + jax.lax.broadcasted_iota(jnp.uint32, part, axis) * np.uint32((stride - own) % 2**32)
  return origin


def _type(x: Any) -> Any:
  return x.shape, x.dtype


# What is partitioned is lowered for certain devices, for which JAX has no public way of asking. Else XLA's path runs.
with contextlib.suppress(ImportError):
  from jax._src.dispatch import prim_requires_devices_during_lowering

  prim_requires_devices_during_lowering.add(step_p)

step_p.def_impl(_by_rule)
step_p.def_abstract_eval(_abstract)
ad.primitive_jvps[step_p] = _jvp
batching.primitive_batchers[step_p] = _batch
mlir.register_lowering(step_p, _by_xla)
mlir.register_lowering(step_p, _on_cpu, platform='cpu')
