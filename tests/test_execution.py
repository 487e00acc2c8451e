"""The machine loop: the numbers of XLA under every transformation and on any thread, and XLA where it cannot serve."""

import contextlib
import dataclasses
import functools
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_close, assert_equal, gradients, params
from helpers import precision, x64
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ROWS
from test_engine import reassociates
from test_hlo import collectives

import belief_optax as bo
from belief_optax import stores
from belief_optax.core.step import calls as step_calls
from belief_optax.core.watching import watching
from belief_optax.execution import ir, native, primitive

pytestmark = pytest.mark.skipif(bool(native.available()), reason=native.available())
XLA_ALONE = ('adam_atan2', 'padam')  # an angle and a power have no instruction
SERVED = [row for row in ROWS if row.elementwise and row.variant not in ('int8', 'int4') and str(row) not in XLA_ALONE]
PACKED = stores.Packed16(min_size=0)


def step_of(tx, mode, **options):
  """The jitted step, traced with a way of running it."""

  def step(*args):
    with bo.execution.use(mode):
      return tx.step(*args)

  return jax.jit(step, **options)


def calls(compiled):
  """The custom calls of ours in a program."""
  return [line for line in compiled.as_text().splitlines() if 'custom_call_target="belief_optax.' in line]


def agree(tx, p, grads, same=assert_equal):
  """Steps by both ways from the same state; returns the state."""
  state, by_xla, by_loop = tx.init(p), step_of(tx, 'xla'), step_of(tx, 'native')
  for g in grads:
    expected = by_xla(p, state, g)
    same(by_loop(p, state, g), expected)
    p, state = expected
  return p, state


def last_digit(a, b):
  """Equal but for a fused multiply-add: in some shapes XLA 0.12 makes none of its last elements."""
  assert_close(a, b, 2e-7, 0.0)


def waves(p, i=0):
  """Gradients without a random number: no two elements are equal."""
  return jax.tree.map(lambda x: jnp.sin(3 + i + jnp.arange(x.size, dtype=x.dtype) * 0.7).reshape(x.shape), p)


# The numbers.


@pytest.mark.parametrize('row', SERVED, ids=str)
def test_the_loop_takes_the_steps_of_xla(row):
  """Bit for bit, but where XLA multiplies by the product of two scalars and the rule by each of them."""
  close = lambda a, b: assert_close(a, b, 1e-6, 1e-6)
  agree(row.make(), params(), gradients(), close if reassociates(row) else assert_equal)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float64'])
@pytest.mark.parametrize('store', ['float32', 'bfloat16', PACKED], ids=['float32', 'bfloat16', 'packed16'])
def test_dtypes_of_parameters(dtype, store):
  with precision(np.float64 if dtype == 'float64' else np.float32):
    agree(bo.adabelief(1e-2, weight_decay=0.1, store=store), params(dtype), gradients(3, dtype))


@pytest.mark.parametrize('method', ['stochastic', 'compensated', 'split'])
def test_rounded_parameters(method):
  tx = bo.compose(bo.adamw(1e-3), bo.round_updates(method))
  agree(tx, params('bfloat16'), gradients(3, 'bfloat16'))


def test_leaves_of_every_kind():
  """Scalars, empty arrays, four axes, codes and, beside them, what is too small for codes and has a trailing axis."""
  p = {'scalar': jnp.ones(()), 'empty': jnp.ones((0, 3)), 'conv': jnp.ones((2, 3, 4, 5)), 'large': jnp.ones((64, 65))}
  for store in ('float32', stores.Packed16(min_size=100)):
    agree(bo.adabelief(1e-2, store=store), p, [waves(p, i) for i in range(2)], last_digit)


