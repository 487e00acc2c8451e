"""The promises of the core, one by one, and every input that must be refused."""

import copy
import functools
import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import STEPS, assert_close, assert_equal, compilations, gradients, params, run, traced, types
from helpers import x64
from registry import ROWS, each_row

import belief_optax as bo
from belief_optax.core import DECAY_RATE, FINITE, flag, hyper, option
from belief_optax.pieces.moments import FirstMoment

LAST = 2**31 - 1

# Each public piece and what must stand before it.
PIECES = {
  'accumulate_squares': (bo.accumulate_squares(0.1), ()),
  'add_cautious_decay': (bo.add_cautious_decay(0.1), ()),
  'add_decayed_weights': (bo.add_decayed_weights(0.1), ()),
  'add_eps_root': (bo.add_eps_root(0.1), ('second_moment',)),
  'after_first': (bo.after_first(), ()),
  'average_direction': (bo.average_direction(0.9), ()),
  'clip_array_norm': (bo.clip_array_norm(0.5), ()),
  'clip_by_rms': (bo.clip_by_rms(), ('second_moment',)),
  'clip_direction': (bo.clip_direction(2.0), ()),
  'clip_growing': (bo.clip_growing(), ()),
  'direction_moment': (bo.direction_moment(0.999), ()),
  'gradient_change': (bo.gradient_change(0.9), ()),
  'interpolated_mean': (bo.interpolated_mean(0.9, 0.99), ()),
  'keep_norm': (bo.keep_norm(), ()),
  'precondition_atan2': (bo.precondition_atan2(), ('second_moment',)),
  'precondition_clamped': (bo.precondition_clamped(1e-6), ('second_moment',)),
  'precondition_max': (bo.precondition_max(0.999), ()),
  'precondition_partial': (bo.precondition_partial(0.25), ('second_moment',)),
  'proximal_decay': (bo.proximal_decay(0.1), ()),
  'previous_moment': (bo.previous_moment(), ('second_moment',)),
  'schedule_free': (bo.schedule_free(), ()),
  'seeded_moment': (bo.seeded_moment(0.999), ()),
  'sign': (bo.sign(), ()),
  'slow_mean': (bo.slow_mean(0.9999), ()),
  'track_mean': (bo.track_mean(0.9), ()),
  'trust_ratio': (bo.trust_ratio(), ()),
  'variance_reduction': (bo.variance_reduction(), ()),
  'yogi_moment': (bo.yogi_moment(0.999), ()),
  'average_params': (bo.average_params(0.9), ()),
  'belief': (bo.belief(), ('first_moment',)),
  'bias_correct': (bo.bias_correct(0.9, 0.999), ('first_moment', 'second_moment')),
  'bias_correct_step': (bo.bias_correct_step(0.9, 0.999), ('first_moment', 'second_moment')),
  'cautious': (bo.cautious(), ()),
  'centered_moment': (bo.centered_moment(0.9), ()),
  'centralize': (bo.centralize(), ()),
  'complex_as_reals': (bo.complex_as_reals(), ()),
  'first_moment': (bo.first_moment(0.9), ()),
  'heavy_ball': (bo.heavy_ball(0.9), ()),
  'lazy_rows': (bo.lazy_rows(), ()),
  'lookahead': (bo.lookahead(), ()),
  'nesterov': (bo.nesterov(0.9), ('first_moment',)),
  'precondition': (bo.precondition(1e-8), ('second_moment',)),
  'raw_mean': (bo.raw_mean(), ('first_moment',)),
  'rectify': (bo.rectify(0.999), ('first_moment', 'second_moment')),
  'round_updates': (bo.round_updates('split'), ()),
  'running_max': (bo.running_max(), ('second_moment',)),
  'scale': (bo.scale(2.0), ()),
  'scale_by_learning_rate': (bo.scale_by_learning_rate(0.1), ()),
  'second_moment': (bo.second_moment(0.999), ()),
}

CALLS: list[str] = []  # what the lines below were asked for


class Counting(bo.Line):
  """Multiplies by a factor, and counts its calls; a new tag is a line that no cache has seen."""

  factor: Any = hyper(default=1.0, allowed=FINITE)
  tag: str = option(default='', normal=lambda _, value: value)

  def scalars(self, now: bo.Now) -> Any:
    CALLS.append('scalars')
    return now(self.factor)

  def step(self, x: bo.Leaf, k: Any) -> bo.Leaf:
    CALLS.append('step')
    return x.redirect(k * x.u)


counting = bo.piece(Counting)


@pytest.fixture
def calls():
  CALLS.clear()
  return CALLS


# 1. A piece is a value.


def test_every_piece_is_in_the_table():
  assert set(PIECES) == set(bo.pieces.__all__)


@pytest.mark.parametrize('name', PIECES)
def test_pieces_are_values(name):
  one, _ = PIECES[name]
  again = pickle.loads(pickle.dumps(one))
  assert one == again == copy.deepcopy(one) == eval(repr(one), vars(bo).copy())
  assert hash(one) == hash(again)
  assert repr(one).startswith(f'{name}(')
  assert one != counting()
  assert one.lines[0] != object()
  with pytest.raises(AttributeError):
    one.lines[0].anything = 1


def test_composition_prints_line_by_line():
  assert repr(bo.compose(bo.first_moment(0.5), bo.scale(-1.0))) == (
    'compose(\n  first_moment(b1=0.5, dtype=None),\n  scale(factor=-1.0),\n)'
  )
  assert eval(repr(bo.compose()), vars(bo).copy()) == bo.compose()


