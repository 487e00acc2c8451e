"""Parameters and optimizer state for torch."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from belief_optax.core import State
from belief_optax.interop.names import Bound, Key, Names, bind, by_name
from belief_optax.interop.pairs import pair, report
from belief_optax.interop.problems import Problems
from belief_optax.interop.reading import Reading, check_state, lines_of
from belief_optax.interop.state_dict import names_of, parts, state_dict_of
from belief_optax.interop.values import by_parts, held_as, of_torch, wide
from belief_optax.pieces.moments import Belief, CenteredMoment
from belief_optax.pieces.momentum import HeavyBall
from belief_optax.pieces.rectify import Rectify
from belief_optax.stores.convert import decode_state
from belief_optax.stores.surgery import Patterns


def dump_state(
  state: State, tx: Any, params: Any, names: Names = None, like: Any = None, *, ignore: Patterns = ()
) -> dict[str, Any]:
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
    ignore: the parameters of `like` that have no leaf here, and get no state: patterns as in `load_state`.

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
  reading, problems = (
    Reading(lines_of('tx', tx, 'Of a chain pass the recipe inside, and its state by take_state.')),
    Problems(),
  )
  check_state(state, tx, params)
  known = reading.entries  # first: a slot without a name is worse than a hyperparameter without one
  groups = _groups(state, reading, bind(names, params, Problems()), like)
  pairs = pair(names, params, names_of(groups, by_name(names)), problems, ignore)
  bound = pairs.complete(problems)
  problems.check('names' if like is None else 'like')
  report('dump_state', pairs.ignored)
  convert = _converter(like)
  slots = {name: jax.tree.leaves(tree) for name, tree in decode_state(state, tx).slots.items()}
  if int(state.count) == 0 and reading.first((HeavyBall, 'first'), default=None) == 'undampened':
    del slots['momentum']  # torch's first buffer is the gradient only if there is none before
  of = lambda b: {n: leaves[b.index] for n, leaves in slots.items()}
  entries = {i: _dump_entry(of(b), b, reading, known) for i, b in bound.items()}
  numbers = _dump_numbers(state, reading)
  return {
    'state': {
      i: {name: convert(i, name, value) for name, value in {**(numbers if entry else {}), **entry}.items()}
      for i, entry in sorted(entries.items())
      if entry
    },
    'param_groups': groups,
  }


def dump_params(params: Any, names: Names = None, like: Any = None, *, ignore: Patterns = ()) -> dict[str, Any]:
  """Makes the `state_dict` of a module of torch from parameters.

  Args:
    params: the parameters.
    names: as in `load_state`. Without `like` it must be a mapping from torch's names.
    like: the module, or its state_dict: its names are used, and the values become what it holds. None for NumPy arrays.
    ignore: the arrays of `like` that have no leaf here, and are left out: patterns as in `load_state`. The module then
      takes the result with ``strict=False``.

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
  held = dict.fromkeys(bind(names, params, Problems())) if like is None else state_dict_of(like)
  if like is None and any(isinstance(key, int) for key in held):
    raise ValueError("names must map torch's names to paths, or like be given: indices do not say what to call arrays.")
  pairs = pair(names, params, {key: str(key) for key in held}, problems, ignore)
  bound = pairs.complete(problems)
  problems.check('names' if like is None else 'like')
  report('dump_params', pairs.ignored)
  arrays: dict[Any, np.ndarray] = {key: _torch_array(bound[key].leaf, bound[key]) for key in held if key in bound}
  return arrays if like is None else {key: held_as(array, held[key]) for key, array in arrays.items()}


# One parameter.


def _torch_array(leaf: Any, b: Bound) -> np.ndarray:
  return np.array(b.name.to_torch(np.asarray(leaf)), order='C')


def _dump_entry(
  slots: Mapping[str, Any], b: Bound, reading: Reading, known: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """The arrays of one parameter."""
  arrays = {slot: _torch_array(leaf, b) for slot, leaf in slots.items()}
  if reading.has(CenteredMoment):
    nu, mu = arrays['nu'], arrays['mu']
    arrays['nu'] = by_parts(lambda v, m: v + m**2, *map(wide, (nu, mu))).astype(nu.dtype)
  return {name: arrays[slot] for slot, name in known.items() if slot in arrays}


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
  held = state_dict_of(like)['state']
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


def _groups(state: State, reading: Reading, bound: Mapping[Key, Bound], like: Any) -> list[dict[str, Any]]:
  """The param_groups of `like`, or one group of all parameters."""
  if like is None:
    order = {'params': sorted(bound)} if all(isinstance(key, int) for key in bound) else _named(bound)
    return [{**reading.options(state.count), **order}]
  groups = copy.deepcopy(parts('like', state_dict_of(like))[1])
  for group in groups:
    if 'step' in group or reading.has(Belief, Rectify):
      group['step'] = int(state.count)
  return groups


def _named(bound: Mapping[Key, Bound]) -> dict[str, list[Any]]:
  return {'params': list(range(len(bound))), 'param_names': list(bound)}
