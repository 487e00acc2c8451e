"""Guards: what they keep out, what they leave alone, and what they cost."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_close, assert_equal, compilations, gradients, params, run, traced, types
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ROWS
from test_checkpoints import restore, save
from test_hlo import LARGE, TEMPORARY, copies

import belief_optax as bo
from belief_optax import guards, sharding, stores

BAD = {'nan': jnp.nan, 'inf': jnp.inf, 'minus inf': -jnp.inf, 'too large to square': 3e19}
OPTIMIZERS = {
  'adabelief': bo.adabelief(0.1, weight_decay=0.1),
  'packed16': bo.adabelief(0.1, weight_decay=0.1, store=stores.Packed16(min_size=0)),
  'int8': bo.adamw(0.1, store='int8'),
  'bfloat16': bo.adamw(0.1, store='bfloat16'),
  'rounded': bo.compose(bo.adamw(0.1), bo.round_updates('compensated'), bo.average_params()),
  'chain': optax.chain(optax.clip_by_global_norm(1.0), bo.adamw(0.1)),
  'by_path': bo.by_path({'b': bo.sgd(0.1)}, bo.adamw(0.1)),
  'optax': optax.adamw(0.1),
  'inject': optax.inject_hyperparams(optax.adam)(0.1),
}
QUICK = ('packed16', 'chain', 'optax')
each_optimizer = pytest.mark.parametrize(
  'name', [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in OPTIMIZERS]
)


def spoiled(grads, value):
  return {**grads, 'w': grads['w'].at[1, 0].set(value)}


def steady(n, seed=0, spread=0.1):
  """The norms of n healthy steps."""
  return 1 + spread * np.random.default_rng(seed).normal(size=n)


def watched(tx, norms):
  """Which steps with gradients of these norms are skipped, and the last state."""

  def step(state, norm):
    _, new = tx.update(jnp.asarray([0.6, 0.8]) * norm, state, jnp.zeros(2))
    return new, new.skipped > state.skipped

  state, skipped = jax.jit(lambda x: jax.lax.scan(step, tx.init(jnp.zeros(2)), x))(jnp.asarray(norms, jnp.float32))
  return np.flatnonzero(skipped).tolist(), state


# What is not finite.


@each_optimizer
@pytest.mark.parametrize('api', ['update', 'step'])
def test_a_bad_gradient_changes_no_bit(name, api):
  """Training goes on as if it had never come: no moment, no decay, no count, no dithering."""
  tx, plain = bo.skip_unhealthy(OPTIMIZERS[name]), OPTIMIZERS[name]
  dtype = jnp.bfloat16 if name == 'rounded' else jnp.float32
  p = jax.tree.map(lambda x: x.at[..., 0].set(-0.0), params(dtype))
  go, go_plain = (functools.partial(bo.step, one) if api == 'step' else _by_update(one) for one in (tx, plain))
  go, go_plain = jax.jit(go), jax.jit(go_plain)
  state, other, q = tx.init(p), plain.init(p), p
  bad = iter(BAD.values())
  for i, g in enumerate(gradients(4, dtype)):
    if i:
      before = jax.tree.map(np.asarray, (p, state.inner_state))
      p, state = go(p, state, spoiled(g, next(bad)))
      for x, y in zip(jax.tree.leaves((p, state.inner_state)), jax.tree.leaves(before), strict=True):
        assert np.asarray(x).tobytes() == y.tobytes()
    p, state = go(p, state, g)
    q, other = go_plain(q, other, g)
    assert_close((p, state.inner_state), (q, other), 1e-6)
  assert guards.report(state) == {'skipped': 3, 'not_finite': 3, 'spikes': 0, 'consecutive': 0}


def _by_update(tx):
  def step(p, state, g):
    updates, state = tx.update(g, state, p)
    return optax.apply_updates(p, updates), state

  return step


@pytest.mark.parametrize('value', BAD.values(), ids=BAD)
def test_updates_of_a_bad_gradient_are_zeros(value):
  tx, p, g = bo.skip_unhealthy(bo.adamw(0.1)), params(), gradients(1)[0]
  updates, state = tx.update(spoiled(g, value), tx.init(p), p)
  assert_equal(updates, jax.tree.map(jnp.zeros_like, p))
  assert int(state.inner_state.count) == 0
  free, _ = OPTIMIZERS['adabelief'].update(spoiled(g, jnp.nan), OPTIMIZERS['adabelief'].init(p), p)
  assert jnp.isnan(free['w']).any()  # it is the guard that keeps it out


@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_a_bad_loss_is_a_bad_step(value):
  tx, p, g = bo.skip_unhealthy(bo.sgd(0.1)), params(), gradients(1)[0]
  updates, state = tx.update(g, tx.init(p), p, value=value)
  assert_equal(updates, jax.tree.map(jnp.zeros_like, p))
  assert int(state.skipped) == int(state.not_finite) == 1
  updates, state = tx.update(g, state, p, value=jnp.float32(0.5))
  assert_close(updates, jax.tree.map(lambda x: -0.1 * x, g))
  assert int(state.skipped) == 1


# Spikes.


def test_a_spike_is_what_stands_six_deviations_above_the_last_128():
  """Beside the same rule in NumPy, for norms that drift and spike."""
  draw = np.random.default_rng(1)
  norms = np.float32(steady(600, spread=0.2) * np.linspace(1, 3, 600))
  norms[draw.choice(600, 30, replace=False)] *= draw.choice([2, 3, 10, 1e6], 30)
  kept, expected = [], []
  for t, norm in enumerate(np.float64(norms)):
    last = np.array(kept[-128:])
    if len(last) >= 64 and norm > last.mean() + 6 * max(last.std(ddof=1), last.mean() / 100):
      expected.append(t)
    else:
      kept.append(norm)
  found, state = watched(bo.skip_unhealthy(bo.sgd(0.1)), norms)
  assert found == expected
  assert 10 < len(found) < 30
  assert int(state.skipped) == len(found)
  assert int(state.not_finite) == 0
  np.testing.assert_allclose(state.recent[0], kept[-128:], 1e-6)


@pytest.mark.parametrize('window', [2, 8, 128])
def test_it_begins_when_half_a_window_has_been_seen(window):
  tx = bo.skip_unhealthy(bo.sgd(0.1), window=window)
  half = (window + 1) // 2
  for n in (half - 1, half):
    found, _ = watched(tx, [*steady(n), 1e6])
    assert found == [n] * (n == half)


def test_a_spike_is_not_remembered_and_later_ones_are_found():
  norms = [*steady(100), *[50.0] * 9, *steady(20, 1), 40.0]
  found, state = watched(bo.skip_unhealthy(bo.sgd(0.1)), norms)
  assert found == [*range(100, 109), 129]
  assert not state.failed
  assert float(state.recent.max()) < 2


def test_only_too_large_is_a_spike():
  found, _ = watched(bo.skip_unhealthy(bo.sgd(0.1)), [*steady(100), 0.0, 1e-20, 1e-3, 0.0])
  assert found == []


def test_a_norm_of_zero_says_nothing_of_the_scale():
  """Else the first gradient after many zeros would be infinitely many deviations too large, for ever."""
  found, state = watched(bo.skip_unhealthy(bo.sgd(0.1)), [*[0.0] * 200, *steady(100), 1e3])
  assert found == [300]
  assert int(state.seen) == 100


def test_equal_norms_are_no_history_in_which_a_digit_is_a_spike():
  found, _ = watched(bo.skip_unhealthy(bo.sgd(0.1)), [*[1.0] * 200, 1.0001, 1.05, 1.1])
  assert found == [202]  # 6 times a hundredth


@pytest.mark.parametrize('scale', [1e-15, 1e15])
def test_the_rule_does_not_depend_on_the_scale(scale):
  norms = np.array([*steady(100), 1.5, 1.9, *steady(9)])
  found, _ = watched(bo.skip_unhealthy(bo.sgd(0.1)), scale * norms)
  assert found == watched(bo.skip_unhealthy(bo.sgd(0.1)), norms)[0] == [101]


def test_without_sigma_only_what_is_not_finite_is_skipped():
  tx = bo.skip_unhealthy(bo.sgd(0.1), sigma=None)
  found, state = watched(tx, [*steady(100), 1e6, np.nan, np.inf])
  assert found == [101, 102]
  assert state.recent.size == 0


@pytest.mark.parametrize('watch', ['value', 'both'])
def test_the_loss_is_watched(watch):
  tx, g = bo.skip_unhealthy(bo.sgd(1.0), watch=watch, window=8), jnp.ones(2)
  state, update = tx.init(g), jax.jit(tx.update)
  for value in [*(steady(8) - 1), 5.0, -3.0, 0.0]:  # a loss may be negative
    updates, new = update(g, state, g, value=value)
    assert bool(new.skipped > state.skipped) == (value == 5.0)
    np.testing.assert_array_equal(updates, 0 if value == 5.0 else -1)
    state = new
  _, state = update(100 * g, state, g, value=0.0)
  assert int(state.skipped) == (1 if watch == 'value' else 2)


# What the host reads.


def test_a_failure_stays_until_it_is_forgotten():
  tx, p = optax.chain(bo.skip_unhealthy(bo.sgd(0.1), max_consecutive=3)), jnp.ones(2)
  state = tx.init(p)
  for bad in [True, True, False, True, True]:
    _, state = tx.update(p * (jnp.nan if bad else 1), state, p)
  guards.raise_if_unhealthy(state)
  for bad in [True, False]:
    _, state = tx.update(p * (jnp.nan if bad else 1), state, p)
  assert guards.report(state) == {'skipped': 5, 'not_finite': 5, 'spikes': 0, 'consecutive': 0}
  with pytest.raises(RuntimeError, match=r'unhealthy: too many steps in a row were skipped \(5 skipped in all, 5 of'):
    guards.raise_if_unhealthy(state)
  again = guards.forget(state)
  guards.raise_if_unhealthy(again)
  assert guards.report(again)['skipped'] == 5
  assert int(again[0].seen) == 0
  assert_equal(again[0].inner_state, state[0].inner_state)


def test_a_level_that_has_changed_for_good_fails_and_is_learned_anew():
  tx = bo.skip_unhealthy(bo.sgd(0.1))
  found, state = watched(tx, [*steady(100), *(3 * steady(20, 2))])
  assert found == [*range(100, 120)]
  assert state.failed
  update = jax.jit(tx.update)
  state = guards.forget(state)
  for norm in 3 * steady(80, 3):
    _, state = update(jnp.asarray([0.6, 0.8]) * np.float32(norm), state, jnp.zeros(2))
  assert int(state.skipped) == 20
  assert int(state.seen) == 80


def test_reports_of_several_guards_are_summed():
  tx, p = bo.by_path({'b': bo.skip_unhealthy(bo.sgd(0.1))}, bo.skip_unhealthy(bo.adam(0.1))), params()
  _, state = tx.update(spoiled(gradients(1)[0], jnp.nan), tx.init(p), p)
  assert guards.report(state)['skipped'] == 1
  _, state = tx.update(jax.tree.map(lambda x: x * jnp.nan, p), state, p)
  assert guards.report(state) == {'skipped': 3, 'not_finite': 3, 'spikes': 0, 'consecutive': 2}
  for who in (guards.report, guards.forget, guards.raise_if_unhealthy):
    with pytest.raises(ValueError, match=f'{who.__name__} needs a state that holds that of skip_unhealthy, got State'):
      who(bo.sgd(0.1).init(p))


# Many devices.


def _mesh(kind=AxisType.Auto):
  return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(kind,))


MODEL = {'w': jnp.linspace(-1, 1, 16 * 8).reshape(16, 8), 'e': jnp.ones(3)}


def _loss(p, batch):
  return jnp.mean((batch @ p['w']) ** 2) + jnp.sum(p['e'] ** 2)


BATCH = jnp.linspace(0, 1, 64 * 16).reshape(64, 16)
ONE_BAD = BATCH.at[-1, 3].set(jnp.nan)  # the last of eight devices


def _averaged(tx):
  def step(p, state, batch):
    value, g = jax.value_and_grad(_loss)(sharding.local_params(p, 'data'), batch)
    return tx.step(p, state, sharding.mean_gradients(g, 'data'), value=value)

  return step


def _own(tx):
  def step(p, state, batch):
    value, g = jax.value_and_grad(_loss)(sharding.local_params(p, 'data'), batch)
    return tx.step(p, state, g, value=value)

  return step


@pytest.mark.parametrize('axis_name', [None, 'data'])
@pytest.mark.parametrize('kind', ['mean', 'zero1'])
def test_one_bad_worker_of_eight_stops_all(kind, axis_name):
  """Inside shard_map: with the mean of the gradients, and with ZeRO-1, which gets those of each device."""
  everywhere = NamedSharding(_mesh(), P())
  inner = bo.adamw(0.1) if kind == 'mean' else sharding.zero1(bo.adamw(0.1), everywhere, min_size=0)
  tx = bo.skip_unhealthy(inner, axis_name=axis_name)
  state = sharding.init_sharded(tx, MODEL, everywhere)
  specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(tx, MODEL, everywhere))
  local = (_averaged if kind == 'mean' else _own)(tx)
  shard = jax.shard_map(local, mesh=_mesh(), in_specs=(P(), specs, P('data')), out_specs=(P(), specs))
  step = jax.jit(shard)
  p, state = step(MODEL, state, BATCH)
  q, after = step(p, state, ONE_BAD)
  assert_equal((q, after.inner_state), (p, state.inner_state))
  assert guards.report(after) == {'skipped': 1, 'not_finite': 1, 'spikes': 0, 'consecutive': 1}
  q, after = step(q, after, BATCH)
  assert not np.array_equal(q['w'], p['w'])
  assert guards.report(after)['consecutive'] == 0


def test_pmap_and_shard_map_without_types_need_the_name_of_the_axis():
  n = jax.device_count()
  tx = bo.skip_unhealthy(bo.adamw(0.1), axis_name='data')
  many = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), tree)

  def local(p, state, batch):
    return tx.step(p, state, jax.grad(_loss)(p, batch))  # never averaged: each device would decide for itself

  step = jax.pmap(local, axis_name='data')
  p, state = step(many(MODEL), many(tx.init(MODEL)), BATCH.reshape(n, -1, 16))
  q, after = step(p, state, ONE_BAD.reshape(n, -1, 16))
  assert_equal((q, after.inner_state), (p, state.inner_state))
  assert after.skipped.tolist() == [1] * n
  assert guards.report(after)['skipped'] == 1
  specs = (P(), P(), P('data'))
  step = jax.jit(jax.shard_map(local, mesh=_mesh(), in_specs=specs, out_specs=(P(), P()), check_vma=False))
  _, state = step(MODEL, tx.init(MODEL), ONE_BAD)
  assert [int(x.data) for x in state.skipped.addressable_shards] == [1] * n


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=['auto', 'explicit'])
@pytest.mark.parametrize('api', ['update', 'step'])
def test_sharded_parameters_keep_their_places_and_types(kind, api):
  where = NamedSharding(_mesh(kind), P('data'))
  p = jax.device_put({'w': MODEL['w']}, where)
  bad = jax.device_put({'w': MODEL['w'].at[0, 0].set(jnp.nan)}, where)
  for tx in (bo.skip_unhealthy(bo.adamw(0.1)), bo.accumulate(bo.adamw(0.1), 2)):
    with jax.set_mesh(where.mesh):
      state = tx.init(p)
      q, after = jax.jit(tx.step if api == 'step' else _by_update(tx))(p, state, bad)
      assert types(after) == types(state)
    np.testing.assert_array_equal(q['w'], p['w'])
    assert q['w'].sharding.is_equivalent_to(where, 2)
    slot = after.inner_state.slots['mu']['w']
    assert slot.sharding.is_equivalent_to(where, 2)
  assert after.mean['w'].sharding.is_equivalent_to(where, 2)


# Steps that wait.


@each_optimizer
@pytest.mark.parametrize('api', ['update', 'step'])
def test_accumulated_gradients_are_the_large_batch(name, api):
  tx, plain, p = bo.accumulate(OPTIMIZERS[name], 3), OPTIMIZERS[name], params()
  q, state, other = p, tx.init(p), plain.init(p)
  go, go_plain = (jax.jit(functools.partial(bo.step, one) if api == 'step' else _by_update(one)) for one in (tx, plain))
  grads = gradients(9)
  for t, g in enumerate(grads, 1):
    before = jax.tree.map(np.asarray, (p, state.inner_state))
    p, state = go(p, state, g)
    assert int(state.mini_step) == t % 3
    if t % 3:
      assert_equal((p, state.inner_state), before)
      continue
    mean = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), 0), *grads[t - 3 : t])
    q, other = go_plain(q, other, mean)
    assert_close((p, other), (q, state.inner_state), 2e-6 if name != 'int8' else 1e-2)


def test_it_is_multi_steps_of_optax():
  ours, theirs = bo.accumulate(optax.adam(0.1), 4), optax.MultiSteps(optax.adam(0.1), 4)
  grads = gradients(8)
  found, expected = (run(tx, params(), grads, jit=True) for tx in (ours, theirs))
  assert_close(found[:2], expected[:2], 2e-6)
  assert_close(found[2].inner_state, expected[2].inner_opt_state, 2e-6)


@pytest.mark.parametrize(('dtype', 'bound'), [('float32', 1e-6), ('bfloat16', 2e-2)])
def test_the_mean_is_kept_in_its_dtype(dtype, bound):
  """Of 16 gradients of bfloat16: as wide as the mean is, however short they are."""
  tx, p = bo.accumulate(bo.sgd(1.0), 16, dtype=dtype), jnp.zeros(64)
  rows = [jnp.asarray(g, jnp.bfloat16) for g in np.random.default_rng(0).normal(1.0, 1.0, (16, 64))]
  state = tx.init(p)
  assert state.mean.dtype == dtype
  for g in rows:
    u, state = tx.update(g, state, p)
    assert u.dtype == jnp.float32  # as a recipe gives it: the parameter is
    assert state.mean.dtype == dtype
  expected = np.mean([np.asarray(g, np.float64) for g in rows], 0)
  np.testing.assert_allclose(-u, expected, bound, bound)
  if dtype == 'bfloat16':
    assert np.abs(-np.asarray(u) - expected).max() > 1e-4


def test_dtypes_of_the_mean():
  tx = bo.accumulate(bo.sgd(1.0), 2)
  p = {'c': jnp.ones(2, jnp.complex64), 'h': jnp.ones(2, jnp.bfloat16), 'n': jnp.ones(2)}
  u, state = tx.update({**p, 'n': None}, tx.init(p), p)
  assert {k: x.dtype.name for k, x in state.mean.items()} == {'c': 'complex64', 'h': 'float32', 'n': 'float32'}
  assert u['n'] is None
  assert {k: x.dtype.name for k, x in u.items() if x is not None} == {'c': 'complex64', 'h': 'bfloat16'}
  u, state = tx.update({**p, 'n': None}, state, p)
  np.testing.assert_array_equal(u['c'], -np.ones(2))


def test_a_bad_gradient_spoils_its_own_step_alone():
  """Where optax.MultiSteps keeps it: 0 times NaN is NaN. Behind skip_unhealthy not even that."""
  p, g = jnp.zeros(2), jnp.ones(2)
  rows = [g * jnp.nan, g, g, g]
  updates = run(bo.accumulate(bo.sgd(1.0), 2), p, rows)[0]
  np.testing.assert_array_equal(jnp.stack(updates)[:, 0], [0, np.nan, 0, -1])
  assert jnp.isnan(run(optax.MultiSteps(optax.sgd(1.0), 2), p, rows)[0][3]).all()
  guarded = run(bo.skip_unhealthy(bo.accumulate(bo.sgd(1.0), 2)), p, rows)[0]
  np.testing.assert_array_equal(jnp.stack(guarded)[:, 0], [0, 0, -1, 0])


def test_local_gradients_are_refused():
  tx, everywhere = bo.accumulate(bo.adamw(0.1), 2), P()
  specs = (everywhere, everywhere, P('data'))
  step = jax.shard_map(_own(tx), mesh=_mesh(), in_specs=specs, out_specs=(P(), P()))
  with pytest.raises(
    ValueError, match='accumulate keeps one mean for all devices, but the gradients differ along data'
  ):
    jax.jit(step)(MODEL, tx.init(MODEL), BATCH)
  right = jax.shard_map(_averaged(tx), mesh=_mesh(), in_specs=specs, out_specs=(P(), P()))
  _, state = jax.jit(right)(MODEL, tx.init(MODEL), BATCH)
  assert int(state.mini_step) == 1


# Both are transformations like others.

GUARDS = {'skip': bo.skip_unhealthy, 'accumulate': functools.partial(bo.accumulate, every=2)}
each_guard = pytest.mark.parametrize('guard', GUARDS.values(), ids=GUARDS)


@each_guard
def test_they_are_values(guard):
  one, other = guard(bo.adam(1e-3)), guard(bo.adam(1e-3))
  assert one == other
  assert hash(one) == hash(other)
  assert one != guard(bo.adam(1e-2))
  assert eval(repr(one), vars(bo)) == one
  one.update(jnp.ones(2), one.init(jnp.ones(2)))
  assert pickle.loads(pickle.dumps(one)) == one
  assert isinstance(one, optax.GradientTransformationExtraArgs)


@each_guard
def test_the_state_is_stable_and_maps_like_parameters(guard):
  tx, p = guard(bo.adabelief(0.1)), params()
  state = tx.init(p)
  _, after = tx.update(p, state, p)
  assert types(after) == types(state)
  assert_equal(optax.tree.map_params(tx, lambda x: x, after), after)
  shapes = jax.eval_shape(tx.init, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), p))
  assert jax.tree.structure(shapes) == jax.tree.structure(state)
  step, traces = traced(tx.step, donate_argnums=(0, 1))
  q, state = jax.tree.map(jnp.copy, (p, state))
  for g in gradients(4):
    q, state = step(q, state, g)
  assert len(traces) == 1


@each_guard
def test_a_restored_run_goes_on_as_it_would_have(guard, tmp_path):
  """Also in the middle of an accumulation, and while a history is being filled."""
  tx, p, grads = guard(bo.adabelief(0.1, store='packed16')), params(), gradients(7)
  step = jax.jit(tx.step)
  state = tx.init(p)
  for g in grads[:3]:
    p, state = step(p, state, g)
  save(tmp_path / 'kept', {'params': p, 'state': state})
  found = restore(tmp_path / 'kept', jax.eval_shape(lambda: {'params': p, 'state': state}))
  assert_equal(found, {'params': p, 'state': state})
  q, other = found['params'], found['state']
  for g in grads[3:]:
    (p, state), (q, other) = step(p, state, g), step(q, other, g)
  assert_equal((q, other), (p, state))


@each_guard
def test_in_an_nnx_optimizer(guard):
  tx, p, grads = guard(bo.adabelief(0.1)), params(), gradients(4)

  class Model(nnx.Module):
    def __init__(self):
      self.w, self.b = nnx.Param(p['w']), nnx.Param(p['b'])

  model = Model()
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  loss = lambda model, g: jnp.sum(g['w'] * model.w[...]) + jnp.sum(g['b'] * model.b[...])
  step = nnx.jit(lambda model, optimizer, g: optimizer.update(model, nnx.grad(loss)(model, g)))
  for g in grads:
    step(model, optimizer, {'w': g['w'], 'b': g['b']})
  q = {'w': p['w'], 'b': p['b']}
  state = tx.init(q)
  for g in grads:
    updates, state = jax.jit(tx.update)({'w': g['w'], 'b': g['b']}, state, q)
    q = optax.apply_updates(q, updates)
  assert_close({'w': model.w[...], 'b': model.b[...]}, q)
  assert not np.allclose(q['w'], p['w'])


@each_guard
def test_eager_steps_compile_once(guard):
  tx, p = guard(bo.adabelief(0.1)), params()
  _, state = tx.update(p, tx.init(p), p, value=1.0)
  p, state = tx.step(p, state, p)
  with compilations() as found:
    for g in gradients(3):
      _, state = tx.update(g, state, p, value=2.0)
      p, state = tx.step(p, state, g)
  assert found == []


@each_guard
def test_inside_scan_vmap_and_wrappers_of_optax(guard):
  p, grads = params(), gradients(4)
  plain = run(guard(bo.adam(0.1)), p, grads)
  tx = guard(bo.adam(0.1))

  def body(carry, g):
    updates, state = tx.update(g, carry[1], carry[0])
    return (optax.apply_updates(carry[0], updates), state), updates

  rows = jax.tree.map(lambda *x: jnp.stack(x), *grads)
  (last, _), updates = jax.lax.scan(body, (p, tx.init(p)), rows)
  assert_close(last, plain[1])
  assert_close(jax.tree.map(lambda x: x[-1], updates), plain[0][-1])
  inject = optax.inject_hyperparams(lambda learning_rate: guard(bo.adam(learning_rate)))(learning_rate=0.1)
  assert_close(run(inject, p, grads, jit=True)[1], plain[1], 1e-5)

  def many(rate):
    one = guard(bo.adam(rate))
    return jax.lax.scan(lambda s, g: one.update(g, s)[::-1], one.init(p), rows)[1]

  population = jax.jit(jax.vmap(many))(jnp.asarray([0.1, 0.2]))
  assert_close(jax.tree.map(lambda x: x[0, -1], population), plain[0][-1])


def test_multi_steps_around_and_inside():
  """Around, the guard judges what has come of the mean; inside, each gradient."""
  p, (a, b) = params(), gradients(2)
  bad = spoiled(a, jnp.nan)
  outer = optax.MultiSteps(bo.skip_unhealthy(bo.sgd(0.1)), 2)
  updates, _, state = run(outer, p, [bad, b], jit=True)
  assert_equal(updates[-1], jax.tree.map(jnp.zeros_like, p))
  assert int(state.inner_opt_state.skipped) == 1
  inner = bo.skip_unhealthy(optax.MultiSteps(bo.sgd(0.1), 2).gradient_transformation())
  updates, _, _ = run(inner, p, [a, bad, b])
  assert_close(updates[-1], jax.tree.map(lambda x, y: -0.05 * (x + y), a, b))


@pytest.mark.parametrize('guard', [bo.skip_unhealthy, lambda tx: bo.accumulate(tx, 1)], ids=['skip', 'accumulate'])
@pytest.mark.parametrize(
  'row', [pytest.param(r, marks=() if str(r) == 'adabelief-independent' else pytest.mark.full, id=str(r)) for r in ROWS]
)
def test_healthy_steps_are_those_of_every_algorithm(row, guard):
  found, expected = (run(tx, params(), gradients(), jit=True) for tx in (guard(row.make()), row.make()))
  assert_close(found[0], expected[0], 1e-5 if row.rounds else 2e-6)
  assert_close(found[2].inner_state, expected[2], 1e-5 if row.rounds else 2e-6)


def test_what_is_no_array_is_passed_on():
  """An extra argument that is a function, as line searches take, and one that only the inner transformation knows."""
  seen = []

  def update(updates, state, params=None, *, value_fn, scale):
    seen.append((value_fn, params))
    return jax.tree.map(lambda u: u * scale, updates), state

  tx = bo.skip_unhealthy(optax.GradientTransformationExtraArgs(lambda _: (), update))
  u, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value_fn=len, scale=3.0)
  np.testing.assert_array_equal(u, 3)
  assert seen[-1] == (len, None)


def test_errors():
  sgd = bo.sgd(0.1)
  for options, error, words in [
    ({'window': 1}, ValueError, 'window must be an integer >= 2, got 1'),
    ({'window': 2.0}, TypeError, 'window must be an integer'),
    ({'sigma': 0}, ValueError, 'sigma must be a finite number > 0 or None, got 0'),
    ({'sigma': '6'}, TypeError, "sigma must be a number or None, got '6'"),
    ({'watch': 'loss'}, ValueError, "watch must be one of 'norm', 'value', 'both', got 'loss'"),
    ({'max_consecutive': 0}, ValueError, 'max_consecutive must be an integer >= 1, got 0'),
    ({'axis_name': 3}, TypeError, 'axis_name must be a name, a tuple of names or None, got 3'),
  ]:
    with pytest.raises(error, match=words):
      bo.skip_unhealthy(sgd, **options)
  for options, error, words in [
    ({'every': 0}, ValueError, 'every must be an integer >= 1, got 0'),
    ({'every': 2.5}, TypeError, 'every must be an integer'),
    ({'every': 2, 'dtype': 'int8'}, TypeError, 'dtype must be'),
    ({'every': 2, 'dtype': 'complex64'}, TypeError, 'dtype must be a real floating dtype'),
    ({'every': 2, 'dtype': None}, TypeError, 'dtype must be a real floating dtype .*, got None'),
  ]:
    with pytest.raises(error, match=words):
      bo.accumulate(sgd, **options)
  for guard in GUARDS.values():
    with pytest.raises(TypeError, match=r'tx must be a gradient transformation, got 0\.1'):
      guard(0.1)
    tx = guard(sgd)
    with pytest.raises(ValueError, match='step returns parameters, so it needs them'):
      tx.step(None, tx.init(jnp.ones(2)), jnp.ones(2))
  tx = bo.skip_unhealthy(sgd, watch='value')
  with pytest.raises(
    ValueError, match=r"skip_unhealthy\(watch='value'\) needs the loss: call update\(..., value=loss\)"
  ):
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
  with pytest.raises(ValueError, match=r'value must be a real scalar, the loss, got shape \(2,\)'):
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=jnp.ones(2))


# What they cost.


def _compiled(tx, by=None):
  shape = jax.ShapeDtypeStruct(LARGE, jnp.float32)
  step = jax.jit(tx.step if by is None else by(tx), donate_argnums=(0, 1))
  return step.lower(shape, jax.eval_shape(tx.init, shape), shape).compile()


def _large(compiled):
  """The copies of arrays like the parameters: JAX 0.12 copies the 128 numbers of the history."""
  return [line for line in copies(compiled.as_text()) if f'[{LARGE[0]},{LARGE[1]}]' in line]


@pytest.mark.parametrize('mode', ['xla', 'auto'])
@each_guard
def test_the_step_stays_in_place(guard, mode):
  """Neither the step that is taken nor the one that is not copies the state; the machine loop runs inside the cond."""
  with bo.execution.use(mode):
    tx = guard(bo.adabelief(0.1, weight_decay=0.1))
    compiled = _compiled(tx)
  assert _large(compiled) == []
  memory = compiled.memory_analysis()
  # The XLA of JAX 0.7 keeps one array while the branch of `skip_unhealthy` runs.
  old = guard is bo.skip_unhealthy and jax.__version_info__ < (0, 8)
  assert 0 <= memory.temp_size_in_bytes - old * 4 * LARGE[0] * LARGE[1] < TEMPORARY
  held = jax.tree.leaves(jax.eval_shape(tx.init, jax.ShapeDtypeStruct(LARGE, jnp.float32)))
  assert memory.alias_size_in_bytes >= sum(x.size * x.dtype.itemsize for x in held if x.ndim == 2)


def test_multi_steps_of_optax_copies_what_accumulate_does_not():
  """The instrument sees a copy where there is one."""
  tx = optax.MultiSteps(bo.adabelief(0.1), 4)
  with bo.execution.use('xla'):
    theirs, ours = _compiled(tx, _by_update), _compiled(bo.accumulate(bo.adabelief(0.1), 4))
  assert len(_large(theirs)) > 0 == len(_large(ours))
