"""The test registry: one row per public algorithm, and one per option that changes what is composed.

A new algorithm is one file in the package plus one row here; the row inherits every contract of `test_contracts.py` and
every pin of `test_hlo.py`.
"""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import belief_optax as bo
from belief_optax import presets, stores
from belief_optax.pieces.decay import AddCautiousDecay
from belief_optax.pieces.normalizing import Sign
from belief_optax.pieces.reductions import Cautious


def matrices_only(params: Any) -> Any:
  """A mask as people write it: no decay on vectors and scalars."""
  return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def descend_by_belief(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-16,
  eps_root: optax.ScalarOrSchedule = 1e-16,
) -> bo.Recipe:
  """`scale_by_belief` as an optimizer: the one public algorithm that has no learning rate of its own."""
  return bo.compose(bo.scale_by_belief(b1, b2, eps, eps_root), bo.scale_by_learning_rate(learning_rate))


@dataclasses.dataclass(frozen=True)
class Row:
  """A public algorithm with options.

  Attributes:
    algorithm: its public name.
    variant: what the options are called in the name of a test.
    learning_rate: one with which it solves the parabola and Rosenbrock's function in 10,000 steps.
    options: further arguments.
    factory: what is called with `learning_rate` and the options; None for the public function.
    preset: the preset that the factory calls, if it is one.
    kept: under which keys of `State.slots` real leaves are not kept in float32, and in which dtype.
    slow: whether its contracts are slow tests, as those of another row find almost all that they would.
  """

  algorithm: str
  variant: str = ''
  learning_rate: float = 0.01
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
  factory: Callable[..., bo.Recipe] = dataclasses.field(default=None, hash=False)
  preset: Callable[..., bo.Recipe] | None = None
  kept: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  slow: bool = False

  def __post_init__(self):
    object.__setattr__(self, 'factory', self.factory or getattr(bo, self.algorithm))

  def __str__(self) -> str:
    return f'{self.algorithm}-{self.variant}' if self.variant else self.algorithm

  def make(self, learning_rate: Any = None, **more: Any) -> bo.Recipe:
    rate = self.learning_rate if learning_rate is None else learning_rate
    return self.factory(learning_rate=rate, **{**self.options, **more})

  @property
  def covering(self) -> bool:
    """Whether it is one of the few rows that find almost all that the whole table finds."""
    return str(self) in COVERING

  @property
  def reads_params(self) -> bool:
    return any(line.reads_params for line in self.make().lines)

  @property
  def needs_first_rate(self) -> bool:
    """Whether the learning rate cannot be an array: the recipe divides by its first value."""
    return self.options.get('weight_decay_mode') == 'independent'

  @property
  def rounds(self) -> bool:
    """Whether a slot is rounded between the steps: what it carries is a step function of the gradients."""
    return bool(self.kept)

  @property
  def coded(self) -> bool:
    """Whether a store rounds real leaves; complex ones it keeps as they are."""
    return 'store' in self.options

  @property
  def stepwise(self) -> bool:
    """Whether its updates are a step function of the gradients, so that no derivative comes through them."""
    return self.coded or any(isinstance(line, Sign) for line in self.make().lines)

  @property
  def real_only(self) -> bool:
    """Whether complex parameters are refused."""
    return 'mu_dtype' in self.options or any(
      isinstance(line, Cautious | AddCautiousDecay) for line in self.make().lines
    )

  @property
  def names(self) -> dict[str, Any]:
    """What the names in its printed recipe mean."""
    return {**(vars(inspect.getmodule(self.preset)) if self.preset else vars(stores)), **vars(bo)}

  @property
  def elementwise(self) -> bool:
    return all(line.elementwise for line in self.make().lines)

  @property
  def static(self) -> tuple[str, ...]:
    """What optax.inject_hyperparams must be told not to trace."""
    functions = tuple(name for name, value in self.options.items() if callable(value) or name in CONSTANTS)
    return (*functions, 'learning_rate') if self.needs_first_rate else functions


def _row(
  algorithm: str,
  variant: str = '',
  learning_rate: float = 0.01,
  factory: Any = None,
  kept: Mapping[str, str] | None = None,
  slow: bool = False,
  **options: Any,
) -> Row:
  return Row(algorithm, variant, learning_rate, options, factory, kept=kept or {}, slow=slow)


# Options that must be Python numbers.
CONSTANTS = ('momentum_decay', 'n_sma_threshold', 'k', 'warmup_steps')


def _preset(name: str, variant: str, learning_rate: float, **options: Any) -> Row:
  """A row of a preset, whose learning rate is called lr."""
  module, _, function = name.partition('.')
  preset = getattr(getattr(presets, module), function)

  def factory(learning_rate: optax.ScalarOrSchedule, **arguments: Any) -> bo.Recipe:
    with warnings.catch_warnings():  # that they do warn is tested by test_presets
      warnings.simplefilter('ignore', presets.DialectWarning)
      return preset(lr=learning_rate, **arguments)

  signature = inspect.signature(preset)
  renamed = [p.replace(name='learning_rate') if p.name == 'lr' else p for p in signature.parameters.values()]
  factory.__signature__ = signature.replace(parameters=renamed)
  return Row(f'presets.{name}', variant, learning_rate, options, factory, preset)


# The presets whose compositions hold pieces that no algorithm has.
PRESET_ROWS = (
  _preset('torch.adam', 'amsgrad-l2', 0.01, amsgrad=True, weight_decay=1e-4),
  _preset('torch.nadam', 'momenta', 0.01, momentum_decay=4e-3),
  _preset('adabelief_pytorch.adabelief', '0.0.5', 0.01, version='0.0.5', amsgrad=True, rectify=True),
  _preset('labml.adabelief', 'hat', 0.01, optimized_update=False),
  _preset('pytorch_optimizer.radam', 'decayed', 5e-3, weight_decay=1e-4, n_sma_threshold=5),
  _preset('timm.rmsprop_tf', 'cautious', 1e-3, momentum=0.9, caution=True),
  _preset('ranger_adabelief.ranger', 'decayed', 0.01, weight_decay=1e-3, eps=1e-8, k=6),
)

