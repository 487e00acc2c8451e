"""Faults that real use found, each as the smallest input that showed it, with the value that is right."""

import inspect

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import compilations
from registry import ROWS, each_row

import belief_optax as bo
from belief_optax import presets, stores

STORES = {
  'float32': 'float32',
  'bfloat16': 'bfloat16',
  'packed16': stores.Packed16(min_size=0),
  'int8': 'int8',
}
BAD = [np.nan, np.inf, -np.inf]
# Those that divide by the root of squares: what is not finite must not become "no scale" there.
ADAPTIVE = [row for row in ROWS if any(line.squares for line in row.make().lines)]
# Padam's steps grow with the gradient, as those of SGD; ACProp's are divided by what was known before.
UNBOUNDED = ('padam', 'acprop')
each_adaptive = pytest.mark.parametrize('row', [row for row in ADAPTIVE if not row.kept], ids=str)


def steps(tx, grads, shape=(2,), jit=False):
  """The updates of gradients that are numbers or arrays; the parameters stand still."""
  p = jnp.ones(shape)
  state, updates = tx.init(p), []
  update = jax.jit(tx.update) if jit else tx.update
  for g in grads:
    u, state = update(jnp.broadcast_to(jnp.asarray(g, jnp.float32), shape), state, p)
    updates.append(np.asarray(u))
  return updates, state


# What is not finite stays visible.


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('store', STORES)
def test_a_bad_element_among_good_ones_is_seen_in_every_store(store, jit, bad):
  """And only that one: with tiles, 254 neighbours froze; XLA:CPU's maximum of 64 x 64 floats dropped the NaN."""
  tx = bo.adam(1e-2, store=STORES[store])
  one = np.ones((64, 64), np.float32)
  spoiled = one.copy()
  spoiled[3, 5] = bad
  (_, *after), state = steps(tx, [one, spoiled, one], (64, 64), jit)
  nu = np.asarray(bo.decode_state(state, tx).slots['nu'])
  for x in (*after, nu):
    assert np.isnan(x[3, 5])
    assert np.isnan(x).sum() == 1
  good = ~np.isnan(nu)
  np.testing.assert_allclose(nu[good].mean(), 1 - 0.999**3, 0.1)


@pytest.mark.parametrize('store', STORES)
def test_gradients_that_are_all_bad_are_seen_in_every_store(store):
  (_, after), state = steps(bo.adam(1e-2, store=STORES[store]), [1.0, np.nan], (64, 64))
  assert np.isnan(after).all()
  assert np.isnan(np.asarray(bo.decode_state(state, bo.adam(1e-2, store=STORES[store])).slots['nu'])).all()


@pytest.mark.parametrize('bad', BAD)
@each_adaptive
def test_a_bad_gradient_is_seen_in_the_update_and_after_it(row, bad):
  """RMSProp took NaN for "no scale": -0 at that step, then frozen for ever."""
  updates, _ = steps(row.make(), [1.0, 0.5, bad, 1.0, 1.0])
  assert np.isfinite(updates[:2]).all()
  assert not np.isfinite(updates[2:]).any()


@each_row
def test_a_negative_or_infinite_second_moment_is_seen(row):
  """As a wrong file may give it: never a step of 10^5 learning rates."""
  tx = row.make()
  p = jnp.ones(3)
  state = tx.init(p)
  if 'nu' not in state.slots or row.kept:
    pytest.skip('no second moment that stands alone')
  spoiled = state._replace(count=state.count + 10, slots={**state.slots, 'nu': jnp.asarray([-1.0, jnp.nan, 1.0])})
  u, _ = tx.update(jnp.full(3, 0.5), spoiled, p)
  assert np.isnan(u[1])
  assert np.isnan(u[0]) or 'nu_max' in state.slots  # a maximum is not negative
  assert np.isfinite(u[2]) or not row.elementwise  # the norm of all is not finite


