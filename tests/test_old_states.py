"""States that version 0.1.0 has written: read, and continued as that version did."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import belief_optax as bo
from belief_optax import presets, stores

FILE = Path(__file__).parent / 'recorded' / 'states-0.1.0.npz'
RECIPES = {
  'adabelief': lambda: bo.adabelief(1e-2, weight_decay=0.1, rectify=True, degenerate_to_sgd=True),
  'adabelief-packed16': lambda: bo.adabelief(1e-2, store=stores.Packed16(min_size=0)),
  'adabelief-bfloat16': lambda: bo.adabelief(1e-2, store='bfloat16'),
  'adabelief-int8': lambda: bo.adabelief(1e-2, store=stores.Int8(min_size=0)),
  'adabelief-int4': lambda: bo.adabelief(1e-2, store=stores.Int4(min_size=0)),
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
