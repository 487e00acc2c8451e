"""`round_updates`: parameters of 16 bits that take steps smaller than their last digit, in any training loop."""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_equal, traced, types
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_hlo import TEMPORARY, collectives, compiled_step, copies

import belief_optax as bo
from belief_optax.pieces.rounding import METHODS, RoundUpdates

BF16, F16 = jnp.dtype('bfloat16'), jnp.dtype('float16')
SERVED = [(name, dtype) for name, method in METHODS.items() for dtype in (BF16, F16) if dtype.name in method.served]
each_method = pytest.mark.parametrize('method', METHODS)
each_case = pytest.mark.parametrize(('method', 'dtype'), SERVED, ids=str)


def rounded(tx, method):
  """A recipe, or a transformation of optax, whose updates land on numbers of 16 bits."""
  last = bo.round_updates(method)
  return bo.compose(tx, last) if isinstance(tx, bo.Recipe) else optax.chain(tx, last)


def train(tx, p, gradient, steps):
  """The parameters and the state after some compiled steps; `gradient(p, t)` is that of step t."""

  def step(carry, t):
    p, state = carry
    u, state = tx.update(gradient(p, t), state, p)
    return (optax.apply_updates(p, u), state), None

  return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(steps))[0])(p)


def ones(p, _):
  return jnp.ones_like(p)


def numbers(count, seed=0, low=-30.0, high=8.0):
  """Numbers of both signs and all sizes between two powers of 2."""
  rng = np.random.default_rng(seed)
  return np.float32(rng.choice([-1, 1], count) * 2.0 ** rng.uniform(low, high, count))


def as_float(x):
  return np.asarray(x, np.float32)


# Small steps.


@each_case
def test_small_steps_are_not_lost(method, dtype):
  """200 steps of 1e-3 from 1: within 1 % of float32, of ours and of optax. To nearest bfloat16 does not move."""
  start = jnp.ones(1000, dtype)
  for sgd in (bo.sgd(1e-3), optax.sgd(1e-3)):
    p, _ = train(rounded(sgd, method), start, ones, 200)
    assert p.dtype == dtype
    assert abs(as_float(p).mean() - 0.8) < 0.008
    if dtype == BF16:
      assert np.all(as_float(train(sgd, start, ones, 200)[0]) == 1)


@each_method
def test_no_step_is_too_small(method):
  """Steps of 2^-20 of the parameter: what is carried does not freeze in its turn."""
  p, state = train(rounded(bo.sgd(2.0**-20), method), jnp.ones(4096, jnp.bfloat16), ones, 2000)
  carried = RoundUpdates(method).begin(leaf_of(p, state)).p
  assert abs(as_float(carried).mean() - (1 - 2000 * 2.0**-20)) < 0.05 * 2000 * 2.0**-20


def leaf_of(p, state):
  return bo.Leaf(p=p.astype(jnp.float32), stored=p, slots=state.slots, estimates={}, dither=None)


@each_case
def test_zero_updates_move_nothing(method, dtype):
  """Whatever the dither: the numbers of 16 bits are their own neighbours, also the least of float16."""
  p = jnp.asarray(np.concatenate([numbers(4096, low=-24.0), [0.0, 2.0**-24, 3 * 2.0**-24, 60000.0]]), dtype)
  after, _ = train(rounded(bo.sgd(1.0), method), p, lambda p, _: jnp.zeros_like(p), 50)
  assert_equal(after, p)


@pytest.mark.parametrize('dtype', [BF16, F16], ids=str)
def test_stochastic_rounding_has_no_bias(dtype):
  """One step from p by u, at many steps of the clock: a neighbour of p + u each time, and p + u on average."""
  p = jnp.asarray(numbers(512, low=-20.0), dtype)
  u = jnp.asarray(numbers(512, seed=1, low=-20.0, high=0.0)) * jnp.abs(p.astype(jnp.float32))
  tx = bo.round_updates('stochastic')

  def step(total, t):
    q = optax.apply_updates(p, tx.update(u, tx.init(p)._replace(count=t), p)[0]).astype(jnp.float32)
    return total + q, q

  steps = 2000
  total, qs = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(512), jnp.arange(steps)))()
  target = np.float64(as_float(p)) + np.float64(u)
  digit = np.maximum(2.0 ** np.floor(np.log2(np.abs(target))) * float(jnp.finfo(dtype).eps), 2.0**-24)
  assert np.all(np.abs(np.asarray(qs, np.float64) - target) < digit * 1.001)
  assert np.all(np.abs(np.asarray(total, np.float64) / steps - target) < 0.01 * digit)
  assert np.all([len(np.unique(column)) <= 2 for column in np.asarray(qs).T])


