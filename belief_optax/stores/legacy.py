"""What version 0.1.0 wrote with its stores int8 and int4: codes relative to the largest number of a tile."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core import Recipe, Slot, State, compose
from belief_optax.stores import bits
from belief_optax.stores.base import unbundle


class Digits(NamedTuple):
  """The bits of a number, the codes of a second moment per factor of 2, and where the code of a mean becomes linear."""

  bits: int
  per_octave: float
  mu: float


DIGITS = {'int8': Digits(8, 10.0, 127.0), 'int4': Digits(4, 1.0, 15.0)}


def without_tiles(state: Any, tx: Recipe) -> tuple[Any, Recipe]:
  """A state and its recipe: as they are or, if 0.1.0 wrote the state in tiles, as float32 has them."""
  if not isinstance(state, State) or not any(key.endswith('.exponents') for key in state.slots):
    return state, tx
  slots = {slot.name: slot for line in tx.lines for slot in line.slots}
  read: dict[str, Any] = {}
  for key, words in state.slots.items():
    name, _, store = key.rpartition('.')
    if store == 'exponents':
      continue
    if store not in DIGITS:
      read[key] = words
      continue
    group = tuple(slots[one] for one in name.split('+') if one in slots)
    digits = DIGITS[store] if len(group) == 2 else DIGITS['int8']
    exponents = state.slots[f'{name}.exponents']
    for i, slot in enumerate(group):
      value = lambda word, tops, i=i, group=group, digits=digits: _read(group, digits, word, tops)[i]
      read[slot.name] = jax.tree.map(value, words, exponents)
  return state._replace(slots=read), compose(tx, store={'default': tx.store, **dict.fromkeys(read, 'float32')})


def _read(group: tuple[Slot, ...], digits: Digits, word: jax.Array, tops: jax.Array) -> Sequence[jax.Array]:
  if jnp.issubdtype(word.dtype, jnp.inexact):  # what was too small for codes
    return unbundle(group, word)
  for axis, (dim, count) in enumerate(zip(word.shape, tops.shape, strict=True)):
    tops = jnp.repeat(tops, dim // count if count else 1, axis)
  values = []
  for i, slot in enumerate(group):
    code = word.astype(jnp.uint32) >> (digits.bits if i < len(group) - 1 else 0) & np.uint32(2**digits.bits - 1)
    top = tops.astype(jnp.uint32) >> 8 * i & 255
    exponent = jnp.where(top == 255, jnp.nan, top.astype(jnp.float32) - 126)
    values.append((_square if slot.real else _mean)(code, exponent, digits))
  return values


def _square(code: jax.Array, exponent: jax.Array, digits: Digits) -> jax.Array:
  below = (code.astype(jnp.float32) - (2**digits.bits - 1)) / digits.per_octave
  return jnp.maximum(jnp.exp2(below + exponent), bits.uncut(jnp.asarray(bits.TINY)))


def _mean(code: jax.Array, exponent: jax.Array, digits: Digits) -> jax.Array:
  last = 2 ** (digits.bits - 1) - 1
  octaves = (code & np.uint32(last)).astype(jnp.float32) * (math.log2(1 + digits.mu) / last)
  size = (jnp.exp2(octaves) - 1) / digits.mu * jnp.exp2(exponent)
  return jnp.where(code > last, -size, size)
