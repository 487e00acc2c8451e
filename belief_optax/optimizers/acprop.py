"""ACProp: AdaBelief with the second moment of the steps before."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend


def acprop(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-16,
  eps_root: optax.ScalarOrSchedule = 1e-16,
  *,
  degenerate_to_sgd: bool = False,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""ACProp: each gradient is divided by the root of the belief of the steps before.

  .. math::
    m_t = b_1 m_{t-1} + (1-b_1) g_t, \qquad
    s_t = b_2 s_{t-1} + (1-b_2) |g_t - m_t|^2 + \varepsilon_{root}, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{g_t}{\sqrt{s_{t-1} / (1-b_2^{t-1})} + \varepsilon}

  A step has no bound: where gradients have been 0 or all alike, the next one is divided by the floor alone, which a
  larger eps or eps_root raises. At t = 1 there is no scale, and so no step: with ``degenerate_to_sgd=True`` it is the
  gradient, as in the authors' code. `optax.contrib.acprop` differs: its residual is that of the mean before the step,
  $(g_t - m_t) / b_1$, its numerator is the mean, and its first step is the uncorrected mean.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added to s at every step: a number >= 0, a scalar array or a schedule.
    degenerate_to_sgd: whether the first step is the gradient (True), whose length is that of the gradient, or none
      (False).
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
    >>> bo.acprop(1e-3)
    compose(
      previous_moment(b2=0.999),
      precondition(eps=1e-16, eps_root=0.0),
      after_first(degenerate_to_sgd=False),
      track_mean(b1=0.9),
      belief(b2=0.999, eps_root=1e-16, b1=None),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Zhuang et al., Momentum centering and asynchronous update (https://arxiv.org/abs/2110.05454), Algorithm 2.
  """  # own words: eps_root, degenerate_to_sgd
  direction = compose(
    pieces.previous_moment(b2),
    pieces.precondition(eps),
    pieces.after_first(degenerate_to_sgd),
    pieces.track_mean(b1),
    pieces.belief(b2, eps_root),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
