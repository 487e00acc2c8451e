"""Adan: Nesterov momentum from the change of the gradient."""

import optax

from belief_optax import pieces
from belief_optax.core import DECAY_RATE, Recipe, compose, hyperparameter
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend


def adan(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.98,
  b2: optax.ScalarOrSchedule = 0.92,
  b3: optax.ScalarOrSchedule = 0.99,
  eps: optax.ScalarOrSchedule = 1e-8,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Adan: adaptive Nesterov momentum, from the change of the gradient.

  .. math::
    d_t &= g_t - g_{t-1}, \quad d_1 = 0 \\
    m_t &= b_1 m_{t-1} + (1-b_1) g_t, \quad v_t = b_2 v_{t-1} + (1-b_2) d_t, \quad
    n_t = b_3 n_{t-1} + (1-b_3) |g_t + b_2 d_t|^2 \\
    \theta_t &= \theta_{t-1} - \alpha_t
      \frac{m_t / (1-b_1^t) + b_2 v_t / (1-b_2^t)}{\sqrt{n_t / (1-b_3^t)} + \varepsilon}

  The coefficients are those of its authors' code, whose b is 1 minus that of the paper. `optax.adan` has $1 - b_2$
  where that code has $b_2$, before $d_t$ and before $v_t$. The decay of the authors' code is `'proximal'`, and
  with ``no_prox=True`` it is `'decoupled'`.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the mean change: a number in [0, 1), a scalar array or a schedule.
    b3: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
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
    >>> bo.adan(1e-3)
    compose(
      first_moment(b1=0.98, dtype=None),
      bias_correct(b1=0.98, b2=None),
      gradient_change(decay=0.92),
      second_moment(b2=0.99, initial=0.0),
      bias_correct(b1=None, b2=0.99),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Xie et al., Adan (https://arxiv.org/abs/2208.06677), Algorithm 1.
  """  # own words: b2
  b1, b2 = checked(b1=b1, b2=b2)
  b3 = hyperparameter('b3', b3, DECAY_RATE)
  direction = compose(
    pieces.first_moment(b1),
    pieces.bias_correct(b1),
    pieces.gradient_change(b2),
    pieces.second_moment(b3),
    pieces.bias_correct(b2=b3),
    pieces.precondition(eps),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
