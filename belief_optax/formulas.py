r"""The formulas of the family, on arrays and scalars: no trees, no state, no options.

Averages are written as increments, $m + (1-b)(g-m)$: the float32 rounding of $b$ itself would be a systematic
error (1.3e-8 per step at $b = 0.999$, summed over the life of the average), the rounding of $1-b$ is none.

Bias masses and rectification are functions of the *age* $x_t = -\log \prod_{i \le t} b_i$, which is $t\lambda$ with
$\lambda = -\log b$ for a constant rate. Written so they are exact to float32 rounding for every $b$ and $t$, where the
textbook forms lose up to all digits (see BUILD_NOTES.md).
"""

import functools
import math
from fractions import Fraction
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

# Scalars and arrays alike; the host's float64 numbers and the step's traced scalars share every formula.
Number = Any


_LONGEST = 700.0  # stands for -log 0: e^-700 is 0 beside 1, and t * 700 stays finite


def _xp(*values: Number) -> ModuleType:
  """NumPy for host numbers, jax.numpy for traced scalars and arrays."""
  return np if all(isinstance(v, int | float) for v in values) else jnp


def ema(old: Number, new: Number, rate: Number) -> Number:
  """Moves an average towards a value: b old + (1-b) new, with rate = 1-b."""
  if _forgets(rate):
    return (1 - rate) * old + rate * new
  return old + rate * (new - old)


def _forgets(rate: Number) -> bool:
  """Whether b < 1/2. Then b old is the small term: b = 0 must leave no rounding of the old value in the new one."""
  return _xp(rate) is np and rate > 0.5


def largest_gradient(like: Number) -> float:
  """The largest gradient that an average of squares takes: 2^60 in float32, 2^508 in float64.

  The square of a residual of two such numbers, and the sum of it and another one, are finite.
  """
  return 2.0 ** (jnp.finfo(like.dtype).maxexp // 2 - 4)


def smallest_root(like: Number) -> float:
  """The smallest root of an average of squares that has digits: 2^-55 in float32, 2^-503 in float64.

  The squares of gradients below it are flushed to 0 by rates down to 2^-16, one sooner than another.
  """
  return 2.0 ** ((jnp.finfo(like.dtype).minexp + 16) // 2)


def bounded(x: Number, limit: Number) -> Number:
  """A number of a limited size; NaN where it is not finite, so that this stays visible.

  What ends in an operation on one array and constants XLA:CPU computes again in each kernel that reads it. In another
  order, with the sum last, it would write a temporary.
  """
  if jnp.iscomplexobj(x):
    return lax.complex(bounded(x.real, limit), bounded(x.imag, limit))
  return jnp.clip(x + (x - x), -limit, limit)  # inf - inf is NaN


def shortened(x: Number, limit: Number) -> Number:
  """A number of at most this size, of a complex one the modulus; NaN where it is not finite. The limit may be 0."""
  if not jnp.iscomplexobj(x):
    return bounded(x, limit)
  size = jnp.abs(x)
  return x * safe_divide(jnp.minimum(size, limit), size)


def square(r: Number, weight: Number = 1.0) -> Number:
  """The real weight |r|^2, as (weight r) r: a weight of 1e-3 keeps the square of 1e20 finite in float32."""
  if jnp.iscomplexobj(r):
    return (weight * r.real) * r.real + (weight * r.imag) * r.imag
  return (weight * r) * r


def ema_square(old: Number, r: Number, rate: Number, weight: Number | None = None, floor: Number = 0.0) -> Number:
  """Moves an average of squares: b old + weight |r|^2 + floor, with rate = 1-b and weight = rate unless it is given.

  It is finite where r comes from gradients of at most `largest_gradient`. The floor stands inside the sum: outside of
  it, XLA:CPU computes the average twice and copies a whole buffer.
  """
  added = square(r, rate if weight is None else weight) + floor
  return (1 - rate) * old + added if _forgets(rate) else old + (added - rate * old)


def add_square(old: Number, r: Number) -> Number:
  """Adds |r|^2 to a sum of squares that stays finite; the bound is inside for the same reason."""
  return old + jnp.minimum(square(r), float(jnp.finfo(old.dtype).max) - old)


def two_sum(total: tuple[Number, Number], x: Number) -> tuple[Number, Number]:
  """Adds x to a sum that is kept with what its rounding has lost: 10^5 terms of 10^-5 are 1 in float32, not 1.001."""
  high, low = total
  x = x + low
  new = high + x
  part = new - high
  return new, (high - (new - part)) + (x - part)


def safe_sqrt(v: Number) -> Number:
  """sqrt(v) for v >= 0, whose derivative at 0 is 0 instead of infinite; NaN for what is no square."""
  zero = v == 0
  return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, v)))


def safe_divide(a: Number, d: Number, least: float = 0.0) -> Number:
  """A / d for d > 0, and 0 for d = 0: what has no scale is not moved. A NaN in d stays visible.

  A positive d counts as `least` or more.
  """
  positive = d > 0
  at_least = jnp.maximum(d, least) if least else d
  return jnp.where(positive, a / jnp.where(positive, at_least, 1), a * d)


