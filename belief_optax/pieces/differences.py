"""What the change of the gradient since the step before says."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import DECAY_RATE, NONNEGATIVE, Leaf, Line, Now, Slot, hyper, piece


def change(x: Leaf, known: Any) -> Any:
  """d_t = g_t - g_{t-1}, and 0 at the first step; a NaN of the gradient stays visible."""
  return x.g - jnp.where(known, x.slots['last'], x.g)


class GradientChange(Line):
  r"""Adds the averaged change of the gradient to the direction, and the change itself to the gradient.

  .. math::
    d_t = g_t - g_{t-1}, \quad d_1 = 0, \qquad
    v_t = b v_{t-1} + (1 - b) d_t, \qquad
    u_t \leftarrow u_t + b \frac{v_t}{1 - b^t}, \qquad
    g_t \leftarrow g_t + b d_t

  It stands behind the mean and before the second moment, which so sees the gradient as Nesterov's momentum would.

  Args:
    decay: decay rate b of the change: a number in [0, 1), a scalar array or a schedule.

  Returns:
    A piece with the slots `last` (the gradient of the step before) and `mu_change`.

  Raises:
    ValueError: if `decay` is out of range.
    TypeError: if `decay` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.gradient_change(0.5)
    >>> state = tx.init(jnp.array(0.0))
    >>> for g in (1.0, 4.0):
    ...   u, state = tx.update(jnp.array(g), state)
    >>> u  # 4 + 0.5 (0.5 * 3) / 0.75
    Array(5., dtype=float32)

  References:
    Xie et al., Adan (https://arxiv.org/abs/2208.06677), Algorithm 1, with the coefficients of the authors' code.
  """  # own words: decay

  decay: ScalarOrSchedule = hyper(default=0.92, allowed=DECAY_RATE)

  ages = ('decay',)

  @property
  def slots(self) -> tuple[Slot, ...]:
    return Slot('mu_change'), Slot('last')

  def scalars(self, now: Now) -> Any:
    decay = now(self.decay)
    return now.step > 1, decay, 1 - decay, decay / now.mass('decay', self.decay)

  def step(self, x: Leaf, k: Any) -> Leaf:
    known, decay, rate, weight = k
    d = change(x, known)
    mean = formulas.ema(x.slots['mu_change'], d, rate)  # v_t = v_{t-1} + (1-b)(d_t - v_{t-1})
    return x.keep(mu_change=mean, last=x.g).set(u=x.u + weight * mean, g=x.g + decay * d)


gradient_change = piece(GradientChange)


class VarianceReduction(Line):
  r"""Corrects the gradient by its change, as variance reduction does.

  .. math:: c_t = g_t + \gamma \frac{b_1}{1 - b_1} (g_t - g_{t-1}), \qquad c_1 = g_1

  The exact method takes the gradient of the SAME batch at the last parameters, which costs a second backward pass. This
  is its authors' approximate version: the last gradient, of the last batch, is kept in a slot.

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    gamma: the strength of the correction: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece with the slot `last`, to be placed first: the moments see the corrected gradient.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.variance_reduction(b1=0.75, gamma=0.5)
    >>> _, state = tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))
    >>> tx.update(jnp.array(4.0), state)[0]  # 4 + 0.5 * 3 * 2
    Array(7., dtype=float32)

  References:
    Yuan et al., MARS (https://arxiv.org/abs/2411.10438), Algorithm 1, MARS-approx.
  """

  b1: ScalarOrSchedule = hyper(default=0.95, allowed=DECAY_RATE)
  gamma: ScalarOrSchedule = hyper(default=0.025, allowed=NONNEGATIVE)

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('last'),)

  def scalars(self, now: Now) -> Any:
    b1 = now(self.b1)
    return now.step > 1, now(self.gamma) * b1 / (1 - b1)

  def step(self, x: Leaf, k: Any) -> Leaf:
    known, weight = k
    return x.keep(last=x.g).redirect(x.u + weight * change(x, known))  # c = g + gamma b1 / (1 - b1) (g - g_{t-1})


variance_reduction = piece(VarianceReduction)
