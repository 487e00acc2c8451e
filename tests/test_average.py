"""The average of the parameters: the values, and what surrounds it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from test_hlo import LARGE, TEMPORARY, compiled_step, copies

import belief_optax as bo
from belief_optax import sharding, stores

START = {'w': jnp.linspace(-2, 2, 64).reshape(8, 8), 'b': jnp.linspace(1, 2, 8)}


def train(tx, params, steps=12, donate=False):
  """The parameters after each step, and the last state."""

  @functools.partial(jax.jit, donate_argnums=(0, 1) if donate else ())
  def step(params, state, t):
    grads = jax.tree.map(lambda p: (p + jnp.sin(t + 3 * p)).astype(p.dtype), params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(jnp.copy, params)
  state, seen = tx.init(params), []
  for t in range(steps):
    params, state = step(params, state, jnp.float32(t))
    seen.append(jax.tree.map(lambda p: np.asarray(p, np.float64), params))
  return seen, state


def average(seen, decays, start=None):
  """In float64: debiased, or from the parameters before the first step."""
  total, mass = (0.0, 0.0) if start is None else (np.asarray(start, np.float64), 1.0)
  for p, d in zip(seen, decays, strict=True):
    total, mass = d * total + (1 - d) * p, d * mass + (1 - d)
  return total / mass


RISING = lambda t: jnp.minimum(0.9, (1 + t) / (10 + t))


@pytest.mark.parametrize('debias', [True, False])
@pytest.mark.parametrize('decay', [0.9, 0.999, 0.0, 'array', 'schedule'], ids=str)
def test_it_is_the_average_of_the_parameters_after_each_step(decay, debias):
  rate = {'array': jnp.float32(0.9), 'schedule': RISING}.get(decay, decay)
  decays = [RISING(t) if decay == 'schedule' else 0.9 if decay == 'array' else decay for t in range(12)]
  seen, state = train(bo.compose(bo.adamw(0.1), bo.average_params(rate, debias)), START)
  plain, _ = train(bo.adamw(0.1), START)
  for name, p in START.items():
    np.testing.assert_array_equal(seen[-1][name], plain[-1][name])  # it only looks
    expected = average([s[name] for s in seen], np.float64(decays), None if debias else p)
    np.testing.assert_allclose(bo.averaged_params(state)[name], expected, 3e-6, 1e-6)


def test_before_the_first_step_it_is_the_parameters():
  for debias in (True, False):
    state = bo.compose(bo.sgd(0.1), bo.average_params(debias=debias)).init(START)
    jax.tree.map(np.testing.assert_array_equal, bo.averaged_params(state), START)


STORES = ['float32', 'params', 'bfloat16', stores.Packed16(min_size=0)]


@pytest.mark.parametrize('store', STORES, ids=str)
@pytest.mark.parametrize('method', [None, 'stochastic', 'compensated', 'split'])
def test_parameters_of_16_bits_are_averaged_as_they_land(method, store):
  """In float32, whatever the store: 0.1 % of what they move would be nothing in bfloat16."""
  rounding = [] if method is None else [bo.round_updates(method)]
  tx = bo.compose(bo.adamw(0.05), *rounding, bo.average_params(0.9), store=store)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), START)
  seen, state = train(tx, params)
  assert state.slots['ema']['w'].dtype == jnp.float32
  for name in START:
    found, expected = bo.averaged_params(state)[name], average([s[name] for s in seen], [0.9] * 12)
    # Without round_updates the update is rounded before it is added, which is one more last digit of bfloat16.
    np.testing.assert_allclose(found, expected, 2e-6, 1e-6 if method else 2.0**-9)
  back = bo.averaged_params(state, like=params)
  assert {x.dtype for x in jax.tree.leaves(back)} == {jnp.dtype('bfloat16')}


def test_before_round_updates_it_averages_the_float32_parameters():
  """Of 'split' these are what is meant; they are rounded to bfloat16 all the same, as what is stored is."""
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), START)
  seen, state = train(bo.compose(bo.adamw(0.05), bo.average_params(0.9), bo.round_updates('split')), params)
  expected = average([s['w'] for s in seen], [0.9] * 12)
  np.testing.assert_allclose(bo.averaged_params(state)['w'], expected, 1e-5)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.complex64])
def test_other_dtypes(dtype):
  params = jax.tree.map(lambda p: p.astype(dtype), START)
  tx = bo.compose(bo.sgd(0.25), bo.average_params(0.5))
  u, state = tx.update(params, tx.init(params), params)
  np.testing.assert_array_equal(bo.averaged_params(state)['b'], optax.apply_updates(params, u)['b'])


def test_it_takes_donated_buffers():
  seen, state = train(bo.compose(bo.adam(0.1), bo.average_params(0.9)), START, donate=True)
  np.testing.assert_allclose(bo.averaged_params(state)['w'], average([s['w'] for s in seen], [0.9] * 12), 3e-6, 1e-6)


@pytest.mark.parametrize('spread', [False, True], ids=['FSDP', 'ZeRO-1'])
def test_it_is_sharded_as_its_parameters(spread):
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  where = NamedSharding(mesh, P() if spread else P('data'))
  plain = bo.compose(bo.adam(0.1), bo.average_params(0.9))
  tx = sharding.zero1(plain, where, axis='data', min_size=0) if spread else plain
  params = jax.device_put(START, where)
  state = sharding.init_sharded(tx, params, where)
  _, state = jax.jit(tx.update)(params, state, params)
  assert bo.averaged_params(state)['w'].sharding.spec[0] == 'data'
  _, alone = jax.jit(plain.update)(START, plain.init(START), START)
  np.testing.assert_allclose(bo.averaged_params(state)['w'], bo.averaged_params(alone)['w'], 1e-6)


def test_it_is_found_in_what_stands_around():
  """optax.chain, inject_hyperparams, and the groups of by_path, of which each has its own part."""
  one = bo.compose(bo.sgd(0.5), bo.average_params(0.5))
  make = lambda learning_rate: bo.compose(bo.sgd(learning_rate), bo.average_params(0.5))
  around = {
    'chain': optax.chain(optax.clip(10.0), one),
    'by_path': bo.by_path({'b': one}, one),
    'inject': optax.inject_hyperparams(make)(0.5),
    'multi': optax.MultiSteps(one, 1),
    'finite': optax.apply_if_finite(one, 3),
  }
  for name, tx in around.items():
    u, state = tx.update(START, tx.init(START), START)
    expected = optax.apply_updates(START, u)
    found = bo.averaged_params(state)
    assert jax.tree.structure(found) == jax.tree.structure(START), name
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)


def test_a_parameter_without_a_gradient_keeps_its_average():
  tx = bo.compose(bo.sgd(0.5), bo.average_params(0.5))
  u, state = tx.update({'w': START['w'], 'b': None}, tx.init(START), START)
  assert u['b'] is None
  np.testing.assert_array_equal(bo.averaged_params(state)['b'], START['b'])


@pytest.mark.parametrize('adaptive', [bo.adam, bo.radam], ids=['adam', 'radam'])
def test_it_goes_on_over_the_parts_of_a_state(adaptive):
  """State surgery: a parameter that is new or reset begins at its own value."""
  tx = bo.compose(adaptive(0.1), bo.average_params(0.5))
  _, state = tx.update(START, tx.init(START), START)
  reset = bo.averaged_params(bo.reset_state(state, tx, START, 'b'))
  np.testing.assert_array_equal(reset['b'], START['b'])
  np.testing.assert_array_equal(reset['w'], bo.averaged_params(state)['w'])
  new = {**START, 'n': jnp.full(2, 7.0)}
  np.testing.assert_array_equal(bo.averaged_params(bo.carry_state(state, tx, START, new))['n'], [7.0, 7.0])


def test_errors():
  with pytest.raises(ValueError, match='state has no averages of parameters: put average_params last'):
    bo.averaged_params(bo.adam(0.1).init(START))
  twice = optax.chain(*[bo.average_params(0.5)] * 2)
  with pytest.raises(ValueError, match='state has 2 averages of one parameter'):
    bo.averaged_params(twice.init(START))
  for bad in (1.0, -0.1):
    with pytest.raises(ValueError, match=rf'ema_decay must be a number in \[0, 1\), got {bad}'):
      bo.average_params(bad)
  tx = bo.average_params(0.5)
  with pytest.raises(ValueError, match=r'average_params\(ema_decay=0.5, debias=True\) needs the parameters'):
    tx.update(START, tx.init(START))
  with pytest.raises(ValueError, match='both own the slot'):
    bo.compose(tx, bo.average_params(0.9))


def test_the_step_stays_in_place():
  """12 bytes per parameter more than without it: the average is read and written, and the parameter is read for it."""
  tx, shape = bo.compose(bo.adabelief(0.1), bo.average_params()), jax.ShapeDtypeStruct(LARGE, jnp.float32)
  compiled = compiled_step(tx, shape, jax.eval_shape(tx.init, shape))
  assert copies(compiled.as_text()) == []
  assert compiled.memory_analysis().temp_size_in_bytes < TEMPORARY
