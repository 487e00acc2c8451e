"""States between the steps: converted without a change, with buffers of their own; begun anew in part, carried over."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_equal

import belief_optax as bo
from belief_optax import interop

STORES = {
  'float32': bo.stores.Float32(),
  'bfloat16': bo.stores.BFloat16(),
  'packed16': bo.stores.Packed16(min_size=0),
  'int8': bo.stores.Int8(min_size=0),
  'mixed': bo.stores.PerSlot('float32', nu=bo.stores.Int8(min_size=0)),
}
each_store = pytest.mark.parametrize('store', STORES.values(), ids=STORES)
SCHEDULE = optax.linear_schedule(0.5, 0.9, 8)


def tree(seed=0, **shapes):
  draw = np.random.default_rng(seed).normal
  return {name: jnp.asarray(draw(size=shape), jnp.float32) for name, shape in shapes.items()}


PARAMS = tree(emb=(16, 64), bias=(16,))


@functools.cache
def trained(tx, steps=3, seed=1, kind='usual'):
  params = {'usual': PARAMS, 'wide': tree(emb=(24, 64), bias=(16,))}[kind]
  state = tx.init(params)
  for step in range(steps):
    grads = tree(seed + step, **{name: x.shape for name, x in params.items()})
    _, state = tx.update(grads, state, params)
  return state


def types(state):
  return jax.tree.map(lambda x: (x.shape, x.dtype), state)


# convert_state.


@each_store
def test_the_same_store_is_the_identity(store):
  """A code that is written again could be another one."""
  tx, other = bo.adam(1e-3, store=store), bo.adam(1e-2, 0.8, store=store)
  assert_equal(bo.convert_state(trained(tx), tx, tx, PARAMS), trained(tx))
  assert_equal(bo.convert_state(trained(tx), tx, other, PARAMS), trained(tx))


def test_only_what_another_store_keeps_is_written_again():
  """A mask decides it for each parameter, and a store for each slot."""
  int8 = functools.partial(bo.stores.Int8, min_size=0)
  one, other = bo.adam(1e-3, store=int8()), bo.adam(1e-3, store=int8(mask={'emb': True, 'bias': False}))
  there = bo.convert_state(trained(one), one, other, PARAMS)
  assert types(there) == types(other.init(PARAMS))
  plain = bo.decode_state(trained(one), one).slots
  for key, kept in trained(one).slots.items():
    np.testing.assert_array_equal(there.slots[key]['emb'], kept['emb'])
  np.testing.assert_array_equal(there.slots['mu+nu.direction']['bias'][..., 0], plain['mu']['bias'])
  np.testing.assert_array_equal(there.slots['mu+nu.direction']['bias'][..., 1], plain['nu']['bias'])


@pytest.mark.parametrize(
  ('params', 'message'),
  [
    (tree(emb=(8, 64), bias=(16,)), r'mu of emb is float32\[16, 64\], but must be float32\[8, 64\]; nu of emb is'),
    (tree(emb=(16, 64), bias=(16, 1)), r'nu of bias is float32\[16\], but must be float32\[16, 1\]'),
    ({**PARAMS, 'bias': jnp.zeros(16, jnp.complex64)}, r'mu of bias is float32\[16\], but must be complex64\[16\]'),
    (tree(emb=(16, 64)), 'of the state does not have the structure of params: only the state has bias'),
    (tree(emb=(16, 64), head=(16,)), 'only the state has bias; only params has head'),
    (list(PARAMS.values()), 'only the state has bias, emb; only params has 0, 1'),
  ],
)
@each_store
def test_parameters_of_another_shape(params, message, store):
  tx, full = bo.adam(1e-3, store=store), bo.adam(1e-3)
  for one, other in ((tx, full), (full, tx), (tx, tx)):
    with pytest.raises(ValueError, match=message):
      bo.convert_state(trained(one), one, other, params)


def test_every_function_checks_the_parameters():
  tx, params = bo.adam(1e-3), tree(emb=(8, 64), bias=(16,))
  for call in (
    lambda: interop.dump_state(trained(tx), tx, params),
    lambda: interop.warm_start(trained(tx), tx, tx, params),
    lambda: bo.reset_state(trained(tx), tx, params, '*'),
    lambda: bo.carry_state(trained(tx), tx, params, params),
  ):
    with pytest.raises(ValueError, match=r'mu of emb is float32\[16, 64\], but must be float32\[8, 64\]'):
      call()


def test_a_rate_that_is_a_schedule_in_one_recipe():
  fixed, scheduled = bo.adam(1e-3), bo.adam(1e-3, b2=SCHEDULE)
  for one, other, words in (
    (fixed, scheduled, 'b2 in the recipe, none in'),
    (scheduled, fixed, 'none in the recipe, b2'),
  ):
    with pytest.raises(ValueError, match=f'{words}.*interop.warm_start'):
      bo.convert_state(trained(one), one, other, PARAMS)
    state = interop.warm_start(trained(one), one, other, PARAMS)  # as the error says
    assert types(state) == types(other.init(PARAMS))
    other.update(PARAMS, state, PARAMS)
  packed = bo.adam(1e-3, b2=SCHEDULE, store=STORES['packed16'])
  assert_equal(bo.convert_state(trained(scheduled), scheduled, packed, PARAMS).ages, trained(scheduled).ages)


# Buffers.


RESULTS = {
  'decode_state': lambda state, tx: bo.decode_state(state, tx),
  'convert_state': lambda state, tx: bo.convert_state(state, tx, tx, PARAMS),
  'to float32': lambda state, tx: bo.convert_state(state, tx, bo.compose(tx, store='float32'), PARAMS),
  'warm_start': lambda state, tx: interop.warm_start(state, tx, tx, PARAMS),
  'reset_state': lambda state, tx: bo.reset_state(state, tx, PARAMS, 'bias'),
  'carry_state': lambda state, tx: bo.carry_state(state, tx, PARAMS, PARAMS),
}


@pytest.mark.parametrize('make', RESULTS.values(), ids=RESULTS)
@each_store
def test_a_result_has_buffers_of_its_own(make, store):
  """Each can be donated, and the other one is still there."""
  tx = bo.adam(1e-3, b2=SCHEDULE, store=store)
  state = jax.tree.map(jnp.copy, trained(tx))
  first, second = make(state, tx), make(state, tx)
  swallow = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  jax.block_until_ready(swallow(first))
  assert all(x.is_deleted() for x in jax.tree.leaves(first))
  assert_equal(make(state, tx), second)
  assert_equal(state, trained(tx))
  jax.block_until_ready(swallow(state))
  assert_equal(make(trained(tx), tx), second)


# reset_state.


@pytest.mark.parametrize('patterns', ['b*s', re.compile('bias|head'), ['bias'], ('emb?', re.compile('b.*'), 'b*')])
@each_store
def test_a_part_begins_anew(patterns, store):
  tx = bo.adam(1e-3, b2=SCHEDULE, store=store)
  state = trained(tx)
  if patterns == ('emb?', re.compile('b.*'), 'b*'):
    with pytest.raises(ValueError, match=r"patterns: 'emb\?' match no parameter. The paths are: bias, emb"):
      bo.reset_state(state, tx, PARAMS, patterns)
    return
  after = bo.reset_state(state, tx, PARAMS, patterns)
  fresh = tx.init(PARAMS)
  assert_equal((after.count, after.ages), (state.count, state.ages))
  for key, slot in after.slots.items():
    assert_equal(slot, {'bias': fresh.slots[key]['bias'], 'emb': state.slots[key]['emb']})


def test_steps_after_a_reset():
  """The count goes on, so that the bias of an average that begins anew is not corrected."""
  tx, params = bo.adam(1.0, eps=0.0), {'w': jnp.ones(1)}
  state = tx.init(params)._replace(count=jnp.asarray(10**5, jnp.int32))
  state, sizes = bo.reset_state(state, tx, params, 'w'), []
  for _ in range(20):
    updates, state = tx.update(params, state, params)
    sizes.append(-float(updates['w'][0]))
  t = np.arange(1, 21)
  np.testing.assert_allclose(sizes, (1 - 0.9**t) / np.sqrt(1 - 0.999**t), rtol=1e-5)
  assert (int(np.argmax(sizes)) + 1, round(max(sizes), 1)) == (12, 6.6)  # as its docstring says


def test_what_reset_state_refuses():
  tx = bo.adam(1e-3)
  with pytest.raises(
    TypeError, match='patterns must be a glob, a compiled regular expression, or several of them, got 3'
  ):
    bo.reset_state(trained(tx), tx, PARAMS, [3])
  with pytest.raises(TypeError, match='tx must be a Recipe'):
    bo.reset_state(trained(tx), optax.adam(1e-3), PARAMS, '*')
  with pytest.raises(ValueError, match='reset_state needs a State with the slots'):
    bo.reset_state(trained(tx), bo.sgd(1e-3, momentum=0.9), PARAMS, '*')
  twice = {'a': {'b': jnp.ones(1)}, 'a/b': jnp.ones(1)}
  with pytest.raises(ValueError, match='params: two leaves have the path a/b'):
    bo.reset_state(tx.init(twice), tx, twice, 'a/b')


# carry_state.


@each_store
def test_a_state_goes_over_to_a_changed_tree(store, caplog):
  tx = bo.amsgrad(1e-3, b2=SCHEDULE, store=store)
  new = {'emb': PARAMS['emb'], 'head': jnp.ones((16, 8)), 'more': [jnp.ones(3)]}
  after, fresh, state = bo.carry_state(trained(tx), tx, PARAMS, new), tx.init(new), trained(tx)
  assert types(after) == types(fresh)
  assert_equal((after.count, after.ages), (state.count, state.ages))
  for key, slot in after.slots.items():
    assert_equal(slot, fresh.slots[key] | {'emb': state.slots[key]['emb']})
  assert caplog.record_tuples == [('belief_optax', 30, 'carry_state: dropped: bias; fresh: head, more/0')]
  caplog.clear()
  assert_equal(bo.carry_state(state, tx, PARAMS, PARAMS), state)
  assert not caplog.records


@pytest.mark.parametrize('shape', [(24, 64), (12, 64), (20, 32), (8, 96)])
def test_resized_arrays(shape, caplog):
  tx = bo.adam(1e-3)
  new = {**PARAMS, 'emb': jnp.ones(shape)}
  with pytest.raises(ValueError, match=re.escape(f'emb was float32[16, 64] and is float32{list(shape)}. resize=True')):
    bo.carry_state(trained(tx), tx, PARAMS, new)
  after = bo.carry_state(trained(tx), tx, PARAMS, new, resize=True)
  assert caplog.messages == ['carry_state: resized: emb']
  for key, slot in after.slots.items():
    expected = np.zeros(shape, np.float32)
    rows, columns = (slice(min(a, b)) for a, b in zip(shape, (16, 64), strict=True))
    expected[rows, columns] = np.asarray(trained(tx).slots[key]['emb'])[rows, columns]
    np.testing.assert_array_equal(slot['emb'], expected)
    np.testing.assert_array_equal(slot['bias'], trained(tx).slots[key]['bias'])


def test_fresh_values_of_a_resized_array_are_those_of_init():
  """Of lookahead they are the parameters."""
  tx = bo.compose(bo.sgd(0.1), bo.lookahead(2))
  new = {**PARAMS, 'bias': jnp.arange(20.0)}
  after = bo.carry_state(tx.init(PARAMS), tx, PARAMS, new, resize=True)
  np.testing.assert_array_equal(after.slots['slow']['bias'], [*PARAMS['bias'], 16, 17, 18, 19])


@pytest.mark.parametrize('store', ['packed16', 'int8'])
def test_resized_codes(store):
  """What was coded is coded again: each value is that of a state that was decoded, resized and coded."""
  tx, plain = bo.adam(1e-3, store=STORES[store]), bo.adam(1e-3)
  new = {**PARAMS, 'emb': jnp.ones((24, 64))}
  after = bo.carry_state(trained(tx), tx, PARAMS, new, resize=True)
  assert types(after) == types(tx.init(new))
  expected = bo.carry_state(bo.decode_state(trained(tx), tx), plain, PARAMS, new, resize=True)
  read, coded = (bo.decode_state(x, tx).slots for x in (after, bo.convert_state(expected, plain, tx, new)))
  for name, slot in read.items():
    np.testing.assert_allclose(slot['emb'], coded[name]['emb'], rtol=0, atol=1e-37)  # no code means 0
    np.testing.assert_array_equal(slot['bias'], bo.decode_state(trained(tx), tx).slots[name]['bias'])


def test_what_cannot_be_carried_over_is_all_listed():
  tx = bo.adam(1e-3)
  new = {'emb': jnp.ones((16, 64, 1)), 'bias': jnp.ones(16, jnp.complex64)}
  with pytest.raises(ValueError, match='new_params') as error:
    bo.carry_state(trained(tx), tx, PARAMS, new, resize=True)
  assert str(error.value).startswith(
    'new_params: bias was float32[16] and is complex64[16]; emb was float32[16, 64] and is float32[16, 64, 1]. '
  )
  twice = {'a': {'b': jnp.ones(1)}, 'a/b': jnp.ones(1)}
  with pytest.raises(ValueError, match='new_params: two leaves have the path a/b'):
    bo.carry_state(trained(tx), tx, PARAMS, twice)


def test_carried_training_goes_on():
  """The parameter that stays takes the steps that it would have taken."""
  tx, new = bo.adabelief(1e-2), {'emb': PARAMS['emb'], 'head': jnp.ones(4)}
  after = bo.carry_state(trained(tx), tx, PARAMS, new)
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, new), after, new)
  expected, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), trained(tx), PARAMS)
  np.testing.assert_allclose(updates['emb'], expected['emb'], rtol=1e-6)


@pytest.mark.parametrize('store', ['float32', 'packed16'])
def test_a_second_moment_of_another_meaning_is_refused(store):
  """The slots of Adam and AdaBelief have the same names; E[g^2] taken for E[(g - m)^2] makes steps too short."""
  adam, belief = bo.adam(1e-3, store=store), bo.adabelief(1e-3)
  for one, other in ((adam, belief), (belief, adam), (bo.rmsprop(0.1), bo.adagrad(0.1))):
    with pytest.raises(
      ValueError, match=r'nu is that of \w+ in tx_from, but that of \w+ in tx_to.*interop\.warm_start'
    ):
      bo.convert_state(one.init(PARAMS), one, other, PARAMS)
  there = interop.warm_start(trained(adam), adam, belief, PARAMS)
  assert types(bo.convert_state(there, belief, bo.adabelief(0.1, store=store), PARAMS)) == types(trained(adam))
  for same in (bo.adamw(1e-2, b1=0.8), bo.radam(1e-2), bo.compose(bo.nadam(0.1))):  # another rule for the same numbers
    assert_equal(bo.convert_state(trained(bo.adam(1e-3)), bo.adam(1e-3), same, PARAMS), trained(bo.adam(1e-3)))
