"""State and parameters of torch without torch: names, axes, dtypes, files, errors; and one optimizer after another."""

import copy
import functools
import logging
import math
import re
import sys
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from contract_helpers import assert_equal
from flax import linen, nnx
from helpers import take_steps, x64
from registry import matrices_only

import belief_optax as bo
from belief_optax import interop, presets
from belief_optax.param_groups import ByPath
from belief_optax.pieces.moments import SecondMoment as Moment

PARAMS = {
  'Dense_0': {'bias': jnp.asarray([1.0, 2.0, 3.0]), 'kernel': jnp.asarray([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])},
  'scale': jnp.asarray([4.0]),
}
PATHS = ['Dense_0/bias', 'Dense_0/kernel', 'scale']
SHAPES = [(3,), (2, 3), (1,)]
NAMES = {'norm.weight': 'scale', 'fc.weight': interop.Name('Dense_0/kernel', (1, 0)), 'fc.bias': 'Dense_0/bias'}
SCHEDULE = optax.linear_schedule(0.5, 0.0, 8)


def _quiet(make, **kwargs):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', presets.DialectWarning)
    return make(**kwargs)


ADAMS = {
  'adam': presets.torch.adam(weight_decay=0.1),
  'amsgrad': presets.torch.adam(amsgrad=True, maximize=True),
  'adamw': presets.torch.adamw(SCHEDULE),
  'radam': presets.torch.radam(),
  'adabelief': presets.timm.adabelief(rectify=False, amsgrad=True),
  'ranger': presets.ranger_adabelief.ranger(k=2),
  'labml': presets.labml.adabelief(amsgrad=True),
  'pytorch_optimizer': presets.pytorch_optimizer.adabelief(adam_debias=True),
  'torch_optimizer': _quiet(presets.torch_optimizer.adabelief, rectify=True, amsgrad=True),
}
OTHERS = {
  'nadam': presets.torch.nadam(),
  'rmsprop': presets.torch.rmsprop(momentum=0.5),
  'centered': presets.torch.rmsprop(centered=True),
  'rmsprop_tf': presets.timm.rmsprop_tf(momentum=0.5),
  'adagrad': presets.torch.adagrad(lr_decay=0.5, initial_accumulator_value=0.25),
  'momentum': presets.torch.sgd(momentum=0.5, dampening=0.25),
}
RECIPES = {**ADAMS, **OTHERS}
each_recipe = pytest.mark.parametrize('tx', RECIPES.values(), ids=RECIPES)


@functools.cache
def trained(tx, steps=3):
  """The state after some steps."""
  rows = np.random.RandomState(0).standard_normal((steps, 10)).astype(np.float32)
  leaves, treedef = jax.tree.flatten(PARAMS)
  ends = np.cumsum([0, *(x.size for x in leaves)])
  parts = [rows[:, i:j].reshape(steps, *x.shape) for x, i, j in zip(leaves, ends, ends[1:], strict=False)]
  return take_steps([tx], treedef.unflatten(parts), PARAMS)[0][1]


def dumped(tx, names=None):
  return copy.deepcopy(interop.dump_state(trained(tx), tx, PARAMS, names))


# There and back.


@each_recipe
@pytest.mark.parametrize('names', [None, PATHS[::-1], NAMES, dict(enumerate(PATHS))], ids=str)
def test_round_trips_through_numpy(tx, names):
  state = interop.load_state(dumped(tx, names), tx, PARAMS, names, count=3)
  assert jax.tree.structure(state) == jax.tree.structure(trained(tx))
  # E[g^2] of centered RMSProp and the product of NAdam are rounded once more
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-9), state, trained(tx))
  if tx not in (OTHERS['centered'], OTHERS['nadam']):
    assert_equal(state, trained(tx))


@each_recipe
def test_round_trips_through_a_file(tx, tmp_path):
  state_dict = dumped(tx, NAMES)
  interop.save_safetensors(tmp_path / 'state', state_dict)
  read = interop.load_safetensors(tmp_path / 'state')
  assert read['param_groups'] == state_dict['param_groups']
  assert_equal(read['state'], state_dict['state'])
  assert [*read['state']] == [*state_dict['state']]


@pytest.mark.parametrize('convert', [jnp.asarray, np.asarray, lambda x: np.asarray(x).astype(jnp.bfloat16)])
def test_values_of_any_library(convert):
  """The slots have the dtype of `init`, whatever arrives."""
  tx = ADAMS['adam']
  state_dict = jax.tree.map(convert, dumped(tx)['state'])
  state = interop.load_state({'state': state_dict, 'param_groups': [{'params': [0, 1, 2]}]}, tx, PARAMS)
  assert state.slots['mu']['scale'].dtype == jnp.float32
  assert state.count.dtype == jnp.int32
  np.testing.assert_array_equal(state.slots['nu']['scale'], convert(trained(tx).slots['nu']['scale']))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_slots_have_the_dtype_of_init(dtype):
  tx = ADAMS['amsgrad']
  with x64():
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    state = interop.load_state(dumped(tx), tx, params)
    assert_equal(*[jax.tree.map(lambda x: jnp.zeros_like(x), s) for s in (state, tx.init(params))])


def test_a_slot_of_few_bits_keeps_its_dtype():
  tx = bo.compose(bo.first_moment(0.9, dtype='bfloat16'), bo.bias_correct(0.9), bo.second_moment(0.9))
  state = interop.load_state(dumped(tx), tx, PARAMS)
  assert state.slots['mu']['scale'].dtype == jnp.bfloat16
  assert_equal(state, trained(tx))


def test_state_stays_where_the_parameters_are():
  device = jax.devices()[3]
  params = {**PARAMS, 'scale': jax.device_put(PARAMS['scale'], device)}
  state = interop.load_state(dumped(ADAMS['adam']), ADAMS['adam'], params)
  assert state.slots['mu']['scale'].devices() == {device}
  assert not state.slots['mu']['Dense_0']['bias'].committed
  assert interop.load_params(interop.dump_params(PARAMS, NAMES), params, NAMES)['scale'].devices() == {device}


@each_recipe
def test_the_state_can_be_donated(tx):
  """No buffer stands in it twice."""
  state = interop.load_state(dumped(tx), tx, PARAMS, count=3)
  jax.block_until_ready(jax.jit(lambda s, p: tx.update(p, s, p)[1], donate_argnums=0)(state, PARAMS))


# What torch calls things.


