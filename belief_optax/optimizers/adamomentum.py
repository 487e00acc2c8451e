"""AdaMomentum: Adam with the square of its mean."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend, normalized


def adamomentum(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 0.0,
  eps_root: optax.ScalarOrSchedule = 1e-16,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""AdaMomentum: Adam with the second moment of its mean in the place of that of the gradient.

  .. math::
    v_t = b_2 v_{t-1} + (1-b_2) |m_t|^2 + \varepsilon_{root}, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{m_t / (1-b_1^t)}{\sqrt{v_t / (1-b_2^t)} + \varepsilon}

  with the mean of `adam`. The mean is smaller than the gradient where that is noisy, so steps are longer than Adam's
  there. `eadam` is the list in another order. (The mean is `average_direction`, which of the gradient is the
  same as `first_moment`: the root of its own square is no scale to keep it by, as `'int8'` would.)

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added to v at every step: a number >= 0, a scalar array or a schedule.
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
    >>> bo.adamomentum(1e-3)
    compose(
      average_direction(b1=0.9, dtype=None),
      direction_moment(b2=0.999, eps_root=1e-16),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=0.0, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Wang et al., Rethinking Adam: a twofold exponential moving average approach (https://arxiv.org/abs/2106.11514),
    Algorithm 1.
  """  # own words: eps_root
  direction = compose(pieces.average_direction(b1), pieces.direction_moment(b2, eps_root), normalized(b1, b2, eps))
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