@pytest.mark.parametrize('value', [1.0, 1.5, -0.1, np.nan])
@pytest.mark.parametrize('kind', ['schedule', 'array'])
@pytest.mark.parametrize('algorithm', ['adam', 'adabelief', 'amsgrad', 'nadam', 'radam'])
def test_a_rate_outside_its_range_is_seen_when_it_arrives(algorithm, kind, value):
  """1 - b2 = 0 made a mass of 0, and steps of 10^5 learning rates."""
  b2 = (lambda _: value) if kind == 'schedule' else jnp.float32(value)
  updates, _ = steps(getattr(bo, algorithm)(1e-3, b2=b2), [1.0] * 7)
  assert np.isnan(updates[-1]).all()


# One huge finite gradient.


def adam64(grads, b1=0.9, b2=0.999, eps=1e-8):
  """Adam in long doubles: what exact arithmetic gives."""
  m = v = np.longdouble(0)
  for t, g in enumerate(map(np.longdouble, grads), 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    yield float((m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps))


NOISE = np.random.default_rng(0).normal(size=400)


@pytest.mark.parametrize('spike', [1e10, 1e18, 1e20, 1e25, 1e30, 3e38, -3e38])
def test_adam_takes_the_steps_of_exact_arithmetic_after_a_spike(spike):
  grads = [*NOISE[:20], spike, *NOISE[20:300]]
  updates, _ = steps(bo.adam(1.0), grads, (1,))
  exact = np.fromiter(adam64(grads), float)
  found = -np.concatenate(updates)
  # After the spike the noise is 10^-10 and less of what is kept: exact to the rounding of the mean.
  np.testing.assert_allclose(found, exact, 1e-4, 1e-6)


@pytest.mark.parametrize('spike', [1e20, 1e25, 1e30, 3e38, -3e38])
@pytest.mark.parametrize('row', [row for row in ADAPTIVE if not row.kept and str(row) not in UNBOUNDED], ids=str)
def test_a_spike_is_no_long_step(row, spike):
  """nu was bounded, the mean was not: 5.4e5 learning rates with adam, and 1.7e4 even 150 steps later."""
  rate = 1e-2
  updates, _ = steps(row.make(rate), [*NOISE[:20], spike, *NOISE[20:200]], (1,))
  size = np.abs(np.concatenate(updates))
  assert np.isfinite(size).all()
  usual = max(size[:20].max(), rate)  # Adagrad's and RMSProp's first steps are several learning rates long
  assert size[20:].max() < 25 * usual


@each_adaptive
def test_alternating_extremes_give_no_nan(row):
  updates, _ = steps(row.make(1e-2), [3.4e38 * (-1) ** i for i in range(12)])
  assert np.isfinite(updates).all()


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_the_largest_numbers_of_16_bits_are_no_long_step(dtype):
  p = jnp.ones(4, dtype)
  tx = bo.adam(1.0)
  state = tx.init(p)
  for g in (1.0, float(jnp.finfo(dtype).max), 1.0):
    u, state = tx.update(jnp.full(4, g, dtype), state, p)
    assert np.all(np.abs(np.float32(u)) <= 1.7)


# Arguments.


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize('rate', ['b1', 'b2'])
def test_rates_of_16_bits_are_refused(dtype, rate):
  with pytest.raises(TypeError, match=f'{rate} arrived as {jnp.dtype(dtype).name}, which cannot hold a decay rate'):
    bo.adam(1e-2, **{rate: jnp.asarray(0.9999, dtype)})
  with pytest.raises(TypeError, match=f'{rate}, which follows the schedule .* arrived as {jnp.dtype(dtype).name}'):
    steps(bo.adam(1e-2, **{rate: lambda _: jnp.asarray(0.9999, dtype)}), [1.0])


def test_numpy_rates_of_16_bits_are_refused():
  with pytest.raises(TypeError, match='b2 arrived as float16'):
    bo.adam(1e-2, b2=np.float16(0.999))
  assert bo.adam(np.float32(0.5), b2=np.float64(0.999)) == bo.adam(0.5)


@pytest.mark.parametrize('algorithm', [bo.adam, bo.amsgrad, bo.nadam, bo.adabelief, bo.radam])
def test_injected_rates_of_16_bits_are_refused(algorithm):
  """The value is lost before we see it: 0.9999 is 1 in float16, and nothing would ever move."""
  tx = optax.inject_hyperparams(algorithm)(1e-2, b2=0.9999)
  with pytest.raises(TypeError, match=r'pass hyperparam_dtype=jnp\.float32'):
    tx.init(jnp.ones(3, jnp.float16))


@pytest.mark.parametrize('value', [0, jnp.array(0), np.int64(0)])
def test_integers_are_numbers(value):
  np.testing.assert_allclose(steps(bo.adam(0.1, b1=value), [1.0])[0][0], -0.1, 1e-6)
  tx = optax.inject_hyperparams(bo.adam)(learning_rate=0.1, b1=value)
  np.testing.assert_allclose(steps(tx, [1.0])[0][0], -0.1, 1e-6)


@pytest.mark.parametrize('value', [jnp.asarray(True), jnp.asarray(1j)])
def test_what_a_schedule_gives_is_a_real_number(value):
  with pytest.raises(TypeError, match=r'learning_rate, which follows the schedule .*, must be real, got dtype'):
    steps(bo.sgd(lambda _: value), [1.0])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.complex64])