@pytest.mark.parametrize(
  ('tx', 'entries'),
  [
    (ADAMS['amsgrad'], ['exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'step']),
    (ADAMS['adabelief'], ['exp_avg', 'exp_avg_var', 'max_exp_avg_var', 'step']),
    (ADAMS['ranger'], ['exp_avg', 'exp_avg_sq', 'slow_buffer', 'step']),
    (ADAMS['torch_optimizer'], ['exp_avg', 'exp_avg_var', 'max_exp_avg_var', 'rho_inf', 'step']),
    (OTHERS['nadam'], ['exp_avg', 'exp_avg_sq', 'mu_product', 'step']),
    (OTHERS['rmsprop'], ['momentum_buffer', 'square_avg', 'step']),
    (OTHERS['centered'], ['grad_avg', 'square_avg', 'step']),
    (OTHERS['adagrad'], ['step', 'sum']),
    (OTHERS['momentum'], ['momentum_buffer']),
  ],
  ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_entries(tx, entries):
  assert sorted(dumped(tx)['state'][0]) == entries


def test_bert_adam():
  """Its names are its own, and its groups are those of the optimizer."""
  tx, zeros = presets.bert.adamw(0.1), np.zeros(2, np.float64)
  like = {'state': {0: {'step': 9, 'next_m': zeros, 'next_v': zeros}}, 'param_groups': [{'params': [0], 'e': 1e-6}]}
  params = jnp.ones(2)
  state = interop.load_state(like, tx, params)
  assert int(state.count) == 9
  again = interop.dump_state(state, tx, params, like=like)
  assert_equal(again, like)
  assert again['state'][0]['next_m'].dtype == np.float64
  with pytest.raises(ValueError, match='pass the optimizer as like'):
    interop.dump_state(state, tx, params)


@pytest.mark.parametrize(
  ('tx', 'expected'),
  [
    (ADAMS['adam'], {'lr': 1e-3, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.1, 'maximize': False}),
    (ADAMS['adam'], {'amsgrad': False, 'decoupled_weight_decay': False, 'fixed_decay': False, 'adam_debias': False}),
    (ADAMS['amsgrad'], {'amsgrad': True, 'ams_bound': True, 'maximize': True}),
    (ADAMS['adamw'], {'lr': 0.3125, 'weight_decay': 0.01, 'decoupled_weight_decay': True, 'fixed_decay': False}),
    (ADAMS['pytorch_optimizer'], {'adam_debias': True, 'rectify': False, 'step': 3}),
    (ADAMS['ranger'], {'k': 2, 'alpha': 0.5, 'N_sma_threshhold': 5.0, 'step_counter': 0}),
    (OTHERS['nadam'], {'momentum_decay': 4e-3, 'lr': 2e-3, 'adam_debias': False}),
    (OTHERS['centered'], {'alpha': 0.99, 'centered': True, 'momentum': 0.0}),
    (OTHERS['rmsprop'], {'lr_in_momentum': False, 'momentum': 0.5, 'centered': False}),
    (OTHERS['rmsprop_tf'], {'lr_in_momentum': True, 'eps': 1e-10, 'maximize': False}),
    (OTHERS['adagrad'], {'lr_decay': 0.5, 'initial_accumulator_value': 0.25, 'lr': 0.01}),
    (OTHERS['momentum'], {'momentum': 0.5, 'dampening': 0.25, 'nesterov': False}),
    (presets.torch.sgd(momentum=0.5, nesterov=True, maximize=True), {'nesterov': True, 'maximize': True}),
    (
      presets.timm.adabelief(weight_decay=0.1, fixed_decay=True, degenerated_to_sgd=False),
      {'fixed_decay': True, 'decoupled_decay': True, 'rectify': True, 'degenerated_to_sgd': False},
    ),
    (
      presets.timm.rmsprop_tf(SCHEDULE, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True),
      {'corrected_weight_decay': True, 'decoupled_decay': True, 'max_lr_snapshot': 0.5, 'lr': 0.3125},
    ),
  ],
)
def test_param_groups_are_read_from_the_lines(tx, expected):
  (group,) = interop.dump_state(trained(tx), tx, PARAMS)['param_groups']
  assert group['params'] == [0, 1, 2]
  assert {name: group[name] for name in expected} == expected


class Bounded(bo.Line):
  """A line of the user's, of which torch knows nothing."""

  def step(self, x, k):
    return x.redirect(jnp.clip(x.u, -1, 1))


@pytest.mark.parametrize(
  ('tx', 'words'),
  [
    (bo.adamw(1e-3, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)), 'masks'),
    (bo.adamw(SCHEDULE, weight_decay=0.1, weight_decay_mode='independent'), 'independent'),
    (bo.adamw(1e-3, weight_decay_mode='cautious'), r'no hyperparameter of torch says add_cautious_decay\('),
    (bo.adamw(1e-3, weight_decay_mode='proximal'), r'no hyperparameter of torch says proximal_decay\('),
    (bo.compose(bo.clip_direction(1.0), bo.adam(1e-3)), r'no hyperparameter of torch says clip_direction\('),
    (bo.compose(bo.adam(1e-3), bo.piece(Bounded)()), r'no hyperparameter of torch says bounded\('),
  ],
)
def test_param_groups_that_torch_has_no_word_for(tx, words):
  with pytest.raises(ValueError, match=words):
    interop.dump_state(trained(tx), tx, PARAMS)
  like = dumped(bo.adam(1e-3))
  like['param_groups'][0]['lr'] = 7.0
  assert interop.dump_state(trained(tx), tx, PARAMS, like=like)['param_groups'] == like['param_groups']


def test_a_line_that_changes_what_moments_mean_is_refused_both_ways():
  """LARS has a momentum in torch as we have, and it means something else."""
  refused = pytest.raises(ValueError, match=r'no optimizer of torch whose state is known here has a line like trust_r')
  with refused:
    interop.dump_state(trained(bo.lamb(1e-3)), bo.lamb(1e-3), PARAMS, like=dumped(bo.adam(1e-3)))
  with refused:
    interop.load_state(dumped(bo.adam(1e-3)), bo.lamb(1e-3), PARAMS)


def test_like_without_a_state_must_be_the_optimizer():
  tx = ADAMS['adam']
  like = {'state': {}, 'param_groups': [{'params': [0, 1, 2]}]}
  with pytest.raises(ValueError, match='must be the optimizer itself'):
    interop.dump_state(trained(tx), tx, PARAMS, like=like)


def test_like_says_what_the_values_become():
  tx = ADAMS['adam']
  held = {'step': np.float64(0), 'exp_avg': np.zeros(3, np.float16), 'exp_avg_sq': jnp.zeros(3, jnp.bfloat16)}
  like = {'state': dict.fromkeys(range(3), held), 'param_groups': [{'params': [0, 1, 2]}]}
  entry = interop.dump_state(trained(tx), tx, PARAMS, like=like)['state'][0]
  assert {name: type(value) for name, value in entry.items()} == {
    'step': np.float64, 'exp_avg': np.ndarray, 'exp_avg_sq': type(jnp.zeros(3)),
  }  # fmt: skip
  assert (entry['exp_avg'].dtype, entry['exp_avg_sq'].dtype) == (np.float16, jnp.bfloat16)


# The step.


def adam_dict(*steps, group=None):
  """A state_dict of Adam for `PARAMS`."""
  entry = lambda shape, step: (
    {'exp_avg': np.ones(shape), 'exp_avg_sq': np.ones(shape)} | ({} if step is None else {'step': step})
  )
  state = {i: entry(shape, step) for i, (shape, step) in enumerate(zip(SHAPES, steps, strict=True))}
  return {'state': state, 'param_groups': [{'params': [0, 1, 2], **({} if group is None else {'step': group})}]}


@pytest.mark.parametrize(
  ('steps', 'group', 'count'),
  [
    ((4, 4, 4), None, 4),
    ((4.0, np.float32(4), jnp.asarray(4.0)), None, 4),
    ((None, None, None), 5, 5),
    ((3, 3, 3), 5, 5),  # one of the two is what was loaded long ago
    ((7, 7, 7), 5, 7),
  ],
)
def test_step(steps, group, count):
  assert int(interop.load_state(adam_dict(*steps, group=group), ADAMS['adam'], PARAMS).count) == count


@pytest.mark.parametrize(
  ('steps', 'count', 'message'),
  [
    ((4, 5, 4), None, r'step: expected the same for all, found 4 \(0, 2\); 5 \(1\)'),
    ((4, 5, 4), None, r'give those that began later a group of by_path, each of which has a count of its own'),
    ((4, None, 4), None, r'found 4 \(0, 2\); none \(1\)'),
    ((4.5, 4.5, 4.5), None, r'expected an integer from 0 to 2\^31 - 1, found 4.5 \(0, 1, 2\)'),
    ((4, 4, 4), 5, 'expected 5, found 4'),
    ((None, None, None), None, 'as torch keeps one beside second moments: pass count, found none'),
    ((4, -5, 4), None, r'found -5 \(1\)'),
    ((-1, -1, -1), None, r'found -1 \(0, 1, 2\)'),
    ((2**31,) * 3, None, r'found 2147483648 \(0, 1, 2\)'),
    ((1e30, math.nan, math.inf), None, r'found 1e\+30 \(0\); nan \(1\); inf \(2\)'),
    ((True, '4', [4, 4]), None, r"found True \(0\); '4' \(1\); \[4, 4\] \(2\)"),
  ],
)
def test_step_that_does_not_fit(steps, count, message):
  with pytest.raises(ValueError, match=message):
    interop.load_state(adam_dict(*steps), ADAMS['adam'], PARAMS, count=count)


@pytest.mark.parametrize('step', [0, 2**31 - 1, np.int64(7), np.asarray([7.0]), jnp.asarray(7)])
def test_every_count_that_int32_holds(step):
  state = interop.load_state(adam_dict(step, step, step), ADAMS['adam'], PARAMS)
  assert (int(state.count), state.count.dtype) == (int(np.asarray(step).item()), jnp.int32)


@pytest.mark.parametrize('count', [-5, 2.5, 2**31, True, 'x', math.nan])
def test_count_that_is_none(count):
  with pytest.raises(ValueError, match=r'count must be an integer from 0 to 2\^31 - 1, got '):
    interop.load_state(dumped(OTHERS['momentum']), OTHERS['momentum'], PARAMS, count=count)


def test_sgd_has_no_step():
  buffers = dumped(OTHERS['momentum'])
  assert int(interop.load_state(buffers, OTHERS['momentum'], PARAMS).count) == 1
  scheduled = presets.torch.sgd(SCHEDULE, momentum=0.5, dampening=0.25)
  with pytest.raises(ValueError, match='tx has a schedule: pass count'):
    interop.load_state(buffers, scheduled, PARAMS)
  assert int(interop.load_state(buffers, scheduled, PARAMS, count=6).count) == 6
  masked = bo.compose(bo.add_decayed_weights(0.1, matrices_only), OTHERS['momentum'])  # a mask is no schedule
  assert int(interop.load_state(buffers, masked, PARAMS).count) == 1
  plain = {'state': {}, 'param_groups': [{'params': [0, 1, 2]}]}
  assert int(interop.load_state(plain, presets.torch.sgd(SCHEDULE), PARAMS, count=6).count) == 6


def test_nothing_before_the_first_step():
  tx = OTHERS['momentum']
  none = {'state': {i: {'momentum_buffer': None} for i in range(3)}, 'param_groups': [{'params': [0, 1, 2]}]}
  assert_equal(interop.load_state(none, tx, PARAMS), tx.init(PARAMS))
  assert interop.dump_state(tx.init(PARAMS), tx, PARAMS)['state'] == {}


# What one side does not have.


def lines(error):
  return [line.strip() for line in str(error.value).splitlines()[1:]]


FRESH = (
  "Torch has no state of a parameter that is not trained or never had a gradient: missing='fresh' gives it that of "
  'tx.init(params).'
)


@pytest.mark.parametrize('tx', [ADAMS['adam'], ADAMS['ranger'], OTHERS['momentum'], OTHERS['adagrad']])
def test_a_parameter_that_never_had_a_gradient(tx, caplog):
  state_dict = dumped(tx)
  kept = ', '.join(sorted(state_dict['state'].pop(1).keys() - {'step'}))
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_state(state_dict, tx, PARAMS, count=3)
  assert lines(error) == [f'Dense_0/kernel (1): state: expected {kept}, found none.', FRESH]
  assert not caplog.records
  state = interop.load_state(state_dict, tx, PARAMS, count=3, missing='fresh')
  assert caplog.record_tuples == [
    ('belief_optax', logging.WARNING, 'load_state: fresh, as torch has nothing for them: Dense_0/kernel')
  ]
  for slot, tree in trained(tx).slots.items():
    tree['Dense_0']['kernel'] = tx.init(PARAMS).slots[slot]['Dense_0']['kernel']
    assert_equal(state.slots[slot], tree)
  assert int(state.count) == 3
  jax.block_until_ready(jax.jit(lambda s, p: tx.update(p, s, p)[1], donate_argnums=0)(state, PARAMS))


@pytest.mark.parametrize(
  ('names', 'lacking'),
  [
    ({'fc.bias': 'Dense_0/bias', 'fc.weight': 'Dense_0/kernel'}, 'scale: names: expected one name, found none.'),
    (
      {'fc.bias': 'Dense_0/bias', 'fc.weight': 'Dense_0/kernel', 'norm': 'scale'},
      "scale ('norm'): parameter: expected one of torch, found none.",
    ),
    (['Dense_0/bias', 'Dense_0/kernel'], 'scale: names: expected one name, found none.'),
    ({0: 'Dense_0/bias', 1: 'Dense_0/kernel'}, 'scale: names: expected one name, found none.'),
  ],
)
def test_a_leaf_that_torch_does_not_train(names, lacking):
  """Frozen there: it is no parameter of the optimizer."""
  tx = ADAMS['amsgrad']
  state_dict = dumped(tx)
  del state_dict['state'][2]
  state_dict['param_groups'][0] |= {'params': [0, 1], 'param_names': ['fc.bias', 'fc.weight']}
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_state(state_dict, tx, PARAMS, names)
  assert lines(error) == [lacking, FRESH]
  state = interop.load_state(state_dict, tx, PARAMS, names, missing='fresh')
  for slot, tree in trained(tx).slots.items():
    assert_equal(state.slots[slot], tree | {'scale': jnp.zeros(1)})


def test_an_order_that_is_in_doubt_is_never_filled_up():
  """Where torch has fewer parameters than an order names, each could be that of another leaf."""
  params = {name: jnp.ones(1) for name in 'abc'}
  entry = {'step': 1, 'exp_avg': np.ones(1), 'exp_avg_sq': np.ones(1)}
  state_dict = {'state': {0: entry, 1: entry}, 'param_groups': [{'params': [0, 1]}]}
  for names in (None, list('abc'), dict(enumerate('abc'))):
    with pytest.raises(ValueError, match=r'c \(2\): parameter: expected one of torch, found none'):
      interop.load_state(state_dict, ADAMS['adam'], params, names, missing='fresh')


IGNORE = "What has no leaf here is left out by ignore=, globs over torch's names or compiled regular expressions."


@pytest.mark.parametrize(
  ('names', 'patterns'),
  [
    ({'norm.weight': 'scale', 'fc.bias': 'Dense_0/bias'}, 'fc.w*'),
    ({'norm.weight': 'scale', 'fc.bias': 'Dense_0/bias'}, [re.compile(r'fc\.(w.*|x)')]),
    ({0: 'scale', 2: 'Dense_0/bias'}, ['fc.weight']),
    (['scale', 'Dense_0/bias'], ['fc.weight']),  # the order of the others
  ],
)
def test_parameters_of_torch_without_a_leaf(names, patterns, caplog):
  tx, state_dict = ADAMS['adam'], dumped(ADAMS['adam'], NAMES)
  params = {'Dense_0': {'bias': PARAMS['Dense_0']['bias']}, 'scale': PARAMS['scale']}
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_state(state_dict, tx, params, names)
  assert lines(error)[-1] == IGNORE
  state = interop.load_state(state_dict, tx, params, names, ignore=patterns)
  assert caplog.messages == ['load_state: ignored of torch: fc.weight']
  slots = {slot: {**tree, 'Dense_0': {'bias': tree['Dense_0']['bias']}} for slot, tree in trained(tx).slots.items()}
  assert_equal(state, trained(tx)._replace(slots=slots))
  again = interop.dump_state(state, tx, params, names, like=state_dict, ignore=patterns)
  assert again['param_groups'] == state_dict['param_groups']
  assert_equal(again['state'], {i: state_dict['state'][i] for i in (0, 2)})


def test_indices_are_ignored_as_text():
  state_dict = dumped(ADAMS['adam'])
  params = {'Dense_0': PARAMS['Dense_0']}
  state = interop.load_state(state_dict, ADAMS['adam'], params, ignore='2')
  assert_equal(state.slots['mu'], {'Dense_0': trained(ADAMS['adam']).slots['mu']['Dense_0']})


def test_what_is_ignored_is_also_missing():
  """An ignored parameter that has a leaf: the leaf is one that torch does not have."""
  tx, state_dict = ADAMS['adam'], dumped(ADAMS['adam'], NAMES)
  with pytest.raises(ValueError, match=r"scale \('norm.weight'\): parameter: expected one of torch, found none"):
    interop.load_state(state_dict, tx, PARAMS, NAMES, ignore='norm.*')
  state = interop.load_state(state_dict, tx, PARAMS, NAMES, ignore='norm.*', missing='fresh')
  assert_equal(state.slots['nu'], trained(tx).slots['nu'] | {'scale': jnp.zeros(1)})


def test_options_of_what_one_side_does_not_have():
  state_dict, module = dumped(ADAMS['adam'], NAMES), interop.dump_params(PARAMS, NAMES)
  for call in (
    lambda **kwargs: interop.load_state(state_dict, ADAMS['adam'], PARAMS, NAMES, **kwargs),
    lambda **kwargs: interop.load_params(module, PARAMS, NAMES, **kwargs),
  ):
    with pytest.raises(ValueError, match=r"ignore: pattern: expected one that matches some of .*, found 'head.\*'"):
      call(ignore=['fc.*', 'head.*'])
    with pytest.raises(
      TypeError, match='ignore must be a glob, a compiled regular expression, or several of them, got 7'
    ):
      call(ignore=7)
    with pytest.raises(TypeError, match='got None'):
      call(ignore=[None])
    with pytest.raises(ValueError, match=r"missing must be one of 'error', '(fresh|keep)', got 'skip'"):
      call(missing='skip')


def test_tied_weights_and_buffers_of_a_module(caplog):
  module = {'bn.running_mean': np.ones(3), **interop.dump_params(PARAMS, NAMES), 'head.weight': np.ones((3, 2))}
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_params(module, PARAMS, NAMES)
  assert lines(error) == [
    "'bn.running_mean': parameter of torch: expected a name, found none.",
    "'head.weight': parameter of torch: expected a name, found none.",
    IGNORE,
  ]
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  patterns = ['head.weight', re.compile(r'.*\.running_(mean|var)')]
  assert_equal(interop.load_params(module, zeros, NAMES, ignore=patterns), PARAMS)
  assert caplog.messages == ['load_params: ignored of torch: bn.running_mean, head.weight']
  order = ['scale', interop.Name('Dense_0/kernel', (1, 0)), 'Dense_0/bias']
  assert_equal(interop.load_params(module, zeros, order, ignore=patterns), PARAMS)  # the order of the others
  places = dict(enumerate(order, 1))
  assert_equal(interop.load_params(module, zeros, places, ignore=patterns), PARAMS)  # a place is one of all
  back = interop.dump_params(PARAMS, NAMES, like=module, ignore=patterns)
  assert_equal(back, interop.dump_params(PARAMS, NAMES))


def test_a_new_head_keeps_its_parameters(caplog):
  module = interop.dump_params(PARAMS, NAMES)
  params = {**jax.tree.map(jnp.zeros_like, PARAMS), 'head': jnp.full(2, 5.0)}
  with pytest.raises(ValueError, match='head: names: expected one name, found none') as error:
    interop.load_params(module, params, NAMES)
  assert lines(error)[-1] == "missing='keep' leaves what torch does not have as it is in params."
  assert_equal(interop.load_params(module, params, NAMES, missing='keep'), {**PARAMS, 'head': params['head']})
  assert caplog.messages == ['load_params: kept, as torch has nothing for them: head']


# Recipes inside of something.


def at_different_steps(tx):
  """A state_dict in which `scale` was frozen for the first two of three steps, and the states of both."""
  late, early = dumped_after(tx, 1), dumped(tx)
  return {**early, 'state': {**early['state'], 2: late['state'][2]}}, trained(tx), trained(tx, 1)


def dumped_after(tx, steps):
  return copy.deepcopy(interop.dump_state(trained(tx, steps), tx, PARAMS))


@pytest.mark.parametrize('tx', [ADAMS['adam'], ADAMS['amsgrad'], OTHERS['nadam']])
def test_groups_of_by_path_count_for_themselves(tx):
  """Gradual unfreezing: each group goes on as an optimizer of its own."""
  state_dict, early, late = at_different_steps(tx)
  with pytest.raises(ValueError, match=r'step: expected the same for all, found 3 \(0, 1\); 1 \(2\)'):
    interop.load_state(state_dict, tx, PARAMS)
  groups = bo.by_path({'scale': tx}, tx)
  state = interop.load_state(state_dict, groups, PARAMS)
  assert jax.tree.structure(state) == jax.tree.structure(groups.init(PARAMS))
  updates, after = groups.update(PARAMS, state, PARAMS)
  (first, _), (second, _) = (tx.update(PARAMS, s, PARAMS) for s in (early, late))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6), updates, {**first, 'scale': second['scale']})
  assert [int(group.inner_state.count) for group in after.inner_states.values()] == [2, 4]


