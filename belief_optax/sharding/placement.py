"""Where the state of any optimizer belongs, and what a training step inside `jax.shard_map` needs.

`mark` is the idea: `tx.init` is traced on parameters whose types carry their shardings, and JAX's own rules carry these
on to what is made of them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from belief_optax.core import dtypes
from belief_optax.param_groups import listing

Path = tuple[Any, ...]
_MEMORY = 'memory kind '  # with a memory kind: an axis of the mesh in `mark`


def state_shardings(tx: Any, params: Any, param_shardings: Any = None) -> Any:
  """Returns the sharding of each array in the state of an optimizer: that of its parameter.

  `tx.init` is traced without values, on parameters whose types carry their shardings, as on a mesh with explicit axes.
  What it derives from a parameter has the sharding and the memory kind of that parameter. What it makes from a shape
  alone is recognized by its place in a tree with the structure of the parameters. Everything else is replicated in
  default memory. A dimension that the mesh axes do not divide is not split, and a scalar is in default memory.

  Args:
    tx: any optax transformation, or anything with such an `init`.
    params: the parameters, or their `jax.ShapeDtypeStruct`.
    param_shardings: a tree of `NamedSharding` like `params`, or a prefix of one; None for those of `params`.

  Returns:
    A tree of `NamedSharding` with the structure of `tx.init(params)`.

  Raises:
    TypeError: if a sharding is no `NamedSharding`.
    ValueError: if a parameter has no sharding or one that does not fit its shape, or if a sharding has no parameter.

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
  return jax.tree.map(lambda x: x.sharding, abstract_state(tx, params, param_shardings))


def abstract_state(tx: Any, params: Any, param_shardings: Any = None) -> Any:
  """Returns the shapes of the state of an optimizer with its shardings, as the target of a restore or a compilation.

  Args:
    tx: any optax transformation, or anything with such an `init`.
    params: the parameters, or their `jax.ShapeDtypeStruct`.
    param_shardings: a tree of `NamedSharding` like `params`, or a prefix of one; None for those of `params`.

  Returns:
    `jax.eval_shape(tx.init, params)`, where each `jax.ShapeDtypeStruct` has the sharding that `state_shardings` gives.

  Raises:
    TypeError: if a sharding is no `NamedSharding`.
    ValueError: if a parameter has no sharding or one that does not fit its shape, or if a sharding has no parameter.

  Example:
    >>> import belief_optax as bo, jax, jax.numpy as jnp
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> params = jax.device_put({'w': jnp.ones((512, 64))}, NamedSharding(mesh, P('data')))
    >>> target = sharding.abstract_state(bo.adam(1e-3), params)
    >>> target.slots['mu']['w'].shape, target.slots['mu']['w'].sharding.spec[0]
    ((512, 64), 'data')

    With Orbax: `orbax.checkpoint.StandardCheckpointer().restore(directory, target)`.
  """
  layout = Layout.of(params, param_shardings)
  return placed(tx.init, params, for_each(layout.at, params), layout.mesh)


