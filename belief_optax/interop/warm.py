"""One optimizer's state as the beginning of another."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from belief_optax import formulas
from belief_optax.conversions import floor_of
from belief_optax.core import Line, State, compose, dtypes
from belief_optax.core.arguments import at
from belief_optax.interop.reading import Reading, check_state, lines_of
from belief_optax.interop.values import by_parts
from belief_optax.pieces.bias import BiasCorrect
from belief_optax.pieces.directions import AverageDirection
from belief_optax.pieces.moments import AccumulateSquares, Belief, CenteredMoment, FirstMoment, RunningMax, SecondMoment
from belief_optax.pieces.momentum import HeavyBall
from belief_optax.pieces.scaling import ScaleByLearningRate
from belief_optax.presets.ranger_adabelief import StoreEpsWhenTractable
from belief_optax.stores.convert import convert_state, decode_state

_HINT = 'Of a chain pass the recipe inside, and its state by take_state; put_state puts the new one there.'
_KINDS = (Belief, SecondMoment, CenteredMoment, AccumulateSquares)


def warm_start(state: State, tx_from: Any, tx_to: Any, params: Any) -> State:
  r"""Makes the state of one recipe that of another: Adam's the beginning of AdaBelief, and the other way round.

  .. math::
    \hat s &= b_1 \max\left(\hat v - |\hat m|^2, \frac{1-b_1}{1+b_1} \hat v\right) + \frac{\varepsilon}{1 - b_2} \\
    \hat v &= \frac1{b_1} \max\left(\hat s - \frac{\varepsilon}{1 - b_2}, 0\right) + |\hat m|^2

  with the eps that AdaBelief stores. Of independent gradients with the variance $\sigma^2$ the mean has the variance
  $\frac{1-b_1}{1+b_1}\sigma^2$, so $E[\hat v - \hat m^2] = \frac{2 b_1}{1+b_1} \sigma^2$; the residual
  $g_t - m_t = b_1 (g_t - m_{t-1})$ has $E[(g_t - m_t)^2] = \frac{2 b_1^2}{1+b_1} \sigma^2$: the ratio is $b_1$. (It is
  $1 / b_1$ for the residual from the mean before the step, $g_t - m_{t-1}$.) This holds for averages that are older
  than a few $1 / (1 - b_1)$ steps.

  It holds on average over elements, not for each: where the mean of the gradient is as large as its noise, some have
  $\hat v \le \hat m^2$ by chance. The second term of the maximum, the variance of the mean itself, is what the
  difference cannot resolve. It keeps the denominator above $\sqrt{b_1 (1-b_1)/(1+b_1)}$ of Adam's, so that steps
  begin no longer than 4.6 of Adam's at b1 = 0.9. The way back is exact where it was not needed.

  The count and the mean stay, and so does every other slot that both have; `nu_max` begins as `nu` unless both keep the
  same maximum. The age of a scheduled rate becomes that of `tx_to`'s schedule after as many steps. All else is that of
  `tx_to.init(params)`.

  Args:
    state: the state of `tx_from`.
    tx_from: the recipe that has made the state.
    tx_to: the recipe that continues.
    params: the parameters.

  Returns:
    A `State` of `tx_to` that shares no buffer with `state`: either can be donated.

  Raises:
    ValueError: if the second moments cannot be converted (one is a sum, or stands without a mean, or is missing), if
      the state is not that of `tx_from`, if only one of both has the learning rate in its momentum or a mean of
      directions (LaProp, ADOPT), or if `tx_to` needs the gradient of the step before (Adan, MARS) and it is not there.
    TypeError: if one of both is no recipe, or the state no `State`.

  Example:
    >>> import jax.numpy as jnp
    >>> from belief_optax import interop, presets
    >>> adam, adabelief, w = presets.torch.adam(), presets.timm.adabelief(), jnp.ones(2)
    >>> state = adam.update(jnp.ones(2), adam.init(w), w)[1]
    >>> int(interop.warm_start(state, adam, adabelief, w).count)
    1
  """
  reading, target = Reading(lines_of('tx_from', tx_from, _HINT)), Reading(lines_of('tx_to', tx_to, _HINT))
  check_state(state, tx_from, params)
  state, plain = decode_state(state, tx_from), compose(tx_to, store='float32')
  fresh = plain.init(params)
  slots = {**fresh.slots, **{name: tree for name, tree in state.slots.items() if name in fresh.slots}}
  ages = {name: _age_after(target, name, state, age) for name, age in fresh.ages.items()}
  new = State(state.count, slots, ages)
  _check_momentum(reading, target)
  _check_means(reading, target)
  kinds = _kind(reading), _kind(target)
  if kinds[0] != kinds[1]:
    slots['nu'] = jax.tree.map(_conversion(reading, state, target, new), state.slots['nu'], state.slots['mu'])
  if 'nu_max' in slots and (kinds[0] != kinds[1] or _maximum(reading) != _maximum(target)):
    mass = _mass(target, 'b2', new) if _maximum(target) == 'corrected' else 1.0
    # The division makes a buffer of its own also where the mass is 1: what a state has twice cannot be donated.
    slots['nu_max'] = jax.tree.map(lambda nu: formulas.safe_divide(nu, mass), slots['nu'])
  _check_complex(slots, fresh.slots)
  slots = jax.tree.map(lambda x, y: x.astype(y.dtype), slots, fresh.slots)
  return convert_state(State(state.count, slots, ages), plain, tx_to, params)


# What recipes mean by their slots.


def _kind(reading: Reading) -> type[Line] | None:
  """The line that keeps the second moment."""
  return next((kind for kind in _KINDS if reading.has(kind)), None)


def _word(reading: Reading) -> str:
  """The same in words."""
  line = reading.line(*_KINDS)
  return 'none' if line is None else line.name


def _maximum(reading: Reading) -> str | None:
  """Of what the maximum is taken."""
  if not reading.has(RunningMax):
    return None
  return 'corrected' if reading.before(BiasCorrect, RunningMax) else 'raw'


def _check_momentum(reading: Reading, target: Reading) -> None:
  """The buffers of both must have the learning rate in them, or neither."""
  inside = [r.before(ScaleByLearningRate, HeavyBall) for r in (reading, target) if r.has(HeavyBall)]
  if len(set(inside)) > 1:
    words = ['' if has else 'not ' for has in inside]
    raise ValueError(
      f'the momentum of tx_from is {words[0]}scaled by the learning rate, that of tx_to is {words[1]}so.'
    )


def _check_means(reading: Reading, target: Reading) -> None:
  """Both means must be of gradients, or both of directions; and a gradient of the step before must be there."""
  words = ['directions' if r.has(AverageDirection) else 'gradients' for r in (reading, target) if _keeps(r, 'mu')]
  if len(set(words)) > 1:
    raise ValueError(f'the mean of tx_from is one of {words[0]}, that of tx_to is one of {words[1]}.')
  if _keeps(target, 'last') and not _keeps(reading, 'last'):
    raise ValueError('tx_to needs the gradient of the step before (last), which tx_from does not keep: begin anew.')


def _keeps(reading: Reading, name: str) -> bool:
  return any(slot.name == name for line in reading.lines for slot in line.slots)


def _check_complex(slots: Any, fresh: Any) -> None:
  if any(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.iscomplexobj(x) != jnp.iscomplexobj(y), slots, fresh))):
    raise ValueError('of tx_from and tx_to only one sees a complex parameter as two reals (complex_as_reals).')


# The second moment.


def _conversion(reading: Reading, state: State, target: Reading, new: State) -> Callable[[Any, Any], Any]:
  """(nu, mu) of one recipe -> nu of the other."""
  kinds = {_kind(reading): (reading, state), _kind(target): (target, new)}
  if set(kinds) != {Belief, SecondMoment} or not all(r.has(FirstMoment) for r, _ in kinds.values()):
    raise ValueError(
      f'the second moment of tx_from ({_word(reading)}) cannot become that of tx_to ({_word(target)}): it must be a '
      'belief or a second_moment in both, beside a first_moment.'
    )
  ratio = _ratio(kinds[Belief][0], kinds[SecondMoment][0], state.count)
  least = _variance_of_mean(kinds[SecondMoment][0], state.count)
  floor = _stored_eps(*kinds[Belief])
  mass1, mass2, new_mass2 = _mass(reading, 'b1', state), _mass(reading, 'b2', state), _mass(target, 'b2', new)
  divide = formulas.safe_divide  # before the first step there is nothing, and its mass is 0

  def to_belief(v: Any, m: Any) -> Any:
    v_hat = divide(v, mass2)
    return ratio * jnp.maximum(v_hat - divide(m, mass1) ** 2, least * v_hat) * new_mass2 + floor

  def to_second_moment(s: Any, m: Any) -> Any:
    return (divide(jnp.maximum(s - floor, 0), mass2) / ratio + divide(m, mass1) ** 2) * new_mass2

  return functools.partial(by_parts, to_belief if _kind(target) is Belief else to_second_moment)


def _ratio(belief: Reading, adam: Reading, count: Any) -> float:
  """E[(g - m)^2] of AdaBelief to E[v^ - m^^2] of Adam on noise; b1 where both have the same rate."""
  rates = [reading.number((FirstMoment, 'b1'), count=count) for reading in (belief, adam)]
  if not all(rates):
    raise ValueError(f'the mean must not be the gradient itself: b1 must be > 0 in tx_from and tx_to, got {rates}.')
  previous = belief.before(Belief, FirstMoment) or belief.first((Belief, 'b1'), default=None) is not None
  residual = 1 if previous else rates[0] ** 2
  return residual / (1 + rates[0]) * (1 + rates[1]) / rates[1]


def _variance_of_mean(adam: Reading, count: Any) -> float:
  """The variance of the mean of independent gradients, relative to theirs: what v^ - m^^2 cannot resolve."""
  b1 = adam.number((FirstMoment, 'b1'), count=count)
  return (1 - b1) / (1 + b1)


def _stored_eps(belief: Reading, state: State) -> Any:
  """What all the eps that were stored have become: the floor of s before its correction."""
  value = lambda field: at(belief.first(field, default=0.0), state.count)
  floor = floor_of(value((Belief, 'eps_root')), value((Belief, 'b2'))) * _mass(belief, 'b2', state)
  if not belief.has(StoreEpsWhenTractable):
    return floor
  b2 = belief.number((Belief, 'b2'), count=state.count)  # ranger_adabelief stores eps from its first adaptive step on
  first = formulas.first_tractable_step(b2, belief.number((StoreEpsWhenTractable, 'threshold'), count=state.count))
  steps = 0 if first is None else jnp.maximum(state.count - first + 1, 0)
  mass = formulas.bias_mass(jnp.asarray(steps * formulas.decay_exponent(b2)))
  return floor + floor_of(value((StoreEpsWhenTractable, 'eps')), b2) * mass


# The age of averages.


_BLOCK = 2**16  # so many steps at once
_RATES = {'b1': ((FirstMoment, 'b1'),), 'b2': ((Belief, 'b2'), (SecondMoment, 'b2'))}


def _mass(reading: Reading, name: str, state: State) -> Any:
  """1 - b_1 ... b_t of an average."""
  rate = reading.first(*_RATES[name], default=None)
  if not callable(rate):
    return formulas.bias_mass(state.count.astype(dtypes.real_dtype()) * formulas.decay_exponent(rate))
  if name not in state.ages:
    raise ValueError(f'{name} is a schedule, and the state does not hold the age of its average: nothing corrects it.')
  return formulas.bias_mass(sum(state.ages[name]))


def _age_after(target: Reading, name: str, state: State, age: tuple[Any, Any]) -> tuple[Any, Any]:
  """The age of a scheduled rate after as many steps of its schedule, in the form of `age`; summed in blocks."""
  line = next(line for line in target.lines if name in line.ages and callable(line.fields()[name]))
  rates = jax.vmap(line.fields()[name])

  def add(block: Any, total: tuple[Any, Any]) -> tuple[Any, Any]:
    steps = block * _BLOCK + jnp.arange(_BLOCK)
    exponents = jnp.where(steps < state.count, formulas.decay_exponent(jnp.asarray(rates(steps))), 0)
    return formulas.two_sum(total, jnp.sum(exponents).astype(age[0].dtype))

  return jax.lax.fori_loop(0, -(-state.count // _BLOCK), add, age)
