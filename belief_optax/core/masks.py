"""Masks: which leaves of a tree something applies to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from belief_optax.core.arguments import flag
from belief_optax.core.trees import keys_of_path


@dataclasses.dataclass(frozen=True, eq=False)
class MaskTree:
  """A tree of bools as a value: it compares and hashes by structure and leaves."""

  tree: Any

  def _key(self) -> Any:
    leaves, treedef = jax.tree.flatten(self.tree)
    return treedef, tuple(leaves)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, MaskTree) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def __repr__(self) -> str:
    return repr(self.tree)


def normal_mask(name: str, mask: Any) -> Callable[[Any], Any] | MaskTree | None:
  """Returns a mask in its normal form, or raises an error that names it."""
  # A callable that is itself a tree (a module whose leaves are bools) is meant as the tree.
  if mask is None or isinstance(mask, MaskTree) or (callable(mask) and jax.tree_util.all_leaves([mask])):
    return mask
  leaves = jax.tree.leaves(mask)
  for leaf in leaves:
    flag(f'each leaf of {name}', leaf)
  if not leaves:
    raise ValueError(f'{name} must be a tree of bools, a prefix of one, or a callable (params -> mask), got {mask!r}.')
  return MaskTree(mask)


def full_mask(owner: str, mask: Any, params: Any) -> Any:
  """A normal mask as a full tree of bools; None where there is none."""
  if mask is None:
    return None
  mask = mask(params) if callable(mask) else mask.tree
  for leaf in jax.tree.leaves(mask):
    flag(f'each leaf of the mask of {owner}', leaf)
  try:
    return jax.tree.map(lambda on, subtree: jax.tree.map(lambda _: bool(on), subtree), mask, params)
  except ValueError as e:
    if (by_keys := _mask_by_keys(mask, params)) is not None:
      return by_keys
    raise ValueError(f'the mask of {owner} is no prefix of the params: {e}') from e


def _mask_by_keys(mask: Any, params: Any) -> Any:
  """A full mask from one in other containers with the same keys; None if a key of an array is missing or idle.

  A State of nnx is one: `nnx.Optimizer` gives boxed parameters to `init` and bare arrays to `update`.
  """
  with_keys = lambda tree, is_leaf=None: [
    (keys_of_path(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree, is_leaf)
  ]
  bare = lambda x: not jax.tree.leaves(x)  # None, and what stands for the parameters of another group
  wanted, used, values = dict(with_keys(mask)), set(), []
  for keys, x in with_keys(params, bare):
    prefix = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in wanted), None)
    if prefix is not None:
      used.add(prefix)
      values += [] if bare(x) else [bool(wanted[prefix])]
    elif not bare(x):
      return None
  return jax.tree.unflatten(jax.tree.structure(params), values) if used == set(wanted) else None


def mask_option(default: None = None) -> Any:
  """Declares the mask of a piece: the leaves to which its line applies.

  Args:
    default: None, for all leaves. Type checkers see a default only where it is written.

  Returns:
    What stands behind the `=` of a field of a `Line`: a tree of bools, a prefix of one, or a callable of params; None
    for all.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> class Flip(bo.Line):
    ...   mask: object = bo.mask_option(default=None)
    ...   def step(self, x, k):
    ...     return x.redirect(-x.u)
    >>> tx, params = bo.piece(Flip)({'w': True, 'b': False}), {'w': jnp.ones(1), 'b': jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> print(updates['w'], updates['b'])
    [-1.] [1.]
  """
  return dataclasses.field(default=default, metadata={'normal': normal_mask, 'mask': True})
