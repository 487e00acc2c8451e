r"""A mean as a direction, and the root of a second moment as a float of few bits: 16 bits of one element alone.

The mean of a small gradient beside a large one needs a scale of its own. The root of its second moment is that scale,
and it is kept anyway. So one word of 16 bits holds

.. math:: r = m / \sqrt{v} \in [-7.5, 7.5] \text{ in 7 bits}, \qquad \sqrt{v} \text{ in 9 bits, 8 codes per octave}

where v is the second moment AS IT IS KEPT, so that the mean has the error of r alone. Nothing here is transcendental:
both codes come from the bits of a float.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.stores import bits
from belief_optax.stores.base import STORES, Dither, Group, Kept
from belief_optax.stores.packed import Packed16

# The scale: a float of 6 bits of exponent and 3 of mantissa, 8 codes per octave of sqrt(v). The last stands for NaN.
LOWEST, HIGHEST = -40, 23  # log2 of sqrt(v)
_LOW, _HIGH = (np.uint32((127 + power) << 23) for power in (LOWEST, HIGHEST))
_NAN = np.uint32(2**9 - 1)
_ONE, _MANTISSA, _FRACTION = np.uint32(127 << 23), np.uint32(2**23 - 1), np.uint32(2**20 - 1)

# A root at the fraction t of the way between the codes n and n + 1 of its octave, n = 8 .. 15, is rounded up with the
# probability that keeps its logarithm: log(1 + t/n) / log(1 + 1/n) = t + t (1 - t) k, where k = 1 / (2 n - 1) to second
# order, which is a line in the mantissa. An average moves by little in a step, so it is always next to a code: the
# slopes there make it fall and rise at its own pace, where rounding that keeps the root lets it fall 4 % too fast. That
# makes a root among noisy gradients 2.5 % too large; a slope that is less by _LESS on the way up leaves 1.5 %.
_SLOPE, _OFFSET = np.polyfit(np.arange(8, 16) / 8 + 1 / 16, 1 / (2 * np.arange(8, 16) - 1), 1).tolist()
_LESS = 0.045

# The direction: z = 1 + 32 |r| has 8 octaves of 8 codes, which are linear inside an octave and fine near 0. All that is
# computed with codes is exact, so what is read and written again is the same code, whatever the dither.
_STEPS = 32
LIMIT = 239 / _STEPS  # of |r|, and so of a step in learning rates: 7.47
_TOP = np.uint32((127 << 23) + (63 << 20))  # the bits of the last z, 240


def scale_code(w: jax.Array, r: jax.Array) -> jax.Array:
  """The 9 bits of a root w > 0, rounded by a dither; what is outside of the range is its end."""
  near = jnp.clip(bits.bits_of(w), _LOW, _HIGH)
  t = bits.uncut((near & _FRACTION) << 3 | _ONE) - 1
  k = _OFFSET + _SLOPE * bits.uncut(near & _MANTISSA | _ONE) - _LESS * (1 - t)
  up = bits.bits_of(t * (1 - t) * k + 8) - bits.bits_of(jnp.float32(8))  # 2^20 times as much, as an integer
  return (near - _LOW + up + (r >> 12)) >> 20


def root(code: jax.Array) -> jax.Array:
  """The root that 9 bits mean: never 0."""
  return bits.uncut((code << 20) + _LOW)


def direction_code(r: jax.Array, dither: jax.Array) -> jax.Array:
  """The 6 bits of a size |r|, rounded by a dither, without bias; more than the limit is the limit."""
  z = jnp.minimum(bits.bits_of(1 + _STEPS * r), _TOP)
  return (z - _ONE + (dither >> 12)) >> 20


def from_direction_code(code: jax.Array) -> jax.Array:
  """The size that 6 bits mean."""
  return (bits.uncut((code << 20) + _ONE) - 1) * (1 / _STEPS)


@dataclasses.dataclass(frozen=True)
class Int8(Packed16):
  r"""Keeps a mean and a second moment in ONE uint16, in 7 and 9 bits: 2 bytes per parameter for both.

  The mean m is kept as r = m / sqrt(v), relative to the second moment v as it is kept: a sign and 6 bits that are fine
  near 0 and reach to 7.5. The second moment has 4 codes per factor of 2, from 2^-80 to 2^46. Each element is on its
  own: arrays of any shape and size are coded, and every sharding is local.

  - No step of Adam or AdaBelief is longer than 7.5 learning rates, whatever the codes hold: |m| <= 7.5 sqrt(v), and the
    bias correction makes that less as long as b2 > 1 - (1 - b1)^2. Exact arithmetic has no such bound for AdaBelief: a
    constant gradient drives |m| / sqrt(v) up to |g| / sqrt(eps). Where it is clipped, the mean is 12 - 20 % too small,
    and the second moment, which sees that as a residual, settles near (g / 9)^2.
  - A single direction has a root mean square error of at most 15 % at b1 = 0.9, whatever the other elements are
    (docs/precision.md). It has no bias, so it averages out over the steps. Where the mean is much smaller than the
    gradients, as that of noise at b1 = 0.99, the relative error is larger.
  - A running maximum (AMSGrad) finds the largest of values that are off by some percent, so its steps become shorter
    than those of float32: keep the second moment of AMSGrad in `'packed16'`.
  - Gradients are bounded to 2^23 = 8.4e6 before they are averaged; those below 2^-40 = 9e-13 count as less than they
    are.

  A slot without a partner (the momentum of SGD, the second moment of RMSProp, the maximum of AMSGrad) has 2 bytes, as
  in `Packed16`: in 8 bits of its own a momentum, which has no scale, would have hardly a digit.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.adabelief(1e-3, store='int8')
    >>> state = tx.init({'w': jnp.zeros((128, 64)), 'b': jnp.zeros(7)})
    >>> state.slots['mu+nu.direction']['b'].dtype.name
    'uint16'
  """

  min_size: int = 0

  def groups(self, slots: Group) -> Iterable[Group]:
    """A slot and the one whose root is its scale."""
    named = {slot.name: slot for slot in slots}
    pairs = [(slot, named[slot.scale]) for slot in slots if slot.scale in named]
    paired = {slot.name for pair in pairs for slot in pair}
    return (*pairs, *((slot,) for slot in slots if slot.name not in paired))

  def parts(self, group: Group) -> tuple[str, ...]:
    return ('direction',) if len(group) == 2 else super().parts(group)

  def code(self, group: Group) -> Any:
    return jnp.uint16 if len(group) == 2 else super().code(group)

  def largest_gradient(self, group: Group, kept: Kept) -> float:
    return 2.0**HIGHEST if len(group) == 2 and self.rounds(group, kept) else math.inf

  def encode(self, group: Group, values: Sequence[jax.Array], dither: Dither, kept: Kept | None = None) -> Kept:
    if len(group) != 2:
      return super().encode(group, values, dither, kept)
    (m, v), (first, second) = values, dither(2)
    w = jnp.sqrt(v)
    scale = scale_code(w, second)
    direction = direction_code(jnp.abs(m) / root(scale), first)  # relative to the root as it is kept
    finite = (bits.bits_of(w) < bits.INFINITY) & (bits.bits_of(jnp.abs(m)) < bits.INFINITY)
    scale = jnp.where(finite, scale, _NAN)
    # XLA:CPU computes what ends in a cast again for each of its users, and then cannot overwrite the old word; a union
    # of two arrays it does not.
    signed = (bits.bits_of(m) >> 31) << 15 | direction << 9
    return (signed.astype(jnp.uint16) | scale.astype(jnp.uint16),)

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    if len(group) != 2:
      return super().decode(group, kept)
    word = kept[0].astype(jnp.uint32)
    scale = word & np.uint32(2**9 - 1)
    w = bits.uncut(jnp.where(scale == _NAN, bits.NAN, bits.bits_of(root(scale))))
    size = from_direction_code(word >> 9 & 63) * w
    return jnp.where(word >> 15 == 1, -size, size), w * w


STORES |= {'int8': Int8}
