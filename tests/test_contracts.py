"""What the ecosystem demands of a gradient transformation: one table, every row of the registry by every contract.

A contract is a function of a row; `@contract` puts it into the table.
"""

import copy
import functools
import pickle
import tempfile
from collections.abc import Callable
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
  x64,
)
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ROWS, Row

import belief_optax as bo

CONTRACTS: list[Any] = []


def contract(*marks: pytest.MarkDecorator, **cases: tuple[Any, ...]) -> Callable[..., Any]:
  """Adds a function of a row to the table, once for each value of its one other argument."""

  def add(function: Callable[..., None]) -> Callable[..., None]:
    name = function.__name__
    for argument, values in cases.items():
      for value in values:
        case = functools.partial(function, **{argument: value})
        CONTRACTS.append(pytest.param(case, id=f'{name}-{getattr(value, "__name__", value)}', marks=marks))
    if not cases:
      CONTRACTS.append(pytest.param(function, id=name, marks=marks))
    return function

  return add


@pytest.mark.parametrize('row', ROWS, ids=str)
@pytest.mark.parametrize('holds', CONTRACTS)
def test_contract(holds: Callable[[Row], None], row: Row) -> None:
  holds(row)


def test_every_public_algorithm_has_a_row():
  assert {row.algorithm for row in ROWS} == set(bo.algorithms.__all__)
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
  assert len([line for line in printed.splitlines() if line.startswith('  ')]) in (len(tx.lines), 0)
  if not row.options.get('mask'):  # a function prints as its name in angle brackets
    assert eval(printed, vars(bo).copy()) == tx
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


@contract()
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


def _rates(row: Row) -> Callable[[Any], Any]:
  return optax.linear_schedule(row.learning_rate, row.learning_rate / 4, STEPS)


@contract()
def injected_schedule_equals_schedule(row):
  schedule = _rates(row)
  tx = optax.inject_hyperparams(row.factory, static_args=row.static)(learning_rate=schedule, **row.options)
  updates, p, state = run(tx, params(), gradients())
  assert_close((updates, p, state.inner_state), run(row.make(schedule), params(), gradients()), rtol=1e-4)


@contract()
def schedule_scales_the_step_and_not_the_state(row):
  """The learning rate is called with 0, 1, ...; the state is that of a number."""
  u, p, state = run(row.make(lambda count: row.learning_rate + 0 * count), params(), gradients())
  assert_close((u, p, state), plain(row))
  late = run(row.make(lambda count: jnp.where(count < STEPS - 1, row.learning_rate, 0.0)), params(), gradients())
  assert_close(late[0][:-1], plain(row)[0][:-1])
  assert any(jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (late[0][-1], plain(row)[0][-1])), strict=True))


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


@contract()
def works_under_multi_steps(row):
  grads = gradients()[:4]
  updates, _, state = run(optax.MultiSteps(row.make(), 2), params(), grads)
  means = [jax.tree.map(lambda a, b: (a + b) / 2, *pair) for pair in (grads[:2], grads[2:])]
  expected, _, inner = run(row.make(), params(), means)
  assert_equal(updates[0], jax.tree.map(jnp.zeros_like, updates[0]))
  assert_close([updates[1], updates[3]], expected)
  assert_close(state.inner_opt_state, inner)


@contract()
def works_under_apply_if_finite(row):
  tx = optax.apply_if_finite(row.make(), 3)
  p, (first, second) = params(), gradients()[:2]
  bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), first)
  u, _, _ = run(tx, p, [first, bad, second])
  assert_equal(u[1], jax.tree.map(jnp.zeros_like, p))
  assert_close([u[0], u[2]], plain(row)[0][:2])


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


def _descend(tx: Any, read: Callable[[Any, Any], Any] = lambda state, p: p) -> tuple[float, float]:
  """The loss of a parabola before and after some compiled steps."""
  loss = lambda p: sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(p))

  def body(carry: Any, _: Any) -> Any:
    p, state = carry
    u, state = tx.update(jax.grad(loss)(p), state, p)
    return (optax.apply_updates(p, u), state), None

  @jax.jit
  def loop(p: Any) -> Any:
    (p, state), _ = jax.lax.scan(body, (p, tx.init(p)), None, length=300)
    return loss(read(state, p))

  return float(loss(params())), float(loop(params()))