def test_options_print_as_python():
  mask = {'w': True, 'b': [False, True]}
  tx = bo.compose(
    bo.add_decayed_weights(0.1, mask), bo.first_moment(0.9, jnp.bfloat16), bo.heavy_ball(first='undampened')
  )
  assert eval(repr(tx), vars(bo).copy()) == tx
  assert "dtype='bfloat16'" in repr(tx)
  assert repr(bo.sgd(np.float64(0.1))) == repr(bo.sgd(0.1))
  assert 'learning_rate=<_schedule>' in repr(bo.sgd(_schedule))


def _schedule(count):
  return 0.5 + 0 * count


def test_values_differ_where_a_field_differs():
  different = [
    bo.sgd(0.1),
    bo.sgd(0.2),
    bo.sgd(_schedule),
    bo.sgd(0.1, momentum=0.9),
    bo.sgd(0.1, momentum=0.9, nesterov=True),
    bo.sgd(0.1, momentum=0.9, accumulator_dtype='bfloat16'),
    bo.sgd(0.1, weight_decay=0.1),
    bo.sgd(0.1, weight_decay=0.1, weight_decay_mask={'w': True}),
    bo.sgd(0.1, weight_decay=0.1, weight_decay_mask={'w': False}),
    bo.sgd(0.1, weight_decay=0.1, weight_decay_mask=[True]),
    bo.sgd(0.1, weight_decay=0.1, weight_decay_mode='fixed'),
    bo.sgd(0.1, weight_decay=0.1, momentum=0.9),
    bo.sgd(0.1, weight_decay=0.1, momentum=0.9, weight_decay_mode='l2'),
  ]
  assert len(set(different)) == len(different)
  for i, a in enumerate(different):
    assert [a == b for b in different] == [i == j for j in range(len(different))]


def test_dtypes_compare_by_meaning():
  assert bo.adam(0.1, mu_dtype='bfloat16') == bo.adam(0.1, mu_dtype=jnp.bfloat16)
  assert bo.adam(0.1, mu_dtype='bfloat16') == bo.adam(0.1, mu_dtype=jnp.dtype('bfloat16'))


def test_schedules_divided_by_their_first_value_are_values():
  make = functools.partial(bo.sgd, _schedule, weight_decay=0.1, weight_decay_mode='independent')
  assert make() == make() == pickle.loads(pickle.dumps(make()))
  assert hash(make()) == hash(make())


def test_arrays_are_compared_by_identity():
  rate = jnp.asarray(0.1)
  assert bo.sgd(rate) == bo.sgd(rate)
  assert hash(bo.sgd(rate)) == hash(bo.sgd(rate))
  assert bo.sgd(rate) != bo.sgd(jnp.asarray(0.1))
  assert bo.sgd(rate) != bo.sgd(0.1)
  assert bo.sgd(np.asarray(0.1)) != bo.sgd(np.asarray(0.1))


def test_a_transformation_can_be_taken_apart_and_rebuilt():
  """It is still optax's NamedTuple: code that maps over its fields keeps working."""
  tx = bo.adam(0.1)
  assert jax.tree.map(lambda x: x, tx) == tx
  assert type(tx)(*tx) == tx
  init, update = tx
  assert_equal(update(gradients()[0], init(params()), params()), tx.update(gradients()[0], tx.init(params()), params()))


def test_custom_pieces_are_values_too():
  one = counting(2.0, tag='custom')
  assert one == pickle.loads(pickle.dumps(one)) != counting(2.0)
  assert counting.__doc__.startswith('Multiplies by a factor')
  assert list(inspect.signature(counting).parameters) == ['factor', 'tag']


# 2. Every piece and every composition is a gradient transformation.


@pytest.mark.parametrize('name', PIECES)
def test_pieces_stand_alone_in_a_chain(name):
  one, before = PIECES[name]
  assert isinstance(one, optax.GradientTransformationExtraArgs)
  p, grads = params(), gradients()[:2]
  composed = bo.compose(*(PIECES[b][0] for b in before), one)
  if before:
    with pytest.raises(ValueError, match='needs'):
      optax.chain(one).init(p)
    run(composed, p, grads)
  else:
    expected = run(one, p, grads)
    updates, _, state = run(optax.chain(one, optax.identity()), p, grads)
    assert_equal((updates, state[0]), (expected[0], expected[2]))


@pytest.mark.parametrize('name', [name for name, (_, before) in PIECES.items() if before])
def test_missing_needs_are_named_at_init(name):
  one, before = PIECES[name]
  for i, missing in enumerate(before):
    recipe = bo.compose(*(PIECES[b][0] for j, b in enumerate(before) if j != i), one)
    with pytest.raises(ValueError, match=rf'^{name}\(.* needs \w+: put one of .*\b{missing}\b.* before it') as error:
      recipe.init(params())
    offered = str(error.value).rpartition('put one of ')[2]
    assert name not in offered  # a piece cannot give what it needs itself
    # What is too late does not help.
    with pytest.raises(ValueError, match='needs'):
      bo.compose(*(PIECES[b][0] for j, b in enumerate(before) if j != i), one, *_late(name, missing)).init(params())


def _late(name, missing):
  # The exceptions are documented: `belief` and `previous_moment` take what is averaged after them as it was before.
  return () if name in ('belief', 'previous_moment') else (PIECES[missing][0],)


def test_belief_may_stand_before_the_mean():
  bo.compose(bo.belief(), bo.first_moment()).init(params())


def test_previous_moment_may_stand_before_the_moment():
  bo.compose(bo.previous_moment(), bo.second_moment()).init(params())


def test_compositions_flatten():
  a, b, c = bo.first_moment(), bo.scale(2.0), bo.scale(-1.0)
  nested = bo.compose(bo.compose(a, bo.compose()), bo.compose(bo.compose(b, c)))
  assert nested == bo.compose(a, b, c)
  assert nested.lines == a.lines + b.lines + c.lines


