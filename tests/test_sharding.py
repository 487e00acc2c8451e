"""State that shards: the same numbers, an eighth of the bytes, and no communication but what is said.

Eight CPU devices. Gradients are multiples of 2^-8, so that their means are exact in whatever order they are summed.
"""

import dataclasses
import functools
import math
import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from contract_helpers import assert_close, assert_equal, compilations
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ALGORITHM_ROWS, Row
from test_hlo import COLLECTIVES

import belief_optax as bo
from belief_optax import stores
from belief_optax.sharding import abstract_state, init_sharded, local_params, mean_gradients, state_shardings, zero1
from belief_optax.sharding.placement import axes_of
from belief_optax.sharding.zero1 import gather

STEPS = 7  # rectification becomes adaptive at the sixth

# The first is split by rows and the second, whose rows no 8 devices can share, by columns; the third by nothing.
SHAPES = {'kernel': (32, 16), 'wide': (3, 40), 'bias': (5,)}
SPLIT = {'kernel': P('data'), 'wide': P(None, 'data'), 'bias': P()}

CODES = (stores.BFloat16(), stores.Packed16(min_size=0), stores.Int8())
CODED = [Row('adabelief', type(s).__name__, options={'store': s, 'rectify': False}) for s in CODES]
ROWS = [row for row in ALGORITHM_ROWS if not row.variant and row.elementwise] + CODED
WHOLE = [row for row in ALGORITHM_ROWS if not row.variant and not row.elementwise]
each_row = pytest.mark.parametrize('row', ROWS, ids=str)


@pytest.fixture(autouse=True, scope='module')
def compile_quickly():
  """Without LLVM's optimizations, which take half of the time; what XLA makes of a program is the same."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def _mesh(kind: AxisType = AxisType.Auto, **sizes: int) -> Any:
  sizes = sizes or {'data': 8}
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


MESH = _mesh()
EVERYWHERE = NamedSharding(MESH, P())


def _named(mesh: Any, specs: Any) -> Any:
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))


def _specs(shardings: Any) -> Any:
  return jax.tree.map(lambda s: s.spec, shardings)


def _draw(seed: int, *lead: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {name: (np.round(256 * rng.normal(size=(*lead, *s))) / 256).astype(np.float32) for name, s in SHAPES.items()}


PARAMS = _draw(0)
LOCAL = [_draw(1 + i, 8) for i in range(STEPS)]  # the gradients of each device
MEANS = [jax.tree.map(lambda g: g.mean(0), g) for g in LOCAL]


def _of(row: Row, tree: Any) -> Any:
  """What a row has of a tree: AdaBelief has all leaves; the others, whose programs differ by mathematics only, less."""
  names = SHAPES if str(row) == 'adabelief' else ('kernel', 'bias') if row.options else ('wide',)
  return {name: tree[name] for name in names}


@functools.partial(jax.jit, static_argnums=0)
def _step(tx, grads, state, params):
  updates, state = tx.update(grads, state, params)
  return updates, state, optax.apply_updates(params, updates)


@functools.partial(jax.jit, static_argnums=0)
def _batch_step(tx, local, state, params):
  """As the compiler sees data parallelism: a mean over what is split."""
  return _step(tx, jax.tree.map(lambda g: g.mean(0), local), state, params)


@functools.partial(jax.jit, static_argnums=0)
def _shard_map_step(tx, local, state, params):
  specs = _specs(state_shardings(tx, params, EVERYWHERE))
  step = lambda local, state, params: _step(tx, jax.tree.map(lambda g: g[0], local), state, params)
  mapped = jax.shard_map(step, mesh=MESH, in_specs=(P('data'), specs, P()), out_specs=(P(), specs, P()))
  return mapped(local, state, params)


def _take(step, tx, grads, state, params):
  """All updates, the last state and parameters, and the program of the step.

  It is compiled for the first state and refuses arrays that lie elsewhere: a state that moved would fail.
  """
  compiled, every = step.lower(tx, grads[0], state, params).compile(), []
  for g in grads:
    updates, state, params = compiled(g, state, params)
    every.append(updates)
  return (jax.tree.map(np.asarray, every), state, params), compiled.as_text()


@functools.cache
def _alone(row):
  """On one device, without any sharding."""
  tx, params, grads = row.make(), _of(row, PARAMS), [_of(row, g) for g in MEANS]
  return _take(_step, tx, grads, jax.jit(tx.init)(params), params)[0]


@functools.cache
def _spread(row):
  """A transformation that spreads its state, the gradients of each device on it, state and parameters."""
  tx, params = zero1(row.make(), EVERYWHERE, min_size=16), jax.device_put(_of(row, PARAMS), EVERYWHERE)
  local = jax.device_put([_of(row, g) for g in LOCAL], NamedSharding(MESH, P('data')))
  return tx, local, init_sharded(tx, params, EVERYWHERE), params


def _agree(got, expected):
  """Updates, state and parameters: float32 to its rounding, codes to the bit."""
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    (assert_close if a.dtype == jnp.float32 else assert_equal)(np.asarray(a), np.asarray(b))


def _bytes(state: Any) -> int:
  """Those on one device."""
  return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))


def _eighth(state: Any) -> int:
  """An eighth of the bytes that belong to `kernel` and `wide`, and all of the others, which cannot be divided."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return sum(x.nbytes // (8 if getattr(path[-1], 'key', '') in ('kernel', 'wide') else 1) for path, x in leaves)


