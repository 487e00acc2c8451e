"""The presets: what they refuse, what they say, and that they are the dialects that they claim to be.

That a preset equals the package whose name it has is tested in tests/parity, beside the package itself.
"""

import copy
import functools
import inspect
import math
import pickle
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_close, assert_equal, gradients, params, run
from helpers import relative_error, take_steps, x64
from preset_functions import PRESETS

import belief_optax as bo
from belief_optax import presets
from belief_optax.presets import dialect
from belief_optax.presets.labml import WeightDecay

REQUIRED = {
  'bert.adamw': {'learning_rate': 1e-3},
  'optax.adabelief': {'learning_rate': 1e-3},
  'papers.adabelief': {'task': 'cifar'},
}
ARGUMENTS = [(name, argument) for name, f in PRESETS.items() for argument in inspect.signature(f).parameters]


def make(name, /, **options):
  return PRESETS[name](**{**REQUIRED.get(name, {}), **options})


def rate_of(name):
  """What the preset calls its learning rate."""
  return 'lr' if 'lr' in inspect.signature(PRESETS[name]).parameters else 'learning_rate'


@pytest.fixture
def fresh(monkeypatch):
  """A process that has not warned yet."""
  monkeypatch.setattr(dialect, '_warned', set())


@pytest.fixture
def quiet():
  """For options that are bugs: that they warn is tested once, below."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', presets.DialectWarning)
    yield


def test_every_preset_is_seen():
  modules = {name.partition('.')[0] for name in PRESETS}
  assert modules == {name for name in presets.__all__ if name.islower()}
  for name in PRESETS:
    assert isinstance(make(name), bo.Recipe), name


# What is refused. A value stands beside the error that it must raise.

NOT_NUMBERS = [('1', TypeError), (True, TypeError), (1j, TypeError), ([1.0], TypeError)]
NONE = [(None, TypeError)]
NOT_FINITE = [(math.nan, ValueError), (math.inf, ValueError), (np.ones(2), ValueError)]
UNDER_0 = [*NOT_NUMBERS, *NOT_FINITE, (-1e-9, ValueError)]
NOT_NONNEGATIVE = [*UNDER_0, *NONE]
NOT_EPS = [*NOT_NONNEGATIVE, (1e-40, ValueError)]
NOT_RATE = [*NOT_NONNEGATIVE, (1.0, ValueError), (jnp.bfloat16(0.5), TypeError)]
NOT_FRACTION = [*NOT_NONNEGATIVE, (1.01, ValueError)]
NOT_THRESHOLD = [*NOT_NONNEGATIVE, (3.99, ValueError)]
FLAG_OR_NONE = [(0, TypeError), (1, TypeError), ('yes', TypeError), (jnp.asarray(True), TypeError)]
NOT_FLAG = [*FLAG_OR_NONE, *NONE]
NOT_INTEGER = [(1.5, TypeError), ('1', TypeError), (None, TypeError)]
NOT_VERSION = [('9', ValueError), ('', ValueError), (None, ValueError), (0.2, ValueError)]
NOT_PAIR = [
  *[(value, ValueError) for value in (0.9, None, '99', (0.9,), (0.9, 0.99, 0.999), {0.9, 0.99})],
  ((1.0, 0.999), ValueError),
  ((-0.1, 0.999), ValueError),
  (('0.9', 0.999), TypeError),
  ((0.9, 1.0), ValueError),
  ((0.9, math.nan), ValueError),
  ((0.9, None), TypeError),
]

FLAGS = (
  *('adabelief', 'adam_debias', 'ams_bound', 'amsgrad', 'as_released', 'caution', 'centered', 'corrected_weight_decay'),
  *('decoupled_decay', 'decoupled_weight_decay', 'degenerate_to_sgd', 'degenerated_to_sgd', 'fixed_decay', 'gc_loc'),
  *('gc_conv_only', 'lr_in_momentum', 'maximize', 'nesterov', 'optimized_update', 'rectify', 'use_gc'),
  'weight_decouple',
)
REFUSED = {
  'alpha': NOT_RATE,
  'betas': NOT_PAIR,
  'defaults': [(1, TypeError), ('lr', TypeError), ([], TypeError)],
  'eps': NOT_EPS,
  'epsilon': NOT_EPS,
  'eps_root': NOT_EPS,
  'initial_accumulator_value': NOT_NONNEGATIVE,
  'lr_decay': NOT_NONNEGATIVE,
  'min_lr': NOT_NONNEGATIVE,
  'momentum_decay': NOT_NONNEGATIVE,
  'total_steps': [*NOT_NONNEGATIVE, (0.5, ValueError)],
  'version': NOT_VERSION,
  'warmup_proportion': NOT_FRACTION,
  **dict.fromkeys(('lr', 'learning_rate', 'weight_decay', 'weight_decay_rate'), NOT_NONNEGATIVE),
  **dict.fromkeys(('b1', 'b2', 'beta1', 'beta2', 'beta_1', 'beta_2'), NOT_RATE),
  **dict.fromkeys(('momentum', 'dampening'), NOT_FRACTION),
  **dict.fromkeys(('sma_threshold', 'n_sma_threshold', 'N_sma_threshhold'), NOT_THRESHOLD),
  **dict.fromkeys(FLAGS, NOT_FLAG),
  'exclude_from_weight_decay': [('bias', TypeError), ([1], TypeError), (5, TypeError), ('', TypeError)],
  'k': [*NOT_INTEGER, (True, TypeError), (0, ValueError), (-1, ValueError)],
  'output_axis': NOT_INTEGER,
  'task': [('mnist', ValueError), (None, ValueError)],
}
LABML_DECAY = [(0.01, TypeError), (None, TypeError), ({'weight_decay': 0.01}, TypeError)]
# None is a word of these for "the default of the version", "that of the table", "that of amsgrad".
MAY_BE_NONE = {
  ('adabelief_pytorch.adabelief', 'eps'): [*UNDER_0, (1e-40, ValueError)],
  ('adabelief_pytorch.adabelief', 'weight_decouple'): FLAG_OR_NONE,
  ('adabelief_pytorch.adabelief', 'rectify'): FLAG_OR_NONE,
  ('labml.adabelief', 'optimized_update'): FLAG_OR_NONE,
  ('papers.adabelief', 'lr'): UNDER_0,
}
SPECIAL = {
  **MAY_BE_NONE,
  ('ranger_adabelief.ranger', 'alpha'): NOT_FRACTION,
  **{(f'labml.{f}', 'weight_decay'): LABML_DECAY for f in ('adabelief', 'adam', 'amsgrad', 'radam')},
}
WITHOUT_EFFECT = {'capturable', 'differentiable', 'foreach', 'fused', 'name', 'print_change_log'}
COUNTS = [(name, argument) for name, argument in ARGUMENTS if argument not in WITHOUT_EFFECT]


def label(value):
  return '-'.join(value) if isinstance(value, tuple) and all(isinstance(part, str) for part in value) else None


@pytest.mark.parametrize('case', COUNTS, ids=label)
def test_bad_arguments_are_refused_by_name(case):
  """Under the name that the user wrote, whatever the piece calls it."""
  name, argument = case
  for value, error in SPECIAL.get(case, REFUSED[argument]):
    with pytest.raises(error, match=rf'^{argument}(\[\d\])? (must be|arrived as bfloat16)'):
      make(name, **{argument: value})


@pytest.mark.parametrize('place', [0, 1])
@pytest.mark.parametrize('name', [name for name, argument in ARGUMENTS if argument == 'betas'])
def test_the_wrong_one_of_two_rates_is_named(name, place):
  betas = [0.9, 0.999]
  betas[place] = 1.5
  with pytest.raises(ValueError, match=rf'^betas\[{place}\] must be a number in \[0, 1\), got 1.5'):
    make(name, betas=tuple(betas))


@pytest.mark.parametrize('option', ['weight_decay', 'weight_decouple', 'absolute'])
def test_the_weight_decay_of_labml_is_checked(option):
  for value, error in REFUSED.get(option, NOT_FLAG):
    with pytest.raises(error, match=f'^{option} must be '):
      WeightDecay(**{option: value})


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('adabelief_pytorch.adabelief', "one of '0.0.5', '0.1.0', '0.2.0', '0.2.1', got '9.9.9'"),
    ('adabelief_tf.adabelief', "one of '0.1.0', '0.2.0', '0.2.1', got '9.9.9'"),
  ],
)
def test_unknown_versions_list_the_known(name, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(name, version='9.9.9')


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    (
      'adabelief_pytorch.adabelief',
      {'version': '0.0.5', 'degenerated_to_sgd': False},
      'degenerated_to_sgd must be True',
    ),
    ('optax.adabelief', {'version': '0.2.3', 'nesterov': True}, 'nesterov must be False before version 0.2.4'),
    ('labml.adabelief', {'as_released': True, 'optimized_update': True}, 'optimized_update is the argument amsgrad'),
    ('torch.sgd', {'nesterov': True}, 'nesterov=True needs a momentum and no dampening, got momentum=0.0'),
    ('torch.sgd', {'nesterov': True, 'momentum': 0.9, 'dampening': 0.1}, 'no dampening, got momentum=0.9 and'),
  ],
)
@pytest.mark.usefixtures('quiet')
def test_what_a_version_does_not_have_is_refused(name, options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(name, **options)


def test_a_corrected_decay_needs_the_first_learning_rate():
  options = {'weight_decay': 0.1, 'decoupled_decay': True, 'corrected_weight_decay': True}
  with pytest.raises(TypeError, match='corrected_weight_decay=True needs the learning rate at the first step'):
    presets.timm.rmsprop_tf(lr=jnp.asarray(0.1), **options)
  with pytest.raises(ValueError, match='corrected_weight_decay=True divides by the first learning rate'):
    presets.timm.rmsprop_tf(lr=optax.linear_schedule(0.0, 0.1, 10), **options)


@pytest.mark.parametrize('case', [case for case in ARGUMENTS if case[1] in WITHOUT_EFFECT], ids=label)
def test_what_is_without_effect_is_accepted(case):
  name, argument = case
  for value in (True, False, None, 'anything'):
    assert make(name, **{argument: value}) == make(name)


# What the defaults are: the figures of the packages.


def fields(recipe):
  """The numbers of a recipe, as 'piece.argument'."""
  return {f'{line.name}.{key}': value for line in recipe.lines for key, value in line.fields().items()}


def _belief(eps, rectified, rate=1e-3, b1=0.9):
  """Eps stored and beside the root, and the threshold of rectification, or None."""
  stored = {'belief.eps_root': eps, 'precondition.eps': eps, 'precondition.eps_root': 0.0}
  rates = {'first_moment.b1': b1, 'belief.b2': 0.999, 'scale_by_learning_rate.learning_rate': rate}
  return {**rates, **stored, 'rectify.threshold': rectified, 'add_decayed_weights.weight_decay': None}


def _adam(eps, rate=1e-3, decay=None, rectified=None):
  rates = {'first_moment.b1': 0.9, 'second_moment.b2': 0.999, 'second_moment.initial': 0.0}
  step = {'precondition.eps': eps, 'precondition.eps_root': 0.0, 'scale_by_learning_rate.learning_rate': rate}
  return {**rates, **step, 'rectify.threshold': rectified, 'add_decayed_weights.weight_decay': decay}


DEFAULTS = [
  ('adabelief_pytorch.adabelief', {'version': '0.0.5'}, _belief(1e-8, None)),
  ('adabelief_pytorch.adabelief', {'version': '0.1.0'}, _belief(1e-16, 5.0)),
  ('adabelief_pytorch.adabelief', {'version': '0.2.0'}, _belief(1e-16, 5.0)),
  ('adabelief_pytorch.adabelief', {}, _belief(1e-16, 5.0)),
  ('timm.adabelief', {}, _belief(1e-16, 5.0)),
  *[('adabelief_tf.adabelief', {'version': v}, _belief(1e-14, 5.0)) for v in ('0.1.0', '0.2.0', '0.2.1')],
  ('pytorch_optimizer.adabelief', {}, _belief(1e-16, None)),
  ('torch_optimizer.adabelief', {}, _belief(1e-8, None)),
  ('optax.adabelief', {}, _belief(1e-16, None)),
  ('labml.adabelief', {}, {**_belief(1e-16, 5.0), 'belief.eps_root': 0.0, 'add_eps_root.eps_root': 1e-16}),
  (
    'ranger_adabelief.ranger',
    {},
    {
      **_belief(1e-5, 5.0, b1=0.95),
      'belief.eps_root': 0.0,
      'store_eps_when_tractable.eps': 1e-5,
      'lookahead.k': 6,
      'lookahead.alpha': 0.5,
      'centralize.min_ndim': 2,
    },
  ),
  ('torch.adam', {}, _adam(1e-8)),
  ('torch.adamw', {}, _adam(1e-8, decay=1e-2)),
  ('torch.radam', {}, _adam(1e-8, rectified=5.0)),
  ('torch.nadam', {}, {**_adam(1e-8, rate=2e-3), 'nesterov.b1': presets.torch.MomentumSchedule(0.9, 4e-3)}),
  ('torch.rmsprop', {}, {'second_moment.b2': 0.99, 'precondition.eps': 1e-8, 'heavy_ball.decay': None}),
  ('torch.adagrad', {}, {'accumulate_squares.initial': 0.0, 'precondition.eps': 1e-10, 'scale.factor': None}),
  ('torch.sgd', {}, {'scale_by_learning_rate.learning_rate': 1e-3, 'heavy_ball.decay': None}),
  ('labml.adam', {}, _adam(1e-16)),
  ('labml.amsgrad', {}, {**_adam(1e-16), 'running_max.eps_root': 0.0}),
  ('labml.radam', {}, _adam(1e-8, rectified=5.0)),
  ('timm.rmsprop_tf', {}, {'second_moment.b2': 0.9, 'second_moment.initial': 1.0, 'precondition.eps_root': 1e-10}),
  ('timm.radam_legacy', {}, _adam(1e-8, rectified=5.0)),
  ('torch_optimizer.radam', {}, _adam(1e-8, rectified=5.0)),
  ('pytorch_optimizer.radam', {}, {**_adam(1e-8, rectified=5.0), 'rectify.degenerate_to_sgd': False}),
  ('bert.adamw', {}, {**_adam(1e-6), 'bias_correct.b1': None}),
  ('mindspore.adam', {}, _adam(1e-8)),
]


@pytest.mark.parametrize(('name', 'options', 'expected'), DEFAULTS, ids=label)
def test_defaults_are_those_of_the_package(name, options, expected):
  found = fields(make(name, **options))
  assert {key: found.get(key) for key in expected} == expected


def test_every_preset_has_a_row_of_defaults():
  assert {name for name, _, _ in DEFAULTS} == set(PRESETS) - {'papers.adabelief'}


def test_the_denominator_is_raw_where_the_package_has_it_raw():
  """Eps is added to the root of the raw moment ('bias_correct_step') or of the corrected one ('bias_correct')."""
  raw = {name for name in PRESETS if any(key.startswith('bias_correct_step.') for key in fields(make(name)))}
  assert raw == {
    *('adabelief_pytorch.adabelief', 'timm.adabelief', 'ranger_adabelief.ranger', 'labml.adabelief', 'labml.adam'),
    *('labml.amsgrad', 'labml.radam', 'torch.radam', 'timm.radam_legacy', 'torch_optimizer.radam'),
    'pytorch_optimizer.radam',
  }


# What is a bug of the other package says so, once.

BUGS = [
  ('adabelief_pytorch.adabelief', {'version': '0.0.5', 'amsgrad': True}, 'the maximum of s grows by eps'),
  ('adabelief_pytorch.adabelief', {'version': '0.1.0', 'amsgrad': True, 'rectify': False}, 'maximum of s grows by eps'),
  ('adabelief_pytorch.adabelief', {'version': '0.0.5', 'rectify': True}, 'first steps of rectification are not bias-'),
  ('adabelief_pytorch.adabelief', {'amsgrad': True}, 'amsgrad is without effect when the steps are rectified'),
  (
    'adabelief_pytorch.adabelief',
    {'version': '0.1.0', 'weight_decay': 0.1, 'weight_decouple': False},
    'L2 decay is added after the moments',
  ),
  ('timm.adabelief', {'amsgrad': True}, 'amsgrad is without effect when the steps are rectified'),
  ('torch_optimizer.adabelief', {'amsgrad': True}, 'the maximum of s grows by eps'),
  ('torch_optimizer.adabelief', {'rectify': True}, 'the first steps of rectification are not bias-corrected'),
  ('adabelief_tf.adabelief', {'epsilon': 0.0}, 'epsilon=0 is taken for "not given" and becomes 1e-7'),
  ('labml.adabelief', {'as_released': True}, 'arguments shift by one'),
  ('optax.adabelief', {'version': '0.2.3'}, 'the residual of adabelief is that of the mean before the step'),
  ('pytorch_optimizer.radam', {'weight_decay': 0.1, 'weight_decouple': False}, 'never reaches the gradient'),
  ('ranger_adabelief.ranger', {'weight_decay': 0.1}, 'change the stored mean'),
  ('ranger_adabelief.ranger', {'gc_loc': False}, 'change the stored mean'),
]


@pytest.mark.parametrize(('name', 'options', 'text'), BUGS)
@pytest.mark.usefixtures('fresh')
def test_a_bug_warns_once_where_it_is_asked_for(name, options, text):
  with pytest.warns(presets.DialectWarning, match=re.escape(text)) as record:
    make(name, **options)
  (warning,) = record
  assert warning.filename == __file__  # also where one preset calls another
  assert re.fullmatch(r'[\w.-]+( [\w.<]+)*: .*\.', str(warning.message))  # whose it is, and a sentence
  make(name, **options)  # a warning would be an error


@pytest.mark.usefixtures('fresh')
def test_another_bug_warns_again():
  make = functools.partial(presets.adabelief_pytorch.adabelief, amsgrad=True)
  cases = [({'version': '0.0.5', 'rectify': True}, 2), ({'version': '0.0.5', 'lr': 0.1}, 0), ({'version': '0.1.0'}, 2)]
  for options, count in cases:
    with warnings.catch_warnings(record=True) as record:
      warnings.simplefilter('always')
      make(**options)
    assert len({str(warning.message) for warning in record}) == len(record) == count


@pytest.mark.usefixtures('fresh')
def test_a_warning_points_at_who_asked_for_it_through_by_path():
  with pytest.warns(presets.DialectWarning) as record:
    bo.by_path({'*': {'amsgrad': True}}, presets.timm.adabelief)
  assert record[0].filename == __file__


@pytest.mark.usefixtures('fresh')
def test_nothing_warns_by_default():
  """No default of any preset is a bug, and warnings are errors here."""
  assert issubclass(presets.DialectWarning, UserWarning)
  for name in PRESETS:
    make(name)
  for version in presets.adabelief_pytorch.VERSIONS:
    make('adabelief_pytorch.adabelief', version=version)
  for version in presets.adabelief_tf.VERSIONS:
    make('adabelief_tf.adabelief', version=version)
  for options in ({'version': '0.2.1', 'amsgrad': True, 'rectify': False}, {'weight_decouple': False}):
    make('adabelief_pytorch.adabelief', weight_decay=0.1, **options)
  assert not dialect._warned


# Learning rates that move, and hyperparameters that are data.

# What must be a Python number: a schedule or the structure of the recipe is made from it.
CONSTANTS = {
  'adabelief_tf.adabelief': ('total_steps', 'warmup_proportion', 'min_lr'),
  'pytorch_optimizer.radam': ('n_sma_threshold',),
  'ranger_adabelief.ranger': ('k', 'output_axis'),
  'torch.adagrad': ('lr_decay',),
  'torch.nadam': ('momentum_decay',),
}
# With optax.inject_hyperparams a number is an array of which nobody knows that it is 0.
STATIC = {**CONSTANTS, 'ranger_adabelief.ranger': ('k', 'output_axis', 'weight_decay')}


def noise(steps=12, size=20, offset=1.0):
  """Gradients with a mean, so that the residual is not the gradient."""
  return np.random.default_rng(1).normal(offset, 1.0, (steps, size))


def steps_of(*recipes, grads=None, value=1.0):
  """All updates of each recipe in float64, compiled together; the parameters stand still at `value`."""
  with x64():
    rows = jnp.asarray(noise() if grads is None else grads)
    return [np.asarray(updates) for updates, _ in take_steps(recipes, rows, jnp.full_like(rows[0], value))]


def _one_hundredth(count):
  return jnp.full_like(count, 0.01, float)


@pytest.mark.parametrize('name', PRESETS)
def test_a_learning_rate_may_be_a_schedule_or_injected(name):
  """The constant, as a schedule and as data that optax.inject_hyperparams hands over, gives the same steps."""
  rate = lambda value: {**REQUIRED.get(name, {}), rate_of(name): value}
  inject = optax.inject_hyperparams(PRESETS[name], static_args=STATIC.get(name, ()))
  constant, *others = steps_of(make(name, **rate(0.01)), make(name, **rate(_one_hundredth)), inject(**rate(0.01)))
  assert np.abs(constant[-1]).min() > 0
  for other in others:
    np.testing.assert_allclose(other, constant, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize('case', [(name, argument) for name in CONSTANTS for argument in CONSTANTS[name]], ids=label)
def test_what_must_be_a_number_says_static_args(case):
  name, argument = case
  for value in (jnp.asarray(5.0), _one_hundredth):
    with pytest.raises(TypeError, match=f'^{argument} must be .* name it in static_args'):
      make(name, **{argument: value})
  inject = optax.inject_hyperparams(PRESETS[name], static_args=set(STATIC[name]) - {argument})
  with pytest.raises(
    TypeError, match=rf'^{argument} must be .*\(with optax.inject_hyperparams name it in static_args\)'
  ):
    jax.jit(inject(**REQUIRED.get(name, {})).init)(params())


@pytest.mark.parametrize(
  ('name', 'options', 'argument'),
  [
    ('torch.nadam', {'betas': (jnp.float32(0.9), 0.999)}, 'betas[0]'),
    ('pytorch_optimizer.radam', {'betas': (0.9, jnp.float32(0.999))}, 'betas[1]'),
    ('adabelief_tf.adabelief', {'learning_rate': jnp.float32(0.1), 'total_steps': 10}, 'learning_rate'),
  ],
)
def test_what_must_be_a_number_under_other_options(name, options, argument):
  with pytest.raises(TypeError, match=rf'^{re.escape(argument)} must be a Python number \(.* static_args\)'):
    make(name, **options)


# What equals what.

EPS = 1e-3  # smaller ones cannot tell the dialects of eps apart
FAST = {'betas': (0.9, 0.9)}


@pytest.mark.parametrize('eps', [EPS, 1e-8, 1e-16])
def test_adabelief_without_rectification_is_one_recipe(eps):
  reference = presets.optax.adabelief(0.01, eps=eps, eps_root=eps)
  official = functools.partial(presets.adabelief_pytorch.adabelief, 0.01, eps=eps, rectify=False)
  assert reference == bo.adabelief(0.01, eps=eps, eps_root=eps, rectify=False)
  assert reference == official() == official(version='0.1.0') == official(version='0.2.0') == official(version='0.0.5')
  assert reference == presets.timm.adabelief(0.01, eps=eps, rectify=False)
  assert reference == presets.torch_optimizer.adabelief(0.01, eps=eps)
  assert reference == presets.adabelief_tf.adabelief(0.01, epsilon=eps, rectify=False)
  assert bo.compose(bo.complex_as_reals(), reference) == presets.pytorch_optimizer.adabelief(0.01, eps=eps)


@pytest.mark.parametrize('wd', [0.0, 0.1])
def test_recipes_that_are_the_same(wd):
  assert presets.torch.adamw(weight_decay=wd) == presets.torch.adam(weight_decay=wd, decoupled_weight_decay=True)
  assert presets.adabelief_tf.adabelief(epsilon=EPS, weight_decay=wd) == bo.adabelief(
    1e-3, eps=EPS, eps_root=EPS, weight_decay=wd, rectify=True, degenerate_to_sgd=True
  )
  assert presets.timm.adabelief(weight_decay=wd) == presets.adabelief_pytorch.adabelief(weight_decay=wd)
  assert presets.torch_optimizer.radam(weight_decay=wd) == presets.timm.radam_legacy(weight_decay=wd)
  assert presets.labml.radam(weight_decay=WeightDecay(wd)) == presets.timm.radam_legacy(weight_decay=wd)
  torchs = presets.torch.radam(weight_decay=wd, decoupled_weight_decay=True)
  assert torchs == bo.compose(bo.complex_as_reals(), presets.timm.radam_legacy(weight_decay=wd))


@pytest.mark.usefixtures('quiet')
def test_bugs_are_the_recipes_that_they_are_said_to_be():
  official = functools.partial(presets.adabelief_pytorch.adabelief, weight_decay=0.1)
  assert official(version='0.1.0', weight_decouple=False) == official(version='0.1.0', weight_decay=0.0)
  assert presets.pytorch_optimizer.radam(weight_decay=0.1, weight_decouple=False) == presets.pytorch_optimizer.radam()
  assert presets.adabelief_tf.adabelief(epsilon=0) == presets.adabelief_tf.adabelief(epsilon=1e-7)
  released = presets.labml.adabelief(as_released=True)
  assert released == presets.labml.adabelief(amsgrad=True, degenerate_to_sgd=False, optimized_update=False)
  for rectify in (True, False):
    grown = presets.torch_optimizer.adabelief(amsgrad=True, rectify=rectify)
    assert grown == presets.adabelief_pytorch.adabelief(version='0.0.5', amsgrad=True, rectify=rectify)


# labml_nn 0.5.1 itself, in float64: AdaBelief([p], lr=0.1, eps=1e-3, defaults=...) from p = 0.5.
LABML_GRADIENTS = np.random.default_rng(1).standard_normal(8)
LABML_RELEASED = {
  'still': [0.5, 0.5, 0.5, 0.5, 0.5, 0.499207856557, 0.498788216628, 0.497844819082],
  'mean': [
    *(0.465441580794, 0.40582874309, 0.35602001243, 0.358588267469),
    *(0.338421096826, 0.337628953383, 0.337209313455, 0.336265915908),
  ],
}


@pytest.mark.parametrize(('defaults', 'steps'), [(None, 'still'), ({}, 'still'), ({'anything': 0}, 'mean')])
@pytest.mark.usefixtures('quiet')
def test_any_defaults_make_the_first_steps_of_the_released_labml_the_mean(defaults, steps):
  """Its arguments are shifted: what is read as degenerate_to_sgd is the dict."""
  with x64():
    tx = presets.labml.adabelief(0.1, eps=1e-3, as_released=True, defaults=defaults)
    p, found = jnp.asarray(0.5), []
    state = tx.init(p)
    for g in LABML_GRADIENTS:
      u, state = tx.update(jnp.asarray(g), state, p)
      p = p + u
      found.append(float(p))
  np.testing.assert_allclose(found, LABML_RELEASED[steps], 1e-11)


def test_defaults_have_no_meaning_as_documented():
  with pytest.raises(ValueError, match='defaults has a meaning only where as_released=True, got'):
    presets.labml.adabelief(defaults={'lr': 0.1})
  assert presets.labml.adabelief(defaults={}) == presets.labml.adabelief()


@pytest.mark.parametrize('eps', [0.0, 1e-60])
@pytest.mark.usefixtures('quiet')
def test_steps_of_the_old_optax_are_b1_times_the_new(eps):
  """As g - m_t = b1 (g - m_{t-1}), its s is larger by 1 / b1^2."""
  with x64():
    make = functools.partial(presets.optax.adabelief, 0.01, 0.8, 0.9)
    old, new, other = make(eps, eps, version='0.2.3'), make(eps, eps), make(EPS, eps)
  old, new, other = steps_of(old, new, other)
  assert relative_error(old, 0.8 * new).max() < 1e-13
  assert relative_error(other, new).max() > 1e-4  # the instrument tells a difference


def test_steps_that_are_the_same_in_other_words():
  torchs, labmls = presets.torch.adam(eps=EPS, **FAST), presets.labml.adam(eps=EPS, optimized_update=False, **FAST)
  mindspores = presets.mindspore.adam(beta1=0.9, beta2=0.9, eps=EPS)
  one, two, three, raw = steps_of(torchs, labmls, mindspores, presets.labml.adam(eps=EPS, **FAST))
  assert relative_error(two, one).max() < 1e-14
  assert relative_error(three, one).max() < 1e-14
  assert relative_error(raw, one).max() > 1e-3  # eps beside the raw root counts more


@pytest.mark.usefixtures('quiet')
def test_amsgrad_of_the_official_package_is_without_effect_when_rectified():
  make = functools.partial(presets.adabelief_pytorch.adabelief, betas=(0.9, 0.9), eps=EPS)
  off, ignored, plain_off, honoured = steps_of(
    make(), make(amsgrad=True), make(rectify=False), make(rectify=False, amsgrad=True)
  )
  np.testing.assert_array_equal(off, ignored)
  assert relative_error(honoured, plain_off).max() > 0.01
  tf = functools.partial(presets.adabelief_tf.adabelief, beta_2=0.9, epsilon=EPS)
  off, honoured = steps_of(tf(), tf(amsgrad=True))
  assert relative_error(honoured, off).max() > 0.01


@pytest.mark.usefixtures('quiet')
def test_the_first_steps_of_rectification():
  """Of the five steps with rho_t < 5 at b2 = 0.999: the mean, the mean without correction, or nothing at all."""
  grads = np.ones((6, 3))
  biased = 1 - 0.9 ** np.arange(1, 6)
  cases = {
    'adabelief_pytorch.adabelief': ({}, np.ones(5)),
    'torch_optimizer.adabelief': ({'rectify': True}, biased),
    'labml.adabelief': ({'as_released': True}, np.zeros(5)),
    'pytorch_optimizer.radam': ({}, np.zeros(5)),
    'torch.radam': ({}, np.ones(5)),
  }
  names = list(cases)
  found = steps_of(*(make(name, lr=1.0, **cases[name][0]) for name in names), grads=grads)
  for name, updates in zip(names, found, strict=True):
    # At rho_5 = 4.996 the old threshold of 4 is passed: its fifth step is adaptive.
    last = 4 if name == 'torch_optimizer.adabelief' else 5
    np.testing.assert_allclose(-updates[:last, 0], cases[name][1][:last], rtol=1e-13, err_msg=name)
    assert abs(updates[5, 0]) > 0, name


DECAYS = {
  'adabelief_pytorch.adabelief': ('weight_decouple', 'fixed_decay'),
  'pytorch_optimizer.adabelief': ('weight_decouple', 'fixed_decay'),
  'labml.adabelief': ('weight_decouple', 'absolute'),
}


@pytest.mark.parametrize('name', DECAYS)
def test_kinds_of_weight_decay(name):
  """With the parameters at 1 the decay is seen as what it adds to the step: lr w, w, or w in the gradient."""
  lr, w = 0.01, 0.1

  def decayed(**switches):
    decay = (
      {'weight_decay': WeightDecay(w, **switches)} if name.startswith('labml') else {'weight_decay': w, **switches}
    )
    return make(name, lr=lr, eps=EPS, **decay)

  kinds = [dict(zip(DECAYS[name], on, strict=True)) for on in ((True, False), (True, True), (False, False))]
  none = make(name, lr=lr, eps=EPS)
  free, decoupled, fixed, l2 = steps_of(none, *(decayed(**kind) for kind in kinds))
  np.testing.assert_allclose(free - decoupled, lr * w, rtol=1e-11)
  np.testing.assert_allclose(free - fixed, w, rtol=1e-13)
  np.testing.assert_allclose(l2, steps_of(none, grads=noise() + w)[0], rtol=1e-11, atol=1e-16)
  idle = dict.fromkeys(DECAYS[name], False) | {DECAYS[name][1]: True}
  assert decayed(**idle) == decayed(**kinds[2])  # a fixed decay is one that is decoupled


@pytest.mark.parametrize('fixed', [False, True])
@pytest.mark.parametrize('decoupled', [False, True])
def test_packages_that_took_the_kinds_over(decoupled, fixed):
  official = functools.partial(presets.adabelief_pytorch.adabelief, weight_decay=0.1, fixed_decay=fixed)
  options = {'weight_decay': 0.1, 'fixed_decay': fixed}
  assert official(weight_decouple=decoupled) == presets.timm.adabelief(decoupled_decay=decoupled, **options)
  old = official(version='0.0.5', weight_decouple=decoupled)
  assert old == presets.torch_optimizer.adabelief(weight_decouple=decoupled, **options)


def test_nothing_decays_while_nothing_moves():
  steps = steps_of(presets.pytorch_optimizer.radam(weight_decay=0.1))[0]
  assert (steps[:5] == 0).all()
  assert (steps[5:] != 0).all()


def test_the_first_step_without_bias_correction():
  """It is (1 - b1) / sqrt(1 - b2) times Adam's."""
  berts, adams = steps_of(presets.bert.adamw(1.0, epsilon=0.0), presets.torch.adam(1.0, eps=0.0))
  np.testing.assert_allclose(berts[0] / adams[0], 0.1 / 0.001**0.5, rtol=1e-12)
  assert (berts[0] / adams[0]).round(1).tolist() == [3.2] * 20


