"""Two slots in one word per parameter."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.stores import bits
from belief_optax.stores.base import STORES, Coded, Dither, Group, Kept, bundle, unbundle
from belief_optax.stores.plain import from_bfloat16, to_bfloat16


class Paired(Coded):
  """Keeps a mean and a second moment of one element in one word; what has no partner has a word of its own.

  Leaves that stay uncoded get a trailing axis, even if its size is 1. Orbax casts a restored array to the dtype of its
  target without an error; the axis makes sure that a code is never read as a number (see `parts`).
  """

  def groups(self, slots: Group) -> Iterable[Group]:
    means, squares = [s for s in slots if not s.real], [s for s in slots if s.real]
    pairs = 1 if means and squares else 0
    return (*zip(means[:pairs], squares[:pairs], strict=True), *((s,) for s in means[pairs:] + squares[pairs:]))

  def _together(self, values: Sequence[jax.Array]) -> jax.Array:
    return bundle(values)

  def _apart(self, group: Group, kept: jax.Array) -> Sequence[jax.Array]:
    return unbundle(group, kept)


@dataclasses.dataclass(frozen=True)
class Packed16(Paired):
  """Keeps a mean and a second moment in ONE uint32: 4 bytes per parameter for both.

  The mean has 15 bits (bfloat16 with one digit less) and the second moment 17 (all exponents of float32, 9 binary
  digits, no sign): it is what gradually changes by less than a digit. A slot without a partner has 2 bytes, and a
  second moment then 8 digits: after gradients fell 100 times the rms error of its root is 1.2 %, in a pair 0.7 %.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  def parts(self, group: Group) -> tuple[str, ...]:
    return ('packed16',)

  def code(self, group: Group) -> Any:
    if len(group) == 2:
      return jnp.uint32
    return jnp.uint16 if group[0].real else jnp.bfloat16

  def encode(self, group: Group, values: Sequence[jax.Array], dither: Dither, kept: Kept | None = None) -> Kept:
    first, second = dither(0)
    if len(group) == 2:
      return (bits.cut(values[0], 17, first) | bits.cut_positive(values[1], 14, second) >> 14,)
    if group[0].real:
      return ((bits.cut_positive(values[0], 15, second) >> 15).astype(jnp.uint16),)
    return (to_bfloat16(bits.cut(values[0], 16, first)),)

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    (code,) = kept
    if len(group) == 2:
      return bits.uncut(code & np.uint32(2**32 - 2**17)), bits.uncut((code & np.uint32(2**17 - 1)) << 14)
    return (bits.uncut(code.astype(jnp.uint32) << 15) if group[0].real else from_bfloat16(code),)


STORES |= {'packed16': Packed16}