def init_sharded(tx: Any, params: Any, param_shardings: Any = None) -> Any:
  """Creates the state of an optimizer where it belongs, without a copy on a single device first.

  Args:
    tx: any optax transformation, or anything with such an `init`.
    params: the parameters.
    param_shardings: a tree of `NamedSharding` like `params`, or a prefix of one; None for those of `params`.

  Returns:
    `tx.init(params)`, with the shardings that `state_shardings` returns.

  Raises:
    TypeError: if a sharding is no `NamedSharding`.
    ValueError: if a parameter has no sharding or one that does not fit its shape, or if a sharding has no parameter.

  Example:
    >>> import functools, belief_optax as bo, jax, jax.numpy as jnp, optax
    >>> from jax.sharding import NamedSharding, PartitionSpec as P
    >>> from belief_optax import sharding
    >>> mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> params = jax.device_put({'w': jnp.ones((512, 64))}, NamedSharding(mesh, P('data')))
    >>> tx = bo.adam(1e-3)
    >>> sharding.init_sharded(tx, params).slots['mu']['w'].sharding.spec[0]
    'data'

    To keep the state in host memory (offloading), give the shardings of the parameters another memory kind. The step
    takes the state to the device and back; what is not like a parameter, such as the count, never leaves it:

    >>> host = jax.tree.map(lambda p: p.sharding.with_memory_kind('pinned_host'), params)
    >>> near, far = sharding.state_shardings(tx, params), sharding.state_shardings(tx, params, host)
    >>> far.slots['mu']['w'].memory_kind, far.count == near.count
    ('pinned_host', True)
    >>> def start(params):
    ...   return sharding.init_sharded(tx, params, host)
    >>> @functools.partial(jax.jit, donate_argnums=(0, 1))
    ... def step(params, state, grads):
    ...   updates, state = tx.update(grads, jax.device_put(state, near), params)
    ...   return optax.apply_updates(params, updates), jax.device_put(state, far)
  """
  return jax.jit(_NearInit(tx.init), out_shardings=state_shardings(tx, params, param_shardings))(params)


@dataclasses.dataclass(frozen=True)
class _NearInit:
  """`init` of parameters in whatever memory: a value where `init` is one, so that JAX knows it again."""

  init: Callable[[Any], Any]

  def __call__(self, params: Any) -> Any:
    return self.init(jax.tree.map(on_device, params))


def on_device(x: Any) -> Any:
  """An array in device memory, where everything is computed: JAX does not mix memory spaces in an operation."""
  if isinstance(x, jax.Array) and jax.typeof(x).memory_space == jax.memory.Space.Host:
    return jax.device_put(x, jax.memory.Space.Device)
  return x


# The shardings of parameters.


