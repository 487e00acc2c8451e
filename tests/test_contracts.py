"""What the ecosystem demands of a gradient transformation: one table, every row of the registry by every contract.

A contract is a function of a row; `@contract` puts it into the table.
"""

import contextlib
import copy
import functools
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import orbax.checkpoint
import pytest
from contract_helpers import (
  STEPS,
  assert_close,
  assert_equal,
  compilations,
  gradients,
  params,
  plain,
  run,
  traced,
  types,
)
from flax import nnx
from flax.training.train_state import TrainState
from helpers import x64
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ALGORITHM_ROWS, ROWS, Row

import belief_optax as bo

CONTRACTS: list[Any] = []
EACH = 3  # `make test` asks each third of the covering rows, the full matrix all of them


def contract(wrapper: bool = False, **cases: tuple[Any, ...]) -> Callable[..., Any]:
  """Adds a function of a row to the table, once for each value of its one other argument.

  A `wrapper` compiles a program of its own around an algorithm, whose options it cannot see: with the variants of an
  algorithm it belongs to the full matrix, unless they keep another state.
  """

  def add(function: Callable[..., None]) -> Callable[..., None]:
    name = function.__name__
    for argument, values in cases.items():
      for value in values:
        case = functools.partial(function, **{argument: value})
        CONTRACTS.append((f'{name}-{getattr(value, "__name__", value)}', case, wrapper))
    if not cases:
      CONTRACTS.append((name, function, wrapper))
    return function

  return add


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
  """The table."""
  if metafunc.function is not test_contract:
    return
  table = []
  for i, (name, holds, wrapper) in enumerate(CONTRACTS):
    fits = lambda row, wrapper=wrapper: not ((wrapper and row.variant and not row.coded) or row.slow)
    quick = [row for row in ROWS if row.covering and fits(row)]
    quick = quick[i % min(EACH, len(quick)) :: EACH]  # other rows for each contract, so that all of them are taken
    for row in ROWS:
      table.append(pytest.param(holds, row, id=f'{name}-{row}', marks=() if row in quick else pytest.mark.full))
  metafunc.parametrize(('holds', 'row'), table)


def test_contract(holds: Callable[[Row], None], row: Row) -> None:
  holds(row)


def test_every_public_algorithm_has_a_row():
  assert {row.algorithm for row in ALGORITHM_ROWS} == set(bo.optimizers.__all__)
  assert len({str(row) for row in ROWS}) == len(ROWS)


# Values.


@contract()
def is_a_value(row):
  tx = row.make()
  assert tx == row.make()
  assert hash(tx) == hash(row.make())
  assert tx != row.make(row.learning_rate * 2)
  tx.update(gradients()[0], tx.init(params()), params())  # use must not change the value
  assert tx == row.make() == pickle.loads(pickle.dumps(tx)) == copy.deepcopy(tx) == copy.copy(tx)
  assert isinstance(tx, optax.GradientTransformationExtraArgs)


@contract()
def prints_as_its_recipe(row):
  tx = row.make()
  printed = repr(tx)
  # A line for each, and one for a store that is not the default; a single piece prints as itself.
  assert len([line for line in printed.splitlines() if line.startswith('  ')]) in (len(tx.lines) + row.coded, 0)
  if not row.options.get('mask'):  # a function prints as its name in angle brackets
    assert eval(printed, row.names) == tx
  else:
    assert f'mask=<{row.options["mask"].__name__}>' in printed


# Inside other transformations.


@contract()
def works_in_a_chain(row):
  halved = [jax.tree.map(lambda g: g / 2, tree) for tree in gradients()]
  updates, p, state = run(optax.chain(optax.scale(0.5), row.make()), params(), gradients())
  expected = run(row.make(), params(), halved)
  assert_equal((updates, p, state[1]), expected)


@contract()
def works_in_a_named_chain(row):
  updates, p, state = run(optax.named_chain(('first', optax.identity()), ('second', row.make())), params(), gradients())
  assert_equal((updates, p, state['second']), plain(row))


