"""A step that returns parameters: the numbers of `update` and `apply_updates`, in one pass and in place."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_close, assert_equal, gradients, params
from registry import each_row
from test_execution import PACKED, calls, step_of
from test_hlo import _shapes, copies

import belief_optax as bo
from belief_optax.execution import native
from belief_optax.one_pass import links_of

WAYS = ['xla', pytest.param('native', marks=pytest.mark.skipif(bool(native.available()), reason=native.available()))]


def by_update(tx, mode='xla', **options):
  """The jitted step of any training loop."""

  def step(p, state, g, **extra):
    with bo.execution.use(mode):
      u, state = tx.update(g, state, p, **extra)
      return optax.apply_updates(p, u), state

  return jax.jit(step, **options)


def by_step(tx, mode='auto'):
  """The same by the free function."""

  def step(p, state, g, **extra):
    with bo.execution.use(mode):
      return bo.step(tx, p, state, g, **extra)

  return jax.jit(step)


@each_row
def test_a_step_is_an_update_that_is_applied(row):
  """Bit for bit: it is the same program."""
  tx, p = row.make(), params()
  state, step, update = tx.init(p), step_of(tx, 'xla'), by_update(tx)
  for g in gradients(3):
    expected = update(p, state, g)
    assert_equal(step(p, state, g), expected)
    p, state = expected


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'complex64'])
def test_parameters_keep_their_dtype(dtype):
  tx, p = bo.adam(1e-2), params(dtype)
  (g,) = gradients(1, dtype)
  assert_equal(step_of(tx, 'xla')(p, tx.init(p), g), by_update(tx)(p, tx.init(p), g))


@pytest.mark.parametrize('method', ['stochastic', 'compensated', 'split'])
def test_rounded_parameters(method):
  tx, p = bo.compose(bo.adamw(1e-3), bo.round_updates(method)), params('bfloat16')
  (g,) = gradients(1, 'bfloat16')
  assert_equal(step_of(tx, 'xla')(p, tx.init(p), g), by_update(tx)(p, tx.init(p), g))


def test_wide_updates_of_short_parameters():
  """float32 gradients of bfloat16 parameters: the sum is rounded once."""
  tx, p = bo.adam(1e-2), params('bfloat16')
  (g,) = gradients(1)
  assert_equal(step_of(tx, 'auto')(p, tx.init(p), g), by_update(tx)(p, tx.init(p), g))


@pytest.mark.parametrize('mode', WAYS)
def test_an_eager_step(mode):
  tx, p = bo.adabelief(1e-2, weight_decay=0.1), params()
  with bo.execution.use(mode):
    found = tx.step(p, tx.init(p), p)
    u, state = tx.update(p, tx.init(p), p)
  assert_close(found, (optax.apply_updates(p, u), state))


@pytest.mark.parametrize('mode', WAYS)
def test_where_no_gradient_arrives_nothing_moves(mode):
  tx = bo.adamw(1e-2)
  p = {'a': jnp.ones(3), 'frozen': jnp.ones((2, 2)), 'inner': {'b': jnp.ones(2)}}
  state = tx.init(p)
  g = {'a': jnp.ones(3), 'frozen': None, 'inner': None}
  with bo.execution.use(mode):
    moved, after = tx.step(p, state, g)
  assert moved['frozen'] is p['frozen']
  assert moved['inner'] is p['inner']
  assert float(moved['a'][0]) < 1
  np.testing.assert_array_equal(after.slots['mu']['frozen'], 0)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  nothing, after = tx.step(p, state, {'a': None, 'frozen': None, 'inner': None})
  assert nothing is not p
  assert jax.tree.leaves(nothing) == jax.tree.leaves(p)
  assert int(after.count) == 1


def test_masks_schedules_and_extra_arguments():
  tx = bo.adamw(optax.cosine_decay_schedule(1e-2, 9), mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
  p, (g,) = params(), gradients(1)
  assert_equal(by_step(tx, 'xla')(p, tx.init(p), g, value=1.0), by_update(tx)(p, tx.init(p), g))


def test_errors_name_what_is_wrong():
  tx, p = bo.adam(1e-2), params()
  state = tx.init(p)
  with pytest.raises(ValueError, match='step returns parameters, so it needs them'):
    tx.step(None, state, p)
  with pytest.raises(ValueError, match='needs a State'):
    tx.step(p, optax.EmptyState(), p)
  with pytest.raises(ValueError, match='arrives where'):
    tx.step(p, state, jax.tree.map(lambda x: x[:1], p))
  with pytest.raises(TypeError, match='a complex update'):
    tx.step(p, state, jax.tree.map(lambda x: x + 0j, p))


# In place.


@pytest.mark.parametrize('mode', WAYS)
@pytest.mark.parametrize('store', ['float32', PACKED], ids=['float32', 'packed16'])
def test_a_donated_step_copies_nothing(mode, store):
  tx, shapes = bo.adabelief(1e-3, weight_decay=0.1, store=store), _shapes()
  state = jax.eval_shape(tx.init, shapes)
  compiled = step_of(tx, mode, donate_argnums=(0, 1)).lower(shapes, state, shapes).compile()
  memory = compiled.memory_analysis()
  assert copies(compiled.as_text()) == []
  assert memory.temp_size_in_bytes < 4096
  assert memory.alias_size_in_bytes == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((shapes, state)))
  assert bool(calls(compiled)) == (mode == 'native')


@each_row
@pytest.mark.skipif(bool(native.available()), reason=native.available())
def test_the_loop_is_in_place(row):
  """Also where XLA alone needs a copy or a temporary buffer."""
  tx, shapes = row.make(), _shapes()
  if not all(part.native for part in bo.execution.explain(tx, shapes).parts):
    pytest.skip('it has no loop')
  compiled = (
    step_of(tx, 'native', donate_argnums=(0, 1)).lower(shapes, jax.eval_shape(tx.init, shapes), shapes).compile()
  )
  assert copies(compiled.as_text()) == []
  assert compiled.memory_analysis().temp_size_in_bytes < 4096


# Any transformation.


def plain(tx):
  """A transformation of optax's older kind, which takes no extra arguments."""
  return optax.GradientTransformation(tx.init, lambda u, s, p=None: tx.update(u, s, p))