def _count(program: str) -> dict[str, int]:
  """On how many arrays each collective works in a program."""
  counts: dict[str, int] = {}
  for result, name in re.findall(rf'= (.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(', program):
    counts[name] = counts.get(name, 0) + len(re.findall(r'\w+\[', result))
  return counts


# The same numbers.


@each_row
def test_fsdp(row):
  """Parameters that are split, and state with them: no communication at all."""
  tx, where = row.make(), _of(row, _named(MESH, SPLIT))
  params, *grads = (jax.device_put(_of(row, tree), where) for tree in (PARAMS, *MEANS))
  state = init_sharded(tx, params)
  got, program = _take(_step, tx, grads, state, params)
  _agree(got, _alone(row))
  assert _bytes(state) == _bytes(got[1]) == _eighth(state)
  assert _count(program) == {}


@pytest.mark.parametrize('row', WHOLE, ids=str)
def test_fsdp_of_what_looks_at_whole_arrays(row):
  """The same steps, by sums over the devices; ZeRO-1 in a shard_map refuses such a recipe, as tested below."""
  tx, where = row.make(), _of(row, _named(MESH, SPLIT))
  params, *grads = (jax.device_put(_of(row, tree), where) for tree in (PARAMS, *MEANS))
  state = init_sharded(tx, params)
  got, program = _take(_step, tx, grads, state, params)
  _agree(got, _alone(row))
  assert _bytes(state) == _bytes(got[1]) == _eighth(state)
  assert 'all-reduce' in _count(program)


@each_row
def test_zero1_under_jit(row):
  tx, local, state, params = _spread(row)
  got, program = _take(_batch_step, tx, local, state, params)
  _agree(got, _alone(row))
  assert _bytes(state) == _bytes(got[1]) == _eighth(state)
  assert all(x.sharding.is_equivalent_to(EVERYWHERE, x.ndim) for x in jax.tree.leaves(got[2]))
  # XLA:CPU has no pass that makes a reduce-scatter: it sums everything everywhere, and takes a part.
  assert _count(program) == {'all-reduce': len(params), 'all-gather': len(params) - ('bias' in params)}


@each_row
def test_zero1_in_shard_map(row):
  tx, local, state, params = _spread(row)
  got, program = _take(_shard_map_step, tx, local, state, params)
  _agree(got, _alone_by_parts(row) if row in CODED else _alone(row))
  assert _bytes(got[1]) == _eighth(state)
  whole = {'all-reduce': 1} if 'bias' in params else {}
  assert _count(program) == dict.fromkeys(('reduce-scatter', 'all-gather'), len(params) - len(whole)) | whole


def _parts(tree, specs):
  """What each of 8 devices has of a tree."""
  cut = lambda x, s: np.split(np.asarray(x), 8, [*s].index('data')) if 'data' in [*s] else [np.asarray(x)] * 8
  split = jax.tree.map(cut, tree, specs)
  return [jax.tree.map(lambda _, parts, i=i: parts[i], tree, split) for i in range(8)]


def _joined(trees, specs):
  join = lambda s, *xs: np.concatenate(xs, [*s].index('data')) if 'data' in [*s] else xs[0]
  return jax.tree.map(join, specs, *trees, is_leaf=lambda x: isinstance(x, P))


def _alone_by_parts(row):
  """On one device, part by part: codes are dithered by the place in an array, and inside shard_map parts are arrays."""
  tx, params, split = row.make(), _of(row, PARAMS), _of(row, SPLIT)
  specs = _specs(state_shardings(tx, params, _named(MESH, split)))
  states, ps, every = _parts(jax.jit(tx.init)(params), specs), _parts(params, split), []
  for g in MEANS:
    steps = [_step(tx, *of) for of in zip(_parts(_of(row, g), split), states, ps, strict=True)]
    us, states, ps = zip(*steps, strict=True)
    every.append(_joined(us, split))
  return every, _joined(states, specs), _joined(ps, split)


@pytest.mark.parametrize('row', [ROWS[2], CODED[2]], ids=str)
def test_explicit_axes(row):
  """The types of updates are those of parameters, and those of state do not drift."""
  mesh = _mesh(AxisType.Explicit)
  everywhere = NamedSharding(mesh, P())
  with jax.set_mesh(mesh):
    tx, (params, *grads) = (
      zero1(row.make(), everywhere, min_size=16),
      jax.device_put([_of(row, tree) for tree in (PARAMS, *MEANS)], everywhere),
    )
    state = init_sharded(tx, params)
    got, _ = _take(_step, tx, grads, state, params)
    updates, _ = tx.update(grads[0], state, params)  # eager
  _agree(got, _alone(row))
  for x in jax.tree.leaves((updates, got[2])):
    assert jax.typeof(x).sharding.spec == P(*[None] * x.ndim)
  assert _bytes(state) == _bytes(got[1]) == _eighth(state)


