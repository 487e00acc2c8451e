"""What turns estimates into a step."""

from typing import Any

from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import EPSILON, FINITE, NONNEGATIVE, Leaf, Line, Now, flag, hyper, option, piece


class Precondition(Line):
  r"""Divides the direction by the root of the second moment.

  .. math:: u_t \leftarrow u_t / (\sqrt{\hat{s}_t + \varepsilon_{root}} + \varepsilon)

  An element whose denominator is 0 has no scale and does not move; the derivative of the root at 0 is taken as 0. A
  denominator below 2.8e-17 (2^-55; 2^-503 in float64) counts as that: squares of such gradients are flushed to 0, where
  a smaller eps would be a step of any length.

  Args:
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.

  Returns:
    A piece that needs a second moment.

  Raises:
    ValueError: if an argument is out of range; at `init` if the second moment is missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.second_moment(0.75), bo.precondition(0.5))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(1.5, dtype=float32)

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), Algorithm 1.
  """

  eps: ScalarOrSchedule = hyper(default=1e-8, allowed=EPSILON)
  eps_root: ScalarOrSchedule = hyper(default=0.0, allowed=EPSILON)

  needs = ('nu_hat',)

  def scalars(self, now: Now) -> Any:
    return now(self.eps), now(self.eps_root)

  def step(self, x: Leaf, k: Any) -> Leaf:
    eps, eps_root = k
    root = formulas.safe_sqrt(x.nu_hat + eps_root)
    return x.set(u=formulas.safe_divide(x.u, root + eps, formulas.smallest_root(root)))


precondition = piece(Precondition)


class AddEpsRoot(Line):
  r"""Adds to the second moment without storing it.

  .. math:: \hat{s}_t \leftarrow \hat{s}_t + \varepsilon_{root}

  Before `bias_correct` it is corrected too: while t is small it weighs $1/(1-b_2^t)$ times as much as the `eps_root` of
  `precondition`, and $1/(1-b_2)$ times as little later as that of `belief`, which is stored at every step.

  Args:
    eps_root: added to the second moment: a number >= 0, a scalar array or a schedule.

  Returns:
    A piece that needs a second moment.

  Raises:
    ValueError: if `eps_root` is out of range; at `init` if the second moment is missing.
    TypeError: if `eps_root` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.second_moment(0.75), bo.add_eps_root(1.75), bo.precondition(0.0))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(1.5, dtype=float32)
  """  # own words: eps_root

  eps_root: ScalarOrSchedule = hyper(default=1e-16, allowed=EPSILON)

  needs = ('nu_hat',)

  def scalars(self, now: Now) -> Any:
    return now(self.eps_root)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(nu_hat=x.nu_hat + k)


add_eps_root = piece(AddEpsRoot)


class Scale(Line):
  r"""Multiplies the direction: $u_t \leftarrow c u_t$.

  Args:
    factor: c: a finite number, a scalar array or a schedule.

  Returns:
    A piece. Before the moments it scales the gradient (`scale(-1.0)` there maximizes).

  Raises:
    ValueError: if `factor` is not finite.
    TypeError: if `factor` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.scale(-2.0)
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(-6., dtype=float32)
  """

  factor: ScalarOrSchedule = hyper(allowed=FINITE)

  @property
  def sign(self) -> int:
    return -1 if isinstance(self.factor, float) and self.factor < 0 else 1

  def scalars(self, now: Now) -> Any:
    return now(self.factor)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.redirect(k * x.u)  # u <- c u


scale = piece(Scale)


class ScaleByLearningRate(Line):
  r"""Multiplies the direction by the learning rate and, as parameters descend, by -1.

  .. math:: u_t \leftarrow -\alpha_t u_t

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    flip_sign: whether to multiply by -1.

  Returns:
    A piece.

  Raises:
    ValueError: if `learning_rate` is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.scale_by_learning_rate(0.5)
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(-1.5, dtype=float32)
  """

  learning_rate: ScalarOrSchedule = hyper(allowed=NONNEGATIVE, constant=False)
  flip_sign: bool = option(default=True, normal=flag)

  @property
  def sign(self) -> int:
    return -1 if self.flip_sign else 1

  def scalars(self, now: Now) -> Any:
    rate = now(self.learning_rate)
    return -rate if self.flip_sign else rate

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.redirect(k * x.u)  # u <- -alpha u


scale_by_learning_rate = piece(ScaleByLearningRate)