@each_row
def test_strict_promotion(row, dtype):
  """Our arithmetic is in float32 or wider whatever arrives, so there is nothing for the flag to forbid."""
  if dtype == jnp.complex64 and row.real_only:
    pytest.skip('refuses complex parameters')
  p = jnp.ones((2, 2), dtype)

  def one():
    tx = row.make()
    state = tx.init(p)
    return jax.jit(tx.update)(p, state, p), tx.update(p, state, p)

  plain = one()
  with jax.numpy_dtype_promotion('strict'):
    strict = one()
  for a, b in zip(jax.tree.leaves(strict), jax.tree.leaves(plain), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a.astype(jnp.complex64)), np.asarray(b.astype(jnp.complex64)))


# States.


@pytest.mark.parametrize('tx', [bo.sgd(0.1), bo.adam(0.1, store='bfloat16')], ids=['sgd', 'bfloat16'])
def test_a_count_that_is_no_integer_is_an_error(tx):
  """In bfloat16 it would stop at 256, and with it every schedule."""
  cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tx.init(jnp.ones(3)))
  with pytest.raises(TypeError, match='update needs a State whose count is an integer, but it has dtype bfloat16'):
    tx.update(jnp.ones(3), cast)


# Leaves without a gradient.


class Static:
  """What may stand in a module beside its arrays."""


MODULE = {'w': jnp.full((2, 2), 4.0), 'b': jnp.full(2, 4.0), 'act': jax.nn.relu, 'name': 'mlp', 'any': Static()}
FILTERED = {name: x if isinstance(x, jax.Array) else None for name, x in MODULE.items()}
MATRICES = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
AROUND = {
  'adam': (bo.adam(1.0), 0.0, 0.0),
  'decay': (bo.adamw(1.0, weight_decay=0.5), 2.0, 2.0),
  'mask': (bo.adamw(1.0, weight_decay=0.5, mask=MATRICES), 2.0, 0.0),
  'mask-tree': (bo.adamw(1.0, weight_decay=0.5, mask={**dict.fromkeys(MODULE, False), 'w': True}), 2.0, 0.0),
  'rounded': (bo.compose(bo.adamw(1.0, weight_decay=0.5), bo.round_updates()), 2.0, 2.0),
  'packed16': (bo.adamw(1.0, weight_decay=0.5, store=stores.Packed16(min_size=0)), 2.0, 2.0),
}


@pytest.mark.parametrize('name', AROUND)
def test_a_parameter_without_a_gradient_is_not_looked_at(name):
  """Equinox's pattern: a state of the arrays alone, None for the gradients of all else, and the whole module."""
  tx, w, b = AROUND[name]
  grads = jax.tree.map(jnp.ones_like, FILTERED)
  u, state = tx.update(grads, tx.init(FILTERED), MODULE)
  assert (u['act'], u['name'], u['any']) == (None, None, None)
  np.testing.assert_allclose(u['w'], np.full((2, 2), -1.0 - w), 1e-2)
  np.testing.assert_allclose(u['b'], np.full(2, -1.0 - b), 1e-2)
  assert jax.tree.structure(state) == jax.tree.structure(tx.init(FILTERED))


