"""What is corrected in young averages: their bias, their look-ahead, their variance."""

from typing import Any

import jax.numpy as jnp

from belief_optax import formulas
from belief_optax.algebra import Leaf, Line, Now, piece
from belief_optax.arguments import DECAY_RATE, THRESHOLD, flag, hyper, is_array, option, optional_hyper


@piece
class bias_correct(Line):
  r"""Divides the estimates by the total weight of the gradients in them.

  .. math:: \hat{m}_t = m_t / (1 - b_1^t), \qquad \hat{s}_t = s_t / (1 - b_2^t)

  Where a rate is a schedule, its power is the product of its values so far.

  Args:
    b1: the rate of the first moment in [0, 1), or None to leave the mean as it is.
    b2: the rate of the second moment in [0, 1), or None to leave it as it is.

  Returns:
    A piece that needs the moments whose rates are given; the corrected mean is the new direction.

  Raises:
    ValueError: if a rate is out of range; at `init` if a moment is missing.
    TypeError: if a rate has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.first_moment(0.5), bo.bias_correct(0.5))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(3., dtype=float32)

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), section 3.
  """

  b1: Any = optional_hyper(None, allowed=DECAY_RATE)
  b2: Any = optional_hyper(None, allowed=DECAY_RATE)

  ages = ('b1', 'b2')

  @property
  def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    return tuple(need for rate, need in ((self.b1, 'mu_hat'), (self.b2, 'nu_hat')) if rate is not None)

  def scalars(self, now: Now) -> Any:
    rates = ((n, getattr(self, n)) for n in self.ages)
    return tuple(None if rate is None else 1 / now.mass(n, rate) for n, rate in rates)

  def step(self, x: Leaf, k: Any) -> Leaf:
    unbias1, unbias2 = k
    x = x if unbias1 is None else x.mean(x.mu_hat * unbias1)  # m^ = m / (1 - b1^t)
    return x if unbias2 is None else x.set(nu_hat=x.nu_hat * unbias2)  # s^ = s / (1 - b2^t)


@piece
class bias_correct_step(Line):
  r"""Corrects the step instead of the moments: the "eps-hat" form, to be placed after `precondition`.

  .. math:: u_t \leftarrow u_t \sqrt{1 - b_2^t} / (1 - b_1^t)

  The step becomes $m \sqrt{1-b_2^t} / ((1-b_1^t)(\sqrt{s} + \varepsilon))$, so that eps counts
  $1/\sqrt{1-b_2^t}$ times as much as with `bias_correct`, while t is small.

  Args:
    b1: the rate of the first moment in [0, 1), or None if the mean is corrected already.
    b2: the rate of the second moment in [0, 1).

  Returns:
    A piece that needs the moments whose rates are given.

  Raises:
    ValueError: if a rate is out of range; at `init` if a moment is missing.
    TypeError: if a rate has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(
    ...     bo.first_moment(0.5), bo.second_moment(0.75), bo.precondition(0.0), bo.bias_correct_step(0.5, 0.75))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0].round(5)
    Array(1., dtype=float32)

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), section 2, last paragraph.
  """

  b1: Any = optional_hyper(None, allowed=DECAY_RATE)
  b2: Any = hyper(0.999, allowed=DECAY_RATE)

  ages = ('b1', 'b2')

  @property
  def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    return ('nu_hat',) if self.b1 is None else ('mu_hat', 'nu_hat')

  def scalars(self, now: Now) -> Any:
    mass1 = 1.0 if self.b1 is None else now.mass('b1', self.b1)
    return mass1, jnp.sqrt(now.mass('b2', self.b2)) / mass1

  def step(self, x: Leaf, k: Any) -> Leaf:
    mass1, ratio = k
    mu_hat = None if x.mu_hat is None else x.mu_hat / mass1  # what a fallback of rectify returns
    return x.set(u=ratio * x.u, mu_hat=mu_hat)  # u <- u sqrt(1 - b2^t) / (1 - b1^t)


@piece
class raw_mean(Line):
  r"""Takes the estimate of the mean back to the carried one, and leaves the direction as it is.

  .. math:: \hat{m}_t \leftarrow m_t

  Between `precondition` and `rectify` it makes the uncorrected mean the step of the first, intractable steps
  (adabelief-pytorch 0.0.5).

  Returns:
    A piece that needs a first moment.

  Raises:
    ValueError: at `init` if the first moment is missing.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> bo.compose(bo.first_moment(0.9), bo.bias_correct(0.9), bo.raw_mean())
    compose(
      first_moment(b1=0.9, dtype=None),
      bias_correct(b1=0.9, b2=None),
      raw_mean(),
    )
  """

  needs = ('mu_hat', 'mu')

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(mu_hat=x.slots['mu'])