def test_excluded_parameters_do_not_decay():
  p = {'dense': {'kernel': jnp.ones(2), 'bias': jnp.ones(2)}, 'LayerNorm_0': {'scale': jnp.ones(2)}}
  tx = presets.bert.adamw(1.0, 0.25, exclude_from_weight_decay=['LayerNorm', 'bias'])
  updates = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)[0]
  assert_equal(
    updates, {'dense': {'kernel': -0.25 * jnp.ones(2), 'bias': jnp.zeros(2)}, 'LayerNorm_0': {'scale': jnp.zeros(2)}}
  )


def test_the_warmup_of_tensorflow():
  """Linear from 0 to the rate in the first 4 of 20 steps, linear to the least rate in the rest, constant after that."""
  tx = presets.adabelief_tf.adabelief(0.1, total_steps=20, warmup_proportion=0.2, min_lr=0.02)
  rate = tx.lines[-1].fields()['learning_rate']
  found = [float(rate(jnp.asarray(t - 1, jnp.float32))) for t in (1, 2, 4, 12, 20, 30)]
  np.testing.assert_allclose(found, [0.025, 0.05, 0.1, 0.06, 0.02, 0.02], rtol=1e-6)


# Two tutorials that are wrong.


def test_the_corrected_moments_must_not_be_the_ones_that_are_kept():
  """Kept, they are divided by their mass at every step: after 100 steps nothing moves."""
  m = v = 0.0
  for t in range(1, 101):
    m, v = 0.9 * m + 0.1, 0.999 * v + 0.001
    m, v = m / (1 - 0.9**t), v / (1 - 0.999**t)
  wrong = m / math.sqrt(v)
  assert 1e-72 < wrong < 1e-68
  right = steps_of(presets.torch.adam(lr=1.0), grads=np.ones((100, 1)))[0][-1, 0]
  assert right == pytest.approx(-1.0, rel=1e-7)