@pytest.mark.parametrize('kinds', [(AxisType.Auto, AxisType.Explicit), (AxisType.Explicit, AxisType.Auto)], ids=str)
def test_a_mesh_of_both_kinds(kinds):
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=kinds)
  where = _named(mesh, {'w': P(None, 'model')})
  with jax.set_mesh(mesh):
    params = jax.device_put({'w': jnp.ones((8, 6))}, where)
    tx = zero1(bo.adam(0.1), where, min_size=0)
    state = init_sharded(tx, params)
    updates, state = tx.update(params, state, params)
  assert state.slots['mu']['w'].sharding.spec == P('data', 'model')
  assert updates['w'].sharding.is_equivalent_to(where['w'], 2)


def test_one_state_for_jit_and_shard_map():
  """A state, and so a checkpoint, of one form is continued by the other; a loop compiles each once."""
  row = next(row for row in ROWS if row.algorithm == 'adam')
  tx, local, state, params = _spread(row)
  steps = [_batch_step, _shard_map_step]
  for i, g in enumerate(local):
    with compilations() as compiled:
      _, state, params = steps[i % 2](tx, g, state, params)
    assert i < 2 or not compiled
  _agree((state, params), _alone(row)[1:])


def test_a_state_that_arrives_whole_is_spread():
  """As one that was restored without shardings."""
  tx, _, state, params = _spread(ROWS[2])
  _, after = jax.jit(tx.update)(params, jax.device_put(state, EVERYWHERE), params)
  assert _bytes(after) == _bytes(state) == _eighth(state)


def test_pmap_and_the_mean_that_it_needs():
  def step(grads, state, params):
    return _step(tx, jax.lax.pmean(grads, 'data'), state, params)

  row = next(row for row in ROWS if row.algorithm == 'adam')
  tx, of_each = row.make(), lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)
  params = _of(row, PARAMS)
  state, params, each = of_each(tx.init(params)), of_each(params), jax.pmap(step, axis_name='data')
  for g in LOCAL:
    _, state, params = each(_of(row, g), state, params)
  for i in (0, 7):
    _agree(jax.tree.map(lambda x, i=i: x[i], (state, params)), _alone(row)[1:])


# Where state belongs.

LARGE = {'kernel': (64, 48), 'tensor': (48, 7, 16), 'bias': (48,), 'scale': (), 'empty': (0, 8)}
WHERE = {
  'kernel': P('data', 'model'),
  'tensor': P(None, None, ('model', 'data')),
  'bias': P('model'),
  'scale': P(),
  'empty': P('data'),
}
TWO_AXES = _mesh(data=4, model=2)
ADABELIEF = functools.partial(bo.adabelief, 0.1)
ALL_STORES = ('float32', stores.Params(), *CODES)
FIRST = {'kernel': True, 'tensor': True, 'bias': False, 'scale': False, 'empty': False}
WRAPPED = {
  'plain': ADABELIEF(amsgrad=True, nesterov=True),
  **{type(s).__name__: ADABELIEF(store=s) for s in ALL_STORES[1:]},
  'chain': optax.chain(optax.clip_by_global_norm(1.0), ADABELIEF(store=CODES[2])),
  'named_chain': optax.named_chain(('clip', optax.clip_by_global_norm(1.0)), ('step', ADABELIEF())),
  'inject_hyperparams': optax.inject_hyperparams(bo.adabelief)(learning_rate=0.1),
  'scheduled': ADABELIEF(b2=optax.linear_schedule(0.9, 0.99, 10)),
  'masked': optax.masked(ADABELIEF(), FIRST),
  'partition': optax.partition({True: ADABELIEF(store=CODES[1]), False: optax.adam(0.1)}, FIRST),
  'by_path': bo.by_path({'*e*': {'b1': 0.8}}, ADABELIEF),
  'MultiSteps': optax.MultiSteps(ADABELIEF(), 2),
  'apply_if_finite': optax.apply_if_finite(ADABELIEF(), 3),
  'schedule_free': optax.contrib.schedule_free(ADABELIEF(b1=0.0), 0.1),
  'mechanize': optax.contrib.mechanize(ADABELIEF()),
  'lookahead': bo.compose(ADABELIEF(), bo.lookahead(6)),
  'optax.adamw': optax.adamw(0.1),
}


def _large(dtype=jnp.float32):
  return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in LARGE.items()}


def _name_in(path: Any) -> str | None:
  return next((key.key for key in reversed(path) if getattr(key, 'key', None) in LARGE), None)


@pytest.mark.parametrize('name', WRAPPED)
def test_state_is_where_its_parameter_is(name):
  tx, params = WRAPPED[name], _large(jnp.bfloat16 if name == 'Params' else jnp.float32)
  found = state_shardings(tx, params, _named(TWO_AXES, WHERE))
  state = jax.eval_shape(tx.init, params)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  assert all(s.mesh == TWO_AXES for s in jax.tree.leaves(found))
  seen = set()
  for (path, s), x in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(state), strict=True):
    of = _name_in(path)
    expected = P() if of in (None, 'empty') else WHERE[of]  # nothing is not divided
    assert s.is_equivalent_to(NamedSharding(TWO_AXES, expected), x.ndim), jax.tree_util.keystr(path)
    s.shard_shape(x.shape)  # raises where an axis does not divide
    seen.add(of)
  assert {'kernel', 'tensor'} <= seen


