"""What every store promises, whatever the algorithm: bytes, nothing that freezes, no zero, no communication.

The contracts of a transformation are those of `test_contracts.py`, which has rows with stores.
"""

import dataclasses
import functools
import itertools
import math
import pickle
import tempfile
from pathlib import Path

import flax.serialization
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from contract_helpers import assert_close, assert_equal, types
from helpers import x64
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_hlo import collectives, compiled_step, copies

import belief_optax as bo
from belief_optax import interop, presets, stores
from belief_optax.core import Slot
from belief_optax.stores import bits, tiled

MU, NU = Slot('mu'), Slot('nu', real=True)
ROUNDING = {
  'bfloat16': stores.BFloat16(),
  'packed16': stores.Packed16(min_size=0),
  'int8': stores.Int8(min_size=0),
  'int4': stores.Int4(min_size=0),
}
ALL = {'float32': stores.FLOAT32, **ROUNDING}
# What happens to packed words and to tiles, packed16 and int8 find.
MARKS = {name: [pytest.mark.full] for name in ('bfloat16', 'int4')}
STORES = [pytest.param(x, id=name, marks=MARKS.get(name, [])) for name, x in ALL.items()]
each_store, each_rounding = (pytest.mark.parametrize('store', some) for some in (STORES, STORES[1:]))

SHAPES = {'matrix': (16, 64), 'odd': (7, 13)}
TINY = np.finfo(np.float32).tiny


def tree(seed=0, shapes=SHAPES, scale=1.0, dtype=jnp.float32):
  draw = np.random.default_rng(seed).normal
  return {name: jnp.asarray(scale * draw(size=shape), dtype) for name, shape in shapes.items()}


@functools.cache
def amsgrad(store):
  """A recipe with a pair and with a slot that has no partner; most tests share its compiled step."""
  return bo.amsgrad(1e-3, store=store)


@functools.cache
def moved(tx, steps=3):
  """Parameters, and a state that has seen some gradients."""
  p = tree()
  state = tx.init(p)
  for i in range(steps):
    _, state = tx.update(tree(i + 1), state, p)
  return p, state


def groups(store):
  """What a store keeps together, of a mean and a second moment."""
  return tuple(store.groups((MU, NU)))


def constant(r):
  """A dither that is the same for all elements; 2^31 rounds to nearest."""
  return lambda shape: lambda _: (jnp.full(shape, r, jnp.uint32),) * 2


to_nearest = constant(2**31)


def apart(store, slot, x, alone=False):
  """How far the codes around a number are apart, in an array whose tiles are alike."""
  x = np.abs(np.asarray(x, np.float64))
  if isinstance(store, stores.Int8 | stores.Int4):
    digits = stores.tiled.EIGHT if alone else store.digits
    top = 2 * x.max(initial=0.0)
    if slot.real:
      return (2 ** (1 / digits.per_octave) - 1) * x + top * 2.0 ** (-(2**digits.bits - 1) / digits.per_octave)
    return ((1 + digits.mu) ** (1 / (2 ** (digits.bits - 1) - 1)) - 1) * (x + top / digits.mu)
  if isinstance(store, stores.Packed16):
    return x * 2.0 ** -((8 if alone else 9) if slot.real else (7 if alone else 6))
  return x * 2.0**-7 if store in ROUNDING.values() else x * 0


# Bytes.


def transformer(vocabulary=50257, width=128, layers=18):
  """About 10M parameters, of which the embedding has most, and axes that no power of two divides."""
  block = {
    'qkv': (width, 3 * width),
    'out': (width, width),
    'up': (width, 4 * width),
    'down': (4 * width, width),
    'bias': (4 * width,),
    'scale': (width,),
  }
  shapes = {'embedding': (vocabulary, width), 'layers': [block] * layers, 'scale': (width,)}
  return jax.tree.map(lambda shape: jnp.zeros(shape), shapes, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize(
  ('name', 'least', 'most'),
  [
    ('float32', 8.0, 8.0001),
    ('params', 8.0, 8.0001),
    ('bfloat16', 4.0, 4.0001),
    ('packed16', 4.0, 4.005),
    ('int8', 2.0, 2.10),
    ('int4', 1.0, 1.15),
  ],
)
def test_bytes_per_parameter(name, least, most):
  p = transformer()
  size = sum(x.size for x in jax.tree.leaves(p))
  assert 9.5e6 < size < 10.5e6
  state = bo.adabelief(1e-3, store=name).init(p)
  assert bo.state_bytes(state) == sum(x.nbytes for x in jax.tree.leaves(state))
  assert least <= bo.state_bytes(state) / size <= most


# Nothing freezes.


class Nearest:
  """The same store with plain rounding."""

  def save(self, group, values, kept, dither):
    return super().save(group, values, kept, to_nearest(values[0].shape))


FALLS = {'4': 4.0, '100': 100.0}
BEFORE, AFTER = 2000, 4000
LIMITS = {
  'packed16': 0.01,
  'packed16-alone': 0.012,  # as its docstring says
  'bfloat16': 0.04,
  'int8': 0.10,
  'int8-alone': 0.10,
  'int4': 0.40,  # codes are a factor of 2 apart, 1.41 in the root
}


@functools.cache
def errors_after_falls():
  """For each store and fall the rms error of sqrt(nu) after the gradients have fallen, in one compiled loop."""
  recipes = {}
  for name, store in ALL.items():
    plain = dataclasses.dataclass(frozen=True)(type('Plain', (Nearest, type(store)), {}))()
    pair = bo.compose(bo.first_moment(0.9), bo.second_moment(0.999))
    recipes[name] = bo.compose(pair, store=store)
    if name in ROUNDING:
      recipes[f'{name}-nearest'] = bo.compose(pair, store=dataclasses.replace(plain, min_size=0))
    if f'{name}-alone' in LIMITS:
      recipes[f'{name}-alone'] = bo.compose(bo.second_moment(0.999), store=store)
  shape = (2, 8, 64)
  fall = np.asarray(list(FALLS.values()), np.float32)[:, None, None]

  def step(states, t):
    g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), shape[1:])
    g = jnp.where(t < BEFORE, g, g / fall)
    return {name: tx.update(g, states[name])[1] for name, tx in recipes.items()}, None

  @jax.jit
  def run():
    states = {name: tx.init(jnp.zeros(shape)) for name, tx in recipes.items()}
    states, _ = jax.lax.scan(step, states, jnp.arange(BEFORE + AFTER))
    return {name: bo.decode_state(states[name], tx).slots['nu'] for name, tx in recipes.items()}

  found = {name: np.sqrt(np.asarray(nu, np.float64)) for name, nu in run().items()}
  relative = {name: root / found['float32'] - 1 for name, root in found.items()}
  return {name: dict(zip(FALLS, np.sqrt((e**2).mean((1, 2))), strict=True)) for name, e in relative.items()}