@contract(wrapper=True)
def nests_in_compose(row):
  tx = row.make()
  assert bo.compose(tx) == bo.compose(bo.compose(), bo.compose(tx)) == tx
  halved = bo.compose(tx, bo.scale(0.5))
  assert halved.lines == (*tx.lines, *bo.scale(0.5).lines)
  p, g = params(), gradients()[0]
  u, _ = halved.update(g, halved.init(p), p)
  assert_equal(jax.tree.map(lambda u: 2 * u, u), plain(row)[0][0])


@contract()
def injected_hyperparameters_equal_constants(row):
  tx = optax.inject_hyperparams(row.factory, static_args=row.static)(learning_rate=row.learning_rate, **row.options)
  updates, p, state = run(tx, params(), gradients())
  # b2 = 0.999 arrives in float32, whose 1 - b2 is off by 1.3e-5.
  assert_close((updates, p, state.inner_state), plain(row), rtol=1e-4)
  traced_numbers = {name for name, v in row.options.items() if isinstance(v, float)} | {'learning_rate'}
  assert traced_numbers - set(row.static) <= set(state.hyperparams)


def _stop(row: Row) -> Callable[[Any], Any]:
  """A learning rate that is the row's, but 0 at the last step."""
  return lambda count: jnp.where(count < STEPS - 1, row.learning_rate, 0.0)


@functools.cache
def scheduled(row: Row) -> Any:
  return run(row.make(_stop(row)), params(), gradients())


@contract()
def schedule_is_called_with_the_finished_steps(row):
  """The learning rate is that of count 0, 1, ...; the state is made as with a number."""
  updates, _, state = scheduled(row)
  assert_close(updates[:-1], plain(row)[0][:-1])
  assert types(state) == types(plain(row)[2])
  distance = lambda a, b: max(
    float(jnp.max(jnp.abs(x - y))) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
  )
  assert distance(updates[-1], plain(row)[0][-1]) > row.learning_rate / 100


@contract()
def injected_schedule_equals_schedule(row):
  tx = optax.inject_hyperparams(row.factory, static_args=row.static)(learning_rate=_stop(row), **row.options)
  updates, p, state = run(tx, params(), gradients())
  assert_close((updates, p, state.inner_state), scheduled(row), rtol=1e-4)


@contract()
def works_masked(row):
  """optax.masked hands on trees with MaskedNode in them."""
  tx = optax.masked(row.make(), {'w': True, 'b': False})
  updates, _, _ = run(tx, params(), gradients())
  for u, g, expected in zip(updates, gradients(), plain(row)[0], strict=True):
    assert_equal(u['b'], g['b'])
    assert_close(u['w'], expected['w'])


@contract()
def works_in_a_partition(row):
  tx = optax.partition({'here': row.make(), 'frozen': optax.set_to_zero()}, {'w': 'here', 'b': 'frozen'})
  updates, _, _ = run(tx, params(), gradients())
  for u, expected in zip(updates, plain(row)[0], strict=True):
    assert_equal(u['b'], jnp.zeros_like(u['b']))
    assert_close(u['w'], expected['w'])


@contract(wrapper=True)
def works_under_multi_steps(row):
  grads = gradients()[:4]
  updates, _, state = run(optax.MultiSteps(row.make(), 2), params(), grads, jit=True)
  means = [jax.tree.map(lambda a, b: (a + b) / 2, *pair) for pair in (grads[:2], grads[2:])]
  expected, _, inner = run(row.make(), params(), means)
  assert_equal(updates[0], jax.tree.map(jnp.zeros_like, updates[0]))
  assert_close([updates[1], updates[3]], expected)
  assert_close(state.inner_opt_state, inner)


