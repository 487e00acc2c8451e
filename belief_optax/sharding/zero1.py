"""ZeRO, stage 1: state that is split over the devices that share its parameters."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding

from belief_optax.core import Recipe, arguments
from belief_optax.core.piece import comparable
from belief_optax.param_groups import ByPath, moving
from belief_optax.sharding.placement import (
  Layout,
  Path,
  axes_of,
  check_local,
  far_kind,
  for_each,
  keystr,
  local_params,
  marking,
  on_device,
  placed,
  spec_of,
)


class Zero1(optax.GradientTransformationExtraArgs):
  """What `zero1` returns: a gradient transformation that compares, hashes and prints by its arguments."""

  __slots__ = ()

  def __repr__(self) -> str:
    plan = cast(Any, self.update).plan
    return f'zero1({plan.tx!r}, axis={plan.axis!r}, min_size={plan.min_size})'


def zero1(tx: optax.GradientTransformation, param_shardings: Any, axis: str = 'data', min_size: int = 4096) -> Zero1:
  r"""Splits the state of an optimizer over the devices that have the same parameters (ZeRO, stage 1).

  With n devices along the axis, device k keeps and updates the k-th part of each array,

  $$u^{(k)}, s^{(k)} = \mathrm{tx}(\bar g^{(k)}, s^{(k)}, p^{(k)}), \qquad u = (u^{(1)}, \ldots, u^{(n)}),$$

  which takes a reduce-scatter of the mean gradient and an all-gather of the updates instead of one all-reduce. An array
  is split along its first dimension that the axis divides. An array stays as its parameter is if there is no such
  dimension, if it is small or empty, or if its parameter is split over the axis already.

  The same value works under `jax.jit`, where the gradients are those of the whole batch and the compiler finds the
  collectives, and inside `jax.shard_map`, where each device passes the gradients of its own batch, which are averaged
  (see `local_params`). JAX 0.9 has no gather whose result is known there to be the same on each device, so an
  all-reduce takes its place. Create the state outside, by `init_sharded` or `init`; it is the same array for both.

  Args:
    tx: the optimizer. Inside `jax.shard_map` nothing else would sum over devices, so it must be elementwise: a
      composition of this package, or `by_path` over such compositions.
    param_shardings: a tree of `NamedSharding` like the parameters, or a prefix of one. Updates are returned with these,
      in device memory. With another memory kind `init` puts the state there; `update` takes it in device memory, as in
      the example of `init_sharded`.
    axis: the mesh axis over which the state is split.
    min_size: arrays with fewer elements are not split.

  Returns:
    An `optax.GradientTransformationExtraArgs`; two are equal if their arguments are.

  Raises:
    TypeError: if `tx` is no gradient transformation, a sharding no `NamedSharding`, or `min_size` no integer.
    ValueError: if the mesh has no such axis, or `min_size` is negative; at `init` and `update`, if a parameter has no
      sharding or one that does not fit its shape; inside `jax.shard_map`, if `tx` is not elementwise or the gradients
      do not differ between devices.

  Example:
    Under `jax.jit` nothing else changes:

    >>> import belief_optax as bo, jax, jax.numpy as jnp, optax
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> everywhere = NamedSharding(mesh, P())
    >>> batch = jax.device_put(jnp.ones((64, 512)), NamedSharding(mesh, P('data')))
    >>> params = jax.device_put({'w': jnp.ones((512, 64))}, everywhere)
    >>> tx = sharding.zero1(bo.adam(1e-3), everywhere)
    >>> state = sharding.init_sharded(tx, params, everywhere)
    >>> state.slots['mu']['w'].sharding.spec[0]
    'data'
    >>> loss = lambda params, batch: jnp.mean((batch @ params['w']) ** 2)
    >>> def step(params, state, batch):
    ...   updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
    ...   return optax.apply_updates(params, updates), state
    >>> after, _ = jax.jit(step)(params, state, batch)

    Inside `jax.shard_map` the gradients are kept local:

    >>> def local_step(params, state, batch):
    ...   updates, state = tx.update(jax.grad(loss)(sharding.local_params(params, 'data'), batch), state, params)
    ...   return optax.apply_updates(params, updates), state
    >>> specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(tx, params, everywhere))
    >>> each = jax.shard_map(local_step, mesh=mesh, in_specs=(P(), specs, P('data')), out_specs=(P(), specs))
    >>> bool(jnp.allclose(jax.jit(each)(params, state, batch)[0]['w'], after['w']))
    True
  """
  if not isinstance(tx, optax.GradientTransformation):
    raise TypeError(f'tx must be a gradient transformation, got {tx!r}.')
  if arguments.integer('min_size', min_size) < 0:
    raise ValueError(f'min_size must be an integer >= 0, got {min_size!r}.')
  layout = Layout.read(param_shardings)
  if axis not in layout.mesh.axis_names:
    where = f'the mesh of param_shardings{keystr(layout.entries[0][0])}'
    raise ValueError(f'axis must be an axis of {where}, {", ".join(map(repr, layout.mesh.axis_names))}, got {axis!r}.')
  plan = _Plan(tx, layout, axis, int(min_size))
  return Zero1(_Init(plan), _Update(plan))


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
  """Which part of each array is whose."""

  tx: optax.GradientTransformation
  layout: Layout
  axis: str
  min_size: int

  def _key(self) -> Any:
    return comparable(self.tx), self.layout, self.axis, self.min_size

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Plan) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def dim(self, path: Path, shape: tuple[int, ...]) -> int | None:
    """The dimension along which an array is split, or None."""
    whole = self.layout.at(path, shape)
    taken = self.axis in (axis for entry in whole.spec for axis in axes_of(entry))
    if taken or math.prod(shape) < max(self.min_size, 1):
      return None
    n = self.layout.mesh.shape[self.axis]
    return next((i for i, side in enumerate(whole.shard_shape(shape)) if side % n == 0), None)

  def part(self, path: Path, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of an array that is split, else that of its parameter."""
    whole, dim = self.layout.at(path, shape), self.dim(path, shape)
    if dim is None:
      return whole
    entries = [axes_of(entry) for entry in (*whole.spec, *[None] * (len(shape) - len(whole.spec)))]
    entries[dim] = (*entries[dim], self.axis)
    return NamedSharding(whole.mesh, spec_of(entries), memory_kind=whole.memory_kind)

  def place(self, sharding: Callable[[Path, tuple[int, ...]], NamedSharding], tree: Any) -> Any:
    """Splits the leaves of a tree like the parameters; None stays None."""
    return jax.tree_util.tree_map_with_path(lambda path, x: _place(x, sharding(path, jnp.shape(x))), tree)

  @property
  def inside(self) -> bool:
    """Whether this is traced for one device of the axis, as in `jax.shard_map`."""
    return self.axis in jax.sharding.get_abstract_mesh().manual_axes


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _place(x: Any, sharding: NamedSharding) -> Any:
  """The array split like this, in the memory where it is: a constraint on automatic axes, a type on explicit ones."""
  context = jax.sharding.get_abstract_mesh()
  mesh = sharding.mesh if context.empty else context
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  wanted = [axes_of(entry) for entry in (*sharding.spec, *[None] * (x.ndim - len(sharding.spec)))]

  def only(kind: AxisType, keep: Any = ()) -> Any:
    entries = [[axis for axis in axes if kinds[axis] == kind] for axes in wanted]
    for axes, entry in zip(entries, keep, strict=False):
      axes.extend(axis for axis in axes_of(entry) if axis not in sharding.mesh.axis_names)
    return NamedSharding(sharding.mesh, spec_of(entries)) if context.empty else spec_of(entries)

  if AxisType.Explicit in kinds.values():
    x = jax.sharding.reshard(x, only(AxisType.Explicit, keep=jax.typeof(x).sharding.spec))  # `mark` has axes of its own
  if AxisType.Auto in kinds.values():
    x = jax.lax.with_sharding_constraint(x, only(AxisType.Auto))
  return x


