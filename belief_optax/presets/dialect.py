"""What the presets share: arguments under the names of other packages, their compositions, a warning for their bugs."""

import sys
import warnings
from typing import Any

from belief_optax.core import DECAY_RATE, Range, Recipe, compose, flag, hyperparameter, when
from belief_optax.core.arguments import STATIC_HINT
from belief_optax.optimizers.descend import descend, normalized
from belief_optax.pieces import complex_as_reals, first_moment, running_max, scale, second_moment


class DialectWarning(UserWarning):
  """An option of a preset reproduces a bug of the package that the preset matches."""


_warned: set[str] = set()


def warn_of_bug(active: bool, text: str) -> None:
  """Warns, once per process, that an active option reproduces a bug."""
  if active and text not in _warned:
    _warned.add(text)
    warnings.warn(text, DialectWarning, stacklevel=_level_of_the_user())


def _level_of_the_user() -> int:
  """The stacklevel, for our caller, of the first frame outside of this package: presets call each other."""
  frame, level = sys._getframe(1), 1
  while frame.f_back is not None and frame.f_globals.get('__name__', '').partition('.')[0] == 'belief_optax':
    frame, level = frame.f_back, level + 1
  return level


# Arguments.


def numbers(allowed: Range, **arguments: Any) -> tuple[Any, ...]:
  """Checks hyperparameters under the names that the user wrote."""
  return tuple(hyperparameter(name, value, allowed) for name, value in arguments.items())


def rates(betas: Any) -> tuple[Any, Any]:
  """The two decay rates of an argument `betas`."""
  if not isinstance(betas, tuple | list) or len(betas) != 2:
    raise ValueError(f'betas must be a pair of decay rates, got {betas!r}.')
  b1, b2 = (hyperparameter(f'betas[{i}]', b, DECAY_RATE) for i, b in enumerate(betas))
  return b1, b2


def flags(**arguments: Any) -> None:
  """Checks options that choose the recipe."""
  for name, value in arguments.items():
    flag(name, value)


def constants(**arguments: Any) -> None:
  """Checks hyperparameters that become part of a schedule, and so must be Python numbers."""
  for name, value in arguments.items():
    if not isinstance(value, float):
      raise TypeError(f'{name} must be a Python number ({STATIC_HINT}), got {value!r}.')


def decay_mode(decoupled: bool, fixed: bool = False) -> str:
  """The decay mode that the usual two switches mean: `fixed` counts only where the decay is decoupled."""
  if not decoupled:
    return 'l2'
  return 'fixed' if fixed else 'decoupled'


# Compositions.


def adam_direction(
  b1: Any, b2: Any, eps: Any, *rest: Recipe, amsgrad: bool = False, eps_scaled: bool = False, debias: bool = True
) -> Recipe:
  """Adam as torch writes it: the maximum is that of the raw moments; `debias=False` leaves the mean as it is."""
  return compose(
    first_moment(b1),
    second_moment(b2),
    *when(amsgrad, running_max()),
    normalized(b1 if debias else None, b2, eps, eps_scaled=eps_scaled),
    *rest,
  )


def as_in_torch(direction: Recipe, lr: Any, weight_decay: Any, mode: str, maximize: bool) -> Recipe:
  """A direction with what torch's optimizers share: the decay sees the gradient after its sign was turned."""
  flags(maximize=maximize)
  descent = descend(direction, lr, weight_decay, mode=mode)
  return compose(complex_as_reals(), *when(maximize, scale(-1.0)), descent)