def test_init_says_what_to_do_with_leaves_that_are_no_arrays():
  with pytest.raises(TypeError, match=r"parameter \['act'\] is no array but .*equinox.filter\(tree, eqx.is_array\)"):
    bo.adam(1e-3).init(MODULE)


# Updates.


@pytest.mark.parametrize('grads_dtype', [jnp.float16, jnp.bfloat16])
def test_an_update_is_as_wide_as_its_parameter(grads_dtype):
  """1e-8 was 0 in float16, and 0.4 % of each update was lost in bfloat16."""
  tx, p = bo.sgd(1e-8), jnp.ones(3)
  u, _ = tx.update(jnp.ones(3, grads_dtype), tx.init(p), p)
  assert u.dtype == jnp.float32
  np.testing.assert_allclose(u, -1e-8, 1e-6)


def test_shapes_that_do_not_fit_are_named_by_their_path():
  tx, p = bo.adam(1e-3), {'layer': {'w': jnp.ones(3)}}
  with pytest.raises(ValueError, match=r"shape \(4,\) arrives where mu has shape \(3,\) \(\['layer'\]\['w'\]\)"):
    tx.update({'layer': {'w': jnp.ones(4)}}, tx.init(p))


def test_the_second_step_compiles_nothing():
  tx, p = bo.adamw(optax.cosine_decay_schedule(1e-3, 10)), jnp.ones(7)
  state = tx.init(p)
  _, state = tx.update(p, state, p)
  with compilations() as compiled:
    tx.update(p, state, p)
  assert not compiled


def test_decay_that_would_make_parameters_grow_is_refused():
  with pytest.raises(ValueError, match='would make parameters grow: put it before that line'):
    bo.compose(bo.sgd(0.1), bo.add_decayed_weights(0.01))
  with pytest.raises(ValueError, match='would make parameters grow'):
    bo.compose(bo.first_moment(), bo.scale(-0.1), bo.add_decayed_weights(0.01))
  with pytest.raises(ValueError, match='would make parameters grow: put it behind that line'):
    bo.compose(bo.proximal_decay(0.01), bo.sgd(0.1))
  for tx in (  # what falls, and what is for a chain that subtracts it
    bo.compose(bo.scale_by_learning_rate(0.1, flip_sign=False), bo.add_decayed_weights(0.01), bo.scale(-1.0)),
    bo.compose(bo.scale(-1.0), bo.sgd(0.1, weight_decay=0.01)),
  ):
    np.testing.assert_allclose(steps(tx, [0.0])[0][0], [-0.01, -0.01] if tx.lines[0].sign > 0 else [-0.001] * 2, 1e-6)
  np.testing.assert_allclose(steps(bo.compose(bo.sgd(0.1), bo.proximal_decay(0.01)), [0.0])[0][0], -0.01 / 1.01, 1e-6)
  bo.add_decayed_weights(0.01)


def test_an_axis_that_is_not_there_is_refused():
  tx = bo.centralize(7)
  with pytest.raises(ValueError, match='output_axis must be an axis of a parameter of 2 axes, got 7'):
    tx.init(jnp.ones((2, 2)))
  tx.init(jnp.ones(2))


@pytest.mark.parametrize('method', ['stochastic', 'compensated', 'split'])
def test_derivatives_go_straight_through_rounding(method):
  """d loss / d learning rate after some steps of bfloat16 parameters was 0; it is that of float32 training."""

  def loss(rate, dtype, last):
    tx = bo.compose(bo.sgd(rate), *last)
    p = jnp.asarray([1.0, -2.0, 0.5], dtype)
    state = tx.init(p)
    for _ in range(5):
      u, state = tx.update(2 * p.astype(jnp.float32), state, p)
      p = p + u
      p = p.astype(dtype)
    return jnp.sum(p.astype(jnp.float32) ** 2)

  expected = jax.grad(loss)(jnp.float32(0.05), jnp.float32, ())
  found = jax.grad(loss)(jnp.float32(0.05), jnp.bfloat16, (bo.round_updates(method),))
  np.testing.assert_allclose(found, expected, 0.03)
  assert expected < -1


