"""LAMB: Adam with a trust ratio."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose, is_zero, when
from belief_optax.core.vocabulary import Mask, StoreLike, checked
from belief_optax.optimizers.descend import normalized


def lamb(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-6,
  eps_root: optax.ScalarOrSchedule = 0.0,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  mask: Mask | None = None,
  *,
  store: StoreLike = 'float32',
) -> Recipe:
  r"""LAMB: Adam with a step that is as long as the parameters of each array.

  .. math::
    u_t = \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + w \theta_{t-1}, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{\|\theta_{t-1}\|}{\|u_t\|} u_t

  with the moments of `adam` and the norms of whole arrays, as in optax; arrays that are 0, or do not move, have the
  ratio 1. It is not elementwise. Any direction takes a trust ratio: with `belief` in the place of `second_moment` it
  is an AdaBelief for large batches.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.lamb(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-06, eps_root=0.0),
      trust_ratio(trust_coefficient=1.0, eps=0.0, mask=None),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    You et al., Large batch optimization for deep learning (https://arxiv.org/abs/1904.00962), Algorithm 2.
  """
  (mask,) = checked(mask=mask)
  return compose(
    pieces.first_moment(b1),
    pieces.second_moment(b2),
    normalized(b1, b2, eps, eps_root),
    *when(not is_zero(weight_decay), pieces.add_decayed_weights(weight_decay, mask)),
    pieces.trust_ratio(),
    pieces.scale_by_learning_rate(learning_rate),
    store=store,
  )
