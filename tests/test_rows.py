"""Lazy rows, beside what torch.optim.SparseAdam did."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_equal
from jax.sharding import PartitionSpec as P
from registry import ALGORITHM_ROWS
from test_hlo import LARGE, compiled_step, copies

import belief_optax as bo
from belief_optax import sharding, stores

# torch 2.13: SparseAdam([p], lr=0.05, betas=(0.8, 0.95), eps=1e-3) on sparse gradients. The rows without a gradient are
# those that are all 0 here; the last one never has any.
with np.load(Path(__file__).parent / 'recorded' / 'sparse-adam.npz') as file:
  SPARSE = dict(file)


def sparse_adam(**options):
  return bo.compose(bo.adam(0.05, 0.8, 0.95, 1e-3, eps_scaled=True), bo.lazy_rows(), **options)


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_it_is_sparse_adam_step_for_step(jit):
  tx, p = sparse_adam(), jnp.asarray(SPARSE['p0'])
  state, update = tx.init(p), jax.jit(tx.update) if jit else tx.update
  for t, g in enumerate(SPARSE['grads']):
    u, state = update(jnp.asarray(g), state, p)
    p = optax.apply_updates(p, u)
    np.testing.assert_allclose(p, SPARSE['params'][t], 2e-6, 2e-7)
    np.testing.assert_allclose(state.slots['mu'], SPARSE['mu'][t], 2e-6, 1e-7)
    np.testing.assert_allclose(state.slots['nu'], SPARSE['nu'][t], 2e-6, 1e-7)
  np.testing.assert_array_equal(p[-1], SPARSE['p0'][-1])
  plain, _ = bo.adam(0.05).update(jnp.asarray(g), bo.adam(0.05).init(p)._replace(slots=state.slots), p)
  still = ~SPARSE['grads'][-1].any(1)
  assert np.abs(plain[still][:-1]).min() > 4e-4  # which dense Adam moves all the same


TABLE = {'emb': jnp.linspace(-1, 1, 64 * 8).reshape(64, 8), 'w': jnp.linspace(1, 2, 64 * 8).reshape(64, 8)}
ONLY_EMB = {'emb': True, 'w': False}
SOME = jnp.zeros((64, 1)).at[::3].set(1)


def gradients(t):
  full = jax.tree.map(lambda x: jnp.sin(3 * x + t) + 0.1, TABLE)
  return jax.tree.map(lambda g: g * jnp.roll(SOME, t), full)


def _kept(state, name):
  """The rows of what is kept of an array, whatever the store."""
  return [np.asarray(tree[name]) for tree in state.slots.values()]


@pytest.mark.parametrize('row', [row for row in ALGORITHM_ROWS if not row.kept and row.covering], ids=str)
def test_every_algorithm_leaves_untouched_rows_and_touches_the_others_as_before(row):
  plain = row.make(0.1)
  lazy, params = bo.compose(plain, bo.lazy_rows(ONLY_EMB)), TABLE
  state = lazy.init(params)
  for t in range(4):
    grads, before = gradients(t), state
    expected, after = plain.update(grads, state, params)
    u, state = lazy.update(grads, state, params)
    rows = np.asarray(grads['emb']).any(1)
    assert 0 < rows.sum() < 64
    np.testing.assert_array_equal(np.asarray(u['emb'])[~rows], 0)
    assert_equal((u['w'], _kept(state, 'w')), (expected['w'], _kept(after, 'w')))
    np.testing.assert_array_equal(np.asarray(u['emb'])[rows], np.asarray(expected['emb'])[rows])
    for new, old, dense in zip(*(_kept(s, 'emb') for s in (state, before, after)), strict=True):
      np.testing.assert_array_equal(new[~rows], old[~rows])
      np.testing.assert_array_equal(new[rows], dense[rows])
    params = optax.apply_updates(params, u)


@pytest.mark.parametrize('store', ['bfloat16', stores.Packed16(min_size=0), 'int8'], ids=str)
@pytest.mark.parametrize('method', [None, 'split', 'compensated'])
def test_codes_of_untouched_rows_stay_bit_for_bit(store, method):
  """Those of round_updates too: what 'compensated' carries may be half a digit, and would move the parameter."""
  rounding = [] if method is None else [bo.round_updates(method)]
  tx = bo.compose(bo.adamw(0.05, weight_decay=0.1, store=store), *rounding, bo.lazy_rows())
  p = jnp.asarray(TABLE['emb'], jnp.float32 if method is None else jnp.bfloat16)
  state = tx.init(p)
  for t in range(6):
    g, before, old = gradients(t)['emb'], jax.tree.map(np.asarray, state), p
    u, state = jax.jit(tx.update)(g, state, p)
    p = optax.apply_updates(p, u)
    rows = np.asarray(g).any(1)
    np.testing.assert_array_equal(np.asarray(p)[~rows], np.asarray(old)[~rows])
    assert (np.asarray(p)[rows] != np.asarray(old)[rows]).mean() > 0.5
    for key, kept in state.slots.items():
      np.testing.assert_array_equal(np.asarray(kept)[~rows], before.slots[key][~rows], err_msg=key)


def test_what_is_not_finite_is_seen_in_its_row():
  tx, p = bo.compose(bo.adam(0.1), bo.lazy_rows()), jnp.ones((3, 2))
  u, state = tx.update(jnp.asarray([[0.0, 0.0], [0.0, jnp.nan], [-0.0, 1e-45]]), tx.init(p))
  np.testing.assert_array_equal(np.isnan(u), [[False, False], [False, True], [False, False]])
  np.testing.assert_array_equal(np.isnan(state.slots['nu']), [[False, False], [False, True], [False, False]])


def test_vectors_and_higher_axes():
  tx = bo.compose(bo.sgd(1.0, momentum=0.9), bo.lazy_rows())
  p = {'v': jnp.zeros(2), 't': jnp.zeros((2, 2, 2)), 's': jnp.zeros(())}
  _, state = tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p))
  g = {'s': jnp.zeros(()), 'v': jnp.asarray([0.0, 1.0]), 't': jnp.zeros((2, 2, 2)).at[1, 0, 1].set(1.0)}
  u, _ = tx.update(g, state)
  assert u['s'] == 0
  np.testing.assert_allclose(u['v'], [0.0, -1.9], 1e-6)
  np.testing.assert_allclose(u['t'], [[[0, 0], [0, 0]], [[-0.9, -1.9], [-0.9, -0.9]]], 1e-6)


def test_it_is_a_value_that_prints():
  one, other = sparse_adam(), sparse_adam()
  assert one == other
  assert hash(one) == hash(other)
  assert 'lazy_rows(mask=None)' in repr(one)
  assert not one.lines[-1].elementwise


def test_sharded_along_a_row_it_takes_the_same_steps():
  """It is not elementwise: XLA reduces over the devices. Inside shard_map ZeRO-1 refuses it."""
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  where = jax.sharding.NamedSharding(mesh, P(None, 'data'))
  tx, g, p = sparse_adam(), gradients(1)['emb'], TABLE['emb']
  expected, _ = jax.jit(tx.update)(g, tx.init(p), p)
  far = jax.device_put(p, where)
  u, _ = jax.jit(tx.update)(jax.device_put(g, where), sharding.init_sharded(tx, far), far)
  np.testing.assert_allclose(u, expected, 1e-6)


def test_it_copies_nothing():
  """46 bytes per parameter in the step of Adam, which are 40 without it: g is read once more for its rows."""
  tx, shape = sparse_adam(), jax.ShapeDtypeStruct(LARGE, jnp.float32)
  compiled = compiled_step(tx, shape, jax.eval_shape(tx.init, shape))
  assert copies(compiled.as_text()) == []
  assert compiled.memory_analysis().temp_size_in_bytes <= 2 * math.prod(LARGE)  # which elements are 0
