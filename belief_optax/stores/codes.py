r"""Numbers in fewer bits: float32 cut short, logarithms relative to a tile, and the dither that rounds without bias.

An average at the rate 0.999 moves by a thousandth of itself per step. Rounded to nearest in 16 bits or fewer it does
not move at all; rounded at random it walks. The dither $r_t = (h + t \varphi) \bmod 1$ with a hash h of the element and
an irrational $\varphi$ is uniform at every step, and over the steps so even that the errors of the roundings cancel:
after gradients fell 100 times, the root mean square error of $\sqrt\nu$ in bfloat16 is 2.1 % (docs/precision.md) where
random rounding has 7 % (BUILD_NOTES.md).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

TINY = float(np.finfo(np.float32).tiny)  # the least number that XLA does not flush to 0
LARGE = (1 - 2.0**-24) * 2.0**125  # the largest number below a power of two whose reciprocal exp2 does not flush to 0
_NAN = np.uint32(0x7FC00000)  # far from the NaN whose next number would be -0

# 1/p and 1/p^2 with p^3 = p + 1: the two-dimensional sequence of least known discrepancy (Roberts).
_STRIDES = (np.uint32(0xC13FA9A9), np.uint32(0x91E10DA5))


def dither(shape: Sequence[int], t: Any, pair: int = 0) -> tuple[jax.Array, jax.Array]:
  """Two uint32 numbers per element, each uniform over elements and evenly spread over the steps t.

  They do not depend on which array of a tree it is, so that a mask or a partition around it changes nothing.

  Args:
    shape: the shape of the array.
    t: uint32, the step.
    pair: which two numbers of the element they are.

  Returns:
    Two arrays of that shape.
  """
  index = jnp.full(shape, pair * 0x85EBCA6B % 2**32, jnp.uint32)
  for axis in range(len(shape)):  # an iota per axis is local to every shard, a reshape of one would not be
    stride = math.prod(shape[axis + 1 :]) % 2**32
    index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
  bits = index * np.uint32(0x9E3779B1)  # cheap, as it only has to give neighbours different phases
  bits = bits ^ bits >> 15
  return bits + t * _STRIDES[0], (bits << 16) + t * _STRIDES[1]


# Float32, cut short.


def cut(x: jax.Array, drop: int, r: jax.Array) -> jax.Array:
  """The bits of a float32 whose last `drop` bits are rounded away by a dither, without bias in the linear domain.

  What is added never reaches the sign: numbers are at most 2^127, and what is not finite becomes the NaN below.
  """
  return _cut(bits_of(bounded(x, 2.0**127)), drop, r)


def cut_positive(x: jax.Array, drop: int, r: jax.Array) -> jax.Array:
  """The same of 0 <= x <= 2^127, as averages of squares are; it is at least `TINY`, so that no code means 0."""
  return _cut(jnp.minimum(bits_of(jnp.maximum(x, TINY)), _NAN), drop, r)


def bounded(x: jax.Array, limit: float) -> jax.Array:
  """A float32 of a limited size; NaN where it is not finite."""
  x = x.astype(jnp.float32)
  return jnp.where(jnp.isfinite(x), jnp.clip(x, -limit, limit), jnp.nan)


def to_nearest(x: jax.Array) -> Any:
  """The dither of an array that rounds to nearest: a code in the middle between two steps."""
  half = jnp.full_like(x, 2**31, dtype=jnp.uint32)
  return lambda _: (half, half)


def bits_of(x: jax.Array) -> jax.Array:
  """The bits of a float32."""
  return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)


def _cut(bits: jax.Array, drop: int, r: jax.Array) -> jax.Array:
  return (bits + (r >> (32 - drop))) & np.uint32(2**32 - 2**drop)


def uncut(bits: jax.Array) -> jax.Array:
  """The float32 that has these bits."""
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


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
  largest = size.max(tuple(range(1, size.ndim, 2)), initial=0.0)
  return bits_of(largest) >> 23


def spread(top: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """For each element log2 of a power of two above the largest magnitude of its tile; NaN where that is not finite."""
  exponent = jnp.where(top == 255, jnp.nan, top.astype(jnp.float32) - 126.0)
  each = jnp.expand_dims(exponent, tuple(range(1, 2 * len(shape), 2)))
  tiled = jnp.broadcast_to(each, _split(shape, tile_in(shape, top.shape)))
  return _reshape(tiled, shape, jax.typeof(top).sharding.spec)


def _unit(r: jax.Array) -> jax.Array:
  return (r >> 8).astype(jnp.float32) * 2.0**-24


def log_code(x: jax.Array, exponent: jax.Array, bits: int, per_octave: float, r: jax.Array) -> jax.Array:
  """A number >= 0 as its logarithm below the top of its tile: `per_octave` codes for each factor of 2, none for 0."""
  last = 2**bits - 1
  code = last + per_octave * (jnp.log2(jnp.maximum(x.astype(jnp.float32), TINY)) - exponent)
  return jnp.clip(jnp.floor(code + _unit(r)), 0, last).astype(jnp.uint32)


def from_log_code(code: jax.Array, exponent: jax.Array, bits: int, per_octave: float) -> jax.Array:
  """The number that a logarithmic code means: never 0."""
  return jnp.maximum(jnp.exp2((code.astype(jnp.float32) - (2**bits - 1)) / per_octave + exponent), TINY)


def signed_code(x: jax.Array, exponent: jax.Array, bits: int, mu: float, r: jax.Array) -> jax.Array:
  """A number as sign and log2(1 + mu |x| / top): linear around 0, logarithmic near the top of its tile."""
  last = 2 ** (bits - 1) - 1
  x = x.astype(jnp.float32)
  size = jnp.log2(1 + mu * (jnp.abs(x) * jnp.exp2(-exponent))) * (last / math.log2(1 + mu))
  code = jnp.clip(jnp.floor(size + _unit(r)), 0, last).astype(jnp.uint32)
  return jnp.where(x < 0, code | np.uint32(last + 1), code)


def from_signed_code(code: jax.Array, exponent: jax.Array, bits: int, mu: float) -> jax.Array:
  """The number that a signed code means."""
  last = 2 ** (bits - 1) - 1
  size = (jnp.exp2((code & np.uint32(last)).astype(jnp.float32) * (math.log2(1 + mu) / last)) - 1) / mu
  return jnp.where(code > last, -size, size) * jnp.exp2(exponent)
