"""RMSProp: the gradient divided by the root of its mean square."""

import optax

from belief_optax import pieces
from belief_optax.core import NONNEGATIVE, Recipe, compose, flag, hyperparameter, when
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode, checked
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
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    decay: decay rate d: a number in [0, 1), a scalar array or a schedule.
    eps: added under the root or to it, as `eps_in_sqrt` says: a number >= 0, a scalar array or a schedule.
    initial_scale: the value of v before the first step (1 in TensorFlow): a finite number >= 0, a scalar array or a
      schedule.
    eps_in_sqrt: whether eps is added under the root (optax, TensorFlow) or to it (torch).
    centered: whether the mean of the gradient is taken out.
    momentum: decay rate d of the momentum buffer: a number in [0, 1], a scalar array or a schedule; None for none.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    bias_correction: whether the moments are corrected for their start at zero.
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
    >>> bo.rmsprop(1e-3, momentum=0.9)
    compose(
      second_moment(b2=0.9, initial=0.0),
      precondition(eps=0.0, eps_root=1e-08),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
    )

  References:
    Tieleman and Hinton, Lecture 6.5 (2012); Graves (https://arxiv.org/abs/1308.0850), eq. 38-45.
  """  # own words: eps
  eps, decay, momentum = checked(eps=eps, decay=decay, momentum=momentum)
  initial_scale = hyperparameter('initial_scale', initial_scale, NONNEGATIVE)
  checked(bias_correction=bias_correction, nesterov=nesterov, eps_in_sqrt=eps_in_sqrt)
  if nesterov and momentum is None:
    raise ValueError('nesterov=True needs momentum, but momentum is None.')
  if flag('centered', centered):
    moment = pieces.centered_moment(decay, initial_scale, debias=bias_correction)
  else:
    moment = pieces.second_moment(decay, initial_scale)
  direction = compose(
    moment,
    *when(bias_correction, pieces.bias_correct(b2=decay)),
    pieces.precondition(0.0, eps) if eps_in_sqrt else pieces.precondition(eps),
  )
  buffer = None if momentum is None else pieces.heavy_ball(momentum, nesterov)
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, buffer, store=store)
