"""Where the state of an optimizer lives on a mesh: with its parameters, or spread over the devices that share them.

An update of this package is elementwise, so the compiler runs it wherever its arrays lie. What it cannot know is where
the state shall be made: zeros do not depend on parameters, and a plain `jax.jit(tx.init)` puts all of them on every
device. `state_shardings` says where they belong and `init_sharded` makes them there. Parameters that are themselves
split (FSDP) need no more. Where they are replicated, `zero1` splits the state alone.

The engine is JAX's own: `jax.jit` with `NamedSharding`, or `jax.shard_map`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from belief_optax.core import Recipe, arguments, dtypes
from belief_optax.param_groups import ByPath

__all__ = ['init_sharded', 'local_params', 'mean_gradients', 'state_shardings', 'zero1']

Path = tuple[Any, ...]


# The state of any optimizer.


def state_shardings(tx: Any, params: Any, param_shardings: Any = None) -> Any:
  """Says where each array of an optimizer's state belongs: to where its parameter is.

  `tx.init` is evaluated without values, on parameters whose types carry their shardings, as on a mesh with explicit
  axes; what it makes like a parameter has the sharding of that. What it makes by shape alone is recognized by its place
  in a tree with the structure of the parameters. All else is replicated, and so is a dimension that its axes do not
  divide.

  Args:
    tx: any optax transformation, or what has an `init` like one.
    params: the parameters, or their `jax.ShapeDtypeStruct`.
    param_shardings: a tree of `NamedSharding` like `params`, or a prefix of one; None for those of `params`.

  Returns:
    A tree with the structure of `tx.init(params)`, of `NamedSharding`.

  Raises:
    TypeError: if a sharding is no `NamedSharding`.
    ValueError: if a parameter has no sharding or one that does not fit it, or a sharding has no parameter.

  Example:
    >>> import belief_optax as bo, jax, jax.numpy as jnp
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> params = {'w': jax.ShapeDtypeStruct((512, 64), jnp.float32)}
    >>> where = sharding.state_shardings(bo.adam(1e-3), params, NamedSharding(mesh, P('data')))
    >>> where.slots['mu']['w'].spec[0], where.count.spec == P()
    ('data', True)
  """
  layout = _Layout.of(params, param_shardings)
  place = lambda path, x: layout.at(path, jnp.shape(x))
  return _state_shardings(tx, params, jax.tree_util.tree_map_with_path(place, params))


def init_sharded(tx: Any, params: Any, param_shardings: Any = None) -> Any:
  """Makes the state of an optimizer where it belongs, without having it on one device before.

  Args:
    tx: any optax transformation, or what has an `init` like one.
    params: the parameters.
    param_shardings: a tree of `NamedSharding` like `params`, or a prefix of one; None for those of `params`.

  Returns:
    `tx.init(params)`, with the shardings that `state_shardings` names.

  Raises:
    TypeError: if a sharding is no `NamedSharding`.
    ValueError: if a parameter has no sharding or one that does not fit it, or a sharding has no parameter.

  Example:
    >>> import belief_optax as bo, jax, jax.numpy as jnp
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> params = jax.device_put({'w': jnp.ones((512, 64))}, NamedSharding(mesh, P('data')))
    >>> sharding.init_sharded(bo.adam(1e-3), params).slots['mu']['w'].sharding.spec[0]
    'data'
  """
  return jax.jit(tx.init, out_shardings=state_shardings(tx, params, param_shardings))(params)


@dataclasses.dataclass(frozen=True)
class _Layout:
  """The shardings of parameters by their paths: a value. One that stands at a node is that of all leaves below it."""

  entries: tuple[tuple[Path, NamedSharding], ...]

  @classmethod
  def of(cls, params: Any, shardings: Any) -> '_Layout':
    """That of parameters; `shardings` is None if they have their own."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if shardings is None:
      own = jax.tree.map(lambda p: getattr(p, 'sharding', None), params)
      return cls.read('params', own, 'put the params on a mesh by jax.device_put, or give param_shardings')
    layout = cls.read('param_shardings', shardings, 'make one of each by NamedSharding(mesh, spec)')
    for path, _ in layout.entries:
      if not any(path == other[: len(path)] for other in paths):
        raise ValueError(f'param_shardings{_name(path)} belongs to no parameter. The parameters are: {_names(paths)}.')
    return layout

  @classmethod
  def read(cls, what: str, tree: Any, hint: str) -> '_Layout':
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None or isinstance(x, P))
    for path, s in leaves:
      if s is None:
        raise ValueError(f'{what}{_name(path)} has no sharding: {hint}.')
      if not isinstance(s, NamedSharding):
        raise TypeError(f'{what}{_name(path)} has the sharding {s!r}, which is no NamedSharding: {hint}.')
      if s.mesh != leaves[0][1].mesh:
        raise ValueError(f'{what}{_name(path)} is on {s.mesh}, but {what}{_name(leaves[0][0])} on {leaves[0][1].mesh}.')
    if not leaves:
      raise ValueError(f'{what} has no leaves, so there is no mesh.')
    return cls(tuple(leaves))

  @functools.cached_property
  def _by_path(self) -> dict[Path, NamedSharding]:
    return dict(self.entries)

  @property
  def mesh(self) -> Any:
    return self.entries[0][1].mesh

  def above(self, path: Path) -> NamedSharding:
    """The sharding of the parameter with this path."""
    prefixes = (path[:n] for n in range(len(path), -1, -1))
    found = next((self._by_path[prefix] for prefix in prefixes if prefix in self._by_path), None)
    if found is None:
      known = _names(path for path, _ in self.entries)
      raise ValueError(f'param_shardings has none for params{_name(path)}, but for: {known}.')
    return found

  def at(self, path: Path, shape: tuple[int, ...]) -> NamedSharding:
    """The same, for a parameter of this shape."""
    sharding = self.above(path)
    wrong = f'the sharding {sharding.spec} of params{_name(path)} does not fit shape {shape}'
    if len(sharding.spec) > len(shape):
      raise ValueError(f'{wrong}: it has more dimensions.')
    try:
      sharding.shard_shape(shape)
    except ValueError as e:
      raise ValueError(f'{wrong}: {e}') from e
    return sharding


