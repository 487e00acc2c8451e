"""What is corrected in young averages: their bias, their look-ahead, their variance."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax.core import DECAY_RATE, Leaf, Line, Now, hyper, optional_hyper, piece


class BiasCorrect(Line):
  r"""Divides the estimates by the total weight of the gradients in them.

  .. math:: \hat{m}_t = m_t / (1 - b_1^t), \qquad \hat{s}_t = s_t / (1 - b_2^t)

  Where a rate is a schedule, its power is the product of its values so far.

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule; None to leave the mean as it is.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule; None to leave it as it is.

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
  """  # own words: b1, b2

  b1: ScalarOrSchedule | None = optional_hyper(default=None, allowed=DECAY_RATE)
  b2: ScalarOrSchedule | None = optional_hyper(default=None, allowed=DECAY_RATE)

  ages = ('b1', 'b2')

  def requires(self) -> tuple[str, ...]:
    return tuple(need for rate, need in ((self.b1, 'mu_hat'), (self.b2, 'nu_hat')) if rate is not None)

  def scalars(self, now: Now) -> Any:
    rates = ((n, getattr(self, n)) for n in self.ages)
    return tuple(None if rate is None else 1 / now.mass(n, rate) for n, rate in rates)

  def step(self, x: Leaf, k: Any) -> Leaf:
    unbias1, unbias2 = k
    x = x if unbias1 is None else x.mean(x.mu_hat * unbias1)  # m^ = m / (1 - b1^t)
    return x if unbias2 is None else x.set(nu_hat=x.nu_hat * unbias2)  # s^ = s / (1 - b2^t)


bias_correct = piece(BiasCorrect)


class BiasCorrectStep(Line):
  r"""Corrects the step instead of the moments: the "eps-hat" form, to be placed after `precondition`.

  .. math:: u_t \leftarrow u_t \sqrt{1 - b_2^t} / (1 - b_1^t)

  The step becomes $m \sqrt{1-b_2^t} / ((1-b_1^t)(\sqrt{s} + \varepsilon))$, so that eps counts
  $1/\sqrt{1-b_2^t}$ times as much as with `bias_correct`, while t is small.

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule; None if the mean is corrected already.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.

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
  """  # own words: b1

  b1: ScalarOrSchedule | None = optional_hyper(default=None, allowed=DECAY_RATE)
  b2: ScalarOrSchedule = hyper(default=0.999, allowed=DECAY_RATE)

  ages = ('b1', 'b2')

  def requires(self) -> tuple[str, ...]:
    return ('nu_hat',) if self.b1 is None else ('mu_hat', 'nu_hat')

  def scalars(self, now: Now) -> Any:
    mass1 = 1.0 if self.b1 is None else now.mass('b1', self.b1)
    return mass1, jnp.sqrt(now.mass('b2', self.b2)) / mass1

  def step(self, x: Leaf, k: Any) -> Leaf:
    mass1, ratio = k
    mu_hat = None if x.mu_hat is None else x.mu_hat / mass1  # what a fallback of rectify returns
    return x.set(u=ratio * x.u, mu_hat=mu_hat)  # u <- u sqrt(1 - b2^t) / (1 - b1^t)


bias_correct_step = piece(BiasCorrectStep)


class RawMean(Line):
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
    return x.set(mu_hat='mu')


raw_mean = piece(RawMean)