@pytest.mark.parametrize('fall', FALLS)
@pytest.mark.parametrize('name', LIMITS)
def test_second_moment_follows_falling_gradients(name, fall):
  assert errors_after_falls()[name][fall] <= LIMITS[name]


@pytest.mark.parametrize(('name', 'times'), [('bfloat16', 100), ('packed16', 50), ('int8', 30), ('int4', 1.5)])
def test_plain_rounding_freezes(name, times):
  """What the dither is for: without it no store keeps its limit."""
  assert errors_after_falls()[f'{name}-nearest']['100'] > times * LIMITS[name]


# No code is zero.


def every_word():
  """A store, its group and all its codes, of tiles with every exponent."""
  tops = jnp.arange(255)[:, None]  # 255 says that something was not finite
  tiled = lambda n, dtype, kind: (jnp.tile(jnp.arange(n, dtype=dtype), (255, 1)), tops.astype(kind))
  pair = lambda n, dtype: (tiled(n, dtype, jnp.uint16)[0], (tops | tops << 8).astype(jnp.uint16))
  return {
    'packed16': (stores.Packed16(), (MU, NU), (jnp.arange(2**17, dtype=jnp.uint32),)),
    'packed16-alone': (stores.Packed16(), (NU,), (jnp.arange(2**16, dtype=jnp.uint16),)),
    'int8': (stores.Int8(), (MU, NU), pair(2**8, jnp.uint16)),
    'int8-alone': (stores.Int8(), (NU,), tiled(2**8, jnp.uint8, jnp.uint8)),
    'int4': (stores.Int4(), (MU, NU), pair(2**8, jnp.uint8)),
    'int4-alone': (stores.Int4(), (NU,), tiled(2**8, jnp.uint8, jnp.uint8)),
  }


@pytest.mark.parametrize('case', every_word())
def test_no_code_of_a_second_moment_is_zero(case):
  """Each code that a tile has means a number above 0; of packed words, each that `encode` can make."""
  store, group, kept = every_word()[case]
  nu = np.asarray(store.decode(group, kept)[-1])
  if case.startswith('packed16'):
    below = nu < TINY
    assert below.sum() == 2 ** (8 if 'alone' in case else 9)  # exponent 0, which XLA flushes and `encode` never makes
    nu = nu[~below & np.isfinite(nu)]
  assert (nu >= TINY).all()


@each_rounding
@pytest.mark.parametrize('alone', [False, True])
def test_no_value_of_a_second_moment_becomes_zero(store, alone):
  """From 0 and denormals to the bound of an average of squares, under every extreme of the dither."""
  group = (NU,) if alone else groups(store)[-1]
  values = np.concatenate([[0.0, 1e-45, 1e-40], np.logspace(-38, 38, 253)]).astype(np.float32)

  def there_and_back(x, r):
    return store.decode(group, store.encode(group, [x] * len(group), constant(r)(x.shape)))[-1]

  xs = jnp.stack([jnp.asarray(values).reshape(16, 16), jnp.zeros((16, 16)), jnp.full((16, 16), 1e-30)])
  extremes = jnp.asarray([0, 1, 2**31, 2**32 - 1], jnp.uint32)
  nu = jax.jit(jax.vmap(jax.vmap(there_and_back, (None, 0)), (0, None)))(xs, extremes)
  assert nu.shape == (3, 4, 16, 16)
  assert np.isfinite(nu).all()
  assert (nu >= TINY).all()