def test_two_owners_of_a_slot_are_refused():
  with pytest.raises(ValueError, match=r"second_moment\(.*\) and belief\(.*\) both own the slot 'nu'"):
    bo.compose(bo.first_moment(), bo.belief(), bo.second_moment())
  with pytest.raises(ValueError, match="both own the slot 'mu'"):
    bo.compose(bo.compose(bo.first_moment(0.9)), bo.first_moment(0.9))


@pytest.mark.parametrize(
  ('thing', 'hint'),
  [
    (optax.sgd(0.1), 'optax.chain'),
    (FirstMoment, ''),
    (bo.first_moment().lines[0], ''),
    (bo.first_moment, ''),
    (None, ''),
  ],
  ids=['optax', 'class', 'line', 'uncalled', 'none'],
)
def test_compose_takes_pieces_only(thing, hint):
  with pytest.raises(TypeError, match=f'compose takes pieces, got .*{hint}'):
    bo.compose(bo.scale(1.0), thing)


def test_two_schedules_for_one_rate_are_refused():
  other = lambda count: 0.9 + 0 * count
  with pytest.raises(ValueError, match='b1 follows two schedules: <_schedule> and, in nesterov'):
    bo.compose(bo.first_moment(_schedule), bo.bias_correct(_schedule), bo.nesterov(other))
  bo.compose(bo.first_moment(_schedule), bo.bias_correct(_schedule), bo.nesterov(_schedule))


def test_a_state_of_another_recipe_is_refused():
  with pytest.raises(ValueError, match=r"needs a State with the slots \['mu', 'nu', 'nu_max'\]"):
    bo.amsgrad(0.1).update(gradients()[0], bo.adam(0.1).init(params()), params())
  with pytest.raises(ValueError, match='needs a State'):
    bo.adam(0.1).update(gradients()[0], optax.EmptyState(), params())


# 3. Three rhythms.


@bo.execution.use('xla')  # a machine loop is traced once for all shapes
def test_scalars_run_once_per_step_and_lines_once_per_shape(calls):
  tx = bo.compose(counting(0.5, tag='rhythm'), bo.scale(2.0))
  p = [jnp.ones(1 + i % 6) for i in range(300)]
  with bo.execution.use('xla'):  # a machine loop is traced once for all shapes
    _, state = tx.update(p, tx.init(p))
  assert sorted(calls) == ['scalars'] + ['step'] * 6
  calls.clear()
  for _ in range(2):
    _, state = tx.update(p, state)
  assert calls == []
  counting(0.5, tag='rhythm').update(p, counting(0.5, tag='rhythm').init(p))  # other lines: another trace
  assert sorted(calls) == ['scalars'] + ['step'] * 6


def test_scalars_run_once_for_all_dtypes(calls):
  p = [jnp.ones(2), jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.complex64), jnp.ones(2)]
  counting(tag='dtypes').update(p, counting(tag='dtypes').init(p))
  assert sorted(calls) == ['scalars'] + ['step'] * 3


def test_constants_are_folded_on_the_host():
  """-log b and the first adaptive step are numbers in the compiled step, and logarithms only of arrays."""
  constant, array = bo.radam(0.1), bo.radam(0.1, b2=jnp.asarray(0.999))
  program = lambda tx: str(jax.make_jaxpr(tx.update)(params(), tx.init(params())))
  assert ' log' not in program(constant)
  assert ' log1p' in program(array)
  assert str(-np.log(0.999))[:8] in program(constant)


# 4. Python numbers are constants, arrays are data.


def test_a_new_array_is_not_traced_again_and_a_new_number_is(calls):
  p = jnp.ones(3)
  state = counting(tag='data').init(p)
  update = lambda factor: counting(factor, tag='data').update(p, state)[0]
  assert update(jnp.float32(2.0))[0] == 2
  assert calls == ['scalars', 'step']
  calls.clear()
  with compilations() as compiled:
    new = update(jnp.float32(3.0))
  assert new[0] == 3
  assert calls == compiled == []
  assert update(np.asarray(4.0, np.float32))[0] == 4
  assert calls == []
  assert update(5.0)[0] == 5
  assert calls == ['scalars', 'step']
  assert update(6.0)[0] == 6
  assert calls == ['scalars', 'step'] * 2


@pytest.mark.parametrize('name', ['learning_rate', 'b1', 'b2', 'eps', 'eps_root', 'weight_decay'])
@pytest.mark.parametrize('number', [jnp.asarray, np.asarray, lambda x: jnp.asarray(x, jnp.float32)])
def test_numbers_may_be_arrays(name, number):
  value = {'learning_rate': 0.1, 'b1': 0.75, 'b2': 0.875, 'eps': 1e-3, 'eps_root': 1e-4, 'weight_decay': 0.25}[name]
  make = functools.partial(bo.adabelief, learning_rate=0.01, weight_decay=0.5)
  expected = run(make(**{name: value}), params(), gradients())
  assert_close(run(make(**{name: number(value)}), params(), gradients()), expected, rtol=1e-5)
  assert_close(run(make(**{name: lambda _: number(value)}), params(), gradients())[:2], expected[:2], rtol=1e-5)


@pytest.mark.parametrize('name', ['learning_rate', 'b1', 'b2', 'eps', 'eps_root', 'weight_decay'])
def test_schedules_are_called_with_the_finished_steps(name):
  """A step with a schedule is the step of the number that it gives at this count (moments uncorrected)."""
  schedule = optax.linear_schedule(0.25, 0.75, 5)
  make = functools.partial(bo.adam, learning_rate=0.1, eps=0.1, weight_decay=0.5, bias_correction=False, eps_root=0.1)
  scheduled = make(**{name: schedule})
  state, p = scheduled.init(params()), params()
  assert types(state) == types(make().init(params()))
  for t, g in enumerate(gradients()):
    expected = make(**{name: float(schedule(t))}).update(g, state, p)
    u, state = scheduled.update(g, state, p)
    assert_close((u, state), expected, rtol=1e-5)