@contract(wrapper=True)
def works_under_apply_if_finite(row):
  tx = optax.apply_if_finite(row.make(), 3)
  p, (first, second) = params(), gradients()[:2]
  bad = {**first, 'w': first['w'].at[0].set(jnp.nan)}
  u, _, state = run(tx, p, [first, bad, second], jit=True)
  assert_equal(u[1], jax.tree.map(jnp.zeros_like, p))
  assert_close([u[0], u[2]], plain(row)[0][:2])
  assert state.inner_state.count == 2


@contract()
def works_under_lookahead(row):
  period, pull, grads = 3, 0.5, gradients()[:4]
  start = optax.LookaheadParams(fast=params(), slow=params())
  _, after, _ = run(optax.lookahead(row.make(), period, pull), start, grads)
  _, fast, state = run(row.make(), params(), grads[:period])
  slow = jax.tree.map(lambda s, f: s + pull * (f - s), params(), fast)
  u, _ = row.make().update(grads[period], state, slow)
  assert_close(after.slow, slow)
  assert_close(after.fast, optax.apply_updates(slow, u), rtol=1e-5)


def _descend(tx: Any, read: Callable[[Any, Any], Any] | None = None) -> tuple[float, float]:
  """The loss of a parabola before and after some compiled steps."""
  loss = lambda p: sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(p))

  def body(carry: Any, _: Any) -> Any:
    p, state = carry
    u, state = tx.update(jax.grad(loss)(p), state, p)
    return (optax.apply_updates(p, u), state), None

  @jax.jit
  def loop(p: Any) -> Any:
    (p, state), _ = jax.lax.scan(body, (p, tx.init(p)), None, length=300)
    return loss(read(state, p) if read else p)

  p = {'w': params()['w']}
  return float(loss(p)), float(loop(p))


@contract(wrapper=True)
def works_under_schedule_free(row):
  tx = optax.contrib.schedule_free(row.make(), row.learning_rate, b1=0.9)
  before, after = _descend(tx, optax.contrib.schedule_free_eval_params)
  assert after < 0.9 * before


@contract(wrapper=True)
def works_under_mechanize(row):
  before, after = _descend(optax.contrib.mechanize(row.make(), s_init=1e-2))
  assert after < 0.9 * before


# The state as a tree.


@contract()
def map_params_finds_the_slots(row):
  tx = row.make()
  state = tx.init(params())
  assert_equal(optax.tree.map_params(tx, lambda x: x, state), state)
  specs = {'w': P('data', None), 'b': P('data')}
  marked = optax.tree.map_params(tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: P())
  assert marked == bo.State(P(), dict.fromkeys(state.slots, specs), jax.tree.map(lambda _: P(), state.ages))


@contract()
def tree_get_and_set_find_slots(row):
  state = optax.chain(optax.identity(), row.make()).init(params())
  slots = {slot.name for line in row.make().lines for slot in line.slots}
  together = '+'.join(key.split('.')[0] for key in row.kept).split('+')  # of 'mu+nu.int8'
  keys = {name for name in slots if name not in together} | set(row.kept)
  for name in {'mu', 'nu', 'nu_max', 'momentum', 'slow'} | keys:
    found = optax.tree.get(state, name)
    assert (found is not None) == (name in keys)
    if name in keys:
      assert found is state[1].slots[name]
      assert jax.tree.structure(found) == jax.tree.structure(params())
  read = bo.decode_state(state[1], row.make())  # every slot by its name, also where it is kept with others
  assert types(read.slots) == {name: types(jax.tree.map(jnp.zeros_like, params())) for name in slots}
  assert optax.tree.get(optax.tree.set(state, count=jnp.int32(5)), 'count') == 5


@contract()
def init_is_abstract(row):
  """Shapes are enough, and eval_shape sees what init makes."""
  tx, shapes = row.make(), jax.eval_shape(lambda: params())
  state = tx.init(params())
  copied = {slot.name for line in tx.lines for slot in line.slots if slot.fill == 'params'}
  zeros = {name: jax.tree.map(jnp.zeros_like, tree) for name, tree in state.slots.items() if name in copied}
  assert_equal(tx.init(shapes), state._replace(slots=state.slots | zeros))
  assert_equal(jax.jit(tx.init)(params()), state)
  abstract = jax.eval_shape(tx.init, params())
  assert jax.tree.structure(abstract) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
    assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, False)


