"""What Orbax restores of a state for another optimizer, another store or another mesh: the same numbers, or an error.

Orbax compares the trees and the shapes, and casts where only dtypes differ.
"""

import contextlib
import functools
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from contract_helpers import assert_equal
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import belief_optax as bo
from belief_optax import sharding, stores

STORES = {
  'float32': stores.Float32(),
  'params': stores.Params(),
  'bfloat16': stores.BFloat16(),
  'packed16': stores.Packed16(min_size=256),
  'int8': stores.Int8(min_size=256),
  'packed16, other sizes': stores.Packed16(min_size=0),
  'int8, other sizes': stores.Int8(min_size=0),
}
FLOATS = 'float32', 'params', 'bfloat16'
ALGORITHMS = {
  'a pair': bo.adabelief,
  'one slot': bo.rmsprop,
}
MISFIT = 'Structure mismatch|structures do not match|shape'


@pytest.fixture(autouse=True, scope='module')
def compile_quickly():
  """Without LLVM's optimizations: nothing here is about speed."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def draw(seed):
  rng = np.random.default_rng(seed)
  return {name: rng.normal(size=s).astype(np.float32) for name, s in {'kernel': (32, 16), 'bias': (64,)}.items()}


PARAMS = draw(0)


@functools.partial(jax.jit, static_argnums=0)
def step(tx, grads, state, params):
  updates, state = tx.update(grads, state, params)
  return updates, state


def trained(tx, params=PARAMS, state=None, steps=range(1, 4)):
  """The last updates and the state after some steps."""
  state, updates = tx.init(params) if state is None else state, None
  for t in steps:
    updates, state = step(tx, jax.tree.map(jnp.asarray, draw(t)), state, params)
  return updates, state


@contextlib.contextmanager
def orbax():
  """A checkpointer, without Orbax's advice to name shardings."""
  with warnings.catch_warnings(), ocp.StandardCheckpointer() as checkpointer:
    warnings.filterwarnings('ignore', 'Sharding info not provided')
    yield checkpointer


def save(path, state):
  with orbax() as checkpointer:
    checkpointer.save(path, state)


def restore(path, target):
  with orbax() as checkpointer:
    return checkpointer.restore(path, target)


def abstract_state(algorithm, store):
  return jax.eval_shape(ALGORITHMS[algorithm](1e-3, store=STORES[store]).init, PARAMS)


@pytest.fixture(scope='module', params=ALGORITHMS)
def saved(request, tmp_path_factory):
  """An algorithm, and for each store a state of it and its checkpoint."""
  root, make = tmp_path_factory.mktemp('states'), ALGORITHMS[request.param]
  states = {name: trained(make(1e-3, store=store))[1] for name, store in STORES.items()}
  for name, state in states.items():
    save(root / name, state)
  yield request.param, states, root
  shutil.rmtree(root)


def family(name, algorithm=None):
  name = name.split(',')[0]
  return 'packed16' if algorithm == 'one slot' and name == 'int8' else name  # what has no partner both keep alike


@pytest.mark.parametrize('target', STORES)
@pytest.mark.parametrize('source', STORES)
def test_another_store(saved, source, target):
  """Floating point numbers are cast; codes are read by the store that wrote them, or not at all."""
  algorithm, states, root = saved
  abstract = abstract_state(algorithm, target)
  alone = algorithm == 'one slot' and {source, target} == {'packed16', 'int8'}
  if source == target or alone or (source in FLOATS and target in FLOATS):
    found = restore(root / source, abstract)
    cast = jax.tree.map(lambda x, s: x.astype(s.dtype), states[source], abstract)
    jax.tree.map(assert_equal, found, cast)
    trained(ALGORITHMS[algorithm](1e-3, store=STORES[target]), state=found, steps=[4])
  elif family(source, algorithm) != family(target, algorithm):
    with pytest.raises(ValueError, match=MISFIT):
      restore(root / source, abstract)


OTHER_SIZES = """
import pathlib, sys, test_checkpoints as t
algorithm, root = sys.argv[1:]
for source, target in t.SIZES:
  try:
    t.restore(pathlib.Path(root) / source, t.abstract_state(algorithm, target))
    print(source, 'is restored as', target)
  except ValueError as e:
    print(type(e).__name__, str(e).replace('\\n', ' '))
"""
SIZES = [(a, b) for a in STORES for b in STORES if a != b and family(a) == family(b)]