@pytest.mark.parametrize('store', ['float32', 'bfloat16', 'packed16'])
def test_a_step_is_exported_and_serialized(store):
  """Also for shapes that are not known: the state needs no registration by the user."""
  tx, p = bo.adam(1e-3, store=store), jnp.full((64, 64), 0.5)
  state = tx.init(p)
  exported = jax.export.export(jax.jit(tx.update))(p, state, p)
  there = jax.export.deserialize(exported.serialize())
  np.testing.assert_array_equal(there.call(p, state, p)[0], jax.jit(tx.update)(p, state, p)[0])
  (n,) = jax.export.symbolic_shape('n')
  symbolic = lambda x: jax.ShapeDtypeStruct((n, 64) if x.ndim else (), x.dtype)
  shapes = jax.tree.map(symbolic, (p, state, p))
  assert jax.export.export(jax.jit(tx.update))(*shapes).out_avals[0].shape[0] == n


def test_a_state_of_a_fixed_rate_does_not_fit_a_schedule():
  """It was KeyError: 'b2'."""
  fixed, scheduled = bo.adam(1e-3), bo.adam(1e-3, b2=lambda _: 0.999)
  p = jnp.ones(3)
  for one, other in ((fixed, scheduled), (scheduled, fixed)):
    with pytest.raises(ValueError, match=r'update needs a State with the ages of .*interop\.warm_start'):
      one.update(p, other.init(p))


# Masks in other containers.


class Boxed:
  """A node of somebody else's, with one child, as nnx.Param and nn.Partitioned are."""

  def __init__(self, value):
    self.value = value


jax.tree_util.register_pytree_with_keys(
  Boxed, lambda x: (((jax.tree_util.GetAttrKey('value'), x.value),), None), lambda _, xs: Boxed(*xs)
)
BARE = {'layer': {'w': jnp.full((2, 2), 4.0), 'b': jnp.full(2, 4.0)}}
BOXED = jax.tree.map(Boxed, BARE)
ON = {'layer': {'w': True, 'b': False}}
MASKS = {
  'boxed': jax.tree.map(Boxed, ON),
  'bare': ON,
  'prefix': {'layer': Boxed(True)},
  'callable': lambda _: jax.tree.map(Boxed, ON),
}


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('wrapped', [False, True], ids=['alone', 'by_path'])
def test_a_mask_in_other_containers_with_the_same_keys(mask, wrapped):
  """nnx.Optimizer gives boxed parameters to init and bare ones to update: a mask that is an nnx.State met both."""
  make = lambda rate: bo.compose(
    bo.adamw(rate, weight_decay=0.5, mask=MASKS[mask]), store=stores.Packed16(min_size=0, mask=MASKS[mask])
  )
  tx = bo.by_path({'layer/b': make(1.0)}, make(1.0)) if wrapped else make(1.0)
  for init, update in ((BOXED, BARE), (BARE, BOXED)):
    state, like = tx.init(init), tx.init(update)
    state = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(state))
    u, _ = tx.update(jax.tree.map(jnp.ones_like, update), state, update)
    b, w = (np.asarray(x) for x in jax.tree.leaves(u))
    np.testing.assert_allclose(w, np.full((2, 2), -3.0), 1e-2)
    np.testing.assert_allclose(b, np.full(2, -3.0 if mask == 'prefix' else -1.0), 1e-2)
    kinds = {'uint32'} if mask == 'prefix' else {'uint32', 'float32'}
    assert {x.dtype.name for x in jax.tree.leaves(state) if x.ndim} == kinds


@pytest.mark.parametrize('mask', [{'layer': {'w': True}}, {'layer': {'w': True, 'b': False, 'c': True}}])
def test_a_mask_with_other_keys_is_refused(mask):
  """Also where the containers differ: a key that is missing or idle is no guess."""
  with pytest.raises(ValueError, match='the mask of add_decayed_weights is no prefix of the params'):
    bo.adamw(1.0, mask=jax.tree.map(Boxed, mask)).init(BARE)