@contract()
def slots_are_buffers_of_their_own(row):
  state = row.make().init(params())
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
  assert len(set(pointers)) == len(pointers)


@contract()
def survives_flax_serialization(row):
  tx = row.make()
  _, p, state = plain(row)
  restored = flax.serialization.from_bytes(tx.init(params()), flax.serialization.to_bytes(state))
  assert_equal(jax.tree.map(jnp.asarray, restored), state)
  g = gradients()[0]
  assert_equal(tx.update(g, restored, p), tx.update(g, state, p))


@contract(wrapper=True)
def survives_orbax(row):
  tx = row.make()
  _, p, state = plain(row)
  with tempfile.TemporaryDirectory() as folder, orbax.checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save(Path(folder) / 'state', state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(Path(folder) / 'state', jax.eval_shape(tx.init, params()))
  assert_equal(restored, state)
  g = gradients()[0]
  assert_equal(tx.update(g, restored, p), tx.update(g, state, p))


# Inside jax transformations.


@contract(wrapper=True)
def scans(row):
  tx = row.make()

  def body(carry, g):
    p, state = carry
    u, state = tx.update(g, state, p)
    return (optax.apply_updates(p, u), state), u

  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients())
  (p, state), updates = jax.lax.scan(body, (params(), tx.init(params())), stacked)
  expected = jax.tree.map(lambda *xs: jnp.stack(xs), *plain(row)[0])
  assert_close((updates, p, state), (expected, *plain(row)[1:]), rtol=1e-5)


@contract(wrapper=True)
def loops(row):
  tx, stacked = row.make(), jax.tree.map(lambda *xs: jnp.stack(xs), *gradients())

  def body(carry):
    p, state = carry
    u, state = tx.update(jax.tree.map(lambda g: g[state.count], stacked), state, p)
    return optax.apply_updates(p, u), state

  p, state = jax.lax.while_loop(lambda carry: carry[1].count < STEPS, body, (params(), tx.init(params())))
  assert_close((p, state), plain(row)[1:], rtol=1e-5)


@contract(dtype=(jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64, jnp.complex64, jnp.complex128))
def branches(row, dtype):
  """lax.cond compares shape, dtype and weak type of everything that an update returns with what went in."""
  wide = dtype in (jnp.float64, jnp.complex128)
  with x64() if wide else jax.default_device(None):
    tx, p = row.make(), params(dtype)
    g = gradients(1, dtype)[0]
    if row.real_only and jnp.issubdtype(dtype, jnp.complexfloating):
      if row.rounds:
        with pytest.raises(TypeError, match='mu of a complex parameter cannot be kept as bfloat16'):
          tx.init(p)
      else:
        state = tx.init(p)
        with pytest.raises(TypeError, match='compares signs, but an update is complex'):
          tx.update(g, state, p)
      return
    state = tx.init(p)
    either = lambda on, *args: jax.lax.cond(on, tx.update, lambda g, state, _: (g, state), *args)
    found = jax.eval_shape(either, True, g, state, p)
    signature = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert signature(found) == signature((g, state))


@contract(grads_dtype=(jnp.bfloat16, jnp.float32))
def updates_are_as_wide_as_gradients_and_parameters(row, grads_dtype):
  """1e-8 would be 0 in float16, and 0.4 % of each update lost in bfloat16, where the parameter can hold all of it."""
  for params_dtype in (jnp.bfloat16, jnp.float32):
    tx, p, g = row.make(), params(params_dtype), gradients(1, grads_dtype)[0]
    state = tx.init(p)
    u, after = jax.eval_shape(tx.update, g, state, p)
    wider = jnp.promote_types(grads_dtype, params_dtype)
    assert {x.dtype for x in jax.tree.leaves(u)} == {wider}
    if not row.reads_params:  # nobody knows the parameters
      without, _ = jax.eval_shape(tx.update, g, state)
      assert {x.dtype for x in jax.tree.leaves(without)} == {jnp.dtype(grads_dtype)}
    assert types(after) == types(state)
    for name, slot in state.slots.items():
      assert {x.dtype for x in jax.tree.leaves(slot)} == {jnp.dtype(row.kept.get(name, 'float32'))}


