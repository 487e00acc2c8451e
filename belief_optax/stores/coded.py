"""The stores that round: moments in 4, 2 or 1 bytes."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax import dtypes
from belief_optax.masks import normal_mask
from belief_optax.stores import codes
from belief_optax.stores.base import STORES, Dither, Group, Kept, Store, bundle, is_wide, unbundle


@dataclasses.dataclass(frozen=True)
class Coded(Store):
  """A store that keeps some leaves as codes: those that are large enough, real, and not masked.

  The step is taken with what the codes mean. They are steps of the gradients, so derivatives by gradients that arrive
  through them are 0; those by a learning rate, or by parameters that decay, are not affected.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  min_size: int = 4096
  mask: Any = None

  def __post_init__(self) -> None:
    if not isinstance(self.min_size, int) or self.min_size < 0:
      raise ValueError(f'min_size must be an integer >= 0, got {self.min_size!r}.')
    object.__setattr__(self, 'mask', normal_mask('mask', self.mask))

  @property
  def where(self) -> Any:
    return self.mask

  def serves(self, p: Any) -> bool:
    """Whether an array is coded, as far as its shape and dtype decide it."""
    real = not jnp.issubdtype(dtypes.of(p), jnp.complexfloating)
    return real and math.prod(jnp.shape(p)) >= max(self.min_size, 1)

  def code(self, group: Group) -> Any:
    """The dtype of the codes."""
    raise NotImplementedError

  def encode(self, group: Group, values: Sequence[jax.Array], bits: Dither, kept: Kept | None = None) -> Kept:
    """The code of values, which takes the place of `kept`."""
    raise NotImplementedError

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    """The values of a code."""
    raise NotImplementedError

  def init(self, group: Group, values: Sequence[jax.Array], p: Any, on: bool) -> Kept:
    known = tuple(slot._replace(fill=0.0) for slot in group)  # its fill may be an array, and is in the values
    coded = lambda: _first_code(self, known, [jnp.real(x) for x in values])
    if on and self.serves(p):
      return coded()
    others = coded()[1:] if len(self.parts(group)) > 1 else ()
    return (self._together(values), *map(jnp.zeros_like, others))

  def rounds(self, group: Group, kept: Kept) -> bool:
    if kept[0].dtype == self.code(group):
      return True
    if not is_wide(kept[0]):
      raise self.misfit(group, kept)
    return False

  def load(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    return self.decode(group, kept) if self.rounds(group, kept) else super().load(group, kept)

  def save(self, group: Group, values: Sequence[jax.Array], kept: Kept, dither: Dither) -> Kept:
    if self.rounds(group, kept):
      return self.encode(group, values, dither, kept)
    return super().save(group, values, kept, dither)


@functools.partial(jax.jit, static_argnums=(0, 1))  # compiled once per shape, not once per operation and shape
def _first_code(store: Coded, group: Group, values: Sequence[jax.Array]) -> Kept:
  return store.encode(group, values, codes.to_nearest(values[0]))


def _to_bfloat16(bits: jax.Array) -> jax.Array:
  return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def _from_bfloat16(x: jax.Array) -> jax.Array:
  # The same as astype, which XLA:CPU does several times slower.
  return codes.uncut(jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16)


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

  def encode(self, group: Group, values: Sequence[jax.Array], bits: Dither, kept: Kept | None = None) -> Kept:
    first, second = bits(0)
    if group[0].real:
      return (_to_bfloat16(codes.cut_positive(values[0], 16, second)),)
    return (_to_bfloat16(codes.cut(values[0], 16, first)),)

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    return (_from_bfloat16(kept[0]),)


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


class _Paired(Coded):
  """Keeps a mean and a second moment of one element in one word; what has no partner has a word of its own.

  What is not coded has an axis more, be it of size 1: a restored checkpoint is cast to the dtypes of its target without
  an error, and a code must not become a number, nor a code of another store (see `parts`).
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
class Packed16(_Paired):
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

  def encode(self, group: Group, values: Sequence[jax.Array], bits: Dither, kept: Kept | None = None) -> Kept:
    first, second = bits(0)
    if len(group) == 2:
      return (codes.cut(values[0], 17, first) | codes.cut_positive(values[1], 14, second) >> 14,)
    if group[0].real:
      return ((codes.cut_positive(values[0], 15, second) >> 15).astype(jnp.uint16),)
    return (_to_bfloat16(codes.cut(values[0], 16, first)),)

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    (code,) = kept
    if len(group) == 2:
      return codes.uncut(code & np.uint32(2**32 - 2**17)), codes.uncut((code & np.uint32(2**17 - 1)) << 14)
    return (codes.uncut(code.astype(jnp.uint32) << 15) if group[0].real else _from_bfloat16(code),)


class Digits(NamedTuple):
  """How many bits a code relative to a tile has, and what they are spent on.

  Attributes:
    bits: per number.
    per_octave: codes per factor of 2 of a second moment, below the largest of its tile.
    mu: below 1 / mu of the largest of its tile the code of a mean is linear.
  """

  bits: int
  per_octave: float
  mu: float

  def code(self, real: bool, x: jax.Array, exponent: jax.Array, r: jax.Array) -> jax.Array:
    """The code of a second moment or a mean."""
    if real:
      return codes.log_code(x, exponent, self.bits, self.per_octave, r)
    return codes.signed_code(x, exponent, self.bits, self.mu, r)

  def value(self, real: bool, code: jax.Array, exponent: jax.Array) -> jax.Array:
    """What a code means."""
    if real:
      return codes.from_log_code(code, exponent, self.bits, self.per_octave)
    return codes.from_signed_code(code, exponent, self.bits, self.mu)


EIGHT = Digits(8, 10.0, 127.0)
FOUR = Digits(4, 1.0, 15.0)


class _Tiled(_Paired):
  """Keeps codes relative to the largest magnitude of a tile, whose exponent takes a byte per slot and tile."""

  digits: ClassVar[Digits]

  def serves(self, p: Any) -> bool:
    return super().serves(p) and math.prod(codes.tile_of(jnp.shape(p))) >= min(16, self.min_size)

  def _layout(self, group: Group) -> Sequence[tuple[bool, Digits, int]]:
    """For each slot whether it is a second moment, its digits, and by how many bits it is shifted in the word."""
    if len(group) == 1:
      return ((group[0].real, EIGHT, 0),)
    return ((False, self.digits, self.digits.bits), (True, self.digits, 0))

  def parts(self, group: Group) -> tuple[str, ...]:
    return f'int{self.digits.bits}', 'exponents'

  def code(self, group: Group) -> Any:
    return jnp.uint16 if sum(digits.bits for _, digits, _ in self._layout(group)) > 8 else jnp.uint8

  def _exponents(self, group: Group) -> Any:
    return jnp.uint16 if len(group) == 2 else jnp.uint8

  def rounds(self, group: Group, kept: Kept) -> bool:
    coded, (word, exponents) = super().rounds(group, kept), kept
    if exponents.dtype != self._exponents(group) or (coded and not codes.divides(exponents.shape, word.shape)):
      raise self.misfit(group, kept)
    return coded

  def encode(self, group: Group, values: Sequence[jax.Array], bits: Dither, kept: Kept | None = None) -> Kept:
    shape = values[0].shape
    tile = codes.tile_of(shape) if kept is None else codes.tile_in(shape, kept[1].shape)
    words, exponents = [], jnp.uint32(0)
    layout = zip(self._layout(group), values, bits(0), strict=False)
    for i, ((real, digits, shift), value, r) in enumerate(layout):
      value = codes.bounded(value, codes.LARGE)
      top = codes.tile_top(value, tile)
      word = digits.code(real, value, codes.spread(top, shape), r) << shift
      words.append(word.astype(self.code(group)))
      exponents = exponents | top << 8 * i
    # XLA:CPU computes what ends in a cast again for each of its users, and then cannot overwrite the old word; a union
    # of two arrays it does not.
    word = functools.reduce(jnp.bitwise_or, words)
    return word, exponents.astype(self._exponents(group))

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    word, exponents = (part.astype(jnp.uint32) for part in kept)
    values = []
    for i, (real, digits, shift) in enumerate(self._layout(group)):
      part = word >> shift & np.uint32(2**digits.bits - 1)
      exponent = codes.spread(exponents >> 8 * i & 255, word.shape)
      values.append(digits.value(real, part, exponent))
    return values


@dataclasses.dataclass(frozen=True)
class Int8(_Tiled):
  """Keeps 8 bits per slot, relative to tiles of up to 256 elements: about 2.01 bytes per parameter for two slots.

  A second moment is a logarithm of 10 codes per factor of 2, over a range of 25 such factors below the largest of its
  tile; what is smaller is kept as the least of them, and never as 0. A mean has a sign and 7 bits that are logarithmic
  near the largest of its tile and linear around 0. An array that has no tile of 16 elements, such as a vector of prime
  length, is kept in float32. Tiles divide every shard that a mesh of 2, 4 or 8 devices per axis makes. Where rows are
  long they are pieces of a row of at least 96 elements: then all dimensions but the last may be split at will.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  digits = EIGHT


@dataclasses.dataclass(frozen=True)
class Int4(_Tiled):
  """Keeps 4 bits per slot, relative to tiles of up to 256 elements: about 1.01 bytes per parameter for two slots.

  As `Int8` with one code per factor of 2 of a second moment, and 3 bits and a sign for a mean. What has no partner has
  8 bits.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  digits = FOUR


STORES |= {'params': Params, 'bfloat16': BFloat16, 'packed16': Packed16, 'int8': Int8, 'int4': Int4}