def test_a_mask_says_nothing_of_what_is_none():
  """A mask made from the arrays alone, in a tree where None stands for what is no parameter."""
  p = {'w': jnp.full((2, 2), 4.0), 'b': None, 'c': (jnp.full(2, 4.0), None)}
  tx = bo.adamw(1.0, weight_decay=0.5, mask={'w': True, 'c': False})
  u, _ = tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p)
  np.testing.assert_allclose(u['w'], np.full((2, 2), -3.0), 1e-5)
  np.testing.assert_allclose(u['c'][0], np.full(2, -1.0), 1e-5)
  with pytest.raises(ValueError, match='the mask of add_decayed_weights is no prefix of the params'):
    bo.adamw(1.0, mask={'w': True}).init(p)


# Parameters in host memory.


@pytest.mark.parametrize('store', [*STORES, 'packed16-few'])
def test_a_state_is_made_in_the_memory_of_its_parameters(store):
  """Eager init of a coded store was an error of select_n, and with one device float32 was an error too."""
  tx = bo.adam(1e-3, store=STORES.get(store, 'packed16'))
  p = {'w': jnp.full((8, 64), 2.0), 'z': jnp.ones((2, 2), jnp.complex64)}
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind='pinned_host')
  state = tx.init(jax.device_put(p, where))
  assert {x.sharding.memory_kind for x in jax.tree.leaves(state.slots)} == {'pinned_host'}
  for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(tx.init(p)), strict=True):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


# Steps without a scale.


@pytest.mark.parametrize('options', [{}, {'rectify': True}, {'nesterov': True}, {'amsgrad': True}], ids=str)
@pytest.mark.parametrize('scale', [1e-4, 1.0, 1e4])
def test_the_debiased_residual_of_one_gradient_is_that_gradient(options, scale):
  """It was 0, so that the first step was 3e6 learning rates long and the sixth, rectified, 7.9e4."""
  tx = bo.adabelief(1.0, residual='debiased', **options)
  updates, _ = steps(tx, [scale] * 100, (1,))
  # s_t / (1 - b2^t) = g^2 b2^(t-1) (1 - b2) / (1 - b2^t): the step on a constant gradient grows like sqrt(t).
  t = np.arange(1, 101)
  exact = np.sqrt((1 - 0.999**t) / (0.001 * 0.999 ** (t - 1)))
  found = -np.concatenate(updates)
  assert found.max() <= 11
  if not options:
    np.testing.assert_allclose(found, exact, 2e-3 if scale < 1 else 1e-5)  # at 1e-4 eps_root is seen
  by_hand = bo.compose(
    bo.first_moment(), bo.bias_correct(0.9), bo.belief(), bo.bias_correct(b2=0.999), bo.precondition(), bo.scale(-1.0)
  )
  np.testing.assert_allclose(steps(by_hand, [scale])[0][0], -1.0, 1e-3)


SMALL = np.array([1e-12, 1e-16, 3e-17, 1e-17, 3.4e-18, 3e-18, 1e-18, 1e-19, 1e-20, 1e-30, 1e-37])


@pytest.mark.parametrize('eps', [0.0, 1e-30])
@each_adaptive
def test_a_gradient_whose_square_is_flushed_is_no_long_step(row, eps):
  """adam(1., eps=1e-30) on 1e-20: 1e10 learning rates, as nu was 0 and mu was not. In exact arithmetic it is 1."""
  names = inspect.signature(row.factory).parameters
  if 'eps' not in names or (row.options.get('centered') and row.options.get('bias_correction')):
    pytest.skip('has no eps, or nothing but eps: the corrected variance of one gradient is 0, as in optax')
  zero = {name: 0.0 for name in ('eps_root', 'initial_accumulator_value') if name in names}
  tx = row.make(1.0, **{**zero, 'eps': eps})
  updates, _ = steps(tx, [SMALL * x for x in NOISE[:12]], SMALL.shape)
  assert np.abs(np.stack(updates)).max() <= 40  # RMSProp's first steps are up to 32 long


