"""What torch calls the state and the hyperparameters of a recipe, read from its lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from belief_optax import formulas
from belief_optax.core import Line, Recipe, State, arguments
from belief_optax.optimizers.descend import Relative
from belief_optax.pieces.bias import BiasCorrect, BiasCorrectStep, RawMean
from belief_optax.pieces.complex import ComplexAsReals
from belief_optax.pieces.decay import AddDecayedWeights
from belief_optax.pieces.lookahead import Lookahead
from belief_optax.pieces.moments import AccumulateSquares, Belief, CenteredMoment, FirstMoment, RunningMax, SecondMoment
from belief_optax.pieces.momentum import HeavyBall, Nesterov
from belief_optax.pieces.normalizing import PreconditionAtan2, PreconditionPartial, Sign
from belief_optax.pieces.norms import ClipArrayNorm, TrustRatio
from belief_optax.pieces.rectify import Rectify
from belief_optax.pieces.reductions import Cautious, Centralize
from belief_optax.pieces.scaling import AddEpsRoot, Precondition, Scale, ScaleByLearningRate
from belief_optax.presets.ranger_adabelief import KeepDirectionWhileYoung, MeanWhileYoung, StoreEpsWhenTractable
from belief_optax.presets.timm import Corrected
from belief_optax.presets.torch import InverseTime, MomentumSchedule
from belief_optax.stores.convert import check_fit

# What a line keeps -> torch's name of it. The first line that a recipe has decides on a slot.
_ENTRIES: dict[str, dict[type[Line], str]] = {
  'nu': {
    StoreEpsWhenTractable: 'exp_avg_sq',
    Belief: 'exp_avg_var',
    SecondMoment: 'exp_avg_sq',
    CenteredMoment: 'square_avg',
    AccumulateSquares: 'sum',
  },
  'mu': {FirstMoment: 'exp_avg', CenteredMoment: 'grad_avg'},
  'nu_max': {RunningMax: 'max_exp_avg_sq'},
  'momentum': {HeavyBall: 'momentum_buffer'},
  'slow': {Lookahead: 'slow_buffer'},
}
# What some packages keep beside that, and what follows from the step.
RECOMPUTED = frozenset({'rho_inf', 'rho_t'})
# Lines of optimizers whose state in torch's packages looks like Adam's and means something else (LARS), or has more.
_FOREIGN = (ClipArrayNorm, PreconditionAtan2, PreconditionPartial, Sign, TrustRatio)
# Lines that hyperparameters of torch's packages speak of, or that their optimizers have without a word.
_SPOKEN = (
  AccumulateSquares, AddDecayedWeights, AddEpsRoot, Belief, BiasCorrect, BiasCorrectStep, Cautious, CenteredMoment,
  Centralize, ComplexAsReals, FirstMoment, HeavyBall, KeepDirectionWhileYoung, Lookahead, MeanWhileYoung, Nesterov,
  Precondition, RawMean, Rectify, RunningMax, Scale, ScaleByLearningRate, SecondMoment, StoreEpsWhenTractable,
)  # fmt: skip
_MOMENTS = (FirstMoment, SecondMoment, CenteredMoment, AccumulateSquares, HeavyBall)

Field = tuple[type[Line], str]  # a hyperparameter: a kind of line, and the name of its field


def lines_of(name: str, tx: Any, hint: str) -> tuple[Line, ...]:
  """The lines of an argument that must be a recipe; the hint says what to do with what holds one."""
  if isinstance(tx, Recipe):
    return tx.lines
  raise TypeError(f'{name} must be a Recipe such as presets.torch.adam(1e-3), got {tx!r:.200}. {hint}')


def check_state(state: Any, tx: Recipe, params: Any) -> None:
  """Raises an error if a state is not that of a recipe and parameters."""
  if not isinstance(state, State):
    raise TypeError(f'state must be the State of tx, got {type(state).__name__}; of an optax.chain pass the part.')
  template = jax.eval_shape(tx.init, params)
  if jax.tree.structure(state) != jax.tree.structure(template):
    raise ValueError(f'state must be that of tx and params, {jax.tree.structure(template)}, got {state!r:.200}.')
  check_fit(state, tx, params)


class Reading:
  """The lines of a recipe by their classes, and their places."""

  def __init__(self, lines: Sequence[Line]):
    self.lines = tuple(lines)

  def has(self, *kinds: type[Line]) -> bool:
    return any(isinstance(line, kinds) for line in self.lines)

  def place(self, kind: type[Line]) -> int:
    """The place of the first line of a kind; behind all lines if there is none."""
    return next((i for i, line in enumerate(self.lines) if isinstance(line, kind)), len(self.lines))

  def before(self, kind: type[Line], other: type[Line]) -> bool:
    return self.place(kind) < self.place(other)

  def line(self, *kinds: type[Line]) -> Line | None:
    """The first line of the first kind that the recipe has."""
    return next((self.lines[self.place(kind)] for kind in kinds if self.has(kind)), None)

  def first(self, *fields: Field, default: Any) -> Any:
    """The first of some hyperparameters that the recipe has."""
    return next((getattr(self.line(kind), name) for kind, name in fields if self.has(kind)), default)

  @property
  def scheduled(self) -> bool:
    """Whether anything depends on the step count by a schedule."""
    values = (v for line in self.lines for name, v in line.fields().items() if name != 'mask')
    return any(map(callable, values))

  # State.

  @property
  def bert(self) -> bool:
    """Whether it is BertAdam's: the only Adam of torch without any bias correction."""
    corrected = self.has(BiasCorrect, BiasCorrectStep, Nesterov)
    return self.has(FirstMoment) and self.has(SecondMoment) and not corrected

  @property
  def entries(self) -> dict[str, str]:
    """The slots -> torch's names of them."""
    if foreign := [line for line in self.lines if isinstance(line, _FOREIGN)]:
      raise ValueError(f'no optimizer of torch whose state is known here has a line like {foreign[0]!r}.')
    entries = {
      slot: next(name for kind, name in names.items() if self.has(kind))
      for slot, names in _ENTRIES.items()
      if self.has(*names)
    }
    if entries.get('nu') == 'exp_avg_sq' and 'mu' not in entries:  # RMSProp's
      entries['nu'] = 'square_avg'
    if self.bert:
      entries |= {'mu': 'next_m', 'nu': 'next_v'}
    unknown = {slot.name for line in self.lines for slot in line.slots} - set(entries)
    if unknown:
      raise ValueError(f'no optimizer of torch keeps what tx keeps as {", ".join(sorted(unknown))}.')
    if 'nu_max' in entries:
      entries['nu_max'] = f'max_{entries["nu"]}'
    return entries

  @property
  def counts(self) -> bool:
    """Whether torch keeps the number of steps (torch.optim.SGD does not)."""
    return 'nu' in self.entries

  def keeps_product(self, ages: Mapping[str, Any]) -> bool:
    """Whether torch keeps an age of the state: NAdam does, as the product of its momenta."""
    if ages and (set(ages) != {'b1'} or not self.has(Nesterov)):
      raise ValueError(
        f'no optimizer of torch keeps the age of a decay rate that is a schedule: {", ".join(ages)}. Put a number '
        'in its place; `interop.warm_start` goes from one recipe to the other.'
      )
    return bool(ages)

  @property
  def rho_inf(self) -> float | None:
    """What adabelief-pytorch 0.0.5 keeps in its state and reads there, when it rectifies."""
    if not (self.has(RawMean) and self.has(Rectify)):
      return None
    return float(formulas.effective_length_limit(formulas.decay_exponent(self.number((Rectify, 'b2')))))

  # Hyperparameters.

  def number(self, *fields: Field, default: float = 0.0, count: Any = 0) -> float:
    """The same as `first`, of a schedule its value after `count` steps."""
    return float(arguments.at(self.first(*fields, default=default), count))

  def options(self, count: Any) -> dict[str, Any]:
    """The hyperparameters under all names that torch's packages know them by."""
    if self.bert:
      raise ValueError('BertAdam keeps an object, its schedule, in its param_groups: pass the optimizer as like.')
    if self.first((AddDecayedWeights, 'mask'), default=None) is not None:
      raise ValueError('tx masks its weight decay, which is two param_groups in torch: pass the optimizer as like.')
    if unspoken := [line for line in self.lines if not isinstance(line, _SPOKEN)]:
      raise ValueError(f'no hyperparameter of torch says {unspoken[0]!r}: pass the optimizer as like.')
    number = lambda *fields: self.number(*fields, count=count)
    options: dict[str, Any] = {
      'lr': self.number((ScaleByLearningRate, 'learning_rate'), default=1.0, count=count),
      'eps': number((Precondition, 'eps')) or number((Precondition, 'eps_root')),
      'weight_decay': number((AddDecayedWeights, 'weight_decay')),
      'alpha': number((Lookahead, 'alpha'), (CenteredMoment, 'decay'), (SecondMoment, 'b2')),
      'centered': self.has(CenteredMoment),
      'momentum': number((HeavyBall, 'decay')),
      'dampening': number((HeavyBall, 'dampening')),
      'nesterov': self.first((HeavyBall, 'nesterov'), default=False),
      'initial_accumulator_value': number((AccumulateSquares, 'initial')),
      'caution': self.has(Cautious),
      'amsgrad': self.has(RunningMax),
      'ams_bound': self.has(RunningMax),
      'rectify': self.has(Rectify),
      'degenerated_to_sgd': self.first((Rectify, 'degenerate_to_sgd'), default=True),
      'N_sma_threshhold': number((Rectify, 'threshold')),
      'n_sma_threshold': number((Rectify, 'threshold')),
      'k': self.first((Lookahead, 'k'), default=1),
      'step_counter': 0,
      'buffer': [[None] * 3 for _ in range(10)],
      **dict.fromkeys(('foreach', 'fused')),
      **dict.fromkeys(('capturable', 'differentiable'), False),
    }
    if self.has(FirstMoment):
      options['betas'] = (number((FirstMoment, 'b1')), number((Belief, 'b2'), (SecondMoment, 'b2')))
    if self.has(Belief, Rectify):  # pytorch_optimizer keeps the step here
      options['step'] = int(count)
    return {**options, **self._decay(), **self._by_place(), **self._by_schedule()}

  def _decay(self) -> dict[str, Any]:
    """The kind of weight decay, which is its place."""
    multiplier = self.first((AddDecayedWeights, 'multiplier'), default=1.0)
    if isinstance(multiplier, Relative):
      raise ValueError('no optimizer of torch has the weight decay of tx, which is independent of the learning rate.')
    place = self.place(AddDecayedWeights)
    decoupled = place > min(map(self.place, _MOMENTS))
    return {
      **dict.fromkeys(('decoupled_weight_decay', 'weight_decouple', 'decoupled_decay'), decoupled),
      'fixed_decay': self.has(AddDecayedWeights) and place > self.place(ScaleByLearningRate),
      'corrected_weight_decay': isinstance(multiplier, Corrected),
      'max_lr_snapshot': self.number((ScaleByLearningRate, 'learning_rate'), default=1.0),
    }

  def _by_place(self) -> dict[str, Any]:
    """What else is the place of a line."""
    rate = self.place(ScaleByLearningRate)
    flips = [i for i, line in enumerate(self.lines) if isinstance(line, Scale) and line.factor == -1.0]
    corrections = ((Nesterov, 'b1'), (BiasCorrectStep, 'b1'), (BiasCorrect, 'b1'))
    return {
      'maximize': any(i < rate for i in flips),
      'lr_in_momentum': self.before(ScaleByLearningRate, HeavyBall),
      'adam_debias': self.has(FirstMoment) and self.first(*corrections, default=0.0) is None,
    }

  def _by_schedule(self) -> dict[str, Any]:
    """The options that are schedules here."""
    momentum = self.first((Nesterov, 'b1'), default=None)
    decays = [line.factor for line in self.lines if isinstance(line, Scale)]
    return {
      'momentum_decay': momentum.momentum_decay if isinstance(momentum, MomentumSchedule) else 0.0,
      'lr_decay': next((factor.decay for factor in decays if isinstance(factor, InverseTime)), 0.0),
    }