@contract()
def works_under_schedule_free(row):
  tx = optax.contrib.schedule_free(row.make(), row.learning_rate, b1=0.9)
  before, after = _descend(tx, optax.contrib.schedule_free_eval_params)
  assert after < 0.9 * before


@contract()
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
  assert marked == bo.State(P(), dict.fromkeys(state.slots, specs), {})


@contract()
def tree_get_and_set_find_slots(row):
  state = optax.chain(optax.identity(), row.make()).init(params())
  slots = {slot.name for line in row.make().lines for slot in line.slots}
  for name in ('mu', 'nu', 'nu_max', 'momentum'):
    found = optax.tree.get(state, name)
    assert (found is not None) == (name in slots)
    if name in slots:
      assert found is state[1].slots[name]
      assert jax.tree.structure(found) == jax.tree.structure(params())
  assert optax.tree.get(optax.tree.set(state, count=jnp.int32(5)), 'count') == 5


@contract()
def init_is_abstract(row):
  """Shapes are enough, and eval_shape sees what init makes."""
  tx, shapes = row.make(), jax.eval_shape(lambda: params())
  state = tx.init(params())
  assert_equal(tx.init(shapes), state)
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


@contract()
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


@contract()
def scans(row):
  tx, grads = row.make(), gradients()

  def body(carry, g):
    p, state = carry
    u, state = tx.update(g, state, p)
    return (optax.apply_updates(p, u), state), u

  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *grads)
  (p, state), updates = jax.lax.scan(body, (params(), tx.init(params())), stacked)
  expected = jax.tree.map(lambda *xs: jnp.stack(xs), *plain(row)[0])
  assert_close((updates, p, state), (expected, *plain(row)[1:]), rtol=1e-5)


@contract()
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
    if row.rounds and jnp.issubdtype(dtype, jnp.complexfloating):
      with pytest.raises(TypeError, match='mu of a complex parameter cannot be kept as bfloat16'):
        tx.init(p)
      return
    state = tx.init(p)
    abstract = jax.eval_shape(
      lambda on, g, state, p: jax.lax.cond(on, tx.update, lambda g, state, p: (g, state), g, state, p), True, g, state, p
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), (g, state))


@contract(grads_dtype=(jnp.bfloat16, jnp.float32))
def updates_have_the_dtype_of_the_gradients(row, grads_dtype):
  for params_dtype in (jnp.bfloat16, jnp.float32):
    tx, p, g = row.make(), params(params_dtype), gradients(1, grads_dtype)[0]
    state = tx.init(p)
    u, after = jax.eval_shape(tx.update, g, state, p)
    assert {x.dtype for x in jax.tree.leaves(u)} == {jnp.dtype(grads_dtype)}
    assert types(after) == types(state)
    for name, slot in state.slots.items():
      expected = row.options['mu_dtype'] if name == 'mu' and 'mu_dtype' in row.options else 'float32'
      assert {x.dtype for x in jax.tree.leaves(slot)} == {jnp.dtype(expected)}


@contract()
def vmaps_over_a_population(row):
  rates = row.learning_rate * jnp.asarray([0.5, 1.0, 2.0])
  population = jax.vmap(lambda rate: run(row.make(rate), params(), gradients())[1:])
  if row.needs_first_rate:
    with pytest.raises(TypeError, match="weight_decay_mode='independent' needs the learning rate at the first step"):
      population(rates)
    return
  found = jax.jit(population)(rates)
  for i, rate in enumerate(rates.tolist()):
    expected = run(row.make(rate), params(), gradients())[1:] if i != 1 else plain(row)[1:]
    assert_close(jax.tree.map(lambda x, i=i: x[i], found), expected, rtol=1e-5)


