"""Stochastic gradient descent, with or without momentum."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, choice, compose, is_array, is_zero, state_dtype
from belief_optax.core.vocabulary import DTypeLike, Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend
from belief_optax.pieces.momentum import FirstBuffer


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: optax.ScalarOrSchedule | None = None,
  nesterov: bool = False,
  accumulator_dtype: DTypeLike | None = None,
  *,
  dampening: optax.ScalarOrSchedule = 0.0,
  first_buffer: FirstBuffer = 'dampened',
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Stochastic gradient descent with heavy-ball or Nesterov momentum.

  .. math::
    c_t = d c_{t-1} + (1-\tau) g_t, \qquad
    \theta_t = \theta_{t-1} - \alpha_t c_t \text{ or, with Nesterov's momentum, } \theta_{t-1} - \alpha_t (g_t + d c_t)

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    momentum: decay rate d of the momentum buffer: a number in [0, 1], a scalar array or a schedule; None for none.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    accumulator_dtype: the dtype in which the buffer is kept, by name or dtype; None for float32, or wider where the
      parameter is.
    dampening: tau: a number in [0, 1], a scalar array or a schedule. If it equals the decay rate, the buffer is an
      exponential average.
    first_buffer: `'dampened'` for $c_1 = (1-\tau) g_1$, `'undampened'` for $c_1 = g_1$ (torch).
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
    >>> bo.sgd(1e-3, momentum=0.9)
    compose(
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Sutskever et al., On the importance of initialization and momentum (ICML 2013), eq. 1-4.
  """
  choice('first_buffer', first_buffer, FirstBuffer)
  momentum, nesterov = checked(momentum=momentum, nesterov=nesterov)
  accumulator_dtype = state_dtype('accumulator_dtype', accumulator_dtype)
  if momentum is None:  # optax.inject_hyperparams makes an array of an unused dampening of 0
    if nesterov or not (is_zero(dampening) or is_array(dampening)) or accumulator_dtype is not None:
      raise ValueError(f'{nesterov=}, {dampening=} and {accumulator_dtype=} need momentum, but momentum is None.')
    direction = compose()
  else:
    direction = pieces.heavy_ball(momentum, nesterov, dampening, first_buffer, accumulator_dtype)
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