def test_other_sizes(saved):
  """What is coded in one and not in the other has other shapes.

  Orbax finds that when it has begun to read, and closes the loop of its readers while they run, each of which may
  complain at any time later: so this runs in a process of its own.
  """
  algorithm, _, root = saved
  command = [sys.executable, '-c', OTHER_SIZES, algorithm, str(root)]
  done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
  said = done.stdout.splitlines()
  assert len(said) == len(SIZES) == 4, done.stderr
  assert all(re.match('ValueError .*shape', line) for line in said), said


def test_the_way_from_one_store_to_another(saved):
  algorithm, states, root = saved
  make = ALGORITHMS[algorithm]
  old, new = make(1e-3), make(1e-3, store='int8')
  found = restore(root / 'float32', jax.eval_shape(old.init, PARAMS))
  jax.tree.map(
    assert_equal,
    bo.convert_state(found, old, new, PARAMS),
    bo.convert_state(states['float32'], old, new, PARAMS),
  )


def test_a_schedule_for_a_number(tmp_path):
  """Innocent options do not change the tree of a state."""
  fixed, schedule = bo.adabelief(1e-3), bo.adabelief(optax.constant_schedule(1e-3))
  _, state = trained(fixed)
  save(tmp_path / 'state', state)
  found = restore(tmp_path / 'state', jax.eval_shape(schedule.init, PARAMS))
  assert int(found.count) == 3
  jax.tree.map(assert_equal, trained(schedule, state=found, steps=[4]), trained(fixed, state=state, steps=[4]))


@pytest.mark.parametrize(
  'target',
  [
    bo.adabelief(1e-3, amsgrad=True),
    bo.sgd(1e-3, momentum=0.9),
    optax.chain(optax.clip_by_global_norm(1.0), bo.adabelief(1e-3)),
    bo.adabelief(1e-3, b2=optax.constant_schedule(0.999)),
    bo.compose(bo.adabelief(1e-3), bo.round_updates('split')),
  ],
  ids=['another slot', 'another algorithm', 'a chain', 'a rate with an age', 'a line with a slot'],
)
def test_another_optimizer_is_an_error(tmp_path, target):
  save(tmp_path / 'state', trained(bo.adabelief(1e-3))[1])
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
  with pytest.raises(ValueError, match=MISFIT):
    restore(tmp_path / 'state', jax.eval_shape(target.init, params))


# Meshes.


def layout(devices, spec, spread=False):
  """An optimizer of `store` and the shardings of the parameters on some of the devices."""
  mesh = jax.make_mesh(devices, ('data', 'model')[: len(devices)], axis_types=(AxisType.Auto,) * len(devices))
  where = jax.tree.map(lambda p: NamedSharding(mesh, P(*spec[: p.ndim])), PARAMS)
  return lambda tx: (sharding.zero1(tx, where, min_size=0) if spread else tx, where)


LAYOUTS = {
  'eight replicas': layout((8,), ()),
  'ZeRO-1 on eight': layout((8,), (), spread=True),
  'FSDP on eight': layout((8,), ('data',)),
  'ZeRO-1 on four': layout((4,), (), spread=True),
  'FSDP and tensors on two times four': layout((2, 4), ('data', 'model')),
}


@pytest.mark.parametrize('store', ['float32', 'int8'])
@pytest.mark.parametrize('source', ['ZeRO-1 on eight', 'FSDP and tensors on two times four'])
def test_another_mesh(tmp_path, source, store):
  """A checkpoint knows no mesh: each bit arrives, where the target says."""
  plain = bo.adabelief(1e-3, store=STORES[store])
  tx, where = LAYOUTS[source](plain)
  state = jax.device_put(trained(plain)[1], sharding.state_shardings(tx, PARAMS, where))
  save(tmp_path / 'state', state)
  for target in LAYOUTS.values():
    tx, where = target(plain)
    params = jax.device_put(PARAMS, where)
    found = restore(tmp_path / 'state', sharding.abstract_state(tx, params, where))
    jax.tree.map(assert_equal, found, state)
    assert jax.tree.map(lambda x: x.sharding, found) == sharding.state_shardings(tx, params, where)
