"""What the arguments of a recipe amount to: half-lives, floors, first steps, bytes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from belief_optax import formulas
from belief_optax.conversions import floor_of, matched_learning_rate
from belief_optax.core import Line, Recipe
from belief_optax.core.clock import show
from belief_optax.pieces.bias import BiasCorrect
from belief_optax.pieces.clipping import ClipDirection
from belief_optax.pieces.decay import AddCautiousDecay, AddDecayedWeights, ProximalDecay
from belief_optax.pieces.directions import InterpolatedMean
from belief_optax.pieces.moments import Belief, FirstMoment, SecondMoment
from belief_optax.pieces.rectify import Rectify
from belief_optax.pieces.rounding import RoundUpdates
from belief_optax.pieces.scaling import AddEpsRoot, Precondition, Scale, ScaleByLearningRate
from belief_optax.stores.convert import state_bytes

_RATES = {'b1': 'a gradient', 'b2': 'a square', 'b3': 'a gradient', 'decay': 'a gradient', 'ema_decay': 'a parameter'}
_OWN_RATES: dict[type[Line], dict[str, str]] = {InterpolatedMean: {'b2': 'a gradient'}}  # its b1 is no average's
_DECAYS = (AddCautiousDecay, AddDecayedWeights, ProximalDecay)
_ONE = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)  # a parameter like many, to count the bytes of each
L = TypeVar('L', bound=Line)


@dataclasses.dataclass(frozen=True)
class Constant:
  """What some arguments amount to.

  Attributes:
    name: what it is.
    value: a number, or None where only a running optimizer knows it.
    meaning: its unit, and what it says.
  """

  name: str
  value: float | None
  meaning: str

  @property
  def figure(self) -> str:
    """The value with four digits; nothing where there is none."""
    if self.value is None:
      return ''
    return f'{self.value:,.0f}' if float(self.value).is_integer() and abs(self.value) < 1e15 else f'{self.value:.4g}'


def constants_of(recipe: Recipe) -> Iterator[Constant]:
  """The constants of a recipe, in the order in which a reader asks for them."""
  lines = recipe.lines
  yield from _learning_rates(lines)
  yield from _half_lives(lines)
  yield from _rectification(lines)
  yield from _denominator(lines)
  yield from _matched(lines)
  yield from _decay(lines)
  yield from _bytes(recipe)


def sizes_of(tx: optax.GradientTransformation, params: Any) -> Iterator[Constant]:
  """How large the state of some parameters is."""
  leaves = jax.tree.leaves(params)
  state = jax.eval_shape(tx.init, params)
  yield Constant('parameters', sum(math.prod(jnp.shape(p)) for p in leaves), f'in {len(leaves)} arrays')
  yield Constant('bytes of parameters', state_bytes(leaves), 'in their dtypes')
  yield Constant('bytes of state', state_bytes(state), 'on all devices together')


def _of(lines: Sequence[Line], kind: type[L]) -> list[L]:
  return [line for line in lines if isinstance(line, kind)]


def _number(value: Any) -> float | None:
  """A hyperparameter that is a Python number, else None."""
  return value if isinstance(value, float | int) else None


def _varies(name: str, value: Any) -> Constant:
  return Constant(name, None, f'follows {show(value)}' if callable(value) else 'is an array, which may change')


def _learning_rates(lines: Sequence[Line]) -> Iterator[Constant]:
  for line in _of(lines, ScaleByLearningRate):
    rate = line.learning_rate
    if callable(rate):
      with jax.ensure_compile_time_eval():
        first = float(jnp.asarray(rate(0)))
      yield Constant('learning rate', first, f'at the first step; it follows {show(rate)}')
    else:
      number = _number(rate)
      yield _varies('learning rate', rate) if number is None else Constant('learning rate', number, 'at every step')


def _half_lives(lines: Sequence[Line]) -> Iterator[Constant]:
  said = set()
  for line in lines:
    for name, what in _OWN_RATES.get(type(line), _RATES).items():
      rate = line.fields().get(name)
      if rate is None or (name, str(rate)) in said:  # several lines are told the same rate
        continue
      said.add((name, str(rate)))
      if _number(rate) is None:
        yield _varies(f'half-life of {name}', rate)
      elif 0 < rate < 1:
        steps = math.log(2) / formulas.decay_exponent(rate)
        yield Constant(f'half-life of {name}', steps, f'steps, until {what} has half of its weight')


def _rectification(lines: Sequence[Line]) -> Iterator[Constant]:
  for line in _of(lines, Rectify):
    b2, threshold = _number(line.b2), _number(line.threshold)
    if b2 is None or threshold is None:
      yield _varies('first rectified step', line.b2 if b2 is None else line.threshold)
      continue
    first = formulas.first_tractable_step(b2, threshold)
    before = 'the mean alone' if line.degenerate_to_sgd else 'no step'
    if first is None:
      yield Constant('first rectified step', None, f'there is none: rho never reaches the threshold, so {before}')
      continue
    lam = formulas.decay_exponent(b2)
    rho, limit = formulas.effective_length(first * lam, lam), formulas.effective_length_limit(lam)
    yield Constant('first rectified step', first, f'before it {before}')
    yield Constant('r_t at that step', float(formulas.rectification(rho, limit, True)), 'times the direction')


def _denominator(lines: Sequence[Line]) -> Iterator[Constant]:
  under = 0.0  # what stands under the root at least
  for line in lines:
    if isinstance(line, Belief):
      if (floor := _floor(line)) is None:
        return
      yield Constant('floor of nu', floor, 'after bias correction: eps_root / (1 - b2)')
      under += floor
    elif isinstance(line, AddEpsRoot):
      under += _number(line.eps_root) or 0.0
    elif isinstance(line, Precondition):
      eps, eps_root = _number(line.eps), _number(line.eps_root)
      if eps is None or eps_root is None:
        return
      least = math.sqrt(under + eps_root) + eps
      yield Constant('least denominator', least, 'where the root of nu is below it, eps sets the length of the step')
      if clips := _of(lines[lines.index(line) :], ClipDirection):
        limits = [_number(clip.limit) for clip in clips]
        known = [x for x in limits if x is not None]
        if len(known) == len(limits):
          yield Constant('longest direction', min(known), 'of an element: it is clipped')
        else:
          yield _varies('longest direction', clips[limits.index(None)].limit)
      elif least > 0 and _of(lines, Belief):
        yield Constant('longest direction', 1 / least, 'times |g|: the limit for a gradient that never changes')


def _floor(line: Belief) -> float | None:
  eps_root, b2 = _number(line.eps_root), _number(line.b2)
  return None if eps_root is None or b2 is None else floor_of(eps_root, b2)


_SIMPLE = (
  FirstMoment,
  Belief,
  SecondMoment,
  BiasCorrect,
  Precondition,
  Rectify,
  AddDecayedWeights,
  ScaleByLearningRate,
)


def _matched(lines: Sequence[Line]) -> Iterator[Constant]:
  """The learning rate of equal steps, where this is AdaBelief with the paper's residual, or Adam, and nothing more."""
  kinds = [type(line) for line in lines]
  own = kinds[1:2]
  if kinds[:1] != [FirstMoment] or own not in ([Belief], [SecondMoment]) or not {*kinds} <= {*_SIMPLE, Scale}:
    return
  rates = [_number(line.learning_rate) for line in _of(lines, ScaleByLearningRate)]
  b1 = _number(_of(lines, FirstMoment)[0].b1)
  if not b1 or len(rates) != 1 or rates[0] is None or any(line.b1 is not None for line in _of(lines, Belief)):
    return
  peer = 'Adam' if own == [Belief] else 'AdaBelief'
  same = matched_learning_rate(1.0, b1)  # AdaBelief's, for that of Adam
  value = rates[0] / same if own == [Belief] else rates[0] * same
  yield Constant(
    f"{peer}'s learning rate", value, f'with which {peer} takes the same steps, where the gradient is noise'
  )


