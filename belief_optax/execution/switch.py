"""Which way of running a step is in force."""

import contextlib
import contextvars
import os
from collections.abc import Iterator
from typing import Literal, get_args

Mode = Literal['auto', 'xla', 'native']
VARIABLE = 'BELIEF_OPTAX_EXECUTION'

_chosen: contextvars.ContextVar[Mode | None] = contextvars.ContextVar('belief_optax_execution', default=None)


def _checked(name: str, mode: str) -> Mode:
  for known in get_args(Mode):
    if mode == known:
      return known
  raise ValueError(f'{name} must be one of {", ".join(map(repr, get_args(Mode)))}, got {mode!r}.')


def current() -> Mode:
  """The way that is in force: that of the innermost `use`, else of the environment, else `'auto'`.

  Example:
    >>> from belief_optax import execution
    >>> with execution.use('xla'):
    ...   execution.current()
    'xla'
  """
  return _chosen.get() or _checked(VARIABLE, os.environ.get(VARIABLE, 'auto'))


@contextlib.contextmanager
def use(mode: Mode) -> Iterator[None]:
  """Chooses how steps are run inside of a `with` block; the numbers are the same, but for the order of a sum.

  It is read when a step is traced: a step that was compiled before keeps its way. The environment variable
  `BELIEF_OPTAX_EXECUTION` chooses for a whole process.

  Args:
    mode: `'auto'`: on the CPU one machine loop where llvmlite is installed and the recipe has one, else XLA; `'xla'`:
      XLA alone; `'native'`: the machine loop, and an error that says why where there is none.

  Returns:
    A context manager.

  Raises:
    ValueError: if `mode` is none of these.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, p = bo.adam(0.5), jnp.ones(2)
    >>> with bo.execution.use('xla'):
    ...   updates, state = tx.update(p, tx.init(p), p)
    >>> print(updates)
    [-0.5 -0.5]
  """
  token = _chosen.set(_checked('mode', mode))
  try:
    yield
  finally:
    _chosen.reset(token)