@contract()
def differentiates(row):
  """Backpropagation through two young steps and one old step agrees with differences, and zeros give no NaN."""
  with x64():
    p, grads = params(jnp.float64), gradients(3, jnp.float64)
    tx = row.make()

    def after(scale, grads):
      state, q, total = tx.init(p), p, 0.0
      for i, g in enumerate(grads):
        state = state._replace(count=state.count + 20 * (i == 2))  # rectification is adaptive by then
        u, state = tx.update(jax.tree.map(lambda g: scale * g, g), state, q)
        q = optax.apply_updates(q, u)
        total += sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(u)) / row.learning_rate
      return total

    value = jax.jit(after)
    h = 1e-5
    slope = (value(1.3 + h, grads) - value(1.3 - h, grads)) / (2 * h)
    gradient = jax.jit(jax.grad(after, argnums=(0, 1)))
    by_scale, by_gradients = gradient(1.3, grads)
    if not row.rounds:
      np.testing.assert_allclose(by_scale, slope, rtol=1e-5, atol=1e-7)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(by_gradients))
    of_zeros = gradient(1.3, jax.tree.map(jnp.zeros_like, grads))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(of_zeros))


# Trees of all kinds.


@contract()
def none_gradients_move_nothing(row):
  tx, p = row.make(), params()
  state = tx.init(p)
  g = {**gradients()[0], 'b': None}
  u, after = tx.update(g, state, p)
  assert u['b'] is None
  assert_close(u['w'], plain(row)[0][0]['w'])
  assert types(after) == types(state)
  for slot in state.slots:
    assert_equal(after.slots[slot]['b'], state.slots[slot]['b'])
  # None for a whole subtree, and None among the parameters.
  nested = {'a': p, 'frozen': None}
  u, after = tx.update({'a': gradients()[0], 'frozen': None}, tx.init(nested), nested)
  assert_close(u, {'a': plain(row)[0][0], 'frozen': None})
  assert jax.tree.structure(after) == jax.tree.structure(tx.init(nested))
  state = tx.init({'a': p})
  u, after = tx.update({'a': None}, state, {'a': p})
  assert u == {'a': None}
  assert_equal(after.slots, state.slots)


@contract()
def empty_trees_are_trees(row):
  tx = row.make()
  for empty in ({}, (), [], {'a': {}}, None):
    u, state = tx.update(empty, tx.init(empty), empty)
    assert u == empty
    assert state.count == 1


@contract()
def scalars_and_python_numbers_are_parameters(row):
  tx, grads = row.make(), [0.5, -1.0, 2.0]
  expected = run(tx, {'a': jnp.asarray(1.5)}, [{'a': jnp.asarray(g)} for g in grads])
  bare = run(tx, jnp.asarray(1.5), [jnp.asarray(g) for g in grads])
  assert_equal(bare[:2], ([u['a'] for u in expected[0]], expected[1]['a']))
  p, state = {'a': 1.5}, tx.init({'a': 1.5})
  assert types(state) == types(tx.init({'a': jnp.asarray(1.5)}))
  for g, u_expected in zip(grads, expected[0], strict=True):
    before = types(state)
    u, state = tx.update({'a': g}, state, p)
    assert_close(u, u_expected)
    assert types(state) == before
    p = optax.apply_updates(p, u)


@contract()
def zero_size_arrays_are_parameters(row):
  tx = row.make()
  p, grads = {**params(), 'none': jnp.zeros((0, 3))}, [{**g, 'none': jnp.zeros((0, 3))} for g in gradients()[:2]]
  updates, _, state = run(tx, p, grads)
  assert [u.pop('none').shape for u in updates] == [(0, 3), (0, 3)]
  assert_close(updates, plain(row)[0][:2])
  assert {slot['none'].shape for slot in state.slots.values()} <= {(0, 3)}


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
    with pytest.raises(ValueError, match=r'add_decayed_weights\(.*needs the parameters'):
      tx.update(g, state)
  else:
    assert_equal(tx.update(g, state)[0], plain(row)[0][0])


# Compilation.


@contract()
def second_step_compiles_nothing(row):
  tx, p, grads = row.make(), params(), gradients()

  def step(p, state, g):
    u, state = tx.update(g, state, p)
    return optax.apply_updates(p, u), state

  jitted, traces = traced(step)
  q, state = jitted(p, tx.init(p), grads[0])
  jitted(q, state, grads[1])
  assert len(traces) == 1
  u, state = tx.update(grads[0], tx.init(p), p)  # eager, where `update` compiles itself
  q = optax.apply_updates(p, u)
  with compilations() as compiled:
    tx.update(grads[1], state, q)
  assert compiled == []


