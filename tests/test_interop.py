"""State and parameters of torch without torch: names, axes, dtypes, files, errors; and one optimizer after another."""

import copy
import functools
import re
import sys
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_equal
from flax import linen, nnx
from helpers import take_steps, x64
from registry import matrices_only

import belief_optax as bo
from belief_optax import interop, presets

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


@pytest.mark.parametrize(
  ('tx', 'words'),
  [
    (bo.adamw(1e-3, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)), 'masks'),
    (bo.adamw(SCHEDULE, weight_decay=0.1, weight_decay_mode='independent'), 'independent'),
  ],
)
def test_param_groups_that_torch_has_no_word_for(tx, words):
  with pytest.raises(ValueError, match=words):
    interop.dump_state(trained(tx), tx, PARAMS)
  like = dumped(bo.adam(1e-3))
  like['param_groups'][0]['lr'] = 7.0
  assert interop.dump_state(trained(tx), tx, PARAMS, like=like)['param_groups'] == like['param_groups']


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
    ((4, 5, 4), None, r'step: expected the same for all, found 4.0 \(0, 2\); 5.0 \(1\)'),
    ((4, None, 4), None, r'found 4.0 \(0, 2\); none \(1\)'),
    ((4.5, 4.5, 4.5), None, 'expected an integer, found 4.5'),
    ((4, 4, 4), 5, 'expected 5, found 4'),
  ],
)
def test_step_that_does_not_fit(steps, count, message):
  with pytest.raises(ValueError, match=message):
    interop.load_state(adam_dict(*steps), ADAMS['adam'], PARAMS, count=count)


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
    'Dense_0/bias: names: expected one name, found none.',
    'Dense_0/kernel: names: expected one name, found 2.',
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
    "scale ('norm.weight'): parameter: expected one of torch, found none.",
    "'bn.running_mean': parameter of torch: expected a name, found none.",
    "Dense_0/kernel ('fc.weight'): shape: expected (3, 2), found (2, 3).",
    "Dense_0/bias ('fc.bias'): array: expected numbers, found str.",
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
    '3: parameter of torch: expected a name, found none.',
    '9: state: expected none, as no param_group has this index, found exp_avg.',
    'Dense_0/bias (0): entry: expected exp_avg, found exp_avg_sq, step.',
    'Dense_0/kernel (1): entry: expected one of exp_avg, exp_avg_sq, found exp_avg_var.',
    "Dense_0/kernel ('1, exp_avg'): shape: expected (2, 3), found (3, 2).",
    "scale ('2, exp_avg_sq'): array: expected numbers, found list.",
    'all parameters: step: expected the same for all, found 4.0 (0, 2); 5.0 (1); none (3).',
  ]


def test_the_belief_of_one_is_not_the_moment_of_another():
  with pytest.raises(ValueError, match='expected one of exp_avg, exp_avg_sq, found exp_avg_var'):
    interop.load_state(dumped(presets.timm.adabelief()), ADAMS['adam'], PARAMS)


def test_what_can_be_recomputed_is_accepted():
  state_dict = dumped(ADAMS['adam'])
  for entry in state_dict['state'].values():
    entry |= {'rho_inf': 1999.0, 'rho_t': 3.0}
  assert_equal(interop.load_state(state_dict, ADAMS['adam'], PARAMS), trained(ADAMS['adam']))


@pytest.mark.parametrize('product', [None, 0.0, 1.5])
def test_product_of_nadam(product):
  state_dict = dumped(OTHERS['nadam'])
  for entry in state_dict['state'].values():
    entry['mu_product'] = product
  with pytest.raises(ValueError, match='mu_product'):
    interop.load_state(state_dict, OTHERS['nadam'], PARAMS)


@pytest.mark.parametrize('tx', [optax.adam(0.1), optax.chain(bo.adam(0.1)), bo.by_path({}, bo.adam(0.1)), 'adam'])
def test_only_recipes(tx):
  for call in (
    lambda: interop.load_state(dumped(ADAMS['adam']), tx, PARAMS),
    lambda: interop.dump_state(trained(ADAMS['adam']), tx, PARAMS),
    lambda: interop.warm_start(trained(ADAMS['adam']), tx, ADAMS['adam'], PARAMS),
    lambda: interop.warm_start(trained(ADAMS['adam']), ADAMS['adam'], tx, PARAMS),
  ):
    with pytest.raises(TypeError, match=r'must be a Recipe such as presets.torch.adam\(1e-3\)'):
      call()


@pytest.mark.parametrize('state_dict', [None, {}, {'w': np.ones(1)}, {'state': {}}])
def test_only_state_dicts(state_dict):
  with pytest.raises(TypeError, match="must be an optimizer's state_dict"):
    interop.load_state(state_dict, ADAMS['adam'], PARAMS)
  with pytest.raises(TypeError, match="torch_state_dict must be a module's state_dict"):
    interop.load_params(7, PARAMS)


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
    (presets.torch.sgd(), presets.torch.adam(), 'None'),
    (presets.torch.rmsprop(centered=True), presets.timm.adabelief(), 'centered_moment'),
    (bo.adam(0.1, b1=0.0), bo.adabelief(0.1), 'b1 must be > 0'),
    (presets.torch.rmsprop(momentum=0.5), presets.timm.rmsprop_tf(momentum=0.5), 'scaled by the learning rate'),
    (presets.timm.rmsprop_tf(momentum=0.5), presets.torch.rmsprop(momentum=0.5), 'scaled by the learning rate'),
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