def norm(x: Number) -> Number:
  """The Euclidean norm of an array, whose derivative at 0 is 0; no square in it overflows, or is flushed to 0."""
  scale = _scale(x)
  return scale * safe_sqrt(jnp.sum(square(x / scale)))


def unit(x: Number, eps: Number = 0.0) -> Number:
  """An array over its norm plus eps; its derivative is finite also where the square of the norm would be 0."""
  shrink = 1 / _scale(x)  # arrays are only multiplied: what is divided XLA:CPU computes once, into a temporary
  return x * shrink * safe_divide(1.0, safe_sqrt(jnp.sum(square(x * shrink))) + eps * shrink)


def _scale(x: Number) -> Number:
  """The largest size in an array, so that the norm of x / scale is 1 or more; 1 where there is none."""
  largest = lax.stop_gradient(jnp.max(jnp.abs(x), initial=0.0))
  return jnp.where((largest > 0) & (largest < jnp.inf), largest, 1.0)


def decay_exponent(b: Number) -> Number:
  """Lambda = -log b."""
  if _xp(b) is np:
    return -math.log(max(b, math.exp(-_LONGEST)))
  return jnp.minimum(-jnp.log1p(-(1 - b)), _LONGEST)


def bias_mass(x: Number) -> Number:
  """1 - prod b = 1 - exp(-x): the total weight of the gradients in an average of age x that began at zero."""
  return -_xp(x).expm1(-x)


def _series(terms: int) -> list[float]:
  """Coefficients of h(x) = x/2 - sum_k B_2k x^2k / (2k)!, from Bernoulli's recursion in exact fractions."""
  b = [Fraction(1)]
  for n in range(1, 2 * terms + 1):
    b.append(-sum((math.comb(n + 1, k) * b[k] for k in range(n)), Fraction(0)) / (n + 1))
  return [float(-b[2 * k] / math.factorial(2 * k)) for k in range(1, terms + 1)]


_H_SERIES = _series(12)  # the ratio of successive terms is 1/(2 pi)^2, so 12 terms give float64 at x < 1


def h(x: Number) -> Number:
  r"""$h(x) = 1 - x/(e^x - 1)$, by its series where the direct form would cancel."""
  xp = _xp(x)
  small = xp.where(x < 1, x, 0.0)
  big = xp.clip(x, 1.0, _LONGEST)
  series = small / 2 + functools.reduce(lambda acc, c: (acc + c) * small * small, reversed(_H_SERIES), 0.0)
  direct = 1 - big * xp.exp(-big) / -xp.expm1(-big)
  value = xp.where(x < 1, series, direct)
  return float(value) if xp is np else value


def effective_length(x: Number, lam: Number) -> Number:
  r"""$\rho_t = \rho_\infty - 2 t b^t / (1 - b^t)$, the length of the simple average that an average of age x equals.

  With $x = t\lambda$: $\rho_t = (2/\lambda) h(x) + 1 - (2/\lambda) h(\lambda)$, in which nothing cancels.
  """
  return (2 / lam) * h(x) + (1 - (2 / lam) * h(lam))


def effective_length_limit(lam: Number) -> Number:
  r"""$\rho_\infty = 2/(1-b) - 1$."""
  return 2 / bias_mass(lam) - 1


def rectification(rho: Number, rho_inf: Number, adaptive: Number) -> Number:
  r"""$r_t = \sqrt{(\rho_t-4)(\rho_t-2)\rho_\infty / ((\rho_\infty-4)(\rho_\infty-2)\rho_t)}$ (Liu et al., eq. 15).

  Where the step is not adaptive the root is of 1, not of a negative number: `where` evaluates both its branches, and
  their derivatives.
  """
  limit = jnp.where(rho_inf > 4, rho_inf, 5.0)
  rho = jnp.where(adaptive, rho, limit)
  return jnp.sqrt(((rho - 4) / (limit - 4)) * ((rho - 2) / (limit - 2)) * (limit / rho))


@functools.lru_cache
def first_tractable_step(b2: float, threshold: float) -> int | None:
  r"""The first integer t with $\rho_t \ge$ threshold, found in float64 on the host; None if there is none.

  >>> first_tractable_step(0.999, 5.0), first_tractable_step(0.8, 5.0), first_tractable_step(0.6, 5.0)
  (6, 7, None)
  """
  lam = decay_exponent(b2)
  if effective_length_limit(lam) <= threshold:
    return None
  last = 1
  while effective_length(last * lam, lam) < threshold:
    last *= 2
    if last > 2**31:  # rho_t reaches its limit only beyond every step count
      return None
  first = last // 2
  while last - first > 1:  # rho_t grows with t: bisect
    middle = (first + last) // 2
    first, last = (middle, last) if effective_length(middle * lam, lam) < threshold else (first, middle)
  return last