# A master weight in two halves.

OPTIMIZERS = {
  'sgd': lambda: bo.sgd(1e-2, momentum=0.9),
  'adam': lambda: bo.adam(1e-3),
  'adamw': lambda: bo.adamw(1e-3, weight_decay=0.1),
  'adabelief': lambda: bo.adabelief(1e-3, weight_decay=0.1),
  'packed16': lambda: bo.adabelief(1e-3, store=bo.stores.Packed16(min_size=0)),
  # optax's other optimizers keep moments in the dtype of the parameters
  'optax.sgd': lambda: optax.sgd(1e-2, momentum=0.9, accumulator_dtype=jnp.float32),
}


def upper(p):
  """What a model sees of a float32 parameter: its upper half, to nearest, a tie away from 0."""
  bits = jax.lax.bitcast_convert_type(p, jnp.uint32)
  return jax.lax.bitcast_convert_type((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000), jnp.float32)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_split_is_float32_training_bit_for_bit(name):
  """1,000 steps on noisy quadratics around 0, with the same gradients: many parameters cross 0 again and again."""
  start = jnp.asarray(numbers(512, low=-20.0, high=1.0)).astype(jnp.bfloat16).astype(jnp.float32)

  def gradient(p, t):
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), p.shape)
    return upper(p.astype(jnp.float32)) + 0.1 * noise

  full, _ = train(OPTIMIZERS[name](), start, gradient, 1000)
  tx = rounded(OPTIMIZERS[name](), 'split')
  p, state = train(tx, start.astype(jnp.bfloat16), gradient, 1000)
  low = optax.tree.get(state, 'low')
  master = (as_float(p).view(np.uint32) + np.asarray(low).astype(np.uint32)).view(np.float32)
  assert p.dtype == BF16
  assert low.dtype == jnp.int16
  np.testing.assert_array_equal(master, full)
  np.testing.assert_array_equal(as_float(p), upper(full))
  assert np.mean(np.sign(full) != np.sign(start)) > 0.1


def test_split_lands_on_the_upper_half():
  """Of any float32 parameter and any update, also where they cancel; NaN stays NaN."""
  count = 200_000
  master, u = numbers(count), numbers(count, seed=1)
  near = np.arange(count) % 2 == 0  # half of the updates nearly cancel
  u = np.where(near, np.float32(-master * (1 + numbers(count, seed=2, high=-1.0))), u)
  bits = master.view(np.uint32)
  p = jnp.asarray(upper(master)).astype(jnp.bfloat16)
  low = jnp.asarray((bits - as_float(p).view(np.uint32)).astype(np.int16))
  tx = bo.round_updates('split')
  state = tx.init(p)._replace(slots={'low': low})
  got, state = tx.update(jnp.asarray(u), state, p)
  after = optax.apply_updates(p, got)
  expected = master + u
  np.testing.assert_array_equal(as_float(after), upper(expected))
  whole = as_float(after).view(np.uint32) + np.asarray(state.slots['low']).astype(np.uint32)
  np.testing.assert_array_equal(whole.view(np.float32), expected)
  nan = jnp.asarray(np.full(count, 0x7FFFFFFF, np.uint32).view(np.float32))  # the next number would be -0
  bad, _ = tx.update(nan, state, p)
  assert np.isnan(as_float(optax.apply_updates(p, bad))).all()


def test_compensated_follows_float32():
  """What is carried has 8 digits, so an error is of the order of 2^-17 per step; of `stochastic` it is 2^-9."""
  start = jnp.asarray(numbers(512, low=-4.0, high=1.0)).astype(jnp.bfloat16)
  gradient = lambda p, t: jax.random.normal(jax.random.fold_in(jax.random.key(0), t), p.shape) + 0.3
  full, _ = train(bo.sgd(1e-4), start.astype(jnp.float32), gradient, 2000)
  size = np.maximum(np.abs(as_float(start)), np.abs(full))

  def error(tx):
    p, state = train(tx, start, gradient, 2000)
    whole = as_float(p) + as_float(state.slots.get('compensation', 0.0))
    return np.sqrt(np.mean(((whole - full) / size) ** 2))

  assert error(rounded(bo.sgd(1e-4), 'compensated')) < 2.0**-17 * 2000**0.5
  assert 2.0**-10 < error(rounded(bo.sgd(1e-4), 'stochastic')) < 2.0**-9 * 2000**0.5
  assert error(bo.sgd(1e-4)) > 0.05  # to nearest


