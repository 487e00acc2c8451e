"""Codes relative to the largest number of a tile: logarithms in 8 or 4 bits."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from belief_optax import formulas
from belief_optax.stores import bits
from belief_optax.stores.base import STORES, Dither, Group, Kept
from belief_optax.stores.packed import Paired

TINY = float(np.finfo(np.float32).tiny)  # the least number that XLA does not flush to 0
LARGE = (1 - 2.0**-24) * 2.0**125  # the largest number below a power of two whose reciprocal exp2 does not flush to 0


# Logarithms, relative to the largest number of a tile.


@functools.lru_cache
def tile_of(shape: tuple[int, ...], budget: int = 256) -> tuple[int, ...]:
  """The shape of a tile: it divides the array, and every shard of it that a mesh of 2, 4 or 8 per axis makes.

  Where a tile of at least 96 elements lies in one row, it divides the shards that a larger mesh makes of the last
  dimension, up to 512, as well; all others may then be split at will. It does not join rows for that: the moments of an
  embedding's rows differ by orders of magnitude.

  >>> tile_of((4096, 14336)), tile_of((512, 1024)), tile_of((50257, 768)), tile_of((64, 64)), tile_of((7,)), tile_of(())
  ((1, 112), (2, 128), (1, 96), (8, 8), (7,), ())
  """
  rows = ((*[1] * (len(shape) - 1), _side(shape[-1], parts, budget)) for parts in (512, 256, 128, 64, 32, 16) if shape)
  return next((row for row in rows if row[-1] >= 96), _block(shape, budget))


def _side(dim: int, parts: int, most: int) -> int:
  """The longest side of a tile that divides each of so many parts of a dimension."""
  part = dim // math.gcd(dim, parts) if dim else 1
  return max((d for d in range(1, min(part, most) + 1) if part % d == 0), default=1)


def _block(shape: tuple[int, ...], budget: int) -> tuple[int, ...]:
  """The largest tile that divides each of 8 parts of each dimension, from the last one on."""
  tile: list[int] = []
  for dim in reversed(shape):
    tile.append(_side(dim, 8, budget))
    budget //= tile[-1]
  return tuple(reversed(tile))


def tile_in(shape: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
  """The shape of a tile, given how many there are along each axis: in a `jax.shard_map` both are those of a shard."""
  return tuple(dim // n if n else 1 for dim, n in zip(shape, counts, strict=True))


def divides(counts: Sequence[int], shape: Sequence[int]) -> bool:
  """Whether there can be as many tiles along each axis of an array."""
  return len(counts) == len(shape) and all(
    dim == n or (n and dim % n == 0) for dim, n in zip(shape, counts, strict=True)
  )


def _split(shape: Sequence[int], tile: Sequence[int]) -> list[int]:
  return [n for dim, side in zip(shape, tile, strict=True) for n in (dim // side, side)]


def _reshape(x: jax.Array, shape: Sequence[int], spec: Sequence[Any]) -> jax.Array:
  """The same numbers in another shape; where a mesh has explicit axes it must be said how the result lies on them."""
  sharding = jax.typeof(x).sharding
  there = sharding.update(spec=PartitionSpec(*spec)) if any(sharding.spec) else None
  return jax.lax.reshape(x, shape, out_sharding=there)


def tile_top(x: jax.Array, tile: tuple[int, ...]) -> jax.Array:
  """For each tile the biased exponent of its largest magnitude, 0 .. 255; 255 where something is not finite."""
  spec = [part for axis in jax.typeof(x).sharding.spec for part in (axis, None)]
  size = _reshape(jnp.abs(x.astype(jnp.float32)), _split(x.shape, tile), spec)
  # The bits are compared, as XLA:CPU's maximum of many floats may lose a NaN.
  return bits.bits_of(size).max(tuple(range(1, size.ndim, 2)), initial=0) >> 23


def spread(top: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """For each element log2 of a power of two above the largest magnitude of its tile; NaN where that is not finite."""
  exponent = jnp.where(top == 255, jnp.nan, top.astype(jnp.float32) - 126.0)
  each = jnp.expand_dims(exponent, tuple(range(1, 2 * len(shape), 2)))
  tiled = jnp.broadcast_to(each, _split(shape, tile_in(shape, top.shape)))
  return _reshape(tiled, shape, jax.typeof(top).sharding.spec)


def log_code(x: jax.Array, exponent: jax.Array, width: int, per_octave: float, r: jax.Array) -> jax.Array:
  """A number >= 0 as its logarithm below the top of its tile: `per_octave` codes for each factor of 2, none for 0."""
  last = 2**width - 1
  code = last + per_octave * (jnp.log2(jnp.maximum(x.astype(jnp.float32), TINY)) - exponent)
  return jnp.clip(jnp.floor(code + bits.unit(r)), 0, last).astype(jnp.uint32)


def from_log_code(code: jax.Array, exponent: jax.Array, width: int, per_octave: float) -> jax.Array:
  """The number that a logarithmic code means: never 0."""
  return jnp.maximum(jnp.exp2((code.astype(jnp.float32) - (2**width - 1)) / per_octave + exponent), TINY)


def signed_code(x: jax.Array, exponent: jax.Array, width: int, mu: float, r: jax.Array) -> jax.Array:
  """A number as sign and log2(1 + mu |x| / top): linear around 0, logarithmic near the top of its tile."""
  last = 2 ** (width - 1) - 1
  x = x.astype(jnp.float32)
  size = jnp.log2(1 + mu * (jnp.abs(x) * jnp.exp2(-exponent))) * (last / math.log2(1 + mu))
  code = jnp.clip(jnp.floor(size + bits.unit(r)), 0, last).astype(jnp.uint32)
  return jnp.where(x < 0, code | np.uint32(last + 1), code)


def from_signed_code(code: jax.Array, exponent: jax.Array, width: int, mu: float) -> jax.Array:
  """The number that a signed code means."""
  last = 2 ** (width - 1) - 1
  size = (jnp.exp2((code & np.uint32(last)).astype(jnp.float32) * (math.log2(1 + mu) / last)) - 1) / mu
  return jnp.where(code > last, -size, size) * jnp.exp2(exponent)


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
      return log_code(x, exponent, self.bits, self.per_octave, r)
    return signed_code(x, exponent, self.bits, self.mu, r)

  def value(self, real: bool, code: jax.Array, exponent: jax.Array) -> jax.Array:
    """What a code means."""
    if real:
      return from_log_code(code, exponent, self.bits, self.per_octave)
    return from_signed_code(code, exponent, self.bits, self.mu)


EIGHT = Digits(8, 10.0, 127.0)
FOUR = Digits(4, 1.0, 15.0)


class _Tiled(Paired):
  """Keeps codes relative to the largest magnitude of a tile, whose exponent takes a byte per slot and tile."""

  digits: ClassVar[Digits]

  def serves(self, p: Any) -> bool:
    return super().serves(p) and math.prod(tile_of(jnp.shape(p))) >= min(16, self.min_size)

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
    if exponents.dtype != self._exponents(group) or (coded and not divides(exponents.shape, word.shape)):
      raise self.misfit(group, kept)
    return coded

  def encode(self, group: Group, values: Sequence[jax.Array], dither: Dither, kept: Kept | None = None) -> Kept:
    shape = values[0].shape
    tile = tile_of(shape) if kept is None else tile_in(shape, kept[1].shape)
    words, exponents = [], jnp.uint32(0)
    layout = zip(self._layout(group), values, dither(0), strict=False)
    for i, ((real, digits, shift), value, r) in enumerate(layout):
      value = formulas.bounded(value.astype(jnp.float32), LARGE)
      value = jnp.where(value < 0, jnp.nan, value) if real else value  # no average of squares
      top = tile_top(value, tile)
      word = digits.code(real, value, spread(top, shape), r) << shift
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
      exponent = spread(exponents >> 8 * i & 255, word.shape)
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


STORES |= {'int8': Int8, 'int4': Int4}
