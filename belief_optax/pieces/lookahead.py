"""What goes around a whole optimizer: slow weights."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax.core import FRACTION, Leaf, Line, Now, Slot, hyper, option, piece, positive_integer


class Lookahead(Line):
  r"""Every k steps, moves slow weights towards the parameters and puts the parameters there.

  .. math:: \phi_t = \phi_{t-1} + \alpha (\theta_{t-1} + u_t - \phi_{t-1}), \quad u_t \leftarrow \phi_t - \theta_{t-1}
    \qquad \text{if } k \mid t

  Args:
    k: the number of steps between two synchronizations, >= 1.
    alpha: how far the slow weights move: a number in [0, 1], a scalar array or a schedule.

  Returns:
    A piece with the slot `slow`, which begins as a copy of the parameters. It is the last line of an optimizer; its
    `update` needs the parameters.

  Raises:
    ValueError: if an argument is out of range; at `update` if the parameters are missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, p = bo.compose(bo.sgd(1.0), bo.lookahead(1, 0.25)), jnp.array(8.0)
    >>> tx.update(jnp.array(4.0), tx.init(p), p)[0]
    Array(-1., dtype=float32)

  References:
    Zhang et al., Lookahead optimizer (https://arxiv.org/abs/1907.08610), Algorithm 1.
  """

  k: int = option(default=6, normal=positive_integer)
  alpha: ScalarOrSchedule = hyper(default=0.5, allowed=FRACTION)

  reads_params = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('slow', fill='params', exact=True),)

  def scalars(self, now: Now) -> Any:
    return now.step % self.k == 0, now(self.alpha)

  def step(self, x: Leaf, k: Any) -> Leaf:
    synchronize, alpha = k
    old = x.slots['slow']
    slow = jnp.where(synchronize, old + alpha * ((x.p - old) + x.u), old)
    return x.keep(slow=slow).set(u=jnp.where(synchronize, slow - x.p, x.u))


lookahead = piece(Lookahead)
