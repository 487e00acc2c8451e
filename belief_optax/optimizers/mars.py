"""MARS: Adam on gradients of reduced variance."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend, normalized


def mars(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.95,
  b2: optax.ScalarOrSchedule = 0.99,
  eps: optax.ScalarOrSchedule = 1e-8,
  gamma: optax.ScalarOrSchedule = 0.025,
  max_norm: optax.ScalarOrSchedule = 1.0,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""MARS-AdamW, approximate: Adam on gradients whose change is added to them, and whose norm is clipped.

  .. math::
    c_t = g_t + \gamma \frac{b_1}{1-b_1} (g_t - g_{t-1}), \quad c_1 = g_1, \qquad
    \tilde{c}_t = c_t \min(1, c / \|c_t\|), \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}

  with the moments of `adam`, of $\tilde{c}_t$. It is the version that its authors call approximate: the last
  gradient, which the batch before has given, is kept in a slot, where the exact one takes a second gradient of the
  same batch. The norm is that of each array, so it is not elementwise. The authors' code runs plain AdamW on vectors
  and scalars: give these to `adamw` by `by_path`. Its first step takes 0 for the gradient before, here and in timm
  there is none.

  Lion on the same gradients: ``compose(variance_reduction(b1, gamma), clip_array_norm(1.0), first_moment(b1),
  sign())``.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    gamma: the strength of the correction: a finite number >= 0, a scalar array or a schedule.
    max_norm: c: a finite number > 0, a scalar array or a schedule.
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
    >>> bo.mars(1e-3)
    compose(
      variance_reduction(b1=0.95, gamma=0.025),
      clip_array_norm(max_norm=1.0),
      first_moment(b1=0.95, dtype=None),
      second_moment(b2=0.99, initial=0.0),
      bias_correct(b1=0.95, b2=0.99),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Yuan et al., MARS (https://arxiv.org/abs/2411.10438), Algorithm 2.
  """
  direction = compose(
    pieces.variance_reduction(b1, gamma),
    pieces.clip_array_norm(max_norm),
    pieces.first_moment(b1),
    pieces.second_moment(b2),
    normalized(b1, b2, eps),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