def test_masks_choose_the_loop_of_each_array():
  tx = bo.adamw(1e-2, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
  agree(tx, params(), gradients(3))


@pytest.mark.parametrize('size', [native.LARGE - 1, native.LARGE, 3 * native.LARGE + 5])
@pytest.mark.parametrize('store', ['float32', PACKED], ids=['float32', 'packed16'])
def test_large_arrays_are_cut_into_blocks(size, store):
  """The dither counts elements from the beginning of the array, not of a block."""
  p = jnp.linspace(-1.0, 1.0, size)
  agree(bo.adabelief(1e-2, store=store), p, [waves(p, i) for i in range(3)])


def test_many_small_arrays_are_one_job_of_the_pool():
  p = [jnp.full((100, 100), 0.5 + i) for i in range(native.SHARED)]
  assert sum(x.size for x in p) > native.LARGE > p[0].size
  agree(bo.adabelief(1e-2), p, [waves(p)])


# The instructions: each alone, on numbers that make a difference.

FLOATS = np.array(
  [0.0, -0.0, 1.0, -1.5, 2.5, 1e-30, 1e-42, -1e-42, 3e38, -3e38, np.inf, -np.inf, np.nan, 0.3, 4294967040.0, -7e9],
  np.float32,
)
WORDS = np.array([0, 1, 2, 15, 16, 31, 32, 33, 255, 2**15, 2**16 - 1, 2**31, 2**31 + 5, 2**32 - 1], np.uint32)
FLOAT_RULES = {
  'arithmetic': lambda x, y: [x + y, x - y, x * y, x / y, -x, x + 0.0, 1.0 * x, x - 0.0],
  'orders': lambda x, y: [jnp.where(c, x, y) for c in (x > y, x >= y, x < y, x <= y, x == y, x != y)],
  'extrema': lambda x, y: [jnp.isnan(jnp.maximum(x, y)), jnp.maximum(x, 1.0), jnp.minimum(2.0, x), jnp.clip(x, -1, 1)],
  'functions': lambda x, _: [jnp.sqrt(x), jnp.abs(x), jnp.floor(x), jnp.ceil(x), jnp.square(x), x**3, jnp.sign(x)],
  'tests': lambda x, y: [jnp.isfinite(x), ~(x > y) & (x == x), (x > y) | (y > 1), (x > y) ^ (y > 1)],
  'conversions': lambda x, _: [
    x.astype(t) for t in ('bfloat16', 'float16', 'int32', 'uint32', 'uint16', 'int8', 'bool')
  ],
  'roundings': lambda x, _: [x.astype('bfloat16').astype('float32') + 1, (x.astype('float16') * 3).astype('float32')],
  'bits': lambda x, _: [jax.lax.bitcast_convert_type(x, jnp.uint32), jax.lax.bitcast_convert_type(x, jnp.int32) >> 3],
}
WORD_RULES = {
  'arithmetic': lambda x, y: [x + y, x - y, x * y, -x, ~x, x & y, x | y, x ^ y, jnp.maximum(x, y), jnp.minimum(x, y)],
  'shifts': lambda x, y: [x << 3, x >> 31, x << y, x >> y, x.astype(jnp.int32) >> y.astype(jnp.int32)],
  'signed': lambda x, y: [f(x.astype(jnp.int32), y.astype(jnp.int32)) for f in (jnp.maximum, jnp.minimum, jnp.less)],
  'orders': lambda x, y: [x > y, x >= y, x < y, x <= y, x == y, x != y],
  'conversions': lambda x, _: [
    x.astype(t) for t in ('float32', 'float16', 'bfloat16', 'int32', 'uint16', 'int8', 'uint8', 'bool')
  ],
  'abs': lambda x, _: [jnp.abs(x), jnp.abs(x.astype(jnp.int32)), jnp.sign(x.astype(jnp.int32))],
}


def looped(rule, *arrays):
  """A function of flat arrays as a machine loop."""
  operands = tuple(ir.Operand(x.dtype) for x in map(jnp.asarray, arrays))
  loop = native.write(rule, operands, (), 1)
  out = [jax.ShapeDtypeStruct(arrays[0].shape, x.dtype) for x in loop.results]
  return jax.jit(jax.ffi.ffi_call(native.compiled(loop), out))(*arrays)


@pytest.mark.parametrize(
  ('rule', 'numbers'),
  [*((r, FLOATS) for r in FLOAT_RULES.values()), *((r, WORDS) for r in WORD_RULES.values())],
  ids=[*(f'float-{n}' for n in FLOAT_RULES), *(f'word-{n}' for n in WORD_RULES)],
)
def test_instructions(rule, numbers):
  x, y = (a.ravel() for a in np.meshgrid(numbers, numbers))
  for i, (one, other) in enumerate(zip(looped(rule, x, y), jax.jit(rule)(x, y), strict=True)):
    assert one.dtype == other.dtype
    wide = jnp.promote_types(one.dtype, jnp.float32) if jnp.issubdtype(one.dtype, jnp.inexact) else one.dtype
    np.testing.assert_array_equal(one.astype(wide), other.astype(wide), err_msg=f'result {i}')


def test_a_maximum_keeps_a_nan():
  """XLA:CPU's own may lose it."""
  x, y = (a.ravel() for a in np.meshgrid(FLOATS, FLOATS))
  for one in looped(lambda x, y: [jnp.maximum(x, y), jnp.minimum(x, y)], x, y):
    np.testing.assert_array_equal(np.isnan(one), np.isnan(x) | np.isnan(y))


@pytest.mark.parametrize(
  ('rule', 'why'),
  [
    (lambda x: [x / x.sum()], 'reduce_sum'),
    (lambda x: [jnp.exp(x)], 'exp'),
    (lambda x: [x[::-1]], 'rev'),
    (lambda x: [jnp.concatenate([x[1:], x[:1]])], 'slice'),
    (lambda x: [jnp.stack([x, x], -1).reshape(2, -1)[0]], 'reshape'),
    (lambda x: [x.astype(jnp.complex64)], 'complex64'),
    (lambda x: [x[:1]], 'not elementwise'),
    (lambda x: [x * np.arange(ir.BLOCK, dtype=np.float32)], 'holds an array'),
  ],
)
def test_what_is_not_elementwise_has_no_loop(rule, why):
  with pytest.raises(ir.Unserved, match=why):
    ir.loop(rule, (ir.Operand(np.dtype(np.float32)),), ())


def test_a_rule_that_is_elementwise_on_vectors_alone():
  tx = bo.compose(bo.centralize(), bo.first_moment(0.9))
  parts = bo.execution.explain(tx, {'w': jnp.ones((3, 4)), 'b': jnp.ones(3)}).parts
  assert {part.elements: part.native for part in parts} == {12: False, 3: True}


@pytest.mark.parametrize('store', ['float32', 'bfloat16', PACKED], ids=['float32', 'bfloat16', 'packed16'])
def test_the_loop_is_one_on_vectors(store):
  tx, p = bo.adabelief(1e-3, weight_decay=0.1, store=store), jnp.ones(8)
  found = []
  with watching(lambda plan, arrays: found.append(step_calls(plan, arrays)) or arrays):
    jax.eval_shape(lambda p: tx.step(p, tx.init(p), p), p)
  ((call,),) = found
  text = str(native.optimized(primitive.loop_of(primitive.signature_of(call)).text))
  body = text[text.index('@run') :].split('\n}')[0]
  (vector,) = [block for block in body.split('\n\n') if block.startswith('vector.body')]
  arithmetic = [
    line for line in vector.splitlines() if any(f' {op} ' in line for op in ('fadd', 'fmul', 'fdiv', 'xor'))
  ]
  assert arithmetic
  assert all(' x ' in line for line in arithmetic)  # each is one of a vector


# One loop for many programs.


def test_shapes_share_a_loop_and_small_arrays_a_call():
  tx = bo.adabelief(1e-3)
  p = [jnp.ones(1 + i % 9) for i in range(native.SHARED - 1)] + [jnp.ones((2, 3))]
  (call,) = calls(step_of(tx, 'native').lower(p, tx.init(p), p).compile())
  known = len(native._kept)
  q = [jnp.ones((i, 3, 2)) for i in range(2, 6)]
  (other,) = calls(step_of(tx, 'native').lower(q, tx.init(q), q).compile())
  target = lambda line: line.split('custom_call_target="')[1].split('"')[0]
  assert target(call) == target(other)
  assert len(native._kept) == known


def test_a_call_has_a_limited_number_of_arrays():
  """One call with hundreds of arrays takes XLA seconds to compile."""
  tx, p = bo.sgd(0.1, momentum=0.9), [jnp.ones(3)] * (2 * native.SHARED + 1)
  assert len(calls(step_of(tx, 'native').lower(p, tx.init(p), p).compile())) == 3


def test_large_arrays_have_calls_of_their_own():
  tx, p = bo.adabelief(1e-3), [jnp.ones(native.LARGE), jnp.ones(native.LARGE), jnp.ones(3), jnp.ones(4)]
  assert len(calls(step_of(tx, 'native').lower(p, tx.init(p), p).compile())) == 3


def test_an_update_follows_from_what_is_kept():
  """The loop does not write updates: XLA makes them where they are added."""
  tx, p = bo.adabelief(1e-3), jnp.ones(native.LARGE)

  def step(p, state, g):
    with bo.execution.use('native'):
      u, state = tx.update(g, state, p)
    return optax.apply_updates(p, u), state

  compiled = jax.jit(step, donate_argnums=(0, 1)).lower(p, tx.init(p), p).compile()
  (call,) = calls(compiled)
  assert call.split(' = ')[1].startswith(f'(f32[{p.size}]{{0}}, f32[{p.size}]{{0}}) custom-call')
  assert compiled.memory_analysis().temp_size_in_bytes < 4096


# Transformations.


@pytest.fixture(params=[pytest.param('update', marks=pytest.mark.full), 'step'])  # the contracts run updates
def once(request):
  """(transformation, parameters, state, gradients) -> one step by `update` or by `step`."""
  if request.param == 'step':
    return lambda tx, p, state, g: tx.step(p, state, g)

  def by_update(tx, p, state, g):
    u, state = tx.update(g, state, p)
    return optax.apply_updates(p, u), state

  return by_update


def both(function):
  """What a function returns by each way."""
  out = []
  for mode in ('native', 'xla'):
    with bo.execution.use(mode):
      out.append(function())
  return out


def test_vmap_over_rates(once):
  p, rates = jnp.linspace(0.1, 1.0, 5), jnp.array([0.1, 0.2, 0.4])

  def population():
    one = lambda rate: (lambda tx: once(tx, p, tx.init(p), p))(bo.adabelief(rate))
    return jax.jit(jax.vmap(one))(rates), jax.vmap(one)(rates)

  assert_close(*both(population))


def test_scan(once):
  tx, p = bo.adabelief(1e-2, store=PACKED), params()
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients())

  def scanned():
    body = lambda carry, g: (once(tx, *carry, g), None)
    return jax.jit(lambda: jax.lax.scan(body, (p, tx.init(p)), stacked)[0])()

  assert_equal(*both(scanned))


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_derivatives(once, jit):
  p = jnp.linspace(0.5, 1.0, 4)

  def loss(rate, q):
    tx = bo.adabelief(rate, weight_decay=0.1)
    state = tx.init(q)
    for _ in range(2):
      q, state = once(tx, q, state, q)
    return (q**2).sum()

  def derivative():
    f = jax.grad(loss, (0, 1))
    return (jax.jit(f) if jit else f)(0.1, p)

  assert_close(*both(derivative), 1e-5)