def _decay(lines: Sequence[Line]) -> Iterator[Constant]:
  """Half-life of a parameter without gradient: of decay that only learning rates and other factors follow."""
  for i, line in enumerate(lines):
    if not isinstance(line, _DECAYS):
      continue
    factors = [line.weight_decay, line.multiplier]
    for other in lines[i + 1 :]:
      if isinstance(other, ScaleByLearningRate):
        factors.append(other.learning_rate)
      elif isinstance(other, Scale):
        factors.append(other.factor)
      elif not isinstance(other, (*_DECAYS, RoundUpdates)):  # a moment, a norm or a slow mean makes another decay of it
        break
    else:
      yield from _half_life(isinstance(line, ProximalDecay), [_number(x) for x in factors])


def _half_life(divides: bool, factors: Sequence[float | None]) -> Iterator[Constant]:
  known = [x for x in factors if x is not None]
  strength = abs(math.prod(known))
  if len(known) < len(factors):
    yield Constant('half-life of a parameter', None, 'without gradient: follows a schedule or an array')
  elif strength > 0 and (divides or strength < 1):
    steps = math.log(2) / (math.log1p(strength) if divides else -math.log1p(-strength))
    yield Constant('half-life of a parameter', steps, 'steps, where no gradient arrives and weight decay acts alone')


def _bytes(recipe: Recipe) -> Iterator[Constant]:
  first = lambda p: [r.store.init(r.group, [slot.init(p) for slot in r.group], p, True) for r in recipe.routes]
  size = state_bytes(jax.eval_shape(first, _ONE)) / _ONE.size  # not `init`: a mask may fit the real parameters alone
  yield Constant('bytes per parameter', size, 'of state, for a float32 parameter')