ALGORITHM_ROWS = (
  _row('adabelief'),
  _row('adabelief', 'rectified', rectify=True, degenerate_to_sgd=True),
  _row('adabelief', 'no-step-while-young', rectify=True),
  _row('adabelief', 'amsgrad', rectify=True, degenerate_to_sgd=True, amsgrad=True),
  _row('adabelief', 'nesterov', rectify=True, degenerate_to_sgd=True, nesterov=True),
  _row('adabelief', 'debiased', rectify=True, degenerate_to_sgd=True, residual='debiased'),
  _row('adabelief', 'previous', rectify=True, degenerate_to_sgd=True, residual='previous'),
  _row('adabelief', 'eps-scaled', rectify=True, degenerate_to_sgd=True, eps_scaled=True),
  _row('adabelief', 'decoupled', weight_decay=1e-3),
  _row('adabelief', 'l2', rectify=True, degenerate_to_sgd=True, weight_decay=1e-3, weight_decay_mode='l2'),
  _row('adabelief', 'fixed', weight_decay=1e-5, weight_decay_mode='fixed'),
  _row(
    'adabelief', 'independent', rectify=True, degenerate_to_sgd=True, weight_decay=1e-5, weight_decay_mode='independent'
  ),
  _row('adabelief', 'max-step', rectify=True, degenerate_to_sgd=True, max_step=0.3, weight_decay=1e-3),
  _row('adabelief', 'packed16', kept={'mu+nu.packed16': 'uint32'}, store=stores.Packed16(min_size=0)),
  _row('adabelief', 'int8', kept={'mu+nu.direction': 'uint16'}, store='int8'),
  _row('adabelief', 'bfloat16', kept={'mu': 'bfloat16', 'nu': 'bfloat16'}, store='bfloat16'),
  _row('scale_by_belief', factory=descend_by_belief),
  _row('adam'),
  _row('adam', 'nesterov-uncorrected', nesterov=True, bias_correction=False),
  _row('adam', 'bfloat16-mean', kept={'mu': 'bfloat16'}, mu_dtype='bfloat16'),
  _row('adamw'),
  _row('adamw', 'masked', weight_decay=1e-3, mask=matrices_only),
  _row('adamw', 'cautious', weight_decay=1e-3, weight_decay_mode='cautious'),
  _row('adamw', 'proximal', weight_decay=1e-2, weight_decay_mode='proximal'),
  _row('nadam'),
  _row('nadamw'),
  _row('amsgrad'),
  _row('amsgrad', 'raw', max_of='raw'),
  _row('radam', learning_rate=5e-3),
  _row('radam', 'mean-at-first', learning_rate=5e-3, degenerate_to_sgd=True),
  _row(
    'radam', 'threshold-4', learning_rate=5e-3, threshold=4.0, nesterov=True, eps_scaled=True, degenerate_to_sgd=True
  ),
  _row('rmsprop', learning_rate=5e-3),
  _row('rmsprop', 'centered-momentum', learning_rate=1e-3, centered=True, momentum=0.9),
  # The variance of one gradient is 0: eps alone bounds the first step.
  _row(
    'rmsprop', 'centered-corrected', learning_rate=1e-3, centered=True, bias_correction=True, eps_in_sqrt=False, eps=0.1
  ),
  _row('rmsprop', 'nesterov-decayed', learning_rate=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-3),
  _row('sgd', learning_rate=1e-3),
  _row('sgd', 'momentum', learning_rate=1e-3, momentum=0.9),
  _row('sgd', 'nesterov-torch', learning_rate=1e-3, momentum=0.9, nesterov=True, first_buffer='undampened'),
  _row('sgd', 'l2', learning_rate=1e-3, momentum=0.9, dampening=0.1, weight_decay=1e-4, weight_decay_mode='l2'),
  _row('adagrad', learning_rate=1.0),
  _row('adagrad', 'torch', learning_rate=1.0, initial_accumulator_value=0.0, eps_in_sqrt=False),
  _row('laprop'),
  _row('adamax'),
  _row('lion', learning_rate=2e-3),
  _row('yogi'),
  _row('adam_atan2'),
  _row('adopt'),
  _row('adan'),
  _row('ademamix'),
  _row('ademamix', 'warmed-up', warmup_steps=4),
  _row('mars'),
  _row('padam', learning_rate=0.1),
  _row('acprop', learning_rate=1e-3, eps=1.0),  # its first step of y, whose gradient begins at 0, is 1 / eps long
  _row('eadam'),
  _row('adamomentum'),
  _row('lamb', learning_rate=1e-3),
  _row('lamb', 'decayed', learning_rate=1e-3, weight_decay=1e-4),
  _row('lars', trust_coefficient=0.1),
)

ROWS = ALGORITHM_ROWS + PRESET_ROWS
COVERING = (
  'adabelief',
  'adabelief-independent',
  'adabelief-packed16',
  'adabelief-int8',
  'adam-bfloat16-mean',
  'adamw-masked',
  'rmsprop-centered-momentum',
  'presets.torch.nadam-momenta',  # a decay rate that is a schedule
  'presets.timm.rmsprop_tf-cautious',
  'presets.ranger_adabelief.ranger-decayed',
)
each_row = pytest.mark.parametrize('row', ROWS, ids=str)
