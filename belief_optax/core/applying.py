"""Parameters in one pass, from a recipe inside of wrappers that know of updates alone.

A wrapper such as `optax.masked` hands updates on as they are. Beside its update a recipe leaves here the parameter that
it would make of it; where that very update arrives at the outside, the parameter is taken in place of the sum. Then
nothing asks for the update, and no compiled program computes it.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import optax

from belief_optax.core import trees

_nothing = lambda x: x is None


class Moved:
  """The parameters that recipes have made, found by the update that they stand for."""

  def __init__(self) -> None:
    self._found: dict[int, tuple[Any, Any, Any]] = {}  # what holds an array keeps its id from being used again

  def add(self, updates: Any, params: Any, moved: Any) -> None:
    """Keeps the parameters before and after a step beside the updates between them: trees of one structure."""
    leaves, tree = jax.tree.flatten(updates, is_leaf=_nothing)
    rows = zip(leaves, trees.align(tree, 'params', params), trees.align(tree, 'moved', moved), strict=True)
    self._found |= {id(u): (u, p, new) for u, p, new in rows if u is not None}

  def all_in(self, updates: Any) -> bool:
    """Whether each update has arrived as it was."""
    return self._found.keys() <= set(map(id, jax.tree.leaves(updates)))

  def applied(self, params: Any, updates: Any) -> Any:
    """`optax.apply_updates`, where a recipe has not done it. Where no update arrives the parameter stays."""

    def one(p: Any, u: Any) -> Any:
      if p is None or u is None:
        return p
      _, before, new = self._found.get(id(u), (None, None, None))
      return new if before is p else optax.apply_updates(p, u)

    return jax.tree.map(one, params, updates, is_leaf=_nothing)


_moved: contextvars.ContextVar[Moved | None] = contextvars.ContextVar('belief_optax_moved', default=None)


def moved() -> Moved | None:
  """Where a recipe leaves its parameters, if somebody asks for them."""
  return _moved.get()


@contextlib.contextmanager
def applying(asked: Moved | None) -> Iterator[None]:
  """Asks the recipes whose updates are computed inside of a `with` block for their parameters; None asks for none."""
  token = _moved.set(asked)
  try:
    yield
  finally:
    _moved.reset(token)