@pytest.mark.parametrize('name', ['chain', 'partition', 'MultiSteps', 'mechanize'])
def test_state_is_made_there(name):
  """With the values of `init`, on meshes of both kinds, whatever mesh is the context."""
  shapes = {name: shape for name, shape in LARGE.items() if math.prod(shape)}
  tx = WRAPPED[name]
  if name == 'partition':  # its labels are those of all
    tx = optax.partition({True: ADABELIEF(store=CODES[1]), False: optax.adam(0.1)}, {k: FIRST[k] for k in shapes})
  host = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
  for mesh in (TWO_AXES, _mesh(AxisType.Explicit, data=4, model=2)):
    params = jax.device_put(host, _named(mesh, {k: WHERE[k] for k in shapes}))
    with jax.set_mesh(mesh):
      state, where = init_sharded(tx, params), state_shardings(tx, params)
    _agree(state, jax.jit(tx.init)(host))
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, where))


def test_jit_of_init_alone_loses_them():
  """Why there is `init_sharded`: zeros do not depend on parameters."""
  params = jax.device_put({'w': jnp.ones((64, 64))}, NamedSharding(MESH, P('data')))
  tx = bo.adam(0.1)
  assert jax.jit(tx.init)(params).slots['mu']['w'].sharding.is_fully_replicated
  assert not init_sharded(tx, params).slots['mu']['w'].sharding.is_fully_replicated


def test_shardings_may_be_a_prefix_and_a_mesh_abstract():
  mesh = AbstractMesh((64, 8), ('data', 'model'))
  params = {'layer': {'a': jax.ShapeDtypeStruct((128, 8), jnp.float32), 'b': jax.ShapeDtypeStruct((64,), jnp.float32)}}
  found = state_shardings(bo.adam(0.1), params, {'layer': NamedSharding(mesh, P('data'))})
  assert found.slots['mu']['layer']['b'] == NamedSharding(mesh, P('data'))
  assert found.count == NamedSharding(mesh, P())


def test_what_axes_do_not_divide_is_whole():
  """A state that has fewer elements than its parameter: here one for each eight."""
  mesh = AbstractMesh((16,), ('data',))
  init = lambda params: jax.tree.map(lambda p: (p, p.reshape(8, -1).max(1)), params)
  tx, params = optax.GradientTransformation(init, None), {'w': jax.ShapeDtypeStruct((48,), jnp.float32)}
  found = state_shardings(tx, params, NamedSharding(mesh, P('data')))['w']
  assert [x.spec for x in found] == [P('data'), P()]


def test_what_is_made_by_shape_alone_is_known_by_its_place():
  tx = optax.lbfgs(0.1, memory_size=3)
  params = {'w': jax.ShapeDtypeStruct((8, 6), jnp.float32), 'b': jax.ShapeDtypeStruct((8,), jnp.float32)}
  found = state_shardings(tx, params, NamedSharding(MESH, P('data')))[0]
  assert found.diff_params_memory['w'].spec == P(None, 'data')
  assert found.diff_updates_memory['b'].spec == P(None, 'data')
  assert found.weights_memory.spec == P()


def test_abstract_state_is_the_state_without_values():
  """With the sharding of each array; on an abstract mesh of 512 devices nothing is made."""
  tx, params = WRAPPED['Int8'], _large()
  where = _named(TWO_AXES, WHERE)
  found, shapes = abstract_state(tx, params, where), jax.eval_shape(tx.init, params)
  strip = lambda x: (x.shape, x.dtype)
  assert jax.tree.map(strip, found) == jax.tree.map(strip, shapes)
  assert jax.tree.map(lambda x: x.sharding, found) == state_shardings(tx, params, where)
  far = NamedSharding(AbstractMesh((512,), ('data',)), P('data'))
  assert abstract_state(bo.adam(0.1), jax.ShapeDtypeStruct((512, 3), jnp.bfloat16), far).slots['mu'].sharding == far
  own = abstract_state(bo.adam(0.1), jax.device_put({'w': jnp.ones((8, 4))}, NamedSharding(MESH, P('data'))))
  assert own.slots['nu']['w'].sharding == NamedSharding(MESH, P('data'))


# Which memory.


def _far(shardings: Any) -> Any:
  return jax.tree.map(lambda s: s.with_memory_kind('pinned_host'), shardings)


def _kinds(tree: Any) -> list[Any]:
  """The memory kind of each array, or sharding, of a tree."""
  return [getattr(x, 'sharding', x).memory_kind for x in jax.tree.leaves(tree)]


@pytest.fixture
def two_memories():
  """Whether this CPU can move arrays between its memories, which it cannot with older JAX."""
  try:
    jax.jit(lambda: jnp.zeros(8), out_shardings=_far(EVERYWHERE))()
  except Exception as error:  # its class is not public
    if jax.__version_info__ >= (0, 10):
      raise
    pytest.skip(str(error)[:80])


IN_HOST = ('kernel', 'bias', 'scale', 'empty')
SPLIT_BY_TWO = {'kernel': P('model'), 'tensor': P(), 'bias': P(), 'scale': P(), 'empty': P()}
ZERO1_OF_TWO = zero1(ADABELIEF(store=CODES[2]), _named(TWO_AXES, SPLIT_BY_TWO), min_size=0)