def test_remat_and_cond(once):
  tx, p = bo.adabelief(1e-2), params()

  def chosen():
    step = jax.checkpoint(lambda p, state, g: once(tx, p, state, g))
    return jax.jit(lambda on: jax.lax.cond(on, lambda: step(p, tx.init(p), p), lambda: (p, tx.init(p))))(True)

  assert_close(*both(chosen))


def test_without_jit():
  tx, p = bo.adabelief(1e-2), params()
  with jax.disable_jit():
    p1, _ = tx.step(p, tx.init(p), p)
  assert_close(p1, tx.step(p, tx.init(p), p)[0])


def test_other_platforms_and_exports_see_the_rule():
  tx, p = bo.adabelief(1e-2), params()
  step = step_of(tx, 'auto')
  lowered = step.trace(p, tx.init(p), p).lower(lowering_platforms=('tpu',))
  assert 'custom_call' not in lowered.as_text()
  assert 'custom_call' in step.lower(p, tx.init(p), p).as_text()
  assert 'custom_call' not in str(jax.export.export(step)(p, tx.init(p), p).mlir_module())


# fmt: off
ELEMENTWISE = {
  'abs', 'add', 'and', 'bitcast_convert', 'broadcast_in_dim', 'compare', 'constant', 'convert', 'divide',
  'exponential_minus_one', 'iota', 'maximum', 'minimum', 'multiply', 'negate', 'or', 'select', 'shift_left',
  'shift_right_logical', 'sqrt', 'subtract', 'xor',
}
# fmt: on


