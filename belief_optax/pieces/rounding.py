"""How parameters of 16 bits take steps that are smaller than their last digit."""

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core import Leaf, Line, Slot, choice, dtypes, option, piece
from belief_optax.stores import bits

Method = Literal['stochastic', 'compensated', 'split']


class _Landing(NamedTuple):
  """Where a parameter lands: a value that its dtype can hold, and what is carried to the next step."""

  q: jax.Array
  slots: Mapping[str, jax.Array]


class _Stochastic:
  """One of the two neighbours; the base of the other methods."""

  slots: tuple[Slot, ...] = ()
  served: tuple[str, ...] = ('bfloat16', 'float16')

  def whole(self, x: Leaf) -> Any:
    """The parameter that is meant, of what is stored."""
    return x.p

  def land(self, x: Leaf, r: tuple[jax.Array, jax.Array]) -> _Landing:
    """Where it lands after the update, given two dithers."""
    w = x.p + x.u
    return _Landing(jnp.where(jnp.isinf(w), w, _at_random(w, x.stored.dtype, r[0])), {})


class _Compensated(_Stochastic):
  slots = (Slot('compensation', real=True, dtype=jnp.dtype('bfloat16'), exact=True),)

  def whole(self, x: Leaf) -> Any:
    return x.p + x.slots['compensation']

  def land(self, x: Leaf, r: tuple[jax.Array, jax.Array]) -> _Landing:
    w = _once(x.p + x.u)  # w = p_{t-1} + c_{t-1} + u_t
    q = w.astype(x.stored.dtype).astype(w.dtype)  # q = nearest(w)
    rest = jnp.where(jnp.isinf(q), 0, w - q)
    return _Landing(q, {'compensation': _at_random(rest, jnp.dtype('bfloat16'), r[1])})  # to nearest it would freeze


class _Split(_Stochastic):
  slots = (Slot('low', real=True, dtype=jnp.dtype('int16'), exact=True),)
  served = ('bfloat16',)

  def whole(self, x: Leaf) -> Any:
    return _straight(bits.uncut(bits.bits_of(x.p) + x.slots['low'].astype(jnp.uint32)).astype(x.p.dtype), x.p)

  def land(self, x: Leaf, r: tuple[jax.Array, jax.Array]) -> _Landing:
    w = _once(x.p + x.u)
    whole = bits.bits_of(w)
    half = jnp.where(whole & 0x7FFFFFFF > 0x7F800000, np.uint32(0), np.uint32(0x8000))  # a NaN must stay one
    high = (whole + half) & np.uint32(0xFFFF0000)  # to nearest, and a tie away from 0, so that 16 bits hold the rest
    return _Landing(_straight(bits.uncut(high).astype(w.dtype), w), {'low': (whole - high).astype(jnp.int16)})


@jax.custom_jvp
def _straight(rounded: jax.Array, x: jax.Array) -> jax.Array:
  """A rounded number with the derivative of what was rounded (straight-through)."""
  del x
  return rounded


