"""Training without a schedule: gradients at a point between the iterates and their average."""

from typing import Any

import jax
import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax.core import POSITIVE_DECAY_RATE, Leaf, Line, Now, Slot, hyper, hyperparameter, option, piece
from belief_optax.core.arguments import optional_positive_integer
from belief_optax.pieces.average import tree_of_slot


class ScheduleFree(Line):
  r"""Makes the parameters a point between the iterates of the optimizer and their average, so that no rate decays.

  .. math::
    z_t = z_{t-1} + u_t, \qquad x_t = x_{t-1} + c_t (z_t - x_{t-1}), \qquad \theta_t = b_1 x_t + (1 - b_1) z_t

  The parameters $\theta$ are where gradients are taken; the average x, which `schedule_free_params` gives, is what is
  evaluated. It is never kept: with $u_t$ the step of the optimizer the update is

  .. math:: u_t \leftarrow c_t (z_{t-1} - \theta_{t-1}) + (1 - b_1 (1 - c_t)) u_t

  The weight of an iterate in the average is the square of its learning rate, as in the authors' code. For a constant
  rate $c_t = 1/t$. With a linear warmup to it, over `warmup_steps` W, $c_t$ is $6 t / ((t + 1)(2 t + 1))$ up to W, and
  then $1 / (t - W + (W + 1)(2 W + 1) / (6 W))$. That is known without a sum, so there is no further state.

  It stands last, behind the learning rate. What is before it should have no momentum of its own: b1 takes its place.

  Args:
    b1: how near the parameters are to the average: a number in (0, 1), a scalar array or a schedule.
    warmup_steps: W: over how many steps the learning rate rises, as $\alpha t / W$; None for a constant rate.

  Returns:
    A piece with the slot `z`, which begins as a copy of the parameters and is kept in float32 or wider by every store;
    its `update` needs the parameters.

  Raises:
    ValueError: if an argument is out of range; at `update` if the parameters are missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp, optax
    >>> adam_without_mean = bo.rmsprop(0.5, decay=0.999, bias_correction=True)
    >>> tx, params = bo.compose(adam_without_mean, bo.schedule_free(0.9)), jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(100):
    ...   updates, state = tx.update(params, state, params)  # the gradient of half the square
    ...   params = optax.apply_updates(params, updates)
    >>> bool(abs(bo.schedule_free_params(state, params)) < 0.2)
    True

  References:
    Defazio et al., The road less scheduled (https://arxiv.org/abs/2405.15682), Algorithm 1.
  """  # own words: b1

  b1: ScalarOrSchedule = hyper(default=0.9, allowed=POSITIVE_DECAY_RATE)
  warmup_steps: int | None = option(default=None, normal=optional_positive_integer)

  reads_params = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('z', fill='params', exact=True),)

  def scalars(self, now: Now) -> Any:
    t, w = now.t, self.warmup_steps or 1
    rising, risen = 6 / (t + 1) * (t / (2 * t + 1)), 1 / (t - w + (w + 1) * (2 * w + 1) / (6 * w))
    weight = jnp.where(t <= w, rising, risen)
    return weight, 1 - now(self.b1) * (1 - weight)

  def step(self, x: Leaf, k: Any) -> Leaf:
    weight, gain = k
    z = x.slots['z']
    return x.keep(z=z + x.u).set(u=weight * (z - x.p) + gain * x.u)


schedule_free = piece(ScheduleFree)


def schedule_free_params(state: Any, params: Any, b1: float = 0.9) -> Any:
  """Reads the averaged parameters of `schedule_free`, which are those to evaluate.

  Args:
    state: a state of a recipe with `schedule_free`, alone or inside that of `by_path`, `optax.chain`, other wrappers.
    params: the parameters that belong to it.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.

  Returns:
    A tree like the parameters, with their dtypes: x = (theta - (1 - b1) z) / b1.

  Raises:
    ValueError: if the state has no such slot, or `b1` is out of range.
    TypeError: if `b1` is no number.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.compose(bo.sgd(0.1), bo.schedule_free()), jnp.ones(2)
    >>> bo.schedule_free_params(tx.init(params), params)
    Array([1., 1.], dtype=float32)
  """
  b1 = hyperparameter('b1', b1, POSITIVE_DECAY_RATE)
  z = tree_of_slot(state, 'z', 'schedule_free')
  return jax.tree.map(lambda p, z: (p + (1 / b1 - 1) * (p - z)).astype(p.dtype), params, z)
