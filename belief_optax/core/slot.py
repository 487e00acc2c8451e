"""What a line carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from belief_optax.core import arguments, dtypes
from belief_optax.core.memory import full_like


class Slot(NamedTuple):
  """An array that a line carries from step to step, one per parameter.

  Attributes:
    name: its key in `State.slots`.
    real: whether it is real, and at least 0, where the parameter has any sign or is complex. Where the lines see a
      complex number as two real ones, it stays real only if it has a dtype of its own.
    dtype: the dtype in which it is kept; None for what the store of the composition chooses.
    fill: its value before the first step: a number, an array, a schedule, which is called with 0, or `'params'` for a
      copy of the parameter.
    exact: whether every store keeps it as it is.
    scale: the slot whose root is its scale, where there is one: the mean of a gradient has that of its squares.
  """

  name: str
  real: bool = False
  dtype: Any = None
  fill: Any = 0.0
  exact: bool = False
  scale: str = ''

  def init(self, p: Any, pairs: bool = False) -> jax.Array:
    """The array for a parameter. With `pairs` a complex parameter, and what is kept of it, is two real ones."""
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(dtypes.of(p)), jnp.float32)  # NumPy's float64 too
    if self.real and (not pairs or self.dtype is not None):
      dtype = jnp.finfo(dtype).dtype
    if self.dtype is not None:
      if jnp.issubdtype(dtype, jnp.complexfloating) and not jnp.issubdtype(self.dtype, jnp.complexfloating):
        raise TypeError(f'{self.name} of a complex parameter cannot be kept as {self.dtype}.')
      dtype = self.dtype
    # *_like keeps the parameter's sharding and takes a ShapeDtypeStruct; each call is a buffer of its own (donation).
    if isinstance(self.fill, str):
      return jnp.zeros_like(p, dtype=dtype) if isinstance(p, jax.ShapeDtypeStruct) else jnp.copy(p).astype(dtype)
    fill = arguments.at(self.fill, 0)
    if pairs and jnp.issubdtype(dtype, jnp.complexfloating):
      part = jnp.asarray(fill, jnp.finfo(dtype).dtype)
      fill = jax.lax.complex(part, part)
    return full_like(p, fill, dtype)