# Trees, dtypes, errors.


@each_method
def test_wide_parameters_are_left_alone(method):
  p = {'w': jnp.ones((4, 3)), 'half': jnp.ones(5, jnp.bfloat16), 'c': jnp.ones(2, jnp.complex64), 'none': None}
  g = jax.tree.map(lambda p: p * 0.5, p)
  plain, tx = bo.adamw(1e-2), rounded(bo.adamw(1e-2), method)
  state, other = tx.init(p), plain.init(p)
  for _ in range(3):
    u, after = tx.update(g, state, p)
    expected, other = plain.update(g, other, p)
    assert types(after) == types(state)
    state = after
  assert {name: x.dtype for name, x in u.items() if x is not None} == {
    'w': jnp.float32,
    'half': jnp.float32,
    'c': jnp.complex64,
  }
  assert_equal({k: u[k] for k in 'wc'}, {k: expected[k] for k in 'wc'})
  for slot in METHODS[method].slots:
    for name, size in (('w', 12), ('half', 5), ('c', 2)):
      assert state.slots[slot.name][name].nbytes == 2 * size


def test_wrong_arguments_list_the_choices():
  for bad in ('nearest', '', None, 1):
    with pytest.raises(ValueError, match=r"^method must be one of 'stochastic', 'compensated', 'split', got"):
      bo.round_updates(bad)
  can = r"round_updates\('split'\) cannot serve float16 parameters; methods that can: 'stochastic', 'compensated'"
  with pytest.raises(TypeError, match=can):
    rounded(bo.adam(1e-3), 'split').init({'w': jnp.ones(3, jnp.float16)})
  with pytest.raises(
    TypeError, match=r'parameter the tree itself has dtype float8_e4m3fn, in which a step .* keep it in bfloat16'
  ):
    bo.round_updates('stochastic').init(jnp.ones(3, jnp.float8_e4m3fn))
  tx = bo.round_updates('split')
  with pytest.raises(ValueError, match=r"round_updates\(method='split'\) needs the parameters"):
    tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


@each_case
@pytest.mark.parametrize('make', [bo.adabelief, bo.adam, bo.rmsprop, bo.radam])
def test_half_precision_is_never_nan(make, method, dtype):
  """Zero, tiny and huge gradients."""
  tx, p = rounded(make(1e-3), method), jnp.linspace(-2, 2, 64).astype(dtype)
  scale = jnp.asarray([0.0, 0.0, 1e-7, 1.0, 6e4, 0.0])
  p, state = train(tx, p, lambda p, t: jnp.full_like(p, 1.0) * scale[t].astype(dtype), 6)
  assert all(np.isfinite(as_float(x)).all() for x in jax.tree.leaves((p, state.slots)))
  assert np.all(np.abs(as_float(p)) < 20)  # the fallback of rectification moves by the mean


# Whatever is around it.


@each_method
def test_is_a_value_with_a_stable_state(method):
  tx = rounded(bo.adabelief(1e-3, store='packed16'), method)
  assert tx == rounded(bo.adabelief(1e-3, store='packed16'), method)
  assert f'round_updates(method={method!r})' in repr(tx)
  p, g = jnp.ones((8, 4), jnp.bfloat16), jnp.full((8, 4), 0.25, jnp.bfloat16)
  state = tx.init(p)
  u, after = tx.update(g, state, p)
  assert types(after) == types(state) == types(jax.eval_shape(tx.init, p))
  assert_equal(jax.jit(tx.update)(g, state, p), (u, after))
  assert_equal(tx.update(g, state, p), (u, after))
  restored = flax.serialization.from_bytes(state, flax.serialization.to_bytes(after))
  assert_equal(jax.tree.map(jnp.asarray, restored), after)


