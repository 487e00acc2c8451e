"""RAdam: Adam with a rectified start."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose, flag, when
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend, normalized


def radam(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  eps_root: optax.ScalarOrSchedule = 0.0,
  threshold: optax.ScalarOrSchedule = 5.0,
  *,
  nesterov: bool = False,
  degenerate_to_sgd: bool = False,
  eps_scaled: bool = False,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Rectified Adam.

  .. math::
    u_t = r_t \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}
    \text{, or } 0 \text{ while } \rho_t < \text{threshold}, \qquad
    \theta_t = \theta_{t-1} - \alpha_t u_t

  with the moments of `adam` and the rectifier of `rectify`. The branch is right at every step and for every b2.

  With ``degenerate_to_sgd=True`` the steps before that are the plain mean, as in `optax.radam` and torch; their length
  is that of the gradient, so they depend on the scale of the loss (docs/first_steps.md). ``eps_scaled=True`` is
  torch's form. At b2 <= 2/3 no step can be rectified: only the mean is left.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    threshold: smallest rho_t with an adaptive step (5 in the paper's code, 4 in the paper): a finite number >= 4, a
      scalar array or a schedule.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    degenerate_to_sgd: whether the steps before rectification is possible are the mean (True), whose length is that of
      the gradient, or none (False).
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
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
    ValueError: if a number is out of range or an option unknown, or nothing would ever move: no step can be rectified
      at b2 <= 2/3 with the default threshold.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.radam(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=False),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Liu et al., On the variance of the adaptive learning rate (https://arxiv.org/abs/1908.03265), Algorithm 2.
  """
  direction = compose(
    pieces.first_moment(b1),
    pieces.second_moment(b2),
    *when(flag('nesterov', nesterov), pieces.nesterov(b1)),
    normalized(None if nesterov else b1, b2, eps, eps_root, eps_scaled=eps_scaled),
    pieces.rectify(b2, threshold, degenerate_to_sgd),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