def test_groups_of_by_path_take_names_and_stores():
  tx, packed = ADAMS['adam'], bo.compose(ADAMS['adam'], store=bo.stores.Int8(min_size=0))
  groups = bo.by_path({'Dense_0/*': packed}, tx)
  state = interop.load_state(dumped(tx, NAMES), groups, PARAMS, NAMES)
  dense, rest = (group.inner_state for group in state.inner_states.values())
  assert_equal(rest.slots['mu']['scale'], trained(tx).slots['mu']['scale'])
  masked = {**PARAMS, 'scale': optax.MaskedNode()}
  part = trained(tx)._replace(slots={slot: {**t, 'scale': optax.MaskedNode()} for slot, t in trained(tx).slots.items()})
  assert_equal(dense, bo.convert_state(part, tx, packed, masked))


def test_groups_of_by_path_that_keep_nothing():
  """What is frozen by set_to_zero needs no state, and can take none."""
  tx = ADAMS['adam']
  groups = bo.by_path({'scale': optax.set_to_zero()}, tx)
  state_dict = dumped(tx)
  with pytest.raises(ValueError, match='scale: state: expected none, as its group keeps none, found step, exp_avg'):
    interop.load_state(state_dict, groups, PARAMS)
  del state_dict['state'][2]
  state = interop.load_state(state_dict, groups, PARAMS)
  assert_equal(state.inner_states['default'].inner_state.slots['nu']['Dense_0'], trained(tx).slots['nu']['Dense_0'])
  assert jax.tree.structure(state) == jax.tree.structure(groups.init(PARAMS))
  fresh = bo.by_path({'scale': ADAMS['adam']}, tx)
  with pytest.raises(ValueError, match=r'scale \(2\): state: expected exp_avg, exp_avg_sq, found none'):
    interop.load_state(state_dict, fresh, PARAMS)
  begun = interop.load_state(state_dict, fresh, PARAMS, missing='fresh').inner_states
  assert [int(group.inner_state.count) for group in begun.values()] == [0, 3]
  assert_equal(interop.load_state(adam_dict(None, None, None) | {'state': {}}, fresh, PARAMS), fresh.init(PARAMS))
  with pytest.raises(TypeError, match='must be a Recipe'):
    interop.load_state(dumped(tx), bo.by_path({'scale': optax.adam(0.1)}, tx), PARAMS)


