"""Pins on the compiled step, for every row of the registry: one pass, in place, without communication.

The programs are those of XLA on CPU. A copy or a temporary buffer of the size of a parameter is what makes other
implementations several times slower; a collective is what makes them slow on many devices.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from contract_helpers import compilations
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ROWS, each_row

import belief_optax as bo

LARGE = (1024, 128)
# A result of one element or none: scalars may be copied.
COPY = re.compile(r'^.*= (\w+)\[([\d,]*)\]\S* copy(?:-start)?\(.*$', re.MULTILINE)
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')
TEMPORARY = 4096  # bytes: scalars, and nothing that grows with the parameters


def _shapes(rows=None, columns=None):
  """Parameters without values: the first split by rows, the second by columns."""
  make = functools.partial(jax.ShapeDtypeStruct, LARGE, jnp.float32)
  return {'first': make(sharding=rows), 'second': make(sharding=columns)}


def compiled_step(tx, shapes, state):
  """The program of a training step whose parameters and state are donated, in the order of the results."""

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  # What is looked at is XLA's program; the machine code that LLVM makes of it takes a third of the time.
  return step.lower(shapes, state, shapes).compile({'xla_backend_optimization_level': 0})


def copies(program):
  """The lines of a program that copy more than one element."""
  return [match[0].strip() for match in COPY.finditer(program) if match[2] not in ('', '1')]


def collectives(program):
  """The names of the collectives in a program, also of their asynchronous halves."""
  return sorted({name for name in COLLECTIVES if re.search(rf'\b{name}(-start)?\(', program)})


@pytest.fixture(autouse=True)
def by_xla():
  """The machine loop has its pins in test_step."""
  with bo.execution.use('xla'):
    yield


# What XLA:CPU does not manage in one pass, with (copies, float32 temporaries) per parameter, of the latter two where
# versions of XLA differ. They are pinned, so that a compiler or a formula that does better is noticed.
NOT_IN_PLACE = {
  'adabelief-bfloat16': (2, 1),  # the new mean, which ends in a cast, is computed again from the old one by each kernel
  'adam-bfloat16-mean': (1, 0.5),  # the step uses the mean before its rounding, so the old one is needed to the end
  'presets.ranger_adabelief.ranger-decayed': (2, 5),  # centralized, chosen by step, synchronized: waits at each
  'presets.timm.rmsprop_tf-cautious': (0, 1),  # the direction waits for its own mean
  'lion': (1, 1),  # the direction is an average with the old mean, which the new one overwrites
  'adopt': (1, 1),  # the old second moment divides, the new one is kept
  'acprop': (1, 1),
  'adan': (2, 1),  # the change needs the old gradient after the new one is kept
  'mars': (2, 1.5, 2),  # the same, and the gradient waits for its own norm
  'lamb': (0, 2, 3),  # the direction waits for its own norm
  'lamb-decayed': (0, 2, 3),
  'lars': (0, 1, 2),  # of these four the second is that of jaxlib 0.7
  'rmsprop-nesterov-decayed': (0, 2),  # the root and the quotient are used twice: divisions are not computed twice
}
if jax.__version_info__ >= (0, 12):
  del NOT_IN_PLACE['adabelief-bfloat16']


@each_row
def test_step_is_one_pass_in_place(row):
  tx, shapes = row.make(), _shapes()
  compiled = compiled_step(tx, shapes, jax.eval_shape(tx.init, shapes))
  copied, *kept = NOT_IN_PLACE.get(str(row), (0, 0))
  assert len(copies(compiled.as_text())) == copied * len(shapes)
  memory = compiled.memory_analysis()
  float32 = 4 * len(shapes) * math.prod(LARGE)
  assert any(0 <= memory.temp_size_in_bytes - n * float32 < TEMPORARY for n in kept)
  # Parameters and slots are updated where they lie.
  in_place = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((shapes, jax.eval_shape(tx.init, shapes))))
  assert memory.alias_size_in_bytes == in_place


@each_row
def test_sharded_step_needs_no_communication(row):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  shapes = _shapes(NamedSharding(mesh, P('data')), NamedSharding(mesh, P(None, 'data')))
  tx, everywhere = row.make(), NamedSharding(mesh, P())
  like = lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding)
  state = jax.eval_shape(tx.init, shapes)
  state = optax.tree.map_params(tx, like, state, shapes, transform_non_params=lambda x: x.update(sharding=everywhere))
  compiled = compiled_step(tx, shapes, state)
  # The mean of a whole array needs all its parts.
  assert collectives(compiled.as_text()) == ([] if row.elementwise else ['all-reduce'])
  new_params, new_state = compiled.output_shardings
  for tree in (new_params, *new_state.slots.values()):  # what came split leaves split
    assert jax.tree.all(jax.tree.map(lambda x, p: x.is_equivalent_to(p.sharding, 2), tree, shapes))


# How often a rule is traced is counted by test_core; here are the programs.
@pytest.mark.parametrize('row', [row for row in ROWS if not row.variant], ids=str)
def test_eager_update_of_many_leaves_compiles_one_program(row):
  tx = row.make()
  params = [jnp.ones(1 + i % 6) for i in range(300 if row.algorithm == 'adabelief' else 30)]
  state = tx.init(params)
  with compilations() as compiled:
    updates, state = tx.update(params, state, params)
  assert len(compiled) == 1
  with compilations() as compiled:
    tx.update(updates, state, params)
  assert len(compiled) == 0


# The instruments themselves.


def test_copies_are_found():
  """The update of optax adds eps outside of the average, and pays a copy for it."""
  tx, shapes = optax.adabelief(0.1), _shapes()
  compiled = compiled_step(tx, shapes, jax.eval_shape(tx.init, shapes))
  assert len(copies(compiled.as_text())) >= 2
  assert compiled.memory_analysis().temp_size_in_bytes >= 1024 * 128 * 4
  assert copies('  %copy.1 = s32[] copy(%p), metadata={}\n  ROOT %c = f32[1]{0} copy(%p)') == []
  assert len(copies('  %copy.1 = f32[8,2]{1,0:T(8,128)} copy(%p)\n  ROOT %c = f32[3] copy-start(%p)')) == 2


def test_collectives_are_found():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  tx = optax.chain(optax.clip_by_global_norm(1.0), bo.sgd(0.1))
  shapes = _shapes(*2 * [NamedSharding(mesh, P('data'))])
  compiled = compiled_step(tx, shapes, jax.eval_shape(tx.init, shapes))
  assert collectives(compiled.as_text()) == ['all-reduce']
