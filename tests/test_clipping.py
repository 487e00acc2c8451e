"""Directions that are bounded, beside the papers' equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_helpers import assert_close, gradients, params, run
from helpers import take_steps, x64
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from reference import stable_adamw
from registry import ROWS
from test_hlo import LARGE, TEMPORARY, compiled_step, copies

import belief_optax as bo
from belief_optax import stores


def heavy(steps, *shape):
  """Gradients whose scale jumps: spikes of 50 at some steps."""
  draw = np.random.default_rng(3)
  scale = np.where(draw.random(steps) < 0.1, 50.0, 1.0) * 1e-3
  return draw.normal(0.1, 1.0, (steps, *shape)) * scale.reshape(-1, *[1] * len(shape))


# Element by element.


@pytest.mark.parametrize('limit', [0.5, 'array', 'schedule'], ids=str)
def test_no_element_of_a_direction_is_longer_than_its_limit(limit):
  values = [0.5] * 5 if limit != 'schedule' else [0.5 / (1 + t) for t in range(5)]
  given = {'array': jnp.float32(0.5), 'schedule': lambda t: 0.5 / (1 + t)}.get(limit, limit)
  rows = np.float32(np.random.default_rng(3).normal(size=(5, 64)))
  updates, _, _ = run(bo.clip_direction(given), jnp.zeros(64), list(jnp.asarray(rows)))
  for u, row, c in zip(updates, rows, values, strict=True):
    np.testing.assert_allclose(u, np.clip(row, -c, c), 1e-7)
    assert 0 < (np.abs(row) > c).sum() < 64


def test_of_a_complex_number_the_modulus_is_bounded():
  z = jnp.asarray([3 + 4j, 0.3 - 0.4j, 0j], jnp.complex64)
  tx = bo.clip_direction(1.0)
  np.testing.assert_allclose(tx.update(z, tx.init(z))[0], [0.6 + 0.8j, 0.3 - 0.4j, 0], 1e-6)
  parts = bo.compose(bo.complex_as_reals(), bo.clip_direction(1.0))  # torch's two real numbers
  np.testing.assert_allclose(parts.update(z, parts.init(z))[0], [1 + 1j, 0.3 - 0.4j, 0], 1e-6)


@pytest.mark.parametrize('clip', [bo.clip_direction(1.0), bo.clip_growing()], ids=['clip_direction', 'clip_growing'])
@pytest.mark.parametrize('dtype', ['float32', 'complex64', 'bfloat16'])
def test_what_is_not_finite_stays_visible(dtype, clip):
  """Where the limit of `clip_growing` is 0, and where it is 1 as that of the other."""
  x, state = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan, 9.0, 0.0], dtype), clip.init(jnp.zeros(5))
  first, state = clip.update(x, state)
  second, _ = clip.update(x, state)
  for u, limit in ((first, 1 if clip.lines[0].name == 'clip_direction' else 0), (second, 1)):
    assert u.dtype == dtype
    np.testing.assert_array_equal(jnp.isnan(u), [True, True, True, False, False])
    np.testing.assert_array_equal(u[3:], [limit, 0])


def test_before_the_moments_it_bounds_the_gradient():
  grads = heavy(8, 16) * 1e3
  with x64():
    make = lambda *pieces: bo.compose(*pieces, bo.first_moment(0.9), bo.second_moment(0.9), bo.precondition(1e-8))
    ours = take_steps([make(bo.clip_direction(2.0))], jnp.asarray(grads), jnp.zeros(16))[0]
    theirs = take_steps([make()], jnp.asarray(np.clip(grads, -2, 2)), jnp.zeros(16))[0]
    assert_close(ours[0], theirs[0], 1e-12)
    assert_close(ours[1].slots, theirs[1].slots, 1e-12)


def test_a_constant_gradient_makes_no_step_longer_than_max_step():
  """Without it AdaBelief's step is 2.3e3 learning rates at step 10,000."""
  longest = {}
  for limit in (None, 10.0):
    tx, g = bo.adabelief(1.0, max_step=limit), jnp.ones((10_000, 1))
    ((updates, _),) = take_steps([tx], g, jnp.zeros(1))
    longest[limit] = float(jnp.abs(updates).max())
  assert longest[None] > 2e3
  assert longest[10.0] == 10.0


