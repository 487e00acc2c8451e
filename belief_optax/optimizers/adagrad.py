"""Adagrad: the gradient divided by the root of the sum of all squares."""

import optax

from belief_optax import pieces
from belief_optax.core import NONNEGATIVE, Recipe, compose, flag, hyperparameter
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend


def adagrad(
  learning_rate: optax.ScalarOrSchedule,
  initial_accumulator_value: optax.ScalarOrSchedule = 0.1,
  eps: optax.ScalarOrSchedule = 1e-7,
  *,
  eps_in_sqrt: bool = True,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Adagrad.

  .. math::
    v_t = v_{t-1} + |g_t|^2, \qquad \theta_t = \theta_{t-1} - \alpha_t \frac{g_t}{\sqrt{v_t + \varepsilon}}

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    initial_accumulator_value: the value of v before the first step (0 in torch): a finite number >= 0, a scalar array
      or a schedule.
    eps: added under the root or to it, as `eps_in_sqrt` says: a number >= 0, a scalar array or a schedule.
    eps_in_sqrt: whether eps is added under the root (optax, TensorFlow) or to it (torch).
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
    >>> bo.adagrad(1e-3)
    compose(
      accumulate_squares(initial=0.1),
      precondition(eps=0.0, eps_root=1e-07),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Duchi et al., Adaptive subgradient methods (JMLR 12, 2011), section 1.1.
  """  # own words: eps
  (eps,) = checked(eps=eps)
  initial = hyperparameter('initial_accumulator_value', initial_accumulator_value, NONNEGATIVE)
  direction = compose(
    pieces.accumulate_squares(initial),
    pieces.precondition(0.0, eps) if flag('eps_in_sqrt', eps_in_sqrt) else pieces.precondition(eps),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