@pytest.mark.parametrize('name', ['zero1', *WRAPPED])
def test_state_is_in_the_memory_of_its_parameter(name):
  """Whether it is split or not, and not because it has the same shape; scalars and all else are in default memory."""
  tx = ZERO1_OF_TWO if name == 'zero1' else WRAPPED[name]
  params = _large(jnp.bfloat16 if name == 'Params' else jnp.float32)
  near = _named(TWO_AXES, SPLIT_BY_TWO)
  found = state_shardings(tx, params, near | {k: _far(near[k]) for k in IN_HOST})
  default = state_shardings(tx, params, near)
  assert set(_kinds(default)) == {EVERYWHERE.memory_kind}
  assert jax.tree.map(lambda s: (s.mesh, s.spec), found) == jax.tree.map(lambda s: (s.mesh, s.spec), default)
  shapes, seen = jax.eval_shape(tx.init, params), set()
  for (path, s), x in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(shapes), strict=True):
    of = _name_in(path)
    expected = 'pinned_host' if of in IN_HOST and x.ndim else EVERYWHERE.memory_kind
    assert s.memory_kind == expected, jax.tree_util.keystr(path)
    seen.add(expected)
  assert len(seen) == 2


@pytest.mark.usefixtures('two_memories')
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('store', [stores.Float32(), *CODES], ids=lambda s: type(s).__name__)
def test_state_is_made_in_host_memory(store, kind):
  """By init_sharded and by zero1, with the values of init, wherever the parameters are."""
  mesh = _mesh(kind)
  near = _named(mesh, {name: SPLIT[name] for name in ('kernel', 'bias')})
  lookahead = bo.compose(bo.adam(0.1, store=store), bo.lookahead(6))  # whose slow weights begin as the parameters
  host = {name: PARAMS[name] for name in near}
  expected = jax.jit(lookahead.init)(host)
  spread = zero1(lookahead, _far(_named(mesh, dict.fromkeys(near, P()))), min_size=16)
  with jax.set_mesh(mesh):
    for where in (near, _far(near)):
      params = jax.device_put(host, where)
      for state in (init_sharded(lookahead, params, _far(near)), spread.init(params)):
        _agree(state, expected)
        assert _kinds(state.slots) == ['pinned_host'] * len(jax.tree.leaves(state.slots))
        assert _kinds(state.count) == [EVERYWHERE.memory_kind]
        assert _bytes(state) < sum(x.nbytes for x in jax.tree.leaves(state)) / 2


@pytest.mark.usefixtures('two_memories')
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize('row', [ROWS[2], CODED[2]], ids=str)
@pytest.mark.parametrize('spread', [False, True], ids=['FSDP', 'ZeRO-1'])
def test_state_in_host_memory_takes_the_same_steps(spread, row, kind):
  """The recipe of init_sharded."""
  mesh, tx = _mesh(kind), row.make()
  where = _named(mesh, dict.fromkeys(_of(row, SPLIT), P()) if spread else _of(row, SPLIT))
  tx = zero1(tx, where, min_size=16) if spread else tx
  with jax.set_mesh(mesh):
    params, *grads = (jax.device_put(_of(row, tree), where) for tree in (PARAMS, *MEANS))
    near, far = state_shardings(tx, params), state_shardings(tx, params, _far(where))
    state, every = init_sharded(tx, params, _far(where)), []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
      updates, state = tx.update(grads, jax.device_put(state, near), params)
      return optax.apply_updates(params, updates), jax.device_put(state, far), updates

    for g in grads:
      assert set(_kinds(state.slots)) == {'pinned_host'}
      params, state, updates = step(params, state, g)
      every.append(updates)
  _agree((every, state, params), _alone(row))
  assert _bytes(state) == _eighth(state)
  assert set(_kinds(params)) == {EVERYWHERE.memory_kind}


def test_what_joins_parameters_is_refused():
  params = {'w': jax.ShapeDtypeStruct((8, 8), jnp.float32), 'b': jax.ShapeDtypeStruct((8,), jnp.float32)}
  with pytest.raises(Exception, match='sharding') as error:  # its class is not public
    state_shardings(optax.flatten(bo.adam(0.1)), params, _named(TWO_AXES, {'w': P('data', 'model'), 'b': P('model')}))
  assert 'optax.flatten' in error.value.__notes__[-1]


# zero1 and the others.


def test_zero1_is_a_value():
  make = lambda rate=0.1, **more: zero1(bo.adam(rate), {'w': EVERYWHERE}, **more)
  tx = make()
  assert tx == make()
  assert hash(tx) == hash(make())
  assert tx not in (make(0.2), make(min_size=1), zero1(bo.adam(0.1), {'w': NamedSharding(MESH, P('data'))}))
  assert repr(make(min_size=16)) == f"zero1({bo.adam(0.1)!r}, axis='data', min_size=16)"
  apart = zero1(bo.adam(0.1), NamedSharding(AbstractMesh((8,), ('data',)), P()))
  assert pickle.loads(pickle.dumps(apart)) == apart
  assert isinstance(tx, optax.GradientTransformationExtraArgs)


