"""torch-optimizer 0.3.0."""

from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import EPSILON, NONNEGATIVE, Recipe
from belief_optax.optimizers.descend import descend
from belief_optax.presets import adabelief_pytorch
from belief_optax.presets.dialect import adam_direction, flags, numbers, rates


def adabelief(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  amsgrad: bool = False,
  weight_decouple: bool = False,
  fixed_decay: bool = False,
  rectify: bool = False,
) -> Recipe:
  r"""Equals `torch_optimizer.AdaBelief`, which is adabelief-pytorch 0.0.5 with its bugs.

  .. math:: \theta_t = \theta_{t-1} - \alpha_t \hat m_t / (\sqrt{\hat s_t} + \varepsilon)

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the mean and of the belief.
    eps: >= 0, stored in s and added to the root.
    weight_decay: >= 0.
    amsgrad: whether s is replaced by its maximum, which grows by eps at every step.
    weight_decouple: whether the decay is decoupled, or L2.
    fixed_decay: whether decoupled decay is not multiplied by the learning rate.
    rectify: whether the first steps are rectified; those with rho <= 4 are the mean without bias correction.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch_optimizer.adabelief() == presets.adabelief_pytorch.adabelief(version='0.0.5')
    True
  """
  (eps,) = numbers(EPSILON, eps=eps)
  flags(weight_decouple=weight_decouple, rectify=rectify)
  options = {'weight_decouple': weight_decouple, 'fixed_decay': fixed_decay, 'rectify': rectify}
  return adabelief_pytorch.adabelief(lr, betas, eps, weight_decay, amsgrad, **options, version='0.0.5')


def radam(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
) -> Recipe:
  r"""Equals `torch_optimizer.RAdam`.

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
    >>> presets.torch_optimizer.radam() == presets.timm.radam_legacy()
    True
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  b1, b2 = rates(betas)
  return descend(adam_direction(b1, b2, eps, pieces.rectify(b2), eps_scaled=True), lr, weight_decay)