@contract()
def donates(row):
  """All of the old state is reused; a buffer that cannot be is a warning, and warnings are errors."""
  tx = row.make()

  def step(p, state, g):
    u, state = tx.update(g, state, p)
    return optax.apply_updates(p, u), state

  p, state, g = params(), tx.init(params()), gradients()[0]
  jax.block_until_ready(jax.jit(step, donate_argnums=(0, 1))(p, state, g))
  assert all(x.is_deleted() for x in jax.tree.leaves((p, state)))
  assert not any(x.is_deleted() for x in jax.tree.leaves(g))


@contract()
def types_agree_on_an_explicit_mesh(row):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
  with jax.set_mesh(mesh):
    sharded = NamedSharding(mesh, P('data'))
    p = {'w': jax.device_put(jnp.ones((8, 2)), sharded), 'b': jax.device_put(jnp.ones(16), sharded)}
    g = jax.tree.map(lambda p: p * 2, p)
    tx = row.make()
    state = tx.init(p)
    u, after = tx.update(g, state, p)
    assert types(state) == types(jax.jit(tx.init)(p)) == types(after)
    assert types(u) == types(g)
    specs = {jax.typeof(x).sharding.spec[0] for x in jax.tree.leaves(state.slots)}
    assert specs <= {'data'}


# Training loops of others.


@contract()
def equal_optimizers_share_a_train_state_trace(row):
  step, traces = traced(lambda train_state, g: train_state.apply_gradients(grads=g))
  for _ in range(2):
    state = TrainState.create(apply_fn=None, params=params(), tx=row.make())
    state = step(state, gradients()[0])
  assert len(traces) == 1
  expected = optax.apply_updates(params(), plain(row)[0][0])
  assert_close(state.params, expected)
  step(TrainState.create(apply_fn=None, params=params(), tx=row.make(row.learning_rate * 2)), gradients()[0])
  assert len(traces) == 2


@contract()
def drives_an_nnx_optimizer(row):
  class Model(nnx.Module):
    def __init__(self):
      self.w, self.b = nnx.Param(params()['w']), nnx.Param(params()['b'])
      self.steps = nnx.BatchStat(jnp.zeros(()))

  model = Model()
  optimizer = nnx.Optimizer(model, row.make(), wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer, g):
    loss = lambda model: jnp.sum(model.w[...] * g['w']) + jnp.sum(model.b[...] * g['b'])
    optimizer.update(model, nnx.grad(loss)(model))

  for g in gradients()[:2]:
    step(model, optimizer, g)
  _, expected, _ = run(row.make(), params(), gradients()[:2])
  assert_close({'w': model.w[...], 'b': model.b[...]}, expected)


# Convergence.


def _problem(name: str, dtype: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
  """A start, the solution and the objective, as in optax's own tests."""
  square = lambda x: x.real**2 + x.imag**2
  phase = 1 + 1j if jnp.issubdtype(dtype, jnp.complexfloating) else 1
  if name == 'parabola':
    solution = jnp.asarray([1.0, -1.0, 1.0]) * phase
    return jnp.asarray([-1.0, 10.0, 1.0]) * phase, solution, lambda p: jnp.sum(square(p - solution))
  a = 1.0 * phase
  rosenbrock = lambda p: square(a - p[0]) + 100 * square(p[1] - p[0] ** 2)
  return jnp.zeros(2, dtype), jnp.asarray([a, a**2]), rosenbrock


@contract(problem=(('parabola', 'float32'), ('parabola', 'complex64'), ('rosenbrock', 'float32'), ('rosenbrock', 'complex64')))
def converges(row, problem):
  dtype = jnp.dtype(problem[1])
  if row.rounds and dtype == jnp.complex64:
    return  # `branches` checks that it is refused
  start, solution, objective = _problem(problem[0], dtype)
  tx = row.make()

  def body(_, carry):
    p, state = carry
    u, state = tx.update(jax.grad(objective)(p).conj(), state, p)
    return optax.apply_updates(p, u), state

  start = start.astype(dtype)
  found, _ = jax.jit(lambda p: jax.lax.fori_loop(0, 10_000, body, (p, tx.init(p))))(start)
  assert found.dtype == dtype
  np.testing.assert_allclose(found, solution, rtol=3e-2, atol=3e-2)