def test_zero1_of_what_cannot_be_hashed_compares_by_identity():
  @dataclasses.dataclass(frozen=True)
  class Scaled:
    by: jax.Array

    def __call__(self, updates, state, params=None):
      return jax.tree.map(lambda u: self.by * u, updates), state

  make = lambda: optax.GradientTransformation(optax.identity().init, Scaled(jnp.float32(-2.0)))
  one = make()
  assert zero1(one, EVERYWHERE) == zero1(one, EVERYWHERE)
  assert hash(zero1(one, EVERYWHERE)) == hash(zero1(one, EVERYWHERE))
  assert zero1(one, EVERYWHERE) != zero1(make(), EVERYWHERE)
  params = jax.device_put({'kernel': PARAMS['kernel']}, EVERYWHERE)
  updates = jax.jit(lambda tx, p: tx.update(p, tx.init(p))[0], static_argnums=0)(zero1(one, EVERYWHERE), params)
  assert_equal(updates['kernel'], -2 * PARAMS['kernel'])


def test_zero1_splits_what_it_can():
  """The first dimension that divides; what is small, or split by that axis, is left alone."""
  shapes = {'rows': (64, 64), 'columns': (6, 8), 'model': (8, 6), 'data': (8, 6), 'odd': (7, 7), 'small': (4,)}
  where = dict.fromkeys(shapes, P()) | {'model': P('model'), 'data': P(None, 'data')}
  params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  mesh = AbstractMesh((2, 4), ('data', 'model'))
  where = _named(mesh, where)
  found = state_shardings(zero1(bo.adam(0.1), where, min_size=8), params, where).slots['nu']
  assert {name: s.spec for name, s in found.items()} == {
    'rows': P('data'),
    'columns': P('data'),
    'model': P(('model', 'data')),
    'data': P(None, 'data'),
    'odd': P(),
    'small': P(),
  }


SPREAD = functools.partial(zero1, param_shardings=EVERYWHERE, min_size=16)
AROUND = {
  'chain': optax.chain(optax.clip_by_global_norm(1.0), SPREAD(bo.adam(0.1))),
  'masked': optax.masked(SPREAD(bo.adam(0.1)), {'wide': True, 'bias': False}),
  'partition': optax.partition({'a': SPREAD(bo.adam(0.1)), 'b': optax.sgd(0.1)}, {'wide': 'a', 'bias': 'b'}),
  'inject_hyperparams': optax.inject_hyperparams(lambda rate: SPREAD(bo.adam(rate)))(rate=0.1),
  'MultiSteps': optax.MultiSteps(SPREAD(bo.adam(0.1)), 2),
}


@pytest.mark.parametrize('name', AROUND)
def test_zero1_inside_of_others(name):
  tx, params = AROUND[name], jax.device_put({name: PARAMS[name] for name in ('wide', 'bias')}, EVERYWHERE)
  state = init_sharded(tx, params)
  updates, after = jax.jit(tx.update)(params, state, params)
  for mu in (optax.tree.get(state, 'mu'), optax.tree.get(after, 'mu')):
    assert mu['wide'].sharding.spec == P(None, 'data')
  assert all(u.sharding.is_fully_replicated for u in jax.tree.leaves(updates))


def test_zero1_of_a_transformation_that_sums_over_arrays():
  """Under jit the compiler sums over devices."""
  tx = optax.chain(optax.clip_by_global_norm(1.0), bo.adam(0.1))
  state = jax.jit(tx.init)(PARAMS)
  expected, _ = jax.jit(tx.update)(MEANS[0], state, PARAMS)
  spread = zero1(tx, EVERYWHERE, min_size=16)
  params, grads = jax.device_put((PARAMS, MEANS[0]), EVERYWHERE)
  updates, _ = jax.jit(spread.update)(grads, init_sharded(spread, params), params)
  _agree(updates, expected)


def test_zero1_without_params_and_without_gradients():
  tx = zero1(bo.adam(0.1), EVERYWHERE, min_size=16)
  params = jax.device_put({name: PARAMS[name] for name in ('kernel', 'wide')}, EVERYWHERE)
  state = tx.init(params)  # eager, and not by init_sharded
  assert state.slots['mu']['kernel'].sharding.spec[0] == 'data'
  updates, after = tx.update({'kernel': params['kernel'], 'wide': None}, state)
  assert updates['wide'] is None
  assert updates['kernel'].sharding.is_fully_replicated
  assert_equal(np.asarray(after.slots['nu']['wide']), np.zeros(SHAPES['wide'], np.float32))
  optax.tree.map_params(tx, lambda x: x, state)  # its placeholder has no leaves


OTHERS = {'function': jax.nn.relu, 'string': 'relu', 'objects': np.array([object(), None]), 'whole': np.arange(3)}
GROUPED = bo.by_path({'bias': {'weight_decay': 0.0}}, functools.partial(bo.adamw, 0.1, weight_decay=0.5))