def test_small_gradients_have_a_scale_as_far_as_their_squares_have_digits():
  for size, expected in ((1e-12, 1.0), (3e-17, 1.0), (1e-20, 1e-20 / 2**-55), (0.0, 0.0)):
    for eps in (0.0, 1e-30) if size > 1e-18 else (1e-30,):
      updates, _ = steps(bo.adam(1.0, eps=eps), [size] * 3)
      np.testing.assert_allclose(-np.stack(updates), expected, 2e-2 if size < 1e-16 else 1e-5, atol=1e-30)


# Parameters that are not finite, or not of 16 bits.


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('method', ['stochastic', 'compensated', 'split'])
@pytest.mark.parametrize('g', [0.0, 1e-3, -1e3])
def test_an_infinite_parameter_stays(method, dtype, g):
  """q - p is inf - inf: any step made it NaN."""
  if (method, dtype) == ('split', jnp.float16):
    pytest.skip('needs bfloat16')
  tx = bo.compose(bo.sgd(1.0), bo.round_updates(method))
  p = jnp.asarray([np.inf, -np.inf, np.nan, 1.0], dtype)
  state, first = tx.init(p), np.float32(p)
  for _ in range(3):
    u, state = tx.update(jnp.full(4, g, jnp.float32), state, p)
    p = optax.apply_updates(p, u)
  np.testing.assert_array_equal(np.float32(p)[:3], first[:3])
  np.testing.assert_allclose(np.float32(p[3]), 1 - 3 * g, 2e-2)
  spoiled, _ = tx.update(jnp.full(4, np.nan, jnp.float32), state, p)
  assert np.isnan(spoiled).all()


@pytest.mark.parametrize('method', ['stochastic', 'compensated', 'split'])
@pytest.mark.parametrize('preset', [False, True], ids=['modulus', 'as-reals'])
def test_rounding_leaves_complex_parameters_alone(method, preset):
  """They are of 32 bits: torch's presets refused them for the dtype of a slot that nobody reads."""
  first = presets.torch.adam(1e-2) if preset else bo.adam(1e-2)
  params = {'z': jnp.full((2, 2), 1 - 2j), 'w': jnp.full(2, 3.0)}
  grads = jax.tree.map(lambda x: x / 2, params)
  expected, found = first.init(params), bo.compose(first, bo.round_updates(method)).init(params)
  for _ in range(3):
    plain, expected = first.update(grads, expected, params)
    rounded, found = bo.compose(first, bo.round_updates(method)).update(grads, found, params)
    jax.tree.map(np.testing.assert_array_equal, rounded, plain)
  assert [x.dtype for x in jax.tree.leaves(rounded)] == [jnp.float32, jnp.complex64]


@pytest.mark.parametrize('name', ['float8_e4m3fn', 'float8_e5m2', 'float4_e2m1fn'])
def test_parameters_of_8_bits_are_refused_by_one_sentence(name):
  """A step of 1e-3 is 0 in them; it was a bare error of promotion."""
  p = {'w': jnp.ones(4, getattr(jnp, name))}
  for tx in (bo.adam(1e-3), bo.compose(bo.sgd(1e-3), bo.round_updates()), bo.by_path({}, bo.adam(1e-3))):
    with pytest.raises(
      TypeError, match=rf"parameter \['w'\] has dtype {name}, in which .*: keep it in bfloat16 or wide"
    ):
      tx.init(p)
  wide = {'w': jnp.ones(4)}
  with pytest.raises(TypeError, match=rf"update \['w'\] has dtype {name}"):
    bo.adam(1e-3).update(p, bo.adam(1e-3).init(wide), wide)
  for integer in (jnp.int8, jnp.int4):
    with pytest.raises(TypeError, match=r"parameter \['w'\] has dtype int\d; only real and complex floating arrays"):
      bo.adam(1e-3).init({'w': jnp.ones(4, integer)})


def test_a_store_for_what_is_no_name():
  """It was 'keywords must be strings'."""
  with pytest.raises(TypeError, match='store maps the names of slots to stores, but 1 is no name'):
    bo.adam(1e-3, store={1: 'int8'})