def test_momentum_follows_a_schedule():
  schedule = optax.linear_schedule(0.25, 0.75, 5)
  make = functools.partial(bo.sgd, 0.1, dampening=0.5, nesterov=True)
  state = make(momentum=schedule).init(params())
  for t, g in enumerate(gradients()):
    expected = make(momentum=float(schedule(t))).update(g, state)
    u, state = make(momentum=schedule).update(g, state)
    assert_close((u, state), expected, rtol=1e-5)


def _ramp(count):
  return jnp.minimum(0.5 + 0.1 * count, 0.95)


def test_mass_of_a_scheduled_rate_is_one_minus_the_product():
  """A constant gradient has exactly itself as its corrected mean."""
  tx = bo.compose(bo.first_moment(_ramp), bo.second_moment(_ramp), bo.bias_correct(_ramp, _ramp), bo.precondition(0.0))
  mean = bo.compose(bo.first_moment(_ramp), bo.bias_correct(_ramp))
  g, state, mean_state, product = jnp.asarray([3.0, -0.5]), tx.init(jnp.zeros(2)), mean.init(jnp.zeros(2)), 1.0
  for t in range(STEPS):
    product *= min(0.5 + 0.1 * t, 0.95)
    u, state = tx.update(g, state)
    m, mean_state = mean.update(g, mean_state)
    np.testing.assert_allclose(state.slots['mu'], g * (1 - product), rtol=1e-6)
    np.testing.assert_allclose(sum(state.ages['b1']), -np.log(product), rtol=1e-6)
    np.testing.assert_allclose(m, g, rtol=1e-6)
    np.testing.assert_allclose(u, np.sign(g), rtol=1e-6)
  assert set(state.ages) == {'b1', 'b2'}
  assert set(mean_state.ages) == {'b1'}


def test_look_ahead_of_a_scheduled_rate_takes_the_next_value():
  tx = bo.compose(bo.first_moment(_ramp), bo.nesterov(_ramp))
  rate = lambda t: min(0.5 + 0.1 * t, 0.95)
  state, m, product = tx.init(jnp.zeros(())), 0.0, 1.0
  for t, g in enumerate([1.0, -2.0, 0.5, 3.0]):
    product *= rate(t)
    m = rate(t) * m + (1 - rate(t)) * g
    expected = rate(t + 1) * m / (1 - product * rate(t + 1)) + (1 - rate(t)) * g / (1 - product)
    u, state = tx.update(jnp.asarray(g), state)
    np.testing.assert_allclose(u, expected, rtol=1e-5, atol=1e-6)


def test_centered_moment_follows_a_schedule():
  """Bias-corrected, it is the variance of the gradients with the weights of the average."""
  tx = bo.compose(bo.centered_moment(_ramp, debias=True), bo.bias_correct(b2=_ramp), bo.precondition(0.0))
  state, weights, seen = tx.init(jnp.zeros(())), np.zeros(0), []
  for t, g in enumerate([1.0, -2.0, 0.5, 3.0]):
    b = min(0.5 + 0.1 * t, 0.95)
    weights, seen = np.append(weights * b, 1 - b), [*seen, g]
    u, state = tx.update(jnp.asarray(g), state)
    w = weights / weights.sum()
    variance = w @ np.square(seen) - (w @ seen) ** 2
    if t:
      np.testing.assert_allclose(u, g / np.sqrt(variance), rtol=1e-5)


def test_hyperparameters_differentiate():
  """Through young steps and an old one, against differences in float64."""
  with x64():
    p = params(jnp.float64)
    grads = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients(3, jnp.float64))

    def objective(h):
      tx = bo.adabelief(**h)

      def step(carry, now):
        (q, state), (g, passed) = carry, now
        u, state = tx.update(g, state._replace(count=state.count + passed), q)
        return (optax.apply_updates(q, u), state), None

      (q, _), _ = jax.lax.scan(step, (p, tx.init(p)), (grads, jnp.asarray([0, 0, 20], jnp.int32)))
      return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(q))

    at = {'learning_rate': 0.1, 'b1': 0.8, 'b2': 0.95, 'eps': 0.05, 'eps_root': 0.01, 'weight_decay': 0.3}
    at = {name: jnp.asarray(value, jnp.float64) for name, value in at.items()}
    both, h = jax.jit(jax.value_and_grad(objective)), 1e-6
    _, found = both(at)
    for name, x in at.items():
      expected = (both({**at, name: x + h})[0] - both({**at, name: x - h})[0]) / (2 * h)
      np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)
      assert found[name] != 0


def test_hyperparameters_vmap():
  names, values = ('b1', 'b2', 'eps', 'weight_decay'), jnp.asarray([[0.5, 0.6, 0.1, 0.0], [0.9, 0.99, 0.2, 0.5]])
  make = functools.partial(bo.radam, 0.1, degenerate_to_sgd=True)  # at b2 = 0.6 all else would stand still
  one = lambda row: run(make(**dict(zip(names, row, strict=True))), params(), gradients())[1:]
  found = jax.vmap(one)(values)
  for i, row in enumerate(values.tolist()):
    assert_close(jax.tree.map(lambda x, i=i: x[i], found), one(row), rtol=1e-4)


def test_schedules_must_give_scalars():
  tx = bo.sgd(lambda _: jnp.ones(3))
  with pytest.raises(ValueError, match='scalar'):
    tx.update(jnp.ones(()), tx.init(jnp.ones(())))