@dataclasses.dataclass(frozen=True)
class _Init:
  plan: _Plan

  def __call__(self, params: Any) -> Any:
    if self.plan.inside:
      raise ValueError('zero1: create the state outside of jax.shard_map, where arrays have their whole shapes.')
    if not jax.tree.leaves(params):  # optax.tree.map_params has a placeholder without leaves, and so without places
      return self.plan.tx.init(params)
    shardings = for_each(self.plan.part, params)
    return jax.jit(functools.partial(_init_parts, self.plan, shardings))(params)


def _init_parts(plan: _Plan, shardings: Any, params: Any) -> Any:
  state = plan.tx.init(plan.place(plan.part, jax.tree.map(on_device, params)))
  where = placed(plan.tx.init, params, shardings, plan.layout.mesh)
  return jax.tree.map(lambda x, like: _keep(_place(x, like.sharding), like.sharding), state, where)


def _keep(x: Any, sharding: NamedSharding) -> Any:
  """The array in the memory in which it is kept between the steps."""
  return x if far_kind(sharding) is None or marking() else jax.device_put(x, sharding)


@dataclasses.dataclass(frozen=True)
class _Update:
  plan: _Plan

  def __call__(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
    plan, tx = self.plan, optax.with_extra_args_support(self.plan.tx)
    params = moving(updates, params)
    if plan.inside:
      return _update_inside(plan, updates, state, params, extra_args)
    parts = plan.place(plan.part, updates), plan.place(plan.part, params)
    updates, state = tx.update(parts[0], state, parts[1], **extra_args)
    return plan.place(plan.layout.at, updates), state


# Inside jax.shard_map.


def _update_inside(plan: _Plan, updates: Any, state: Any, params: Any, extra_args: Any) -> tuple[Any, Any]:
  """One step on one device: its own gradients in, the updates of all devices out."""
  if not _is_elementwise(plan.tx):
    raise ValueError(
      'zero1: inside jax.shard_map each device updates its own part, so tx must be known to be elementwise: a '
      f'composition of belief_optax whose lines all are, or by_path over such. Use jax.jit for {plan.tx!r}.'
    )
  check_local(updates, plan.axis)
  leaves = jax.tree_util.tree_leaves_with_path(updates)
  dims = {path: plan.dim(path, _whole_shape(plan, path, u)) for path, u in leaves}
  each = lambda move, tree: jax.tree_util.tree_map_with_path(lambda path, x: move(x, plan.axis, dims[path]), tree)
  tx = optax.with_extra_args_support(plan.tx)
  updates, state = tx.update(each(_scatter, updates), state, each(_part, params), **extra_args)
  return each(gather, updates), state


def _is_elementwise(tx: Any) -> bool:
  if isinstance(tx, ByPath):
    return all(map(_is_elementwise, tx.groups.transformations))
  return isinstance(tx, Recipe) and all(line.elementwise for line in tx.lines)


def _whole_shape(plan: _Plan, path: Path, x: Any) -> tuple[int, ...]:
  """The shape that an array has outside of jax.shard_map."""
  manual = jax.sharding.get_abstract_mesh().manual_axes
  entries = (*plan.layout.above(path).spec, *[None] * x.ndim)
  times = lambda entry: math.prod(plan.layout.mesh.shape[axis] for axis in axes_of(entry) if axis in manual)
  return tuple(side * times(entry) for side, entry in zip(x.shape, entries, strict=False))


def _scatter(g: Any, axis: str, dim: int | None) -> Any:
  """The mean of the gradients of all devices: this device's part of it, or all of it where nothing is split."""
  if dim is None:
    return jax.lax.pmean(g, axis)
  return jax.lax.psum_scatter(g, axis, scatter_dimension=dim, tiled=True) / jax.lax.axis_size(axis)


def _part(p: Any, axis: str, dim: int | None) -> Any:
  """This device's part of an array that all devices have."""
  if dim is None:
    return p
  side = p.shape[dim] // jax.lax.axis_size(axis)
  return jax.lax.dynamic_slice_in_dim(p, jax.lax.axis_index(axis) * side, side, dim)


def gather(u: Any, axis: str, dim: int | None) -> Any:
  """The parts of all devices as one array that is known to be the same on each device."""
  if dim is None:
    return u
  all_gather = getattr(jax.lax, 'all_gather_invariant', None)
  if all_gather:  # older JAX, such as 0.7
    return all_gather(u, axis, axis=dim, tiled=True)
  if 'invarying' in (jax.lax.all_gather.__doc__ or ''):  # JAX since 0.10
    return jax.lax.all_gather(u, axis, axis=dim, tiled=True, to='invarying')
  side = u.shape[dim]  # between these, as in 0.9, no gather is known to, but a sum is
  whole = jnp.zeros([*u.shape[:dim], side * jax.lax.axis_size(axis), *u.shape[dim + 1 :]], u.dtype)
  own = jax.lax.dynamic_update_slice_in_dim(local_params(whole, axis), u, jax.lax.axis_index(axis) * side, dim)
  return jax.lax.psum(own, axis)