@each_rounding
@pytest.mark.parametrize('alone', [False, True])
def test_no_mean_overflows(store, alone):
  """The largest numbers keep their sign and stay finite, and what is no number stays none, whatever the dither."""
  group = (MU,) if alone else groups(store)[0]
  largest = np.asarray([[3.4e38, -3.4e38, 1e38, -1e38] * 4] * 16, np.float32)
  nan = np.full((16, 16), 2**32 - 1, np.uint32).view(np.float32)  # another bit would make it -0

  def there_and_back(x, r):
    values = [x, jnp.ones_like(x)][: len(group)]
    return store.decode(group, store.encode(group, values, constant(r)(x.shape)))[0]

  extremes = jnp.asarray([0, 2**31, 2**32 - 1], jnp.uint32)
  read = jax.jit(jax.vmap(jax.vmap(there_and_back, (None, 0)), (0, None)))(jnp.stack([largest, nan]), extremes)
  assert np.isfinite(read[0]).all()
  assert (np.sign(read[0]) == np.sign(largest)).all()
  assert np.isnan(read[1]).all()


# No bias.


def round_trips(store, group, values, steps=4096):
  """The mean of what is read after writing, over the dithers of many steps, and the last reading."""

  def step(total, t):
    dither = functools.partial(bits.dither, values[0].shape, t)
    read = store.decode(group, store.encode(group, values, dither))
    return [a + b for a, b in zip(total, read, strict=True)], read

  ts = jnp.arange(1, steps + 1, dtype=jnp.uint32)
  total, reads = jax.jit(lambda: jax.lax.scan(step, [jnp.zeros_like(v) for v in values], ts))()
  return [np.asarray(x) / steps for x in total], [np.asarray(x) for x in reads]


@each_rounding
@pytest.mark.parametrize('alone', [False, True])
def test_rounding_has_no_bias(store, alone):
  """Cut numbers have none; what a logarithm of steps R is rounded to is at most (log R)^2 / 8 too large."""
  rng = np.random.default_rng(1)
  mu = jnp.asarray(rng.normal(size=(16, 16)), jnp.float32).at[0, :4].set(0.0)
  nu = jnp.asarray(np.exp(rng.normal(size=(16, 16))), jnp.float32)
  for group in ((MU,), (NU,)) if alone else groups(store):
    values = [{MU: mu, NU: nu}[slot] for slot in group]
    means, reads = round_trips(store, group, values)
    for slot, value, mean, read in zip(group, values, means, reads, strict=True):
      x, step = np.asarray(value), apart(store, slot, value, len(group) == 1)
      log_ratio = np.log1p(
        (step / np.maximum(np.abs(x), TINY)).min()
      )  # of the largest number, where no linear part adds
      bias = log_ratio / 8 * 1.1 if isinstance(store, stores.Int8 | stores.Int4) else 0.0
      # The dither of 4096 steps is even to a few thousandths of a code.
      assert (np.abs(mean - x) <= (bias + 4e-3) * step).all(), slot
      # A number comes back as one of its two neighbours, with its sign.
      assert (np.abs(read - x) <= 1.01 * step).all(), slot
      assert (read * x >= 0).all()
      assert (read[:, x == 0] == 0).all()


@pytest.mark.parametrize(('name', 'most'), [('bfloat16', 0.004), ('packed16', 0.001), ('int8', 0.045), ('int4', 0.42)])
def test_error_of_the_root_on_log_uniform_tensors(name, most):
  """Numbers of all sizes in 1e-16 .. 1, in tiles of one size each: nearest rounding, 99 of 100 numbers."""
  rng = np.random.default_rng(2)
  exponents = np.repeat(rng.uniform(-16, -1, 64), 256) + rng.uniform(0, 1, 16384)
  nu = jnp.asarray(10.0**exponents, jnp.float32)
  store = ROUNDING[name]
  group = groups(store)[-1]
  code = store.encode(group, [jnp.zeros_like(nu)] * (len(group) - 1) + [nu], to_nearest(nu.shape))
  read = np.asarray(store.decode(group, code)[-1], np.float64)
  assert np.quantile(np.abs(np.sqrt(read / np.asarray(nu, np.float64)) - 1), 0.99) <= most


# Numbers that are none.


@each_store
def test_nan_stays_visible(store):
  """A NaN in a gradient is NaN in all moments: of its element or, where codes are relative to a tile, of its tile."""
  tx = amsgrad(store)
  p, state = moved(tx)
  u, state = tx.update({**p, 'matrix': p['matrix'].at[0, 0].set(jnp.nan)}, state, p)
  tile = (2, 8) if isinstance(store, stores.Int8 | stores.Int4) else (1, 1)
  for _ in range(2):
    for slot in bo.decode_state(state, tx).slots.values():
      nan = np.isnan(slot['matrix'])
      assert nan.sum() == np.prod(tile)
      assert nan[: tile[0], : tile[1]].all()
    assert np.isnan(u['matrix'][0, 0])
    u, state = tx.update(p, state, p)


@each_store
def test_extreme_gradients_are_finite(store):
  """Zeros, which move nothing, the least and the largest, in all dtypes; and one huge gradient freezes nothing."""
  kinds = (jnp.float32, jnp.bfloat16, jnp.float16)
  of = lambda seed, scale: {
    k.__name__: tree(seed, {'w': (8, 16)}, min(scale, float(jnp.finfo(k).max) / 8), k) for k in kinds
  }
  tx, p = bo.adabelief(1e-3, rectify=False, store=store), of(0, 1.0)
  state = tx.init(p)
  u, state = tx.update(of(5, 0.0), state, p)
  assert_equal(u, of(5, 0.0))
  for scale in (0.0, 1e-30, 1.0, 1e15, 1e20, 1e-30, 0.0, 1.0):
    u, state = tx.update(of(5, scale), state, p)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((u, bo.decode_state(state, tx).slots)))
  assert all((x != 0).any() for x in jax.tree.leaves(u))