def test_injected_16_bit_rates_say_what_to_do():
  p = params(jnp.bfloat16)
  with pytest.raises(TypeError, match=r'b1 arrived as bfloat16.*hyperparam_dtype=jnp.float32'):
    optax.inject_hyperparams(bo.adam)(learning_rate=0.1).init(p)
  tx = optax.inject_hyperparams(bo.adam, hyperparam_dtype=jnp.float32)(learning_rate=0.1)
  u, _ = tx.update(gradients(1, jnp.bfloat16)[0], tx.init(p), p)
  assert all(jnp.all(x != 0) for x in jax.tree.leaves(u))


# 5. The dtype law.


@pytest.mark.parametrize('narrow', [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
  'tx', [bo.adabelief(0.1, weight_decay=0.1), bo.compose(bo.scale(1 / 3), bo.scale(0.1))], ids=['slots', 'no-slots']
)
def test_arithmetic_is_in_float32(tx, narrow):
  p, grads = params(narrow), gradients(STEPS, narrow)
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), (p, grads))
  state, expected_state = tx.init(p), tx.init(wide[0])
  for g, h in zip(grads, wide[1], strict=True):
    u, state = tx.update(g, state, p)
    expected, expected_state = tx.update(h, expected_state, wide[0])
    assert_equal(u, jax.tree.map(lambda x: x.astype(narrow), expected))
    assert_equal(state, expected_state)


def test_arithmetic_is_wider_where_an_input_is():
  with x64():
    tx, p, g = bo.adam(0.1), params(jnp.float32), gradients(1, jnp.float64)[0]
    state = tx.init(p)
    u, after = tx.update(g, state, p)
    assert {x.dtype.name for x in jax.tree.leaves(u)} == {'float64'}
    assert types(after) == types(state)
    assert {x.dtype.name for x in jax.tree.leaves(state.slots)} == {'float32'}
    # With both moments at zero the step is -0.1 g / (|g| + 1e-8), to the last digits of float64.
    np.testing.assert_allclose(u['w'], -0.1 * g['w'] / (np.abs(g['w']) + 1e-8), rtol=1e-13)
    thirds = bo.sgd(jnp.asarray(1 / 3))
    np.testing.assert_allclose(thirds.update(g, thirds.init(p))[0]['w'], -g['w'] / 3, rtol=1e-14)
    narrow = tx.update(gradients(1)[0], tx.init(p), p)[0]
    assert {x.dtype.name for x in jax.tree.leaves(narrow)} == {'float32'}


def test_python_constants_do_not_widen():
  """Under x64 a float32 problem stays in float32: state and updates, with numbers, arrays and schedules."""
  with x64():
    p = params(jnp.float32)
    for rate in (0.1, jnp.asarray(0.1), np.float64(0.1), lambda _: 0.1, lambda _: np.float64(0.1)):
      tx = bo.adabelief(rate, b1=rate, weight_decay=0.1)
      program = jax.make_jaxpr(tx.update)(gradients(1)[0], tx.init(p), p)
      assert {x.dtype.name for x in program.out_avals if x.shape} == {'float32'}
      assert 'f64[3,2]' not in str(program)


def test_second_moment_of_complex_parameters_is_real():
  state = bo.adabelief(0.1, amsgrad=True).init(jnp.ones(2, jnp.complex64))
  assert {name: slot.dtype.name for name, slot in state.slots.items()} == {
    'mu': 'complex64',
    'nu': 'float32',
    'nu_max': 'float32',
  }


def test_slots_are_kept_in_the_dtype_that_was_asked_for():
  p = params()
  for dtype in ('bfloat16', jnp.bfloat16, 'float16', 'float32'):
    state = bo.adam(0.1, mu_dtype=dtype).init(p)
    assert {x.dtype for x in jax.tree.leaves(state.slots['mu'])} == {jnp.dtype(dtype)}
    assert {x.dtype.name for x in jax.tree.leaves(state.slots['nu'])} == {'float32'}
    momentum = bo.sgd(0.1, momentum=0.9, accumulator_dtype=dtype).init(p).slots['momentum']
    assert {x.dtype for x in jax.tree.leaves(momentum)} == {jnp.dtype(dtype)}


# 7. One pass, compiled.


def test_eager_update_compiles_itself_and_once():
  tx, p = bo.adabelief(0.123), params()
  state, g = tx.init(p), gradients(1)[0]
  with compilations() as compiled:
    tx.update(g, state, p)
  assert len(compiled) == 1
  with compilations() as compiled:  # an equal optimizer is the same one
    bo.adabelief(0.123).update(g, state, p)
  assert len(compiled) == 0


def test_works_without_jit():
  with jax.disable_jit():
    found = run(bo.adabelief(0.1), params(), gradients(2))
  assert_close(found, run(bo.adabelief(0.1), params(), gradients(2)), rtol=1e-5)


def test_python_numbers_work_without_jit():
  tx = bo.adam(0.1, weight_decay=0.1)
  with jax.disable_jit():
    u, _ = tx.update({'a': 0.5}, tx.init({'a': 1.0}), {'a': 1.0})
  np.testing.assert_allclose(u['a'], -0.1 * 1.1, rtol=1e-6)


# 8. The state is stable.


@each_row
def test_count_stops_at_the_last_integer(row):
  tx, p, g = row.make(), params(), gradients()[0]
  _, _, state = run(tx, p, gradients())
  last = state._replace(count=jnp.asarray(LAST, jnp.int32))
  u, after = tx.update(g, last, p)
  assert after.count == LAST
  assert after.count.dtype == jnp.int32
  before, _ = tx.update(g, last._replace(count=jnp.asarray(LAST - 1, jnp.int32)), p)
  assert_equal(u, before)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((u, after)))


def test_schedules_are_not_called_with_an_overflown_count():
  rate = lambda count: jnp.where(count < 0, jnp.nan, 0.9)
  tx, p, g = bo.nadam(rate, b1=rate, b2=rate, eps=rate, weight_decay=rate), params(), gradients()[0]
  u, state = tx.update(g, tx.init(p)._replace(count=jnp.asarray(LAST, jnp.int32)), p)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((u, state)))


