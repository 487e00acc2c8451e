"""Padam: partially adaptive, between SGD and AMSGrad."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose, when
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend


def padam(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  partial: optax.ScalarOrSchedule = 0.25,
  *,
  amsgrad: bool = True,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Padam: AMSGrad with a smaller power of the second moment.

  .. math::
    \hat v_t = \max(\hat v_{t-1}, v_t), \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{\sqrt{1-b_2^t}}{1-b_1^t} \frac{m_t}{(\sqrt{\hat v_t} + \varepsilon)^{2p}}

  with the raw moments of `adam`. The factor of bias correction is that of its authors' code, which is Adam's,
  whatever the power. A step is as long as $g^{1-2p}$, so learning rates are between those of Adam and SGD, and depend
  on the scale of the loss.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    partial: p, 1/2 for AMSGrad: a number in (0, 0.5], a scalar array or a schedule.
    amsgrad: whether the second moment is replaced by its largest value so far, as in the paper.
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    weight_decay_mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.padam(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      running_max(eps_root=0.0),
      precondition_partial(partial=0.25, eps=1e-08),
      bias_correct_step(b1=0.9, b2=0.999),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Chen et al., Padam (https://arxiv.org/abs/1806.06763), Algorithm 1.
  """  # own words: amsgrad
  checked(amsgrad=amsgrad)
  direction = compose(
    pieces.first_moment(b1),
    pieces.second_moment(b2),
    *when(amsgrad, pieces.running_max()),
    pieces.precondition_partial(partial, eps),
    pieces.bias_correct_step(b1, b2),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
