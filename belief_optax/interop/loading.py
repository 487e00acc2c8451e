"""Parameters and optimizer state of torch, here and back."""

import collections
import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core import State, compose, dtypes
from belief_optax.interop.names import Bound, Key, Names, bind
from belief_optax.interop.problems import Problems
from belief_optax.interop.reading import RECOMPUTED, Reading, check_state, lines_of
from belief_optax.interop.values import by_parts, held_as, of_torch, placed, to_numpy
from belief_optax.stores.convert import convert_state, decode_state

Entries = dict[Any, dict[str, Any]]


def load_state(
  torch_state_dict: Mapping[str, Any], tx: Any, params: Any, names: Names = None, *, count: int | None = None
) -> State:
  r"""Makes the state of a recipe from the `state_dict` of an optimizer of torch.

  The moments, their maximum, momentum, slow weights and the step are taken over as they are; of centered RMSProp
  $s = E[g^2] - E[g]^2$. An optimizer that has not made a step gives `tx.init(params)`. Hyperparameters are not taken:
  they are those of `tx`.

  Args:
    torch_state_dict: what `optimizer.state_dict()` returned, `torch.load` or `load_safetensors` read. Its values may be
      arrays of torch, NumPy or JAX, and numbers.
    tx: the recipe that continues, such as `presets.torch.adam(1e-3)`: its lines say what torch calls its slots.
    params: the parameters, whose structure, shapes and devices the state has.
    names: which parameter of torch is which leaf: a mapping from torch's names (where the optimizer was made of
      `model.named_parameters()`) or indices, or a sequence in torch's order, of paths (`'Dense_0/kernel'`) or `Name`s;
      None for the order of the leaves. See `flax_names`.
    count: the number of finished steps where torch does not keep it (torch.optim.SGD); only schedules need it.

  Returns:
    The `State`, in the dtypes of `tx.init(params)`; what its store codes is rounded to the nearest code.

  Raises:
    ValueError: if anything is missing, left over, misshapen or different between parameters: one error lists it all.
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
  reading = Reading(lines_of('tx', tx))
  entries, groups = _parts('torch_state_dict', torch_state_dict)
  plain = compose(tx, store='float32')
  template = jax.eval_shape(plain.init, params)
  fresh = not any(entries.values()) and not count and not any(group.get('step') for group in groups)
  problems = Problems()
  bound = _indexed(bind(names, params, problems), groups, problems)
  if fresh and template.slots:
    problems.check('torch_state_dict')
    return tx.init(params)
  slots = _load_slots(entries, reading, template, bound, problems)
  ages = _load_ages(entries, reading, template, problems)
  count = _load_count(entries, groups, reading, count, problems)
  problems.check('torch_state_dict')
  treedef = jax.tree.structure(params)
  trees = {name: treedef.unflatten(leaves) for name, leaves in slots.items()}
  return convert_state(State(jnp.asarray(count, jnp.int32), trees, ages), plain, tx, params)


def dump_state(state: State, tx: Any, params: Any, names: Names = None, like: Any = None) -> dict[str, Any]:
  """Makes the `state_dict` of an optimizer of torch from the state of a recipe.

  Args:
    state: the state.
    tx: its recipe, whose lines say what torch calls its slots and, without `like`, its hyperparameters.
    params: the parameters.
    names: as in `load_state`. Without `like` the order of a mapping from names is that of `model.parameters()`.
    like: the optimizer that continues, or its state_dict: its param_groups are kept, and the values become what it
      holds (a state_dict without a state says nothing about that). None for NumPy arrays and one param_group that is
      read from `tx`, with a superset of what the packages of the presets keep there; a learning rate that is a schedule
      has its value at the state's count.

  Returns:
    The state_dict, for `optimizer.load_state_dict`.

  Raises:
    ValueError: if something does not fit, which is listed in one error, or torch has no word for a part of `tx`.
    TypeError: if `tx` is no recipe, or an argument has a wrong type.

  Example:
    >>> import jax.numpy as jnp
    >>> from belief_optax import interop, presets
    >>> tx, params = presets.torch.adam(), {'w': jnp.ones(1)}
    >>> state_dict = interop.dump_state(tx.init(params), tx, params, {'w': 'w'})
    >>> state_dict['param_groups'][0]['betas'], sorted(state_dict['state'][0])
    ((0.9, 0.999), ['exp_avg', 'exp_avg_sq', 'step'])
  """
  reading, problems = Reading(lines_of('tx', tx)), Problems()
  check_state(state, jax.eval_shape(tx.init, params))
  named = bind(names, params, problems)
  if like is None:
    groups = [{**reading.options(state.count), **_order(named)}]
  else:
    groups = copy.deepcopy(_parts('like', _state_dict_of(like))[1])
    for group in groups:
      if 'step' in group or reading.has('belief', 'rectify'):
        group['step'] = int(state.count)
  bound = _indexed(named, groups, problems)
  problems.check('names' if like is None else 'like')
  convert = _converter(like)
  slots = {name: jax.tree.leaves(tree) for name, tree in decode_state(state, tx).slots.items()}
  if int(state.count) == 0 and reading.first('heavy_ball.first', default=None) == 'undampened':
    del slots['momentum']  # torch's first buffer is the gradient only if there is none before
  entries = {i: _dump_entry({n: leaves[b.index] for n, leaves in slots.items()}, b, reading) for i, b in bound.items()}
  numbers = _dump_numbers(state, reading)
  return {
    'state': {
      i: {name: convert(i, name, value) for name, value in {**(numbers if entry else {}), **entry}.items()}
      for i, entry in sorted(entries.items())
      if entry
    },
    'param_groups': groups,
  }


def load_params(torch_state_dict: Mapping[str, Any], params: Any, names: Names = None) -> Any:
  """Takes over the parameters of a module of torch.

  Args:
    torch_state_dict: what `module.state_dict()` returned, with arrays of torch, NumPy or JAX.
    params: parameters whose structure, shapes, dtypes and devices the new ones get.
    names: as in `load_state`; an index is the place in `torch_state_dict`.

  Returns:
    A tree like `params`.

  Raises:
    ValueError: if anything is missing, left over (also a buffer such as `running_mean`) or misshapen: one error lists
      it all.
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
  if not isinstance(torch_state_dict, Mapping):
    raise TypeError(f"torch_state_dict must be a module's state_dict, got {type(torch_state_dict).__name__}.")
  problems = Problems()
  leaves, treedef = jax.tree.flatten(params)
  arrays = _keyed(bind(names, params, problems), list(torch_state_dict), problems)
  for key, b in arrays.items():
    array = _array(torch_state_dict[key], b, key, dtypes.of(b.leaf), problems)
    if array is not None:
      leaves[b.index] = placed(array, dtypes.of(b.leaf), b.leaf)
  problems.check('torch_state_dict')
  return treedef.unflatten(leaves)