def test_a_recipe_in_a_chain():
  """The schedules around it go on from the same step."""
  scaled = optax.chain(bo.scale_by_belief(), optax.scale_by_schedule(lambda count: -0.5 / (1 + count)))
  inner = bo.scale_by_belief()
  state, params = trained(inner), PARAMS
  expected = scaled.init(params)
  for _ in range(3):
    _, expected = scaled.update(params, expected, params)
  put = interop.put_state(scaled.init(params), interop.take_state(expected))
  assert_equal(put, expected)
  assert_equal(interop.take_state(interop.put_state(scaled.init(params), state)), state)


def test_a_recipe_in_inject_hyperparams():
  tx = optax.inject_hyperparams(presets.torch.adam)(lr=SCHEDULE)
  expected = tx.init(PARAMS)
  for _ in range(3):
    _, expected = tx.update(PARAMS, expected, PARAMS)
  plain = presets.torch.adam()
  loaded = interop.load_state(interop.dump_state(interop.take_state(expected), plain, PARAMS), plain, PARAMS)
  put = interop.put_state(tx.init(PARAMS), loaded)
  assert int(put.count) == int(put.hyperparams_states['lr'].count) == 3
  updates, after = tx.update(PARAMS, put, PARAMS)
  assert_equal(updates, tx.update(PARAMS, expected, PARAMS)[0])
  assert float(after.hyperparams['lr']) == float(SCHEDULE(3))


def test_a_by_path_in_a_chain():
  tx = ADAMS['adam']
  groups = bo.by_path({'scale': tx}, tx)
  loaded = interop.load_state(dumped(tx), groups, PARAMS)
  chain = optax.chain(optax.clip(1.0), groups, optax.scale_by_schedule(SCHEDULE))
  _, inner, schedule = interop.put_state(chain.init(PARAMS), loaded)
  assert_equal(inner, loaded)
  assert int(schedule.count) == 3


def test_states_that_are_not_inside():
  tx, params = ADAMS['adam'], jnp.ones(2)
  state = tx.init(params)
  with pytest.raises(ValueError, match=r'around must hold one state like .*, but it holds 2'):
    interop.put_state((state, state), state)
  with pytest.raises(ValueError, match='but it holds 0'):
    interop.put_state(optax.adam(0.1).init(params), state)
  with pytest.raises(ValueError, match=r"state.slots\['mu'\] is float32\[2\], but must be float32\[3\] as in around"):
    interop.put_state((tx.init(jnp.ones(3)),), state)
  for around in ((state, state), optax.adam(0.1).init(params)):
    with pytest.raises(ValueError, match=r'around must hold one State of a recipe, but it holds [02]'):
      interop.take_state(around)


# Names.


def test_axes():
  entry = dumped(ADAMS['adam'], NAMES)
  assert entry['param_groups'][0]['param_names'] == list(NAMES)
  assert [entry['state'][i]['exp_avg'].shape for i in range(3)] == [(1,), (3, 2), (3,)]
  mu = trained(ADAMS['adam']).slots['mu']['Dense_0']['kernel']
  np.testing.assert_array_equal(entry['state'][1]['exp_avg'], mu.T)
  assert entry['state'][1]['exp_avg'].flags.c_contiguous


