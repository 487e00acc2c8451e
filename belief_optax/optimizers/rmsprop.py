"""RMSProp: the gradient divided by the root of its mean square."""

from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import DECAY_RATE, EPSILON, MOMENTUM, NONNEGATIVE, Recipe, compose, flag, hyperparameter, when
from belief_optax.optimizers.descend import descend


def rmsprop(
  learning_rate: optax.ScalarOrSchedule,
  decay: optax.ScalarOrSchedule = 0.9,
  eps: optax.ScalarOrSchedule = 1e-8,
  initial_scale: optax.ScalarOrSchedule = 0.0,
  eps_in_sqrt: bool = True,
  centered: bool = False,
  momentum: optax.ScalarOrSchedule | None = None,
  nesterov: bool = False,
  bias_correction: bool = False,
  *,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""RMSProp, plain or centered, with or without momentum.

  .. math::
    v_t = d v_{t-1} + (1-d) |g_t|^2, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{g_t}{\sqrt{v_t + \varepsilon}}
    \text{ (or } \sqrt{v_t} + \varepsilon \text{)}

  Centered, v is the variance $E[g^2] - E[g]^2$, which is computed without the subtraction (`centered_moment`). The
  momentum acts on what the learning rate has scaled, as in optax and TensorFlow; decoupled decay does not enter it.

  Args:
    learning_rate: alpha >= 0: number, scalar array or schedule.
    decay: d in [0, 1): number, scalar array or schedule.
    eps: added under the root or to it, >= 0.
    initial_scale: the value of v before the first step, >= 0 (1 in TensorFlow).
    eps_in_sqrt: whether eps is added under the root (optax, TensorFlow) or to it (torch).
    centered: whether the mean of the gradient is taken out.
    momentum: decay of the momentum buffer in [0, 1], or None for no momentum.
    nesterov: whether the momentum looks ahead; only with `momentum`.
    bias_correction: whether the moments are corrected.
    weight_decay: w >= 0: number, scalar array or schedule; 0 for none.
    weight_decay_mask: which parameters decay: a tree of bools, a prefix of one, or a callable of params; None for all.
    weight_decay_mode: `'decoupled'` (learning rate times w), `'l2'` (into the gradient, before the moments), `'fixed'`
      (w alone) or `'independent'` (w times the learning rate relative to its first value).
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`,
      `'int4'`, a `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.rmsprop(1e-3, momentum=0.9)
    compose(
      second_moment(b2=0.9, initial=0.0),
      precondition(eps=0.0, eps_root=1e-08),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
    )

  References:
    Tieleman and Hinton, Lecture 6.5 (2012); Graves (https://arxiv.org/abs/1308.0850), eq. 38-45.
  """
  eps = hyperparameter('eps', eps, EPSILON)
  decay = hyperparameter('decay', decay, DECAY_RATE)
  initial_scale = hyperparameter('initial_scale', initial_scale, NONNEGATIVE)
  bias_correction = flag('bias_correction', bias_correction)
  if flag('nesterov', nesterov) and momentum is None:
    raise ValueError('nesterov=True needs momentum, but momentum is None.')
  if flag('centered', centered):
    moment = pieces.centered_moment(decay, initial_scale, debias=bias_correction)
  else:
    moment = pieces.second_moment(decay, initial_scale)
  direction = compose(
    moment,
    *when(bias_correction, pieces.bias_correct(b2=decay)),
    pieces.precondition(0.0, eps) if flag('eps_in_sqrt', eps_in_sqrt) else pieces.precondition(eps),
  )
  buffer = None
  if momentum is not None:
    buffer = pieces.heavy_ball(hyperparameter('momentum', momentum, MOMENTUM), nesterov)
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, buffer, store=store)
