"""Stochastic gradient descent, with or without momentum."""

from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import MOMENTUM, Recipe, choice, compose, flag, hyperparameter, is_array, is_zero, state_dtype
from belief_optax.optimizers.descend import descend

FIRST_BUFFERS = ('dampened', 'undampened')


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: optax.ScalarOrSchedule | None = None,
  nesterov: bool = False,
  accumulator_dtype: DTypeLike | None = None,
  *,
  dampening: optax.ScalarOrSchedule = 0.0,
  first_buffer: str = 'dampened',
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
    learning_rate: alpha >= 0: number, scalar array or schedule.
    momentum: d in [0, 1], or None for none.
    nesterov: whether the momentum looks ahead; only with `momentum`.
    accumulator_dtype: the dtype in which the buffer is kept, by name or dtype; None for float32, or wider where the
      parameter is.
    dampening: tau in [0, 1]; dampening = momentum makes the buffer an exponential average; only with `momentum`.
    first_buffer: `'dampened'` for $c_1 = (1-\tau) g_1$, `'undampened'` for $c_1 = g_1$ (torch).
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
    >>> bo.sgd(1e-3, momentum=0.9)
    compose(
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Sutskever et al., On the importance of initialization and momentum (ICML 2013), eq. 1-4.
  """
  choice('first_buffer', first_buffer, FIRST_BUFFERS)
  accumulator_dtype = state_dtype('accumulator_dtype', accumulator_dtype)
  if momentum is None:  # optax.inject_hyperparams makes an array of an unused dampening of 0
    if flag('nesterov', nesterov) or not (is_zero(dampening) or is_array(dampening)) or accumulator_dtype is not None:
      raise ValueError(f'{nesterov=}, {dampening=} and {accumulator_dtype=} need momentum, but momentum is None.')
    direction = compose()
  else:
    decay = hyperparameter('momentum', momentum, MOMENTUM)
    direction = pieces.heavy_ball(decay, nesterov, dampening, first_buffer, accumulator_dtype)
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
