r"""Numbers in fewer bits: float32 cut short, and the dither that rounds without bias.

An average at the rate 0.999 moves by a thousandth of itself per step. Rounded to nearest in 16 bits or fewer it does
not move at all; rounded at random it walks. The dither $r_t = (h + t \varphi) \bmod 1$ with a hash h of the element and
an irrational $\varphi$ is uniform at every step, and over the steps so even that the errors of the roundings cancel:
after gradients fell 100 times, the root mean square error of $\sqrt\nu$ in bfloat16 is 2.1 % (docs/precision.md) where
random rounding has 7 % (BUILD_NOTES.md).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The bits of float32 numbers, which order positive numbers as the numbers themselves. Integers are compared because
# XLA:CPU's float minimum, maximum and their reductions may lose a NaN.
TINY = np.uint32(0x00800000)  # the least number that XLA does not flush to 0
_TOP = np.uint32(0x7F000000)  # 2^127: rounding up never reaches infinity
INFINITY = np.uint32(0x7F800000)
NAN = np.uint32(0x7FC00000)  # far from the NaN whose next number would be -0
_SIGN = np.uint32(0x80000000)

# 1/p and 1/p^2 with p^3 = p + 1: the two-dimensional sequence of least known discrepancy (Roberts). An even dither is a
# function of its past, and so are the errors that an average with a short memory still holds. With coarse codes and 1/p
# a mean at b1 = 0.9 is 2 % too small where gradients are constant; with the golden ratio, which `int8` asks for, 0.2 %.
_PLASTIC = (np.uint32(0xC13FA9A9), np.uint32(0x91E10DA5))
_STRIDES = (_PLASTIC, _PLASTIC, (np.uint32(0x9E3779B9), _PLASTIC[1]))


def dither(shape: Sequence[int], t: Any, origin: Any = 0, pair: int = 0) -> tuple[jax.Array, jax.Array]:
  """Two uint32 numbers per element, each uniform over elements and evenly spread over the steps t.

  They do not depend on which array of a tree it is, so that a mask or a partition around it changes nothing.

  Args:
    shape: the shape of the array.
    t: uint32, the step.
    origin: uint32, the index of its first element, where it is a block of a flat array.
    pair: which two numbers of the element they are: 0 for codes, 1 for parameters, 2 for codes that are coarse.

  Returns:
    Two arrays of that shape.
  """
  index = jnp.full(shape, pair * 0x85EBCA6B % 2**32, jnp.uint32) + jnp.uint32(origin)
  for axis in range(len(shape)):  # an iota per axis is local to every shard, a reshape of one would not be
    stride = math.prod(shape[axis + 1 :]) % 2**32
    index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
  bits = index * np.uint32(0x9E3779B1)  # cheap, as it only has to give neighbours different phases
  bits = bits ^ bits >> 15
  first, second = _STRIDES[pair]
  return bits + t * first, (bits << 16) + t * second


# Float32, cut short.


def cut(x: jax.Array, drop: int, r: jax.Array) -> jax.Array:
  """The bits of a float32 whose last `drop` bits are rounded away by a dither, without bias in the linear domain.

  What is not finite becomes a NaN.
  """
  bits = bits_of(x)
  sign = bits & _SIGN
  return sign | _cut(bits ^ sign, drop, r)


def cut_positive(x: jax.Array, drop: int, r: jax.Array) -> jax.Array:
  """The same of x >= 0, as averages of squares are; no code means 0. A negative number becomes a NaN."""
  return _cut(jnp.maximum(bits_of(x), TINY), drop, r)


def _cut(size: jax.Array, drop: int, r: jax.Array) -> jax.Array:
  size = jnp.where(size >= INFINITY, NAN, jnp.minimum(size, _TOP))
  return (size + (r >> (32 - drop))) & np.uint32(2**32 - 2**drop)


def to_nearest(x: jax.Array) -> Any:
  """The dither of an array that rounds to nearest: a code in the middle between two steps."""
  half = jnp.full_like(x, 2**31, dtype=jnp.uint32)
  return lambda _: (half, half)


def bits_of(x: jax.Array) -> jax.Array:
  """The bits of a float32."""
  return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)


def uncut(bits: jax.Array) -> jax.Array:
  """The float32 that has these bits."""
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def unit(r: jax.Array) -> jax.Array:
  """A dither as a number in [0, 1)."""
  return (r >> 8).astype(jnp.float32) * 2.0**-24