def dump_params(params: Any, names: Names = None, like: Any = None) -> dict[str, Any]:
  """Makes the `state_dict` of a module of torch from parameters.

  Args:
    params: the parameters.
    names: as in `load_state`. Without `like` it must be a mapping from torch's names.
    like: the module, or its state_dict: its names are used, and the values become what it holds. None for NumPy arrays.

  Returns:
    The state_dict, for `module.load_state_dict`.

  Raises:
    ValueError: if something does not fit, which is listed in one error.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import jax.numpy as jnp
    >>> from belief_optax import interop
    >>> params = {'Dense_0': {'kernel': jnp.array([[1.0], [2.0]])}}
    >>> interop.dump_params(params, interop.flax_names({'fc': 'Dense_0'}, params))
    {'fc.weight': array([[1., 2.]], dtype=float32)}
  """
  problems = Problems()
  bound = bind(names, params, problems)
  held = {} if like is None else _state_dict_of(like)
  if like is not None:
    bound = _keyed(bound, list(held), problems)
  elif any(isinstance(key, int) for key in bound):
    raise ValueError("names must map torch's names to paths, or like be given: indices do not say what to call arrays.")
  problems.check('names' if like is None else 'like')
  arrays: dict[Any, np.ndarray] = {key: _torch_array(b.leaf, b) for key, b in bound.items()}
  return arrays if like is None else {key: held_as(array, held[key]) for key, array in arrays.items()}


# What a state_dict is.


def _state_dict_of(like: Any) -> Mapping[str, Any]:
  return like.state_dict() if hasattr(like, 'state_dict') else like


