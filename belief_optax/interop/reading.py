"""What torch calls the state and the hyperparameters of a recipe, read from its lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from belief_optax import formulas
from belief_optax.core import Line, Recipe, State, arguments
from belief_optax.optimizers.descend import Relative
from belief_optax.presets.timm import Corrected
from belief_optax.presets.torch import InverseTime, MomentumSchedule

# What a line keeps -> torch's name of it. The first line that a recipe has decides on a slot.
_ENTRIES = {
  'nu': {
    'store_eps_when_tractable': 'exp_avg_sq',  # ranger_adabelief
    'belief': 'exp_avg_var',
    'second_moment': 'exp_avg_sq',
    'centered_moment': 'square_avg',
    'accumulate_squares': 'sum',
  },
  'mu': {'first_moment': 'exp_avg', 'centered_moment': 'grad_avg'},
  'nu_max': {'running_max': 'max_exp_avg_sq'},
  'momentum': {'heavy_ball': 'momentum_buffer'},
  'slow': {'lookahead': 'slow_buffer'},
}
# What some packages keep beside that, and what follows from the step.
RECOMPUTED = frozenset({'rho_inf', 'rho_t'})
_MOMENTS = ('first_moment', 'second_moment', 'centered_moment', 'accumulate_squares', 'heavy_ball')


def lines_of(name: str, tx: Any) -> tuple[Line, ...]:
  """The lines of an argument that must be a recipe."""
  if isinstance(tx, Recipe):
    return tx.lines
  raise TypeError(
    f'{name} must be a Recipe such as presets.torch.adam(1e-3), got {tx!r}. '
    'Of an optax.chain or of by_path, convert each recipe with its own state and parameters.'
  )


def check_state(state: Any, template: State) -> None:
  """Raises an error if a state is not that of a recipe."""
  if not isinstance(state, State):
    raise TypeError(f'state must be the State of tx, got {type(state).__name__}; of an optax.chain pass the part.')
  if jax.tree.structure(state) != jax.tree.structure(template):
    raise ValueError(f'state must be that of tx and params, {jax.tree.structure(template)}, got {state!r:.200}.')


class Reading:
  """The lines of a recipe by name, and their places."""

  def __init__(self, lines: Sequence[Line]):
    self.lines = tuple(lines)
    self.kinds = [line.name for line in lines]
    self.by_kind: dict[str, Any] = dict(zip(self.kinds, lines, strict=True))

  def has(self, *kinds: str) -> bool:
    return any(kind in self.by_kind for kind in kinds)

  def place(self, kind: str) -> int:
    """The place of a line; behind all of them if there is none."""
    return self.kinds.index(kind) if kind in self.by_kind else len(self.kinds)

  def before(self, kind: str, other: str) -> bool:
    return self.place(kind) < self.place(other)

  def first(self, *fields: str, default: Any) -> Any:
    """The first of some fields, `line.field`, that the recipe has."""
    for field in fields:
      kind, _, name = field.partition('.')
      if kind in self.by_kind:
        return getattr(self.by_kind[kind], name)
    return default

  @property
  def scheduled(self) -> bool:
    """Whether anything depends on the step count by a schedule."""
    values = (v for line in self.lines for name, v in line.fields().items() if name != 'mask')
    return any(map(callable, values))

  # State.

  @property
  def bert(self) -> bool:
    """Whether it is BertAdam's: the only Adam of torch without any bias correction."""
    corrected = self.has('bias_correct', 'bias_correct_step', 'nesterov')
    return self.has('first_moment') and self.has('second_moment') and not corrected

  @property
  def entries(self) -> dict[str, str]:
    """The slots -> torch's names of them."""
    if self.bert:
      return {'mu': 'next_m', 'nu': 'next_v'}
    entries = {
      slot: next(name for kind, name in names.items() if kind in self.by_kind)
      for slot, names in _ENTRIES.items()
      if self.has(*names)
    }
    if entries.get('nu') == 'exp_avg_sq' and 'mu' not in entries:  # RMSProp's
      entries['nu'] = 'square_avg'
    if 'nu_max' in entries:
      entries['nu_max'] = f'max_{entries["nu"]}'
    unknown = {slot.name for line in self.lines for slot in line.slots} - set(entries)
    if unknown:
      raise ValueError(f'no optimizer of torch keeps what tx keeps as {", ".join(sorted(unknown))}.')
    return entries

  @property
  def counts(self) -> bool:
    """Whether torch keeps the number of steps (torch.optim.SGD does not)."""
    return 'nu' in self.entries

  def keeps_product(self, ages: Mapping[str, Any]) -> bool:
    """Whether torch keeps an age of the state: NAdam does, as the product of its momenta."""
    if ages and (set(ages) != {'b1'} or not self.has('nesterov')):
      raise ValueError(f'no optimizer of torch keeps the age of a decay rate that is a schedule: {", ".join(ages)}.')
    return bool(ages)

  @property
  def rho_inf(self) -> float | None:
    """What adabelief-pytorch 0.0.5 keeps in its state and reads there, when it rectifies."""
    if not (self.has('raw_mean') and self.has('rectify')):
      return None
    return float(formulas.effective_length_limit(formulas.decay_exponent(self.number('rectify.b2'))))

  # Hyperparameters.

  def number(self, *fields: str, default: float = 0.0, count: Any = 0) -> float:
    """The same as `first`, of a schedule its value after `count` steps."""
    return float(arguments.at(self.first(*fields, default=default), count))

  def options(self, count: Any) -> dict[str, Any]:
    """The hyperparameters under all names that torch's packages know them by."""
    if self.bert:
      raise ValueError('BertAdam keeps an object, its schedule, in its param_groups: pass the optimizer as like.')
    if self.first('add_decayed_weights.mask', default=None) is not None:
      raise ValueError('tx masks its weight decay, which is two param_groups in torch: pass the optimizer as like.')
    number = lambda *fields: self.number(*fields, count=count)
    options: dict[str, Any] = {
      'lr': self.number('scale_by_learning_rate.learning_rate', default=1.0, count=count),
      'eps': number('precondition.eps') or number('precondition.eps_root'),
      'weight_decay': number('add_decayed_weights.weight_decay'),
      'alpha': number('lookahead.alpha', 'centered_moment.decay', 'second_moment.b2'),
      'centered': self.has('centered_moment'),
      'momentum': number('heavy_ball.decay'),
      'dampening': number('heavy_ball.dampening'),
      'nesterov': self.first('heavy_ball.nesterov', default=False),
      'initial_accumulator_value': number('accumulate_squares.initial'),
      'caution': self.has('cautious'),
      'amsgrad': self.has('running_max'),
      'ams_bound': self.has('running_max'),
      'rectify': self.has('rectify'),
      'degenerated_to_sgd': self.first('rectify.degenerate_to_sgd', default=True),
      'N_sma_threshhold': number('rectify.threshold'),
      'n_sma_threshold': number('rectify.threshold'),
      'k': self.first('lookahead.k', default=1),
      'step_counter': 0,
      'buffer': [[None] * 3 for _ in range(10)],
      **dict.fromkeys(('foreach', 'fused')),
      **dict.fromkeys(('capturable', 'differentiable'), False),
    }
    if self.has('first_moment'):
      options['betas'] = (number('first_moment.b1'), number('belief.b2', 'second_moment.b2'))
    if self.has('belief', 'rectify'):  # pytorch_optimizer keeps the step here
      options['step'] = int(count)
    return {**options, **self._decay(), **self._by_place(), **self._by_schedule()}

  def _decay(self) -> dict[str, Any]:
    """The kind of weight decay, which is its place."""
    multiplier = self.first('add_decayed_weights.multiplier', default=1.0)
    if isinstance(multiplier, Relative):
      raise ValueError('no optimizer of torch has the weight decay of tx, which is independent of the learning rate.')
    place = self.place('add_decayed_weights')
    decoupled = place > min(map(self.place, _MOMENTS))
    return {
      **dict.fromkeys(('decoupled_weight_decay', 'weight_decouple', 'decoupled_decay'), decoupled),
      'fixed_decay': self.has('add_decayed_weights') and place > self.place('scale_by_learning_rate'),
      'corrected_weight_decay': isinstance(multiplier, Corrected),
      'max_lr_snapshot': self.number('scale_by_learning_rate.learning_rate', default=1.0),
    }

  def _by_place(self) -> dict[str, Any]:
    """What else is the place of a line."""
    rate = self.place('scale_by_learning_rate')
    flips = [i for i, line in enumerate(self.lines) if self.kinds[i] == 'scale' and line.fields()['factor'] == -1.0]
    corrections = ('nesterov.b1', 'bias_correct_step.b1', 'bias_correct.b1')
    return {
      'maximize': any(i < rate for i in flips),
      'lr_in_momentum': self.before('scale_by_learning_rate', 'heavy_ball'),
      'adam_debias': self.has('first_moment') and self.first(*corrections, default=0.0) is None,
    }

  def _by_schedule(self) -> dict[str, Any]:
    """The options that are schedules here."""
    momentum = self.first('nesterov.b1', default=None)
    decays = [line.fields()['factor'] for i, line in enumerate(self.lines) if self.kinds[i] == 'scale']
    return {
      'momentum_decay': momentum.momentum_decay if isinstance(momentum, MomentumSchedule) else 0.0,
      'lr_decay': next((factor.decay for factor in decays if isinstance(factor, InverseTime)), 0.0),
    }