@piece
class nesterov(Line):
  r"""Replaces the mean by its look-ahead: one more step of the average, with the same gradient.

  .. math:: \hat{m}_t = \frac{b_{t+1} m_t}{1 - b_1 \cdots b_{t+1}} + \frac{(1 - b_t) g_t}{1 - b_1 \cdots b_t}

  For a constant rate the products are powers. Without bias correction both denominators are 1.

  Args:
    b1: the rate of the first moment in [0, 1): number, scalar array or schedule.
    debias: whether the bias of both terms is corrected.

  Returns:
    A piece that needs a first moment; the look-ahead is the new direction. It takes the place of `bias_correct(b1)`.

  Raises:
    ValueError: if `b1` is out of range; at `init` if the first moment is missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.first_moment(0.5), bo.nesterov(0.5, debias=False))
    >>> tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))[0]
    Array(3., dtype=float32)

  References:
    Dozat, Incorporating Nesterov momentum into Adam (ICLR workshop 2016), Algorithm 2.
  """

  b1: Any = hyper(0.9, allowed=DECAY_RATE)
  debias: bool = option(True, normal=flag)

  needs = ('mu_hat', 'mu')
  ages = ('b1',)

  def scalars(self, now: Now) -> Any:
    ahead, rate = now(self.b1, ahead=1), 1 - now(self.b1)
    if not self.debias:
      return ahead, rate
    return ahead / now.mass('b1', self.b1, ahead=1), rate / now.mass('b1', self.b1)

  def step(self, x: Leaf, k: Any) -> Leaf:
    of_mean, of_gradient = k
    return x.mean(of_mean * x.slots['mu'] + of_gradient * x.g)  # m^ = b m / (1 - b^{t+1}) + (1-b) g / (1 - b^t)


def tractability(now: Now, b2: Any, threshold: Any) -> tuple[Any, Any]:
  """Whether rho_t >= threshold, and r_t: scalars of a line that has `ages = ('b2',)`."""
  x = now.age('b2', b2)
  lam = x / now.t if callable(b2) else formulas.decay_exponent(now(b2))
  rho, threshold = formulas.effective_length(x, lam), now(threshold)
  if is_array(lam) or is_array(threshold):
    adaptive = rho >= threshold
  else:
    first = formulas.first_tractable_step(now(b2), threshold)
    adaptive = jnp.asarray(False) if first is None else now.step >= first
  return adaptive, formulas.rectification(rho, formulas.effective_length_limit(lam), adaptive)


@piece
class rectify(Line):
  r"""Rectifies the variance of the adaptive step while the second moment is young.

  .. math::
    \rho_t = \rho_\infty - \frac{2 t b_2^t}{1 - b_2^t}, \qquad
    u_t \leftarrow \begin{cases} r_t u_t & \rho_t \ge \text{threshold} \\ \hat{m}_t \text{ or } 0 & \text{else}
    \end{cases}, \qquad
    r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}

  For a Python number b2 the first adaptive step is an integer that is found on the host, so the branch is right at
  every step. A scheduled b2 counts as the constant rate with the same product.

  Args:
    b2: the rate of the second moment in [0, 1): number, scalar array or schedule.
    threshold: the smallest rho_t with an adaptive step, >= 4 (5 in the paper's code; 4 in the paper).
    degenerate_to_sgd: before that, take the corrected mean as the step (True) or no step (False).

  Returns:
    A piece that needs both moments, to be placed after `precondition`.

  Raises:
    ValueError: if an argument is out of range; at `init` if a moment is missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.rectify(0.999)
    rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True)

  References:
    Liu et al., On the variance of the adaptive learning rate (https://arxiv.org/abs/1908.03265), Algorithm 2.
  """

  b2: Any = hyper(0.999, allowed=DECAY_RATE)
  threshold: Any = hyper(5.0, allowed=THRESHOLD)
  degenerate_to_sgd: bool = option(True, normal=flag)

  needs = ('mu_hat', 'nu_hat')
  ages = ('b2',)

  def scalars(self, now: Now) -> Any:
    return tractability(now, self.b2, self.threshold)

  def step(self, x: Leaf, k: Any) -> Leaf:
    adaptive, r = k
    fallback = x.mu_hat if self.degenerate_to_sgd else 0
    return x.set(u=jnp.where(adaptive, r * x.u, fallback))