def test_the_first_steps_that_are_plain_means_are_bounded_too():
  tx, g = bo.adabelief(1e-3, rectify=True, degenerate_to_sgd=True, max_step=1.0), jnp.full(3, 1e4)
  np.testing.assert_allclose(tx.update(g, tx.init(g))[0], -1e-3, 1e-6)


def test_decay_is_beside_the_bounded_step():
  tx, p, g = bo.adabelief(0.1, max_step=0.5, weight_decay=1.0), jnp.full(3, 8.0), jnp.ones(3)
  np.testing.assert_allclose(tx.update(g, tx.init(p), p)[0], -0.1 * (0.5 + 8.0), 1e-6)
  assert [line.name for line in tx.lines][-3:] == ['clip_direction', 'add_decayed_weights', 'scale_by_learning_rate']


def test_bad_limits_are_refused_by_their_name():
  for bad in (0.0, -1.0, float('inf'), float('nan')):
    with pytest.raises(ValueError, match=f'max_step must be a finite number > 0, got {bad}'):
      bo.adabelief(1e-3, max_step=bad)
    with pytest.raises(ValueError, match=f'limit must be a finite number > 0, got {bad}'):
      bo.clip_direction(bad)
  with pytest.raises(TypeError, match=r"max_step must be a number, a scalar array or a schedule .*, got '1'"):
    bo.adabelief(1e-3, max_step='1')


# An array at a time.


def stable(learning_rate=0.1, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.3, **options):
  return bo.compose(
    bo.first_moment(b1),
    bo.second_moment(b2),
    bo.bias_correct(b1, b2),
    bo.precondition(eps),
    bo.add_decayed_weights(weight_decay),
    bo.clip_by_rms(eps),
    bo.scale_by_learning_rate(learning_rate),
    **options,
  )


def test_it_is_stable_adamw():
  """30 steps in float64; some learning rates are divided, some are not, and eps decides for small elements."""
  grads, p = heavy(30, 4, 8), np.linspace(-1, 1, 32).reshape(4, 8)
  grads[..., 0] *= 1e-4
  with x64():
    ((updates, _),) = take_steps([stable()], jnp.asarray(grads), jnp.asarray(p))
    plain = bo.adamw(0.1, 0.9, 0.95, 1e-3, weight_decay=0.3)
    ((free, _),) = take_steps([plain], jnp.asarray(grads), jnp.asarray(p))
    expected = np.stack(list(stable_adamw(grads, p, 0.1, 0.9, 0.95, 1e-3, 0.3)))
    np.testing.assert_allclose(np.asarray(updates), np.float64(expected), 1e-12)
    shorter = np.abs(np.asarray(updates / free)).mean((1, 2))
  assert (shorter < 0.99).sum() == 3
  np.testing.assert_allclose(shorter[shorter > 0.99], 1, 1e-12)


@pytest.mark.parametrize('store', ['bfloat16', stores.Packed16(min_size=0), 'int8'], ids=str)
def test_with_stores_it_is_as_exact_as_they_are(store):
  grads, p = np.float32(heavy(12, 32, 64)), jnp.ones((32, 64))
  bare = bo.adamw(0.1, 0.9, 0.95, weight_decay=0.3)
  txs = [tx for one in (bare, stable(eps=1e-8)) for tx in (one, bo.compose(one, store=store))]
  updates = [u.reshape(12, -1) for u, _ in take_steps(txs, grads, p)]
  without, error = (
    jnp.linalg.norm(coded - exact, axis=1) / jnp.linalg.norm(exact, axis=1)
    for exact, coded in (updates[:2], updates[2:])
  )
  assert 0 < error.max() < 1.1 * without.max()
  assert jnp.abs(updates[2] / updates[0]).min() < 0.7