def test_bias_correction_never_writes_what_is_kept():
  """Whatever the order of the pieces, the state is the raw moments."""
  grads = noise()
  m = v = 0.0
  for g in grads:
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
  moments = bo.first_moment(0.9), bo.second_moment(0.99)
  corrected = bo.bias_correct(0.9, 0.99)
  with x64():
    rows = jnp.asarray(grads)
    for tx in (
      bo.compose(*moments, corrected),
      bo.compose(moments[0], bo.bias_correct(0.9), moments[1], bo.bias_correct(b2=0.99)),
      bo.compose(*moments, corrected, corrected),
    ):
      ((_, state),) = take_steps([tx], rows, rows[0])
      np.testing.assert_allclose(state.slots['mu'], m, rtol=1e-12)
      np.testing.assert_allclose(state.slots['nu'], v, rtol=1e-12)


def test_the_adam_of_the_mindspore_tutorial():
  """It writes m <- (1 - b1)(m - g) and p <- lr m / (sqrt v + eps): the first step already has the wrong sign."""
  lr, b1, b2, eps = 0.01, 0.9, 0.999, 1e-8
  grads, m, v, p = noise(), 0.0, 0.0, np.ones(20)
  expected = []
  for t, g in enumerate(grads, 1):
    m, v = m + (1 - b1) * (g - m), v + (1 - b2) * (g**2 - v)
    expected.append(-lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps))
  right = steps_of(presets.mindspore.adam(lr))[0]
  assert relative_error(right, expected).max() < 1e-13

  m, v = (1 - b1) * (0.0 - grads[0]), (1 - b2) * grads[0] ** 2
  wrong = lr * m / (np.sqrt(v) + eps)  # takes the place of p
  np.testing.assert_array_equal(np.sign(m), -np.sign(grads[0]))
  np.testing.assert_allclose(p + right[0], p - lr * np.sign(grads[0]), rtol=1e-6)
  assert np.abs(wrong - (p + right[0])).min() > 0.9  # whatever p was, it is forgotten


