"""Looking at a step from outside of it: who looks changes no number.

A recipe deep inside of wrappers meets an observer through a context, as it learns the way of its execution: what wraps
it need not know of either.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Look = Callable[[Any, Any], Any]

_look: contextvars.ContextVar[Look | None] = contextvars.ContextVar('belief_optax_look', default=None)


class Watch:
  """Sees what the lines make of one array. This one looks away."""

  def line(self, line: Any, k: Any, before: Any, after: Any) -> None:
    """What a line knows before and after its step, with its scalars k."""

  def rounded(self, route: Any, exact: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """The slots of a route before and after its store rounds them; `kept` is empty where it does not."""

  def end(self, x: Any) -> None:
    """What is known after the last line. A complex array that is split has two ends, its real and its imaginary one."""


def watching(look: Look) -> contextlib.AbstractContextManager[None]:
  """Calls `look(plan, arrays)` for each recipe whose step is taken inside of a `with` block.

  It returns the arrays, as the step is to take them: what is computed from them must be the same numbers. Whoever
  watches from further outside sees them first.
  """
  outer = _look.get()
  return _looking(look if outer is None else lambda plan, arrays: look(plan, outer(plan, arrays)))


def unseen() -> contextlib.AbstractContextManager[None]:
  """Nobody watches what is done inside of a `with` block."""
  return _looking(None)


@contextlib.contextmanager
def _looking(look: Look | None) -> Iterator[None]:
  token = _look.set(look)
  try:
    yield
  finally:
    _look.reset(token)


def watched() -> bool:
  """Whether somebody watches."""
  return _look.get() is not None


def seen(plan: Any, arrays: Any) -> Any:
  """The arrays of a step, after whoever watches has seen them."""
  look = _look.get()
  return arrays if look is None else look(plan, arrays)
