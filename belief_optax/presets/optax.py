"""AdaBelief as optax has it, by version."""

import re

import optax

from belief_optax import optimizers
from belief_optax.core import Recipe
from belief_optax.presets.dialect import warn_of_bug


def adabelief(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-16,
  eps_root: optax.ScalarOrSchedule = 1e-16,
  *,
  nesterov: bool = False,
  version: str = '0.2.8',
) -> Recipe:
  r"""Equals `optax.adabelief` of a version.

  .. math:: s_t = b_2 s_{t-1} + (1-b_2) |g_t - m_t|^2 + \varepsilon_{root}

  Before 0.2.4 the residual was $g_t - m_{t-1}$, which is $(g_t - m_t) / b_1$: the steps are b1 times those of today
  where eps does not matter. That was a bug.

  Args:
    learning_rate: >= 0: number, scalar array or schedule.
    b1: the decay rate of the mean.
    b2: the decay rate of the belief.
    eps: added to the root, >= 0.
    eps_root: stored in s at every step, >= 0.
    nesterov: whether the numerator is the look-ahead mean; from 0.2.4 on.
    version: the version of optax, as `'0.2.8'`.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range, or the version no version.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> from belief_optax import presets
    >>> presets.optax.adabelief(1e-3) == bo.adabelief(1e-3, rectify=False)
    True
  """
  numbers = re.fullmatch(r'(\d+)\.(\d+)\.(\d+)', version) if isinstance(version, str) else None
  if numbers is None:
    raise ValueError(f"version must be a version of optax such as '0.2.8', got {version!r}.")
  old = tuple(map(int, numbers.groups())) < (0, 2, 4)
  if old and nesterov:
    raise ValueError(f'nesterov must be False before version 0.2.4, which has no such argument, got {version=}.')
  warn_of_bug(old, 'optax < 0.2.4: the residual of adabelief is that of the mean before the step.')
  residual = 'previous' if old else 'current'
  options = {'rectify': False, 'nesterov': nesterov, 'residual': residual}
  return optimizers.adabelief(learning_rate, b1, b2, eps, eps_root, **options)
