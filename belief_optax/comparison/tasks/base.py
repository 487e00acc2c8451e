"""What a task is."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Kind = Literal['noise-free', 'tables', 'images', 'label noise', 'text', 'reinforcement learning', 'landscapes']


class Task(NamedTuple):
  """A problem with everything that is the same for all optimizers.

  A seed draws the start and the batches, so all optimizers of a seed meet the same ones.

  Attributes:
    name: as it is asked for.
    kind: under which it is summarized.
    title: what is trained, on what.
    unit: what the score is.
    steps: the budget of one training.
    every: after how many steps the score is taken.
    seeds: tuning seeds for each setting. There are five times as many test seeds.
    target: the score that "steps to target" refers to, fixed beforehand. With held-out data it is 1.2 times
      the best mean score of `optax.adam` without decay at the rates 1e-3, 3.16e-3, 1e-2, 3.16e-2 and 1e-1 over seeds
      from 5000 on, rounded, on the tuning data; on the test data where these are harder (cancer, letters). Fits
      without noise have to come within a hundredth (root of 1e-4).
    init: key -> parameters.
    loss: parameters, key -> the loss of the batch that the key draws.
    score: parameters, held-out data -> the score, the less the better.
    tune: the held-out data by which settings are chosen.
    test: the held-out data that is reported.
    counts: whether a training is judged by its steps to target, at a constant learning rate, instead of its last score.
    worst: for a score with a fixed range, its worst value: such scores are compared by differences, others by factors.
    decays: whether weight decay is tuned, where an optimizer has one.
  """

  name: str
  kind: Kind
  title: str
  unit: str
  steps: int
  every: int
  seeds: int
  target: float
  init: Callable[[jax.Array], Any]
  loss: Callable[[Any, jax.Array], jax.Array]
  score: Callable[[Any, Any], jax.Array]
  tune: Any = ()
  test: Any = ()
  counts: bool = False
  worst: float | None = None
  decays: bool = False

  @property
  def points(self) -> int:
    """How many scores a training has."""
    return self.steps // self.every

  def schedule(self, count: Any) -> jax.Array:
    """What the learning rate is multiplied with: a linear warm-up over 5 % of the steps, then a cosine to 0."""
    if self.counts:
      return jnp.float32(1)
    done, warm = (count + 1) / self.steps, 0.05
    return jnp.minimum(done / warm, 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip((done - warm) / (1 - warm), 0, 1)))

  def limit(self, best: float) -> float:
    """The worst score that is within 5 % of the best one."""
    return best + 0.05 * (abs(best) if self.worst is None else self.worst - best)

  def shorter(self) -> 'Task':
    """The task of a quick run: a quarter of the steps, one tuning seed."""
    every = max(1, self.every // 4)
    return self._replace(every=every, steps=every * self.points, seeds=1)
