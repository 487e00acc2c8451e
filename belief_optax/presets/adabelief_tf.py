"""adabelief-tf 0.1.0, 0.2.0 and 0.2.1, which TensorFlow Addons took over."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from belief_optax import pieces
from belief_optax.core import (
  DECAY_RATE,
  EPSILON,
  FRACTION,
  NONNEGATIVE,
  THRESHOLD,
  Recipe,
  choice,
  compose,
  is_zero,
  when,
)
from belief_optax.core.arguments import at
from belief_optax.optimizers.descend import descend, normalized
from belief_optax.presets.dialect import constants, flags, numbers, warn_of_bug

VERSIONS = ('0.1.0', '0.2.0', '0.2.1')


@dataclasses.dataclass(frozen=True)
class WarmupThenLinear:
  """A linear warmup from 0 to the learning rate, then a linear decay to the smallest rate."""

  learning_rate: Any
  total_steps: int
  warmup_proportion: float
  min_lr: float

  def __call__(self, count: Any) -> Any:
    rate = at(self.learning_rate, count)
    t, warmup = count + 1.0, self.total_steps * self.warmup_proportion
    rest = max(self.total_steps - warmup, 1)
    falling = rate + (self.min_lr - rate) / rest * jnp.minimum(t - warmup, rest)
    return jnp.where(t <= warmup, rate * (t / max(warmup, 1)), falling)


def adabelief(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  beta_1: optax.ScalarOrSchedule = 0.9,
  beta_2: optax.ScalarOrSchedule = 0.999,
  epsilon: optax.ScalarOrSchedule = 1e-14,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  rectify: bool = True,
  amsgrad: bool = False,
  sma_threshold: optax.ScalarOrSchedule = 5.0,
  total_steps: int = 0,
  warmup_proportion: float = 0.1,
  min_lr: float = 0.0,
  name: str = 'AdaBeliefOptimizer',
  print_change_log: bool = True,
  *,
  version: str = '0.2.1',
) -> Recipe:
  r"""Equals `adabelief_tf.AdaBeliefOptimizer`; all its versions compute the same.

  .. math:: u_t = r_t \hat m_t / (\sqrt{\hat s_t} + \varepsilon) \text{, or } \hat m_t \text{ while } \rho_t <
    \text{threshold}

  with eps stored in s at every step, and AMSGrad (the maximum of s with its eps) honoured under rectification. The
  decay is decoupled and multiplied by the learning rate. An epsilon of 0 becomes 1e-7, as it does there.

  Args:
    learning_rate: >= 0: number, scalar array or schedule.
    beta_1: the decay rate of the mean.
    beta_2: the decay rate of the belief.
    epsilon: >= 0, stored in s and added to the root.
    weight_decay: >= 0.
    rectify: whether the first steps are rectified.
    amsgrad: whether s is replaced by its maximum.
    sma_threshold: the smallest rho_t with an adaptive step, >= 4.
    total_steps: the number of steps of a linear warmup and decay of the learning rate; 0 for none.
    warmup_proportion: which part of them is warmup, in [0, 1].
    min_lr: the last learning rate.
    name: without effect.
    print_change_log: without effect.
    version: the version of the package, one of `VERSIONS`.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range or the version unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.adabelief_tf.adabelief(rectify=False)
    compose(
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-14, b1=None),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-14, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Zhuang et al., AdaBelief (https://arxiv.org/abs/2010.07468), Algorithm 2.
  """
  choice('version', version, VERSIONS)
  learning_rate, weight_decay = numbers(NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay)
  b1, b2 = numbers(DECAY_RATE, beta_1=beta_1, beta_2=beta_2)
  (epsilon,) = numbers(EPSILON, epsilon=epsilon)
  (threshold,) = numbers(THRESHOLD, sma_threshold=sma_threshold)
  flags(rectify=rectify, amsgrad=amsgrad)
  warn_of_bug(is_zero(epsilon), 'adabelief-tf: epsilon=0 is taken for "not given" and becomes 1e-7.')
  eps = 1e-7 if is_zero(epsilon) else epsilon
  direction = compose(
    pieces.first_moment(b1),
    pieces.belief(b2, eps),
    *when(amsgrad, pieces.running_max()),
    normalized(b1, b2, eps),
    *when(rectify, pieces.rectify(b2, threshold)),
  )
  rate = _scheduled(learning_rate, total_steps, warmup_proportion, min_lr)
  return descend(direction, rate, weight_decay)


def _scheduled(learning_rate: Any, total_steps: Any, warmup_proportion: Any, min_lr: Any) -> Any:
  """The learning rate with the warmup that is asked for; its options are numbers."""
  (proportion,) = numbers(FRACTION, warmup_proportion=warmup_proportion)
  total, least = numbers(NONNEGATIVE, total_steps=total_steps, min_lr=min_lr)
  constants(total_steps=total, warmup_proportion=proportion, min_lr=least)
  if not total.is_integer():
    raise ValueError(f'total_steps must be an integer >= 0, got {total_steps!r}.')
  if total == 0:
    return learning_rate
  if not callable(learning_rate):
    constants(learning_rate=learning_rate)
  return WarmupThenLinear(learning_rate, int(total), proportion, least)