@pytest.mark.parametrize('order', [(2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_axes_that_are_no_transposition(order):
  name, x = interop.Name('x', order), np.arange(24).reshape(2, 3, 4)
  np.testing.assert_array_equal(name.to_jax(x), x.transpose(order))
  np.testing.assert_array_equal(name.to_torch(name.to_jax(x)), x)
  params = {'x': jnp.asarray(name.to_jax(x), jnp.float32)}
  assert interop.dump_params(params, {'w': name})['w'].shape == x.shape
  assert_equal(interop.load_params({'w': x}, params, {'w': name}), params)


@pytest.mark.parametrize(
  ('arguments', 'error', 'message'),
  [
    (('a', (0, 2)), ValueError, r'axes must be a permutation of 0, ..., n - 1, got \(0, 2\)'),
    ((3,), TypeError, 'path must be a string'),
  ],
)
def test_wrong_names(arguments, error, message):
  with pytest.raises(error, match=message):
    interop.Name(*arguments)


@pytest.mark.parametrize(
  'names', ['Dense_0/bias', {1: 'scale', 'a': 'Dense_0/bias'}, {True: 'scale'}, 7, {(): 'scale'}]
)
def test_names_of_a_wrong_type(names):
  with pytest.raises(TypeError, match='names'):
    interop.dump_params(PARAMS, names)


def test_names_that_do_not_fit_are_all_listed():
  names = {'a': 'Dense_0/bia', 'b': interop.Name('Dense_0/kernel', (0, 2, 1)), 'c': 'Dense_0/kernel'}
  with pytest.raises(ValueError, match='names does not fit') as error:
    interop.dump_params(PARAMS, names)
  assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
    f"'a': path: expected one of {', '.join(PATHS)}, found Dense_0/bia.",
    'Dense_0/kernel: axes: expected a permutation of 2 axes, found (0, 2, 1).',
    'Dense_0/kernel: names: expected one name, found 2.',
    'Dense_0/bias: names: expected one name, found none.',
    'scale: names: expected one name, found none.',
  ]


def test_names_without_param_names():
  state_dict = dumped(ADAMS['adam'], NAMES)
  del state_dict['param_groups'][0]['param_names']
  with pytest.raises(ValueError, match=r'model.named_parameters\(\)'):
    interop.load_state(state_dict, ADAMS['adam'], PARAMS, NAMES)


class Net(linen.Module):
  @linen.compact
  def __call__(self, x):
    x = linen.Conv(5, (1, 2))(linen.Embed(7, 4)(x))
    return linen.Dense(2)(linen.LayerNorm()(x))


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.Embed_0, self.Conv_0 = nnx.Embed(7, 4, rngs=rngs), nnx.Conv(4, 5, (1, 2), rngs=rngs)
    self.LayerNorm_0, self.Dense_0 = nnx.LayerNorm(5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)


LAYERS = {'emb': 'Embed_0', 'conv': 'Conv_0', 'norm': 'LayerNorm_0', 'fc': 'Dense_0'}
TREES = {
  'linen': lambda: Net().init(jax.random.key(0), jnp.zeros((1, 2, 3), int))['params'],
  'nnx': lambda: nnx.state(NnxNet(nnx.Rngs(0)), nnx.Param),
  'nnx pure': lambda: nnx.to_pure_dict(nnx.state(NnxNet(nnx.Rngs(0)), nnx.Param)),
}


@pytest.mark.parametrize('make', TREES.values(), ids=TREES)
def test_flax_names(make):
  params = make()
  names = interop.flax_names(LAYERS, params)
  assert names == {
    'emb.weight': interop.Name('Embed_0/embedding'),
    'conv.weight': interop.Name('Conv_0/kernel', (2, 3, 1, 0)),
    'conv.bias': interop.Name('Conv_0/bias'),
    'norm.weight': interop.Name('LayerNorm_0/scale'),
    'norm.bias': interop.Name('LayerNorm_0/bias'),
    'fc.weight': interop.Name('Dense_0/kernel', (1, 0)),
    'fc.bias': interop.Name('Dense_0/bias'),
  }
  module = interop.dump_params(params, names)
  assert module['conv.weight'].shape == (5, 4, 1, 2)
  assert_equal(interop.load_params(module, params, names), params)
  tx = ADAMS['adam']
  state_dict = interop.dump_state(tx.init(params), tx, params, names)
  assert_equal(interop.load_state(state_dict, tx, params, names), tx.init(params))


def test_flax_names_of_wrong_layers():
  params = {'a': {'query': {'kernel': jnp.zeros(1)}}, 'ab': {'kernel': jnp.zeros((1, 1))}}
  with pytest.raises(ValueError, match='layers does not fit') as error:
    interop.flax_names({'x': 'a', 'y': 'b', 'z': 'ab'}, params)
  assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
    "a: arrays of torch 'x': expected some of kernel, embedding, scale, bias, found query/kernel.",
    "b: arrays of torch 'y': expected some of kernel, embedding, scale, bias, found none.",
  ]


# Parameters.


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_parameters_keep_their_dtype(dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
  module = {name: x.astype(np.float64) for name, x in interop.dump_params(params, NAMES).items()}
  assert_equal(interop.load_params(module, params, NAMES), params)
  assert interop.dump_params(params, NAMES, like=module)['fc.weight'].dtype == np.float64
  assert [*interop.dump_params(params, PATHS, like=dict.fromkeys('abc', np.zeros(0)))] == ['a', 'b', 'c']


def test_parameters_in_the_order_of_the_state_dict():
  module = {'w': np.ones(1), 'k': np.ones((2, 3)), 'b': np.ones(3)}
  assert_equal(interop.load_params(module, PARAMS, PATHS[::-1]), jax.tree.map(jnp.ones_like, PARAMS))


def test_indices_do_not_name_arrays():
  with pytest.raises(ValueError, match="names must map torch's names"):
    interop.dump_params(PARAMS)


def test_parameters_that_do_not_fit_are_all_listed():
  module = {'fc.weight': np.ones((2, 3)), 'fc.bias': 'text', 'bn.running_mean': np.ones(3)}
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_params(module, PARAMS, NAMES)
  assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
    "'bn.running_mean': parameter of torch: expected a name, found none.",
    "scale ('norm.weight'): parameter: expected one of torch, found none.",
    "Dense_0/kernel ('fc.weight'): shape: expected (3, 2), found (2, 3).",
    "Dense_0/bias ('fc.bias'): array: expected numbers, found str.",
    "What has no leaf here is left out by ignore=, globs over torch's names or compiled regular expressions.",
    "missing='keep' leaves what torch does not have as it is in params.",
  ]


def test_complex_numbers_do_not_become_real():
  with pytest.raises(ValueError, match='dtype: expected float32, found complex64'):
    interop.load_params({'w': np.ones(1, np.complex64)}, {'w': jnp.ones(1)})


@pytest.mark.parametrize('tx', [bo.adam(0.1), presets.torch.adam(), presets.torch.rmsprop(centered=True)])
def test_complex_parameters(tx):
  """The second moment is real, or that of both parts."""
  params = {'w': jnp.asarray([1 + 2j, 3 - 1j])}
  state = tx.init(params)
  for _ in range(3):
    _, state = tx.update({'w': jnp.asarray([0.5 - 1j, 2 + 1j])}, state, params)
  again = interop.load_state(interop.dump_state(state, tx, params), tx, params)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), again, state)


# Errors.


def test_all_that_does_not_fit_is_listed():
  state_dict = adam_dict(4, 5, 4)
  state = state_dict['state']
  del state[0]['exp_avg']
  state[1] |= {'exp_avg': np.ones((3, 2)), 'exp_avg_var': np.ones(1), 'momentum_buffer': None}
  state[2]['exp_avg_sq'] = ['text']
  state[9] = {'exp_avg': np.ones(1)}
  state_dict['param_groups'][0]['params'] = [0, 1, 2, 3]
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_state(state_dict, ADAMS['adam'], PARAMS)
  assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
    '9: state: expected none, as no param_group has this index, found exp_avg.',
    '3: parameter of torch: expected a name, found none.',
    'Dense_0/bias (0): entry: expected exp_avg, found exp_avg_sq, step.',
    'Dense_0/kernel (1): entry: expected one of exp_avg, exp_avg_sq, found exp_avg_var.',
    "Dense_0/kernel ('1, exp_avg'): shape: expected (2, 3), found (3, 2).",
    "scale ('2, exp_avg_sq'): array: expected numbers, found list.",
    'all parameters: step: expected the same for all, found 4 (0, 2); 5 (1).',
    "What has no leaf here is left out by ignore=, globs over torch's names or compiled regular expressions.",
    'A State has one count for all parameters: give those that began later a group of by_path, each of which has a '
    'count of its own, and load into that.',
  ]


def test_the_belief_of_one_is_not_the_moment_of_another():
  with pytest.raises(ValueError, match='expected one of exp_avg, exp_avg_sq, found exp_avg_var'):
    interop.load_state(dumped(presets.timm.adabelief()), ADAMS['adam'], PARAMS)


