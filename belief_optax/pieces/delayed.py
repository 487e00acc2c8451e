"""Asynchronous steps: the second moment of the steps before, which does not know the gradient that it divides."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import DECAY_RATE, NONNEGATIVE, Leaf, Line, Now, Slot, flag, hyper, option, optional_hyper, piece


class PreviousMoment(Line):
  r"""Takes the second moment as it was before this step.

  .. math:: \hat{v}_t = v_{t-1} \text{ or, with } b_2, \; v_{t-1} / (1 - b_2^{t-1})

  It stands before the line that keeps `nu`, and what divides between the two. At t = 1 it is 0: `after_first` says what
  that step is.

  Args:
    b2: decay rate of the second moment, to correct its bias: a number in [0, 1), a scalar array or a schedule; None to
      leave it as it is.

  Returns:
    A piece that needs a slot `nu`, anywhere in the composition. It does not change the direction.

  Raises:
    ValueError: if `b2` is out of range; at `init` if nothing in the composition keeps a second moment.
    TypeError: if `b2` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.previous_moment(), bo.precondition(1.0), bo.second_moment(0.75))
    >>> state = tx.init(jnp.array(0.0))
    >>> for g in (2.0, 4.0):
    ...   u, state = tx.update(jnp.array(g), state)
    >>> u  # 4 / (sqrt(0.25 * 4) + 1)
    Array(2., dtype=float32)

  References:
    Zhou et al., AdaShift (https://arxiv.org/abs/1810.00143), section 4.
  """  # own words: b2

  b2: ScalarOrSchedule | None = optional_hyper(default=None, allowed=DECAY_RATE)

  needs = ('nu',)
  gives = ('nu_hat',)
  ages = ('b2',)

  def scalars(self, now: Now) -> Any:
    if self.b2 is None:
      return None
    known = now.step > 1
    mass = now.mass('b2', self.b2, ahead=-1)
    return jnp.where(known, 1 / jnp.where(known, mass, 1.0), 0.0)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nu = x.slots['nu']
    return x.set(nu_hat=nu if k is None else nu * k)  # the array: by its name it would follow the new one


previous_moment = piece(PreviousMoment)


class AfterFirst(Line):
  r"""Takes no step, or that of the gradient, while there is no second moment of a step before.

  .. math:: u_t \leftarrow \begin{cases} u_t & t > 1 \\ 0 \text{ or } g_t & t = 1 \end{cases}

  Args:
    degenerate_to_sgd: whether the first step is the gradient (True), whose length is that of the gradient, or none
      (False).

  Returns:
    A piece, to be placed behind what divides by `previous_moment`.

  Raises:
    TypeError: if `degenerate_to_sgd` is no bool.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.after_first()
    >>> tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))[0]
    Array(0., dtype=float32)
  """  # own words: degenerate_to_sgd

  degenerate_to_sgd: bool = option(default=False, normal=flag)

  def scalars(self, now: Now) -> Any:
    return now.step > 1

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(u=jnp.where(k, x.u, x.g if self.degenerate_to_sgd else 0 * x.g))  # a NaN stays visible


after_first = piece(AfterFirst)


class SeededMoment(Line):
  r"""Averages the squared magnitude of the gradient, beginning with that of the first.

  .. math:: v_1 = |g_1|^2, \qquad v_t = b_2 v_{t-1} + (1 - b_2) |g_t|^2

  So no bias has to be corrected.

  Args:
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.

  Returns:
    A piece with the slot `nu` (real, also for complex parameters). It does not change the direction.

  Raises:
    ValueError: if `b2` is out of range.
    TypeError: if `b2` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.seeded_moment(0.75), bo.precondition(0.0))
    >>> tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))[0]
    Array(1., dtype=float32)

  References:
    Taniguchi et al., ADOPT (https://arxiv.org/abs/2411.02853), Algorithm 2.
  """

  b2: ScalarOrSchedule = hyper(default=0.9999, allowed=DECAY_RATE)

  gives = ('nu', 'nu_hat')
  squares = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('nu', real=True),)

  def scalars(self, now: Now) -> Any:
    return jnp.where(now.step > 1, 1 - now(self.b2), 1.0)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nu = formulas.ema_square(x.slots['nu'], x.g, k)  # v_t = b2 v_{t-1} + (1-b2)|g_t|^2
    return x.keep(nu=nu).set(nu_hat='nu')


seeded_moment = piece(SeededMoment)


class ClipGrowing(Line):
  r"""Bounds each element of the direction by a limit that grows with the steps.

  .. math:: u_t \leftarrow \operatorname{clip}(u_t, -c_t, c_t), \qquad c_t = (t - 1)^{p}

  At t = 1 it leaves nothing. The size of a complex number is bounded, not its parts.

  Args:
    clip_power: p: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece.

  Raises:
    ValueError: if `clip_power` is out of range.
    TypeError: if `clip_power` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.clip_growing()
    >>> _, state = tx.update(jnp.array(8.0), tx.init(jnp.array(0.0)))
    >>> tx.update(jnp.array(-8.0), state)[0]
    Array(-1., dtype=float32)

  References:
    Taniguchi et al., ADOPT (https://arxiv.org/abs/2411.02853), Algorithm 3.
  """

  clip_power: ScalarOrSchedule = hyper(default=0.25, allowed=NONNEGATIVE)

  caps = True

  def scalars(self, now: Now) -> Any:
    finished = now.t - 1
    return jnp.where(finished > 0, jnp.where(finished > 0, finished, 1.0) ** now(self.clip_power), 0.0)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(u=formulas.shortened(x.u, k))


clip_growing = piece(ClipGrowing)
