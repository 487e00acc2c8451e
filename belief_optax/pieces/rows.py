"""Rows of an embedding that a step does not touch."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp

from belief_optax.core import Leaf, Line, mask_option, piece
from belief_optax.core.vocabulary import Mask


class LazyRows(Line):
  r"""Leaves a row as it was where its whole gradient is 0: the parameter, and all that is kept of it.

  .. math:: (u_t, m_t, s_t)_i \leftarrow (0, m_{t-1}, s_{t-1})_i \qquad \text{where } g_{t,i} = 0

  A row is everything at one index of the first axis, as in the table of `flax.linen.Embed`; a scalar is one row.
  Without this line the mean of a word that is not in the batch goes on moving it, and its moments and weights decay.
  With it `compose(adam(lr, eps_scaled=True), lazy_rows(mask))` is `torch.optim.SparseAdam`: the bias of all rows is
  corrected for the same number of steps, as there.

  Its place is behind all that makes the step, `round_updates` too, and before `average_params`. The gradient is dense
  all the same, so it saves neither memory nor time. It is not elementwise: an array that is sharded along a row needs
  communication.

  Args:
    mask: which arrays have lazy rows: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.

  Returns:
    A piece without slots.

  Raises:
    ValueError: at `init` if the mask is no prefix of the parameters.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.compose(bo.sgd(1.0, momentum=0.5), bo.lazy_rows())
    >>> table = jnp.zeros((2, 2))
    >>> _, state = tx.update(jnp.ones((2, 2)), tx.init(table))
    >>> print(tx.update(jnp.array([[0.0, 0.0], [0.0, 4.0]]), state)[0])
    [[ 0.   0. ]
     [-0.5 -4.5]]

  References:
    torch.optim.SparseAdam (https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html).
  """  # own words: mask

  mask: Mask | None = mask_option(default=None)

  elementwise = False

  def begin(self, x: Leaf) -> Leaf:
    touched = jnp.any(x.g != 0, axis=tuple(range(1, x.g.ndim)), keepdims=True)  # a NaN is not 0
    return _Rows(**vars(x), touched=touched)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(u=jnp.where(cast(_Rows, x).touched, x.u, 0))


lazy_rows = piece(LazyRows)


@dataclasses.dataclass(frozen=True)
class _Rows(Leaf):
  """A leaf that keeps its slots where a row is not touched.

  So each line reads what is kept. If the last line took the old slots back, XLA:CPU would need them after they are
  overwritten, and so copy them.
  """

  touched: Any

  def keep(self, **slots: Any) -> Leaf:
    return super().keep(**{name: jnp.where(self.touched, new, self.slots[name]) for name, new in slots.items()})