@pytest.mark.parametrize('arrives', [('kernel', 'wide', 'bias'), ('kernel',)], ids=['all', 'one group'])
@pytest.mark.parametrize('place', ['jit', 'shard_map'])
def test_zero1_does_not_look_at_parameters_without_a_gradient(place, arrives):
  """As tx.update(eqx.filter_grad(loss)(m), state, m): what is no array is None in gradients and shardings."""
  arrays, none = jax.device_put(PARAMS, EVERYWHERE), dict.fromkeys(OTHERS)
  model = {**arrays, **OTHERS}
  tx = zero1(GROUPED, dict.fromkeys(PARAMS, EVERYWHERE) | none, min_size=16)
  state = init_sharded(tx, arrays | none, dict.fromkeys(PARAMS, EVERYWHERE) | none)
  local = none | {name: LOCAL[0][name] if name in arrives else None for name in PARAMS}

  def step(local, state):
    mean = (lambda g: g[0]) if place == 'shard_map' else lambda g: g.mean(0)
    return tx.update(jax.tree.map(mean, local), state, model)

  if place == 'shard_map':
    specs = _specs(state_shardings(tx, arrays | none, EVERYWHERE))
    step = jax.shard_map(step, mesh=MESH, in_specs=(P('data'), specs), out_specs=(P(), specs))
  updates, after = jax.jit(step)(local, state)
  grads = {name: MEANS[0][name] if name in arrives else None for name in PARAMS}
  expected = GROUPED.update(grads, GROUPED.init(PARAMS), PARAMS)
  assert {name: updates[name] for name in OTHERS} == none
  _agree(
    ({name: updates[name] for name in PARAMS}, jax.tree.leaves(after)), (expected[0], jax.tree.leaves(expected[1]))
  )


def test_shardings_may_be_none_where_params_are():
  params = {'w': jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=EVERYWHERE), 'f': None}
  for shardings in (None, EVERYWHERE, {'w': EVERYWHERE, 'f': None}):
    assert state_shardings(bo.adam(0.1), params, shardings).slots['mu'] == {'w': EVERYWHERE, 'f': None}


@pytest.mark.parametrize('spread', [False, True], ids=['FSDP', 'ZeRO-1'])
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_arrays_without_elements(kind, spread):
  """On explicit axes their state has the type of the parameter from the first step on, as a scan demands."""
  mesh = _mesh(kind)
  where = _named(mesh, {'w': P() if spread else P('data'), 'empty': P() if spread else P(None, 'data')})
  tx = zero1(bo.adam(0.1), where, min_size=0) if spread else bo.adam(0.1)
  with jax.set_mesh(mesh):
    grads = jax.device_put({'w': jnp.ones((8, 2)), 'empty': jnp.ones((0, 8))}, where)
    step = lambda carry, _: (_step(tx, grads, *carry)[1:], None)
    carry = (init_sharded(tx, grads), grads)
    (state, params), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 2))(carry)
  assert params['empty'].shape == state.slots['nu']['empty'].shape == (0, 8)
  assert_close(params['w'], jnp.full((8, 2), 1 - 0.2))
  assert state.slots['mu']['w'].sharding.spec[0] == 'data'


# Inside of shard_map.


def _in_shard_map(function, *args):
  """What each device makes of its row of `args`, if it is the same."""
  return jax.jit(jax.shard_map(function, mesh=MESH, in_specs=P('data'), out_specs=P()))(*args)


def _loss(w, x):
  return jnp.mean((x @ w) ** 2)


def test_the_trap():
  """Autodiff sums the gradients of what devices share, so a mean of them is n times too large, without an error."""
  w, x = jnp.ones(4), jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)), jnp.float32)
  expected = jax.grad(_loss)(w, x)
  trapped = _in_shard_map(lambda x: jax.lax.pmean(jax.grad(_loss)(w, x), 'data'), x)
  assert_close(trapped, 8 * expected)
  right = _in_shard_map(lambda x: mean_gradients(jax.grad(_loss)(local_params(w), x)), x)
  assert_close(right, expected)
  twice = _in_shard_map(lambda x: mean_gradients(jax.grad(_loss)(local_params(local_params(w)), x)), x)
  assert_equal(twice, right)
  with pytest.raises(ValueError, match=r"the gradient\['w'\] does not differ along 'data'.*local_params"):
    _in_shard_map(lambda x: mean_gradients({'w': jax.grad(_loss)(w, x)}), x)


@pytest.mark.parametrize('manual', [{'data', 'model'}, {'data'}], ids=['both axes', 'one of two axes'])
def test_parameters_that_another_axis_splits(manual):
  """Which part is whose depends on the whole shape, of which a device may see a part."""
  where = NamedSharding(TWO_AXES, P('model'))
  tx, host = zero1(bo.adam(0.1), where, min_size=48), {'w': np.linspace(-1, 1, 48, dtype=np.float32).reshape(8, 6)}
  params = jax.device_put(host, where)
  state = init_sharded(tx, params)
  assert state.slots['mu']['w'].sharding.spec == P(('model', 'data'))

  def step(params, state):
    return _step(tx, local_params(params, 'data'), state, params)

  only = lambda spec: P(*[tuple(a for a in axes_of(entry) if a in manual) or None for entry in spec])
  specs, split = jax.tree.map(lambda s: only(s.spec), state_shardings(tx, params)), only(where.spec)
  mapped = jax.shard_map(
    step, mesh=TWO_AXES, in_specs=(split, specs), out_specs=(split, specs, split), axis_names=frozenset(manual)
  )
  expected = _step(bo.adam(0.1), host, jax.jit(bo.adam(0.1).init)(host), host)
  _agree(jax.jit(mapped)(params, state), expected)


def _refused(tx, shape=(16, 8), grads=None):
  """What an update inside of shard_map raises."""
  params = {'w': jnp.ones(shape)}
  state = init_sharded(tx, params, EVERYWHERE)
  specs = _specs(state_shardings(tx, params, EVERYWHERE))
  step = lambda g, state: tx.update({'w': params['w'] if grads else g[0] * params['w']}, state, params)[0]
  mapped = jax.shard_map(step, mesh=MESH, in_specs=(P('data'), specs), out_specs=P())
  jax.eval_shape(mapped, jnp.ones(8), state)