@pytest.mark.parametrize('store', ['float32', 'bfloat16', 'packed16', 'int8'])
@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('split', [False, True])
def test_a_step_is_one_elementwise_region_elsewhere(store, platform, split):
  """Nothing that an accelerator could not fuse stands between what is read and what is written: no barrier either."""
  tx = bo.adabelief(1e-2, weight_decay=0.1, store=store)
  tx = bo.compose(tx, bo.round_updates('split')) if split else tx
  p = {'w': jnp.zeros((128, 64), 'bfloat16' if split else 'float32')}
  text = jax.jit(tx.step).trace(p, tx.init(p), p).lower(lowering_platforms=(platform,)).as_text()
  assert set(re.findall(r'stablehlo\.(\w+)', text)) <= ELEMENTWISE


def test_the_cpu_has_a_barrier_behind_what_is_rounded():
  tx, p = bo.adabelief(1e-2, store='packed16'), {'w': jnp.zeros((128, 64))}
  with bo.execution.use('xla'):
    assert 'optimization_barrier' in jax.jit(tx.step).lower(p, tx.init(p), p).as_text()


def test_a_store_that_needs_its_shape_stays_with_xla():
  """A rule that cannot be traced on another shape is no error: codes of a user, relative to blocks of 256."""

  @dataclasses.dataclass(frozen=True)
  class Blocks(bo.stores.Store):
    def rounds(self, group, kept):
      return True

    def save(self, group, values, kept, dither):
      blocks = values[0].reshape(-1, 256)
      return ((blocks - blocks.mean(1, keepdims=True)).reshape(values[0].shape),)

  tx, p = bo.adam(1e-2, store={'mu': Blocks()}), jnp.linspace(-1, 1, 512)
  expected = by(tx, 'xla', p)
  assert_equal(by(tx, 'auto', p), expected)
  with pytest.raises(ValueError, match='cannot be traced on a block of another shape'):
    by(tx, 'native', p)


