"""The step engine: one pure rule per array, declared writes, and caches that keep nothing of the user alive."""

import dataclasses
import functools
import gc
import inspect
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import STEPS, assert_equal, compilations
from jax.experimental import pallas as pl
from registry import ROWS

import belief_optax as bo
from belief_optax import presets, stores
from belief_optax.core import step as engine
from belief_optax.core.step import Rule, tick

ELEMENTWISE = [row for row in ROWS if row.elementwise and not row.coded]
STORES = {'float32': 'float32', 'bfloat16': 'bfloat16', 'packed16': stores.Packed16(min_size=0)}


def everywhere(params):
  return jax.tree.map(lambda _: True, params)


# The rule is a pure function of one array.


def rule_of(tx, state, p):
  """The rule of a recipe on a parameter at a step, and the scalars that vary."""
  lines = tuple(line.at(state.count, eager=False) for line in tx.lines)
  start = tick(lines, tuple(route.bare() for route in tx.routes), state.count, state.ages)
  (active,) = tx.update._active(jax.tree.structure(p), [p])
  return dataclasses.replace(start.rule, active=active, update_dtype=jnp.dtype('float32')), start.scalars, start.step


def in_blocks(rule, g, p, kept, scalars, t, block=64):
  """The same rule as the body of a kernel, which sees a block of a flat array and the index at which it begins."""
  keys = sorted(kept)
  arrays = [x for x in (g, p, *(kept[key] for key in keys)) if x is not None]
  ks = [jnp.reshape(k, 1) for k in (*scalars, t)]

  def kernel(*refs):
    ins, rest = refs[: len(arrays)], refs[len(arrays) :]
    g, *old = (ref[...] for ref in ins)
    p = old.pop(0) if rule.reads_params else None
    *varying, t = (ref[0] for ref in rest[: len(ks)])
    origin = (pl.program_id(0) * block).astype(jnp.uint32)
    u, after = rule(g, p, dict(zip(keys, old, strict=True)), varying, t, origin)
    for ref, value in zip(rest[len(ks) :], (u, *(after[key] for key in keys)), strict=True):
      ref[...] = value

  one, scalar = pl.BlockSpec((block,), lambda i: (i,)), pl.BlockSpec((1,), lambda _: (0,))
  like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (g, *(kept[key] for key in keys))]
  specs = {'in_specs': [one] * len(arrays) + [scalar] * len(ks), 'out_specs': [one] * len(like)}
  call = pl.pallas_call(kernel, grid=(g.size // block,), out_shape=like, interpret=True, **specs)
  u, *after = call(*arrays, *ks)
  return u, dict(zip(keys, after, strict=True))


@functools.cache
def programs(rule):
  """The rule as XLA's path and as a kernel, without fused multiply-adds, which XLA:CPU places where it likes."""
  compiled = functools.partial(jax.jit, compiler_options={'xla_cpu_max_isa': 'SSE4_2'})
  return compiled(rule), compiled(functools.partial(in_blocks, rule))


def reassociates(row):
  """Whether XLA may multiply an array by the product of two scalars, where the rule multiplies by each."""
  kinds = {line.name for line in row.make().lines}
  return bool(kinds & {'nesterov', 'bias_correct_step', 'heavy_ball'}) or row.options.get('residual') == 'debiased'


@pytest.mark.parametrize('store', STORES)
@pytest.mark.parametrize('row', ELEMENTWISE, ids=str)
def test_the_rule_is_the_body_of_a_kernel(row, store):
  """Bit for bit, in blocks that know where they begin; nothing traced is captured."""
  if store != 'float32' and row.kept:
    pytest.skip('the slot has a dtype of its own')
  tx = bo.compose(row.make(), store=STORES[store])
  p = jnp.asarray(np.random.default_rng(1).normal(size=256), jnp.float32)
  state, draw = tx.init(p), np.random.default_rng(2).normal
  for _ in range(STEPS):
    g = jnp.asarray(draw(size=256), jnp.float32)
    rule, scalars, step = rule_of(tx, state, p)
    arguments = g, p if rule.reads_params else None, state.slots, scalars, step.astype(jnp.uint32)
    (u, after), (in_kernel, kept) = (program(*arguments) for program in programs(rule))
    if reassociates(row):
      np.testing.assert_allclose(in_kernel, u, 3e-7, 3e-7 * float(jnp.abs(u).max()))
    else:
      assert_equal(in_kernel, u)
    assert_equal(kept, after)
    state = state._replace(count=step, slots=after)


def test_a_rule_is_a_value_that_holds_no_array():
  p = jnp.ones(3)
  one, other = (rule_of(tx, tx.init(p), p)[0] for tx in (bo.adam(1e-3), bo.adam(1e-3)))
  assert one == other
  assert hash(one) == hash(other)
  assert pickle.loads(pickle.dumps(one.lines)) == one.lines
  tx = bo.adamw(optax.cosine_decay_schedule(1e-3, 10), jnp.float32(0.9), mask=everywhere)
  rule, scalars, _ = rule_of(tx, tx.init(p), p)
  assert not [x for x in jax.tree.leaves(rule.lines) if isinstance(x, jax.Array)]
  assert not [f for line in rule.lines for f in line.fields().values() if callable(f)]
  assert len(scalars) >= 2  # b1 and the learning rate are data


def test_an_array_that_is_read_in_step_is_an_error_that_says_where_it_is():
  class ReadsInStep(bo.Line):
    """u <- c u, with c read from the line"""

    factor: float = bo.hyper(default=1.0, allowed=bo.ranges.FINITE)

    def step(self, x, k):
      return x.redirect(x.u * self.factor)

  tx = bo.piece(ReadsInStep)
  p = jnp.ones(3)
  np.testing.assert_array_equal(tx(2.0).update(p, tx(2.0).init(p))[0], 2 * p)
  with pytest.raises(TypeError, match='factor can vary from step to step: return it from `scalars`'):
    tx(jnp.float32(2.0)).update(p, tx(2.0).init(p))


def test_lines_are_pytrees_whose_arrays_are_leaves():
  rate = jnp.float32(0.1)
  (line,) = bo.scale_by_learning_rate(rate).lines
  leaves, structure = jax.tree.flatten(line)
  assert leaves == [rate]
  assert structure.unflatten(leaves) == line
  assert jax.tree.leaves(bo.scale_by_learning_rate(0.1).lines) == []


def test_a_piece_has_the_signature_of_its_class():
  from belief_optax.pieces.moments import FirstMoment

  assert inspect.signature(bo.first_moment).parameters == inspect.signature(FirstMoment).parameters
  assert bo.first_moment.__name__ == FirstMoment().name == 'first_moment'
  assert pickle.loads(pickle.dumps(FirstMoment(0.5))) == FirstMoment(0.5)


# What a line writes.


class BoundNu(bo.Line):
  """nu <- max(nu, floor), in place: another line's slot."""

  floor: float = bo.hyper(default=1.0, allowed=bo.ranges.NONNEGATIVE)

  needs = ('nu_hat', 'nu')
  writes = ('nu',)

  def scalars(self, now):
    return now(self.floor)

  def step(self, x, k):
    return x.keep(nu=jnp.maximum(x.slots['nu'], k)).set(nu_hat='nu')


bound_nu = bo.piece(BoundNu)
WRITERS = {
  'ranger': lambda: presets.ranger_adabelief.ranger(eps=1e-2, use_gc=False),
  'ranger-decayed': lambda: presets.ranger_adabelief.ranger(eps=1e-2, use_gc=False, weight_decay=0.1),
  'custom': lambda: bo.compose(
    bo.first_moment(), bo.second_moment(), bound_nu(0.25), bo.precondition(), bo.scale_by_learning_rate(1e-2)
  ),
}


def after_steps(tx, steps=10, shape=(64, 64)):
  p = jnp.zeros(shape)
  state = tx.init(p)
  for _ in range(steps):
    u, state = tx.update(jnp.ones(shape), state, p)
  return u, bo.decode_state(state, tx)


@pytest.mark.parametrize('store', ['bfloat16', 'packed16', 'int8'])
@pytest.mark.parametrize('name', WRITERS)
def test_a_slot_that_another_line_writes_is_rounded_after_it(name, store):
  """Before, the code was rounded after its owner, and what was written later was lost: ranger's nu was .0059."""
  u, state = after_steps(WRITERS[name]())
  rounded_u, rounded = after_steps(bo.compose(WRITERS[name](), store=store))
  tolerance = {'bfloat16': 0.01, 'packed16': 0.01, 'int8': 0.08}[store]
  for slot, expected in state.slots.items():
    mean = float(rounded.slots[slot].mean())
    assert mean == pytest.approx(float(expected.mean()), rel=tolerance), slot
  assert float(rounded_u.mean()) == pytest.approx(float(u.mean()), rel=tolerance)


def test_ranger_stores_its_eps():
  assert float(after_steps(WRITERS['ranger']())[1].slots['nu'].mean()) == pytest.approx(0.0558, rel=2e-3)


def test_an_undeclared_write_is_an_error():
  class Quiet(bo.Line):
    """nu <- 2 nu, and says nothing"""

    needs = ('nu_hat',)

    def step(self, x, k):
      return x.keep(nu=2 * x.slots['nu'])

  tx = bo.compose(bo.second_moment(), bo.piece(Quiet)())
  with pytest.raises(TypeError, match=r"quiet changes the slot 'nu' that it does not own: declare writes = \('nu',\)"):
    tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_a_write_to_a_slot_that_nobody_owns_is_an_error_at_init():
  tx = bo.compose(bo.first_moment(), bound_nu(0.0))
  with pytest.raises(ValueError, match=r'bound_nu.* writes nu, but no piece of the composition owns such a slot'):
    tx.init(jnp.ones(3))


# Every algorithm and preset under every store.


def trained(tx, store, steps=12):
  """The updates of a few steps of gradients whose scales differ, and the decoded state."""
  tx = bo.compose(tx, store=store)
  draw = np.random.default_rng(3)
  scale = np.exp2(draw.uniform(-3, 0, size=(32, 32)))
  p = jnp.asarray(draw.normal(size=(32, 32)), jnp.float32)
  state, updates = tx.init(p), []
  for _ in range(steps):
    u, state = tx.update(jnp.asarray((draw.normal(size=(32, 32)) + 0.5) * scale, jnp.float32), state, p)
    updates.append(u)
  return np.asarray(updates), bo.decode_state(state, tx).slots


@functools.cache
def trained_in_float32(row):
  return trained(row.make(), 'float32')


# The rms error of a step, relative to that in float32. One rounding of bfloat16 is 2^-9 on average, of packed16's mean
# 2^-8 and of its second moment 2^-10; int8 has 10 codes per factor of 2, and they add up over an average's life.
CLOSE = {'bfloat16': 0.02, 'packed16': 0.02, 'int8': 0.15}


@pytest.mark.parametrize('store', CLOSE)
@pytest.mark.parametrize('row', [row for row in ROWS if not row.kept], ids=str)
def test_every_store_takes_the_steps_of_float32(row, store):
  coded = {'packed16': stores.Packed16(min_size=0), 'int8': stores.Int8(min_size=0)}.get(store, store)
  (updates, slots), (expected, plain) = trained(row.make(), coded), trained_in_float32(row)
  within = np.full(expected[-1].shape, True)
  scales = {slot.name: slot.scale for line in row.make().lines for slot in line.slots}
  # int8 shortens a direction that is longer than its limit: a tenth of those of the debiased residual.
  if store == 'int8' and 'nu' in scales and scales.get('mu') == 'nu':
    within = np.abs(plain['mu']) < 7 * np.sqrt(plain['nu'])
    assert within.mean() > 0.85
  far = lambda x, y: np.sqrt(np.mean((x - y)[within] ** 2) / max(np.mean(y[within] ** 2), 1e-30))
  assert far(updates[-1], expected[-1]) < CLOSE[store]
  for name, slot in plain.items():
    assert far(slots[name], slot) < CLOSE[store], name


# Nothing is kept alive.


class Schedule:
  """A schedule that closes over an array."""

  def __init__(self):
    self.rate = jnp.full((), 0.1)
    self.table = jnp.zeros(1000)

  def __call__(self, count):
    return self.rate + 0 * self.table[0]


class Mask:
  """A mask that closes over parameters."""

  def __init__(self, params):
    self.params = params

  def __call__(self, params):
    return jax.tree.map(lambda x: x.ndim > 1, self.params)


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('store', ['float32', 'packed16'])
def test_a_dead_optimizer_leaves_no_schedule_no_mask_and_no_parameters(jit, store):
  params = {'w': jnp.ones((4, 4)), 'b': jnp.ones(4)}
  schedule, mask = Schedule(), Mask({'w': jnp.ones((4, 4)), 'b': jnp.ones(4)})
  kept = stores.Packed16(0, Mask(mask.params)) if store == 'packed16' else store
  watched = [weakref.ref(x) for x in (schedule, schedule.table, mask, mask.params['w'])]
  tx = bo.adamw(schedule, mask=mask, store=kept)
  update = jax.jit(tx.update) if jit else tx.update
  update(params, tx.init(params), params)
  del tx, update, schedule, mask, kept
  gc.collect()
  assert [ref() for ref in watched] == [None] * len(watched)


def test_a_traced_schedule_does_not_leak():
  def step(rate):
    tx = bo.sgd(lambda _: rate)
    return tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0]

  with jax.checking_leaks():
    np.testing.assert_allclose(jax.jit(step)(0.1), -0.1)


def test_a_sweep_compiles_once_and_remembers_a_bounded_number():
  """Learning rates and weight decays only scale: eagerly they are data. Of other numbers the last ones are kept."""
  p = jnp.ones(5)
  step = lambda *args, **kwargs: (lambda tx: tx.update(p, tx.init(p), p)[0])(bo.adamw(*args, **kwargs))
  step(1e-3, weight_decay=0.1)
  with compilations() as compiled:
    for i in range(20):
      u = step(2e-3 + 1e-5 * i, weight_decay=0.1 + 1e-3 * i)
      np.testing.assert_allclose(u, -(2e-3 + 1e-5 * i) * (1 + 0.1 + 1e-3 * i), 1e-6)
  assert not compiled
  assert engine._compiled.cache_info().maxsize == engine._jitted.cache_info().maxsize == engine.COMPILED


@dataclasses.dataclass
class Warm:
  """A schedule as people write it: it has __eq__, so Python takes its __hash__ away."""

  rate: float = 0.1

  def __call__(self, count):
    return self.rate


@dataclasses.dataclass(frozen=True)
class FrozenWithArray:
  """One whose hash fails on what it holds."""

  rate: jax.Array = dataclasses.field(default_factory=lambda: jnp.full((), 0.1))

  def __call__(self, count):
    return self.rate


@pytest.mark.parametrize('make', [Warm, FrozenWithArray])
@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_schedules_that_cannot_be_hashed_are_themselves(make, jit):
  schedule = make()
  tx, p = bo.sgd(schedule), jnp.ones(3)
  update = jax.jit(tx.update) if jit else tx.update
  np.testing.assert_allclose(update(p, tx.init(p))[0], -0.1 * p)
  assert tx == bo.sgd(schedule) != bo.sgd(make())
  hash(tx)


def test_an_eager_step_sees_what_a_schedule_and_a_mask_say_now():
  """optax calls them at every step; a cache that is keyed by the object would not see that it changed."""
  schedule, p = Warm(), jnp.ones(2)
  tx = bo.sgd(schedule)
  state = tx.init(p)
  first, state = tx.update(p, state)
  schedule.rate = 0.01
  second, state = tx.update(p, state)
  np.testing.assert_allclose([first[0], second[0]], [-0.1, -0.01], 1e-6)
  decays = [True]
  tx = bo.adamw(1.0, weight_decay=1.0, mask=lambda _: decays[0])
  state = tx.init(p)
  on = tx.update(p, state, p)[0]
  decays[0] = False
  off = tx.update(p, state, p)[0]
  np.testing.assert_allclose(off - on, 1.0, 1e-6)


def test_an_eager_schedule_may_be_plain_python():
  tx, p = bo.sgd(lambda count: 1e-3 if int(count) < 1 else 1e-4), jnp.ones(2)
  state = tx.init(p)
  first, state = tx.update(p, state)
  second, _ = tx.update(p, state)
  np.testing.assert_allclose([first[0], second[0]], [-1e-3, -1e-4], 1e-6)


def test_a_rule_needs_no_more_than_its_arguments():
  assert list(inspect.signature(Rule.__call__).parameters)[1:] == ['g', 'p', 'kept', 'scalars', 't', 'origin']
