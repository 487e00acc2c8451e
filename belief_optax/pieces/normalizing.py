"""Other ways to take the scale out of a direction: its sign, an angle, another power, another norm."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import DECAY_RATE, EPSILON, POSITIVE, Leaf, Line, Now, Range, Slot, hyper, piece

PARTIAL = Range('a number in (0, 0.5]', lambda v: 0 < v <= 0.5)


class Sign(Line):
  r"""Takes the sign of the direction.

  .. math:: u_t \leftarrow \operatorname{sign}(u_t)

  The sign of a complex number is its phase $u / |u|$. It has no derivative by the gradient.

  Returns:
    A piece.

  Raises:
    TypeError: if it is called with an argument.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, g = bo.sign(), jnp.array([3.0, 0.0, -0.5])
    >>> print(tx.update(g, tx.init(g))[0])
    [ 1.  0. -1.]

  References:
    Bernstein et al., signSGD (https://arxiv.org/abs/1802.04434), Algorithm 1.
  """

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(u=jnp.sign(x.u))


sign = piece(Sign)


class PreconditionAtan2(Line):
  r"""Takes the angle between the direction and the root of the second moment, which needs no eps.

  .. math:: u_t \leftarrow a \operatorname{atan2}(u_t, b \sqrt{\hat{v}_t})

  Where the direction is small beside the root it is $a u_t / (b \sqrt{\hat{v}_t})$; it is never longer than
  $a \pi / 2$. Of a complex number it is the angle of its size, in its phase. As with `precondition`, an element whose
  root is 0 does not move, and a root below 2.8e-17 counts as that.

  Args:
    a: scale of the step: a finite number > 0, a scalar array or a schedule.
    b: scale of the root: a finite number > 0, a scalar array or a schedule.

  Returns:
    A piece that needs a second moment.

  Raises:
    ValueError: if an argument is out of range; at `init` if the second moment is missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.seeded_moment(0.5), bo.precondition_atan2(a=1.0))
    >>> tx.update(jnp.array(-3.0), tx.init(jnp.array(0.0)))[0].round(4)  # - pi / 4
    Array(-0.7854, dtype=float32)

  References:
    Everett et al., Scaling exponents across parameterizations and optimizers (https://arxiv.org/abs/2407.05872),
    section 4.4.
  """

  a: ScalarOrSchedule = hyper(default=1.27, allowed=POSITIVE)
  b: ScalarOrSchedule = hyper(default=1.0, allowed=POSITIVE)

  needs = ('nu_hat',)

  def scalars(self, now: Now) -> Any:
    return now(self.a), now(self.b)

  def step(self, x: Leaf, k: Any) -> Leaf:
    a, b = k
    size, root = jnp.abs(x.u), b * formulas.safe_sqrt(x.nu_hat)
    known = root > 0
    at_least = jnp.where(known, jnp.maximum(root, formulas.smallest_root(root)), 1)
    angle = jnp.where(known, jnp.arctan2(size, at_least), size * root)  # a NaN stays visible
    return x.set(u=a * jnp.sign(x.u) * angle)


precondition_atan2 = piece(PreconditionAtan2)


class PreconditionPartial(Line):
  r"""Divides the direction by a power of the second moment.

  .. math:: u_t \leftarrow u_t / (\sqrt{\hat{v}_t} + \varepsilon)^{2 p}

  At p = 1/2 it is `precondition`, towards p = 0 the step becomes that of SGD.

  Args:
    partial: p: a number in (0, 0.5], a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.

  Returns:
    A piece that needs a second moment.

  Raises:
    ValueError: if an argument is out of range; at `init` if the second moment is missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.seeded_moment(0.5), bo.precondition_partial(0.25, eps=0.0))
    >>> tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))[0]
    Array(2., dtype=float32)

  References:
    Chen et al., Padam (https://arxiv.org/abs/1806.06763), Algorithm 1.
  """

  partial: ScalarOrSchedule = hyper(default=0.25, allowed=PARTIAL)
  eps: ScalarOrSchedule = hyper(default=1e-8, allowed=EPSILON)

  needs = ('nu_hat',)

  def scalars(self, now: Now) -> Any:
    return now(self.eps), 2 * now(self.partial)

  def step(self, x: Leaf, k: Any) -> Leaf:
    eps, power = k
    root = formulas.safe_sqrt(x.nu_hat) + eps
    size = jnp.where(root == 0, 1, jnp.maximum(root, formulas.smallest_root(root))) ** power
    return x.set(u=formulas.safe_divide(x.u, jnp.where(root == 0, 0, size)))


precondition_partial = piece(PreconditionPartial)


class PreconditionClamped(Line):
  r"""Divides the direction by the root of the second moment, which counts as eps or more.

  .. math:: u_t \leftarrow u_t / \max(\sqrt{\hat{v}_t}, \varepsilon)

  Args:
    eps: the smallest denominator: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.

  Returns:
    A piece that needs a second moment.

  Raises:
    ValueError: if `eps` is out of range; at `init` if the second moment is missing.
    TypeError: if `eps` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.seeded_moment(0.5), bo.precondition_clamped(4.0))
    >>> print(tx.update(jnp.array([2.0, 8.0]), tx.init(jnp.zeros(2)))[0])
    [0.5 1. ]

  References:
    Taniguchi et al., ADOPT (https://arxiv.org/abs/2411.02853), Algorithm 2.
  """  # own words: eps

  eps: ScalarOrSchedule = hyper(default=1e-6, allowed=EPSILON)

  needs = ('nu_hat',)

  def scalars(self, now: Now) -> Any:
    return now(self.eps)

  def step(self, x: Leaf, k: Any) -> Leaf:
    root = jnp.maximum(formulas.safe_sqrt(x.nu_hat), k)
    return x.set(u=formulas.safe_divide(x.u, root, formulas.smallest_root(root)))


precondition_clamped = piece(PreconditionClamped)


class PreconditionMax(Line):
  r"""Divides the direction by the decaying maximum of the gradients: the second moment in the infinity norm.

  .. math:: n_t = \max(b_2 n_{t-1}, |g_t| + \varepsilon), \qquad u_t \leftarrow u_t / n_t

  As with `precondition`, an element whose maximum is 0 does not move, and one below 2.8e-17 counts as that.

  Args:
    b2: decay rate of the maximum: a number in [0, 1), a scalar array or a schedule.
    eps: added to the size of the gradient: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.

  Returns:
    A piece with the slot `nu_inf` (real, also for complex parameters).

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.precondition_max(0.5, eps=0.0)
    >>> _, state = tx.update(jnp.array(8.0), tx.init(jnp.array(0.0)))
    >>> tx.update(jnp.array(2.0), state)[0]
    Array(0.5, dtype=float32)

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), Algorithm 2, with torch's eps.
  """  # own words: b2, eps

  b2: ScalarOrSchedule = hyper(default=0.999, allowed=DECAY_RATE)
  eps: ScalarOrSchedule = hyper(default=1e-8, allowed=EPSILON)

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu_inf', real=True),)  # not `nu`: its root is nobody's scale

  def scalars(self, now: Now) -> Any:
    return 1 - now(self.b2), now(self.eps)

  def step(self, x: Leaf, k: Any) -> Leaf:
    rate, eps = k
    faded = formulas.ema(x.slots['nu_inf'], 0.0, rate)
    norm = jnp.maximum(faded, jnp.abs(x.g) + eps)  # n_t = max(b2 n_{t-1}, |g_t| + eps)
    return x.keep(nu_inf=norm).set(u=formulas.safe_divide(x.u, norm, formulas.smallest_root(norm)))


precondition_max = piece(PreconditionMax)