def _name(path: Path) -> str:
  return jax.tree_util.keystr(path) or ' itself'


def _names(paths: Iterable[Path]) -> str:
  return ', '.join(jax.tree_util.keystr(path) or 'the tree itself' for path in paths) or 'none'


def _axes(entry: Any) -> tuple[str, ...]:
  """The mesh axes over which one dimension is split."""
  return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _spec(entries: Sequence[Sequence[str]]) -> P:
  """The `PartitionSpec` of the axes of each dimension, without what says nothing at its end."""
  entries = entries[: max((i + 1 for i, axes in enumerate(entries) if axes), default=0)]
  return P(*(None if not axes else axes[0] if len(axes) == 1 else tuple(axes) for axes in entries))


def _state_shardings(tx: Any, params: Any, shardings: Any) -> Any:
  """`state_shardings` for a full tree of shardings that fit."""
  mesh = jax.tree.leaves(shardings)[0].mesh
  return jax.tree.map(lambda x: NamedSharding(mesh, _fitting(x, mesh)), _mark(tx, params, shardings))


def _mark(tx: Any, params: Any, shardings: Any) -> Any:
  """The state without values, each array with the `PartitionSpec` that its parameter gives it, be it legal or not."""
  mesh = jax.tree.leaves(shardings)[0].mesh
  # On axes of size 1 every spec is legal. Their names carry it through `zeros_like`, casts, reshapes and reductions.
  names = mesh.axis_names
  unit = AbstractMesh((1,) * len(names), names, axis_types=(AxisType.Explicit,) * len(names))
  of = lambda p, s: jax.ShapeDtypeStruct(jnp.shape(p), dtypes.of(p), sharding=NamedSharding(unit, s.spec))
  # Meshes of different sizes may not stand inside each other; the empty one lets the context of the caller go.
  with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), jax.sharding.use_abstract_mesh(unit):
    try:
      state = jax.eval_shape(tx.init, jax.tree.map(of, params, shardings))
    except Exception as e:
      e.add_note(
        'If tx.init joins or reshapes parameters, as optax.flatten does, its state cannot be placed like them.'
      )
      raise

  def spec(x: Any, p: Any = None, s: Any = None) -> jax.ShapeDtypeStruct:
    found = x.sharding.spec if x.sharding is not None else P()
    shape = () if p is None else jnp.shape(p)
    if shape and not any(found) and x.shape[-len(shape) :] == shape:
      found = P(*[None] * (x.ndim - len(shape)), *s.spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(unit, found))

  structure = jax.tree.structure(params)
  like_params = lambda node: jax.tree.structure(node) == structure
  each = lambda node: jax.tree.map(spec, node, params, shardings) if like_params(node) else spec(node)
  return jax.tree.map(each, state, is_leaf=like_params)


