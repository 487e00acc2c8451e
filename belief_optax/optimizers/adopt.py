"""ADOPT: Adam that converges with any b2."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend


def adopt(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.9999,
  eps: optax.ScalarOrSchedule = 1e-6,
  clip_power: optax.ScalarOrSchedule | None = 0.25,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""ADOPT: each gradient is divided by the second moment of the steps before, then averaged.

  .. math::
    u_t = \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \varepsilon)}, \pm (t-1)^p\right), \qquad
    m_t = b_1 m_{t-1} + (1-b_1) u_t, \qquad v_t = b_2 v_{t-1} + (1-b_2) |g_t|^2, \quad v_1 = |g_1|^2, \qquad
    \theta_t = \theta_{t-1} - \alpha_t m_t

  The first step only measures: u_1 = 0. As in its authors' code the limit is that of the finished steps, so that it
  is 1 at the second step. ``clip_power=None`` is the algorithm of the paper's first version: where gradients have
  been 0, the next one is divided by eps. Weight decay acts at the first step too, where the authors' code does not
  decay yet.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: the smallest denominator: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    clip_power: p: a finite number >= 0, a scalar array or a schedule; None for no limit.
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
    >>> bo.adopt(1e-3)
    compose(
      previous_moment(b2=None),
      precondition_clamped(eps=1e-06),
      clip_growing(clip_power=0.25),
      average_direction(b1=0.9, dtype=None),
      seeded_moment(b2=0.9999),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Taniguchi et al., ADOPT (https://arxiv.org/abs/2411.02853), Algorithms 2 and 3.
  """  # own words: eps
  direction = compose(
    pieces.previous_moment(),
    pieces.precondition_clamped(eps),
    *((pieces.after_first(),) if clip_power is None else (pieces.clip_growing(clip_power),)),
    pieces.average_direction(b1),
    pieces.seeded_moment(b2),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
