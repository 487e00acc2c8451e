"""Pieces that look at whole arrays: the elements of a direction depend on each other."""

from typing import Any

import jax.numpy as jnp

from belief_optax.core import Leaf, Line, integer, option, piece, positive_integer


class Centralize(Line):
  r"""Takes the mean over all axes but one out of the direction.

  .. math:: u_t \leftarrow u_t - \operatorname{mean}(u_t)

  The mean is that of the weights of one output: Flax keeps outputs on the last axis of a kernel, torch on the first.
  Before the moments it is gradient centralization. It is not elementwise: a sharded array needs communication.

  Args:
    output_axis: the axis over which no mean is taken; -1 for Flax, 0 for torch.
    min_ndim: the smallest number of axes of an array that is centralized (4: two-dimensional convolutions alone).

  Returns:
    A piece.

  Raises:
    ValueError: if `min_ndim` is under 1; at `init` if a parameter that is centralized has no such axis.
    TypeError: if an argument is no integer.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, kernel = bo.centralize(), jnp.array([[1.0, 2.0], [3.0, 6.0]])
    >>> print(tx.update(kernel, tx.init(kernel))[0])
    [[-1. -2.]
     [ 1.  2.]]

  References:
    Yong et al., Gradient centralization (https://arxiv.org/abs/2004.01461), eq. 1.
  """

  output_axis: int = option(default=-1, normal=integer)
  min_ndim: int = option(default=2, normal=positive_integer)

  elementwise = False

  def check(self, p: Any) -> None:
    ndim = jnp.ndim(p)
    if ndim >= self.min_ndim and not -ndim <= self.output_axis < ndim:
      raise ValueError(f'output_axis must be an axis of a parameter of {ndim} axes, got {self.output_axis}.')

  def step(self, x: Leaf, k: Any) -> Leaf:
    if x.u.ndim < self.min_ndim:
      return x
    inputs = tuple(axis for axis in range(x.u.ndim) if axis != self.output_axis % x.u.ndim)
    return x.redirect(x.u - x.u.mean(inputs, keepdims=True))


centralize = piece(Centralize)


class Cautious(Line):
  r"""Drops the elements of the direction whose sign is not the gradient's, and scales the rest up for them.

  .. math:: u_t \leftarrow u_t c_t / \max(\operatorname{mean}(c_t), 10^{-3}), \qquad c_t = [u_t g_t > 0]

  It is not elementwise: a sharded array needs communication.

  Returns:
    A piece, to be placed where the direction still has the sign of the gradient. Complex arrays have no signs.

  Raises:
    TypeError: at `update` if an array is complex.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, p = bo.compose(bo.first_moment(0.5), bo.cautious()), jnp.zeros(2)
    >>> _, state = tx.update(jnp.array([1.0, 1.0]), tx.init(p))
    >>> print(tx.update(jnp.array([1.0, -0.25]), state)[0])
    [1.5 0. ]

  References:
    Liang et al., Cautious optimizers (https://arxiv.org/abs/2411.16085), Algorithm 1.
  """

  elementwise = False

  def step(self, x: Leaf, k: Any) -> Leaf:
    if jnp.iscomplexobj(x.u):
      raise TypeError(f'cautious compares signs, but an update is complex ({x.u.dtype}).')
    agrees = (x.u * x.g > 0).astype(x.u.dtype)
    return x.set(u=x.u * (agrees / jnp.maximum(agrees.mean(), 1e-3)))


cautious = piece(Cautious)
