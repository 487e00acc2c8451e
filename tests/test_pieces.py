"""The pieces that only presets use: each beside its equation in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import run
from helpers import take_steps, x64
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import belief_optax as bo
from belief_optax import presets

STEPS = 13


def noise(*shape, offset=0.3):
  return np.random.default_rng(2).normal(offset, 1.0, shape)


def updates_of(tx, grads):
  """All updates and the last state in float64; the parameters stand still at 1."""
  with x64():
    rows = jnp.asarray(grads)
    ((updates, state),) = take_steps([tx], rows, jnp.ones_like(rows[0]))
    return np.asarray(updates), state


def assert_same(actual, expected, rtol=1e-12):
  np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol, atol=1e-15)


# Lookahead.


def test_lookahead_is_the_paper():
  """13 steps with k = 5: the slow weights move at the fifth and the tenth."""
  grads, lr, alpha = noise(STEPS, 4), 0.1, 0.3
  fast = slow = start = np.linspace(-1, 1, 4)
  rows = []
  for t, g in enumerate(grads, 1):
    fast = fast - lr * g
    if t % 5 == 0:
      fast = slow = slow + alpha * (fast - slow)
    rows.append(fast)
  with x64():
    tx, p = bo.compose(bo.sgd(lr), bo.lookahead(5, alpha)), jnp.asarray(start)
    state, found = tx.init(p), []
    for g in jnp.asarray(grads):
      updates, state = tx.update(g, state, p)
      p = optax.apply_updates(p, updates)
      found.append(np.asarray(p))
    assert_same(found, rows)
    assert_same(state.slots['slow'], slow)


def test_lookahead_is_that_of_optax():
  """Optax keeps both weights in the parameters; its slow ones are ours after a synchronization."""
  grads, start = [jnp.asarray(g, jnp.float32) for g in noise(10, 4)], jnp.ones(4)
  ours = run(bo.compose(bo.adam(0.1), bo.lookahead(5, 0.3)), start, grads)[1]
  theirs = run(optax.lookahead(optax.adam(0.1), 5, 0.3), optax.LookaheadParams.init_synced(start), grads)[1]
  assert_same(ours, theirs.slow, rtol=1e-5)
  assert_same(theirs.fast, theirs.slow)


def test_slow_weights_are_a_buffer_of_their_own():
  tx = bo.compose(bo.sgd(0.1), bo.lookahead(2))
  p = {'w': jnp.ones(8), 'c': jnp.ones(2, jnp.complex64)}
  state = tx.init(p)
  for name, slow in state.slots['slow'].items():
    assert slow.dtype == p[name].dtype
    assert slow.unsafe_buffer_pointer() != p[name].unsafe_buffer_pointer()
  step = jax.jit(lambda p, state, g: (optax.apply_updates(p, tx.update(g, state, p)[0]), state), donate_argnums=(0, 1))
  before = p
  p, state = step(p, state, jax.tree.map(jnp.ones_like, p))
  assert all(x.is_deleted() for x in jax.tree.leaves(before))
  assert_same(p['w'], 0.9 * np.ones(8), rtol=1e-6)


def test_slow_weights_of_bfloat16_are_float32():
  """A thousandth of a step is lost in bfloat16, where 1 has a neighbour at 1 - 1 / 256, and not in the slow weights."""
  tx, p = bo.compose(bo.sgd(1.0), bo.lookahead(1, 1e-3)), jnp.ones(2, jnp.bfloat16)
  state = tx.init(p)
  assert state.slots['slow'].dtype == jnp.float32
  for _ in range(10):
    updates, state = tx.update(jnp.full_like(p, 0.5), state, p)
    assert updates.dtype == jnp.bfloat16
  assert_same(state.slots['slow'], [1 + (0.5 - 1) * (1 - 0.999**10)] * 2, rtol=1e-6)


@pytest.mark.parametrize(('alpha', 'moved'), [(0.0, 0.0), (1.0, -0.2), (jnp.float32(0.5), -0.1)])
def test_alpha_of_lookahead(alpha, moved):
  """0 goes back to the slow weights, 1 stays; the rate may be data, the period may not."""
  p = run(bo.compose(bo.sgd(0.1), bo.lookahead(2, alpha)), jnp.zeros(2), [jnp.ones(2)] * 2)[1]
  np.testing.assert_allclose(p, moved, rtol=1e-6, atol=1e-9)


# Centralization.


@pytest.mark.parametrize('shape', [(3, 4), (2, 3, 4), (5, 2, 3, 4)])
@pytest.mark.parametrize('output_axis', [0, -1])
def test_centralize_takes_the_mean_of_the_weights_of_an_output(output_axis, shape):
  g = noise(1, *shape)
  rows = np.moveaxis(g[0], output_axis, 0).reshape(shape[output_axis], -1)
  expected = (g[0].swapaxes(0, output_axis) - rows.mean(1).reshape(-1, *[1] * (len(shape) - 1))).swapaxes(
    0, output_axis
  )
  assert_same(updates_of(bo.centralize(output_axis), g)[0][0], expected)


@pytest.mark.parametrize('shape', [(), (1,), (5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize('min_ndim', [1, 2, 4])
def test_small_arrays_are_not_centralized(min_ndim, shape):
  g = noise(1, *shape)
  changed = not np.array_equal(updates_of(bo.centralize(min_ndim=min_ndim), g)[0], g)
  # An array of one axis has one weight per output, whose mean is itself.
  assert changed == (len(shape) >= min_ndim)
  if changed and len(shape) == 1:
    assert_same(updates_of(bo.centralize(min_ndim=1), g)[0], np.zeros_like(g))


def test_the_moments_see_the_centralized_gradient():
  """Before them it is the gradient that is centralized, after them the direction."""
  g = noise(STEPS, 3, 4)
  plain = bo.compose(bo.first_moment(0.9), bo.second_moment(0.9), bo.precondition(1e-8))
  before, after = bo.compose(bo.centralize(), plain), bo.compose(plain, bo.centralize())
  assert_same(updates_of(before, g)[0], updates_of(plain, g - g.mean(1, keepdims=True))[0])
  expected = updates_of(plain, g)[0]
  assert_same(updates_of(after, g)[0], expected - expected.mean(1, keepdims=True))


@pytest.mark.parametrize('spec', [P('d', None), P(None, 'd'), P('d', 'e')])
@pytest.mark.parametrize('tx', [bo.centralize(), bo.centralize(0), bo.cautious()], ids=['last', 'first', 'cautious'])
def test_sharded_arrays_give_the_same(tx, spec):
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]).reshape(2, 2), ('d', 'e'))
  g = jnp.asarray(noise(8, 4), jnp.float32)
  tx = bo.compose(bo.heavy_ball(0.9), tx)
  sharded = jax.device_put(g, NamedSharding(mesh, spec))
  alone, state = run(tx, g, [g, -0.5 * g])[0][1], tx.init(sharded)
  _, state = tx.update(sharded, state)
  together, _ = tx.update(-0.5 * sharded, state)
  np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-7)
  assert together.sharding.is_equivalent_to(sharded.sharding, 2)


# Caution.


def test_cautious_is_the_paper():
  grads, c = noise(STEPS, 10), 0.0
  rows = []
  for g in grads:
    c = 0.9 * c + g
    agrees = (c * g > 0).astype(float)
    rows.append(c * agrees / max(agrees.mean(), 1e-3))
  found = updates_of(bo.compose(bo.heavy_ball(0.9), bo.cautious()), grads)[0]
  assert 0 < np.count_nonzero(found == 0) < found.size
  assert_same(found, rows)


def test_cautious_where_all_or_one_of_many_disagree():
  """Where all disagree nothing moves; one of 5000 that agrees is scaled by the bound 1000, not by 5000."""
  tx = bo.compose(bo.heavy_ball(0.9), bo.cautious())
  one = np.ones((1, 5000))
  updates, state = updates_of(tx, np.concatenate([one, -0.1 * one]))
  np.testing.assert_array_equal(updates[1], 0)
  assert_same(state.slots['momentum'], 0.8 * one[0])  # the momentum itself is as before
  second = -0.1 * one
  second[0, 7] = 0.1
  updates = updates_of(tx, np.concatenate([one, second]))[0]
  assert np.flatnonzero(updates[1]).tolist() == [7]
  assert updates[1, 7] == pytest.approx(1000.0)


def test_a_gradient_of_zero_agrees_with_nothing():
  updates = updates_of(bo.compose(bo.heavy_ball(0.5), bo.cautious()), np.array([[1.0, 1.0], [0.0, 1.0]]))[0]
  np.testing.assert_array_equal(updates[1], [0.0, 3.0])


def test_proximal_decay_never_turns_a_sign():
  """However large it is; decoupled decay of 30 would send a parameter of 1 to -2."""
  for decay, end in ((0.1, 0.99 / 1.01), (30.0, 0.99 / 4), (1e6, 0.99 / 100_001)):
    tx, p = bo.sgd(0.1, weight_decay=decay, weight_decay_mode='proximal'), jnp.ones(3)
    p = optax.apply_updates(p, tx.update(jnp.full(3, 0.1), tx.init(p), p)[0])
    np.testing.assert_allclose(p, end, atol=6e-8)
  assert bo.sgd(0.1, weight_decay=0.1, weight_decay_mode='proximal') == bo.compose(
    bo.sgd(0.1), bo.proximal_decay(0.1, multiplier=0.1)
  )


def test_cautious_refuses_complex_numbers():
  tx = bo.compose(bo.heavy_ball(0.9), bo.cautious())
  p = jnp.ones(2, jnp.complex64)
  with pytest.raises(TypeError, match='cautious compares signs, but an update is complex'):
    tx.update(p, tx.init(p))


# What stands beside the second moment.

MOMENTS = bo.compose(bo.first_moment(0.9), bo.second_moment(0.8))


def second_moments(grads, b2=0.8):
  v, rows = 0.0, []
  for g in grads:
    v = b2 * v + (1 - b2) * g**2
    rows.append(v)
  return np.stack(rows)


@pytest.mark.parametrize('eps', [0.0, 1e-3])
def test_the_maximum_grows_by_what_is_stored_in_it(eps):
  """Like adabelief-pytorch 0.0.5: with the same gradient for ever it grows by eps per step, without a bound."""
  grads, v_max, rows = noise(STEPS, 10), 0.0, []
  for v in second_moments(grads):
    v_max = np.maximum(v_max, v) + eps
    rows.append(v_max)
  tx = bo.compose(MOMENTS, bo.running_max(eps), bo.precondition(0.0))
  found, state = updates_of(tx, grads)
  means = updates_of(bo.first_moment(0.9), grads)[0]
  assert_same(found, means / np.sqrt(rows))
  assert_same(state.slots['nu_max'], v_max)
  quiet = np.concatenate([np.ones((1, 1)), np.zeros((9, 1))])
  assert_same(updates_of(tx, quiet)[1].slots['nu_max'], 0.2 + 10 * eps)


def test_eps_beside_bias_correction():
  """Before it eps is divided by the mass too, so that it fades; after it, it is the same at every step."""
  grads, eps, moment = noise(STEPS, 10), 1e-2, bo.second_moment(0.8)
  v, mass = second_moments(grads), (1 - 0.8 ** np.arange(1.0, STEPS + 1))[:, None]
  add, correct, divide = bo.add_eps_root(eps), bo.bias_correct(b2=0.8), bo.precondition(0.0)
  before, state = updates_of(bo.compose(moment, add, correct, divide), grads)
  after, other = updates_of(bo.compose(moment, correct, add, divide), grads)
  assert_same(before, grads / np.sqrt((v + eps) / mass))
  assert_same(after, grads / np.sqrt(v / mass + eps))
  for kept in (state, other):
    assert_same(kept.slots['nu'], v[-1])  # it is never stored
  assert_same(after, updates_of(bo.compose(moment, correct, bo.precondition(0.0, eps)), grads)[0])


def test_the_raw_mean_is_the_fallback_of_rectification():
  """At b2 = 0.999 the first five steps are m itself; after that nothing remembers it."""
  grads = noise(STEPS, 10)
  moments = bo.compose(bo.first_moment(0.9), bo.second_moment(0.999))
  corrected = bo.compose(moments, bo.bias_correct(0.9, 0.999), bo.precondition(1e-8))
  raw = updates_of(bo.compose(corrected, bo.raw_mean(), bo.rectify(0.999)), grads)[0]
  usual = updates_of(bo.compose(corrected, bo.rectify(0.999)), grads)[0]
  means = updates_of(bo.first_moment(0.9), grads)[0]
  mass = 1 - 0.9 ** np.arange(1.0, STEPS + 1)[:, None]
  assert_same(raw[:5], means[:5])
  assert_same(usual[:5], means[:5] / mass[:5])
  np.testing.assert_array_equal(raw[5:], usual[5:])
  np.testing.assert_array_equal(  # it is not the direction
    updates_of(bo.compose(corrected, bo.raw_mean()), grads)[0], updates_of(corrected, grads)[0]
  )


# Complex numbers as two real ones.

OF_TORCH = {
  'adam': presets.torch.adam(0.1, (0.8, 0.9), amsgrad=True, weight_decay=0.1, maximize=True),
  'radam': presets.torch.radam(0.1, (0.8, 0.99), weight_decay=0.1, decoupled_weight_decay=True),
  'nadam': presets.torch.nadam(0.1),
  'rmsprop': presets.torch.rmsprop(0.1, momentum=0.9, centered=True),
  'adagrad': presets.torch.adagrad(0.1, initial_accumulator_value=0.5),
  'sgd': presets.torch.sgd(0.1, momentum=0.9, weight_decay=0.1),
  'adabelief': presets.pytorch_optimizer.adabelief(0.1, rectify=True, ams_bound=True, weight_decay=0.1),
  'lookahead': bo.compose(bo.complex_as_reals(), bo.sgd(0.1), bo.lookahead(5)),
}


@functools.partial(jax.jit, static_argnums=0)
def _descend(tx, params, grads):
  def step(carry, g):
    p, state = carry
    updates, state = tx.update(g, state, p)
    p = optax.apply_updates(p, updates)
    return (p, state), p

  (_, state), rows = jax.lax.scan(step, (params, tx.init(params)), grads)
  return rows, state


@pytest.mark.parametrize('name', OF_TORCH)
def test_a_complex_problem_is_two_real_ones(name):
  """Its real and its imaginary part, beside a real parameter in the same tree; and every slot is complex as well."""
  tx, (re, im) = OF_TORCH[name], noise(2, STEPS, 5)
  with x64():
    mixed = {'z': jnp.asarray(re + 1j * im), 'x': jnp.asarray(re)}
    rows, state = _descend(tx, {'z': jnp.full(5, 1 + 2j), 'x': jnp.ones(5)}, mixed)
    pair = {'re': jnp.asarray(re), 'im': jnp.asarray(im)}
    parts, expected = _descend(tx, {'re': jnp.ones(5), 'im': jnp.full(5, 2.0)}, pair)
  assert_same(rows['z'], np.asarray(parts['re']) + 1j * np.asarray(parts['im']))
  assert_same(rows['x'], parts['re'])
  for slot, tree in state.slots.items():
    assert jnp.iscomplexobj(tree['z']), slot
    assert not jnp.iscomplexobj(tree['x']), slot
    assert_same(tree['z'], np.asarray(expected.slots[slot]['re']) + 1j * np.asarray(expected.slots[slot]['im']))


def test_what_a_slot_begins_with_is_in_both_parts():
  p = {'z': jnp.zeros(2, jnp.complex64), 'x': jnp.zeros(2)}
  nu = presets.torch.adagrad(initial_accumulator_value=0.5).init(p).slots['nu']
  np.testing.assert_array_equal(nu['z'], [0.5 + 0.5j] * 2)
  np.testing.assert_array_equal(nu['x'], [0.5] * 2)
  slow = bo.compose(bo.complex_as_reals(), bo.lookahead()).init({'z': jnp.full(2, 3 - 4j)}).slots['slow']
  np.testing.assert_array_equal(slow['z'], [3 - 4j] * 2)


def test_without_it_both_parts_have_one_scale():
  """The second moment is then that of the modulus: the direction of one gradient is kept."""
  g = jnp.asarray([3 - 4j])
  pieces = bo.second_moment(0.0), bo.precondition(0.0)
  as_one = bo.compose(*pieces)
  as_two = bo.compose(*pieces, bo.complex_as_reals())  # the place in the list is without meaning
  assert not jnp.iscomplexobj(as_one.init(g).slots['nu'])
  np.testing.assert_allclose(as_one.update(g, as_one.init(g))[0], [0.6 - 0.8j], rtol=1e-6)
  np.testing.assert_allclose(as_two.update(g, as_two.init(g))[0], [1 - 1j], rtol=1e-6)


def test_a_real_slot_of_a_complex_parameter_is_refused():
  tx = bo.compose(bo.complex_as_reals(), bo.first_moment(0.9, 'bfloat16'))
  with pytest.raises(TypeError, match='mu of a complex parameter cannot be kept as bfloat16'):
    tx.init(jnp.ones(2, jnp.complex64))
