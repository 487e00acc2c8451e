"""Stores of whole floating point numbers: float32 is the default (`base`), bfloat16 takes half."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from belief_optax.core import dtypes
from belief_optax.stores import bits
from belief_optax.stores.base import STORES, Coded, Dither, Group, Kept


def to_bfloat16(word: jax.Array) -> jax.Array:
  """The bfloat16 that the upper half of these bits is."""
  return jax.lax.bitcast_convert_type((word >> 16).astype(jnp.uint16), jnp.bfloat16)


def from_bfloat16(x: jax.Array) -> jax.Array:
  """A bfloat16 as float32."""
  # The same as astype, which XLA:CPU does several times slower.
  return bits.uncut(jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16)


@dataclasses.dataclass(frozen=True)
class BFloat16(Coded):
  """Keeps bfloat16, 2 bytes per slot.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  min_size: int = 0

  def code(self, group: Group) -> Any:
    return jnp.bfloat16

  def encode(self, group: Group, values: Sequence[jax.Array], dither: Dither, kept: Kept | None = None) -> Kept:
    first, second = dither(0)
    if group[0].real:
      return (to_bfloat16(bits.cut_positive(values[0], 16, second)),)
    return (to_bfloat16(bits.cut(values[0], 16, first)),)

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    return (from_bfloat16(kept[0]),)


@dataclasses.dataclass(frozen=True)
class Params(BFloat16):
  """Keeps the dtype of the parameter: bfloat16 for bfloat16 parameters, else as `Float32`.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are kept so: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  def serves(self, p: Any) -> bool:
    if dtypes.of(p) == jnp.float16:
      others = ', '.join(repr(name) for name, store in STORES.items() if store is not Params)
      raise TypeError(
        f"store='params' cannot keep moments in float16, whose range their squares exceed: use one of {others}."
      )
    return super().serves(p) and dtypes.of(p) == jnp.bfloat16


STORES |= {'params': Params, 'bfloat16': BFloat16}