def test_state_holds_ages_only_of_scheduled_rates():
  assert bo.adam(0.1).init(params()).ages == {}
  assert bo.adam(lambda _: 0.1, eps=lambda _: 0.1).init(params()).ages == {}
  assert set(bo.adam(0.1, b1=_schedule).init(params()).ages) == {'b1'}
  assert set(bo.adabelief(0.1, b2=_schedule).init(params()).ages) == {'b2'}
  assert bo.adam(0.1, b1=jnp.asarray(0.9)).init(params()).ages == {}


# Arguments that must be refused. Every argument of every algorithm stands in this table.

_NOT_NUMBERS = [(v, TypeError) for v in (True, 'x', 1j, [0.1], float, jnp.asarray(True), jnp.asarray(1j))]
_NOT_SCALARS = [(jnp.ones(3), ValueError), (np.ones((1, 1)), ValueError)]
_NONE = [(None, TypeError)]


def _outside(*values):
  return [(v, ValueError) for v in (*values, float('nan'), float('inf'), -float('inf'))]


_NUMBERS = {
  'rate': _outside(-1e-9, 1, 1.0, 2, np.float64(1.0), np.float32(-1)),
  'momentum': _outside(-1e-9, 1.0001, 2),
  'nonnegative': _outside(-1e-9, -1),
  'epsilon': _outside(-1e-9, 1e-45, 1e-39),
  'threshold': _outside(3.999, 0, -5),
  'positive': _outside(0, 0.0, -1),
  'partial': _outside(0, 0.0, 0.501, 1, -1),
}
_KINDS = {
  'learning_rate': 'nonnegative',
  'weight_decay': 'nonnegative',
  'initial_scale': 'nonnegative',
  'initial_accumulator_value': 'nonnegative',
  'b1': 'rate',
  'b2': 'rate',
  'decay': 'rate',
  'eps': 'epsilon',
  'eps_root': 'epsilon',
  'momentum': 'momentum',
  'dampening': 'momentum',
  'threshold': 'threshold',
  'b3': 'rate',
  'alpha': 'nonnegative',
  'gamma': 'nonnegative',
  'clip_power': 'nonnegative',
  'a': 'positive',
  'b': 'positive',
  'max_norm': 'positive',
  'max_step': 'positive',
  'trust_coefficient': 'positive',
  'partial': 'partial',
}
_BAD_FLAG = [(v, TypeError) for v in (1, 0, None, 'True', jnp.asarray(True))]
_BAD_CHOICE = [(v, ValueError) for v in ('other', None, True, 1, 'Current', '')]
_BAD_DTYPE = [(v, TypeError) for v in ('int8', 'no such dtype', 3, True, jnp.int32, bool)]
_BAD_MASK = [
  ({}, ValueError),
  ({'w': 1}, TypeError),
  ({'w': None, 'b': 'yes'}, TypeError),
  ({'w': jnp.asarray(True)}, TypeError),
  (0.5, TypeError),
]
_BAD_STORE = [('int5', ValueError), ('', ValueError), (8, TypeError), (True, TypeError)]
_FLAGS = (
  'amsgrad',
  'bias_correction',
  'bias_correction_mu',
  'bias_correction_nu',
  'centered',
  'degenerate_to_sgd',
  'eps_in_sqrt',
  'eps_scaled',
  'nesterov',
  'rectify',
)
BAD = {
  **{
    name: _NUMBERS[kind]
    + _NOT_NUMBERS
    + _NOT_SCALARS
    + (_NONE if name not in ('momentum', 'clip_power', 'max_step') else [])
    for name, kind in _KINDS.items()
  },
  **dict.fromkeys(_FLAGS, _BAD_FLAG),
  **dict.fromkeys(('residual', 'max_of', 'weight_decay_mode', 'first_buffer'), _BAD_CHOICE),
  **dict.fromkeys(('mu_dtype', 'accumulator_dtype'), _BAD_DTYPE),
  **dict.fromkeys(('mask', 'weight_decay_mask', 'trust_ratio_mask'), _BAD_MASK),
  'warmup_steps': [(v, ValueError) for v in (0, -1)] + [(v, TypeError) for v in (1.5, True, '1', jnp.asarray(1.0))],
  'store': _BAD_STORE,
}
# What a variant needs so that the argument is used at all.
_WITH = {
  (algorithm, name): {'momentum': 0.9}
  for algorithm in ('rmsprop', 'sgd')
  for name in ('nesterov', 'dampening', 'first_buffer', 'accumulator_dtype')
} | {
  ('radam', name): {'degenerate_to_sgd': True} for name in ('b2', 'threshold')
}  # else what would never move is refused
ARGUMENTS = [
  (algorithm, name)
  for algorithm in bo.optimizers.__all__
  for name in inspect.signature(getattr(bo, algorithm)).parameters
]


def _maker(algorithm, name):
  """An algorithm that lacks the named argument only."""
  make = functools.partial(getattr(bo, algorithm), **_WITH.get((algorithm, name), {}))
  return make if algorithm == 'scale_by_belief' or name == 'learning_rate' else functools.partial(make, 0.1)


@pytest.mark.parametrize('argument', ARGUMENTS, ids='-'.join)
def test_bad_arguments_are_refused_by_name(argument):
  (_, name), make = argument, _maker(*argument)
  for value, error in BAD[name]:
    with pytest.raises(error, match=rf'^(each leaf of )?{name}\b') as raised:
      make(**{name: value})
    if name in _KINDS and error is ValueError and not hasattr(value, 'shape'):
      assert f'got {value!r}' in str(raised.value)


