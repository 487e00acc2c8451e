"""The tasks of the comparison, by name; nothing is downloaded."""

import functools
from collections.abc import Callable, Iterable

from belief_optax.comparison.tasks.base import Task
from belief_optax.comparison.tasks.cartpole import cartpole
from belief_optax.comparison.tasks.images import digits, digits_cnn, digits_vit, noisy_digits
from belief_optax.comparison.tasks.landscapes import absolute, beale, rosenbrock
from belief_optax.comparison.tasks.physics import orbit, oscillator
from belief_optax.comparison.tasks.tables import cancer, diabetes
from belief_optax.comparison.tasks.text import letters, letters_1m

# The longest first, so that two workers end together.
EVERY: tuple[Callable[[], Task], ...] = (
  letters, digits_vit, cartpole, oscillator, orbit, digits_cnn, digits, noisy_digits, diabetes, cancer,
  rosenbrock, beale, absolute,
)  # fmt: skip
TASKS = {make.__name__: make for make in (*EVERY, letters_1m)}
GROUPS = {
  'all': tuple(make.__name__ for make in EVERY),
  'landscapes': ('rosenbrock', 'beale', 'absolute'),
  'tables': ('diabetes', 'cancer'),
  'images': ('digits', 'digits_cnn', 'digits_vit'),
  'physics': ('oscillator', 'orbit'),
}


def names(asked: Iterable[str]) -> tuple[str, ...]:
  """The names of tasks, with groups spelled out, each once.

  Raises:
    ValueError: if a name is neither a task nor a group.
  """
  asked = [asked] if isinstance(asked, str) else list(asked)
  for one in asked:
    if one not in TASKS and one not in GROUPS:
      raise ValueError(f'tasks must be of {", ".join(TASKS)}, or a group of {", ".join(GROUPS)}, got {one!r}.')
  if not asked:
    raise ValueError('tasks must name at least one task, got none.')
  return tuple(dict.fromkeys(name for one in asked for name in GROUPS.get(one, (one,))))


@functools.cache
def task(name: str, quick: bool = False) -> Task:
  """A task by its name; a quick one has a quarter of the steps."""
  made = TASKS[name]()
  return made.shorter() if quick else made


__all__ = ['GROUPS', 'TASKS', 'Task', 'names', 'task']