def test_what_shard_map_cannot_do_is_refused():
  _refused(zero1(bo.by_path({'w': {'b1': 0.8}}, functools.partial(bo.adam, 0.1)), EVERYWHERE, min_size=0))
  with pytest.raises(ValueError, match=r"the gradient\['w'\] does not differ"):
    _refused(zero1(bo.adam(0.1), EVERYWHERE, min_size=0), grads='shared')
  for tx in (
    optax.chain(optax.clip_by_global_norm(1.0), bo.adam(0.1)),
    bo.compose(bo.centralize(), bo.adam(0.1)),
    bo.by_path({'w': optax.adam(0.1)}, bo.adam(0.1)),
  ):
    with pytest.raises(ValueError, match='must be known to be elementwise'):
      _refused(zero1(tx, EVERYWHERE, min_size=0))
  with pytest.raises(ValueError, match=r'create the state outside of jax\.shard_map'):
    _in_shard_map(lambda x: zero1(bo.adam(0.1), EVERYWHERE).init(x), jnp.ones(8))


def test_updates_count_as_shared_where_no_gather_does(monkeypatch):
  """JAX 0.9 has no gather whose result is known to be the same on each device: parts are summed."""
  monkeypatch.delattr(jax.lax, 'all_gather_invariant', raising=False)
  monkeypatch.setattr(jax.lax, 'all_gather', None)
  x = np.arange(48, dtype=np.float32).reshape(2, 24)
  whole = lambda x: gather(x, 'data', 1)
  gathered = jax.shard_map(whole, mesh=MESH, in_specs=P(None, 'data'), out_specs=P())
  assert_equal(np.asarray(jax.jit(gathered)(x)), x)


# Wrong arguments.


def test_errors_name_the_axis_and_the_leaf():
  params = {'a': {'w': jax.ShapeDtypeStruct((8, 4), jnp.float32)}, 'b': jax.ShapeDtypeStruct((6,), jnp.float32)}
  tx, split = bo.adam(0.1), NamedSharding(MESH, P('data'))
  cases = [
    (ValueError, r"params\['a'\]\['w'\] has no sharding", None),
    (ValueError, r"has none for params\['b'\], but for: \['a'\]", {'a': EVERYWHERE}),
    (ValueError, r"has none for params\['b'\], but for: \['a'\]", {'a': EVERYWHERE, 'b': None}),
    (ValueError, r"param_shardings\['c'\] belongs to no parameter", {'a': split, 'b': EVERYWHERE, 'c': split}),
    (TypeError, r"param_shardings\['a'\] has the sharding .*P.*no NamedSharding", {'a': P('data'), 'b': EVERYWHERE}),
    (ValueError, r"sharding .*'data'.* of params\['b'\] does not fit shape \(6,\)", split),
    (ValueError, r"of params\['b'\] does not fit", {'a': split, 'b': NamedSharding(MESH, P(None, None))}),
    (ValueError, r"param_shardings\['b'\] is on ", {'a': split, 'b': NamedSharding(TWO_AXES, P())}),
    (ValueError, 'has no leaves', {}),
  ]
  for error, match, shardings in cases:
    for function in (state_shardings, init_sharded):
      with pytest.raises(error, match=match):
        function(tx, params, shardings)
  many = {f'layer_{i}': params['b'] for i in range(600)}
  with pytest.raises(
    ValueError, match=r"\['layr_77'\] belongs to no .* are: \['layer_77'\].*nearest 10 of 600"
  ) as long:
    state_shardings(tx, many, {'layr_77': split})
  assert len(str(long.value)) < 400
  wrong = r"params\['f'\] is no array but 'relu'. Leave it out: pass equinox\.filter"
  for init in (lambda p: state_shardings(tx, p, EVERYWHERE), zero1(tx, EVERYWHERE).init):
    with pytest.raises(TypeError, match=wrong):
      init({'b': jnp.ones(8), 'f': 'relu'})
  with pytest.raises(TypeError, match=r"params\['b'\] has the sharding SingleDeviceSharding.*jax\.device_put"):
    state_shardings(tx, {'b': jnp.ones(8)})

  for error, match, arguments in [
    (ValueError, r"axis must be an axis of the mesh of param_shardings\['w'\], 'data', got 'model'", {'axis': 'model'}),
    (ValueError, 'min_size must be an integer >= 0, got -1', {'min_size': -1}),
    (TypeError, 'min_size must be an integer', {'min_size': 0.5}),
    (TypeError, 'tx must be a gradient transformation, got 3', {'tx': 3}),
    (TypeError, r"param_shardings\['w'\] has the sharding .*no NamedSharding", {'param_shardings': {'w': P()}}),
  ]:
    with pytest.raises(error, match=match):
      zero1(**{'tx': tx, 'param_shardings': {'w': EVERYWHERE}, **arguments})
  with pytest.raises(ValueError, match=r"has none for params\['v'\], but for: \['w'\]"):
    zero1(tx, {'w': EVERYWHERE}).init({'v': jnp.ones(8)})
