"""States that version 0.1.0 has written: read, and continued as that version did."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import belief_optax as bo
from belief_optax import presets, stores

RECORDED = Path(__file__).parent / 'recorded'
FILE = RECORDED / 'states-0.1.0.npz'
DECODED = RECORDED / 'states-0.1.0-decoded.npz'  # what `decode_state` of that version made of those in tiles
RECIPES = {
  'adabelief': lambda: bo.adabelief(1e-2, weight_decay=0.1, rectify=True, degenerate_to_sgd=True),
  'adabelief-packed16': lambda: bo.adabelief(1e-2, store=stores.Packed16(min_size=0)),
  'adabelief-bfloat16': lambda: bo.adabelief(1e-2, store='bfloat16'),
  'adam-scheduled': lambda: bo.adam(optax.linear_schedule(1e-2, 0, 100), b2=optax.linear_schedule(0.9, 0.99, 50)),
  'amsgrad': lambda: bo.amsgrad(1e-2, max_of='raw'),
  'sgd': lambda: bo.sgd(1e-2, momentum=0.9, nesterov=True),
  'rmsprop-packed16': lambda: bo.rmsprop(1e-2, store=stores.Packed16(min_size=0)),
  'split': lambda: bo.compose(bo.adamw(1e-2), bo.round_updates('split')),
  'ranger': lambda: presets.ranger_adabelief.ranger(1e-2, eps=1e-3),
}


def read(name):
  """The state, the parameter and the gradient of the ninth step, and the update that version 0.1.0 made of them."""
  with np.load(FILE) as file:
    own = {key.removeprefix(f'{name}/'): file[key] for key in file.files if key.startswith(f'{name}/')}
  slots, ages = {}, {}
  for key, x in own.items():
    kind, _, rest = key.partition('/')
    if kind == 'slots':
      slot, _, dtype = rest.partition('@')
      slots[slot] = {'w': jnp.asarray(x.view(dtype) if dtype else x)}
    elif kind == 'ages':
      ages[rest] = tuple(jnp.asarray(x))
  return bo.State(jnp.asarray(own['count']), slots, ages), *({'w': jnp.asarray(own[key])} for key in ('p', 'g', 'u'))


@pytest.mark.parametrize('name', RECIPES)
def test_a_state_of_0_1_0_continues(name):
  tx, (state, p, g, expected) = RECIPES[name](), read(name)
  p = jax.tree.map(lambda x: x.astype(jnp.bfloat16), p) if name == 'split' else p
  assert jax.tree.structure(state) == jax.tree.structure(tx.init(p))
  assert {x.dtype for x in jax.tree.leaves(state)} == {x.dtype for x in jax.tree.leaves(tx.init(p))}
  u, after = tx.update(g, state, p)
  scale = float(jnp.abs(expected['w']).max())
  np.testing.assert_allclose(u['w'].astype(jnp.float32), expected['w'], 1e-5, 1e-6 * scale)
  assert int(after.count) == 9


@pytest.mark.parametrize('store', ['int8', 'int4'])
def test_tiles_of_0_1_0_are_read(store):
  """Their codes went; `decode_state` and `convert_state` read them into every store of today."""
  state, p, g, expected = read(f'adabelief-{store}')
  with np.load(DECODED) as file:
    values = {name: file[f'adabelief-{store}/{name}'] for name in ('mu', 'nu')}
  plain, coded = bo.adabelief(1e-2), bo.adabelief(1e-2, store='int8')
  for tx in (plain, coded):
    decoded = bo.decode_state(state, tx)
    for name, value in values.items():
      np.testing.assert_allclose(decoded.slots[name]['w'], value, 1e-6)
  there = bo.convert_state(state, coded, plain, p)
  assert there.count == 8
  np.testing.assert_array_equal(there.slots['mu']['w'], bo.decode_state(state, plain).slots['mu']['w'])
  u, _ = plain.update(g, there, p)  # that version rounded what this one takes the step with
  error = np.sqrt(np.mean((u['w'] - expected['w']) ** 2) / np.mean(expected['w'] ** 2))
  assert error < {'int8': 0.1, 'int4': 0.6}[store]
  assert bo.convert_state(state, coded, coded, p).slots['mu+nu.direction']['w'].dtype == 'uint16'
  with pytest.raises(ValueError, match=r'version 0\.1\.0 wrote with int8 or int4.*convert_state'):
    coded.update(g, state, p)


def test_small_arrays_beside_tiles_of_0_1_0_are_read():
  """They were float32 with a trailing axis; slots without a partner had 8 bits."""
  words = {'big': jnp.full((4, 8), 255, jnp.uint8), 'small': jnp.full((3, 1), 0.5)}
  tops = {'big': jnp.full((2, 1), 128, jnp.uint8), 'small': jnp.zeros((1,), jnp.uint8)}
  state = bo.State(jnp.int32(3), {'nu.int8': words, 'nu.exponents': tops}, {})
  nu = bo.decode_state(state, bo.rmsprop(1e-3)).slots['nu']
  np.testing.assert_allclose(nu['big'], np.full((4, 8), 4.0))
  np.testing.assert_allclose(nu['small'], np.full(3, 0.5))
