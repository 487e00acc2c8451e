"""Lion: the sign of a momentum."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import DTypeLike, Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend


def lion(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.99,
  mu_dtype: DTypeLike | None = None,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Lion: a step of the same size in each element.

  .. math::
    c_t = b_1 m_{t-1} + (1-b_1) g_t, \qquad m_t = b_2 m_{t-1} + (1-b_2) g_t, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \operatorname{sign}(c_t)

  It keeps one slot. Its steps are longer than Adam's: a learning rate that is 3 to 10 times smaller, and a weight decay
  that is as much larger, are usual. `optax.lion` decays by 1e-3 by default, as here only if `weight_decay` says so.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the direction: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the mean that is kept: a number in [0, 1), a scalar array or a schedule.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
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
    >>> bo.lion(1e-3)
    compose(
      interpolated_mean(b1=0.9, b2=0.99, dtype=None),
      sign(),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Chen et al., Symbolic discovery of optimization algorithms (https://arxiv.org/abs/2302.06675), Program 1.
  """  # own words: b1, b2
  direction = compose(pieces.interpolated_mean(b1, b2, *checked(mu_dtype=mu_dtype)), pieces.sign())
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