# The settings of the papers.


def _table():
  """The rows of the docstring: task -> lr, b1, eps, weight decay and its kind, rectify."""
  rows = re.findall(r"^\| (`'.*?) \|$", inspect.getdoc(presets.papers.adabelief), re.MULTILINE)
  table = {}
  for row in rows:
    tasks, lr, b1, eps, decay, rectify = row.split(' | ')
    amount, _, kind = decay.partition(', ')
    found = {'lr': float(lr), 'betas': (float(b1), 0.999), 'eps': float(eps), 'rectify': rectify == 'yes'}
    kinds = {'weight_decay': float(amount), 'weight_decouple': kind != 'L2'}
    table |= {task: {**found, **kinds} for task in re.findall(r"`'([\w-]+)'`", tasks)}
  return table


def test_the_settings_are_those_of_the_documented_table():
  assert _table() == {task: dict(settings) for task, settings in presets.papers.SETTINGS.items()}
  assert len(_table()) == 11


@pytest.mark.parametrize('task', presets.papers.SETTINGS)
def test_every_task_builds(task):
  tx = presets.papers.adabelief(task)
  assert tx == presets.adabelief_pytorch.adabelief(**presets.papers.SETTINGS[task])
  schedule = optax.cosine_decay_schedule(0.1, 10)
  assert presets.papers.adabelief(task, schedule).lines[-1] in (
    *bo.scale_by_learning_rate(schedule).lines,
    *bo.scale_by_learning_rate(schedule, flip_sign=False).lines,
  )


