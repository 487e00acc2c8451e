"""Trees that must fit each other, and errors that say where they do not."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from belief_optax import dtypes


def align(treedef: Any, what: str, tree: Any) -> list[Any]:
  """The leaves of a tree in the order of another, whose structure it begins with."""
  try:
    return treedef.flatten_up_to(tree)
  except ValueError as e:
    raise ValueError(f'{what} does not have the structure of the updates: {e}') from e


def check_inexact(kind: str, tree: Any) -> None:
  """Raises where a leaf is no floating point array."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if not jnp.issubdtype(dtypes.of(leaf), jnp.inexact):
      where = jax.tree_util.keystr(path) or 'the tree itself'
      raise TypeError(
        f'{kind} {where} has dtype {dtypes.of(leaf)}; only real and complex floating arrays can be optimized. '
        'Leave it out with optax.masked or belief_optax.by_path.'
      )


def check_arrays(g: Any, others: Mapping[str, Any]) -> None:
  """Raises where an update arrives for a parameter of which nothing is kept."""
  for name, x in others.items():
    if not hasattr(x, 'dtype'):
      raise ValueError(f'an update of shape {g.shape} arrives where {name} holds {x!r}.')


def check_leaf(g: Any, others: Mapping[str, Any]) -> None:
  """Raises where an update does not fit its parameter, or what was kept of it."""
  check_arrays(g, others)
  for name, x in others.items():
    if x.shape != g.shape:
      raise ValueError(f'an update of shape {g.shape} arrives where {name} has shape {x.shape}.')
  if 'mu' in others and jnp.iscomplexobj(g) and not jnp.iscomplexobj(others['mu']):
    raise TypeError(f'a complex update ({g.dtype}) arrives where mu is real ({others["mu"].dtype}).')


def check_complex(updates: Any, params: Any) -> None:
  """An update must be complex where its parameter is: the imaginary part of either would be lost."""
  if not any(map(jnp.iscomplexobj, jax.tree.leaves((updates, params)))):
    return
  grads, treedef = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
  kinds = {True: 'complex', False: 'real'}
  for g, p in zip(grads, align(treedef, 'params', params), strict=True):
    if hasattr(g, 'dtype') and hasattr(p, 'dtype') and jnp.iscomplexobj(g) != jnp.iscomplexobj(p):
      was, expected = kinds[jnp.iscomplexobj(g)], kinds[jnp.iscomplexobj(p)]
      raise TypeError(f'a {was} update ({g.dtype}) arrives where the parameter is {expected} ({p.dtype}).')
