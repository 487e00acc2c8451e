"""LaProp: momentum of normalized gradients."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend


def laprop(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-15,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""LaProp: Adam with the lines in another order, so that the momentum is that of normalized gradients.

  .. math::
    v_t = b_2 v_{t-1} + (1-b_2) |g_t|^2, \qquad
    m_t = b_1 m_{t-1} + (1-b_1) \frac{g_t}{\sqrt{v_t / (1-b_2^t)} + \varepsilon}, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{m_t}{1-b_1^t}

  A gradient is divided by the root of its own step, so b1 may be larger than b2. The learning rate stands outside of
  the momentum, as in the paper. Its authors' code has it inside, which is the same while the rate is constant.

  AdaBelief in the same way keeps a mean of the gradient besides: ``compose(track_mean(b1), belief(b2),
  bias_correct(b2=b2), precondition(eps), heavy_ball(b1, dampening=b1))``.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
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
    >>> bo.laprop(1e-3)
    compose(
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=None, b2=0.999),
      precondition(eps=1e-15, eps_root=0.0),
      average_direction(b1=0.9, dtype=None),
      bias_correct(b1=0.9, b2=None),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Ziyin et al., LaProp (https://arxiv.org/abs/2002.04839), Algorithm 1.
  """
  direction = compose(
    pieces.second_moment(b2),
    pieces.bias_correct(b2=b2),
    pieces.precondition(eps),
    pieces.average_direction(b1),
    pieces.bias_correct(b1),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