@contract(wrapper=True)
def vmaps_over_a_population(row):
  rates = row.learning_rate * jnp.asarray([0.5, 1.0, 2.0])
  (_, p, state), g = plain(row), gradients()[0]
  step = lambda rate: (row.make(rate).init(p), row.make(rate).update(g, state, p))
  if row.needs_first_rate:
    with pytest.raises(TypeError, match="weight_decay_mode='independent' needs the learning rate at the first step"):
      jax.vmap(step)(rates)
    return
  found = jax.vmap(step)(rates)
  for i, rate in enumerate(rates):
    assert_close(jax.tree.map(lambda x, i=i: x[i], found), step(rate), rtol=1e-5)
  assert_close(found[1][0]['w'][1], row.make().update(g, state, p)[0]['w'], rtol=1e-5)


@contract(wrapper=True)
def differentiates(row):
  """Backpropagation through young steps and an old one agrees with differences, and zeros give no NaN."""
  with x64():
    p = {'w': params(jnp.float64)['w']}
    grads = {'w': jnp.stack([g['w'] for g in gradients(3, jnp.float64)])}

    def objective(scale, grads, rate=None):
      tx = row.make(rate)

      def step(carry, now):
        (q, state), (g, passed) = carry, now
        u, state = tx.update(g, state._replace(count=state.count + passed), q)
        return (optax.apply_updates(q, u), state), u

      passed = jnp.asarray([0, 0, 20], jnp.int32)  # rectification is adaptive by then
      _, u = jax.lax.scan(step, (p, tx.init(p)), (jax.tree.map(lambda g: scale * g, grads), passed))
      return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(u)) / row.learning_rate

    both, h = jax.jit(jax.value_and_grad(objective, argnums=(0, 1))), 1e-5
    slope = (both(1.3 + h, grads)[0] - both(1.3 - h, grads)[0]) / (2 * h)
    _, (by_scale, by_gradients) = both(1.3, grads)
    if not row.rounds:
      np.testing.assert_allclose(by_scale, slope, rtol=1e-5, atol=1e-7)
    _, of_zeros = both(1.3, jax.tree.map(jnp.zeros_like, grads))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((by_gradients, of_zeros)))
    # Codes and signs are steps: nothing comes through them, and everything beside them.
    assert any(jnp.any(x != 0) for x in jax.tree.leaves(by_gradients)) != row.stepwise
    if row.coded:
      rates = jnp.asarray([row.learning_rate, row.learning_rate + h, row.learning_rate - h])
      by_rate = jax.jit(jax.vmap(jax.value_and_grad(lambda rate: objective(1.3, grads, rate))))
      values, slopes = by_rate(rates)
      np.testing.assert_allclose(slopes[0], (values[1] - values[2]) / (2 * h), rtol=1e-5)


# Trees of all kinds.


@contract()
def none_gradients_move_nothing(row):
  """None for a leaf, for a subtree, and where the parameter is None itself."""
  tx, p = row.make(), {**params(), 'sub': {'x': jnp.ones(2)}, 'absent': None}
  g, state = {**gradients()[0], 'b': None, 'sub': None, 'absent': None}, tx.init(p)
  u, after = tx.update(g, state, p)
  assert (u['b'], u['sub'], u['absent']) == (None, None, None)
  assert_close(u['w'], plain(row)[0][0]['w'])
  assert types(after) == types(state)
  for name, slot in state.slots.items():
    assert slot['absent'] is None
    for still in ('b', 'sub'):
      assert_equal(after.slots[name][still], slot[still])