def test_what_can_be_recomputed_is_accepted():
  state_dict = dumped(ADAMS['adam'])
  for entry in state_dict['state'].values():
    entry |= {'rho_inf': 1999.0, 'rho_t': 3.0}
  assert_equal(interop.load_state(state_dict, ADAMS['adam'], PARAMS), trained(ADAMS['adam']))


def test_the_product_of_a_long_run_of_nadam():
  """It is 0 in float32 after a thousand steps; nothing is left to correct."""
  tx, states = OTHERS['nadam'], []
  for product in (0.0, 1e-30):
    state_dict = dumped(tx)
    for entry in state_dict['state'].values():
      entry |= {'mu_product': product, 'step': 5000}
    states.append(interop.load_state(state_dict, tx, PARAMS))
  assert_equal(*(tx.update(PARAMS, state, PARAMS)[0] for state in states))


@pytest.mark.parametrize('product', [None, -0.1, 1.5, math.nan])
def test_product_of_nadam(product):
  state_dict = dumped(OTHERS['nadam'])
  for entry in state_dict['state'].values():
    entry['mu_product'] = product
  with pytest.raises(ValueError, match='mu_product'):
    interop.load_state(state_dict, OTHERS['nadam'], PARAMS)


@pytest.mark.parametrize('tx', [optax.adam(0.1), optax.chain(bo.adam(0.1)), bo.by_path({}, bo.adam(0.1)), 'adam'])
def test_only_recipes(tx):
  calls = [
    lambda: interop.dump_state(trained(ADAMS['adam']), tx, PARAMS),
    lambda: interop.warm_start(trained(ADAMS['adam']), tx, ADAMS['adam'], PARAMS),
    lambda: interop.warm_start(trained(ADAMS['adam']), ADAMS['adam'], tx, PARAMS),
  ]
  if not isinstance(tx, ByPath):
    calls.append(lambda: interop.load_state(dumped(ADAMS['adam']), tx, PARAMS))
  for call in calls:
    with pytest.raises(
      TypeError, match=r'(?s)must be a Recipe such as presets.torch.adam\(1e-3\), got .*pass the recipe inside'
    ):
      call()


@pytest.mark.parametrize('state_dict', [None, {}, {'w': np.ones(1)}, {'state': {}}])
def test_only_state_dicts(state_dict):
  with pytest.raises(TypeError, match="must be an optimizer's state_dict"):
    interop.load_state(state_dict, ADAMS['adam'], PARAMS)
  with pytest.raises(TypeError, match="torch_state_dict must be a module's state_dict"):
    interop.load_params(7, PARAMS)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'param_groups': [{}]}, r"each with the indices of its 'params' and, .*, got \[\{\}\]"),
    ({'param_groups': None}, 'must be a list of groups, .* got None'),
    ({'param_groups': [None]}, 'must be a list of groups'),
    ({'param_groups': [{'params': ['w']}]}, 'the indices of its'),
    ({'param_groups': [{'params': [0, 1, 2], 'param_names': ['a']}]}, "if it has 'param_names', as many of these"),
    ({'param_groups': [{'params': [0, 1, 2], 'param_names': None}]}, "if it has 'param_names', as many of these"),
    ({'state': None}, r"torch_state_dict\['state'\] must map the index of a parameter to its entries, got None"),
    ({'state': {0: None}}, 'must map the index of a parameter to its entries'),
    ({'state': [{}]}, 'must map the index of a parameter to its entries'),
  ],
)
def test_state_dicts_of_another_form(changes, message):
  with pytest.raises(TypeError, match=message):
    interop.load_state(adam_dict(4, 4, 4) | changes, ADAMS['adam'], PARAMS)


def test_a_parameter_in_two_groups():
  state_dict = adam_dict(4, 4, 4)
  state_dict['param_groups'].append({'params': [1]})
  with pytest.raises(ValueError, match='name a parameter twice'):
    interop.load_state(state_dict, ADAMS['adam'], PARAMS)


@pytest.mark.parametrize('x', [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize('name', ['exp_avg', 'exp_avg_sq'])
def test_what_no_run_can_hold(name, x):
  """Also what float64 can hold but a slot cannot; everything is listed with its path."""
  state_dict = adam_dict(4, 4, 4)
  state_dict['state'][1][name][0, 1] = x
  state_dict['state'][2][name][0] = x
  with pytest.raises(ValueError, match='torch_state_dict does not fit') as error:
    interop.load_state(state_dict, ADAMS['adam'], PARAMS)
  bound, found = ' >= 0' if name == 'exp_avg_sq' else '', 'inf' if x == 1e300 else x
  assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
    f"Dense_0/kernel ('1, {name}'): values: expected finite numbers{bound} in float32, found {found} (1 of 6).",
    f"scale ('2, {name}'): values: expected finite numbers{bound} in float32, found {found} (1 of 1).",
  ]


@pytest.mark.parametrize(
  ('tx', 'name'),
  [(ADAMS['adam'], 'exp_avg_sq'), (ADAMS['amsgrad'], 'max_exp_avg_sq'), (OTHERS['centered'], 'square_avg'),
   (OTHERS['adagrad'], 'sum'), (ADAMS['adabelief'], 'exp_avg_var')],
)  # fmt: skip
def test_no_second_moment_is_negative(tx, name):
  state_dict = dumped(tx)
  state_dict['state'][0][name] = np.asarray([1.0, -1e-30, 1.0])
  with pytest.raises(
    ValueError, match=rf'Dense_0/bias \(.0, {name}.\): values: expected finite numbers >= 0 in float32'
  ):
    interop.load_state(state_dict, tx, PARAMS)
  state_dict['state'][0][name] = np.asarray([1.0, 0.0, 1.0])
  interop.load_state(state_dict, tx, PARAMS)


def test_a_mean_is_negative_and_complex_moments_are_checked_by_parts():
  state_dict = adam_dict(4, 4, 4)
  state_dict['state'][2]['exp_avg'] = np.asarray([-1.0])
  assert float(interop.load_state(state_dict, ADAMS['adam'], PARAMS).slots['mu']['scale'][0]) == -1
  params, tx = {'w': jnp.zeros(1, jnp.complex64)}, presets.torch.adam()
  state_dict = interop.dump_state(tx.update(params, tx.init(params))[1], tx, params)
  state_dict['state'][0]['exp_avg_sq'] = np.asarray([1 - 1j])
  with pytest.raises(ValueError, match=r'finite numbers >= 0 in complex64, found -1\.0'):
    interop.load_state(state_dict, tx, params)


def test_two_leaves_with_one_path():
  params = {'a': {'b': jnp.ones(1)}, 'a/b': jnp.zeros(1)}
  names, arrays, tx = {'w': 'a/b'}, {'w': np.ones(1)}, ADAMS['adam']
  for call in (
    lambda: interop.load_params(arrays, params, names),
    lambda: interop.dump_params(params, names),
    lambda: interop.dump_state(tx.init(params), tx, params, names),
    lambda: interop.load_state({'state': {}, 'param_groups': [{'params': [0]}]}, tx, params, ['a/b']),
    lambda: interop.flax_names({'x': 'a'}, params),
  ):
    with pytest.raises(ValueError, match=r"a/b: path: expected one leaf, found a second one, \['a/b'\]"):
      call()


def test_only_the_state_of_the_recipe():
  tx = ADAMS['adam']
  for call in (
    lambda state: interop.dump_state(state, tx, PARAMS),
    lambda state: interop.warm_start(state, tx, tx, PARAMS),
  ):
    with pytest.raises(TypeError, match='state must be the State of tx, got tuple'):
      call((trained(tx),))
    with pytest.raises(ValueError, match='state must be that of tx and params'):
      call(trained(OTHERS['rmsprop']))


def test_a_schedule_of_a_rate_has_no_age_in_torch():
  tx = bo.adam(0.1, b2=optax.constant_schedule(0.5))
  for call in (
    lambda: interop.load_state(dumped(ADAMS['adam']), tx, PARAMS),
    lambda: interop.dump_state(trained(tx), tx, PARAMS),
  ):
    with pytest.raises(ValueError, match='the age of a decay rate that is a schedule: b2'):
      call()


def test_lines_are_read_by_their_classes():
  """A line of a user is not ours because its class has the same name; a subclass of ours is."""

  class Belief(bo.Line):
    @property
    def slots(self):
      return (bo.Slot('nu'),)

  class Mine(Moment):
    pass

  tx = bo.compose(bo.first_moment(0.9), bo.piece(Belief)())
  with pytest.raises(ValueError, match='no optimizer of torch keeps what tx keeps as nu'):
    interop.dump_state(tx.init(PARAMS), tx, PARAMS)
  with pytest.raises(ValueError, match=r'tx_from \(none\) cannot become'):
    interop.warm_start(tx.init(PARAMS), tx, ADAMS['adam'], PARAMS)
  tx = bo.compose(bo.first_moment(0.9), bo.piece(Mine)(0.75), bo.bias_correct(0.9, 0.75))
  state_dict = interop.dump_state(tx.init(PARAMS), tx, PARAMS)
  assert sorted(state_dict['state'][0]) == ['exp_avg', 'exp_avg_sq', 'step']
  assert state_dict['param_groups'][0]['betas'] == (0.9, 0.75)


def test_a_slot_that_torch_does_not_know():
  class memory(bo.Line):
    @property
    def slots(self):
      return (bo.Slot('gist'),)

    def step(self, x, k):
      return x

  tx = bo.piece(memory)()
  with pytest.raises(ValueError, match='no optimizer of torch keeps what tx keeps as gist'):
    interop.dump_state(tx.init(PARAMS), tx, PARAMS)


# Files.


def test_files_keep_numbers_and_the_order_of_indices(tmp_path):
  state = {i: {'step': 3, 'momentum_buffer': None} if i % 2 else {'x': np.ones(1)} for i in range(12)}
  interop.save_safetensors(tmp_path / 'x', {'state': state, 'param_groups': []})
  read = interop.load_safetensors(tmp_path / 'x')['state']
  assert [*read] == [*state]
  assert all(read[i] == state[i] and type(read[i]['step']) is int for i in range(1, 12, 2))


def test_files_of_modules(tmp_path):
  module = interop.dump_params(jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS), NAMES)
  interop.save_safetensors(tmp_path / 'module', module)
  assert_equal(interop.load_safetensors(tmp_path / 'module'), module)