def _parts(name: str, state_dict: Any) -> tuple[Entries, list[dict[str, Any]]]:
  """The state without what is None, and the param_groups."""
  if not isinstance(state_dict, Mapping) or not {'state', 'param_groups'} <= set(state_dict):
    raise TypeError(
      f"{name} must be an optimizer's state_dict, with 'state' and 'param_groups', got {state_dict!r:.80}."
    )
  present = lambda entry: {key: value for key, value in entry.items() if value is not None}
  entries = {index: present(entry) for index, entry in state_dict['state'].items()}
  return entries, [dict(group) for group in state_dict['param_groups']]


def _order(bound: Mapping[Key, Bound]) -> dict[str, list[Any]]:
  """The parameters of one group that has them all."""
  if all(isinstance(key, int) for key in bound):
    return {'params': sorted(bound)}
  return {'params': list(range(len(bound))), 'param_names': list(bound)}


def _indexed(bound: Mapping[Key, Bound], groups: list[dict[str, Any]], problems: Problems) -> dict[int, Bound]:
  """What is bound to torch's indices."""
  indices = [i for group in groups for i in group['params']]
  if not any(isinstance(key, str) for key in bound):
    return _keyed(bound, indices, problems)
  if not all('param_names' in group for group in groups):
    raise ValueError(
      'names maps names, but the param_groups have no param_names: make the optimizer of model.named_parameters(), or '
      'pass the paths as a list in the order of model.parameters().'
    )
  keys = [name for group in groups for name in group['param_names']]
  by_name = _keyed(bound, keys, problems)
  return {i: by_name[key] for i, key in zip(indices, keys, strict=True) if key in by_name}


def _keyed(bound: Mapping[Any, Bound], keys: list[Any], problems: Problems) -> dict[Any, Bound]:
  """What is bound to the keys of a state_dict, or to their places; keys without a counterpart are problems."""
  known = set(keys)
  if keys and isinstance(keys[0], str) and all(isinstance(key, int) for key in bound):
    bound = {keys[i] if 0 <= i < len(keys) else i: b for i, b in bound.items()}
  for key in bound:
    if key not in known:
      problems.add(f'{bound[key].name.path} ({key!r})', 'parameter', 'one of torch', 'none')
  for key in keys:
    if key not in bound:
      problems.add(repr(key), 'parameter of torch', 'a name', 'none')
  return {key: bound[key] for key in keys if key in bound}


# Reading.


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


def _load_slots(
  entries: Entries, reading: Reading, template: State, bound: Mapping[int, Bound], problems: Problems
) -> dict[str, list[Any]]:
  """The leaves of each slot."""
  names = reading.entries
  known = {*names.values(), *RECOMPUTED, 'step', *(['mu_product'] if reading.keeps_product(template.ages) else [])}
  slots: dict[str, list[Any]] = {slot: jax.tree.leaves(template.slots[slot]) for slot in names}
  for i in sorted(set(entries) - set(bound)):
    problems.add(repr(i), 'state', 'none, as no param_group has this index', ', '.join(entries[i]))
  for i, b in bound.items():
    entry = entries.get(i, {})
    for key in sorted(set(entry) - known):
      problems.add(f'{b.name.path} ({i})', 'entry', f'one of {", ".join(sorted(names.values()))}', key)
    arrays = {}
    for slot, name in names.items():
      if name in entry:
        arrays[slot] = _array(entry[name], b, f'{i}, {name}', slots[slot][b.index].dtype, problems)
      else:
        problems.add(f'{b.name.path} ({i})', 'entry', name, ', '.join(entry) or 'no state')
    if reading.has('centered_moment') and arrays.get('mu') is not None and arrays.get('nu') is not None:
      arrays['nu'] = by_parts(lambda v, m: np.maximum(v - m**2, 0.0), *map(_wide, (arrays['nu'], arrays['mu'])))
    for slot, array in arrays.items():
      if array is not None:
        slots[slot][b.index] = placed(array, slots[slot][b.index].dtype, b.leaf)
  return slots


