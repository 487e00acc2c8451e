"""What is measured on one array: the rule of the step runs again, and what its lines know is summed."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from belief_optax import formulas
from belief_optax.core import Leaf, Line, Rule, dtypes
from belief_optax.core.watching import Watch
from belief_optax.pieces.directions import AverageDirection
from belief_optax.pieces.moments import Belief
from belief_optax.pieces.rectify import Rectify
from belief_optax.pieces.scaling import AddEpsRoot, Precondition, ScaleByLearningRate
from belief_optax.stores import Route, bits


class Sums(NamedTuple):
  """What is measured of some elements, so that sums of arrays add up.

  Attributes:
    weights: for each name a sum over elements, and how many these are: not every array has what another one has.
    peaks: for each name the largest.
  """

  weights: dict[str, Any]
  peaks: dict[str, Any]

  def __add__(self, other: 'Sums') -> 'Sums':  # pyright: ignore[reportIncompatibleMethodOverride]
    join = lambda a, b, of: {name: of(a[name], b[name]) if name in a and name in b else (a | b)[name] for name in a | b}
    return Sums(join(self.weights, other.weights, jnp.add), join(self.peaks, other.peaks, jnp.maximum))


# What a line says of itself.


@functools.singledispatch
def probe(line: Line, k: Any, before: Leaf, after: Leaf, t: Any) -> Mapping[str, Any]:
  """Shows what a line knows of its step on one array, for `measure`; register a function for each class of your own.

  Args:
    line: the line. Its class chooses the function; one that is not registered shows what it caps, if it says `caps`.
    k: its scalars of this step.
    before: what is known before it.
    after: what is known after it.
    t: the step, a real number.

  Returns:
    Values by name: `learning_rate`, `r_t` and `rectified` are scalars, `eps` and `capped` masks of the elements where
    eps dominates and where a limit holds, `direction` the array that the learning rate multiplies, and `surprise` the
    gradient over the root of the second moment.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> from belief_optax import diagnostics
    >>> class Clip(bo.Line):
    ...   def step(self, x, k):
    ...     return x.redirect(jnp.clip(x.u, -1, 1))
    >>> @diagnostics.probe.register
    ... def _(line: Clip, k, before, after, t):
    ...   return {'capped': jnp.abs(before.u) > 1}
    >>> tx, g = diagnostics.measure(bo.piece(Clip)()), jnp.array([0.5, 2.0])
    >>> diagnostics.read(tx.update(g, tx.init(g))[1])['capped_share']
    0.5
  """
  del k, t
  return {'capped': (before.u != after.u) & (before.u == before.u)} if line.caps else {}  # a NaN is not capped


@probe.register
def _(line: ScaleByLearningRate, k: Any, before: Leaf, after: Leaf, t: Any) -> Mapping[str, Any]:
  del line, after, t
  return {'learning_rate': jnp.abs(k), 'direction': before.u}


@probe.register
def _(line: Rectify, k: Any, before: Leaf, after: Leaf, t: Any) -> Mapping[str, Any]:
  del line, before, after, t
  adaptive, r = k
  return {'rectified': adaptive, 'r_t': jnp.where(adaptive, r, 0)}


@probe.register
def _(line: Belief, k: Any, before: Leaf, after: Leaf, t: Any) -> Mapping[str, Any]:
  del line, before
  rate, _, eps_root, _ = k
  floor = (
    eps_root * formulas.bias_mass(t * formulas.decay_exponent(1 - rate)) / rate
  )  # what eps_root alone has summed to
  return {'eps': _mostly(floor, after.slots['nu'] - floor)}


@probe.register
def _(line: AddEpsRoot, k: Any, before: Leaf, after: Leaf, t: Any) -> Mapping[str, Any]:
  del line, after, t
  return {'eps': _mostly(k, before.nu_hat)}


@probe.register
def _(line: Precondition, k: Any, before: Leaf, after: Leaf, t: Any) -> Mapping[str, Any]:
  del line, after, t
  eps, eps_root = k
  root = formulas.safe_sqrt(before.nu_hat)
  scale = jnp.maximum(formulas.safe_sqrt(before.nu_hat + eps_root), eps)
  surprise = formulas.safe_divide(jnp.abs(before.g), scale, formulas.smallest_root(root))
  return {'eps': _mostly(eps, root) | _mostly(eps_root, before.nu_hat), 'surprise': surprise}


def _mostly(eps: Any, rest: Any) -> Any:
  """Where eps is at least half of what it is added to."""
  return (eps > 0) & (rest <= eps)


# All of one array.


class Notes(Watch):
  """What the lines of one array show, summed.

  Attributes:
    step: the step t, as a real number.
    sums: the result.
  """

  def __init__(self, step: Any) -> None:
    self.step = step
    self.sums = Sums({}, {})
    self._seen: dict[str, Any] = {}
    self._expects = True  # whether the mean is one of gradients

  def line(self, line: Any, k: Any, before: Any, after: Any) -> None:
    self._expects &= not isinstance(line, AverageDirection)
    for name, value in probe(line, k, before, after, self.step).items():
      old = self._seen.get(name)
      if old is None or name == 'direction':  # that of the learning rate which comes last
        self._seen[name] = value
      else:  # two learning rates are their product, two masks what one of them says
        self._seen[name] = old | value if jnp.asarray(value).dtype == bool else old * value

  def rounded(self, route: Route, exact: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    for slot in route.group:
      if slot.name in kept and jnp.issubdtype(kept[slot.name].dtype, jnp.inexact):
        kind, of = ('root', formulas.safe_sqrt) if slot.real else ('mean', lambda x: x)
        true = of(exact[slot.name])
        self.sums += Sums(
          {f'{kind}_code_error': squares(of(kept[slot.name]) - true), f'{kind}_code': squares(true)}, {}
        )

  def end(self, x: Any) -> None:
    weights: dict[str, Any] = {}
    if 'mu' in x.slots and self._expects:
      weights |= {'residual': squares(x.g - x.slots['mu']), 'seen': squares(x.g)}
    for name, value in self._seen.items():
      if name in ('direction', 'surprise'):
        weights[name] = squares(value)
      else:  # a share of the elements, or a scalar of all of them
        weights[name] = total(jnp.broadcast_to(value, x.g.shape))
    peaks = {'direction': largest(self._seen['direction'])} if 'direction' in self._seen else {}
    self.sums += Sums(weights, peaks)
    self._seen = {}


@dataclasses.dataclass(frozen=True)
class Observed:
  """A rule that is run to be looked at: it returns `Sums` instead of a step.

  It runs beside the step, behind a barrier, so that no compiler makes one program of both and rounds in another way.

  Attributes:
    rule: the rule.
    sample: how many elements of the array are looked at; None for all.
  """

  rule: Rule
  sample: int | None

  def __call__(self, g: Any, p: Any, kept: Mapping[str, Any], scalars: Sequence[Any], t: Any) -> Sums:
    at = places(g.shape, self.sample)
    g_, p_, kept_ = jax.lax.optimization_barrier(jax.tree.map(lambda x: x[at], (g, p, dict(kept))))
    dither = lambda pair: tuple(x[at] for x in bits.dither(g.shape, t, 0, pair))
    notes = Notes(t.astype(jnp.float32))
    u, _ = self.rule.run(g_, p_ if self.rule.reads_params else None, kept_, scalars, dither, notes)
    found = notes.sums + moved(g_, u, p_)
    times = g.size / max(g_.size, 1)
    return Sums({name: x * times for name, x in found.weights.items()}, found.peaks)


def moved(g: Any, u: Any, p: Any) -> Sums:
  """What is known of a step without its lines."""
  weights = {'gradient': squares(g), 'update': squares(u)}
  if p is not None:
    lands = dtypes.rounded(p.astype(jnp.promote_types(p.dtype, jnp.float32)) + u, p.dtype)
    lost = (lands == p) & (u != 0)
    weights |= {'param': squares(p), 'lost': total(lost)}
  return Sums(weights, {'update': largest(u)})


def places(shape: Sequence[int], sample: int | None) -> tuple[slice, ...]:
  """Evenly spread elements of an array, about `sample` of them: strides over its first axes, and whole rows."""
  rest = 1 if sample is None else -(-math.prod(shape) // sample)
  steps = []
  for n in shape:
    steps.append(max(1, min(n, rest)))
    rest = -(-rest // steps[-1])
  return tuple(slice(None, None, step) for step in steps)


def total(x: Any) -> Any:
  """The sum of an array, and how many elements it has."""
  return jnp.stack([jnp.sum(x, dtype=jnp.float32), jnp.float32(x.size)])


def squares(x: Any) -> Any:
  """The sum of |x|^2, and how many elements there are."""
  return total(formulas.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))))


def largest(x: Any) -> Any:
  """The largest |x|."""
  return jnp.max(jnp.abs(x), initial=0).astype(jnp.float32)