@pytest.mark.parametrize('argument', [a for a in ARGUMENTS if a[1] in _KINDS], ids='-'.join)
def test_numbers_on_the_edge_are_taken(argument):
  edges = {
    'rate': (0, 0.0, 0.9999999, np.float32(0.5)),
    'momentum': (0, 1, 1.0),
    'nonnegative': (0, 0.0, 3, 1e30),
    'epsilon': (0, 0.0, 1.2e-38, 5),
    'threshold': (4, 4.0, 100),
    'positive': (1e-3, 2, 1e30),
    'partial': (0.5, 0.01),
  }
  p = params()
  for value in edges[_KINDS[argument[1]]]:
    tx = _maker(*argument)(**{argument[1]: value})
    u, state = jax.eval_shape(tx.update, p, tx.init(p), p)
    assert types((u, state)) == types((p, tx.init(p)))


def test_large_integers_are_numbers():
  """A number is a number, whether or not it fits an int32 or a float."""
  assert_equal(run(bo.sgd(2**40), params(), gradients()), run(bo.sgd(2.0**40), params(), gradients()))
  with pytest.raises(ValueError, match='learning_rate must be a finite number >= 0'):
    bo.sgd(10**400)


@pytest.mark.parametrize('make', [bo.adagrad, bo.rmsprop])
def test_initial_values_may_be_schedules_as_annotated(make):
  """Their annotation says ScalarOrSchedule: what is called is called with 0."""
  name = 'initial_accumulator_value' if make is bo.adagrad else 'initial_scale'
  found = make(0.1, **{name: lambda count: 0.25 + count}).init(params())
  assert_equal(found, make(0.1, **{name: 0.25}).init(params()))
  assert_equal(make(0.1, **{name: jnp.float32(0.25)}).init(params()), found)


@pytest.mark.parametrize('row', [r for r in ROWS if r.algorithm != 'scale_by_belief'], ids=str)
def test_a_bad_learning_rate_is_named_in_every_composition(row):
  name = 'lr' if row.preset else 'learning_rate'
  with pytest.raises(ValueError, match=rf'^{name} must be a finite number >= 0, got -0.5'):
    row.make(-0.5)


def test_eps_may_be_smaller_in_float64():
  with pytest.raises(ValueError, match='eps must be 0 or a finite number'):
    bo.adam(0.1, eps=1e-50)
  with x64():
    bo.adam(0.1, eps=1e-50)


def test_fractions_are_numbers():
  from fractions import Fraction

  assert_equal(run(bo.sgd(Fraction(1, 2)), params(), gradients()), run(bo.sgd(0.5), params(), gradients()))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: bo.sgd(0.1, nesterov=True), 'momentum is None'),
    (lambda: bo.sgd(0.1, dampening=0.1), 'momentum is None'),
    (lambda: bo.sgd(0.1, accumulator_dtype='float32'), 'momentum is None'),
    (lambda: bo.rmsprop(0.1, nesterov=True), 'momentum is None'),
    (lambda: bo.lars(0.1, momentum=None, nesterov=True), 'momentum is None'),
    (lambda: bo.adam(0.1, eps_scaled=True, bias_correction=False), 'bias_correction=False'),
    (lambda: bo.adabelief(0.1, b1=0.0, residual='previous'), 'b1 must be'),
  ],
)
def test_arguments_that_contradict_each_other_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_independent_decay_needs_the_first_learning_rate():
  make = functools.partial(bo.adamw, weight_decay=0.1, weight_decay_mode='independent')
  with pytest.raises(TypeError, match="'independent' needs the learning rate at the first step"):
    make(jnp.asarray(0.1))
  for first in (0.0, float('nan'), float('inf')):
    with pytest.raises(ValueError, match=f'begins with {first}'):
      make(lambda count, first=first: first + 0.1 * count)
  p, zeros = params(), jax.tree.map(jnp.zeros_like, params())
  for rate in (0.25, lambda count: 0.25 / (1 + count)):
    tx, state = make(rate), make(rate).init(p)
    for factor in (1, 1 if rate == 0.25 else 0.5):
      u, state = tx.update(zeros, state, p)
      assert_close(u, jax.tree.map(lambda p, factor=factor: -0.1 * factor * p, p))


# Trees that must be refused.


def test_integer_parameters_are_refused_with_their_path():
  for dtype in ('int32', 'uint8', 'bool'):
    p = {'layer': {'steps': jnp.zeros(2, dtype), 'w': jnp.ones(2)}}
    with pytest.raises(TypeError, match=rf"parameter \['layer'\]\['steps'\] has dtype {dtype}.*optax.masked"):
      bo.adam(0.1).init(p)
  with pytest.raises(TypeError, match='the tree itself has dtype int'):
    bo.sgd(0.1).init(3)


def test_integer_and_float0_gradients_are_refused():
  p = {'w': jnp.ones(2)}
  state = bo.adam(0.1).init(p)
  with pytest.raises(TypeError, match=r"update \['w'\] has dtype int32"):
    bo.adam(0.1).update({'w': jnp.ones(2, jnp.int32)}, state, p)
  mixed = {'w': jnp.ones(2), 'n': jnp.arange(2)}
  g = jax.grad(lambda p: jnp.sum(p['w'] * p['n']), allow_int=True)(mixed)
  with pytest.raises(TypeError, match=r"update \['n'\].*float0"):
    bo.sgd(0.1).update(g, bo.sgd(0.1).init(p), mixed)
  mask = {'w': True, 'n': False}
  tx = optax.masked(bo.sgd(0.5), mask)
  u, _ = tx.update(g, tx.init(mixed), mixed)
  assert_equal(u['w'], -0.5 * mixed['n'].astype(jnp.float32))