@contract()
def empty_trees_are_trees(row):
  tx = row.make()
  for empty in ((), [], {'a': {}}, {'a': None}):
    state = tx.init(empty)
    assert types(jax.eval_shape(tx.update, empty, state, empty)) == types((empty, state))
  u, state = tx.update({}, tx.init({}), {})
  assert u == {}
  assert state.count == 1


@contract()
def any_number_is_a_parameter(row):
  """Scalars, Python numbers and arrays without elements."""
  tx = row.make()
  p = {'scalar': jnp.asarray(1.5), 'python': 1.5, 'none': jnp.zeros((0, 3))}
  g = {'scalar': jnp.asarray(0.5), 'python': 0.5, 'none': jnp.zeros((0, 3))}
  state = tx.init(p)
  for slot in state.slots.values():
    assert types(slot['python']) == types(slot['scalar'])
  state = state._replace(count=state.count + STEPS)
  for _ in range(2):
    u, after = tx.update(g, state, p)
    assert types(after) == types(state)
    assert_equal(u['python'], u['scalar'])
    assert u['scalar'] != 0
    assert u['none'].shape == (0, 3)
    state = after
  bare = tx.init(1.5)
  u, after = jax.eval_shape(tx.update, 0.5, bare, 1.5)
  assert (u.shape, types(after)) == ((), types(bare))


@contract()
def unknown_extra_arguments_are_accepted(row):
  tx, p, g = row.make(), params(), gradients()[0]
  out = tx.update(g, tx.init(p), p, value=1.0, value_fn=lambda p: p, a_word='word')
  assert_equal(out, tx.update(g, tx.init(p), p))


@contract()
def params_are_optional_where_nothing_decays(row):
  tx, g = row.make(), gradients()[0]
  state = tx.init(params())
  if row.reads_params:
    reader = next(line.name for line in row.make().lines if line.reads_params)
    with pytest.raises(ValueError, match=rf'^{reader}\(.*needs the parameters'):
      tx.update(g, state)
  else:
    assert_equal(tx.update(g, state)[0], plain(row)[0][0])


# Compilation.


@functools.cache
def _train_step(row: Row) -> Any:
  tx = row.make()

  def step(p, state, g):
    u, state = tx.update(g, state, p)
    return optax.apply_updates(p, u), state

  return traced(step, donate_argnums=(0, 1))


@contract()
def second_step_compiles_nothing(row):
  tx, p, grads, (step, traces) = row.make(), params(), gradients(), _train_step(row)
  q, state = step(params(), tx.init(p), grads[0])
  step(q, state, grads[1])
  assert len(traces) == 1
  _, state = tx.update(grads[0], tx.init(p), p)  # eager, where `update` compiles itself
  with compilations() as compiled:
    tx.update(grads[1], state, p)
  assert compiled == []


@contract()
def donates(row):
  """All of the old state is reused; a buffer that cannot be is a warning, and warnings are errors."""
  p, state, g = params(), row.make().init(params()), gradients()[0]
  step, _ = _train_step(row)
  jax.block_until_ready(step(p, state, g))
  assert all(x.is_deleted() for x in jax.tree.leaves((p, state)))
  assert not any(x.is_deleted() for x in jax.tree.leaves(g))


