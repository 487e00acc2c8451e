"""The search for learning rate and weight decay, the same for every optimizer."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

DECAYS = (0.0, 0.01, 0.1, 1.0, 10.0)
BATCH, ROUNDS = 5, 5  # settings that are tried at once, and how often


class Point(NamedTuple):
  """A setting on the lattice: two learning rates to a decade, and an index into `DECAYS`."""

  rate_index: int
  decay_index: int = 0

  @property
  def rate(self) -> float:
    return float(f'{10 ** (self.rate_index / 2):.4g}')

  @property
  def decay(self) -> float:
    return DECAYS[self.decay_index]


class Found(NamedTuple):
  """What a search tried.

  Attributes:
    best: the setting with the least score.
    scores: every setting that was tried, with its score.
    edges: the sides on which the best setting has no tried neighbor: `'lower rate'`, `'higher rate'`, `'more decay'`.
      Empty where the best is inside of what was tried.
  """

  best: Point
  scores: dict[Point, float]
  edges: tuple[str, ...]


def search(
  evaluate: Callable[[Sequence[Point]], Sequence[float]],
  center: int,
  decays: int = 1,
  rounds: int = ROUNDS,
) -> Found:
  """Looks for the best setting: a row of rates, then again and again the untried settings nearest to the best so far.

  It ends when every neighbor of the best setting has been tried, or after `rounds` rounds of `BATCH` settings.

  Args:
    evaluate: settings -> scores, the less the better; not finite for a failure.
    center: the index of the rate in the middle of the first row, which has no decay.
    decays: how many of `DECAYS` there are; 1 for an optimizer without.
    rounds: the most rounds.

  Returns:
    The best setting, all scores, and the sides on which the best is not enclosed.

  Raises:
    ValueError: if there is no round, or `decays` is none of 1 .. 5.
  """
  if rounds < 1:
    raise ValueError(f'rounds must be an integer >= 1, got {rounds!r}.')
  if not 1 <= decays <= len(DECAYS):
    raise ValueError(f'decays must be one of 1 .. {len(DECAYS)}, got {decays!r}.')
  best = Point(center)
  wanted = [Point(center + i - BATCH // 2) for i in range(BATCH)]
  scores: dict[Point, float] = {}
  for _ in range(rounds):
    scores |= {p: float(s) for p, s in zip(wanted, evaluate(wanted), strict=True)}
    best = min(scores, key=lambda p: (not np.isfinite(scores[p]), scores[p], abs(p.rate_index - center), p))
    if not any(np.isfinite(list(scores.values()))):
      # Nothing says where to go, and divergence is cured by smaller rates.
      best = min(scores)
    missing = [p for p in _untried_neighbors(best, scores, decays).values() if p.decay_index < decays]
    if not missing:
      break
    wanted = _nearest(best, scores, decays, missing)
  return Found(best, scores, tuple(_untried_neighbors(best, scores, decays)))


def _untried_neighbors(best: Point, tried: dict[Point, float], decays: int) -> dict[str, Point]:
  """By side. No decay is the end of the range, not an edge; the largest decay is an edge."""
  around = {
    'lower rate': Point(best.rate_index - 1, best.decay_index),
    'higher rate': Point(best.rate_index + 1, best.decay_index),
  }
  if best.decay_index > 0:
    around['less decay'] = Point(best.rate_index, best.decay_index - 1)
  if decays > 1:
    around['more decay'] = Point(best.rate_index, best.decay_index + 1)
  return {side: point for side, point in around.items() if point not in tried}


def _nearest(best: Point, tried: dict[Point, float], decays: int, first: Sequence[Point]) -> list[Point]:
  """The next settings: the neighbors, then the nearest others; rates of the row come before decays."""
  within = range(best.rate_index - BATCH, best.rate_index + BATCH + 1)
  lattice = (Point(*both) for both in itertools.product(within, range(decays)))
  distance = lambda p: (abs(p.rate_index - best.rate_index) + abs(p.decay_index - best.decay_index), p.decay_index, p)
  others = sorted((p for p in lattice if p not in tried and p not in first), key=distance)
  return [*first, *others][:BATCH]
