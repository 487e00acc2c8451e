"""What is remembered of the gradients: averages of them and of their squares."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import Leaf, Line, Now, Slot, flag, hyper, option, optional_hyper, piece, ranges, state_dtype


class FirstMoment(Line):
  r"""Averages the gradient.

  .. math:: m_t = b_1 m_{t-1} + (1 - b_1) g_t

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    dtype: the dtype in which `mu` is kept; None for float32, or wider where the parameter is wider.

  Returns:
    A piece with the slot `mu`; the average is the new direction.

  Raises:
    ValueError: if `b1` is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.first_moment(0.9)
    >>> tx.update(jnp.array(1.0), tx.init(jnp.array(0.0)))[0]
    Array(0.1, dtype=float32)

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), Algorithm 1.
  """

  b1: ScalarOrSchedule = hyper(default=0.9, allowed=ranges.DECAY_RATE)
  dtype: DTypeLike | None = option(default=None, normal=state_dtype)

  gives = ('mu', 'mu_hat')

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('mu', dtype=self.dtype, scale='nu'),)

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b1)

  def step(self, x: Leaf, k: Any) -> Leaf:
    mu = formulas.ema(x.slots['mu'], x.g, k)  # m_t = m_{t-1} + (1-b1)(g_t - m_{t-1})
    return x.keep(mu=mu).mean('mu')


first_moment = piece(FirstMoment)


class SecondMoment(Line):
  r"""Averages the squared magnitude of the gradient.

  .. math:: v_t = b_2 v_{t-1} + (1 - b_2) |g_t|^2

  Args:
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    initial: value of the second moment before the first step: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece with the slot `nu` (real, also for complex parameters). It does not change the direction.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.second_moment(0.75), bo.precondition(0.0))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(2., dtype=float32)

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), Algorithm 1.
  """

  b2: ScalarOrSchedule = hyper(default=0.999, allowed=ranges.DECAY_RATE)
  initial: ScalarOrSchedule = hyper(default=0.0, allowed=ranges.NONNEGATIVE)

  gives = ('nu', 'nu_hat')
  squares = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu', real=True, fill=self.initial),)

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b2)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nu = formulas.ema_square(x.slots['nu'], x.g, k)  # v_t = b2 v_{t-1} + (1-b2)|g_t|^2
    return x.keep(nu=nu).set(nu_hat='nu')


second_moment = piece(SecondMoment)


class Belief(Line):
  r"""Averages the squared distance of the gradient from its expectation.

  .. math:: s_t = b_2 s_{t-1} + (1 - b_2) |g_t - \hat{m}|^2 + \varepsilon_{root}

  where $\hat m$ is the estimate of the mean at this place of the list, so that the order says which residual it is:

  - after `first_moment`: $g_t - m_t$, the paper's;
  - after `first_moment` and `bias_correct(b1)`: $g_t - \hat m_t$, as the annotated implementation suggests. The
    corrected mean of one gradient is that gradient, which is no expectation of it: at t = 1 it is $g_1$ itself;
  - before `first_moment`: $g_t - m_{t-1}$. After it, `b1` gives the same as $(g_t - m_t) / b_1$, which XLA:CPU
    computes without a copy of m.

  Because $\varepsilon_{root}$ is stored at every step, s tends to a floor of $\varepsilon_{root} / (1 - b_2)$.

  Args:
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps_root: added to s at every step: a number >= 0, a scalar array or a schedule.
    b1: decay rate of the mean, to take the residual from the mean before this step: a number in (0, 1), a scalar array
      or a schedule; None for the mean as it stands.

  Returns:
    A piece with the slot `nu` (real, also for complex parameters). It needs a slot `mu` and does not change the
    direction.

  Raises:
    ValueError: if an argument is out of range; at `init` if nothing in the composition averages the gradient.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.compose(bo.first_moment(0.9), bo.belief(0.999))
    compose(
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-16, b1=None),
    )

  References:
    Zhuang et al., AdaBelief (https://arxiv.org/abs/2010.07468), Algorithm 2.
  """  # own words: b1, eps_root

  b2: ScalarOrSchedule = hyper(default=0.999, allowed=ranges.DECAY_RATE)
  eps_root: ScalarOrSchedule = hyper(default=1e-16, allowed=ranges.EPSILON)
  b1: ScalarOrSchedule | None = optional_hyper(default=None, allowed=ranges.POSITIVE_DECAY_RATE)

  needs = ('mu',)
  gives = ('nu', 'nu_hat')
  squares = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu', real=True),)

  def scalars(self, now: Now) -> Any:
    rate = 1 - now(self.b2)
    weight = rate if self.b1 is None else rate / now(self.b1) ** 2
    return rate, weight, now(self.eps_root), jnp.where(now.step > 1, 1.0, 0.0)

  def step(self, x: Leaf, k: Any) -> Leaf:
    rate, weight, eps_root, expected = k
    mean = x.mu_hat if x.follows('mu_hat', 'mu') else expected * x.mu_hat
    nu = formulas.ema_square(x.slots['nu'], x.g - mean, rate, weight, eps_root)  # s_t = b2 s + (1-b2)|g-m|^2 + eps
    return x.keep(nu=nu).set(nu_hat='nu')


belief = piece(Belief)


class CenteredMoment(Line):
  r"""Averages the gradient and its variance around that average.

  .. math:: m_t = d m_{t-1} + (1 - d) g_t, \qquad s_t = d s_{t-1} + d (1 - d) |g_t - m_{t-1}|^2

  which is $E[g^2] - E[g]^2$ of centered RMSProp with both averages at the rate d, without the subtraction that loses
  all digits (and can turn negative) where the mean is large. As $g_t - m_t = d (g_t - m_{t-1})$, it is AdaBelief's s
  at $b_1 = b_2 = d$ divided by d. With ``debias=True`` it is the same of the bias-corrected averages, times the
  $1 - d^t$ that `bias_correct(b2=d)` divides out:

  .. math:: s_t = d s_{t-1} + \frac{(1 - d)(1 - d^t)}{d (1 - d^{t-1})} |g_t - \hat{m}_t|^2, \qquad s_1 = d s_0

  Args:
    decay: decay rate d: a number in [0, 1), a scalar array or a schedule.
    initial: value of the second moment before the first step: a finite number >= 0, a scalar array or a schedule.
    debias: whether the mean is bias-corrected.

  Returns:
    A piece with the slots `mu` and `nu`. It does not change the direction.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.centered_moment(0.5), bo.precondition(0.0))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(2., dtype=float32)

  References:
    Graves (https://arxiv.org/abs/1308.0850), eq. 38-45; West, Updating mean and variance estimates (1979).
  """

  decay: ScalarOrSchedule = hyper(default=0.9, allowed=ranges.DECAY_RATE)
  initial: ScalarOrSchedule = hyper(default=0.0, allowed=ranges.NONNEGATIVE)
  debias: bool = option(default=False, normal=flag)

  gives = ('mu', 'mu_hat', 'nu', 'nu_hat')
  squares = True

  def aged(self) -> tuple[str, ...]:
    return ('decay',) if self.debias else ()

  @property
  def slots(self) -> tuple[Slot, ...]:
    return Slot('mu', scale='nu'), Slot('nu', real=True, fill=self.initial)

  def scalars(self, now: Now) -> Any:
    decay = now(self.decay)
    rate, spread = 1 - decay, formulas.safe_divide(1 - decay, decay)
    if not self.debias:
      return rate, spread, 1.0
    mass, before = now.mass('decay', self.decay), now.mass('decay', self.decay, ahead=-1)
    return rate, spread * formulas.safe_divide(mass, before), 1 / mass

  def step(self, x: Leaf, k: Any) -> Leaf:
    rate, spread, unbias = k
    mu = formulas.ema(x.slots['mu'], x.g, rate)  # m_t = d m_{t-1} + (1-d) g_t
    # s_t = d s_{t-1} + d(1-d) |g_t - m_{t-1}|^2, written with m_t because XLA:CPU would copy the old mean
    nu = formulas.ema_square(x.slots['nu'], x.g - unbias * mu, rate, spread)
    return x.keep(mu=mu, nu=nu).set(mu_hat='mu', nu_hat='nu')


centered_moment = piece(CenteredMoment)


class YogiMoment(Line):
  r"""Moves the second moment towards the squared magnitude of the gradient, by no more than a part of that.

  .. math:: v_t = v_{t-1} + (1 - b_2) \operatorname{sign}(|g_t|^2 - v_{t-1}) |g_t|^2

  A second moment that is much larger than the squares shrinks slowly, so that the step does not grow at once.

  Args:
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    initial: value of the second moment before the first step: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece with the slot `nu` (real, also for complex parameters). It does not change the direction.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.yogi_moment(0.75, initial=10.0), bo.precondition(0.0))
    >>> tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))[0].round(4)  # 2 / sqrt(10 - 4 / 4)
    Array(0.6667, dtype=float32)

  References:
    Zaheer et al., Adaptive methods for nonconvex optimization (NeurIPS 2018), Algorithm 2.
  """

  b2: ScalarOrSchedule = hyper(default=0.999, allowed=ranges.DECAY_RATE)
  initial: ScalarOrSchedule = hyper(default=1e-6, allowed=ranges.NONNEGATIVE)

  gives = ('nu', 'nu_hat')
  squares = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu', real=True, fill=self.initial),)

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b2)

  def step(self, x: Leaf, k: Any) -> Leaf:
    old, squared = x.slots['nu'], formulas.square(x.g)
    nu = old + jnp.sign(squared - old) * formulas.square(x.g, k)  # v_t = v_{t-1} + (1-b2) sign(|g|^2 - v_{t-1}) |g|^2
    return x.keep(nu=nu).set(nu_hat='nu')


yogi_moment = piece(YogiMoment)


class AccumulateSquares(Line):
  r"""Sums the squared magnitudes of all gradients.

  .. math:: v_t = v_{t-1} + |g_t|^2

  Args:
    initial: value of the second moment before the first step: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece with the slot `nu`. It does not change the direction.

  Raises:
    ValueError: if `initial` is out of range.
    TypeError: if `initial` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.accumulate_squares(7.0), bo.precondition(0.0))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(0.75, dtype=float32)

  References:
    Duchi et al., Adaptive subgradient methods (JMLR 12, 2011), section 1.1.
  """

  initial: ScalarOrSchedule = hyper(default=0.0, allowed=ranges.NONNEGATIVE)

  gives = ('nu', 'nu_hat')
  squares = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu', real=True, fill=self.initial),)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nu = formulas.add_square(x.slots['nu'], x.g)  # v_t = v_{t-1} + |g_t|^2
    return x.keep(nu=nu).set(nu_hat='nu')


accumulate_squares = piece(AccumulateSquares)


class RunningMax(Line):
  r"""Replaces the second moment by the largest that has been seen.

  .. math:: \hat{v}_t = \max(\hat{v}_{t-1}, v_t) + \varepsilon_{root}

  Before `bias_correct` it is the maximum of the raw moments (the paper's, torch's), after it of the corrected ones
  (optax's default; the large values of the first steps then stay). After `precondition` nothing reads it.

  Args:
    eps_root: added to the stored maximum at every step, so that it grows without bound (adabelief-pytorch 0.0.5): a
      number >= 0, a scalar array or a schedule.

  Returns:
    A piece with the slot `nu_max`. It needs a second moment.

  Raises:
    ValueError: if `eps_root` is out of range; at `init` if no second moment stands before it.
    TypeError: if `eps_root` has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.compose(bo.second_moment(0.9), bo.running_max())
    compose(
      second_moment(b2=0.9, initial=0.0),
      running_max(eps_root=0.0),
    )

  References:
    Reddi et al., On the convergence of Adam and beyond (https://arxiv.org/abs/1904.09237), Algorithm 2.
  """  # own words: eps_root

  eps_root: ScalarOrSchedule = hyper(default=0.0, allowed=ranges.EPSILON)

  needs = ('nu_hat',)

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu_max', real=True),)

  def scalars(self, now: Now) -> Any:
    return now(self.eps_root)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nu_max = jnp.maximum(x.slots['nu_max'] + k, x.nu_hat + k)  # v^_t = max(v^_{t-1}, v_t) + eps
    return x.keep(nu_max=nu_max).set(nu_hat='nu_max')


running_max = piece(RunningMax)