def test_an_unknown_task_lists_the_tasks():
  with pytest.raises(ValueError, match=r"^task must be one of 'cifar', 'imagenet', .*'half-cheetah', got 'mnist'"):
    presets.papers.adabelief('mnist')


# A preset is a value.

BELIEF = {'betas': (0.8, 0.99), 'eps': 1e-5, 'weight_decay': 0.1, 'amsgrad': True}
VALUES: list[tuple[str, dict[str, Any]]] = [
  *[('adabelief_pytorch.adabelief', {**BELIEF, 'version': v}) for v in presets.adabelief_pytorch.VERSIONS],
  ('adabelief_pytorch.adabelief', {**BELIEF, 'fixed_decay': True, 'rectify': False}),
  ('adabelief_pytorch.adabelief', {**BELIEF, 'weight_decouple': False, 'degenerated_to_sgd': False}),
  ('adabelief_tf.adabelief', {'amsgrad': True, 'total_steps': 100, 'min_lr': 1e-5, 'weight_decay': 0.1}),
  ('bert.adamw', {'weight_decay_rate': 0.01, 'exclude_from_weight_decay': ['bias']}),
  ('labml.adabelief', {'weight_decay': WeightDecay(0.1, absolute=True), 'as_released': True}),
  ('labml.adam', {'weight_decay': WeightDecay(0.1, weight_decouple=False)}),
  ('labml.amsgrad', {'optimized_update': False}),
  ('labml.radam', {'amsgrad': True, 'degenerated_to_sgd': False}),
  ('mindspore.adam', {'beta2': 0.99}),
  ('optax.adabelief', {'version': '0.1.0'}),
  ('optax.adabelief', {'nesterov': True}),
  ('papers.adabelief', {'task': 'sn-gan', 'lr': 0.1}),
  ('pytorch_optimizer.adabelief', {'ams_bound': True, 'rectify': True, 'maximize': True, 'adam_debias': True}),
  ('pytorch_optimizer.radam', {'weight_decay': 0.1, 'fixed_decay': True, 'maximize': True}),
  ('ranger_adabelief.ranger', {'weight_decay': 0.1, 'gc_loc': False, 'k': 5, 'output_axis': 0}),
  ('timm.adabelief', BELIEF),
  ('timm.radam_legacy', {'weight_decay': 0.1}),
  ('timm.rmsprop_tf', {'momentum': 0.9, 'caution': True, 'centered': True, 'lr_in_momentum': False}),
  ('timm.rmsprop_tf', {'weight_decay': 0.1, 'decoupled_decay': True, 'corrected_weight_decay': True}),
  ('torch.adagrad', {'lr_decay': 0.1, 'initial_accumulator_value': 0.5}),
  ('torch.adam', {'amsgrad': True, 'maximize': True, 'weight_decay': 0.1}),
  ('torch.adamw', {'amsgrad': True}),
  ('torch.nadam', {'decoupled_weight_decay': True, 'weight_decay': 0.1, 'momentum_decay': 0.1}),
  ('torch.radam', {'weight_decay': 0.1, 'maximize': True}),
  ('torch.rmsprop', {'centered': True, 'momentum': 0.9}),
  ('torch.sgd', {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.1}),
  ('torch_optimizer.adabelief', {'amsgrad': True, 'rectify': True, 'weight_decouple': True, 'weight_decay': 0.1}),
  ('torch_optimizer.radam', {'betas': (0.8, 0.99)}),
]


