"""States between the steps: read as plain arrays, converted between stores, measured."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core import Recipe, State, check_state, keys_of
from belief_optax.core.trees import align
from belief_optax.stores import Route, bits


def _routes(tx: Any, name: str) -> tuple[Route, ...]:
  if not isinstance(tx, Recipe):
    raise TypeError(f'{name} must be a Recipe of belief_optax, got {tx!r}; take its own State out of a chain.')
  return tx.routes


def decode_state(state: State, tx: Recipe) -> State:
  """Reads a state as plain arrays, whatever store keeps it.

  Args:
    state: a state of `tx`.
    tx: the recipe.

  Returns:
    A `State` with one tree of float32 arrays (or wider, where that is what is kept) per slot name, as the same recipe
    with ``store='float32'`` has it.

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
  routes = _routes(tx, 'tx')
  check_state('decode_state', keys_of(routes), state)
  slots = {}
  for route in routes:
    for i, slot in enumerate(route.group):
      read = functools.partial(_read, route, i)
      slots[slot.name] = jax.tree.map(read, *(state.slots[key] for key in route.keys))
  return state._replace(slots=slots)


def _read(route: Route, i: int, *kept: jax.Array) -> jax.Array:
  route.store.rounds(route.group, kept)  # raises where another store has made it
  x = route.store.load(route.group, kept)[i]
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def convert_state(state: State, tx_from: Recipe, tx_to: Recipe, params: Any) -> State:
  """Keeps a state of one store by another.

  Args:
    state: a state of `tx_from`.
    tx_from: the recipe that made it.
    tx_to: a recipe with the same slots and any store.
    params: the parameters, or their shapes: masks and sizes say which leaves are coded.

  Returns:
    A state of `tx_to`; what is coded is rounded to the nearest code.

  Raises:
    TypeError: if a transformation is no recipe, or another store has made the state.
    ValueError: if the state is not one of `tx_from`, or the slots differ.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> full, packed = bo.adam(1e-3), bo.adam(1e-3, store='packed16')
    >>> params = jnp.ones((64, 64))
    >>> state = bo.convert_state(full.init(params), full, packed, params)
    >>> state.slots['mu+nu.packed16'].dtype.name
    'uint32'
  """
  _, routes = _routes(tx_from, 'tx_from'), _routes(tx_to, 'tx_to')
  plain = decode_state(state, tx_from)
  names = [slot.name for route in routes for slot in route.group]
  if set(names) != set(plain.slots):
    raise ValueError(f'tx_to has the slots {sorted(names)}, but the state has {sorted(plain.slots)}.')
  target = tx_to.init(params)
  slots = {}
  for route in routes:
    kept, treedef = zip(*(jax.tree.flatten(target.slots[key]) for key in route.keys), strict=True)
    values = (align(treedef[0], f'the {slot.name} of the state', plain.slots[slot.name]) for slot in route.group)
    nearest = lambda old, new, route=route: route.store.save(route.group, new, old, bits.to_nearest(new[0]))
    saved = [nearest(old, new) for old, new in zip(zip(*kept, strict=True), zip(*values, strict=True), strict=True)]
    slots |= {key: treedef[0].unflatten([parts[i] for parts in saved]) for i, key in enumerate(route.keys)}
  return State(plain.count, slots, plain.ages)


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
