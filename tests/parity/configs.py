"""The configurations of the ledger, as data: which real optimizer, which preset, and with what numbers."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import problem

DTYPES = ('float64', 'float32')


@dataclasses.dataclass(frozen=True, eq=False)
class Config:
  """A real optimizer beside a preset.

  Attributes:
    package: the real package, as pip calls it.
    version: its version.
    optimizer: `module:name` in the package.
    preset: `module.function` in belief_optax.presets, or the name of an algorithm of belief_optax itself.
    kwargs: what both are called with; an algorithm gets it under its own names, see `OWN_NAMES`.
    ours: what only the preset is called with.
    rates: the name of a table of learning rates that replaces the one learning rate.
    complex_: whether the problem is the complex one.
    dtypes: in which dtypes they are compared.
    why: why that is not both.
  """

  package: str
  version: str
  optimizer: str
  preset: str
  kwargs: Mapping[str, Any]
  ours: Mapping[str, Any]
  rates: str = ''
  complex_: bool = False
  dtypes: tuple[str, ...] = DTYPES
  why: str = ''

  @property
  def name(self) -> str:
    return f'{self.package} {self.version} {self.optimizer.split(":")[1]}: {self.options}'

  @property
  def options(self) -> str:
    shown = {name: value for name, value in self.ours.items() if name not in ('version', 'output_axis')}
    write = lambda value: f'{value:.6g}' if isinstance(value, float) else f'{value}'
    words = [f'{name}={write(value)}' for name, value in {**self.kwargs, **shown}.items()]
    words += [f'rates={self.rates}'] * bool(self.rates) + ['complex'] * self.complex_
    return ', '.join(words) or 'defaults'

  @property
  def rate_name(self) -> str:
    return 'learning_rate' if self.preset.split('.')[0] in ('adabelief_tf', 'bert', 'optax') else 'lr'

  @property
  def is_preset(self) -> bool:
    """Whether it is compared with a preset, which has the names of the package, or with an algorithm of our own."""
    return '.' in self.preset

  @property
  def own_kwargs(self) -> dict[str, Any]:
    """`kwargs` under the names of our algorithms."""
    given = {name: value for name, value in self.kwargs.items() if name != 'betas'}
    given |= zip(('b1', 'b2', 'b3'), self.kwargs.get('betas', ()), strict=False)
    return {OWN_NAMES.get(name, name): value for name, value in given.items() if OWN_NAMES.get(name, name)}

  @property
  def by_array(self) -> bool:
    """Whether the optimizer looks at whole arrays or at their names; the others are elementwise."""
    arrays = ('ranger_adabelief.ranger', 'bert.adamw', 'lamb', 'lars', 'mars')
    return self.preset in arrays or bool(self.kwargs.get('caution'))

  def digest(self) -> str:
    """Changes when anything changes that the real trajectory depends on."""
    table = problem.RATES[self.rates].tobytes() if self.rates else b''
    return hashlib.sha256(repr(dataclasses.astuple(self)).encode() + table + problem.DIGEST).hexdigest()[:16]


# What packages call the arguments of our algorithms; '' is left out, as ours has no other way.
OWN_NAMES = {
  'lr': 'learning_rate',
  'always_adapt': '',
  'clip_exp': 'clip_power',
  'initial_accumulator': 'initial_accumulator_value',
  'max_grad_norm': '',
  'no_prox': '',
  'optimize_1d': '',
  't_alpha_beta3': 'warmup_steps',
  'trust_coeff': 'trust_coefficient',
  'weight_decouple': '',
}


def case(rates='', complex_=False, ours=None, dtypes=DTYPES, why='', **kwargs):
  """What a configuration has beside its optimizer."""
  return {'kwargs': kwargs, 'ours': ours or {}, 'rates': rates, 'complex_': complex_, 'dtypes': dtypes, 'why': why}


def _family(package, release, optimizer, preset, *cases, **ours):
  """An optimizer with its cases."""
  make = lambda c: Config(package, release, optimizer, preset, **{**c, 'ours': {**ours, **c['ours']}})
  return [make(c) for c in cases]


# eps <= 1e-8 cannot tell the dialects of eps apart; at b2 = 0.999 fifty steps of AMSGrad equal none; a small decay
# would not be seen.
EPS = 1e-3
B9 = (0.9, 0.9)
FAST = (0.5, 0.8)
WD = 0.1


def f32(x):
  """The number of float32 next to x: Keras keeps hyperparameters so, also where the variables are float64."""
  return float(np.float32(x))


def _adabelief_pytorch(version):
  old = version == '0.0.5'
  make = lambda rectify, **kwargs: case(lr=0.01, rectify=rectify, **{'eps': EPS, **kwargs})
  cases = [
    case(),
    case(lr=0.01, betas=FAST),
    *[make(r) for r in (False, True)],
    *[make(r, amsgrad=True, betas=B9) for r in (False, True)],
    make(False, amsgrad=True, betas=FAST, eps=1e-8),
    *[make(r, weight_decay=WD, weight_decouple=False) for r in (False, True)],
    make(False, weight_decay=WD, weight_decouple=True),
    make(True, weight_decay=0.01, weight_decouple=True, fixed_decay=True),
    make(True, weight_decay=WD, weight_decouple=True, rates='linear'),
    *([] if old else [make(True, degenerated_to_sgd=False), make(True, eps=1e-16, betas=FAST)]),
  ]
  return _family(
    'adabelief-pytorch',
    version,
    'adabelief_pytorch.AdaBelief:AdaBelief',
    'adabelief_pytorch.adabelief',
    *cases,
    version=version,
  )


def _adabelief_tf(version):
  betas = {'beta_1': f32(0.9), 'beta_2': f32(0.9)}
  make = lambda **kwargs: case(**{'learning_rate': f32(0.01), 'epsilon': EPS, **betas, **kwargs})
  slow = 'the package computes rho_t in float32 by a difference that cancels while beta_2^t is near 1'
  slowly = {'learning_rate': f32(0.001), 'beta_1': f32(0.9), 'beta_2': f32(0.999)}
  cases = [
    case(**slowly, dtypes=('float64',), why=slow),
    case(**slowly, epsilon=EPS, rectify=False),
    make(),
    make(rectify=False),
    make(amsgrad=True),
    make(weight_decay=f32(WD)),
    make(weight_decay=f32(WD), rectify=False, rates='linear'),
    make(sma_threshold=8.0),
    make(epsilon=0.0),
    make(total_steps=40, warmup_proportion=0.25, min_lr=f32(0.001)),
    make(beta_1=0.5, beta_2=f32(0.8), amsgrad=True, rectify=False),
  ]
  return _family(
    'adabelief-tf',
    version,
    'adabelief_tf.AdaBelief_tf:AdaBeliefOptimizer',
    'adabelief_tf.adabelief',
    *cases,
    version=version,
  )


def _ranger():
  make = lambda **kwargs: case(**{'lr': 0.01, 'eps': EPS, 'betas': (0.9, 0.99), **kwargs})
  return _family(
    'ranger-adabelief', '0.1.0', 'ranger_adabelief.ranger_adabelief:RangerAdaBelief', 'ranger_adabelief.ranger',
    case(),
    case(lr=0.01, eps=EPS),
    make(),
    make(rates='linear'),
    make(alpha=0.8, k=4),
    make(k=1),
    make(alpha=1.0),
    make(N_sma_threshhold=4),
    make(N_sma_threshhold=9),
    make(use_gc=False),
    make(gc_conv_only=True),
    make(gc_loc=False),
    make(gc_loc=False, gc_conv_only=True, weight_decay=WD),
    make(adabelief=False),
    make(weight_decay=WD),
    make(weight_decay=WD, weight_decouple=False),
    make(weight_decay=WD, betas=(0.5, 0.999), rates='stairs'),
    make(betas=(0.95, 0.9), adabelief=False, use_gc=False, eps=1e-8),
    output_axis=0,
  )  # fmt: skip


def _labml():
  decay = lambda **kwargs: {'weight_decay': kwargs}
  adam = lambda **kwargs: case(**{'lr': 0.01, 'eps': EPS, **kwargs})
  cases = {
    'adam:Adam': [
      case(),
      *[adam(optimized_update=fast) for fast in (True, False)],
      adam(**decay(weight_decay=WD)),
      adam(**decay(weight_decay=WD, weight_decouple=False), rates='linear'),
      adam(**decay(weight_decay=0.01, absolute=True), betas=FAST),
    ],
    'amsgrad:AMSGrad': [
      case(betas=B9),
      *[adam(betas=B9, optimized_update=fast) for fast in (True, False)],
      adam(betas=B9, amsgrad=False),
    ],
    'radam:RAdam': [
      case(),
      *[adam(optimized_update=fast) for fast in (True, False)],
      adam(amsgrad=True, betas=B9),
      adam(degenerated_to_sgd=False, **decay(weight_decay=WD)),
    ],
    'ada_belief:AdaBelief': [
      *[case(ours={'as_released': released}) for released in (True, False)],
      *[adam(ours={'as_released': True}, **kwargs) for kwargs in (
        {}, {'betas': B9}, {'amsgrad': True, 'betas': B9}, {'degenerate_to_sgd': False, 'betas': B9},
        {'rectify': False}, decay(weight_decay=WD), decay(weight_decay=WD, weight_decouple=False),
      )],
      *[adam(ours={'optimized_update': fast}, **kwargs) for fast in (True, False) for kwargs in (
        {}, {'rectify': False}, {'amsgrad': True, 'betas': B9},
      )],
      adam(degenerate_to_sgd=False, **decay(weight_decay=WD, weight_decouple=False)),
      adam(rates='linear', **decay(weight_decay=0.01, absolute=True)),
    ],
  }  # fmt: skip
  function = lambda optimizer: f'labml.{optimizer.split(":")[1].lower()}'
  return [
    config
    for optimizer, its in cases.items()
    for config in _family('labml-nn', '0.5.1', f'labml_nn.optimizers.{optimizer}', function(optimizer), *its)
  ]


def _torch():
  decay = 'torch multiplies by 1 - lr wd, which is rounded to float32 the same way in every step'
  variance = 'torch computes the variance as a difference that cancels'
  make = lambda **kwargs: case(**{'lr': 0.01, **kwargs})
  adam = lambda **kwargs: [
    make(eps=EPS, **kwargs),
    make(eps=EPS, amsgrad=True, betas=B9, **kwargs),
    make(weight_decay=WD, maximize=True, betas=FAST),
    make(weight_decay=WD, rates='linear'),
    make(eps=EPS, complex_=True, **kwargs),
    make(eps=EPS, amsgrad=True, betas=B9, complex_=True, **kwargs),
  ]
  cases = {
    'Adam': [case(), *adam(), make(weight_decay=WD, decoupled_weight_decay=True)],
    'AdamW': [
      case(dtypes=('float64',), why=decay),
      *adam(weight_decay=WD),
    ],
    'RAdam': [
      case(),
      make(eps=EPS),
      make(eps=EPS, betas=B9, maximize=True),
      make(weight_decay=WD, rates='stairs'),
      make(weight_decay=WD, decoupled_weight_decay=True, maximize=True),
      make(eps=EPS, weight_decay=WD, complex_=True),
    ],
    'NAdam': [
      case(),
      make(eps=EPS),
      make(momentum_decay=0.1, betas=FAST),
      make(weight_decay=WD, rates='linear'),
      make(weight_decay=WD, decoupled_weight_decay=True, maximize=True),
      make(eps=EPS, momentum_decay=0.1, complex_=True),
    ],
    'RMSprop': [
      case(lr=0.001),
      make(eps=EPS),
      make(alpha=0.9, eps=EPS, momentum=0.9),
      make(alpha=0.9, eps=EPS, centered=True, dtypes=('float64',), why=variance),
      case(lr=0.001, eps=EPS, centered=True, momentum=0.5, weight_decay=WD, maximize=True),
      make(momentum=0.9, eps=EPS, rates='linear'),
      make(eps=EPS, complex_=True),
      make(eps=EPS, centered=True, momentum=0.9, complex_=True),
    ],
    'Adagrad': [
      case(),
      make(eps=EPS, lr_decay=0.1),
      make(initial_accumulator_value=0.1, weight_decay=WD),
      make(eps=EPS, maximize=True, weight_decay=WD),
      make(lr_decay=0.1, rates='stairs'),
      make(eps=EPS, complex_=True),
    ],
    'SGD': [
      case(),
      make(momentum=0.9),
      make(momentum=0.9, dampening=0.5),
      make(momentum=0.9, nesterov=True, weight_decay=WD),
      make(momentum=0.9, dampening=0.1, weight_decay=WD, maximize=True),
      make(momentum=0.9, rates='linear'),
      make(momentum=0.9, weight_decay=WD, complex_=True),
    ],
  }
  return [
    config
    for name, its in cases.items()
    for config in _family('torch', '2.13.0', f'torch.optim:{name}', f'torch.{name.lower()}', *its)
  ]


def _timm():
  belief = lambda **kwargs: case(**{'lr': 0.01, 'eps': EPS, **kwargs})
  return [
    *_family(
      'timm', '1.0.31', 'timm.optim.adabelief:AdaBelief', 'timm.adabelief',
      case(),
      belief(),
      belief(rectify=False),
      *[belief(amsgrad=True, betas=B9, rectify=r) for r in (False, True)],
      belief(weight_decay=WD, decoupled_decay=False),
      belief(weight_decay=WD, rates='linear'),
      belief(weight_decay=0.01, fixed_decay=True, degenerated_to_sgd=False),
    ),
    *_family(
      'timm', '1.0.31', 'timm.optim.rmsprop_tf:RMSpropTF', 'timm.rmsprop_tf',
      case(),
      belief(),
      belief(alpha=0.99, centered=True),
      *[belief(momentum=0.9, lr_in_momentum=inside, rates='stairs') for inside in (True, False)],
      belief(weight_decay=WD),
      belief(weight_decay=WD, decoupled_decay=True, momentum=0.9),
      *[belief(weight_decay=WD, decoupled_decay=True, corrected_weight_decay=c, rates='stairs') for c in (True, False)],
      *[belief(momentum=0.9, caution=True, lr_in_momentum=inside) for inside in (True, False)],
      belief(momentum=0.9, caution=True, centered=True, weight_decay=WD, rates='linear'),
    ),
    *_family(
      'timm', '1.0.31', 'timm.optim.radam:RAdamLegacy', 'timm.radam_legacy',
      case(),
      belief(),
      belief(weight_decay=WD, betas=B9, rates='linear'),
    ),
  ]  # fmt: skip


def _pytorch_optimizer():
  make = lambda **kwargs: case(**{'lr': 0.01, 'eps': EPS, **kwargs})
  debias = {'adam_debias': True}
  return [
    *_family(
      'pytorch-optimizer', '4.1.0', 'pytorch_optimizer.optimizer.adabelief:AdaBelief', 'pytorch_optimizer.adabelief',
      case(),
      make(),
      make(rectify=True),
      make(rectify=True, n_sma_threshold=9, **debias),
      make(rectify=True, degenerated_to_sgd=False, weight_decay=WD),
      *[make(ams_bound=True, betas=B9, rectify=r) for r in (False, True)],
      make(weight_decay=WD, weight_decouple=False, maximize=True),
      make(weight_decay=0.01, fixed_decay=True, **debias),
      make(weight_decay=WD, rates='linear'),
      make(ams_bound=True, betas=B9, weight_decay=WD, weight_decouple=False, complex_=True),
    ),
    *_family(
      'pytorch-optimizer', '4.1.0', 'pytorch_optimizer.optimizer.radam:RAdam', 'pytorch_optimizer.radam',
      case(),
      make(),
      make(degenerated_to_sgd=True, weight_decay=WD, maximize=True),
      make(weight_decay=WD),
      make(weight_decay=WD, weight_decouple=False, n_sma_threshold=9),
      make(weight_decay=0.01, fixed_decay=True, rates='stairs', **debias),
      make(betas=B9, complex_=True),
    ),
  ]  # fmt: skip


def _torch_optimizer():
  make = lambda **kwargs: case(**{'lr': 0.01, 'eps': EPS, **kwargs})
  return [
    *_family(
      'torch-optimizer', '0.3.0', 'torch_optimizer.adabelief:AdaBelief', 'torch_optimizer.adabelief',
      case(),
      make(),
      make(rectify=True),
      *[make(amsgrad=True, betas=B9, rectify=r) for r in (False, True)],
      make(weight_decay=WD, rates='linear'),
      make(weight_decay=WD, weight_decouple=True),
      make(weight_decay=0.01, weight_decouple=True, fixed_decay=True),
    ),
    *_family(
      'torch-optimizer', '0.3.0', 'torch_optimizer.radam:RAdam', 'torch_optimizer.radam',
      case(),
      make(),
      make(weight_decay=WD, betas=B9),
    ),
  ]  # fmt: skip


def _bert():
  make = lambda **kwargs: case(**{'learning_rate': 0.01, 'weight_decay_rate': WD, **kwargs})
  cases = [make(), make(epsilon=EPS, beta_1=0.5, beta_2=0.8), make(exclude_from_weight_decay=('vector',))]
  single = {'dtypes': ('float32',), 'why': 'the package keeps its moments in float32'}
  tf = [{**c, **single} for c in (make(weight_decay_rate=0.0), *cases)]
  return [
    *_family(
      'pytorch-pretrained-bert',
      '0.6.2',
      'pytorch_pretrained_bert.optimization:BertAdam',
      'bert.adamw',
      *cases,
      make(rates='linear'),
    ),
    *_family('bert-tensorflow', '1.0.4', 'bert.optimization:AdamWeightDecayOptimizer', 'bert.adamw', *tf),
  ]


def _optax(version):
  # optax computes 1 - b2^t in float32, which at b2 = 0.999 is off by up to 3e-5.
  make = lambda **kwargs: case(**{'learning_rate': 0.01, 'b2': 0.9, **kwargs})
  cases = [
    case(learning_rate=0.001),
    make(eps=EPS, eps_root=EPS),
    make(eps=EPS, b1=0.5, b2=0.8),
    make(eps_root=1e-6, rates='linear'),
  ]
  nesterov = [make(nesterov=True, eps=EPS)] if version == '0.2.8' else []
  return _family('optax', version, 'optax._src.alias:adabelief', 'optax.adabelief', *cases, *nesterov, version=version)


def _own():
  """Our algorithms beside the authors' code, or the package that is nearest to it."""
  make = lambda **kwargs: case(**{'lr': 0.01, **kwargs})
  timm = lambda module, name, *cases: _family('timm', '1.0.31', f'timm.optim.{module}:{name}', module, *cases)
  zoo = lambda module, name, *cases: _family(
    'pytorch-optimizer', '4.1.0', f'pytorch_optimizer.optimizer.{module}:{name}', module, *cases
  )
  decoupled = {'weight_decay': WD, 'weight_decouple': True}
  products = 'the maximum of AdaMax decays by products, whose roundings add up'
  return [
    *_family('torch', '2.13.0', 'torch.optim:Adamax', 'adamax', *(
      make(**kwargs, dtypes=('float64',), why=products)
      for kwargs in ({}, {'eps': EPS, 'betas': B9}, {'rates': 'linear'})
    ), make(betas=B9, eps=0.1, weight_decay=WD, ours={'weight_decay_mode': 'l2'}, dtypes=('float64',), why=products)),
    *timm('lion', 'Lion', make(), make(betas=FAST), make(weight_decay=WD, rates='linear')),
    *timm('laprop', 'LaProp', make(), make(eps=EPS, betas=(0.99, 0.9))),
    *timm('adopt', 'Adopt',
      make(clip_exp=0.25), make(clip_exp=0.333, eps=EPS, betas=B9), make(clip_exp=None, eps=0.1, rates='linear'),
      make(clip_exp=0.25, weight_decay=WD, eps=EPS, ours={'weight_decay_mode': 'l2'}),
    ),
    *timm('adan', 'Adan',
      make(no_prox=True), make(no_prox=True, eps=EPS, betas=(0.9, 0.8, 0.95)),
      make(no_prox=True, weight_decay=WD, rates='stairs'),
      make(weight_decay=WD, ours={'weight_decay_mode': 'proximal'}, rates='stairs'),
    ),
    *timm('mars', 'Mars',
      make(optimize_1d=True, betas=(0.95, 0.99)), make(optimize_1d=True, eps=EPS, betas=B9, gamma=0.1),
      make(optimize_1d=True, betas=(0.95, 0.99), weight_decay=WD, rates='linear'),
    ),
    *timm('lamb', 'Lamb',
      make(max_grad_norm=None, always_adapt=True, weight_decay=0.0),
      make(max_grad_norm=None, weight_decay=WD, eps=EPS, betas=B9, rates='linear'),
    ),
    *timm('lars', 'Lars',
      make(momentum=0.9, always_adapt=True, eps=0.0, lr=1.0),
      make(momentum=0.9, always_adapt=True, trust_coeff=0.02, eps=EPS, nesterov=True),
    ),
    *zoo('yogi', 'Yogi',
      make(initial_accumulator=0.0), make(initial_accumulator=0.0, betas=B9, eps=0.1),
      make(initial_accumulator=0.0, rates='linear', **decoupled),
    ),
    *zoo('padam', 'PAdam',
      make(ours={'amsgrad': False}), make(ours={'amsgrad': False}, partial=0.125, eps=EPS, betas=B9, **decoupled),
      make(ours={'amsgrad': False}, partial=0.5, rates='linear'),
    ),
    *zoo('ademamix', 'AdEMAMix',
      make(), make(t_alpha_beta3=30, alpha=8.0, betas=(0.9, 0.99, 0.999)),
      make(eps=EPS, rates='linear', **decoupled),
    ),
    *_family('adam-atan2-pytorch', '0.4.1', 'adam_atan2_pytorch.adam_atan2:AdamAtan2', 'adam_atan2',
      make(betas=(0.9, 0.99)), make(betas=B9, a=1.0, b=2.0), make(betas=FAST, weight_decay=WD, rates='linear'),
    ),
  ]  # fmt: skip


CONFIGS = (
  *(config for version in ('0.0.5', '0.1.0', '0.2.0', '0.2.1') for config in _adabelief_pytorch(version)),
  *(config for version in ('0.1.0', '0.2.0', '0.2.1') for config in _adabelief_tf(version)),
  *_ranger(),
  *_labml(),
  *_torch(),
  *_timm(),
  *_pytorch_optimizer(),
  *_torch_optimizer(),
  *_bert(),
  *(config for version in ('0.1.0', '0.2.3', '0.2.8') for config in _optax(version)),
  *_own(),
)
