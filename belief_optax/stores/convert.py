"""States between the steps: read as plain arrays, converted between stores, measured."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core import Recipe, State, check_state, compose, dtypes, keys_of
from belief_optax.param_groups import name_of
from belief_optax.stores import Route, bits
from belief_optax.stores.base import Kept
from belief_optax.stores.legacy import without_tiles

# What is kept of all parameters: for each key of `State.slots` the leaves, in order.
Leaves = Mapping[str, Sequence[Any]]


def routes_of(tx: Any, name: str) -> tuple[Route, ...]:
  """The routes of an argument that must be a recipe."""
  if not isinstance(tx, Recipe):
    raise TypeError(f'{name} must be a Recipe of belief_optax, got {tx!r:.200}; take its own State out of a chain.')
  return tx.routes


def decode_state(state: State, tx: Recipe) -> State:
  """Reads a state as plain arrays, whatever store keeps it.

  Args:
    state: a state of `tx`.
    tx: the recipe.

  Returns:
    A `State` with one tree of float32 arrays (or wider, where that is what is kept) per slot name, as the same recipe
    with ``store='float32'`` has it. It shares no buffer with `state`: either can be donated.

  Raises:
    TypeError: if `tx` is no recipe, or another store has made the state.
    ValueError: if the state is not one of `tx`.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.adam(1e-3, store='packed16')
    >>> params = jnp.ones((64, 64))
    >>> _, state = tx.update(params, tx.init(params))
    >>> list(state.slots), list(bo.decode_state(state, tx).slots)
    (['mu+nu.packed16'], ['mu', 'nu'])
  """
  routes_of(tx, 'tx')
  state, tx = without_tiles(state, tx)
  routes = tx.routes
  check_state('decode_state', keys_of(routes), state)
  slots = {}
  for route in routes:
    trees = [state.slots[key] for key in route.keys]
    for i, slot in enumerate(route.group):
      slots[slot.name] = jax.tree.map(lambda *kept, route=route, i=i: jnp.copy(value_of(route, i, kept)), *trees)
  return own(state)._replace(slots=slots)


def convert_state(state: State, tx_from: Recipe, tx_to: Recipe, params: Any) -> State:
  """Keeps a state of one store by another.

  Args:
    state: a state of `tx_from`; one that version 0.1.0 wrote with int8 or int4 is read, whatever store that names.
    tx_from: the recipe that made it.
    tx_to: a recipe with the same slots, kept by the same lines, and any store.
    params: the parameters, or their shapes: masks and sizes say which leaves are coded.

  Returns:
    A state of `tx_to`; what is coded is rounded to the nearest code, and what both keep in the same way is the same.
    It shares no buffer with `state`: either can be donated.

  Raises:
    TypeError: if a transformation is no recipe, or another store has made the state.
    ValueError: if the state is not one of `tx_from` and `params`, the slots differ or mean something else, as the `nu`
      of Adam and of AdaBelief do (`interop.warm_start` converts these), or a decay rate is a number in one recipe and a
      schedule in the other.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> full, packed = bo.adam(1e-3), bo.adam(1e-3, store='packed16')
    >>> params = jnp.ones((64, 64))
    >>> state = bo.convert_state(full.init(params), full, packed, params)
    >>> state.slots['mu+nu.packed16'].dtype.name
    'uint32'
  """
  routes_of(tx_from, 'tx_from')
  state, tx_from = without_tiles(state, tx_from)
  routes, targets = tx_from.routes, routes_of(tx_to, 'tx_to')
  check_state('convert_state', keys_of(routes), state)
  owners = {slot.name: (route, i) for route in routes for i, slot in enumerate(route.group)}
  names = [slot.name for route in targets for slot in route.group]
  if set(names) != set(owners):
    raise ValueError(f'tx_to has the slots {sorted(names)}, but the state has {sorted(owners)}.')
  _check_meaning(tx_from, tx_to)
  old, treedef = leaves_of(state, params), jax.tree.structure(params)
  check_fit(state, tx_from, params)
  target = tx_to.init(params)
  check_ages(state, target)
  new, slots = leaves_of(target, params), {}
  for route in targets:
    parts = [_converted(route, owners, old, at(new, route, leaf), leaf) for leaf in range(treedef.num_leaves)]
    slots |= {key: treedef.unflatten([part[i] for part in parts]) for i, key in enumerate(route.keys)}
  return own(state)._replace(slots=slots)


def _check_meaning(tx_from: Recipe, tx_to: Recipe) -> None:
  """Raises where a slot is kept by another line, so that its numbers mean something else."""
  before, after = ({slot.name: line for line in tx.lines for slot in line.slots} for tx in (tx_from, tx_to))
  for name, line in before.items():
    other = after[name]
    if not (isinstance(line, type(other)) or isinstance(other, type(line))):
      raise ValueError(
        f'{name} is that of {line.name} in tx_from, but that of {other.name} in tx_to: numbers of another meaning. '
        'interop.warm_start goes from one algorithm to another.'
      )


def _converted(route: Route, owners: Mapping[str, tuple[Route, int]], old: Leaves, like: Kept, leaf: int) -> Kept:
  """What a route keeps of one parameter, from what other routes keep of it."""
  sources = [owners[slot.name] for slot in route.group]
  source, kept = sources[0][0], at(old, sources[0][0], leaf)
  if source.bare() == route.bare() and types(kept) == types(like):  # to encode again would move a code
    return tuple(map(jnp.copy, kept))
  return kept_of(route, [value_of(source, i, at(old, source, leaf)) for source, i in sources], like)


# What is kept of one parameter.


def at(leaves: Leaves, route: Route, leaf: int) -> Kept:
  """What a route keeps of one parameter."""
  return tuple(leaves[key][leaf] for key in route.keys)


def types(kept: Kept) -> list[Any]:
  """The shapes and dtypes of what is kept."""
  return [(np.shape(x), dtypes.of(x)) for x in kept]


def value_of(route: Route, i: int, kept: Kept) -> jax.Array:
  """The value of the i-th slot of a route."""
  route.store.rounds(route.group, kept)  # raises where another store has made it
  x = route.store.load(route.group, kept)[i]
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def kept_of(route: Route, values: Sequence[jax.Array], like: Kept) -> Kept:
  """What a route keeps of new values, with the types of `like`; what is coded is rounded to the nearest code."""
  return tuple(map(jnp.copy, route.store.save(route.group, values, like, bits.to_nearest(values[0]))))


def own(state: State) -> State:
  """The count and the ages in buffers of their own, without slots: what two states share cannot be donated."""
  return State(jnp.copy(state.count), {}, jax.tree.map(jnp.copy, state.ages))


# What a state must be.


def leaves_of(state: State, params: Any) -> Leaves:
  """The leaves of the slots in the order of the parameters, whose structure each tree must have."""
  expected = jax.tree.structure(params)
  for key, tree in state.slots.items():
    if (found := jax.tree.structure(tree)) != expected:
      there, here = paths_of(tree), paths_of(params)
      only = {'the state': [p for p in there if p not in here], 'params': [p for p in here if p not in there]}
      words = [f'only {who} has {", ".join(paths)}' for who, paths in only.items() if paths]
      raise ValueError(
        f'{key} of the state does not have the structure of params: '
        f'{"; ".join(words) or f"it is {found}, but params {expected}"}.'
      )
  return {key: jax.tree.leaves(tree) for key, tree in state.slots.items()}


def paths_of(tree: Any) -> list[str]:
  """The paths of the leaves, as `by_path` names them."""
  return [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def check_fit(state: State, tx: Recipe, params: Any) -> None:
  """Raises where the slots of a state have not the shapes of the parameters, or not their kind of numbers."""
  have = jax.eval_shape(functools.partial(decode_state, tx=tx), state).slots
  want = jax.eval_shape(compose(tx, store='float32').init, params).slots
  kind = lambda x: (x.shape, jnp.issubdtype(x.dtype, jnp.complexfloating))
  misfits = [
    f'{name} of {path} is {x.dtype}{list(x.shape)}, but must be {y.dtype}{list(y.shape)}'
    for name in want
    for path, x, y in zip(paths_of(params), *map(jax.tree.leaves, (have[name], want[name])), strict=True)
    if kind(x) != kind(y)
  ]
  if misfits:
    raise ValueError(f'the state is not one of these params: {"; ".join(misfits)}.')


def check_ages(state: State, target: State) -> None:
  """Raises where a decay rate is a number here and a schedule there."""
  if set(state.ages) != set(target.ages):
    of = lambda ages: ', '.join(ages) or 'none'
    raise ValueError(
      f'the decay rates that are schedules differ: {of(target.ages)} in the recipe, {of(state.ages)} in the state. '
      '`interop.warm_start` makes the age of the average.'
    )


def state_bytes(state: Any) -> int:
  """Counts the bytes of the arrays in a state.

  Args:
    state: any tree of arrays or of their shapes, such as the state of a chain.

  Returns:
    The number of bytes.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> params = jnp.ones((1024, 1024))
    >>> [bo.state_bytes(bo.adam(1e-3, store=s).init(params)) / params.size for s in ('float32', 'packed16')]
    [8.000003814697266, 4.000003814697266]
  """
  return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(state))
