"""pytorch-optimizer 4.1.0: AdaBelief, RAdam."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from belief_optax import formulas, pieces
from belief_optax.core import EPSILON, NONNEGATIVE, THRESHOLD, Recipe, compose, is_zero, when
from belief_optax.optimizers.descend import normalized
from belief_optax.presets.dialect import (
  adam_direction,
  as_in_torch,
  constants,
  decay_mode,
  flags,
  numbers,
  rates,
  warn_of_bug,
)


def adabelief(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decouple: bool = True,
  fixed_decay: bool = False,
  rectify: bool = False,
  n_sma_threshold: optax.ScalarOrSchedule = 5,
  degenerated_to_sgd: bool = True,
  ams_bound: bool = False,
  foreach: Any = None,
  eps: optax.ScalarOrSchedule = 1e-16,
  maximize: bool = False,
  *,
  adam_debias: bool = False,
) -> Recipe:
  r"""Equals `pytorch_optimizer.AdaBelief`.

  .. math:: u_t = \hat m_t / (\sqrt{\hat s_t} + \varepsilon) \text{ or, rectified, }
    r_t \hat m_t \sqrt{1 - b_2^t} / (\sqrt{s_t} + \varepsilon)

  with eps stored in s at every step. AMSGrad is honoured under rectification, unlike in adabelief-pytorch.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the mean and of the belief.
    weight_decay: >= 0.
    weight_decouple: whether the decay is decoupled, or L2.
    fixed_decay: whether decoupled decay is not multiplied by the learning rate.
    rectify: whether the first steps are rectified.
    n_sma_threshold: the smallest rho_t with an adaptive step, >= 4.
    degenerated_to_sgd: whether the steps before that are the mean (True) or none.
    ams_bound: whether s is replaced by its maximum.
    foreach: without effect.
    eps: >= 0, stored in s and added to the root.
    maximize: whether the objective is maximized.
    adam_debias: whether the mean stays without bias correction.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.pytorch_optimizer.adabelief()
    compose(
      complex_as_reals(),
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-16, b1=None),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-16, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  (threshold,) = numbers(THRESHOLD, n_sma_threshold=n_sma_threshold)
  flags(weight_decouple=weight_decouple, fixed_decay=fixed_decay, rectify=rectify, ams_bound=ams_bound)
  flags(degenerated_to_sgd=degenerated_to_sgd, adam_debias=adam_debias)
  b1, b2 = rates(betas)
  direction = compose(
    pieces.first_moment(b1),
    pieces.belief(b2, eps),
    *when(ams_bound, pieces.running_max()),
    normalized(None if adam_debias else b1, b2, eps, eps_scaled=rectify),
    *((pieces.rectify(b2, threshold, degenerated_to_sgd),) if rectify else ()),
  )
  return as_in_torch(direction, lr, weight_decay, decay_mode(weight_decouple, fixed_decay), maximize)


@dataclasses.dataclass(frozen=True)
class FromStep:
  """1 from the step t = first on, 0 before it; 0 for ever if there is no such step."""

  first: int | None

  def __call__(self, count: Any) -> Any:
    if self.first is None:
      return 0.0
    return jnp.where(count >= self.first - 1, 1.0, 0.0)  # count + 1 would overflow at last


def radam(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decouple: bool = True,
  fixed_decay: bool = False,
  n_sma_threshold: float = 5,
  degenerated_to_sgd: bool = False,
  eps: optax.ScalarOrSchedule = 1e-8,
  maximize: bool = False,
  foreach: Any = None,
  *,
  adam_debias: bool = False,
) -> Recipe:
  r"""Equals `pytorch_optimizer.RAdam`.

  .. math:: u_t = r_t \hat m_t \sqrt{1 - b_2^t} / (\sqrt{v_t} + \varepsilon) \text{, or nothing while } \rho_t < 5

  By default nothing moves in the first steps, and nothing decays. L2 decay never reaches the gradient, which is a bug.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments; where nothing moves in the first steps, the second is a number.
    weight_decay: >= 0.
    weight_decouple: whether the decay is decoupled; False is no decay.
    fixed_decay: whether decoupled decay is not multiplied by the learning rate.
    n_sma_threshold: the smallest rho_t with an adaptive step, a number >= 4.
    degenerated_to_sgd: whether the steps before that are the mean (True) or none.
    eps: added to the root of the raw moment, >= 0.
    maximize: whether the objective is maximized.
    foreach: without effect.
    adam_debias: whether the mean stays without bias correction.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.pytorch_optimizer.radam()
    compose(
      complex_as_reals(),
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=False),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=False),
      scale(factor=-1.0),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  (threshold,) = numbers(THRESHOLD, n_sma_threshold=n_sma_threshold)
  flags(weight_decouple=weight_decouple, fixed_decay=fixed_decay, degenerated_to_sgd=degenerated_to_sgd)
  flags(maximize=maximize, adam_debias=adam_debias)
  warn_of_bug(
    not weight_decouple and not is_zero(weight_decay),
    'pytorch_optimizer.RAdam: L2 decay (weight_decouple=False) never reaches the gradient, and so does nothing.',
  )
  b1, b2 = rates(betas)
  rectified = pieces.rectify(b2, threshold, degenerated_to_sgd)
  direction = adam_direction(b1, b2, eps, rectified, eps_scaled=True, debias=not adam_debias)
  multiplier = 1.0
  if not degenerated_to_sgd:  # what does not move does not decay
    constants(**{'betas[1]': b2, 'n_sma_threshold': threshold})
    multiplier = FromStep(formulas.first_tractable_step(b2, threshold))
  decay = pieces.add_decayed_weights(weight_decay, None, multiplier)
  decays = when(weight_decouple and not is_zero(weight_decay), decay)
  rate = pieces.scale_by_learning_rate(lr, flip_sign=False)
  return compose(
    pieces.complex_as_reals(),
    *when(maximize, pieces.scale(-1.0)),
    direction,
    *((rate, *decays) if fixed_decay else (*decays, rate)),
    pieces.scale(-1.0),
  )
