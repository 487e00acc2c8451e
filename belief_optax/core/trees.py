"""Trees that must fit each other, and errors that say where they do not."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from belief_optax.core import dtypes


def align(treedef: Any, what: str, tree: Any) -> list[Any]:
  """The leaves of a tree in the order of another, whose structure it begins with."""
  try:
    return treedef.flatten_up_to(tree)
  except ValueError as e:
    raise ValueError(f'{what} does not have the structure of the updates: {e}') from e


def moving(updates: Any, params: Any) -> Any:
  """The parameters for which an update arrives, in a tree like the updates; None stands for the others."""
  if params is None:
    return None
  leaves, treedef = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
  return treedef.unflatten(moving_leaves(leaves, align(treedef, 'params', params)))


def moving_leaves(updates: Sequence[Any], params: Sequence[Any]) -> list[Any]:
  """The same of leaves in one order. A parameter for which no update arrives is not looked at, whatever it is."""
  return [None if u is None else p for u, p in zip(updates, params, strict=True)]


def keys_of_path(path: tuple[Any, ...]) -> tuple[str, ...]:
  """The keys of a leaf; the `.value` of a box of Flax (nnx.Param, nn.Partitioned) is not part of them."""
  boxed = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey('value')
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in (path[:-1] if boxed else path))


def check_inexact(kind: str, tree: Any) -> None:
  """Raises where a leaf is no floating point array."""
  for i, leaf in enumerate(jax.tree.leaves(tree)):
    try:
      dtype = dtypes.of(leaf)
    except TypeError as e:
      raise TypeError(
        f'{kind} {_path(tree, i)} is no array but {leaf!r:.80}. Leave it out: pass equinox.filter(tree, eqx.is_array), '
        'the part of a partition, or None in its place.'
      ) from e
    if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits < 16:
      raise TypeError(
        f'{kind} {_path(tree, i)} has dtype {dtype}, in which a step of a usual learning rate is 0: keep it in '
        'bfloat16 or wider, and cast it where it is used.'
      )
    if not jnp.issubdtype(dtype, jnp.inexact):
      raise TypeError(
        f'{kind} {_path(tree, i)} has dtype {dtype}; only real and complex floating arrays can be optimized. '
        'Leave it out with optax.masked or belief_optax.by_path.'
      )


def _path(tree: Any, i: int) -> str:
  """The path of the i-th leaf, where None is no leaf."""
  return jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(tree)[i][0]) or 'the tree itself'


_KINDS = {True: 'complex', False: 'real'}


def check_leaves(updates: Any, grads: Sequence[Any], others: Mapping[str, Sequence[Any]]) -> None:
  """Raises where an update arrives for a parameter that it does not fit, or of which nothing that fits is kept.

  An update must be complex where its parameter is: the imaginary part of either would be lost.
  """
  places = [(i, g) for i, g in enumerate(grads) if g is not None]
  for name, leaves in others.items():
    for leaf, (i, g) in enumerate(places):
      x = leaves[i]
      if not hasattr(x, 'dtype'):
        if x is None and name == 'params':
          continue
        raise ValueError(f'an update of shape {g.shape} arrives where {name} holds {x!r} ({_path(updates, leaf)}).')
      if x.shape != g.shape:
        raise ValueError(
          f'an update of shape {g.shape} arrives where {name} has shape {x.shape} ({_path(updates, leaf)}).'
        )
      if name == 'params' and jnp.iscomplexobj(g) != jnp.iscomplexobj(x):
        was, expected = _KINDS[jnp.iscomplexobj(g)], _KINDS[jnp.iscomplexobj(x)]
        raise TypeError(
          f'a {was} update ({g.dtype}) arrives where the parameter is {expected} ({x.dtype}, {_path(updates, leaf)}).'
        )


def check_leaf(g: Any, slots: Mapping[str, Any]) -> None:
  """Raises where an update does not fit what was kept of its parameter."""
  for name, x in slots.items():
    if x.shape != g.shape:
      raise ValueError(f'an update of shape {g.shape} arrives where {name} has shape {x.shape}.')
  if 'mu' in slots and jnp.iscomplexobj(g) and not jnp.iscomplexobj(slots['mu']):
    raise TypeError(f'a complex update ({g.dtype}) arrives where mu is real ({slots["mu"].dtype}).')
