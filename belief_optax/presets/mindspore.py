"""The Adam that a well-known MindSpore tutorial means to write."""

import optax

from belief_optax.core import DECAY_RATE, EPSILON, NONNEGATIVE, Recipe
from belief_optax.optimizers.descend import descend
from belief_optax.presets.dialect import adam_direction, numbers


def adam(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  beta1: optax.ScalarOrSchedule = 0.9,
  beta2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
) -> Recipe:
  r"""Adam as the tutorial should have written it.

  .. math:: m_t = m_{t-1} + (1-b_1)(g_t - m_{t-1}), \qquad
    \theta_t = \theta_{t-1} - \alpha_t \hat m_t / (\sqrt{\hat v_t} + \varepsilon)

  The tutorial writes $m \leftarrow (1-b_1)(m - g)$ and $\theta \leftarrow \alpha m / (\sqrt{v} + \varepsilon)$: the
  gradient has the wrong sign, the mean remembers almost nothing, and the parameter is replaced by the step.

  Args:
    learning_rate: >= 0: number, scalar array or schedule.
    beta1: the decay rate of the mean.
    beta2: the decay rate of the second moment.
    eps: added to the root, >= 0.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> from belief_optax import presets
    >>> presets.mindspore.adam() == bo.adam(1e-3)
    True
  """
  (learning_rate,) = numbers(NONNEGATIVE, learning_rate=learning_rate)
  b1, b2 = numbers(DECAY_RATE, beta1=beta1, beta2=beta2)
  (eps,) = numbers(EPSILON, eps=eps)
  return descend(adam_direction(b1, b2, eps), learning_rate)
