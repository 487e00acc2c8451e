"""Momentum: a buffer of directions, and looking ahead."""

import functools
from typing import Any, Literal

import jax.numpy as jnp
from jax.typing import DTypeLike
from optax import ScalarOrSchedule

from belief_optax.core import Leaf, Line, Now, Slot, choice, flag, hyper, option, piece, ranges, state_dtype

FirstBuffer = Literal['dampened', 'undampened']


class Nesterov(Line):
  r"""Replaces the mean by its look-ahead: one more step of the average, with the same gradient.

  .. math:: \hat{m}_t = \frac{b_{t+1} m_t}{1 - b_1 \cdots b_{t+1}} + \frac{(1 - b_t) g_t}{1 - b_1 \cdots b_t}

  For a constant rate the products are powers. Without bias correction both denominators are 1.

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
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

  b1: ScalarOrSchedule = hyper(default=0.9, allowed=ranges.DECAY_RATE)
  debias: bool = option(default=True, normal=flag)

  needs = ('mu_hat', 'mu')
  ages = ('b1',)
  ahead = ('b1',)

  def scalars(self, now: Now) -> Any:
    ahead, rate = now(self.b1, ahead=1), 1 - now(self.b1)
    if not self.debias:
      return ahead, rate
    return ahead / now.mass('b1', self.b1, ahead=1), rate / now.mass('b1', self.b1)

  def step(self, x: Leaf, k: Any) -> Leaf:
    of_mean, of_gradient = k
    return x.mean(of_mean * x.slots['mu'] + of_gradient * x.g)  # m^ = b m / (1 - b^{t+1}) + (1-b) g / (1 - b^t)


nesterov = piece(Nesterov)


class HeavyBall(Line):
  r"""Accumulates the direction in a momentum buffer.

  .. math::
    c_t = d c_{t-1} + (1 - \tau) u_t, \qquad
    u_t \leftarrow c_t \text{ or, with Nesterov's momentum, } u_t + d c_t

  Args:
    decay: decay rate d: a number in [0, 1], a scalar array or a schedule.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    dampening: tau: a number in [0, 1], a scalar array or a schedule. If it equals the decay rate, the buffer is an
      exponential average.
    first: what the first buffer is: `'dampened'` for $(1-\tau) u_1$ (a buffer that starts at zero), `'undampened'` for
      $u_1$ (torch).
    dtype: the dtype in which the buffer is kept; None for float32, or wider where the parameter is wider.

  Returns:
    A piece with the slot `momentum`; what it returns is the new direction.

  Raises:
    ValueError: if an argument is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.heavy_ball(0.5)
    >>> state = tx.init(jnp.array(0.0))
    >>> _, state = tx.update(jnp.array(1.0), state)
    >>> tx.update(jnp.array(1.0), state)[0]
    Array(1.5, dtype=float32)

  References:
    Polyak (1964); Sutskever et al., On the importance of initialization and momentum (ICML 2013), eq. 3-4.
  """

  decay: ScalarOrSchedule = hyper(default=0.9, allowed=ranges.MOMENTUM)
  nesterov: bool = option(default=False, normal=flag)
  dampening: ScalarOrSchedule = hyper(default=0.0, allowed=ranges.MOMENTUM)
  first: FirstBuffer = option(default='dampened', normal=functools.partial(choice, allowed=FirstBuffer))
  dtype: DTypeLike | None = option(default=None, normal=state_dtype)

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('momentum', dtype=self.dtype),)

  def scalars(self, now: Now) -> Any:
    gain = 1 - now(self.dampening)
    if self.first == 'undampened':
      gain = jnp.where(now.step == 1, 1.0, gain)
    return now(self.decay), gain

  def step(self, x: Leaf, k: Any) -> Leaf:
    decay, gain = k
    momentum = decay * x.slots['momentum'] + gain * x.u  # c_t = d c_{t-1} + (1-tau) u_t
    return x.keep(momentum=momentum).set(u=x.u + decay * momentum if self.nesterov else 'momentum')


heavy_ball = piece(HeavyBall)
