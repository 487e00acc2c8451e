"""What a device holds of a training run: bytes of parameters, gradients and state by a formula per parameter."""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.typing import DTypeLike

from belief_optax.core.arguments import choice, positive_integer, state_dtype

LayoutName = Literal['plain', 'zero1', 'fsdp']
_SIDE = 1024  # of the array whose state is measured: large enough that every store codes it


class Split(NamedTuple):
  """What a layout splits over the devices of its axis; the rest stands on each of them."""

  params: bool
  state: bool


SPLITS: dict[LayoutName, Split] = {
  'plain': Split(params=False, state=False),
  'zero1': Split(params=False, state=True),
  'fsdp': Split(params=True, state=True),
}


@dataclasses.dataclass(frozen=True)
class Budget:
  """What `budget` returns: bytes on one device.

  Attributes:
    params: of the parameters.
    grads: of the gradients.
    state: of the optimizer's state.
  """

  params: float
  grads: float
  state: float

  @property
  def total(self) -> float:
    """All of it, without activations and what a step allocates."""
    return self.params + self.grads + self.state


def bytes_of_state(tx: optax.GradientTransformation, dtype: DTypeLike = 'float32') -> tuple[float, int]:
  """The bytes of a state: per parameter in a large array, and beside the arrays (the count)."""
  p = jax.ShapeDtypeStruct((_SIDE, _SIDE), dtype)
  leaves = jax.tree.leaves(jax.eval_shape(tx.init, p))
  nbytes = lambda x: math.prod(x.shape) * np.dtype(x.dtype).itemsize
  per_parameter = sum(nbytes(x) for x in leaves if x.shape[:2] == p.shape) / p.size
  return per_parameter, sum(nbytes(x) for x in leaves if not x.shape)


def budget(
  tx: optax.GradientTransformation,
  parameters: float,
  devices: int = 1,
  layout: LayoutName = 'plain',
  model: int = 1,
  dtype: DTypeLike = 'float32',
  grad_dtype: DTypeLike | None = None,
) -> Budget:
  r"""Counts the bytes of parameters, gradients and state on one device, by a formula per parameter.

  $$\mathrm{params} = \frac{N d}{k n_p}, \qquad \mathrm{grads} = \frac{N d_g}{k n_p}, \qquad
  \mathrm{state} = \frac{N s}{k n_s} + c$$

  N parameters of d bytes, gradients of d_g bytes, s bytes of state per parameter and c bytes beside the arrays stand on
  n devices of the data axis times k of the model axis. n_p is n where the layout splits the parameters, n_s is n where
  it splits the state, and else they are 1. The formula assumes that every array is large and divides: what small arrays
  add for the trees of public models is in docs/scaling.md. Activations and what a step allocates come on top.

  Args:
    tx: the optimizer, with its store.
    parameters: how many numbers the model has.
    devices: the size of the data axis.
    layout: what is split over it: nothing (`'plain'`), the state (`'zero1'`), or parameters, gradients and state
      (`'fsdp'`).
    model: the size of a second axis, over which everything is split.
    dtype: of the parameters.
    grad_dtype: of the gradients; None for that of the parameters.

  Returns:
    A `Budget`.

  Raises:
    ValueError: if a number is out of range or the layout unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> from belief_optax import sharding
    >>> of = sharding.budget(bo.adabelief(1e-3, store='packed16'), 8e9, devices=8, layout='zero1')
    >>> [f'{size / 1e9:.0f} GB' for size in (of.params, of.grads, of.state)]
    ['32 GB', '32 GB', '4 GB']
  """
  if not isinstance(tx, optax.GradientTransformation):
    raise TypeError(f'tx must be a gradient transformation, got {tx!r}.')
  if not 1 <= parameters < math.inf:
    raise ValueError(f'parameters must be a finite number >= 1, got {parameters!r}.')
  n, k = positive_integer('devices', devices), positive_integer('model', model)
  split = SPLITS[choice('layout', layout, LayoutName)]
  of_params = state_dtype('dtype', dtype) or np.dtype('float32')
  of_grads = state_dtype('grad_dtype', grad_dtype) or of_params
  per_parameter, beside = bytes_of_state(tx, of_params)
  here = parameters / k / (n if split.params else 1)
  state = per_parameter * parameters / k / (n if split.state else 1) + beside
  return Budget(of_params.itemsize * here, of_grads.itemsize * here, state)
