"""Averages of the parameters themselves, for evaluation."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import DECAY_RATE, Leaf, Line, Now, Slot, State, dtypes, flag, hyper, option, piece


class AverageParams(Line):
  r"""Averages the parameters as they are after each step, and leaves the direction as it is.

  .. math:: \bar\theta_t = \bar\theta_{t-1} + w_t (\theta_t - \bar\theta_{t-1}), \qquad
    w_t = \frac{1 - d_t}{1 - d_1 \cdots d_t} \text{ or, without debias, } 1 - d_t

  With `debias` it is the exponential average of $\theta_1 \ldots \theta_t$ alone. Without it, it begins at the
  parameters that `init` gets, so that these count $d^t$. It is kept in float32 or wider by every store, and the
  parameters that it sees are rounded as `optax.apply_updates` rounds them.

  Put it last, behind `round_updates` and `lazy_rows` too: the update that leaves it must be the one that is applied.
  What is no parameter, such as BatchNorm's averages, is not in it. `averaged_params` reads it.

  Args:
    ema_decay: d: a number in [0, 1), a scalar array or a schedule such as `lambda t: min(0.999, (1 + t) / (10 + t))`,
      written with `jnp.minimum`.
    debias: whether the parameters before the first step are left out of the average.

  Returns:
    A piece with the slot `ema`; its `update` needs the parameters.

  Raises:
    ValueError: if `ema_decay` is out of range; at `update` if the parameters are missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp, optax
    >>> tx, p = bo.compose(bo.sgd(1.0), bo.average_params(0.5)), jnp.array(0.0)
    >>> state = tx.init(p)
    >>> for g in (-3.0, -3.0):  # p is 3, then 6
    ...   updates, state = tx.update(jnp.array(g), state, p)
    ...   p = optax.apply_updates(p, updates)
    >>> bo.averaged_params(state)  # (6 + 3 / 2) / (1 + 1 / 2)
    Array(5., dtype=float32)

  References:
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging (1992); Tarvainen and Valpola, Mean
    teachers (https://arxiv.org/abs/1703.01780), eq. 2.
  """

  ema_decay: ScalarOrSchedule = hyper(default=0.999, allowed=DECAY_RATE)
  debias: bool = option(default=True, normal=flag)

  reads_params = True

  def aged(self) -> tuple[str, ...]:
    return ('ema_decay',) if self.debias else ()

  @property
  def slots(self) -> tuple[Slot, ...]:
    return (Slot('ema', fill='params', exact=True),)

  def scalars(self, now: Now) -> Any:
    rate = 1 - now(self.ema_decay)
    return rate / now.mass('ema_decay', self.ema_decay) if self.debias else rate

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.keep(ema=formulas.ema(x.slots['ema'], dtypes.rounded(x.p + x.u, x.stored.dtype), k))


average_params = piece(AverageParams)


def averaged_params(state: Any, like: Any = None) -> Any:
  """Reads the averaged parameters that `average_params` keeps.

  Args:
    state: a state of a recipe with `average_params`, alone or inside that of `by_path`, `optax.chain` and other
      wrappers.
    like: a tree like the parameters whose dtypes the averages get; None for those in which they are kept.

  Returns:
    A tree like the parameters. Without `like` it shares buffers with the state: copy it before that is donated.

  Raises:
    ValueError: if the state has no such averages, or two of one parameter.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.compose(bo.adam(1e-3), bo.average_params()), {'w': jnp.ones(2, jnp.bfloat16)}
    >>> bo.averaged_params(tx.init(params), like=params)
    {'w': Array([1, 1], dtype=bfloat16)}
  """
  averages = tree_of_slot(state, 'ema', 'average_params')
  return averages if like is None else jax.tree.map(lambda x, p: x.astype(dtypes.of(p)), averages, like)


def tree_of_slot(state: Any, name: str, owner: str) -> Any:
  """What one piece keeps of all parameters, from the states of one or more recipes inside of wrappers."""
  states = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, State))
  trees = [x.slots[name] for x in states if isinstance(x, State) and name in x.slots]
  if not trees:
    raise ValueError(f'state has no averages of parameters: put {owner} last in the recipe that made it.')
  elsewhere = lambda x: isinstance(x, optax.MaskedNode)  # a parameter of another group
  return jax.tree.map(_only, *trees, is_leaf=elsewhere)


def _only(*candidates: Any) -> Any:
  found = [x for x in candidates if not isinstance(x, optax.MaskedNode)]
  if len(found) > 1:
    raise ValueError(f'state has {len(found)} averages of one parameter, of shape {jnp.shape(found[0])}.')
  return found[0] if found else optax.MaskedNode()
