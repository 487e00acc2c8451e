"""timm.optim of timm 1.0.31: AdaBelief, RMSpropTF, RAdamLegacy."""

import dataclasses
from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import DECAY_RATE, EPSILON, MOMENTUM, NONNEGATIVE, Recipe, compose, is_zero, when
from belief_optax.optimizers.descend import relative
from belief_optax.presets import adabelief_pytorch, torch_optimizer
from belief_optax.presets.dialect import flags, numbers


def adabelief(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-16,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  amsgrad: bool = False,
  decoupled_decay: bool = True,
  fixed_decay: bool = False,
  rectify: bool = True,
  degenerated_to_sgd: bool = True,
  foreach: Any = None,
) -> Recipe:
  r"""Equals `timm.optim.AdaBelief`, which is adabelief-pytorch 0.2.1 with another name for one argument.

  .. math:: u_t = r_t \hat m_t \sqrt{1 - b_2^t} / (\sqrt{s_t} + \varepsilon) \text{, or } \hat m_t
    \text{ while } \rho_t < 5

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the mean and of the belief.
    eps: >= 0, stored in s and added to the root.
    weight_decay: >= 0.
    amsgrad: whether s is replaced by its maximum; a bug makes it without effect when the steps are rectified.
    decoupled_decay: whether the decay is decoupled, or L2.
    fixed_decay: whether decoupled decay is not multiplied by the learning rate.
    rectify: whether the first steps are rectified.
    degenerated_to_sgd: whether the steps before that are the mean (True) or none.
    foreach: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.timm.adabelief() == presets.adabelief_pytorch.adabelief()
    True
  """
  (eps,) = numbers(EPSILON, eps=eps)
  flags(decoupled_decay=decoupled_decay, rectify=rectify)
  return adabelief_pytorch.adabelief(
    lr, betas, eps, weight_decay, amsgrad, decoupled_decay, fixed_decay, rectify, degenerated_to_sgd
  )


@dataclasses.dataclass(frozen=True)
class Corrected:
  """a_t^2 / a_0 of a schedule."""

  schedule: Any
  relative: Any

  def __call__(self, count: Any) -> Any:
    return self.schedule(count) * self.relative(count)


def rmsprop_tf(
  lr: optax.ScalarOrSchedule = 1e-2,
  alpha: optax.ScalarOrSchedule = 0.9,
  eps: optax.ScalarOrSchedule = 1e-10,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  momentum: optax.ScalarOrSchedule = 0.0,
  centered: bool = False,
  decoupled_decay: bool = False,
  corrected_weight_decay: bool = False,
  lr_in_momentum: bool = True,
  caution: bool = False,
  foreach: Any = None,
) -> Recipe:
  r"""Equals `timm.optim.RMSpropTF`: RMSProp as TensorFlow writes it.

  .. math:: \theta_t = \theta_{t-1} - c_t, \qquad c_t = \mu c_{t-1} + \alpha_t g_t / \sqrt{v_t + \varepsilon},
    \qquad v_0 = 1

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    alpha: the decay rate of the second moment.
    eps: added under the root, >= 0.
    weight_decay: >= 0.
    momentum: in [0, 1]; 0 for none.
    centered: whether the mean of the gradient is taken out.
    decoupled_decay: whether the decay is decoupled, or L2.
    corrected_weight_decay: whether decoupled decay is multiplied by the learning rate relative to its first value.
    lr_in_momentum: whether the momentum accumulates what the learning rate has scaled.
    caution: whether the elements of the momentum that disagree with the gradient in sign are dropped.
    foreach: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range, or the first learning rate is 0 where the decay is corrected.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.timm.rmsprop_tf(momentum=0.9)
    compose(
      second_moment(b2=0.9, initial=1.0),
      precondition(eps=0.0, eps_root=1e-10),
      scale_by_learning_rate(learning_rate=0.01, flip_sign=False),
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
      scale(factor=-1.0),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (alpha,) = numbers(DECAY_RATE, alpha=alpha)
  (eps,) = numbers(EPSILON, eps=eps)
  (momentum,) = numbers(MOMENTUM, momentum=momentum)
  flags(centered=centered, decoupled_decay=decoupled_decay, corrected_weight_decay=corrected_weight_decay)
  flags(lr_in_momentum=lr_in_momentum, caution=caution)
  scaled = pieces.scale_by_learning_rate(lr, flip_sign=False)
  buffer = compose(*when(not is_zero(momentum), pieces.heavy_ball(momentum), *when(caution, pieces.cautious())))
  decays = not is_zero(weight_decay)
  corrected = decays and decoupled_decay and corrected_weight_decay
  multiple = relative(lr, 'corrected_weight_decay=True') if corrected else 1.0  # an array is refused
  decay = pieces.add_decayed_weights(weight_decay, None, Corrected(lr, multiple) if callable(multiple) else lr)
  return compose(
    *when(decays and not decoupled_decay, pieces.add_decayed_weights(weight_decay)),
    pieces.centered_moment(alpha, 1.0) if centered else pieces.second_moment(alpha, 1.0),
    pieces.precondition(0.0, eps),
    *((scaled, buffer) if lr_in_momentum else (buffer, scaled)),
    *when(decays and decoupled_decay, decay),
    pieces.scale(-1.0),
  )


def radam_legacy(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
) -> Recipe:
  r"""Equals `timm.optim.RAdamLegacy`.

  .. math:: u_t = r_t \hat m_t \sqrt{1 - b_2^t} / (\sqrt{v_t} + \varepsilon) \text{, or } \hat m_t
    \text{ while } \rho_t < 5

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root of the raw moment, >= 0.
    weight_decay: >= 0, decoupled and multiplied by the learning rate.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.timm.radam_legacy()
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  return torch_optimizer.radam(lr, betas, eps, weight_decay)