def test_what_a_file_cannot_hold(tmp_path):
  groups = [{'params': [0], 'lr': np.asarray(0.5), 'schedule': object()}]
  with pytest.raises(TypeError, match='param_groups must be JSON, but hold <object'):
    interop.save_safetensors(tmp_path / 'x', {'state': {}, 'param_groups': groups})
  with pytest.raises(TypeError, match='no complex128, the dtype of w'):
    interop.save_safetensors(tmp_path / 'x', {'w': np.ones(1, np.complex128)})
  del groups[0]['schedule']
  interop.save_safetensors(tmp_path / 'x', {'state': {}, 'param_groups': groups})
  assert interop.load_safetensors(tmp_path / 'x') == {'state': {}, 'param_groups': [{'params': [0], 'lr': 0.5}]}


@pytest.mark.parametrize('step', [np.int64(3), np.float32(3), np.asarray(3), 3])
def test_steps_of_numpy_in_a_file(tmp_path, step):
  state_dict = adam_dict(step, step, step)
  interop.save_safetensors(tmp_path / 'x', state_dict)
  read = interop.load_safetensors(tmp_path / 'x')
  assert read['state'][0]['step'] == 3
  assert_equal(*(interop.load_state(s, ADAMS['adam'], PARAMS) for s in (read, state_dict)))


HIMSELF = []
HIMSELF.append(HIMSELF)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'param_groups': [{'params': [0], 'lr': 1j}]}, 'param_groups must be JSON, but hold 1j'),
    ({'param_groups': [{'params': [0], 'lr': np.complex64(1j)}]}, 'param_groups must be JSON, but hold np.complex64'),
    ({'param_groups': [{'params': [0], 'x': HIMSELF}]}, 'param_groups must be JSON, but hold themselves'),
    ({'param_groups': [{}]}, 'must be a list of groups'),
    ({'state': {0: {'step': 1j}}}, 'state must be JSON, but hold 1j'),
    ({'state': None}, 'must map the index of a parameter'),
    ({'state': {'w': {}}}, r"the keys of state_dict\['state'\] must be integers, got 'w'"),
  ],
)
def test_what_json_cannot_hold(tmp_path, changes, message):
  with pytest.raises(TypeError, match=message):
    interop.save_safetensors(tmp_path / 'x', {'state': {}, 'param_groups': [{'params': [0]}], **changes})


@pytest.mark.parametrize(
  ('groups', 'numbers', 'key', 'message'),
  [
    ('[]', None, 'state.0.x', "'numbers' of its metadata is missing"),
    ('x', '{}', 'state.0.x', "'param_groups' of its metadata is no JSON"),
    ('[' * 100000, '{}', 'state.0.x', "'param_groups' of its metadata is nested too deep"),
    ('{}', '{}', 'state.0.x', "'param_groups' of its metadata must be a list of param_groups, got {}"),
    ('[3]', '{}', 'state.0.x', r'must be a list of param_groups, got \[3\]'),
    ('[]', '[]', 'state.0.x', "'numbers' of its metadata must be an object of numbers, got"),
    ('[]', '{}', 'w', "each of its arrays must be called like state.0.exp_avg, got 'w'"),
    ('[]', '{}', 'state.x.y', "got 'state.x.y'"),
  ],
)
def test_files_of_others(tmp_path, groups, numbers, key, message):
  metadata = {'param_groups': groups} | ({} if numbers is None else {'numbers': numbers})
  safetensors.numpy.save_file({key: np.ones(1, np.float32)}, tmp_path / 'x', metadata=metadata)
  with pytest.raises(ValueError, match=message):
    interop.load_safetensors(tmp_path / 'x')


def test_files_need_a_package(tmp_path):
  with mock.patch.dict(sys.modules, {'safetensors': None, 'safetensors.numpy': None}):
    for call in (
      lambda: interop.save_safetensors(tmp_path / 'x', {}),
      lambda: interop.load_safetensors(tmp_path / 'x'),
    ):
      with pytest.raises(ImportError, match=re.escape('pip install "belief_optax[interop]"')):
        call()


# One optimizer after another.


def moments(tx, grads, params):
  return take_steps([tx], grads, params)[0][1]


@functools.cache
def noise(steps, size, shift=0.0):
  return np.random.RandomState(0).standard_normal((steps, size)).astype(np.float32) + np.float32(shift)


BELIEFS = {
  'after the step': bo.adabelief(1e-3, 0.9, 0.99, rectify=False),
  'before the step': bo.adabelief(1e-3, 0.9, 0.99, rectify=False, residual='previous'),
  'debiased': bo.adabelief(1e-3, 0.9, 0.99, rectify=False, residual='debiased'),
  'timm': presets.timm.adabelief(betas=(0.9, 0.99)),
}


@pytest.mark.parametrize('belief', BELIEFS.values(), ids=BELIEFS)
def test_warm_started_steps_on_noise_are_those_of_training_from_the_start(belief):
  adam, grads, params = bo.adam(1e-3, 0.9, 0.99), noise(600, 512), jnp.zeros(512)
  (_, at_adam), (_, at_belief) = take_steps([adam, belief], grads[1:], params)
  for state, tx_from, expected, tx_to in ((at_adam, adam, at_belief, belief), (at_belief, belief, at_adam, adam)):
    warm = interop.warm_start(state, tx_from, tx_to, params)
    actual, expected = (np.abs(tx_to.update(grads[0], s, params)[0]) for s in (warm, expected))
    assert abs(np.median(actual) / np.median(expected) - 1) < 0.03
    assert (
      abs(np.linalg.norm(actual) / np.linalg.norm(expected) - 1) < 0.06
    )  # the scatter of v^ - m^^2 makes some longer


@pytest.mark.parametrize('belief', BELIEFS.values(), ids=BELIEFS)
def test_a_mean_does_not_bias_the_warm_start(belief):
  adam, params = bo.adam(1e-3, 0.9, 0.99), jnp.zeros(512)
  (_, at_adam), (_, at_belief) = take_steps([adam, belief], noise(600, 512, 0.5), params)
  mean = lambda state: float(state.slots['nu'].mean())
  assert abs(mean(interop.warm_start(at_adam, adam, belief, params)) / mean(at_belief) - 1) < 0.03
  assert abs(mean(interop.warm_start(at_belief, belief, adam, params)) / mean(at_adam) - 1) < 0.03


@pytest.mark.parametrize('belief', [*BELIEFS.values(), presets.ranger_adabelief.ranger(betas=(0.9, 0.99), eps=1e-9)])
@pytest.mark.parametrize('steps', [0, 1, 7, 100])
def test_there_and_back_is_the_same(belief, steps):
  with x64():
    adam, params = bo.adam(1e-3, 0.9, 0.99), jnp.zeros(16)
    state = moments(adam, noise(max(steps, 1), 16)[:steps].astype(float), params) if steps else adam.init(params)
    there = interop.warm_start(state, adam, belief, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), there) == jax.tree.map(
      lambda x: (x.shape, x.dtype), belief.init(params)
    )
    back = interop.warm_start(there, belief, adam, params)
    # A single gradient is all mean: its variance begins as what cannot be resolved, (1 - b1) / (1 + b1) of its square.
    nu = state.slots['nu'] * (1 + 0.1 / 1.9 if steps == 1 else 1)
    expected = state._replace(slots={**state.slots, 'nu': nu})
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), back, expected)