def _fitting(x: jax.ShapeDtypeStruct, mesh: Any) -> P:
  """The axes of each dimension of a marked array, as far as they divide it."""
  entries = []
  for dim, entry in zip(x.shape, (*x.sharding.spec, *[None] * x.ndim), strict=False):
    axes: list[str] = []
    for axis in _axes(entry):
      if not x.size or dim % math.prod(mesh.shape[a] for a in (*axes, axis)):
        break
      axes.append(axis)
    entries.append(axes)
  return _spec(entries)


# State that is spread where parameters are not.


class Zero1(optax.GradientTransformationExtraArgs):
  """What `zero1` returns: a gradient transformation that compares, hashes and prints as what it is made of."""

  __slots__ = ()
  update: '_Update'  # pyright: ignore[reportIncompatibleVariableOverride]

  def __repr__(self) -> str:
    plan = self.update.plan
    return f'zero1({plan.tx!r}, axis={plan.axis!r}, min_size={plan.min_size})'


def zero1(tx: optax.GradientTransformation, param_shardings: Any, axis: str = 'data', min_size: int = 4096) -> Zero1:
  r"""Spreads the state of an optimizer over the devices that have the same parameters (ZeRO, stage 1).

  With n devices along the axis, device k keeps and updates the k-th part of each array,

  $$u^{(k)}, s^{(k)} = \mathrm{tx}(\bar g^{(k)}, s^{(k)}, p^{(k)}), \qquad u = (u^{(1)}, \ldots, u^{(n)}),$$

  which takes a reduce-scatter for the mean gradient and an all-gather for the updates instead of one all-reduce. An
  array is split in its first dimension that the axis divides. Arrays that have none or are small, or whose parameters
  are split over the axis already, stay as their parameters are.

  The same value serves under `jax.jit`, where gradients are those of the whole batch and the compiler finds the
  collectives, and inside `jax.shard_map`, where each device hands in the gradients of its own batch, which are averaged
  (see `local_params`). JAX 0.9 has no gather there whose result counts as the same on each device: an all-reduce takes
  its place. State is made outside, by `init_sharded` or `init`, and is the same array for both.

  Args:
    tx: the optimizer. Inside `jax.shard_map`, where nobody but the optimizer itself would sum over devices, it must be
      elementwise: a composition of this package, or `by_path` over some.
    param_shardings: a tree of `NamedSharding` like the parameters, or a prefix of one. Updates come back with these.
    axis: the mesh axis over which state is spread.
    min_size: arrays with fewer elements are not split.

  Returns:
    An `optax.GradientTransformationExtraArgs`; equal where its arguments are.

  Raises:
    TypeError: if `tx` is no gradient transformation, a sharding no `NamedSharding`, or `min_size` no integer.
    ValueError: if the mesh lacks the axis, or an argument is outside of its range; at `init` and `update`, if a
      parameter has no sharding or one that does not fit it; inside `jax.shard_map`, if `tx` is not elementwise or
      gradients do not differ between devices.

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

    Inside `jax.shard_map`, gradients are kept local:

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
  layout = _Layout.read('param_shardings', param_shardings, 'make one of each by NamedSharding(mesh, spec)')
  if axis not in layout.mesh.axis_names:
    where = f'the mesh of param_shardings{_name(layout.entries[0][0])}'
    raise ValueError(f'axis must be an axis of {where}, {", ".join(map(repr, layout.mesh.axis_names))}, got {axis!r}.')
  plan = _Plan(tx, layout, axis, int(min_size))
  return Zero1(_Init(plan), _Update(plan))


@dataclasses.dataclass(frozen=True)
class _Plan:
  """Which part of each array is whose."""

  tx: optax.GradientTransformation
  layout: _Layout
  axis: str
  min_size: int

  def dim(self, path: Path, shape: tuple[int, ...]) -> int | None:
    """The dimension in which an array is split, or None."""
    whole = self.layout.at(path, shape)
    taken = self.axis in (axis for entry in whole.spec for axis in _axes(entry))
    if taken or math.prod(shape) < self.min_size:
      return None
    n = self.layout.mesh.shape[self.axis]
    return next((i for i, side in enumerate(whole.shard_shape(shape)) if side and side % n == 0), None)

  def part(self, path: Path, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of an array that is split, else that of its parameter."""
    whole, dim = self.layout.at(path, shape), self.dim(path, shape)
    if dim is None:
      return whole
    entries = [_axes(entry) for entry in (*whole.spec, *[None] * (len(shape) - len(whole.spec)))]
    entries[dim] = (*entries[dim], self.axis)
    return NamedSharding(whole.mesh, _spec(entries))

  def place(self, sharding: Callable[[Path, tuple[int, ...]], NamedSharding], tree: Any) -> Any:
    """Moves the leaves of a tree like the parameters; what holds no array, as None, stays."""
    return jax.tree_util.tree_map_with_path(lambda path, x: _place(x, sharding(path, jnp.shape(x))), tree)

  @property
  def inside(self) -> bool:
    """Whether this is traced for one device of the axis, as by `jax.shard_map`."""
    return self.axis in jax.sharding.get_abstract_mesh().manual_axes


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _place(x: Any, sharding: NamedSharding) -> Any:
  """The array with this sharding: a constraint for the compiler on automatic axes, a type on explicit ones."""
  context = jax.sharding.get_abstract_mesh()
  mesh = sharding.mesh if context.empty else context
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))

  def only(kind: AxisType) -> Any:
    spec = _spec([[axis for axis in _axes(entry) if kinds[axis] == kind] for entry in sharding.spec])
    return NamedSharding(sharding.mesh, spec) if context.empty else spec

  if AxisType.Explicit in kinds.values():
    x = jax.sharding.reshard(x, only(AxisType.Explicit))
  if AxisType.Auto in kinds.values():
    x = jax.lax.with_sharding_constraint(x, only(AxisType.Auto))
  return x


