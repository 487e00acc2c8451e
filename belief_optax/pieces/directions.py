"""Averages of the direction instead of the gradient, and means that leave the direction as it is."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import (
  DECAY_RATE,
  EPSILON,
  NONNEGATIVE,
  Leaf,
  Line,
  Now,
  Slot,
  hyper,
  option,
  optional_positive_integer,
  piece,
  state_dtype,
)


class AverageDirection(Line):
  r"""Averages the direction, where `first_moment` averages the gradient.

  .. math:: m_t = b_1 m_{t-1} + (1 - b_1) u_t, \qquad u_t \leftarrow m_t

  Behind `precondition` it is a mean of normalized gradients: each is divided by the root of its own step, so that b1 is
  free of b2 (LaProp). Before everything it is `first_moment`.

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    dtype: the dtype in which `mu` is kept; None for float32, or wider where the parameter is wider.

  Returns:
    A piece with the slot `mu`; the average is the new direction, and what `bias_correct(b1)` corrects.

  Raises:
    ValueError: if `b1` is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.scale(2.0), bo.average_direction(0.75))
    >>> tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))[0]
    Array(2., dtype=float32)

  References:
    Ziyin et al., LaProp (https://arxiv.org/abs/2002.04839), Algorithm 1.
  """

  b1: ScalarOrSchedule = hyper(default=0.9, allowed=DECAY_RATE)
  dtype: DTypeLike | None = option(default=None, normal=state_dtype)

  gives = ('mu', 'mu_hat')

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('mu', dtype=self.dtype),)  # no scale: a direction is not as large as the root of the second moment

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b1)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.keep(mu=formulas.ema(x.slots['mu'], x.u, k)).mean('mu')  # m_t = m_{t-1} + (1-b1)(u_t - m_{t-1})


average_direction = piece(AverageDirection)


class TrackMean(Line):
  r"""Averages the gradient and leaves the direction as it is.

  .. math:: m_t = b_1 m_{t-1} + (1 - b_1) g_t

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.

  Returns:
    A piece with the slot `mu`, from which `belief` takes its residual.

  Raises:
    ValueError: if `b1` is out of range.
    TypeError: if `b1` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.track_mean(0.75)
    >>> u, state = tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))
    >>> print(u, state.slots['mu'])
    4.0 1.0

  References:
    Zhuang et al., Momentum centering and asynchronous update (https://arxiv.org/abs/2110.05454), Algorithm 2.
  """

  b1: ScalarOrSchedule = hyper(default=0.9, allowed=DECAY_RATE)

  gives = ('mu', 'mu_hat')

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('mu', scale='nu'),)

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b1)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.keep(mu=formulas.ema(x.slots['mu'], x.g, k)).set(mu_hat='mu')  # m_t = m_{t-1} + (1-b1)(g_t - m_{t-1})


track_mean = piece(TrackMean)


class DirectionMoment(Line):
  r"""Averages the squared magnitude of the direction, with a floor that is stored at every step.

  .. math:: v_t = b_2 v_{t-1} + (1 - b_2) |u_t|^2 + \varepsilon_{root}

  The order says what is squared: before `first_moment` it is the gradient (EAdam), after it the mean (AdaMomentum).
  Because $\varepsilon_{root}$ is stored at every step, v tends to a floor of $\varepsilon_{root} / (1 - b_2)$.

  Args:
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps_root: added to v at every step: a number >= 0, a scalar array or a schedule.

  Returns:
    A piece with the slot `nu` (real, also for complex parameters). It does not change the direction.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.direction_moment(0.75, 1.75), bo.precondition(0.0))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(1.5, dtype=float32)

  References:
    Yuan and Gao, EAdam (https://arxiv.org/abs/2011.02150), Algorithm 1; Wang et al., Rethinking Adam
    (https://arxiv.org/abs/2106.11514), Algorithm 1.
  """  # own words: eps_root

  b2: ScalarOrSchedule = hyper(default=0.999, allowed=DECAY_RATE)
  eps_root: ScalarOrSchedule = hyper(default=1e-16, allowed=EPSILON)

  gives = ('nu', 'nu_hat')
  squares = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu', real=True),)

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b2), now(self.eps_root)

  def step(self, x: Leaf, k: Any) -> Leaf:
    rate, eps_root = k
    nu = formulas.ema_square(x.slots['nu'], x.u, rate, floor=eps_root)  # v_t = b2 v_{t-1} + (1-b2)|u_t|^2 + eps
    return x.keep(nu=nu).set(nu_hat='nu')


direction_moment = piece(DirectionMoment)


class InterpolatedMean(Line):
  r"""Averages the gradient at one rate, and takes a step of another average as the direction.

  .. math:: c_t = b_1 m_{t-1} + (1 - b_1) g_t, \qquad m_t = b_2 m_{t-1} + (1 - b_2) g_t, \qquad u_t \leftarrow c_t

  With b1 < b2 the gradient of this step counts more in the direction than it will count in the mean.

  Args:
    b1: decay rate of the direction: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the mean that is kept: a number in [0, 1), a scalar array or a schedule.
    dtype: the dtype in which `mu` is kept; None for float32, or wider where the parameter is wider.

  Returns:
    A piece with the slot `mu`.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.interpolated_mean(0.5, 0.75)
    >>> u, state = tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))
    >>> print(u, state.slots['mu'])
    2.0 1.0

  References:
    Chen et al., Symbolic discovery of optimization algorithms (https://arxiv.org/abs/2302.06675), Program 1.
  """  # own words: b1, b2

  b1: ScalarOrSchedule = hyper(default=0.9, allowed=DECAY_RATE)
  b2: ScalarOrSchedule = hyper(default=0.99, allowed=DECAY_RATE)
  dtype: DTypeLike | None = option(default=None, normal=state_dtype)

  gives = ('mu', 'mu_hat')

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('mu', dtype=self.dtype, scale='nu'),)

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b1), 1 - now(self.b2)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nearer, rate = k
    old = x.slots['mu']
    return x.keep(mu=formulas.ema(old, x.g, rate)).mean(formulas.ema(old, x.g, nearer))


interpolated_mean = piece(InterpolatedMean)


class SlowMean(Line):
  r"""Adds a second, slower average of the gradient to the direction.

  .. math:: m_t = b_{3,t} m_{t-1} + (1 - b_{3,t}) g_t, \qquad u_t \leftarrow u_t + \alpha_t m_t

  With `warmup_steps` T, alpha rises linearly, and the half-life of the average too, from that of b1 to that of b3:

  .. math::
    \alpha_t = \alpha \min(t / T, 1), \qquad
    \frac{1}{\log b_{3,t}} = \frac{1 - s}{\log b_1} + \frac{s}{\log b_3}, \qquad s = \min(t / T, 1)

  The average begins at 0 and its bias is not corrected: that would give the first gradients a weight of alpha.

  Args:
    b3: decay rate of the slow mean: a number in [0, 1), a scalar array or a schedule.
    alpha: the weight of the slow mean: a finite number >= 0, a scalar array or a schedule.
    warmup_steps: T: the number of steps until alpha and b3 are reached; None for none.
    b1: the rate where the warmup of b3 begins: a number in [0, 1), a scalar array or a schedule.

  Returns:
    A piece with the slot `mu_slow`; its place is behind the bias correction of the fast mean, before `precondition`.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.slow_mean(0.75, alpha=8.0)
    >>> tx.update(jnp.array(1.0), tx.init(jnp.array(0.0)))[0]
    Array(3., dtype=float32)

  References:
    Pagliardini et al., AdEMAMix (https://arxiv.org/abs/2409.03137), Algorithm 1 and appendix A.1.
  """  # own words: b1

  b3: ScalarOrSchedule = hyper(default=0.9999, allowed=DECAY_RATE)
  alpha: ScalarOrSchedule = hyper(default=5.0, allowed=NONNEGATIVE)
  warmup_steps: int | None = option(default=None, normal=optional_positive_integer)
  b1: ScalarOrSchedule = hyper(default=0.9, allowed=DECAY_RATE)

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('mu_slow'),)

  def scalars(self, now: Now) -> Any:
    if self.warmup_steps is None:
      return 1 - now(self.b3), now(self.alpha)
    risen = jnp.minimum(now.t / self.warmup_steps, 1.0)
    fast, slow = (1 / formulas.decay_exponent(now(b)) for b in (self.b1, self.b3))
    return formulas.bias_mass(1 / (fast + risen * (slow - fast))), risen * now(self.alpha)  # 1 - b of -log b

  def step(self, x: Leaf, k: Any) -> Leaf:
    rate, alpha = k
    slow = formulas.ema(x.slots['mu_slow'], x.g, rate)  # m_t = m_{t-1} + (1-b3)(g_t - m_{t-1})
    return x.keep(mu_slow=slow).set(u=x.u + alpha * slow)


slow_mean = piece(SlowMean)