def test_one_line_alone_stays_with_xla():
  """It is one kernel there too, and fused with what stands before: optax's last product with the sum."""
  tx, p = bo.round_updates('split'), jnp.ones(512, jnp.bfloat16)
  assert 'one line alone' in str(bo.execution.explain(tx, p))
  lowered = jax.jit(tx.update).lower(p, tx.init(p), p).as_text()
  assert 'custom_call' not in lowered


def by(tx, mode, p):
  with bo.execution.use(mode):
    return jax.jit(lambda p, s: tx.update(p, s, p))(p, tx.init(p))


def test_a_shape_that_is_not_known_stays_with_xla():
  tx = bo.adabelief(1e-2)
  (n,) = jax.export.symbolic_shape('n')
  p = jax.ShapeDtypeStruct((n, 64), jnp.float32)
  state = jax.eval_shape(tx.init, p)
  assert jax.export.export(step_of(tx, 'auto'))(p, state, p).out_avals[0].shape == (n, 64)


# Donation.


def test_what_is_not_donated_is_left_alone(once):
  tx = bo.adabelief(1e-2)
  p = {'large': jnp.ones(native.LARGE), 'small': jnp.ones(5)}
  state = tx.init(p)
  before = jax.tree.map(np.array, (p, state))
  with bo.execution.use('native'):
    once(tx, p, state, waves(p))
    jax.jit(lambda *args: once(tx, *args))(p, state, waves(p))
  assert_equal((p, state), before)


# Devices.


def spread(kind, tree, specs):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(kind,))
  return mesh, jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), tree, specs)