@pytest.mark.parametrize('make', [bo.adam, bo.sgd, bo.adagrad], ids=lambda f: f.__name__)
@pytest.mark.parametrize('decay', [0.0, 0.1])
def test_complex_gradients_of_real_parameters_are_refused(make, decay):
  tx, p = make(0.1, weight_decay=decay), jnp.ones(2)
  with pytest.raises(TypeError, match=r'complex update \(complex64\) arrives where the parameter is real'):
    tx.update(p + 1j, tx.init(p), p)


def test_complex_gradients_of_a_real_mean_are_refused_without_parameters():
  with pytest.raises(TypeError, match='complex'):
    bo.adam(0.1).update(jnp.ones(2) + 1j, bo.adam(0.1).init(jnp.ones(2)))


@pytest.mark.parametrize('make', [bo.adam, functools.partial(bo.sgd, weight_decay=0.1)], ids=['mean', 'decay'])
def test_real_gradients_of_complex_parameters_are_refused(make):
  """The update would come back in the gradient's dtype, without its imaginary part."""
  p = jnp.ones(2, jnp.complex64)
  with pytest.raises(TypeError, match='real update'):
    make(0.1).update(jnp.ones(2), make(0.1).init(p), p)


@pytest.mark.parametrize('shape', [(), (1,), (3, 1), (1, 3), (4,)])
def test_gradients_of_another_shape_are_refused(shape):
  p = jnp.ones(3)
  with pytest.raises(ValueError, match=r'an update of shape \(.*\) arrives where mu has shape \(3,\)'):
    bo.adam(0.1).update(jnp.ones(shape), bo.adam(0.1).init(p), p)
  with pytest.raises(ValueError, match=r'arrives where params has shape'):
    bo.sgd(0.1, weight_decay=0.1).update(p, bo.sgd(0.1).init(p), jnp.ones(shape))


def test_trees_of_another_structure_are_refused():
  p = params()
  tx = bo.adamw(0.1)
  state = tx.init(p)
  with pytest.raises(ValueError, match=r"state.slots\['mu'\] does not have the structure of the updates"):
    tx.update({'w': p['w']}, state, p)
  with pytest.raises(ValueError, match='params does not have the structure of the updates'):
    tx.update(p, state, [p['w'], p['b']])
  with pytest.raises(ValueError, match='arrives where mu holds None'):
    tx.update(p, tx.init({**p, 'b': None}), p)


# Masks of weight decay.


def _decayed(mask, p):
  """The leaves that decay under a mask, by their value in p."""
  tx = bo.add_decayed_weights(1.0, mask)
  u, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
  return u


@pytest.mark.parametrize(
  ('mask', 'expected'),
  [
    (None, [1, 2, 3]),
    (True, [1, 2, 3]),
    (False, [0, 0, 0]),
    ({'a': [True, False], 'b': True}, [1, 0, 3]),
    ({'a': False, 'b': True}, [0, 0, 3]),
    ({'a': [np.bool_(True), True], 'b': np.bool_(False)}, [1, 2, 0]),
    (lambda p: jax.tree.map(lambda x: float(x.shape[0]) < 3, p), [1, 2, 0]),
    (lambda _: {'a': True, 'b': False}, [1, 2, 0]),
    (lambda _: False, [0, 0, 0]),
  ],
)
def test_masks_choose_what_decays(mask, expected):
  p = {'a': [jnp.full(1, 1.0), jnp.full(2, 2.0)], 'b': jnp.full(3, 3.0)}
  found = [float(x[0]) for x in jax.tree.leaves(_decayed(mask, p))]
  assert found == expected


@pytest.mark.parametrize(
  ('mask', 'error', 'message'),
  [
    ({'a': True}, ValueError, 'no prefix of the params'),
    ({'a': True, 'b': True, 'c': False}, ValueError, 'no prefix of the params'),
    ([True, True], ValueError, 'no prefix of the params'),
    ({'a': {'x': True}, 'b': True}, ValueError, 'no prefix of the params'),
    (lambda _: {'a': True}, ValueError, 'no prefix of the params'),
    (lambda _: {'a': 1, 'b': True}, TypeError, 'must be True or False, got 1'),
    (lambda p: jax.tree.map(lambda x: x > 0, p), TypeError, 'must be True or False'),
  ],
)
def test_masks_that_do_not_fit_are_refused_at_init(mask, error, message):
  p = {'a': jnp.ones(1), 'b': jnp.ones(2)}
  with pytest.raises(error, match=message):
    bo.adamw(0.1, mask=mask).init(p)


def test_masked_tree_trains_like_its_parts():
  p, g = params(), gradients()[0]
  tx = bo.adamw(0.1, weight_decay=0.5, mask={'w': True, 'b': False})
  found, _ = tx.update(g, tx.init(p), p)
  decayed, _ = bo.adamw(0.1, weight_decay=0.5).update(g, bo.adamw(0.1).init(p), p)
  plain, _ = bo.adam(0.1).update(g, bo.adam(0.1).init(p), p)
  assert_equal(found, {'w': decayed['w'], 'b': plain['b']})


def test_flags_of_numpy_are_flags():
  assert bo.adam(0.1, nesterov=np.bool_(True)) == bo.adam(0.1, nesterov=True)
  assert flag('x', np.bool_(False)) is False
  assert DECAY_RATE.contains(0.0)


def test_traced_helper_counts_traces():
  """The counter that the contracts rely on is itself able to count two."""
  f, traces = traced(lambda x: x)
  f(jnp.ones(2))
  f(jnp.ones(2))
  f(jnp.ones(3))
  assert len(traces) == 2


def test_numpy_parameters_of_64_bits_are_taken_as_jax_takes_them():
  """Without a warning, which here would be an error."""
  p = {'w': np.ones(3)}
  state = bo.adabelief(0.1).init(p)
  assert state.slots['nu']['w'].dtype == jnp.float32
  assert bo.adabelief(0.1).update(p, state, p)[0]['w'].dtype == jnp.float32
