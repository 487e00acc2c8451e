"""How AdaBelief's numbers compare with Adam's: the floor of its denominator, and the learning rate of equal steps."""

from typing import Any

from belief_optax.core import DECAY_RATE, EPSILON, NONNEGATIVE, POSITIVE_DECAY_RATE, Range, hyperparameter


def _number(name: str, value: Any, allowed: Range) -> Any:
  if callable(value):
    raise TypeError(f'{name} must be a number or a scalar array, got the schedule {value!r}.')
  return hyperparameter(name, value, allowed)


def floor_of(eps: Any, b2: Any = 0.999) -> Any:
  r"""The least value of AdaBelief's corrected second moment, under the root.

  .. math:: \hat s_t \ge \varepsilon / (1 - b_2)

  Eps is stored at every step, so s has at least $\varepsilon (1 + b_2 + \dots + b_2^{t-1}) = \varepsilon (1 - b_2^t) /
  (1 - b_2)$, and bias correction takes the mass away: the floor is the same at every step. The denominator is at
  least its root: 3.2e-3 for eps = 1e-8, close to SGD, and 3.2e-7 for eps = 1e-16.

  Args:
    eps: what is stored in s at every step (`eps_root` here, `eps` in most packages), >= 0.
    b2: the decay rate of s in [0, 1).

  Returns:
    The floor, a number, or an array where an argument is one.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> f'{bo.floor_of(1e-8):.1e} {bo.floor_of(1e-16):.1e}'
    '1.0e-05 1.0e-13'
  """
  return _number('eps', eps, EPSILON) / (1 - _number('b2', b2, DECAY_RATE))


def eps_for_floor(floor: Any, b2: Any = 0.999) -> Any:
  r"""The eps that gives AdaBelief a floor: the inverse of `floor_of`.

  .. math:: \varepsilon = (1 - b_2) \, \text{floor}

  Adam's denominator $\sqrt{\hat v} + \varepsilon$ is at least eps; AdaBelief's is at least the root of its floor. So
  what corresponds to Adam's eps is ``eps_for_floor(eps**2, b2)``.

  Args:
    floor: the least value of the corrected second moment, >= 0.
    b2: the decay rate of s in [0, 1).

  Returns:
    The eps, a number, or an array where an argument is one.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> f'{bo.eps_for_floor(1e-8 ** 2):.1e}'  # as Adam with eps = 1e-8
    '1.0e-19'
  """
  return _number('floor', floor, NONNEGATIVE) * (1 - _number('b2', b2, DECAY_RATE))


def matched_learning_rate(lr: Any, b1: Any = 0.9) -> Any:
  r"""The learning rate with which AdaBelief takes the steps that Adam takes with `lr`, where the gradient is noise.

  .. math:: \alpha_{AdaBelief} = \alpha_{Adam} \frac{b_1}{\sqrt{(1 + b_1) / 2}}

  Of independent noise of variance $\sigma^2$ the mean has the variance $\sigma^2 (1-b_1)/(1+b_1)$, and the residual
  $g_t - m_t = b_1 (g_t - m_{t-1})$ the variance $2 b_1^2 \sigma^2 / (1+b_1)$ where Adam divides by $\sigma^2$:
  AdaBelief's steps are $\sqrt{(1+b_1)/2} / b_1$ times as long, 1.083 at b1 = 0.9 and 1.732 at b1 = 0.5.

  Args:
    lr: Adam's learning rate >= 0, a number or a scalar array.
    b1: the decay rate of the mean in (0, 1).

  Returns:
    The learning rate, a number, or an array where an argument is one.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> round(bo.matched_learning_rate(1e-3, 0.5), 6)
    0.000577
  """
  b1 = _number('b1', b1, POSITIVE_DECAY_RATE)
  return _number('lr', lr, NONNEGATIVE) * b1 * (2 / (1 + b1)) ** 0.5
