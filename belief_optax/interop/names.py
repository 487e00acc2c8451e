"""Which parameter of torch is which leaf here, and in what order of axes."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from belief_optax.interop.problems import Problems
from belief_optax.param_groups import name_of

Key = str | int


@dataclasses.dataclass(frozen=True)
class Name:
  """A leaf of the parameters, and how torch lays it out.

  Attributes:
    path: the keys of the leaf joined by `/`, as `by_path` names it.
    axes: the permutation with ``jax_array = torch_array.transpose(axes)``; None for the same order.

  Example:
    >>> from belief_optax import interop
    >>> interop.Name('Dense_0/kernel', axes=(1, 0))
    Name(path='Dense_0/kernel', axes=(1, 0))
  """

  path: str
  axes: tuple[int, ...] | None = None

  def __post_init__(self) -> None:
    if not isinstance(self.path, str):
      raise TypeError(f"path must be a string such as 'Dense_0/kernel', got {self.path!r}.")
    if self.axes is None:
      return
    axes = tuple(self.axes)
    if sorted(axes) != list(range(len(axes))):
      raise ValueError(f'axes must be a permutation of 0, ..., n - 1, got {self.axes!r}.')
    object.__setattr__(self, 'axes', axes)

  def to_jax(self, array: np.ndarray) -> np.ndarray:
    """The array of torch with the axes of the leaf."""
    return array if self.axes is None else array.transpose(self.axes)

  def to_torch(self, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_jax`."""
    return array if self.axes is None else array.transpose(np.argsort(self.axes))


Names = Mapping[str, str | Name] | Mapping[int, str | Name] | Sequence[str | Name] | None


@dataclasses.dataclass(frozen=True)
class Bound:
  """A leaf that has a name.

  Attributes:
    name: its name.
    index: its place among the leaves.
    leaf: the leaf itself.
  """

  name: Name
  index: int
  leaf: Any

  @property
  def torch_shape(self) -> tuple[int, ...]:
    shape = np.shape(self.leaf)
    return shape if self.name.axes is None else tuple(shape[i] for i in np.argsort(self.name.axes))


def by_name(names: Names) -> bool:
  """Whether the keys are torch's names."""
  return isinstance(names, Mapping) and any(isinstance(key, str) for key in names)


def leaves_of(params: Any, problems: Problems) -> dict[str, Any]:
  """The leaves by their paths; two leaves with one path are a problem."""
  leaves: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = name_of(path)
    if name in leaves:
      problems.add(name, 'path', 'one leaf', f'a second one, {jax.tree_util.keystr(path)}')
    leaves[name] = leaf
  return leaves


def bind(names: Names, params: Any, problems: Problems) -> dict[Key, Bound]:
  """The leaf of each key of `names`; what names no leaf, and what two keys name, is a problem."""
  leaves = leaves_of(params, problems)
  places = {path: i for i, path in enumerate(leaves)}
  bound: dict[Key, Bound] = {}
  for key, name in _normal(names, leaves).items():
    if name.path not in places:
      problems.add(repr(key), 'path', f'one of {", ".join(places)}', name.path)
      continue
    leaf = leaves[name.path]
    if name.axes is not None and len(name.axes) != np.ndim(leaf):
      problems.add(name.path, 'axes', f'a permutation of {np.ndim(leaf)} axes', name.axes)
      name = Name(name.path)
    bound[key] = Bound(name, places[name.path], leaf)
  for path, uses in collections.Counter(b.name.path for b in bound.values()).items():
    if uses > 1:
      problems.add(path, 'names', 'one name', uses)
  return bound


def _normal(names: Names, paths: Iterable[str]) -> dict[Key, Name]:
  items: Iterable[tuple[Any, Any]]
  if names is None:
    items = enumerate(paths)
  elif isinstance(names, Mapping):
    items = names.items()
  elif isinstance(names, Sequence) and not isinstance(names, str):
    items = enumerate(names)
  else:
    raise TypeError(
      f'names must be a mapping (torch name or index -> path), a sequence of paths or None, got {names!r}.'
    )
  normal = {key: name if isinstance(name, Name) else Name(name) for key, name in items}
  if any(isinstance(key, bool) for key in normal) or not any(
    all(isinstance(key, kind) for key in normal) for kind in (str, int)
  ):
    raise TypeError(f'the keys of names must all be torch names or all be indices, got {list(normal)}.')
  return normal


# What torch calls the arrays of a layer of Flax.
_TORCH = {'kernel': 'weight', 'embedding': 'weight', 'scale': 'weight', 'bias': 'bias'}


def flax_names(layers: Mapping[str, str], params: Any) -> dict[str, Name]:
  r"""Names the arrays of layers that torch and Flax both have, with the order of their axes.

  A kernel is (out, in, \*spatial) in torch and (\*spatial, in, out) in Flax: Linear and Dense, Conv and Conv. The
  arrays of Embedding and Embed, of LayerNorm, GroupNorm and BatchNorm are the same. Transposed convolutions and
  attention are laid out in other ways: add a `Name` of your own for each of their arrays.

  Args:
    layers: torch's name of a module -> the path of the layer in `params`.
    params: the parameters of linen (a nested dict) or nnx (a State).

  Returns:
    A dict from the names of torch's parameters (`'fc.weight'`) to `Name`s.

  Raises:
    ValueError: if a path is no layer with a kernel, embedding, scale or bias, or holds something else.

  Example:
    >>> import jax.numpy as jnp
    >>> from belief_optax import interop
    >>> params = {'Dense_0': {'kernel': jnp.zeros((3, 2)), 'bias': jnp.zeros(2)}}
    >>> interop.flax_names({'fc': 'Dense_0'}, params)
    {'fc.bias': Name(path='Dense_0/bias', axes=None), 'fc.weight': Name(path='Dense_0/kernel', axes=(1, 0))}
  """
  problems, names = Problems(), {}
  leaves = {path: np.ndim(leaf) for path, leaf in leaves_of(params, problems).items()}
  for module, layer in layers.items():
    arrays = {path.removeprefix(f'{layer}/'): path for path in leaves if path.startswith(f'{layer}/')}
    if not arrays or not set(arrays) <= set(_TORCH):
      problems.add(layer, f'arrays of torch {module!r}', f'some of {", ".join(_TORCH)}', ', '.join(arrays) or 'none')
      continue
    for kind, path in arrays.items():
      spatial = range(2, leaves[path])
      names[f'{module}.{_TORCH[kind]}'] = Name(path, (*spatial, 1, 0) if kind == 'kernel' else None)
  problems.check('layers')
  return names