FEW = ('adabelief', 'adabelief-packed16', 'rmsprop-centered-momentum', 'presets.timm.rmsprop_tf-cautious')
BY_ROW = [pytest.param(row, marks=() if str(row) in FEW else pytest.mark.full, id=str(row)) for row in ROWS]


@pytest.mark.parametrize('row', BY_ROW)
def test_it_fits_behind_every_recipe_that_has_a_second_moment(row):
  tx = row.make()
  p = params()
  if not any('nu_hat' in line.gives for line in tx.lines):
    with pytest.raises(ValueError, match='clip_by_rms'):
      bo.compose(tx, bo.clip_by_rms()).init(p)
    return
  shortened = bo.compose(tx, bo.clip_by_rms())
  state, other = tx.init(p), shortened.init(p)
  for g in gradients():
    u, state = tx.update(g, state, p)
    v, other = shortened.update(g, other, p)
    for full, short in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
      if not np.any(full):  # no step yet, as of RAdam
        assert not np.any(short)
        continue
      ratio = np.asarray(short)[full != 0] / np.asarray(full)[full != 0]
      assert 0 < ratio.max() < 1 + 1e-6
      np.testing.assert_allclose(ratio, ratio.max(), 1e-5)  # one number for an array


def test_zeros_have_no_scale_and_nan_stays_visible():
  tx, zero = stable(eps=0.0), jnp.zeros((3, 2))
  u, state = tx.update(zero, tx.init(zero), zero)
  np.testing.assert_array_equal(u, 0)
  assert jnp.isnan(tx.update(zero.at[0, 0].set(jnp.nan), state, zero)[0]).all()


def test_complex_arrays_count_their_moduli():
  g = heavy(10, 6) + 1j * heavy(10, 6)[::-1]
  with x64():
    ((updates, _),) = take_steps([stable()], jnp.asarray(g), jnp.ones(6, complex))
    expected = np.stack(list(stable_adamw(g, np.ones(6, complex), 0.1, 0.9, 0.95, 1e-3, 0.3)))
    np.testing.assert_allclose(np.asarray(updates), np.complex128(expected), 1e-12)


def test_without_a_second_moment_it_is_refused():
  with pytest.raises(
    ValueError, match=r'clip_by_rms\(eps=1e-08\) needs nu_hat: put one of .*second_moment.* before it'
  ):
    bo.compose(bo.sgd(0.1), bo.clip_by_rms()).init(jnp.ones(2))


def test_sharded_it_takes_the_same_steps():
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  g, p = jnp.asarray(heavy(2, 16, 4), jnp.float32), jnp.ones((16, 4))
  far = lambda x: jax.device_put(x, NamedSharding(mesh, P('data')))
  tx = stable()
  _, state = tx.update(g[0], tx.init(p), p)
  expected, _ = tx.update(50 * g[1], state, p)
  _, state = tx.update(far(g[0]), tx.init(far(p)), far(p))
  u, _ = tx.update(far(50 * g[1]), state, far(p))
  np.testing.assert_allclose(u, expected, 1e-5)
  assert u.sharding.is_equivalent_to(NamedSharding(mesh, P('data')), 2)


@pytest.mark.parametrize('mode', ['xla', 'auto'])
def test_what_they_cost(mode):
  """An element's bound costs nothing; RMS_t makes the direction wait, which is one temporary, and no copy."""
  shape = jax.ShapeDtypeStruct(LARGE, jnp.float32)
  with bo.execution.use(mode):
    for tx, waiting in ((bo.adabelief(0.1, max_step=10.0), 0), (stable(), 1)):
      compiled = compiled_step(tx, shape, jax.eval_shape(tx.init, shape))
      assert copies(compiled.as_text()) == []
      assert compiled.memory_analysis().temp_size_in_bytes - 4 * waiting * shape.size < TEMPORARY