@pytest.mark.parametrize('name', ['eps', 'eps_root'])
def test_an_eps_that_underflows_is_refused(name):
  """All is computed in float32 at least, so that is what it must survive, also where parameters are float16."""
  with pytest.raises(ValueError, match=rf'^{name} must be 0 or a finite number >= 1.175e-38 .*got 1e-40'):
    bo.adabelief(1e-3, **{name: 1e-40}, store='packed16')


# The same bits.


@each_store
def test_steps_are_deterministic(store):
  """Eager, in a jit and repeated."""
  tx = amsgrad(store)
  p, state = moved(tx)
  first = tx.update(tree(9), state, p)
  assert_equal(tx.update(tree(9), state, p), first)
  assert_equal(jax.jit(tx.update)(tree(9), state, p), first)


@each_rounding
def test_what_is_stored_is_what_is_used(store):
  """The step is taken with the rounded moments, so that a restored state continues as the running one does."""
  tx = bo.compose(bo.first_moment(0.9), bo.second_moment(0.9), store=store)
  p, state = moved(tx)
  u, state = tx.update(tree(9), state, p)
  assert_close(u, bo.decode_state(state, tx).slots['mu'])  # but for the last bit of another fusion's exp2


# Sharding: 18 cases of shape and spec on a mesh of 4 x 2.

SPECS = (P('data'), P(None, 'model'), P('data', 'model'), P(('data', 'model')))
CASES = (
  *itertools.product([(512, 256), (256, 384), (1024, 8)], SPECS),
  *itertools.product([(8192,)], [P('data'), P('model'), P(('data', 'model'))]),
  *itertools.product([(64, 32, 16)], [P('data'), P(None, 'model'), P('data', None, 'model')]),
)
# int4 has the tiles of int8 and other digits.
each_code = pytest.mark.parametrize(
  'store', [pytest.param(x, id=name, marks=[pytest.mark.slow] * (name == 'int4')) for name, x in ROUNDING.items()]
)
MOMENTS = (bo.first_moment(0.5), bo.second_moment(0.5))


def mesh_of(kind):
  return jax.make_mesh((4, 2), ('data', 'model'), axis_types=(kind, kind))


def by_case(values, cases=CASES):
  """A tree with a leaf for each case, of values by shape."""
  return {f'{shape} {spec}': values[str(shape)] for shape, spec in cases}


def sharded_case(cases=CASES):
  """Parameters and gradients by shape, and specs by case."""
  shapes = {str(shape): shape for shape, _ in cases}
  return tree(0, shapes), tree(1, shapes), {f'{shape} {spec}': spec for shape, spec in cases}


def put(tree, shardings):
  """From the host: between devices each shape would be a program."""
  return jax.device_put(jax.tree.map(np.asarray, tree), shardings)


def compile_quickly(function, *args):
  """What is looked at here is decided before XLA:CPU generates code, which takes most of the time."""
  return jax.jit(function).lower(*args).compile({'xla_backend_optimization_level': 0})


@each_code
def test_sharded_update_is_local_and_has_the_same_bits(store):
  mesh, (p, g, specs) = mesh_of(AxisType.Auto), sharded_case()
  assert len(specs) == 18
  tx = bo.compose(*MOMENTS, store=store)
  state = tx.init(p)
  there = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
  everywhere = bo.State(NamedSharding(mesh, P()), dict.fromkeys(state.slots, there), {})
  split = state._replace(slots={key: by_case(slot) for key, slot in state.slots.items()})
  args = put((by_case(g), split), (there, everywhere))
  compiled = compile_quickly(tx.update, *args)
  assert collectives(compiled.as_text()) == []
  found = compiled(*args)
  for tree_ in (found[0], *found[1].slots.values()):  # what came split leaves split
    assert all(x.sharding.is_equivalent_to(there[name], x.ndim) for name, x in tree_.items())
  u, after = compile_quickly(tx.update, g, state)(g, state)
  expected = by_case(u), after._replace(slots={key: by_case(slot) for key, slot in after.slots.items()})
  assert_equal(*jax.tree.map(np.asarray, (found, expected)))