@dataclasses.dataclass(frozen=True)
class Layout:
  """The shardings of parameters by path, as a value. A sharding at an inner node is that of all leaves below it."""

  entries: tuple[tuple[Path, NamedSharding], ...]

  @classmethod
  def of(cls, params: Any, shardings: Any) -> 'Layout':
    """The layout of parameters; `shardings` is None if they have their own."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if shardings is None:
      own = [(path, getattr(p, 'sharding', None)) for path, p in leaves]
      return cls._checked('params', own, 'put the params on a mesh by jax.device_put, or give param_shardings')
    layout = cls.read(shardings)
    for path, _ in layout.entries:
      if not any(path == other[: len(path)] for other, _ in leaves):
        known = _names((other for other, _ in leaves), path)
        raise ValueError(f'param_shardings{keystr(path)} belongs to no parameter. The parameters are: {known}.')
    return layout

  @classmethod
  def read(cls, shardings: Any) -> 'Layout':
    """The layout that a tree of shardings is, or the prefix of one. None in it says nothing."""
    leaves = jax.tree_util.tree_leaves_with_path(shardings, is_leaf=lambda x: isinstance(x, P))
    return cls._checked('param_shardings', leaves, 'make one of each by NamedSharding(mesh, spec)')

  @classmethod
  def _checked(cls, what: str, leaves: Sequence[tuple[Path, Any]], hint: str) -> 'Layout':
    for path, s in leaves:
      if s is None:
        raise ValueError(f'{what}{keystr(path)} has no sharding: {hint}.')
      if not isinstance(s, NamedSharding):
        raise TypeError(f'{what}{keystr(path)} has the sharding {s!r}, which is no NamedSharding: {hint}.')
      first, mesh = leaves[0][0], leaves[0][1].mesh
      if s.mesh != mesh:
        raise ValueError(f'{what}{keystr(path)} is on {s.mesh}, but {what}{keystr(first)} on {mesh}.')
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
      known = _names((path for path, _ in self.entries), path)
      raise ValueError(f'param_shardings has none for params{keystr(path)}, but for: {known}.')
    return found

  def at(self, path: Path, shape: tuple[int, ...]) -> NamedSharding:
    """The same, for a parameter of this shape."""
    sharding = self.above(path)
    wrong = f'the sharding {sharding.spec} of params{keystr(path)} does not fit shape {shape}'
    if len(sharding.spec) > len(shape):
      raise ValueError(f'{wrong}: it has more dimensions.')
    try:
      sharding.shard_shape(shape)
    except ValueError as e:
      raise ValueError(f'{wrong}: {e}') from e
    return sharding


def for_each(sharding: Callable[[Path, tuple[int, ...]], NamedSharding], params: Any) -> Any:
  """A full tree of shardings, of a function of path and shape; None where there is no parameter."""

  def of(path: Path, p: Any) -> NamedSharding:
    if not hasattr(p, 'shape') and not isinstance(p, int | float | complex):
      raise TypeError(
        f'params{keystr(path)} is no array but {p!r:.80}. Leave it out: pass equinox.filter(params, eqx.is_array), the '
        'part of a partition, or None in its place.'
      )
    return sharding(path, jnp.shape(p))

  return jax.tree_util.tree_map_with_path(of, params)


def keystr(path: Path) -> str:
  """A path as it stands behind the name of a tree in an error message."""
  return jax.tree_util.keystr(path) or ' itself'


def _names(paths: Iterable[Path], wanted: Path) -> str:
  return listing([jax.tree_util.keystr(path) or 'the tree itself' for path in paths], [keystr(wanted)]) or 'none'


def axes_of(entry: Any) -> tuple[str, ...]:
  """The mesh axes over which one dimension is split."""
  return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def spec_of(entries: Sequence[Sequence[str]]) -> P:
  """The `PartitionSpec` of the axes of each dimension, without the dimensions at its end that are not split."""
  entries = entries[: max((i + 1 for i, axes in enumerate(entries) if axes), default=0)]
  return P(*(None if not axes else axes[0] if len(axes) == 1 else tuple(axes) for axes in entries))


def far_kind(sharding: NamedSharding) -> str | None:
  """The memory kind of a sharding; None for the default memory."""
  kind = sharding.memory_kind
  return None if kind == NamedSharding(sharding.mesh, P()).memory_kind else kind


# The shardings of a state.


def placed(init: Callable[[Any], Any], params: Any, shardings: Any, mesh: Any) -> Any:
  """The shapes of a state with its shardings, given a full tree of shardings that fit the parameters."""

  def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    kinds = [axis.removeprefix(_MEMORY) for entry in x.sharding.spec for axis in axes_of(entry) if axis not in names]
    there = NamedSharding(mesh, fitting(x, mesh), memory_kind=kinds[0] if kinds else None)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there)

  names = mesh.axis_names
  return jax.tree.map(place, mark(init, params, shardings, mesh))


def mark(init: Callable[[Any], Any], params: Any, shardings: Any, mesh: Any) -> Any:
  """The shapes of a state, each with the `PartitionSpec` that its parameter gives it, whether it is legal or not.

  On axes of size 1 every spec is legal. Their names carry it through `zeros_like`, casts, reshapes and reductions. One
  more axis, on the first dimension, says that a parameter is in another memory than the default.
  """
  kinds = {_MEMORY + str(s.memory_kind) for s in jax.tree.leaves(shardings)} or {_MEMORY}
  names = (*mesh.axis_names, *sorted(kinds))
  unit = AbstractMesh((1,) * len(names), names, axis_types=(AxisType.Explicit,) * len(names))

  def of(p: Any, s: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(p), dtypes.of(p), sharding=NamedSharding(unit, _marked(s, jnp.ndim(p))))

  # Meshes of different sizes may not be nested; the empty one between them suspends that of the caller.
  with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), jax.sharding.use_abstract_mesh(unit):
    try:
      state = jax.eval_shape(init, jax.tree.map(of, params, shardings))
    except Exception as e:
      e.add_note(
        'If tx.init joins or reshapes parameters, as optax.flatten does, its state cannot be placed like them.'
      )
      raise

  def spec(x: Any, p: Any = None, s: Any = None) -> jax.ShapeDtypeStruct:
    found = x.sharding.spec if x.sharding is not None else P()
    shape = () if p is None else jnp.shape(p)
    if shape and not any(found) and x.shape[-len(shape) :] == shape:
      found = P(*[None] * (x.ndim - len(shape)), *_marked(s, len(shape)))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(unit, found))

  structure = jax.tree.structure(params)
  like_params = lambda node: jax.tree.structure(node) == structure
  each = lambda node: jax.tree.map(spec, node, params, shardings) if like_params(node) else spec(node)
  return jax.tree.map(each, state, is_leaf=like_params)


def _marked(sharding: NamedSharding, ndim: int) -> P:
  """The spec of a parameter, with the axis that says in which memory it is."""
  kind = far_kind(sharding)
  if kind is None or not ndim:
    return sharding.spec
  first, *others = (*sharding.spec, *[None] * (ndim - len(sharding.spec)))
  return P((*axes_of(first), _MEMORY + kind), *others)


def marking() -> bool:
  """Whether an `init` is being traced by `mark`."""
  return any(str(axis).startswith(_MEMORY) for axis in jax.sharding.get_abstract_mesh().axis_names)


def fitting(x: jax.ShapeDtypeStruct, mesh: Any) -> P:
  """The mesh axes of each dimension of a marked array, as far as they divide it."""
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  entries = []
  for dim, entry in zip(x.shape, (*x.sharding.spec, *[None] * x.ndim), strict=False):
    axes: list[str] = []
    for axis in (axis for axis in axes_of(entry) if axis in kinds):
      # An array without elements is not split (JAX 0.7 cannot), unless its type must be that of its parameter.
      possible = x.size or kinds[axis] == AxisType.Explicit
      if not possible or dim % math.prod(mesh.shape[a] for a in (*axes, axis)):
        break
      axes.append(axis)
    entries.append(axes)
  return spec_of(entries)


# Inside jax.shard_map.


def local_params(params: Any, axis: str = 'data') -> Any:
  """Makes `jax.grad` inside `jax.shard_map` give each device the gradients of its own batch.

  To autodiff, parameters that all devices share are one number, so their gradients are summed over the devices. A mean
  over the axis afterwards changes nothing: the gradients are n times too large, and no error is raised. Parameters that
  are marked as different on each device have a gradient on each device.

  Args:
    params: the parameters, as the mapped function receives them.
    axis: the mesh axis over which the batch is split.

  Returns:
    The same numbers, marked as different on each device; differentiate with respect to these.

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
  pcast = getattr(jax.lax, 'pcast', None)
  # Older JAX, such as 0.7, has another name for it.
  vary = functools.partial(pcast, to='varying') if pcast else vars(jax.lax)['pvary']
  return jax.tree.map(lambda p: p if axis in varying_axes(p) else vary(p, axis), params)


def mean_gradients(grads: Any, axis: str = 'data') -> Any:
  """Averages over the devices the gradients that each of them has inside `jax.shard_map`.

  Args:
    grads: the gradients with respect to the result of `local_params`.
    axis: the mesh axis over which the batch is split.

  Returns:
    Their mean over the axis, the same on each device.

  Raises:
    ValueError: if a gradient does not differ between the devices, because it has been summed already.

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
  check_local(grads, axis)
  return jax.lax.pmean(grads, axis)


def varying_axes(x: Any) -> frozenset[str]:
  """The axes along which an array is known to differ between devices, inside of `jax.shard_map`."""
  kind = jax.typeof(x)
  return frozenset(kind.vma if hasattr(kind, 'vma') else kind.manual_axis_type.varying)  # JAX before 0.10, and since


def check_local(grads: Any, axis: str) -> None:
  """Raises where a gradient is not known to differ between the devices of an axis."""
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    if axis not in varying_axes(g):
      raise ValueError(
        f'the gradient{keystr(path)} does not differ along {axis!r}: jax.grad with respect to parameters that all '
        'devices share has summed it already, and a mean of that is too large by the number of devices. Differentiate '
        'with respect to local_params(params, axis) inside jax.shard_map, and leave check_vma on.'
      )