SHAPES = {'rows': (16, 6), 'columns': (3, 40), 'vector': (8,), 'whole': (5,), 'scalar': ()}
SPECS = {'rows': P('data'), 'columns': P(None, 'data'), 'vector': P('data'), 'whole': P(), 'scalar': P()}


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('store', ['float32', PACKED], ids=['float32', 'packed16'])
def test_sharded_steps(kind, store, once):
  tx = bo.adabelief(1e-2, weight_decay=0.1, store=store)
  plain = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
  state = tx.init(plain)
  with bo.execution.use('xla'):
    expected = once(tx, plain, state, waves(plain))
    expected = once(tx, *expected, waves(plain, 1))
  mesh, p = spread(kind, plain, SPECS)
  with jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
    state = tx.init(p)
    g = [spread(kind, waves(plain, i), SPECS)[1] for i in range(2)]
    step = jax.jit(lambda *args: once(tx, *args))
    compiled = step.lower(p, state, g[0]).compile()
    found = step(*step(p, state, g[0]), g[1])
  assert_close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected))
  assert collectives(compiled.as_text()) == []
  # A dither counts the elements of the whole array, of which rows are one piece and columns are not.
  assert len(calls(compiled)) == (4 if store == 'float32' else 3)
  for name, spec in SPECS.items():
    assert found[0][name].sharding.is_equivalent_to(NamedSharding(mesh, spec), plain[name].ndim)


SPLITS = [
  ((16, 6), P('data'), True),
  ((16, 6), P(('data', 'model')), True),
  ((4, 3, 16), P('data', None, 'model'), False),
  ((8, 16), P(None, 'data'), False),
  ((2, 16), P('model', 'data'), True),  # a row for each device, and a piece of it
  ((64,), P(('model', 'data')), True),
]


@pytest.mark.parametrize(('shape', 'spec', 'pieces'), SPLITS, ids=str)
@pytest.mark.parametrize('store', [PACKED, stores.Int8(min_size=0)], ids=['packed16', 'int8'])
def test_parts_are_dithered_as_the_whole_array_is(store, shape, spec, pieces):
  """The codes of one device, to the last bit, by the loop where a part is one piece."""
  tx, mesh = bo.adabelief(1e-2, store=store), jax.make_mesh((4, 2), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
  p = jax.random.normal(jax.random.key(0), shape)
  state = tx.init(p)
  grads = [jax.random.normal(jax.random.key(i), shape) for i in range(3)]
  spread = lambda tree: jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec if x.ndim else P())), tree)
  whole, step = step_of(tx, 'native'), step_of(tx, 'auto')
  q, other = spread((p, state))
  compiled = step.lower(q, other, spread(grads[0])).compile()
  assert collectives(compiled.as_text()) == []
  assert len(calls(compiled)) == pieces
  for g in grads:
    (p, state), (q, other) = whole(p, state, g), step(q, other, spread(g))
  assert_equal(jax.device_get(other), jax.device_get(state))
  assert_close(jax.device_get(q), jax.device_get(p))


def test_native_refuses_parts_in_pieces():
  tx = bo.adabelief(1e-2, store=PACKED)
  _, p = spread(AxisType.Auto, {'w': jnp.ones((16, 8))}, {'w': P(None, 'data')})
  with pytest.raises(Exception, match=r"execution 'native' cannot run a step: .*not one piece"):
    step_of(tx, 'native').lower(p, tx.init(p), p).compile()


def test_inside_of_shard_map(once):
  tx = bo.adabelief(1e-2)
  p = {'w': jnp.ones((16, 6)), 'b': jnp.ones(8)}
  state = tx.init(p)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  specs = jax.tree.map(lambda x: P('data') if jnp.ndim(x) else P(), (p, state, p))
  step = jax.jit(jax.shard_map(lambda *args: once(tx, *args), mesh=mesh, in_specs=specs, out_specs=specs[:2]))
  assert calls(step.lower(p, state, p).compile())
  with bo.execution.use('xla'):
    expected = jax.jit(lambda *args: once(tx, *args))(p, state, waves(p))
  last_digit(step(p, state, waves(p)), expected)