CHAINS = {
  'recipe': lambda: bo.adabelief(1e-2),
  'clipped': lambda: optax.chain(optax.clip_by_global_norm(0.1), bo.adabelief(1e-2, weight_decay=0.1)),
  'nested': lambda: optax.chain(optax.scale(2.0), optax.chain(optax.clip(0.5), bo.adamw(1e-2))),
  'recipe first': lambda: optax.chain(bo.adam(1.0), optax.scale(1e-2)),
  'optax': lambda: optax.adamw(1e-2),
  'plain': lambda: plain(optax.sgd(1e-2)),
  'plain chain': lambda: optax.chain(plain(optax.scale(0.5)), bo.sgd(1e-2)),
  'named': lambda: optax.named_chain(('clip', optax.clip(0.5)), ('adam', bo.adam(1e-2))),
  'several steps': lambda: optax.MultiSteps(bo.adam(1e-2), 2).gradient_transformation(),
  'injected': lambda: optax.inject_hyperparams(bo.adam)(1e-2),
  'masked': lambda: optax.masked(bo.adam(1e-2), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
  'by path': lambda: bo.by_path({'b': bo.sgd(1e-2)}, bo.adam(1e-2)),
  'reads the value': lambda: optax.chain(optax.polyak_sgd(1.0), bo.sgd(0.1)),
}


@pytest.mark.parametrize('name', CHAINS)
def test_step_of_any_transformation(name):
  tx, p = CHAINS[name](), params()
  extra = {'value': 1.0} if name in ('reads the value', 'recipe', 'plain', 'clipped') else {}
  state, step, update = tx.init(p), by_step(tx, 'xla'), by_update(tx)
  for g in gradients(3):
    expected = update(p, state, g, **({} if name == 'plain' else extra))
    found = step(p, state, g, **extra)
    assert_close(found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    p, state = expected


def returns(call, arrays, size):
  """Whether a custom call of a program returns so many flat float32 arrays."""
  return call.split(' = ')[1].startswith(f'({", ".join([f"f32[{size}]{{0}}"] * arrays)}) custom-call')


def test_a_chain_is_read_from_its_closure():
  """Where a later optax writes chains in another way this fails, and their steps are no longer one pass."""
  recipe = bo.adam(1e-2)
  before, last = links_of(optax.chain(optax.clip(1.0), recipe).update)
  assert callable(before)
  assert last is recipe.update
  for other in (optax.adam(1.0).update, recipe.update, optax.masked(recipe, True).update, lambda *_: None):
    assert recipe.update not in links_of(other)


@pytest.mark.skipif(bool(native.available()), reason=native.available())
def test_a_chain_that_ends_with_a_recipe_is_one_pass():
  tx, p = optax.chain(optax.clip_by_global_norm(1.0), bo.adabelief(1e-2)), jnp.ones(native.LARGE)
  step = jax.jit(lambda *args: bo.step(tx, *args), donate_argnums=(0, 1))
  (call,) = calls(step.lower(p, tx.init(p), p).compile())
  assert returns(call, 3, p.size)  # p, mu and nu


# Wrappers that know of updates alone.

HANDING_ON = {
  'injected': lambda: optax.inject_hyperparams(bo.adabelief)(1e-2),
  'masked': lambda: optax.masked(bo.adabelief(1e-2), {'w': True, 'b': True}),
  'partition': lambda: optax.partition({'a': bo.adabelief(1e-2), 'b': bo.adamw(1e-2)}, {'w': 'a', 'b': 'b'}),
  'by path': lambda: bo.by_path({'b': bo.adamw(1e-2)}, bo.adabelief(1e-2)),
  'in a chain': lambda: optax.chain(optax.scale(2.0), bo.by_path({'b': bo.adamw(1e-2)}, bo.adabelief(1e-2))),
  'injected by path': lambda: bo.by_path({}, optax.inject_hyperparams(bo.adabelief)(1e-2)),
  'measured': lambda: bo.by_path({'b': bo.diagnostics.measure(bo.adabelief(1e-2))}, bo.adabelief(1e-2)),
}


@pytest.mark.parametrize('mode', WAYS)
@pytest.mark.parametrize('name', HANDING_ON)
def test_a_recipe_inside_of_a_wrapper_is_one_pass_in_place(name, mode):
  tx, shapes = HANDING_ON[name](), {name: jax.ShapeDtypeStruct((1 << 17,), 'f4') for name in 'wb'}
  state = jax.eval_shape(tx.init, shapes)

  def step(p, s, g):
    with bo.execution.use(mode):
      return bo.step(tx, p, s, g)

  compiled = jax.jit(step, donate_argnums=(0, 1)).lower(shapes, state, shapes).compile()
  assert copies(compiled.as_text()) == []
  donated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((shapes, state)))
  assert compiled.memory_analysis().alias_size_in_bytes == donated
  assert len(calls(compiled)) == (2 if mode == 'native' else 0)
  for call in calls(compiled):
    assert returns(call, 3, 1 << 17)  # p, mu and nu
  flops = lambda program: program.cost_analysis()['flops']
  if mode == 'xla':  # the update, which nothing asks for, is not computed
    assert flops(compiled) == flops(by_update(tx, mode, donate_argnums=(0, 1)).lower(shapes, state, shapes).compile())


@pytest.mark.parametrize('mode', WAYS)
@pytest.mark.parametrize('name', HANDING_ON)
def test_a_step_inside_of_a_wrapper_has_the_same_numbers(name, mode):
  tx, p = HANDING_ON[name](), {'w': params()['w'], 'b': params()['b']}
  state, step, update = tx.init(p), by_step(tx, mode), by_update(tx)
  for g in gradients(3):
    g = {'w': g['w'], 'b': None}
    p_update, state_update = jax.jit(lambda p, s, g: tx.update(g, s, p))(p, state, g)
    found, after = step(p, state, g)
    assert found['b'] is p['b'] or bool((found['b'] == p['b']).all())
    assert_close(found['w'], p['w'] + p_update['w'])
    assert_close(after, state_update)
    g = {'w': g['w'], 'b': p['b'] * 0.1}
    expected = update(p, state, g)
    assert_close(step(p, state, g), expected)
    p, state = expected


def test_a_wrapper_that_reads_updates_gets_them():
  """It keeps the norm of what it hands on."""
  inner = bo.adabelief(1e-2)

  def update(u, state, params=None):
    u, after = inner.update(u, state[0], params)
    return u, (after, optax.tree.norm(u))

  tx = optax.GradientTransformation(lambda p: (inner.init(p), jnp.zeros([])), update)
  p, (g,) = params(), gradients(1)
  found, (_, norm) = by_step(tx)(p, tx.init(p), g)
  u, _ = inner.update(g, inner.init(p), p)
  assert_close(found, optax.apply_updates(p, u))
  assert_close(norm, optax.tree.norm(u))
  assert float(norm) > 0


@pytest.mark.parametrize('change', [lambda u: u * 2, lambda u: -u, jnp.zeros_like], ids=['scaled', 'turned', 'lost'])
def test_a_wrapper_that_changes_updates_has_its_way(change):
  """In one array; the others are handed on."""
  inner = bo.adabelief(1e-2)

  def update(u, state, params=None):
    u, state = inner.update(u, state, params)
    return {**u, 'w': change(u['w'])}, state

  tx = optax.GradientTransformation(inner.init, update)
  p, (g,) = params(), gradients(1)
  assert_close(by_step(tx)(p, tx.init(p), g), by_update(optax.with_extra_args_support(tx))(p, tx.init(p), g))


def test_a_wrapper_that_moves_other_parameters():
  """What a recipe makes of parameters of its own is not taken for those of the step."""
  inner = bo.adabelief(1e-2, weight_decay=0.1)
  update = lambda u, state, params=None: inner.update(u, state, jax.tree.map(lambda x: 3 * x, params))
  tx = optax.GradientTransformation(inner.init, update)
  p, (g,) = params(), gradients(1)
  assert_close(by_step(tx)(p, tx.init(p), g), by_update(optax.with_extra_args_support(tx))(p, tx.init(p), g))


# In training loops.


def test_in_a_train_state():
  train_state = pytest.importorskip('flax.training.train_state')

  class TrainState(train_state.TrainState):
    def apply_gradients(self, *, grads, **changes):
      params, opt_state = bo.step(self.tx, self.params, self.opt_state, grads)
      return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **changes)

  tx = optax.chain(optax.clip_by_global_norm(1.0), bo.adabelief(1e-2))
  make = lambda cls: cls.create(apply_fn=None, params=params(), tx=tx)
  step = jax.jit(lambda state, g: state.apply_gradients(grads=g))
  ours, theirs = make(TrainState), make(train_state.TrainState)
  for g in gradients(3):
    ours, theirs = step(ours, g), step(theirs, g)
  assert_close((ours.params, ours.opt_state, ours.step), (theirs.params, theirs.opt_state, theirs.step))


def test_in_an_nnx_optimizer():
  nnx = pytest.importorskip('flax.nnx')
  as_pure = nnx.as_pure if hasattr(nnx, 'as_pure') else nnx.pure  # its older name

  class Optimizer(nnx.Optimizer):
    def update(self, model, grads, **extra):
      params, state, grads = (as_pure(x) for x in (nnx.state(model, self.wrt), self.opt_state, grads))
      params, state = bo.step(self.tx, params, state, grads, **extra)
      nnx.update(model, params)
      nnx.update(self.opt_state, nnx.state(state))
      self.step[...] += 1

  def trained(cls):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = cls(model, optax.chain(optax.clip(1.0), bo.adabelief(1e-2)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
      grads = nnx.grad(lambda model: (model(jnp.ones((4, 3))) ** 2).sum())(model)
      optimizer.update(model, grads)

    for _ in range(3):
      step(model, optimizer)
    return nnx.to_pure_dict(nnx.state(model)), int(optimizer.step[...])

  ours, theirs = trained(Optimizer), trained(nnx.Optimizer)
  assert ours[1] == theirs[1] == 3
  assert_close(ours[0], theirs[0])