def test_every_preset_has_a_row_of_values():
  assert {name for name, _ in VALUES} == set(PRESETS)


@pytest.mark.parametrize(('name', 'options'), VALUES)
@pytest.mark.usefixtures('quiet')
def test_presets_are_values(name, options):
  tx = make(name, **options)
  assert tx == make(name, **options) != make(name)
  assert hash(tx) == hash(make(name, **options))
  assert tx == pickle.loads(pickle.dumps(tx)) == copy.deepcopy(tx)
  names = {**vars(inspect.getmodule(PRESETS[name])), **vars(presets.ranger_adabelief), **vars(bo)}
  assert eval(repr(tx), names) == tx


def test_schedules_of_presets_are_values():
  schedule = optax.linear_schedule(0.1, 0.0, 10)
  for name, options in (
    ('timm.rmsprop_tf', {'weight_decay': 0.1, 'decoupled_decay': True, 'corrected_weight_decay': True}),
    ('adabelief_tf.adabelief', {'total_steps': 10}),
  ):
    tx = make(name, **{rate_of(name): schedule}, **options)
    assert tx == make(name, **{rate_of(name): schedule}, **options)
    assert hash(tx) == hash(make(name, **{rate_of(name): schedule}, **options))


def test_param_groups_of_a_preset():
  factory = functools.partial(presets.timm.adabelief, lr=1e-2, weight_decay=0.1, eps=EPS)
  tx = bo.by_path({'b': {'weight_decay': 0.0}, 'w': {'lr': 1e-3, 'betas': (0.5, 0.9)}}, factory)
  updates, p, _ = run(tx, params(), gradients())
  only = lambda name, tree: {name: tree[name]}
  for name, alone in (('b', factory(weight_decay=0.0)), ('w', factory(lr=1e-3, betas=(0.5, 0.9)))):
    found = run(alone, only(name, params()), [only(name, g) for g in gradients()])
    assert_close(([only(name, u) for u in updates], only(name, p)), found[:2])