def test_state_is_sharded_where_parameters_are_not():
  """ZeRO-1: the loop runs on the part of the state that a device holds."""
  tx = bo.adabelief(1e-2)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split, whole = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  p = jax.device_put(jnp.ones((16, 6)), whole)
  state = jax.tree.map(lambda x: jax.device_put(x, split if x.ndim else whole), tx.init(p))
  step = step_of(tx, 'native')
  (call,) = calls(step.lower(p, state, p).compile())
  assert 'f32[2,6]' in call
  assert_equal(step(p, state, waves(p))[0], step_of(tx, 'xla')(p, state, waves(p))[0])


# Threads.


def test_steps_at_once_from_two_threads_beside_a_busy_computation():
  """They neither hang nor meet: blocks wait in XLA's pool, and no thread waits for them."""
  tx, p = bo.adabelief(1e-2), jnp.linspace(-1.0, 1.0, 4 * native.LARGE)
  by_xla, by_loop = step_of(tx, 'xla'), step_of(tx, 'native', donate_argnums=(0, 1))
  g = waves(p)
  expected = (p, tx.init(p))
  for _ in range(5):
    expected = by_xla(*expected, g)
  out, busy = {}, jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda _, y: y @ y * 1e-3, x))

  def train(name):
    q, state = jnp.copy(p), tx.init(p)
    for _ in range(5):
      q, state = by_loop(q, state, g)
    out[name] = jax.block_until_ready((q, state))

  def load():
    jax.block_until_ready([busy(jnp.ones((300, 300))) for _ in range(3)])

  threads = [threading.Thread(target=train, args=(i,)) for i in range(2)] + [threading.Thread(target=load)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(120)
    assert not thread.is_alive()
  for result in out.values():
    assert_equal(result, expected)
  assert len(out) == 2


def test_a_loop_is_compiled_once_by_threads_that_ask_together():
  loop = native.write(lambda x: [x * 1.25 + 17.0], (ir.Operand(np.dtype(np.float32)),), (), 1)
  known, gate, names = len(native._kept), threading.Barrier(4), []

  def ask():
    gate.wait()
    names.append(native.compiled(loop))

  threads = [threading.Thread(target=ask) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert names == [loop.target] * 4
  assert len(native._kept) == known + 1


# What is in force.


def test_an_unknown_way():
  with (
    pytest.raises(ValueError, match=r"mode must be one of 'auto', 'xla', 'native', got 'fast'"),
    bo.execution.use('fast'),
  ):
    pass


def test_the_environment_chooses_for_the_process(monkeypatch):
  monkeypatch.setenv('BELIEF_OPTAX_EXECUTION', 'xla')
  assert bo.execution.current() == 'xla'
  with bo.execution.use('native'):
    assert bo.execution.current() == 'native'
  monkeypatch.setenv('BELIEF_OPTAX_EXECUTION', 'cuda')
  with pytest.raises(ValueError, match="BELIEF_OPTAX_EXECUTION must be one of 'auto', 'xla', 'native', got 'cuda'"):
    bo.execution.current()


def test_an_eager_step_follows_the_switch():
  tx, p = bo.adabelief(1e-2), jnp.ones(11)
  results = both(lambda: tx.step(p, tx.init(p), p))
  assert_equal(*results)


def test_explain_says_why():
  p = {'w': jnp.ones((8, 8)), 'b': jnp.ones(8)}
  assert repr(bo.execution.explain(bo.adabelief(1e-3), p)) == (
    "execution 'auto'\n  native 2 arrays of 72 elements (float32, float32, float32, float32)"
  )
  chained = optax.chain(optax.clip_by_global_norm(1.0), bo.compose(bo.adam(1e-3), bo.cautious()))
  (part,) = bo.execution.explain(chained, jax.eval_shape(lambda: p)).parts
  assert not part.native
  assert part.reason == 'reduce_sum has no instruction here'
  with pytest.raises(TypeError, match='tx must be a recipe, or a transformation that has recipes inside'):
    bo.execution.explain(optax.adam(1e-3), p)


@pytest.mark.parametrize(
  'wrap',
  [
    bo.skip_unhealthy,
    lambda tx: bo.accumulate(tx, 2),
    bo.diagnostics.measure,
    lambda tx: bo.skip_unhealthy(bo.diagnostics.measure(tx)),
    lambda tx: bo.by_path({'b': tx}, tx),
    lambda tx: optax.masked(tx, True),
    lambda tx: optax.apply_if_finite(tx, 3),
  ],
  ids=['skip_unhealthy', 'accumulate', 'measure', 'both', 'by_path', 'masked', 'apply_if_finite'],
)
def test_explain_looks_into_wrappers(wrap):
  p = {'w': jnp.ones((8, 8)), 'b': jnp.ones(8)}
  assert bo.execution.explain(wrap(bo.adabelief(1e-3)), p) == bo.execution.explain(bo.adabelief(1e-3), p)


@pytest.mark.parametrize(
  ('tx', 'p', 'why'),
  [
    (bo.compose(bo.adam(1e-3), bo.cautious()), jnp.ones(3), r'float32\[3\]: reduce_sum has no instruction'),
    (bo.adam_atan2(1e-3), jnp.ones(3), r'float32\[3\]: atan2 has no instruction'),
    (bo.padam(1e-3), jnp.ones(3), r'float32\[3\]: pow has no instruction'),
    (bo.adam(1e-3), jnp.ones(3, jnp.complex64), r'complex64\[3\]: complex64 numbers are not served'),
  ],
)
def test_native_says_why_it_cannot_serve(tx, p, why):
  with bo.execution.use('native'), pytest.raises(ValueError, match=f"execution 'native' cannot run .* {why}"):
    tx.update(p, tx.init(p), p)
  with bo.execution.use('auto'):
    tx.update(p, tx.init(p), p)


def test_without_llvmlite(monkeypatch):
  """XLA's path, silently; an error only where the loop was asked for."""
  monkeypatch.setattr(native, 'available', lambda: 'llvmlite is not installed')
  tx, p = bo.adabelief(1e-2), params()
  assert not calls(step_of(tx, 'auto').lower(p, tx.init(p), p).compile())
  assert not any(part.native for part in bo.execution.explain(tx, p).parts)
  with pytest.raises(ValueError, match=r"execution 'native' cannot run .*: llvmlite is not installed"):
    step_of(tx, 'native').lower(p, tx.init(p), p)


def test_what_llvm_refuses_is_a_warning(monkeypatch):
  def broken(_):
    raise OSError('no executable memory')

  monkeypatch.setattr(native, 'compiled', broken)
  tx, p = bo.adabelief(1e-2), params()
  with pytest.warns(RuntimeWarning, match='runs without its machine loop .OSError: no executable memory'):
    found = step_of(tx, 'auto')(p, tx.init(p), p)
  assert_equal(found, step_of(tx, 'xla')(p, tx.init(p), p))
  with pytest.raises(ValueError, match='no executable memory'):
    step_of(tx, 'native').lower(p, tx.init(p), p)


@pytest.mark.parametrize('fault', ['missing', 'old', 'broken'])
def test_available_names_the_reason(monkeypatch, fault):
  import sys
  import types

  module = types.SimpleNamespace(llvm_version_info=(11, 1, 0) if fault == 'old' else (20, 0, 0))
  fake = types.ModuleType('llvmlite')
  fake.binding = module
  monkeypatch.setitem(sys.modules, 'llvmlite', None if fault == 'missing' else fake)
  monkeypatch.setitem(sys.modules, 'llvmlite.binding', None if fault == 'missing' else module)
  monkeypatch.setattr(native, '_engine', functools.partial(native._engine.__wrapped__))
  reason = native.available.__wrapped__()
  expected = {'missing': 'not installed', 'old': 'too old', 'broken': 'cannot compile for this machine'}
  assert expected[fault] in reason


def test_numbers_of_64_bits_have_loops_of_their_own():
  tx = bo.adabelief(1e-2)
  agree(tx, jnp.ones(4), [jnp.ones(4)])
  with x64():
    agree(tx, jnp.ones(4, jnp.float32), [jnp.ones(4, jnp.float32)])
    agree(tx, jnp.ones(4), [jnp.ones(4)])