def test_the_floor_is_what_training_leaves():
  """Without gradients s is nothing but the eps that were stored."""
  params = jnp.zeros(3)
  for belief in (bo.adabelief(1e-3, eps_root=1e-6), presets.ranger_adabelief.ranger(eps=1e-6)):
    for steps in (1, 5, 6, 50):
      state = moments(belief, jnp.zeros((steps, 3)), params)
      adam = bo.adam(1e-3)
      zero = moments(adam, jnp.zeros((steps, 3)), params)
      warm = interop.warm_start(zero, adam, belief, params)
      np.testing.assert_allclose(warm.slots['nu'], state.slots['nu'], rtol=1e-5)
      rounding = 5e-7 * float(state.slots['nu'].max())
      np.testing.assert_allclose(interop.warm_start(state, belief, adam, params).slots['nu'], 0, atol=rounding)


def test_what_is_all_mean_has_the_variance_that_cannot_be_resolved():
  """Where v^ <= m^^2; the slots are float32 also where scalars are float64."""
  adam, belief, params = bo.adam(1e-3), bo.adabelief(1e-3, eps_root=1e-6), jnp.zeros(2)
  state = moments(adam, jnp.ones((5, 2)), params)
  v = 0.5 * state.slots['nu']
  with x64():
    warm = interop.warm_start(state._replace(slots={**state.slots, 'nu': v}), adam, belief, params)
  assert warm.slots['nu'].dtype == jnp.float32
  floor = moments(belief, jnp.zeros((5, 2)), params).slots['nu']
  np.testing.assert_allclose(warm.slots['nu'], 0.9 * (0.1 / 1.9) * v + floor, rtol=1e-5)


@pytest.mark.parametrize('mean', [0.5, 1.0, 3.0, 1e3])
def test_no_step_after_a_warm_start_is_much_longer_than_adams(mean):
  """Some elements have v^ <= m^^2 by chance; their first step was up to 50,000 learning rates at a mean of 3."""
  adam, belief, params = bo.adam(1.0), bo.adabelief(1.0, rectify=False), jnp.zeros(2000)
  grads = noise(600, 2000, mean)
  state = moments(adam, grads[1:], params)
  warm = interop.warm_start(state, adam, belief, params)
  assert np.abs(belief.update(grads[0], warm, params)[0]).max() < 8


def test_other_slots():
  grads, params = noise(20, 8), jnp.zeros(8)
  adam, amsgrad = presets.torch.adam(), presets.torch.adam(amsgrad=True)
  corrected, belief = bo.amsgrad(1e-3), presets.timm.adabelief(amsgrad=True, rectify=False)
  (_, plain), (_, maxed) = take_steps([adam, amsgrad], grads, params)
  begun = interop.warm_start(plain, adam, amsgrad, params)
  np.testing.assert_array_equal(begun.slots['nu_max'], plain.slots['nu'])
  assert_equal(interop.warm_start(maxed, amsgrad, presets.torch.adam(1.0, amsgrad=True), params), maxed)
  assert_equal(interop.warm_start(maxed, amsgrad, adam, params), plain)
  other = interop.warm_start(maxed, amsgrad, belief, params)
  np.testing.assert_array_equal(other.slots['nu_max'], other.slots['nu'])
  np.testing.assert_array_equal(other.slots['mu'], plain.slots['mu'])
  assert int(other.count) == 20
  hats = interop.warm_start(maxed, amsgrad, corrected, params)
  np.testing.assert_allclose(hats.slots['nu_max'], plain.slots['nu'] / (1 - 0.999**20), rtol=1e-5)
  jax.block_until_ready(jax.jit(lambda s: belief.update(params, s)[1], donate_argnums=0)(other))
  ranger = presets.ranger_adabelief.ranger()
  np.testing.assert_array_equal(interop.warm_start(plain, adam, ranger, params).slots['slow'], params)


def test_ages_of_schedules():
  """The new schedule is as old as if it had been there from the start."""
  grads, params = noise(20, 8), jnp.zeros(8)
  b2 = optax.linear_schedule(0.5, 0.95, 30)
  adam, scheduled = bo.adam(1e-3), bo.adam(1e-3, b2=b2)
  belief = bo.adabelief(1e-3, b2=b2)
  (_, constant), (_, varied) = take_steps([adam, scheduled], grads, params)
  warm = interop.warm_start(constant, adam, scheduled, params)
  np.testing.assert_allclose(warm.ages['b2'], varied.ages['b2'], rtol=1e-5, atol=1e-5)
  back = interop.warm_start(interop.warm_start(varied, scheduled, belief, params), belief, scheduled, params)
  np.testing.assert_allclose(back.slots['nu'], varied.slots['nu'], rtol=1e-4)


def test_an_age_is_summed_in_blocks():
  """Of 5e7 steps, without an array of as many: it took 590 MB."""
  schedule = optax.linear_schedule(0.5, 0.999, 1000)
  tx, count = bo.adam(1e-3, b2=schedule), 50_000_000
  adam, params = bo.adam(1e-3), jnp.zeros(1)
  state = adam.init(params)._replace(count=jnp.asarray(count, jnp.int32))
  age = interop.warm_start(state, adam, tx, params).ages['b2']
  b = np.asarray(jax.vmap(schedule)(jnp.arange(1001)), np.float64)
  expected = -np.log(b[:-1]).sum() - (count - 1000) * np.log(b[-1])
  np.testing.assert_allclose(float(age[0]) + float(age[1]), expected, rtol=3e-7)
  text = str(jax.make_jaxpr(lambda: interop.warm_start(state, adam, tx, params).ages)())
  assert max(map(int, re.findall(r'\[(\d+)\]', text))) <= 2**16


@pytest.mark.parametrize('make', [presets.torch.adam, lambda: bo.adam(1e-3)])
def test_complex_warm_starts(make):
  adam = make()
  belief = presets.pytorch_optimizer.adabelief() if make is presets.torch.adam else bo.adabelief(1e-3)
  params = jnp.zeros(4, jnp.complex64)
  grads = noise(50, 8).view(np.complex64)
  state = moments(adam, grads, params)
  back = interop.warm_start(interop.warm_start(state, adam, belief, params), belief, adam, params)
  np.testing.assert_allclose(back.slots['nu'], state.slots['nu'], rtol=1e-5)


@pytest.mark.parametrize(
  ('tx_from', 'tx_to', 'message'),
  [
    (presets.torch.rmsprop(), presets.timm.adabelief(), r'second_moment\) cannot become that of tx_to \(belief'),
    (presets.timm.adabelief(), presets.torch.rmsprop(), 'beside a first_moment'),
    (presets.torch.adagrad(), presets.torch.adam(), 'accumulate_squares'),
    (presets.torch.sgd(), presets.torch.adam(), r'tx_from \(none\)'),
    (presets.torch.rmsprop(centered=True), presets.timm.adabelief(), 'centered_moment'),
    (bo.adam(0.1, b1=0.0), bo.adabelief(0.1), 'b1 must be > 0'),
    (presets.torch.rmsprop(momentum=0.5), presets.timm.rmsprop_tf(momentum=0.5), 'scaled by the learning rate'),
    (presets.timm.rmsprop_tf(momentum=0.5), presets.torch.rmsprop(momentum=0.5), 'scaled by the learning rate'),
    (bo.adam(0.1), bo.laprop(0.1), 'tx_from is one of gradients, that of tx_to is one of directions'),
    (bo.laprop(0.1), bo.adam(0.1), 'tx_from is one of directions, that of tx_to is one of gradients'),
    (bo.adam(0.1), bo.adan(0.1), 'the gradient of the step before'),
    (bo.adam(0.1), bo.mars(0.1), 'the gradient of the step before'),
  ],
)
def test_warm_starts_that_make_no_sense(tx_from, tx_to, message):
  with pytest.raises(ValueError, match=message):
    interop.warm_start(trained(tx_from), tx_from, tx_to, PARAMS)


def test_complex_parameters_are_two_reals_in_both_or_in_none():
  params = jnp.zeros(2, jnp.complex64)
  tx = presets.torch.adam()
  with pytest.raises(ValueError, match='only one sees a complex parameter as two reals'):
    interop.warm_start(tx.init(params), tx, bo.adabelief(1e-3), params)
