"""Parameters and optimizer state of torch, taken over."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from belief_optax import formulas
from belief_optax.core import Recipe, State, choice, compose, dtypes
from belief_optax.interop.names import Bound, Names, by_name
from belief_optax.interop.pairs import Missing, Pairs, pair, report
from belief_optax.interop.problems import Problems
from belief_optax.interop.reading import RECOMPUTED, Reading, lines_of
from belief_optax.interop.state_dict import Entries, names_of, parts
from belief_optax.interop.values import by_parts, placed, to_numpy, wide
from belief_optax.param_groups import ByPath
from belief_optax.pieces.moments import CenteredMoment
from belief_optax.stores.convert import convert_state, paths_of
from belief_optax.stores.surgery import Patterns

LAST = 2**31 - 1  # the largest count
STEPS = 'an integer from 0 to 2^31 - 1'


def load_state(
  torch_state_dict: Mapping[str, Any],
  tx: Any,
  params: Any,
  names: Names = None,
  *,
  count: int | None = None,
  ignore: Patterns = (),
  missing: str = 'error',
) -> Any:
  r"""Makes the state of a recipe from the `state_dict` of an optimizer of torch.

  The moments, their maximum, momentum, slow weights and the step are taken over as they are; of centered RMSProp
  $s = E[g^2] - E[g]^2$. An optimizer that has not made a step gives `tx.init(params)`. Hyperparameters are not taken:
  they are those of `tx`. What was ignored or made fresh is listed in the log, `logging.getLogger('belief_optax')`.

  Args:
    torch_state_dict: what `optimizer.state_dict()` returned, `torch.load` or `load_safetensors` read. Its values may be
      arrays of torch, NumPy or JAX, and numbers.
    tx: the recipe that continues, such as `presets.torch.adam(1e-3)`: its lines say what torch calls its slots. Or a
      `by_path` of recipes: then each group has a count of its own. For a recipe in `optax.chain` or
      `optax.inject_hyperparams` see `put_state`.
    params: the parameters, whose structure, shapes and devices the state has.
    names: which parameter of torch is which leaf: a mapping from torch's names (where the optimizer was made of
      `model.named_parameters()`) or indices, or a sequence in torch's order, of paths (`'Dense_0/kernel'`) or `Name`s;
      None for the order of the leaves. See `flax_names`.
    count: the number of finished steps where torch does not keep it (torch.optim.SGD); only schedules need it.
    ignore: the parameters of torch that have no leaf here: a glob over torch's whole names (their indices as text,
      where it has no names), a compiled regular expression, or several of them. An order in `names` is that of the
      others.
    missing: what becomes of a leaf for which torch has no state, because it never had a gradient or is no parameter of
      the optimizer: `'error'`, or `'fresh'` for that of `tx.init(params)`. The count is that of the others, so nothing
      corrects the bias of its averages (see `reset_state`), unless it has a group of `by_path`.

  Returns:
    The `State`, in the dtypes of `tx.init(params)`; what its store codes is rounded to the nearest code.

  Raises:
    ValueError: if anything is missing, left over, misshapen, different between parameters or what no run can hold (NaN,
      infinity, a negative second moment): one error lists it all.
    TypeError: if `tx` is no recipe, or an argument has a wrong type.

  Example:
    >>> import jax.numpy as jnp, numpy as np
    >>> from belief_optax import interop, presets
    >>> entry = {'step': 2, 'exp_avg': np.array([0.5]), 'exp_avg_sq': np.array([0.25])}
    >>> state_dict = {'state': {0: entry}, 'param_groups': [{'params': [0]}]}
    >>> state = interop.load_state(state_dict, presets.torch.adam(), {'w': jnp.ones(1)}, ['w'])
    >>> print(state.count, state.slots['mu']['w'])
    2 [0.5]
  """
  choice('missing', missing, ('error', 'fresh'))
  if count is not None and whole(count) is None:
    raise ValueError(f'count must be {STEPS}, got {count!r}.')
  entries, groups = parts('torch_state_dict', torch_state_dict)
  torch, problems = names_of(groups, by_name(names)), Problems()
  for i in set(entries) - set(torch):
    problems.add(repr(i), 'state', 'none, as no param_group has this index', ', '.join(entries[i]) or 'an empty one')
  pairs = pair(names, params, torch, problems, ignore)
  source = _Source(pairs, entries, groups, whole(count), Missing(missing == 'fresh', _FRESH, problems), problems)
  make = _reader(tx, params, source)
  problems.check('torch_state_dict')
  state = make()
  report('load_state', pairs.ignored, 'fresh', source.missing.paths)
  return state


_FRESH = (
  "Torch has no state of a parameter that is not trained or never had a gradient: missing='fresh' gives it that of "
  'tx.init(params).'
)
_UNEQUAL = (
  'A State has one count for all parameters: give those that began later a group of by_path, each of which has a count '
  'of its own, and load into that.'
)


def load_params(
  torch_state_dict: Mapping[str, Any],
  params: Any,
  names: Names = None,
  *,
  ignore: Patterns = (),
  missing: str = 'error',
) -> Any:
  """Takes over the parameters of a module of torch.

  What was ignored or kept is listed in the log, `logging.getLogger('belief_optax')`.

  Args:
    torch_state_dict: what `module.state_dict()` returned, with arrays of torch, NumPy or JAX.
    params: parameters whose structure, shapes, dtypes and devices the new ones get.
    names: as in `load_state`; an index is the place in `torch_state_dict`.
    ignore: the arrays of torch that have no leaf here, such as the second name of tied weights (`'head.weight'`) or a
      buffer (`'*.running_mean'`): patterns as in `load_state`.
    missing: what becomes of a leaf that torch does not have: `'error'`, or `'keep'` for what it is in `params`.

  Returns:
    A tree like `params`.

  Raises:
    ValueError: if anything is missing, left over (also a buffer) or misshapen: one error lists it all.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import jax.numpy as jnp, numpy as np
    >>> from belief_optax import interop
    >>> params = {'Dense_0': {'kernel': jnp.zeros((2, 1))}}
    >>> names = interop.flax_names({'fc': 'Dense_0'}, params)
    >>> print(interop.load_params({'fc.weight': np.array([[1.0, 2.0]])}, params, names)['Dense_0']['kernel'])
    [[1.]
     [2.]]
  """
  choice('missing', missing, ('error', 'keep'))
  if not isinstance(torch_state_dict, Mapping):
    raise TypeError(f"torch_state_dict must be a module's state_dict, got {type(torch_state_dict).__name__}.")
  problems = Problems()
  left = Missing(missing == 'keep', "missing='keep' leaves what torch does not have as it is in params.", problems)
  leaves, treedef = jax.tree.flatten(params)
  pairs = pair(names, params, {key: str(key) for key in torch_state_dict}, problems, ignore)
  for path, what in pairs.lacking.items():
    left.add(path, *what)
  for key, b in pairs.found.values():
    array = _array(torch_state_dict[key], b, key, dtypes.of(b.leaf), problems)
    if array is not None:
      leaves[b.index] = placed(array, dtypes.of(b.leaf), b.leaf)
  problems.check('torch_state_dict')
  report('load_params', pairs.ignored, 'kept', left.paths)
  return treedef.unflatten(leaves)


# One array, one number.


def _array(value: Any, b: Bound, key: Any, dtype: Any, problems: Problems) -> np.ndarray | None:
  """An array of torch as the leaf has it, or None and a problem."""
  where = f'{b.name.path} ({key!r})'
  try:
    array = to_numpy(value)
  except TypeError:
    return problems.add(where, 'array', 'numbers', type(value).__name__)
  if array.shape != b.torch_shape:
    return problems.add(where, 'shape', b.torch_shape, array.shape)
  if np.iscomplexobj(array) != jnp.issubdtype(dtype, jnp.complexfloating):
    return problems.add(where, 'dtype', dtype, array.dtype)
  return b.name.to_jax(array)


def _moment(value: Any, b: Bound, key: str, like: Any, square: bool, problems: Problems) -> np.ndarray | None:
  """The same of a slot, which must be what a run can hold, in the dtype of the slot too."""
  array = _array(value, b, key, like.dtype, problems)
  if array is None:
    return None
  with np.errstate(over='ignore'):
    kept = np.asarray(array.astype(like.dtype), np.result_type(like.dtype, np.float32))
  numbers = np.stack([np.real(kept), np.imag(kept)]) if np.iscomplexobj(kept) else kept
  wrong = ~np.isfinite(numbers) | (numbers < 0) if square else ~np.isfinite(numbers)
  if wrong.any():
    expected = f'finite numbers{" >= 0" if square else ""} in {like.dtype}'
    found = f'{numbers[wrong][0]} ({wrong.sum()} of {wrong.size})'
    return problems.add(f'{b.name.path} ({key!r})', 'values', expected, found)
  return array


def whole(x: Any) -> int | None:
  """A number of steps, which torch may keep as 3.0; None for what is none."""
  try:
    array = to_numpy(x)
  except TypeError:
    return None
  if array.size != 1 or not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
    return None
  number = array.item()
  return int(number) if 0 <= number <= LAST and float(number).is_integer() else None


# What torch has.


@dataclasses.dataclass(frozen=True)
class _Source:
  """A state_dict of torch, and what becomes of a leaf for which it has nothing.

  Attributes:
    pairs: which parameter is which leaf.
    entries: what torch keeps, by index.
    groups: the param_groups.
    count: the number of finished steps, if the caller says it.
    missing: see `Missing`.
    problems: what does not fit.
  """

  pairs: Pairs
  entries: Entries
  groups: list[dict[str, Any]]
  count: int | None
  missing: Missing
  problems: Problems

  def at(self, path: str) -> dict[str, Any]:
    """What torch keeps of a leaf."""
    return self.entries.get(self.pairs.found[path][0], {}) if path in self.pairs.found else {}

  @functools.cached_property
  def group_steps(self) -> dict[str, Any]:
    """The steps that groups keep (pytorch_optimizer's do), by the paths of their leaves."""
    steps = {i: group.get('step') for group in self.groups for i in group['params']}
    return {path: steps[i] for path, (i, _) in self.pairs.found.items() if steps[i] is not None}

  def begun(self, paths: Iterable[str]) -> bool:
    """Whether a step has been made with some leaves."""
    return bool(self.count) or any(self.at(path) or whole(self.group_steps.get(path, 0)) != 0 for path in paths)

  def note_missing(self, paths: Iterable[str], names: Iterable[str]) -> None:
    """Notes the leaves of which torch keeps nothing, unless it keeps nothing at all yet."""
    begun = self.begun(self.pairs.found)
    for path in paths:
      if path in self.pairs.lacking:
        self.missing.add(path, *self.pairs.lacking[path])
      elif path in self.pairs.found and begun and not self.at(path):
        self.missing.add(path, f'{path} ({self.pairs.found[path][0]})', 'state', ', '.join(sorted(names)))


Make = Callable[[], Any]  # makes a state, once it is known that nothing is wrong


def _reader(tx: Any, params: Any, source: _Source) -> Make:
  """Reads what the state of `tx` takes; what does not fit becomes a problem."""
  if isinstance(tx, ByPath):
    return _read_groups(tx, params, source)
  lines_of('tx', tx, 'Of a chain or inject_hyperparams pass the recipe inside, and put its state there by put_state.')
  return _read_recipe(tx, params, source)


def _read_groups(tx: ByPath, params: Any, source: _Source) -> Make:
  """Each group of `by_path` has a state, and a count, of its own."""
  groups, order = tx.groups, list[str]()

  def init(params: Any) -> Any:
    state: Any = tx.init(params)
    order.extend(state.inner_states)  # that of the transformations; a dict that comes out of a trace is sorted
    return state

  template: Any = jax.eval_shape(init, params)
  labels = groups.labels(params)
  makes: dict[str, Make] = {}
  for label, one in zip(order, groups.transformations, strict=True):
    mine = jax.tree.map(lambda p, at, label=label: p if at == label else optax.MaskedNode(), params, labels)
    if isinstance(one, Recipe | ByPath) or jax.tree.leaves(template.inner_states[label]):
      makes[label] = _reader(one, mine, source)
      continue
    makes[label] = functools.partial(one.init, mine)  # optax.set_to_zero, and what else keeps nothing
    for path in (path for path in paths_of(mine) if source.at(path)):
      source.problems.add(path, 'state', 'none, as its group keeps none', ', '.join(source.at(path)))
  inner = lambda: {label: optax.MaskedState(make()) for label, make in makes.items()}
  return lambda: template._replace(inner_states=inner())


def _read_recipe(tx: Recipe, params: Any, source: _Source) -> Make:
  reading, plain, paths = Reading(tx.lines), compose(tx, store='float32'), paths_of(params)
  template = jax.eval_shape(plain.init, params)
  if template.slots:
    source.note_missing(paths, reading.entries.values())
    if not source.begun(paths):
      return lambda: tx.init(params)
  known = [path for path in paths if source.at(path)]
  arrays = _read_slots(paths, reading, template, source)
  ages = _read_ages(known, reading, template, source)
  count = _read_count(known or [path for path in paths if path in source.pairs.found], reading, source) if paths else 0

  def make() -> State:
    leaves, treedef = jax.tree.flatten(params)
    likes = plain.init(params) if len(known) < len(paths) else template
    trees = {
      slot: treedef.unflatten(
        [
          like if array is None else placed(array, like.dtype, p)
          for array, like, p in zip(values, jax.tree.leaves(likes.slots[slot]), leaves, strict=True)
        ]
      )
      for slot, values in arrays.items()
    }
    return convert_state(State(jnp.asarray(count, jnp.int32), trees, ages), plain, tx, params)

  return make


def _read_slots(paths: list[str], reading: Reading, template: State, source: _Source) -> dict[str, list[Any]]:
  """The arrays of each slot, None where torch has none."""
  names, problems = reading.entries, source.problems
  squares = {slot.name for line in reading.lines for slot in line.slots if slot.real}
  known = {*names.values(), *RECOMPUTED, 'step', *(['mu_product'] if reading.keeps_product(template.ages) else [])}
  likes = {slot: jax.tree.leaves(template.slots[slot]) for slot in names}
  slots: dict[str, list[Any]] = {slot: [None] * len(paths) for slot in names}
  for leaf, path in enumerate(paths):
    if not (entry := source.at(path)):
      continue
    i, b = source.pairs.found[path]
    for key in sorted(set(entry) - known):
      problems.add(f'{path} ({i})', 'entry', f'one of {", ".join(sorted(names.values()))}', key)
    for slot, name in names.items():
      if name in entry:
        key = f'{i}, {name}'
        slots[slot][leaf] = _moment(entry[name], b, key, likes[slot][leaf], slot in squares, problems)
      else:
        problems.add(f'{path} ({i})', 'entry', name, ', '.join(entry))
  if reading.has(CenteredMoment):
    slots['nu'] = [_centered(v, m) for v, m in zip(slots['nu'], slots['mu'], strict=True)]
  return slots


def _centered(v: np.ndarray | None, m: np.ndarray | None) -> np.ndarray | None:
  """The variance, of which torch keeps E[g^2]."""
  if v is None or m is None:
    return None
  return by_parts(lambda v, m: np.maximum(v - m**2, 0.0), wide(v), wide(m))


def _read_ages(paths: list[str], reading: Reading, template: State, source: _Source) -> dict[str, Any]:
  """The age of a scheduled b1, which torch.optim.NAdam keeps as the product of its values."""
  if not reading.keeps_product(template.ages):
    return {}
  products = {path: source.at(path).get('mu_product') for path in paths}
  product = _shared({path: None if x is None else _number(x) for path, x in products.items()}, 'mu_product', source)
  if product is None or not 0 <= product <= 1:  # after a thousand steps it is 0 in float32
    source.problems.add('all parameters', 'mu_product', 'a number in [0, 1]', 'none' if product is None else product)
    return {}
  kind = template.ages['b1'][0].dtype
  return {'b1': (jnp.asarray(formulas.decay_exponent(product), kind), jnp.zeros([], kind))}


def _read_count(paths: list[str], reading: Reading, source: _Source) -> int:
  """The number of finished steps, which torch keeps beside the arrays or in the group."""
  steps: dict[str, float | None] = {}
  wrong: dict[str, list[str]] = {}
  for path in paths:
    # pytorch_optimizer advances that of the group; of two the smaller is what was loaded long ago
    found = [x for x in (source.group_steps.get(path), source.at(path).get('step')) if x is not None]
    steps[path] = max((n for x in found if (n := whole(x)) is not None), default=None)
    for x in (x for x in found if whole(x) is None):
      wrong.setdefault(f'{x!r:.80}', []).append(str(source.pairs.found[path][0]))
  if wrong:
    source.problems.add('all parameters', 'step', STEPS, _listed(wrong))
    return 0
  step, count = _shared(steps, 'step', source, _UNEQUAL), source.count
  if step is not None:
    if count not in (None, step):
      source.problems.add('all parameters', 'step', count, step)
    return int(step)
  if count is None and (reading.scheduled or reading.counts):
    why = 'tx has a schedule' if reading.scheduled else 'torch keeps one beside second moments'
    source.problems.add('all parameters', 'step', f'{STEPS}, as {why}: pass count', 'none')
  # Without one only the first step matters: there the momentum of SGD begins.
  return int(any(map(source.at, paths))) if count is None else count


def _number(x: Any) -> float:
  """One number; NaN for what is none."""
  array = to_numpy(x)
  return float(array.item()) if array.size == 1 else math.nan


def _shared(values: Mapping[str, float | None], what: str, source: _Source, hint: str | None = None) -> float | None:
  """The number that all parameters have; None if none has."""
  found: dict[float | None, list[str]] = {}
  for path, value in values.items():
    found.setdefault(value, []).append(str(source.pairs.found[path][0]))
  if len(found) > 1:
    text = _listed({'none' if value is None else str(value): at for value, at in found.items()})
    source.problems.add('all parameters', what, 'the same for all', text, hint)
  return next((value for value in found if value is not None), None)


def _listed(found: Mapping[str, list[str]]) -> str:
  """Values, and where they are."""
  return '; '.join(f'{value} ({", ".join(at)})' for value, at in found.items())
