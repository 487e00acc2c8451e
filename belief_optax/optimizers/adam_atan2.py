"""Adam-atan2: Adam without eps."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend


def adam_atan2(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  a: optax.ScalarOrSchedule = 1.27,
  b: optax.ScalarOrSchedule = 1.0,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Adam-atan2: Adam with an angle in the place of the division, which needs no eps.

  .. math::
    \theta_t = \theta_{t-1} - \alpha_t a \operatorname{atan2}\left(\hat m_t, b \sqrt{\hat v_t}\right)

  with the moments of `adam`. The step is free of the scale of the loss, however small that is, and never longer than
  $a \pi / 2$ learning rates. At the default a, near $4 / \pi$, the first step is as long as Adam's.

  AdaBelief in the same way: ``compose(first_moment(b1), belief(b2), bias_correct(b1, b2), precondition_atan2())``.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    a: scale of the step: a finite number > 0, a scalar array or a schedule.
    b: scale of the root: a finite number > 0, a scalar array or a schedule.
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
    >>> bo.adam_atan2(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition_atan2(a=1.27, b=1.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Everett et al., Scaling exponents across parameterizations and optimizers (https://arxiv.org/abs/2407.05872),
    section 4.4.
  """
  direction = compose(
    pieces.first_moment(b1), pieces.second_moment(b2), pieces.bias_correct(b1, b2), pieces.precondition_atan2(a, b)
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
