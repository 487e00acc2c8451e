"""Weight decay, whose kind is its place in the list."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax.core import NONNEGATIVE, Leaf, Line, Now, hyper, mask_option, piece
from belief_optax.core.vocabulary import Mask


class _Decay(Line):
  """What all kinds of decay share: how much, and of what."""

  weight_decay: ScalarOrSchedule = hyper(allowed=NONNEGATIVE, constant=False)
  mask: Mask | None = mask_option(default=None)
  multiplier: ScalarOrSchedule = hyper(default=1.0, allowed=NONNEGATIVE)

  reads_params = True

  def scalars(self, now: Now) -> Any:
    return now(self.weight_decay) * now(self.multiplier)


class AddDecayedWeights(_Decay):
  r"""Adds the decayed parameters to the direction.

  .. math:: u_t \leftarrow u_t + \lambda_t c_t \theta_{t-1}

  The place in the list is the kind of decay: before the moments it is L2 regularization (part of the gradient), before
  `scale_by_learning_rate` it is decoupled decay (alpha lambda), after it it is independent of the learning rate.

  Args:
    weight_decay: lambda: a finite number >= 0, a scalar array or a schedule.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    multiplier: c, another factor: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece; its `update` needs the parameters.

  Raises:
    ValueError: if an argument is out of range; at `init` if the mask is no prefix of the parameters; at `update` if
      the parameters are missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.add_decayed_weights(0.5), jnp.array(4.0)
    >>> tx.update(jnp.array(1.0), tx.init(params), params)[0]
    Array(3., dtype=float32)

  References:
    Loshchilov and Hutter, Decoupled weight decay regularization (https://arxiv.org/abs/1711.05101), Algorithm 2.
  """  # own words: weight_decay

  shrinks = 1

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.redirect(x.u + k * x.p)  # u <- u + lambda c theta


add_decayed_weights = piece(AddDecayedWeights)


class AddCautiousDecay(_Decay):
  r"""Adds the decayed parameters to the direction where both have the same sign, or one is 0.

  .. math:: u_t \leftarrow u_t + \lambda_t c_t [u_t \theta_{t-1} \ge 0] \theta_{t-1}

  A parameter that the step moves away from 0 does not decay: decay never works against the step. Its place is that of
  decoupled decay, where the direction still has the sign of the gradient; `weight_decay_mode='cautious'` of every
  optimizer puts it there. Complex arrays have no signs, but `complex_as_reals` compares both parts.

  Args:
    weight_decay: lambda: a finite number >= 0, a scalar array or a schedule.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    multiplier: c, another factor: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece; its `update` needs the parameters.

  Raises:
    ValueError: if an argument is out of range; at `init` if the mask is no prefix of the parameters; at `update` if
      the parameters are missing.
    TypeError: if an argument has a wrong type; at `update` if an array is complex.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.add_cautious_decay(0.5), jnp.array([4.0, 4.0])
    >>> print(tx.update(jnp.array([1.0, -1.0]), tx.init(params), params)[0])
    [ 3. -1.]

  References:
    Chen et al., Cautious weight decay (https://arxiv.org/abs/2510.12402), Algorithm 1.
  """  # own words: weight_decay

  shrinks = 1

  def step(self, x: Leaf, k: Any) -> Leaf:
    if jnp.iscomplexobj(x.u):
      raise TypeError(f'{self.name} compares signs, but an update is complex ({x.u.dtype}).')
    agrees = jnp.sign(x.u) * jnp.sign(x.p) >= 0  # of signs, as the product of two small numbers is 0
    return x.redirect(x.u + k * jnp.where(agrees, x.p, 0))  # u <- u + lambda c [u theta >= 0] theta


add_cautious_decay = piece(AddCautiousDecay)


class ProximalDecay(_Decay):
  r"""Decays by a division, after the step: weight decay by an implicit step.

  .. math::
    u_t \leftarrow \frac{u_t - \lambda_t c_t \theta_{t-1}}{1 + \lambda_t c_t}, \quad \text{so that} \quad
    \theta_t = \frac{\theta_{t-1} + u_t}{1 + \lambda_t c_t}

  Its place is behind `scale_by_learning_rate`, whose learning rate is c: `weight_decay_mode='proximal'` of every
  optimizer puts it there. No decay is so large that a parameter would change its sign.

  Args:
    weight_decay: lambda: a finite number >= 0, a scalar array or a schedule.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    multiplier: c, another factor: a finite number >= 0, a scalar array or a schedule.

  Returns:
    A piece; its `update` needs the parameters.

  Raises:
    ValueError: if an argument is out of range; at `init` if the mask is no prefix of the parameters; at `update` if
      the parameters are missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.proximal_decay(1.0), jnp.array(4.0)
    >>> tx.update(jnp.array(-1.0), tx.init(params), params)[0]  # (4 - 1) / 2 - 4
    Array(-2.5, dtype=float32)

  References:
    Zhuang et al., Understanding AdamW through proximal methods (https://arxiv.org/abs/2202.00089), equation 3; Xie et
    al., Adan (https://arxiv.org/abs/2208.06677), Algorithm 1.
  """  # own words: weight_decay

  shrinks = -1

  def scalars(self, now: Now) -> Any:
    k = _Decay.scalars(self, now)
    return k, 1 / (1 + k)

  def step(self, x: Leaf, k: Any) -> Leaf:
    k, rest = k
    return x.redirect((x.u - k * x.p) * rest)  # theta + u <- (theta + u) / (1 + lambda c)


proximal_decay = piece(ProximalDecay)