@pytest.mark.parametrize(
  ('shape', 'parts'),
  [
    ((32, 4096, 4096), (32, 4096, 32)),  # layers of a decoder, stacked: as many parts as tiles divide
    ((32, 4096, 14336), (32, 4096, 128)),
    ((32, 4096, 1024), (32, 2048, 8)),
    ((128256, 8192), (128256, 64)),
    ((65536,), (512,)),
    ((4096,), (32,)),
    ((64, 64), (8, 8)),
  ],
)
def test_tiles_divide_the_shards_of_large_meshes(shape, parts):
  tile = tiled.tile_of(shape)
  assert 64 <= math.prod(tile) <= 256
  counts = [dim // side for dim, side in zip(shape, tile, strict=True)]
  assert all(n % part == 0 for n, part in zip(counts, parts, strict=True)), counts


@hypothesis.settings(deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.integers(0, 1000), max_size=4))
def test_tiles_divide_arrays_and_the_shards_of_small_meshes(shape):
  tile = tiled.tile_of(tuple(shape))
  assert math.prod(tile) <= 256
  for dim, side in zip(shape, tile, strict=True):
    assert all((dim // n) % side == 0 for n in (1, 2, 4, 8) if dim % n == 0)


@each_code
def test_runs_inside_shard_map(store):
  """Shapes are local there; the tiles of the stored arrays are those that `init` has planned outside."""
  mesh, (p, g, specs) = mesh_of(AxisType.Auto), sharded_case()
  tx = bo.compose(*MOMENTS, store=store)
  whole = tx.init(p)
  state = whole._replace(slots={key: by_case(slot) for key, slot in whole.slots.items()})
  state_specs = bo.State(P(), dict.fromkeys(state.slots, specs), {})
  shapes = []

  def inside(g, state):
    shapes.extend(x.shape for x in jax.tree.leaves(g))
    return tx.update(g, state)[1]

  local = jax.shard_map(inside, mesh=mesh, in_specs=(specs, state_specs), out_specs=state_specs)
  compiled = compile_quickly(local, by_case(g), state)
  assert collectives(compiled.as_text()) == []
  assert all(np.prod(s) < x.size for s, x in zip(shapes, jax.tree.leaves(by_case(g)), strict=True))
  args = put((by_case(g), state), jax.tree.map(lambda spec: NamedSharding(mesh, spec), (specs, state_specs)))
  after = jax.tree.map(np.asarray, compiled(*args))
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
  read = jax.jit(functools.partial(bo.decode_state, tx=tx))  # once per shape
  for name, x in jax.tree.map(
    np.asarray, by_case(g)
  ).items():  # the dither counts the elements of a shard: within a code
    found = read(after._replace(slots={key: slot[name] for key, slot in after.slots.items()})).slots
    assert (np.abs(found['mu'] - x / 2) <= 1.01 * apart(store, MU, x / 2)).all(), name
    assert (np.abs(found['nu'] - x**2 / 2) <= 1.01 * apart(store, NU, x**2 / 2)).all(), name


@each_rounding
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_init_keeps_the_sharding_of_parameters(store, kind):
  """Eager; on a mesh of explicit axes also a step, as it must be said there how a tile lies on it."""
  cases = CASES[2::8]
  mesh, (p, g, specs) = mesh_of(kind), sharded_case(cases)
  tx = bo.compose(*MOMENTS, store=store)
  there = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
  with jax.set_mesh(mesh):
    q, h = put((by_case(p, cases), by_case(g, cases)), (there, there))
    state = tx.init(q)
    for slot in state.slots.values():
      assert all(x.sharding.is_equivalent_to(there[name], x.ndim) for name, x in slot.items())
    if kind == AxisType.Explicit:
      assert types(jax.eval_shape(tx.update, h, state)) == types((h, state))
      assert collectives(compile_quickly(tx.update, h, state).as_text()) == []


# Which leaves are coded.


def kinds(tx, p):
  """The dtypes in which the parts of each leaf are kept."""
  state = jax.eval_shape(tx.init, p)
  return {name: {slot[name].dtype.name for slot in state.slots.values()} for name in p}


@each_rounding
def test_masked_and_small_leaves_stay_float32(store):
  p = {**tree(), 'one': jnp.ones(1)}
  mask = {'matrix': True, 'odd': False, 'one': True}
  for masked in (mask, lambda p: {name: mask[name] for name in p}):
    found = kinds(bo.adam(1e-3, store=dataclasses.replace(store, mask=masked)), p)
    assert {name: 'float32' not in found[name] for name in p} == mask
  found = kinds(bo.adam(1e-3, store=dataclasses.replace(store, min_size=92)), p)
  assert {name for name in p if 'float32' in found[name]} == {'odd', 'one'}


@each_rounding
def test_leaves_of_all_kinds(store):
  """Zero elements, no axes, an odd shape, None, complex; what is masked or complex takes the steps of float32."""
  make = lambda store: bo.adam(1e-2, store=store)
  p = {
    'empty': jnp.zeros((0, 3)),
    'scalar': jnp.float32(1.5),
    'odd': jnp.ones((3, 7)),
    'masked': jnp.ones((8, 8)),
    'complex': jnp.ones((8, 8), jnp.complex64) * (1 + 2j),
    'none': None,
  }
  tx, plain = (
    make(dataclasses.replace(store, mask={**dict.fromkeys(p, True), 'masked': False, 'none': None})),
    make(None),
  )
  state, expected = tx.init(p), plain.init(p)
  g = jax.tree.map(lambda p: p * 0.5, p)
  update = compile_quickly(tx.update, g, state, p)
  for _ in range(2):
    u, after = update(g, state, p)
    assert types(after) == types(state)
    full, expected = plain.update(g, expected, p)
    state = after
  read = bo.decode_state(state, tx).slots
  for name in ('masked', 'complex'):
    assert_close(u[name], full[name])
    # A bundle of a complex mean and a real second moment is three reals: float32 for both.
    assert_close([slot[name] for slot in read.values()], [slot[name] for slot in expected.slots.values()])
  assert u['none'] is None
  assert u['scalar'] < 0
  assert (u['odd'] < 0).all()
  _, still = tx.update({**g, 'scalar': None}, state, p)
  assert_equal(*[[slot['scalar'] for slot in s.slots.values()] for s in (still, state)])


@each_rounding
def test_float64_parameters(store):
  with x64():
    p = jnp.ones((16, 64), jnp.float64)
    tx = bo.adam(1e-3, store=store)
    state = tx.init(p)
    u, after = tx.update(p, state, p)
    assert u.dtype == jnp.float64
    assert types(after) == types(state)
    assert jnp.float64 not in {x.dtype for x in jax.tree.leaves(after.slots)}
    np.testing.assert_allclose(u, -1e-3, rtol=0.5)


def test_params_store_follows_the_parameter():
  kept = lambda dtype: {
    x.dtype.name for x in bo.adam(1e-3, store='params').init(jnp.ones((64, 64), dtype)).slots.values()
  }
  assert kept(jnp.float32) == {'float32'}
  assert kept(jnp.bfloat16) == {'bfloat16'}
  with x64():
    assert kept(jnp.float64) == {'float64'}
  others = "use one of 'float32', 'bfloat16', 'packed16', 'int8', 'int4'"
  with pytest.raises(TypeError, match=f"store='params' cannot keep moments in float16, .*: {others}"):
    kept(jnp.float16)


ALGORITHMS = {
  'amsgrad': bo.amsgrad(1e-3),
  'rmsprop': bo.rmsprop(1e-3, momentum=0.9),
  'sgd': bo.sgd(1e-3, momentum=0.9),
  'adagrad': bo.adagrad(1e-3),
  'ranger': presets.ranger_adabelief.ranger(1e-3),
}


@pytest.mark.parametrize('name', ALGORITHMS)
def test_all_slots_of_an_algorithm_go_through_its_store(name):
  """The maximum of AMSGrad, buffers of momentum and sums of squares; slow weights are no moment."""
  plain, p = ALGORITHMS[name], {'w': jnp.ones((16, 64))}
  slots = {slot.name for line in plain.lines for slot in line.slots}
  for store in ROUNDING.values():
    tx = bo.compose(plain, store=store)
    state = tx.init(p)
    after = jax.eval_shape(tx.update, p, state, p)[1]
    assert types(jax.tree.map(jnp.zeros_like, after)) == types(jax.tree.map(jnp.zeros_like, state))
    assert {key for key in state.slots if 'float32' in {x.dtype.name for x in jax.tree.leaves(state.slots[key])}} == {
      'slow'
    } & slots
    assert set(bo.decode_state(state, tx).slots) == slots
  if 'slow' in slots:
    assert_equal(state.slots['slow'], p)


# In and out.


def test_serialization_is_exact():
  """A state of every store comes back to the bit, from Flax and from Orbax, and continues."""
  txs = {name: amsgrad(store) for name, store in ALL.items()}
  p = moved(txs['float32'])[0]
  states = {name: moved(tx)[1] for name, tx in txs.items()}
  fresh = {name: jax.eval_shape(tx.init, p) for name, tx in txs.items()}
  empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
  restored = flax.serialization.from_bytes(empty, flax.serialization.to_bytes(states))
  assert_equal(jax.tree.map(jnp.asarray, restored), states)
  for name, tx in txs.items():
    assert_equal(tx.update(p, restored[name], p), tx.update(p, states[name], p))
  with tempfile.TemporaryDirectory() as folder, orbax.checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save(Path(folder) / 'states', states)
    checkpointer.wait_until_finished()
    assert_equal(checkpointer.restore(Path(folder) / 'states', fresh), states)


def test_convert_state_goes_around_all_stores():
  """Each store as the source and as the target: what changes is half a code of the target; the count is kept."""
  way = ['float32', 'packed16', 'int8', 'bfloat16', 'packed16', 'int4', 'float32']
  txs = {name: amsgrad(ALL[name]) for name in way}
  p, state = moved(txs['float32'])
  for one, other in itertools.pairwise(way):
    there = bo.convert_state(state, txs[one], txs[other], p)
    assert types(there) == types(moved(txs[other])[1])
    assert there.count == 3
    before, after = bo.decode_state(state, txs[one]).slots, bo.decode_state(there, txs[other]).slots
    for slot, alone in ((MU, False), (NU, False), (Slot('nu_max', real=True), True)):
      for name in p:
        x = np.asarray(before[slot.name][name])
        # Of a logarithm, half a code is its upper half: up to 0.59 where codes are a factor of 2 apart.
        assert (np.abs(after[slot.name][name] - x) <= 0.6 * apart(ALL[other], slot, x, alone)).all(), (other, slot)
    state = there


def test_convert_state_packs_and_unpacks():
  full, packed = bo.adabelief(1e-3), bo.adabelief(1e-3, store=ROUNDING['packed16'])
  p, state = moved(full)
  back = bo.convert_state(bo.convert_state(state, full, packed, p), packed, full, p)
  assert types(back) == types(state)
  again = bo.convert_state(bo.convert_state(back, full, packed, p), packed, full, p)
  assert_equal(again, back)  # codes are exact
  with pytest.raises(ValueError, match=r"tx_to has the slots \['momentum'\], but the state has \['mu', 'nu'\]"):
    bo.convert_state(state, full, bo.sgd(1e-3, momentum=0.9), p)
  with pytest.raises(TypeError, match='tx_from must be a Recipe of belief_optax'):
    bo.convert_state(state, optax.adam(1e-3), full, p)


def test_decoded_state_is_that_of_float32():
  full = amsgrad(stores.FLOAT32)
  _, state = moved(full)
  assert_equal(bo.decode_state(state, full), state)
  for store in ROUNDING.values():
    assert types(bo.decode_state(moved(amsgrad(store))[1], amsgrad(store))) == types(state)


def test_states_of_torch_go_through_stores():
  """What another optimizer has trained is rounded to nearest, and written as what it means."""
  plain, params = presets.torch.adam(), tree()
  written = interop.dump_state(moved(plain)[1], plain, params, dict(zip(params, params, strict=True)))
  for store in ROUNDING.values():
    tx = bo.compose(plain, store=store)
    state = interop.load_state(written, tx, params, list(params))
    assert_equal(state, bo.convert_state(moved(plain)[1], plain, tx, params))
    assert_equal(interop.load_state({**written, 'state': {}}, tx, params, list(params)), tx.init(params))
    again = interop.dump_state(state, tx, params, dict(zip(params, params, strict=True)))
    np.testing.assert_array_equal(again['state'][0]['exp_avg'], bo.decode_state(state, tx).slots['mu']['matrix'])
    belief = presets.timm.adabelief()
    warm = interop.warm_start(state, tx, bo.compose(belief, store=store), params)
    assert types(warm) == types(bo.compose(belief, store=store).init(params))
    assert_equal(
      warm,
      bo.convert_state(
        interop.warm_start(bo.decode_state(state, tx), plain, belief, params),
        belief,
        bo.compose(belief, store=store),
        params,
      ),
    )


# A store of a user.


@dataclasses.dataclass(frozen=True)
class Halves(stores.Store):
  """As the documented protocol says: a float32 as two bfloat16, each in a tree of its own."""

  def parts(self, group):
    return '', 'low'

  def init(self, group, values, p, on):
    return self.split(values[0])

  def rounds(self, group, kept):
    return True

  def load(self, group, kept):
    return [kept[0].astype(jnp.float32) + kept[1]]

  def save(self, group, values, kept, dither):
    return self.split(values[0])

  def split(self, x):
    high = x.astype(jnp.bfloat16)
    return high, (x - high).astype(jnp.bfloat16)


def test_a_store_of_a_user():
  """It serves algorithms, mappings and every tool as the others do."""
  tx, plain = bo.adabelief(1e-3, store=Halves()), bo.adabelief(1e-3)
  p, state = moved(tx)
  assert list(state.slots) == ['mu', 'mu.low', 'nu', 'nu.low']
  assert {x.dtype.name for x in jax.tree.leaves(state.slots)} == {'bfloat16'}
  assert_close(bo.decode_state(state, tx).slots, moved(plain)[1].slots, rtol=2.0**-14, atol=1e-5)
  assert_close(tx.update(tree(9), state, p)[0], plain.update(tree(9), moved(plain)[1], p)[0], rtol=1e-3)
  assert tx == bo.adabelief(1e-3, store=Halves()) == pickle.loads(pickle.dumps(tx))
  marked = optax.tree.map_params(tx, lambda _, name: name, state, {name: name for name in p})
  assert list(marked.slots.values()) == [{name: name for name in p}] * 4
  there = bo.convert_state(state, tx, bo.adabelief(1e-3, store='packed16'), p)
  assert types(there) == types(bo.adabelief(1e-3, store='packed16').init(p))
  mixed = bo.adam(1e-3, store={'mu': Halves(), 'nu': 'bfloat16'})
  assert set(mixed.init(p).slots) == {'mu', 'mu.low', 'nu'}


# Errors.


def test_state_of_another_store_is_refused():
  """And never read as numbers, whatever its dtypes make of it."""
  p = {'w': jnp.ones((64, 128))}
  for one, other in itertools.permutations(ALL, 2):
    tx, wrong = bo.adam(1e-3, store=ALL[one]), bo.adam(1e-3, store=ALL[other]).init(p)
    if (one, other) == ('bfloat16', 'float32'):
      tx.update(p, wrong, p)  # exact, and what a mask or min_size may have left
      continue
    with pytest.raises((ValueError, TypeError), match='mu'):
      tx.update(p, wrong, p)
    with pytest.raises((ValueError, TypeError), match='mu'):
      bo.decode_state(wrong, tx)


def test_a_corrupted_state_is_refused():
  tx, p = bo.adam(1e-3, store=ROUNDING['int8']), jnp.ones((16, 64))
  state = tx.init(p)
  word, exponents = state.slots['mu+nu.int8'], state.slots['mu+nu.exponents']
  whole = {'mu+nu.int8': word, 'mu+nu.exponents': exponents}
  for broken, message in (
    ({'mu+nu.int8': word}, 'needs a State with the slots'),
    ({**whole, 'more': word}, 'needs a State with the slots'),
    (
      {**whole, 'mu+nu.int8': word.astype(jnp.uint8)},
      r'the state of mu and nu, which holds uint8\[16, 64\], .*was written by another store',
    ),
    ({**whole, 'mu+nu.int8': word[:8]}, r'update of shape \(16, 64\) arrives where'),
    (
      {**whole, 'mu+nu.int8': word.astype(jnp.float16)},
      r'the state of mu and nu, which holds .* was written by another store',
    ),
    (
      {**whole, 'mu+nu.exponents': exponents[:3]},
      r'the state of mu and nu, which holds .* was written by another store',
    ),
    (
      {**whole, 'mu+nu.exponents': exponents.astype(jnp.float32)},
      r'the state of mu and nu, which holds .* was written by another store',
    ),
    (
      {**whole, 'mu+nu.exponents': exponents.astype(jnp.uint8)},
      r'the state of mu and nu, which holds .* was written by another store',
    ),
    (
      {**whole, 'mu+nu.exponents': exponents[0]},
      r'the state of mu and nu, which holds .* was written by another store',
    ),
  ):
    with pytest.raises((ValueError, TypeError), match=message):
      tx.update(p, state._replace(slots=broken), p)


def test_unknown_names_list_the_choices():
  choices = "store must be one of 'float32', 'params', 'bfloat16', 'packed16', 'int8', 'int4'"
  for name in bo.optimizers.__all__:
    make = getattr(bo, name)
    options = {} if name == 'scale_by_belief' else {'learning_rate': 1e-3}
    with pytest.raises(ValueError, match=f"^{choices}.*got 'int5'"):
      make(**options, store='int5')
    with pytest.raises(TypeError, match=f'^{choices}.*got 8'):
      make(**options, store=8)
  with pytest.raises(ValueError, match=r"^mu must be one of .*got 'int5'"):
    bo.adam(1e-3, store={'mu': 'int5'})


def test_stores_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='store names nv, but the slots are: mu, nu'):
    bo.adam(1e-3, store={'nv': 'int8'})
  with pytest.raises(ValueError, match='mu has a dtype of its own, bfloat16'):
    bo.adam(1e-3, mu_dtype='bfloat16', store='int8')
  with pytest.raises(ValueError, match='different stores'):
    bo.compose(bo.compose(bo.first_moment(), store='int8'), bo.compose(bo.second_moment(), store='packed16'))
  for bad in (-1, 1.5, None, '1'):
    with pytest.raises(ValueError, match='min_size must be an integer >= 0'):
      stores.Int8(min_size=bad)
  with pytest.raises(TypeError, match='each leaf of mask'):
    stores.Int8(mask={'w': 1})
  with pytest.raises(ValueError, match='no prefix of the params'):
    bo.adam(1e-3, store=stores.Int8(mask={'v': True})).init({'w': jnp.ones(3)})


# Values.


def test_recipes_with_stores_are_values():
  names = {**vars(bo), **vars(stores)}
  for name, store in [*ROUNDING.items(), ('params', 'params'), ('slots', {'mu': 'int8', 'nu': stores.Packed16(7)})]:
    tx = bo.adam(1e-3, store=store)
    assert tx == bo.adam(1e-3, store=store) == pickle.loads(pickle.dumps(tx))
    assert hash(tx) == hash(bo.adam(1e-3, store=store))
    assert tx != bo.adam(1e-3), name
    assert 'store=' in repr(tx)
    assert eval(repr(tx), names) == tx
    assert bo.compose(tx, bo.scale(2.0)).store == tx.store
  assert bo.adam(1e-3, store='float32') == bo.adam(1e-3)
  assert bo.adam(1e-3, store='int8') == bo.adam(1e-3, store=stores.Int8())
  masked = bo.adam(1e-3, store=stores.Int8(mask={'w': True}))
  assert masked == bo.adam(1e-3, store=stores.Int8(mask={'w': True})) == pickle.loads(pickle.dumps(masked))


def test_a_store_per_slot():
  tx = bo.amsgrad(1e-3, store={'mu': stores.Int8(0), 'nu': 'bfloat16', 'default': 'float32'})
  p, state = moved(tx)
  kept = {key: slot['matrix'].dtype.name for key, slot in state.slots.items()}
  assert kept == {'mu.int8': 'uint8', 'mu.exponents': 'uint8', 'nu': 'bfloat16', 'nu_max': 'float32'}
  assert set(bo.decode_state(state, tx).slots) == {'mu', 'nu', 'nu_max'}
  tx.update(tree(1), state, p)


# The compiled step.


@pytest.mark.parametrize(
  'make',
  [
    lambda store: bo.adabelief(1e-3, rectify=False, store=store),
    lambda store: bo.adabelief(1e-3, weight_decay=1e-2, store=store),
    lambda store: bo.adam(1e-3, store=store),
  ],
  ids=['adabelief', 'decoupled-rectified', 'adam'],
)
def test_packed_step_is_one_pass_in_place(make):
  shapes = {name: jax.ShapeDtypeStruct((1024, 128), jnp.float32) for name in ('v', 'w')}
  traffic = {}
  for store in ('float32', 'packed16'):
    tx = make(store)
    with bo.execution.use('xla'):  # the pins of the machine loop are in test_step
      compiled = compiled_step(tx, shapes, jax.eval_shape(tx.init, shapes))
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    traffic[store] = cost['bytes accessed'] / (2 * 1024 * 128)
    assert copies(compiled.as_text()) == []
    assert compiled.memory_analysis().temp_size_in_bytes < 4096
  # float32 reads p, g, m, s and writes p, m, s in three kernels, which read again what another one wrote.
  assert traffic['packed16'] == pytest.approx(24, abs=0.01)
  assert traffic['float32'] >= 40
