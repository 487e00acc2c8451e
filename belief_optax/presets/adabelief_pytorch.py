"""adabelief-pytorch 0.0.5, 0.1.0, 0.2.0 and 0.2.1, the package of AdaBelief's authors."""

from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import EPSILON, NONNEGATIVE, Recipe, choice, compose, is_zero, when
from belief_optax.optimizers.descend import descend, normalized
from belief_optax.presets.dialect import decay_mode, flags, numbers, rates, warn_of_bug

VERSIONS = ('0.0.5', '0.1.0', '0.2.0', '0.2.1')


def adabelief(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule | None = None,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  amsgrad: bool = False,
  weight_decouple: bool | None = None,
  fixed_decay: bool = False,
  rectify: bool | None = None,
  degenerated_to_sgd: bool = True,
  print_change_log: bool = True,
  *,
  version: str = '0.2.1',
) -> Recipe:
  r"""Equals `adabelief_pytorch.AdaBelief` of a version.

  .. math:: \theta_t = \theta_{t-1} - \alpha_t \hat m_t / (\sqrt{\hat s_t} + \varepsilon)

  with eps stored in s at every step. What differs from the paper, and between the versions:

  - 0.0.5: AMSGrad stores eps in the maximum instead of s, so that the maximum grows at every step; the steps while
    rho <= 4 are the mean without bias correction. Both are bugs.
  - from 0.1.0 on, rectified: the step is corrected instead of s, $\sqrt{1-b_2^t} / (\sqrt{s_t} + \varepsilon)$, the
    threshold is rho >= 5, and AMSGrad has no effect, which is a bug.
  - 0.1.0: AMSGrad is that of 0.0.5 and, rectified, takes eps out from under the root; L2 decay is added to the gradient
    after the moments have seen it, so it does nothing. Both are bugs.
  - 0.2.0 and 0.2.1 differ for float16 alone.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the mean and of the belief.
    eps: >= 0, stored in s and added to the root; None for 1e-16, or 1e-8 in 0.0.5.
    weight_decay: >= 0.
    amsgrad: whether s is replaced by its maximum.
    weight_decouple: whether the decay is decoupled, or L2; None for True, or False in 0.0.5.
    fixed_decay: whether decoupled decay is not multiplied by the learning rate.
    rectify: whether the first steps are rectified; None for True, or False in 0.0.5.
    degenerated_to_sgd: whether the steps before that are the mean (True) or none; 0.0.5 knows True alone.
    print_change_log: without effect.
    version: the version of the package, one of `VERSIONS`.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range or the version unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.adabelief_pytorch.adabelief(weight_decay=1e-2)
    compose(
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-16, b1=None),
      precondition(eps=1e-16, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True),
      add_decayed_weights(weight_decay=0.01, mask=None, multiplier=1.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Zhuang et al., AdaBelief (https://arxiv.org/abs/2010.07468), Algorithm 2.
  """
  first = choice('version', version, VERSIONS) == '0.0.5'
  stored = (1e-8 if first else 1e-16) if eps is None else eps
  weight_decouple = not first if weight_decouple is None else weight_decouple
  rectify = not first if rectify is None else rectify
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (stored,) = numbers(EPSILON, eps=stored)
  flags(amsgrad=amsgrad, weight_decouple=weight_decouple, fixed_decay=fixed_decay, rectify=rectify)
  flags(degenerated_to_sgd=degenerated_to_sgd)
  if first and not degenerated_to_sgd:
    raise ValueError('degenerated_to_sgd must be True in version 0.0.5, which has no such argument.')
  grows = amsgrad and version in ('0.0.5', '0.1.0')
  no_op = not weight_decouple and version == '0.1.0'
  name = f'adabelief-pytorch {version}'
  warn_of_bug(grows, f'{name}: with amsgrad the maximum of s grows by eps at every step.')
  warn_of_bug(rectify and first, f'{name}: the first steps of rectification are not bias-corrected.')
  warn_of_bug(rectify and amsgrad and not first, f'{name}: amsgrad is without effect when the steps are rectified.')
  warn_of_bug(no_op and not is_zero(weight_decay), f'{name}: L2 decay is added after the moments, and so does nothing.')
  b1, b2 = rates(betas)
  moments = compose(pieces.first_moment(b1), pieces.belief(b2, 0.0 if grows else stored))
  maximum = when(amsgrad, pieces.running_max(stored if grows else 0.0))
  if rectify and first:
    rectified = (pieces.raw_mean(), pieces.rectify(b2, 4.0))
    direction = compose(moments, *maximum, normalized(b1, b2, stored), *rectified)
  elif rectify:  # the maximum is kept, but nothing after it reads it
    rectified = pieces.rectify(b2, 5.0, degenerated_to_sgd)
    direction = compose(moments, normalized(b1, b2, stored, eps_scaled=True), *maximum, rectified)
  else:
    direction = compose(moments, *maximum, normalized(b1, b2, stored))
  return descend(direction, lr, 0.0 if no_op else weight_decay, mode=decay_mode(weight_decouple, fixed_decay))
