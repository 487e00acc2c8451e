"""The values that a hyperparameter may have, and the words that say so.

>>> import belief_optax as bo
>>> bo.ranges.DECAY_RATE.words
'a number in [0, 1)'
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOAT32_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Range:
  """The values that a number may have, and the words that say so.

  Attributes:
    words: what an error message says of it.
    contains: whether a number lies in it.
    guard: what becomes of a value that only arrives during a step, from an array or a schedule; None for the value.
  """

  words: str
  contains: Callable[[float], bool]
  guard: Callable[[Any], Any] | None = None


def _survives_float32(value: float) -> bool:
  # XLA flushes denormals to zero, so a smaller eps would silently be no eps at all.
  return value == 0 or FLOAT32_TINY <= value < math.inf or (jax.config.read('jax_enable_x64') and 0 < value < math.inf)


def _rate(least: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """A rate of 1 makes an average that never moves, and a bias mass of 0: NaN is better than a step without a scale."""
  return lambda b: b + jnp.sqrt(jnp.where(least(b) & (b < 1), 0.0, -1.0))  # plus 0 or, as jax_debug_nans sees, NaN


FINITE = Range('a finite number', math.isfinite)
NONNEGATIVE = Range('a finite number >= 0', lambda v: 0 <= v < math.inf)
POSITIVE = Range('a finite number > 0', lambda v: 0 < v < math.inf)
DECAY_RATE = Range('a number in [0, 1)', lambda v: 0 <= v < 1, _rate(lambda b: b >= 0))
POSITIVE_DECAY_RATE = Range('a number in (0, 1)', lambda v: 0 < v < 1, _rate(lambda b: b > 0))
FRACTION = Range('a number in [0, 1]', lambda v: 0 <= v <= 1)
MOMENTUM = FRACTION
EPSILON = Range(f'0 or a finite number >= {FLOAT32_TINY:.4g} (float32 flushes smaller ones to 0)', _survives_float32)
THRESHOLD = Range(
  'a finite number >= 4 (the variance of the step is infinite at rho <= 4)', lambda v: 4 <= v < math.inf
)
