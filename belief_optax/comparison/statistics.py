"""What a few paired numbers allow to say, and how wide a basin is."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats

Verdict = Literal['better', 'tie', 'worse', 'both fail']


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """The mean and half the width of its 95 % confidence interval."""
  half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
  return float(np.mean(values)), float(half)


class Paired(NamedTuple):
  """A difference of two optimizers over the seeds that both of them met; less is better.

  Attributes:
    verdict: what the first one is; `'tie'` where the interval holds 0.
    mean: the mean difference, or the geometric mean of the factors.
    low: the lower end of its 95 % interval.
    high: the upper end.
    failed: on how many seeds the first one failed, and the second one.
  """

  verdict: Verdict
  mean: float
  low: float
  high: float
  failed: tuple[int, int]


def paired(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, factor: bool) -> Paired:
  """Compares the scores of two optimizers, seed by seed.

  A failed run has no size, so it enters no interval: who fails on more seeds is worse.

  Args:
    ours: scores of the first optimizer, by seed; not finite where it failed.
    theirs: scores of the second one, by the same seeds.
    factor: whether to compare ratios, on a log scale, instead of differences.

  Returns:
    The verdict with its interval.
  """
  a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if a.shape != b.shape:
    raise ValueError(f'paired needs the same seeds on both sides, got {len(a)} and {len(b)}.')
  fine_a, fine_b = np.isfinite(a), np.isfinite(b)
  both, failed = fine_a & fine_b, (int((~fine_a).sum()), int((~fine_b).sum()))
  mean = half = math.nan
  if both.sum() > 1:
    with np.errstate(divide='ignore', invalid='ignore'):
      difference = np.log(a[both]) - np.log(b[both]) if factor else a[both] - b[both]
    mean, half = interval(difference)
  low, high = mean - half, mean + half
  if not both.any() and failed[0] == failed[1]:
    verdict: Verdict = 'both fail'
  elif failed[0] != failed[1]:
    verdict = 'worse' if failed[0] > failed[1] else 'better'
  else:
    verdict = 'worse' if low > 0 else 'better' if high < 0 else 'tie'
  back = (lambda x: float(np.exp(x))) if factor else float
  return Paired(verdict, back(mean), back(low), back(high), failed)


class Basin(NamedTuple):
  """The learning rates around the best one that are nearly as good.

  Attributes:
    width: the largest of them over the smallest; 1 is a point.
    open: whether it reaches an end of what was tried: the true width is larger.
  """

  width: float
  open: bool


def basin(rates: Sequence[float], scores: Sequence[float], limit: float) -> Basin:
  """The basin of learning rates around the best score in which the score stays below a limit.

  The ends lie where the score, a straight line over log(rate) between two neighbors, crosses the limit. Beside a failed
  run there is no line, and the last rate that was good is the end.

  Args:
    rates: the learning rates, ascending.
    scores: their scores; not finite for a failure.
    limit: the largest score inside of the basin.

  Returns:
    The width and whether it is open.
  """
  x, y = np.log(np.asarray(rates, np.float64)), np.asarray(scores, np.float64)
  best = int(np.where(np.isfinite(y), y, np.inf).argmin())

  def end(step: int) -> tuple[float, bool]:
    i = best
    while 0 <= i + step < len(x) and y[i + step] <= limit:
      i += step
    if not 0 <= i + step < len(x):
      return x[i], True
    if not np.isfinite(y[i + step]) or not y[i] <= limit:
      return x[i], False
    return x[i] + (x[i + step] - x[i]) * (limit - y[i]) / (y[i + step] - y[i]), False

  (low, open_low), (high, open_high) = end(-1), end(1)
  return Basin(float(np.exp(high - low)), open_low or open_high)