@_straight.defjvp
def _derivative_of_straight(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
  return _straight(*primals), tangents[1]


def _once(x: jax.Array) -> jax.Array:
  """The same numbers, computed in one place only.

  What a parameter lands on and what is carried must come from one sum to the last bit. XLA:CPU would compute it in the
  kernel of each, with other fused multiply-adds, but not if it ends in something as dear as a division.
  """
  return x / jnp.where(jnp.isnan(x), 2.0, 1.0)


def _at_random(x: jax.Array, dtype: Any, r: jax.Array) -> jax.Array:
  """One of the two neighbours of x in a dtype of 16 bits, so that the mean is x; x itself where the dtype holds it."""
  if dtype == jnp.bfloat16:
    return _straight(bits.uncut(bits.cut(x, 16, r)).astype(x.dtype), x)
  power = bits.uncut(bits.bits_of(x) & np.uint32(0x7F800000))  # 2^floor(log2 |x|)
  digit = jnp.maximum(power * 2.0**-10, 2.0**-24)  # the distance of neighbours in float16
  return _straight(jnp.floor(x / digit + (r >> 20).astype(x.dtype) * 2.0**-12) * digit, x)


METHODS: Mapping[Method, _Stochastic] = {'stochastic': _Stochastic(), 'compensated': _Compensated(), 'split': _Split()}


class RoundUpdates(Line):
  r"""Makes parameters of 16 bits land exactly on a value that they can hold, so that small steps are not lost.

  .. math:: u \leftarrow q - p, \qquad q \approx p + u

  where q is a number of the parameter's dtype. As u comes back in float32, the p + u of `optax.apply_updates` IS q, so
  every training loop works as it is. The methods:

  - `'stochastic'`: q is one of the two neighbours of p + u, with probabilities whose mean is p + u. It needs no memory;
  - `'compensated'`: q is the nearest, and what it lacks is carried to the next step in the slot `compensation` (Kahan's
    summation; 2 bytes per parameter);
  - `'split'`: q is the upper half of a float32 whose lower half is the slot `low` (2 bytes per parameter). bfloat16
    parameters then take the steps of float32 bit for bit, and the pieces before it, such as `add_decayed_weights`, see
    the float32 parameter.

  Derivatives go straight through the rounding: the derivative of q is that of p + u.

  Parameters of 32 bits and more are left alone (their slots are empty but allocated: leave them out with
  `optax.masked`). Put it last: a wrapper that compares dtypes, such as `optax.apply_if_finite`, goes inside.

  Args:
    method: `'stochastic'`, `'compensated'` or `'split'`.

  Returns:
    A piece with the slot of its method. Its updates are float32, whatever the dtype of the gradient.

  Raises:
    ValueError: if `method` is unknown.
    TypeError: at `init` if a parameter has a dtype of 16 bits that the method cannot serve: `'split'` needs bfloat16.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp, optax
    >>> tx = bo.compose(bo.sgd(1e-3), bo.round_updates('split'))
    >>> p, g = jnp.ones(1, jnp.bfloat16), jnp.ones(1, jnp.bfloat16)
    >>> state = tx.init(p)
    >>> for _ in range(100):
    ...   updates, state = tx.update(g, state, p)
    ...   p = optax.apply_updates(p, updates)
    >>> print(p)  # to nearest it would still be 1
    [0.898438]

  References:
    Zamirai et al., Revisiting BFloat16 Training (https://arxiv.org/abs/2010.06192), Algorithms 2 and 3.
  """

  method: Method = option(default='stochastic', normal=functools.partial(choice, allowed=Method))

  reads_params = True
  widens = True

  @property
  def slots(self) -> tuple[Slot, ...]:
    return METHODS[self.method].slots

  def check(self, p: Any) -> None:
    dtype = jnp.dtype(dtypes.of(p))
    if dtypes.is_short(dtype) and dtype.name not in METHODS[self.method].served:
      can = ', '.join(repr(name) for name, method in METHODS.items() if dtype.name in method.served)
      raise TypeError(f'round_updates({self.method!r}) cannot serve {dtype.name} parameters; methods that can: {can}.')

  def begin(self, x: Leaf) -> Leaf:
    return x.see(METHODS[self.method].whole(x)) if dtypes.is_short(x.stored.dtype) else x

  def step(self, x: Leaf, k: Any) -> Leaf:
    if not dtypes.is_short(x.stored.dtype):
      return x
    q, slots = METHODS[self.method].land(x, x.dither(1))
    p = x.stored.astype(q.dtype)
    stays = jnp.isinf(p) & (q == p)  # inf - inf would be NaN
    return x.see(p).keep(**slots).set(u=jnp.where(stays, 0, q - p))  # u = q - p, and the lines behind it see p


round_updates = piece(RoundUpdates)