def _load_ages(entries: Entries, reading: Reading, template: State, problems: Problems) -> dict[str, Any]:
  """The age of a scheduled b1, which torch.optim.NAdam keeps as the product of its values."""
  if not reading.keeps_product(template.ages):
    return {}
  products = {i: entry.get('mu_product') for i, entry in entries.items()}
  product = _shared({i: None if x is None else _number(x) for i, x in products.items()}, 'mu_product', problems)
  if product is None or not 0 < product <= 1:
    problems.add('all parameters', 'mu_product', 'a number in (0, 1]', product)
    return {}
  kind = template.ages['b1'][0].dtype
  return {'b1': (jnp.asarray(-math.log(product), kind), jnp.zeros([], kind))}


def _load_count(
  entries: Entries, groups: list[dict[str, Any]], reading: Reading, count: int | None, problems: Problems
) -> int:
  """The number of finished steps, which torch keeps beside the arrays or in the group."""
  steps: dict[int, float | None] = {}
  for group in groups:
    for i in group['params']:
      # pytorch_optimizer advances that of the group; of two the smaller is what was loaded long ago
      found = [x for x in (group.get('step'), entries.get(i, {}).get('step')) if x is not None]
      steps[i] = max(map(_number, found), default=None)
  step = _shared(steps, 'step', problems)
  if step is None:
    if count is None and reading.scheduled:
      problems.add('all parameters', 'step', 'a number, as tx has a schedule: pass count', 'none')
    # Without one only the first step matters: there the momentum of SGD begins.
    return int(any(entries.values())) if count is None else count
  if not step.is_integer() or count not in (None, step):
    problems.add('all parameters', 'step', 'an integer' if count is None else count, step)
    return 0
  return int(step)


def _number(x: Any) -> float:
  array = to_numpy(x)
  return float(array.item()) if array.size == 1 else math.nan


def _shared(values: Mapping[int, float | None], what: str, problems: Problems) -> float | None:
  """The number that all parameters have; None if none has."""
  found: dict[float | None, list[int]] = collections.defaultdict(list)
  for i, value in values.items():
    found[value].append(i)
  if len(found) > 1:
    text = '; '.join(f'{"none" if value is None else value} ({", ".join(map(str, at))})' for value, at in found.items())
    problems.add('all parameters', what, 'the same for all', text)
  return next((value for value in found if value is not None), None)


# Writing.


def _torch_array(leaf: Any, b: Bound) -> np.ndarray:
  return np.array(b.name.to_torch(np.asarray(leaf)), order='C')


def _dump_entry(slots: Mapping[str, Any], b: Bound, reading: Reading) -> dict[str, np.ndarray]:
  """The arrays of one parameter."""
  arrays = {slot: _torch_array(leaf, b) for slot, leaf in slots.items()}
  if reading.has('centered_moment'):
    nu, mu = arrays['nu'], arrays['mu']
    arrays['nu'] = by_parts(lambda v, m: v + m**2, *map(_wide, (nu, mu))).astype(nu.dtype)
  return {name: arrays[slot] for slot, name in reading.entries.items() if slot in arrays}


def _dump_numbers(state: State, reading: Reading) -> dict[str, Any]:
  """What torch keeps per parameter though it is the same for all."""
  numbers: dict[str, Any] = {'step': int(state.count)} if reading.counts else {}
  if reading.keeps_product(state.ages):
    numbers['mu_product'] = math.exp(-float(sum(state.ages['b1'])))
  if reading.rho_inf is not None:
    numbers['rho_inf'] = reading.rho_inf
  return numbers


def _converter(like: Any) -> Callable[[int, str, Any], Any]:
  """What makes a value what `like` holds at its place: (index, entry, value) -> value."""
  if like is None:
    return lambda *place_and_value: place_and_value[-1]
  held = _state_dict_of(like)['state']
  tensors = [p for group in like.param_groups for p in group['params']] if of_torch(like) else None

  def convert(i: int, name: str, value: Any) -> Any:
    old = held.get(i, {}).get(name)
    if old is None and isinstance(value, np.ndarray):
      if tensors is None:
        raise ValueError(
          f'like must be the optimizer itself: its state_dict has no {name} of parameter {i}, '
          'and so does not say what it should be.'
        )
      old = tensors[i]
    return value if old is None else held_as(value, old)

  return convert


def _wide(x: np.ndarray) -> np.ndarray:
  return x.astype(np.result_type(x, np.float64) if x.dtype.kind in 'fc' else np.float64)
