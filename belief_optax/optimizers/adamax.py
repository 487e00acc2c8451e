"""AdaMax: Adam with the infinity norm."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend


def adamax(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""AdaMax: Adam with a decaying maximum of the gradients in the place of the second moment.

  .. math::
    m_t = b_1 m_{t-1} + (1-b_1) g_t, \qquad n_t = \max(b_2 n_{t-1}, |g_t| + \varepsilon), \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{m_t}{(1-b_1^t) n_t}

  The paper has no eps; torch and optax add it to the size of the gradient.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the maximum: a number in [0, 1), a scalar array or a schedule.
    eps: added to the size of the gradient: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
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
    >>> bo.adamax(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      bias_correct(b1=0.9, b2=None),
      precondition_max(b2=0.999, eps=1e-08),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), Algorithm 2.
  """  # own words: b2, eps
  direction = compose(pieces.first_moment(b1), pieces.bias_correct(b1), pieces.precondition_max(b2, eps))
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