@each_method
def test_plain_training_loops_land_on_it(method):
  """TrainState, nnx.Optimizer, MultiSteps, masked, inject_hyperparams, apply_if_finite: the loop stays as it is."""
  start, g = jnp.ones((4, 3), jnp.bfloat16), jnp.full((4, 3), 0.5, jnp.bfloat16)
  tx = rounded(bo.adam(1e-3), method)
  state, expected = tx.init(start), start
  for _ in range(4):
    u, state = tx.update(g, state, expected)
    expected = optax.apply_updates(expected, u)
  assert np.any(as_float(expected) != 1)

  step, traces = traced(lambda train_state: train_state.apply_gradients(grads={'w': g}), donate_argnums=0)
  flax_state = TrainState.create(apply_fn=None, params={'w': start + 0}, tx=tx)
  for _ in range(4):
    flax_state = step(flax_state)
  assert len(traces) == 1
  assert_equal(flax_state.params['w'], expected)

  model = nnx.Dict(w=nnx.Param(start))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  for _ in range(4):
    optimizer.update(model, nnx.grad(lambda m: jnp.sum(m['w'][...] * g))(model))
  assert_equal(model['w'][...], expected)

  wrappers = {
    'masked': optax.masked(tx, True),
    'inject': optax.inject_hyperparams(lambda learning_rate: rounded(bo.adam(learning_rate), method))(1e-3),
    'finite': optax.chain(optax.apply_if_finite(bo.adam(1e-3), 3), bo.round_updates(method)),
    'partition': optax.partition({'a': tx}, 'a'),
  }
  for name, wrapped in wrappers.items():
    # float32 gradients: apply_if_finite and the chain round what they hand on to the gradient's dtype
    found, _ = train(wrapped, start, lambda *_: g.astype(jnp.float32), 4)
    same, _ = train(tx, start, lambda *_: g.astype(jnp.float32), 4)
    assert_equal(found, same), name


@each_method
def test_accumulated_gradients(method):
  """optax.MultiSteps around it: nothing moves in between."""
  start, g = jnp.ones((4, 3), jnp.bfloat16), jnp.full((4, 3), 0.5, jnp.float32)
  tx = rounded(bo.adam(1e-2), method)
  found, _ = train(optax.MultiSteps(tx, 2), start, lambda *_: g, 5)
  expected, _ = train(tx, start, lambda *_: g, 2)
  assert_equal(found, expected)


@each_method
def test_vmaps_over_a_population(method):
  p, g = jnp.ones((3, 8), jnp.bfloat16), jnp.full((3, 8), 0.5, jnp.bfloat16)
  tx = rounded(bo.adam(1e-3), method)
  states = jax.vmap(tx.init)(p)
  u, after = jax.vmap(tx.update)(g, states, p)
  alone = tx.update(g[0], tx.init(p[0]), p[0])
  assert_equal(jax.tree.map(lambda x: x[1], (u, after)), alone)


# XLA:CPU makes one kernel per output: a sum of which two outputs are made is a temporary array of float32. Bytes per
# element; versions of XLA differ in one.
TEMPORARIES = {'stochastic': (0,), 'compensated': (5, 4), 'split': (4,)}


@each_method
@pytest.mark.parametrize('store', ['float32', 'packed16'])
def test_step_is_in_place_and_local(method, store):
  tx = rounded(bo.adabelief(1e-3, weight_decay=0.1, store=store), method)
  make = functools.partial(jax.ShapeDtypeStruct, (1024, 128), jnp.bfloat16)
  shapes = {'v': make(), 'w': make()}
  compiled = compiled_step(tx, shapes, jax.eval_shape(tx.init, shapes))
  assert copies(compiled.as_text()) == []
  memory = compiled.memory_analysis()
  assert any(0 <= memory.temp_size_in_bytes - n * 2 * 1024 * 128 < TEMPORARY for n in TEMPORARIES[method])
  assert memory.alias_size_in_bytes == bo.state_bytes((shapes, jax.eval_shape(tx.init, shapes)))
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = {'v': make(sharding=NamedSharding(mesh, P('data'))), 'w': make(sharding=NamedSharding(mesh, P(None, 'data')))}
  like = lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding)
  state = optax.tree.map_params(tx, like, jax.eval_shape(tx.init, shapes), split)
  assert collectives(compiled_step(tx, split, state).as_text()) == []