@dataclasses.dataclass(frozen=True)
class _Init:
  plan: _Plan

  def __call__(self, params: Any) -> Any:
    if self.plan.inside:
      raise ValueError('zero1: make the state outside of jax.shard_map, where arrays have their whole shapes.')
    # optax.tree.map_params calls init with a placeholder that has no leaves, and no place.
    init = jax.jit(functools.partial(_init_parts, self.plan)) if jax.tree.leaves(params) else self.plan.tx.init
    return init(params)


def _init_parts(plan: _Plan, params: Any) -> Any:
  shardings = jax.tree_util.tree_map_with_path(lambda path, p: plan.part(path, jnp.shape(p)), params)
  state = plan.tx.init(plan.place(plan.part, params))
  return jax.tree.map(_place, state, _state_shardings(plan.tx, params, shardings))


@dataclasses.dataclass(frozen=True)
class _Update:
  plan: _Plan

  def __call__(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
    if self.plan.inside:
      return _update_inside(self.plan, updates, state, params, extra_args)
    plan, tx = self.plan, optax.with_extra_args_support(self.plan.tx)
    parts = plan.place(plan.part, updates), plan.place(plan.part, params)
    updates, state = tx.update(parts[0], state, parts[1], **extra_args)
    return plan.place(plan.layout.at, updates), state


# Inside of jax.shard_map.


def local_params(params: Any, axis: str = 'data') -> Any:
  """Makes `jax.grad` inside `jax.shard_map` give each device the gradients of its own batch.

  Parameters that all devices share are one number to autodiff, so it sums their gradients over the devices. A mean over
  the axis after that changes nothing: the gradients are n times too large, without any error. What is marked as
  different on each device has a gradient on each device.

  Args:
    params: the parameters, as they arrive in the mapped function.
    axis: the mesh axis over which the batch is split.

  Returns:
    The same numbers, to be differentiated by.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> loss = lambda w, batch: jnp.mean(w * batch)
    >>> def means(w, batch):
    ...   shared, own = jax.grad(loss)(w, batch), jax.grad(loss)(sharding.local_params(w, 'data'), batch)
    ...   return jax.lax.pmean(shared, 'data') / jax.device_count(), jax.lax.pmean(own, 'data')
    >>> each = jax.shard_map(means, mesh=mesh, in_specs=(P(), P('data')), out_specs=P())
    >>> [float(mean) for mean in each(jnp.float32(1.0), jnp.full(64, 3.0))]
    [3.0, 3.0]
  """
  cast = getattr(jax.lax, 'pcast', None)
  # Older JAX, as 0.7, has another name for it.
  vary = functools.partial(cast, to='varying') if cast else jax.lax.pvary  # pyright: ignore[reportAttributeAccessIssue]
  return jax.tree.map(lambda p: p if _varies(p, axis) else vary(p, axis), params)


def mean_gradients(grads: Any, axis: str = 'data') -> Any:
  """Averages the gradients of the devices inside `jax.shard_map`, if they are still those of each device.

  Args:
    grads: the gradients, taken by what `local_params` gives.
    axis: the mesh axis over which the batch is split.

  Returns:
    The mean over the axis, the same on each device.

  Raises:
    ValueError: if a gradient does not differ between the devices: it has been summed already.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> loss = lambda w, batch: jnp.mean(w * batch)
    >>> def gradient(w, batch):
    ...   return sharding.mean_gradients(jax.grad(loss)(sharding.local_params(w, 'data'), batch), 'data')
    >>> each = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P('data')), out_specs=P())
    >>> float(each(jnp.float32(1.0), jnp.full(64, 3.0)))
    3.0
  """
  _check_local(grads, axis)
  return jax.lax.pmean(grads, axis)


def _varies(x: Any, axis: str) -> bool:
  """Whether an array is known to differ between the devices of an axis."""
  kind = jax.typeof(x)
  return axis in (kind.vma if hasattr(kind, 'vma') else kind.manual_axis_type.varying)  # JAX before 0.10, and since


def _check_local(grads: Any, axis: str) -> None:
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    if not _varies(g, axis):
      raise ValueError(
        f'the gradient{_name(path)} does not differ along {axis!r}: jax.grad by parameters that all devices share has '
        'summed it already, and a mean of that is too large by the number of devices. Differentiate by '
        'local_params(params, axis) inside jax.shard_map, and leave check_vma on.'
      )


def _update_inside(plan: _Plan, updates: Any, state: Any, params: Any, extra_args: Any) -> tuple[Any, Any]:
  """One step on one device: its gradients in, everybody's updates out."""
  if not _is_elementwise(plan.tx):
    raise ValueError(
      'zero1: inside jax.shard_map each device updates its own part, so tx must be known to be elementwise: a '
      f'composition of belief_optax whose lines all are, or by_path over some. Use jax.jit for {plan.tx!r}.'
    )
  _check_local(updates, plan.axis)
  _check_splits(plan, updates if params is None else params)
  dims = _dims(plan, updates) | _dims(plan, params)
  each = lambda move, tree: jax.tree_util.tree_map_with_path(lambda path, x: move(x, plan.axis, dims[path]), tree)
  tx = optax.with_extra_args_support(plan.tx)
  updates, state = tx.update(each(_scatter, updates), state, each(_part, params), **extra_args)
  return each(_gather, updates), state


def _is_elementwise(tx: Any) -> bool:
  if isinstance(tx, ByPath):
    return all(map(_is_elementwise, tx.update.groups.transformations))
  return isinstance(tx, Recipe) and all(line.elementwise for line in tx.lines)


def _dims(plan: _Plan, tree: Any) -> dict[Path, int | None]:
  """The dimension in which each array is split."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path: plan.dim(path, _whole_shape(plan, path, x)) for path, x in leaves}


def _whole_shape(plan: _Plan, path: Path, x: Any) -> tuple[int, ...]:
  """The shape that an array has outside of jax.shard_map."""
  manual = jax.sharding.get_abstract_mesh().manual_axes
  entries = (*plan.layout.above(path).spec, *[None] * x.ndim)
  times = lambda entry: math.prod(plan.layout.mesh.shape[axis] for axis in _axes(entry) if axis in manual)
  return tuple(side * times(entry) for side, entry in zip(x.shape, entries, strict=False))


def _check_splits(plan: _Plan, params: Any) -> None:
  """Raises where an array of the state is whole and its parameter is not, as tiles that the axis does not divide."""
  whole = lambda path, x: jax.ShapeDtypeStruct(_whole_shape(plan, path, x), dtypes.of(x))
  params = jax.tree_util.tree_map_with_path(whole, params)
  marked = _mark(plan.tx, params, jax.tree_util.tree_map_with_path(lambda path, p: plan.part(path, p.shape), params))
  mesh = plan.layout.mesh
  split = lambda spec: any(plan.axis in _axes(entry) for entry in spec)
  for path, x in jax.tree_util.tree_leaves_with_path(marked):
    if split(x.sharding.spec) and not split(_fitting(x, mesh)):
      raise ValueError(
        f'zero1: the state{_name(path)} of shape {x.shape} cannot be split as its parameter is, over the '
        f'{mesh.shape[plan.axis]} devices of {plan.axis!r}: inside jax.shard_map, use another store or min_size.'
      )


def _scatter(g: Any, axis: str, dim: int | None) -> Any:
  """The mean of everybody's gradients: this device's part of it, or all where nothing is split."""
  if dim is None:
    return jax.lax.pmean(g, axis)
  return jax.lax.psum_scatter(g, axis, scatter_dimension=dim, tiled=True) / jax.lax.axis_size(axis)


def _part(p: Any, axis: str, dim: int | None) -> Any:
  """This device's part of an array that everybody has."""
  if dim is None:
    return p
  side = p.shape[dim] // jax.lax.axis_size(axis)
  return jax.lax.dynamic_slice_in_dim(p, jax.lax.axis_index(axis) * side, side, dim)


def _gather(u: Any, axis: str, dim: int | None) -> Any:
  """Everybody's parts as an array that counts as the same on each device."""
  if dim is None:
    return u
  gather = getattr(jax.lax, 'all_gather_invariant', None)
  if gather:  # older JAX, as 0.7
    return gather(u, axis, axis=dim, tiled=True)
  if 'invarying' in (jax.lax.all_gather.__doc__ or ''):  # JAX since 0.10
    return jax.lax.all_gather(u, axis, axis=dim, tiled=True, to='invarying')
  side = u.shape[dim]  # between these, as in 0.9, no gather counts so, but a sum does
  whole = jnp.zeros([*u.shape[:dim], side * jax.lax.axis_size(axis), *u.shape[dim + 1 :]], u.dtype)
  own = jax.lax.dynamic_update_slice_in_dim(local_params(whole, axis), u, jax.lax.axis_index(axis) * side, dim)
  return jax.lax.psum(own, axis)
