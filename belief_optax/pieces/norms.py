"""Pieces that look at the norm of a whole array: of its parameters, and of its direction."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import EPSILON, POSITIVE, Leaf, Line, Now, hyper, mask_option, piece
from belief_optax.core.vocabulary import Mask


class TrustRatio(Line):
  r"""Makes the direction as long as the parameters are.

  .. math:: u_t \leftarrow c \frac{\|\theta_{t-1}\|}{\|u_t\| + \varepsilon} u_t

  with the norms of the whole array. Where one of them is 0 the direction stays as it is. It is not elementwise: a
  sharded array needs communication.

  Args:
    trust_coefficient: c: a finite number > 0, a scalar array or a schedule.
    eps: added to the norm of the direction: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    mask: which arrays are scaled: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.

  Returns:
    A piece; its `update` needs the parameters.

  Raises:
    ValueError: if an argument is out of range; at `init` if the mask is no prefix of the parameters; at `update` if the
      parameters are missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.trust_ratio(), jnp.array([3.0, 4.0])
    >>> print(tx.update(jnp.array([0.0, 2.0]), tx.init(params), params)[0])
    [0. 5.]

  References:
    You et al., Large batch optimization for deep learning (https://arxiv.org/abs/1904.00962), Algorithm 2.
  """  # own words: eps, mask

  trust_coefficient: ScalarOrSchedule = hyper(default=1.0, allowed=POSITIVE)
  eps: ScalarOrSchedule = hyper(default=0.0, allowed=EPSILON)
  mask: Mask | None = mask_option(default=None)

  reads_params = True
  elementwise = False

  def scalars(self, now: Now) -> Any:
    return now(self.trust_coefficient), now(self.eps)

  def step(self, x: Leaf, k: Any) -> Leaf:
    coefficient, eps = k
    goal = formulas.norm(x.p)
    scaled = coefficient * goal * formulas.unit(x.u, eps)  # c |theta| u / (|u| + eps)
    return x.redirect(jnp.where(goal == 0, x.u, scaled))


trust_ratio = piece(TrustRatio)


class KeepNorm(Line):
  r"""Takes the parameters that the update leads to back to the norm that they had.

  .. math:: u_t \leftarrow \frac{\|\theta_{t-1}\|}{\|\theta_{t-1} + u_t\|} (\theta_{t-1} + u_t) - \theta_{t-1}

  with the norms of the whole array. So an array keeps the norm that it begins with, but for rounding: its initial norm
  is no part of the state. Parameters that are all 0 take the update as it is. It is not elementwise: a sharded array
  needs communication.

  Behind `scale_by_learning_rate`, with `trust_ratio` before that, it is Hyperball: each step turns an array by the
  learning rate, whatever the size of either. With Adam's direction that is AdamH, and what its `mask` leaves out,
  vectors and scalars, is Adam.

  Args:
    mask: which arrays keep their norm: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.

  Returns:
    A piece; it stands last, and its `update` needs the parameters.

  Raises:
    ValueError: at `init` if the mask is no prefix of the parameters; at `update` if the parameters are missing.

  Example:
    >>> import belief_optax as bo, jax, jax.numpy as jnp, optax
    >>> matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    >>> adamh = bo.compose(
    ...     bo.first_moment(0.9), bo.second_moment(0.95), bo.bias_correct(0.9, 0.95), bo.precondition(1e-8),
    ...     bo.trust_ratio(mask=matrices), bo.scale_by_learning_rate(0.02), bo.keep_norm(matrices))
    >>> params = {'w': jnp.array([[3.0, 4.0]]), 'b': jnp.zeros(1)}
    >>> updates, state = adamh.update(params, adamh.init(params), params)
    >>> round(float(jnp.linalg.norm(optax.apply_updates(params, updates)['w'])), 4)
    5.0

  References:
    Wen et al., Hyperball optimization (https://arxiv.org/abs/2606.16899), eq. 3.
  """  # own words: mask

  mask: Mask | None = mask_option(default=None)

  reads_params = True
  elementwise = False

  def step(self, x: Leaf, k: Any) -> Leaf:
    goal, there = formulas.norm(x.p), x.p + x.u
    return x.set(u=jnp.where((goal == 0) | jnp.all(there == 0), x.u, goal * formulas.unit(there) - x.p))


keep_norm = piece(KeepNorm)


class ClipArrayNorm(Line):
  r"""Shortens the direction of an array to a largest norm.

  .. math:: u_t \leftarrow u_t \min(1, c / \|u_t\|)

  with the norm of each array by itself (`optax.clip_by_global_norm`, in a chain, takes that of all). It is not
  elementwise: a sharded array needs communication.

  Args:
    max_norm: c: a finite number > 0, a scalar array or a schedule.

  Returns:
    A piece; before the moments it clips the gradient.

  Raises:
    ValueError: if `max_norm` is out of range.
    TypeError: if `max_norm` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, g = bo.clip_array_norm(1.0), jnp.array([3.0, 4.0])
    >>> print((10 * tx.update(g, tx.init(g))[0]).round())
    [6. 8.]

  References:
    Pascanu et al., On the difficulty of training recurrent neural networks (https://arxiv.org/abs/1211.5063).
  """

  max_norm: ScalarOrSchedule = hyper(default=1.0, allowed=POSITIVE)

  elementwise = False

  def scalars(self, now: Now) -> Any:
    return now(self.max_norm)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.redirect(x.u * (k / jnp.maximum(formulas.norm(x.u), k)))


clip_array_norm = piece(ClipArrayNorm)
