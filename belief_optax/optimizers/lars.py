"""LARS: SGD with a trust ratio."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose, is_zero, normal_mask, when
from belief_optax.core.vocabulary import Mask, StoreLike, checked


def lars(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  trust_coefficient: optax.ScalarOrSchedule = 0.001,
  eps: optax.ScalarOrSchedule = 0.0,
  trust_ratio_mask: Mask | None = None,
  momentum: optax.ScalarOrSchedule | None = 0.9,
  nesterov: bool = False,
  *,
  store: StoreLike = 'float32',
) -> Recipe:
  r"""LARS: SGD with a step that is as long as a part of the parameters of each array.

  .. math::
    u_t = g_t + w \theta_{t-1}, \qquad
    c_t = d c_{t-1} - \alpha_t \tau \frac{\|\theta_{t-1}\|}{\|u_t\| + \varepsilon} u_t, \qquad
    \theta_t = \theta_{t-1} + c_t

  with the norms of whole arrays, as in optax; $\tau$ is `trust_coefficient`. The momentum acts on what the learning
  rate has scaled. It is not elementwise.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    weight_decay_mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    trust_coefficient: tau: a finite number > 0, a scalar array or a schedule.
    eps: added to the norm of the direction: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    trust_ratio_mask: which arrays are scaled: a tree of bools, a prefix of one, or a callable `params -> mask`; None
      for all.
    momentum: decay rate d of the momentum buffer: a number in [0, 1], a scalar array or a schedule; None for none.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.lars(1.0)
    compose(
      trust_ratio(trust_coefficient=0.001, eps=0.0, mask=None),
      scale_by_learning_rate(learning_rate=1.0, flip_sign=True),
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
    )

  References:
    You et al., Large batch training of convolutional networks (https://arxiv.org/abs/1708.03888), Algorithm 1.
  """  # own words: eps
  (weight_decay_mask,) = checked(weight_decay_mask=weight_decay_mask)
  momentum, nesterov = checked(momentum=momentum, nesterov=nesterov)
  if momentum is None and nesterov:
    raise ValueError(f'{nesterov=} needs momentum, but momentum is None.')
  return compose(
    *when(not is_zero(weight_decay), pieces.add_decayed_weights(weight_decay, weight_decay_mask)),
    pieces.trust_ratio(trust_coefficient, eps, normal_mask('trust_ratio_mask', trust_ratio_mask)),
    pieces.scale_by_learning_rate(learning_rate),
    *(() if momentum is None else (pieces.heavy_ball(momentum, nesterov),)),
    store=store,
  )