@contextlib.contextmanager
def _explicit_mesh() -> Iterator[Any]:
  """Parameters and gradients, split over eight devices with explicit types."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
  with jax.set_mesh(mesh):
    sharded = NamedSharding(mesh, P('data'))
    p = {'w': jax.device_put(jnp.ones((8, 2)), sharded), 'b': jax.device_put(jnp.ones(16), sharded)}
    yield p, jax.tree.map(lambda p: p * 2, p)


@contract()
def types_agree_on_an_explicit_mesh(row):
  with _explicit_mesh() as (p, g):
    tx = row.make()
    state = tx.init(p)  # eager

    assert types(state) == types(jax.jit(tx.init)(p))

    def inside(p, g, state):
      u, after = tx.update(g, state, p)
      assert types((u, after)) == types((g, state))

    jax.eval_shape(inside, p, g, state)
    assert {jax.typeof(x).sharding.spec[0] for x in jax.tree.leaves(state.slots)} <= {'data'}


def test_runs_on_an_explicit_mesh():
  """The contract above compares types; here they are also compiled and run."""
  with _explicit_mesh() as (p, g):
    tx = bo.adabelief(0.1, weight_decay=0.1, amsgrad=True)
    state = tx.init(p)
    u, after = tx.update(g, state, p)
    assert types((u, after)) == types((g, jax.jit(tx.init)(p)))
  host = jax.tree.map(np.asarray, (g, p))
  assert_close(jax.tree.map(np.asarray, u), tx.update(host[0], tx.init(host[1]), host[1])[0])


# Training loops of others.


def _apply(train_state: TrainState, g: Any) -> TrainState:
  return train_state.apply_gradients(grads=g)


@contract(wrapper=True)
def equal_optimizers_share_a_train_state_trace(row):
  step, traces = traced(_apply)
  for _ in range(2):
    state = step(TrainState.create(apply_fn=None, params=params(), tx=row.make()), gradients()[0])
  assert len(traces) == 1
  assert_close(state.params, optax.apply_updates(params(), plain(row)[0][0]))


def test_other_optimizers_do_not_share_a_train_state_trace():
  step, traces = traced(_apply)
  for rate in (0.1, 0.2):
    step(TrainState.create(apply_fn=None, params=params(), tx=bo.sgd(rate)), gradients()[0])
  assert len(traces) == 2


class Model(nnx.Module):
  """Parameters, and a variable that is none."""

  def __init__(self):
    self.w, self.b = nnx.Param(params()['w']), nnx.Param(params()['b'])
    self.steps = nnx.BatchStat(jnp.zeros((), jnp.int32))


@contract(wrapper=True)
def drives_an_nnx_optimizer(row):
  model = Model()
  optimizer = nnx.Optimizer(model, row.make(), wrt=nnx.Param)
  for g in gradients()[:2]:
    loss = lambda model, g=g: jnp.sum(model.w[...] * g['w']) + jnp.sum(model.b[...] * g['b'])
    optimizer.update(model, nnx.grad(loss)(model))
  _, expected, _ = run(row.make(), params(), gradients()[:2])
  assert_close({'w': model.w[...], 'b': model.b[...]}, expected)


# Convergence.


def _problems(dtype: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
  """Starts, solutions and the objective of two problems: independent, as every rule is elementwise."""
  square = lambda x: x.real**2 + x.imag**2
  a = jnp.asarray(0.6 + 0.8j if jnp.issubdtype(dtype, jnp.complexfloating) else 1.0, dtype)
  solution = {'parabola': a * jnp.asarray([1.0, -1.0, 1.0]), 'rosenbrock': jnp.asarray([a, a**2])}
  start = {'parabola': a * jnp.asarray([-1.0, 10.0, 1.0]), 'rosenbrock': jnp.zeros(2, dtype)}

  def objective(p):
    x, y = p['rosenbrock']
    return jnp.sum(square(p['parabola'] - solution['parabola'])) + square(a - x) + 100 * square(y - x**2)

  return start, solution, objective


@contract(wrapper=True, dtype=(jnp.float32, jnp.complex64))
def converges(row, dtype):
  if row.real_only and dtype == jnp.complex64:
    return  # `branches` checks that it is refused
  start, solution, objective = _problems(dtype)
  tx = row.make()

  def body(_, carry):
    p, state = carry
    u, state = tx.update(jax.tree.map(jnp.conj, jax.grad(objective)(p)), state, p)
    return optax.apply_updates(p, u), state

  found, _ = jax.jit(lambda p: jax.lax.fori_loop(0, 10_000, body, (p, tx.init(p))))(start)
  assert_close(found, solution, rtol=3e-2, atol=3e-2)
