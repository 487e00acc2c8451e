"""Recipes: a list of lines as one gradient transformation."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, cast

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from belief_optax.core import dtypes, trees
from belief_optax.core.applying import moved
from belief_optax.core.masks import full_mask
from belief_optax.core.piece import Line
from belief_optax.core.step import Arrays, Plan, State, check_state, run, scheduled_rates, splits_complex
from belief_optax.core.watching import seen, unseen
from belief_optax.execution import use
from belief_optax.stores import FLOAT32, Route, Store, StoreLike, resolve

P = ParamSpec('P')
_GIVERS: dict[str, set[str]] = {}  # what a line may need -> the names of the pieces that give it, for error messages


class Recipe(optax.GradientTransformationExtraArgs):
  """A gradient transformation that is also the list of its lines.

  It is a value: equal recipes are `==`, hash alike, pickle, and share one jit cache entry. Its `init` and `update` are
  optax's, so it works wherever an optax transformation does, alone or in a chain.

  `init(params)` returns a `State`; `update(updates, state, params=None, **extra_args)` returns new updates and the next
  `State`, and compiles itself when it is called outside of `jax.jit`.
  """

  __slots__ = ()
  init: 'Init'  # pyright: ignore[reportIncompatibleVariableOverride]
  update: 'Update'  # pyright: ignore[reportIncompatibleVariableOverride]

  @property
  def lines(self) -> tuple[Line, ...]:
    return self.update.lines

  @property
  def store(self) -> Store:
    return self.update.store

  @property
  def routes(self) -> tuple[Route, ...]:
    """Where its store keeps each slot."""
    return self.update.routes

  def step(self, params: optax.Params, state: State, grads: optax.Updates, **extra: Any) -> tuple[Any, State]:
    """One step: what `update` and `optax.apply_updates` do, in one pass over memory.

    The arguments stand in the order of the results, so that `jax.jit(tx.step, donate_argnums=(0, 1))` copies nothing.

    Args:
      params: the parameters.
      state: the state, as `init` makes it.
      grads: the gradients, a tree like the parameters; where None stands, the parameter stays as it is.
      **extra: for other transformations; this one has no use for it.

    Returns:
      The new parameters, in their dtypes, and the new `State`.

    Raises:
      ValueError: if shapes, structures or the state do not fit.
      TypeError: if dtypes do not fit.

    Example:
      >>> import belief_optax as bo, jax.numpy as jnp
      >>> tx, params = bo.sgd(0.5), jnp.ones(2)
      >>> params, state = tx.step(params, tx.init(params), jnp.array([1.0, -1.0]))
      >>> print(params)
      [0.5 1.5]
    """
    del extra
    return self.update.step(params, state, grads)

  def __repr__(self) -> str:
    store = f'  store={self.store!r},\n' if self.store != FLOAT32 else ''
    if len(self.lines) == 1 and not store:
      return repr(self.lines[0])
    return 'compose(\n' + ''.join(f'  {line!r},\n' for line in self.lines) + f'{store})'


def piece(cls: Callable[P, Line]) -> Callable[P, Recipe]:
  """Makes a `Line` class a piece: a function with its signature that returns a one-line `Recipe`.

  Args:
    cls: a subclass of `Line`. Its fields become the arguments, its docstring that of the piece.

  Returns:
    The piece, named like the class in lower case with underscores. Give both a name of their own, so that lines can be
    pickled.

  Example:
    >>> import belief_optax as bo
    >>> class Shift(bo.Line):
    ...   '''u <- u + by'''
    ...   by: float = bo.hyper(default=1.0, allowed=bo.ranges.FINITE)
    ...   def scalars(self, now):  # once per step
    ...     return now(self.by)
    ...   def step(self, x, k):  # once per array
    ...     return x.redirect(x.u + k)
    >>> shift = bo.piece(Shift)
    >>> bo.compose(shift(2.0), bo.scale(0.5))
    compose(
      shift(by=2.0),
      scale(factor=0.5),
    )
  """

  def make(*args: P.args, **kwargs: P.kwargs) -> Recipe:
    return _recipe((cls(*args, **kwargs),))

  line: Any = cls
  make.__module__, make.__doc__ = line.__module__, line.__doc__
  make.__name__ = make.__qualname__ = name = object.__new__(line).name
  for given in line.gives:
    _GIVERS.setdefault(given, set()).add(name)
  signature = inspect.signature(cls)
  setattr(make, '__signature__', signature.replace(return_annotation=Recipe))  # noqa: B010
  return make


def compose(*pieces: Recipe, store: StoreLike | None = None) -> Recipe:
  """Composes pieces, in the order in which their equations are applied, into one gradient transformation.

  Args:
    *pieces: pieces and other compositions, whose lines are taken in order.
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these; None for the store of the compositions, or float32.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that runs all lines in one pass over memory.

  Raises:
    TypeError: if an argument is no piece (put optax transformations beside it in `optax.chain`).
    ValueError: if two pieces own the same slot, two schedules the same decay rate, two compositions have different
      stores, a store does not fit, or weight decay stands where it would make parameters grow.

  Example:
    >>> import belief_optax as bo
    >>> bo.compose(bo.first_moment(0.9), bo.scale_by_learning_rate(0.1))
    compose(
      first_moment(b1=0.9, dtype=None),
      scale_by_learning_rate(learning_rate=0.1, flip_sign=True),
    )
  """
  for one in pieces:
    if not isinstance(one, Recipe):
      hint = ' Put it beside the composition in optax.chain.' if isinstance(one, optax.GradientTransformation) else ''
      raise TypeError(f'compose takes pieces, got {one!r}.{hint}')
  found = {one.store for one in pieces} - {FLOAT32}
  if store is None and len(found) > 1:
    raise ValueError(f'the compositions have different stores, {", ".join(map(repr, found))}: choose one by store=.')
  chosen = next(iter(found), FLOAT32) if store is None else resolve('store', store)
  return _recipe(tuple(line for one in pieces for line in one.lines), chosen)


def _recipe(lines: tuple[Line, ...], store: Store = FLOAT32) -> Recipe:
  owners: dict[str, Line] = {}
  for line in lines:
    for slot in line.slots:
      if slot.name in owners:
        raise ValueError(f'{line!r} and {owners[slot.name]!r} both own the slot {slot.name!r}.')
      owners[slot.name] = line
  for i, line in enumerate(lines):
    behind, all_of_them = (math.prod(x.sign for x in some) for some in (lines[i:], lines))
    if line.shrinks * behind > 0 > all_of_them:
      stands, right = ('behind', 'before') if line.shrinks > 0 else ('before', 'behind')
      raise ValueError(
        f'{line!r} stands {stands} the line that makes the direction a descent, so it would make parameters grow: '
        f'put it {right} that line, or use weight_decay= of the optimizer.'
      )
  scheduled_rates(lines)  # raises where two schedules claim one rate
  update = Update(lines, store)
  _ = update.routes  # raises where the store does not fit
  return Recipe(cast(Any, Init(lines, store)), cast(Any, update))


def keys_of(routes: Iterable[Route]) -> list[str]:
  """The names in `State.slots`."""
  return [key for route in routes for key in route.keys]


def when(condition: bool, *pieces: Recipe) -> tuple[Recipe, ...]:
  """Makes a place in a composition depend on an option.

  Args:
    condition: whether the pieces stand there.
    *pieces: the pieces.

  Returns:
    The pieces if the condition holds, else none.

  Example:
    >>> import belief_optax as bo
    >>> amsgrad = False
    >>> bo.compose(bo.second_moment(0.9), *bo.when(amsgrad, bo.running_max()), bo.precondition(1e-8))
    compose(
      second_moment(b2=0.9, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
    )
  """
  return pieces if condition else ()


@dataclasses.dataclass(frozen=True)
class _Lines:
  """The lines of a composition and its store: what `init` and `update` share."""

  lines: tuple[Line, ...]
  store: Store = FLOAT32

  @functools.cached_property
  def routes(self) -> tuple[Route, ...]:
    return self.store.routes(tuple(slot for line in self.lines for slot in line.slots))

  def __getstate__(self) -> dict[str, Any]:
    return {'lines': self.lines, 'store': self.store}


class Init(_Lines):
  """`init` of a composition: params -> State."""

  def __call__(self, params: Any) -> State:
    _check_needs(self.lines)
    trees.check_inexact('parameter', params)
    with jax.numpy_dtype_promotion('standard'):
      leaves = jax.tree.leaves(params)
      for line in self.lines:
        for p in leaves:
          line.check(p)
        if leaves:  # optax.tree.map_params calls init with a childless placeholder, which fits no mask
          full_mask(line.name, line.where, params)
      slots = {key: tree for route in self.routes for key, tree in self._kept(route, params).items()}
    zero = functools.partial(jnp.zeros, [], dtypes.real_dtype())
    ages = {name: (zero(), zero()) for name in scheduled_rates(self.lines)}
    return State(jnp.zeros([], jnp.int32), slots, ages)

  def _kept(self, route: Route, params: Any) -> dict[str, Any]:
    pairs = splits_complex(self.lines)
    first = lambda p, on: route.store.init(route.group, [slot.init(p, pairs) for slot in route.group], p, on)
    leaves, treedef = jax.tree.flatten(params)
    mask = full_mask(repr(route.store), route.store.where, params) if leaves else None
    everywhere = [True] * len(leaves)
    kept = [first(p, on) for p, on in zip(leaves, everywhere if mask is None else jax.tree.leaves(mask), strict=True)]
    return {key: treedef.unflatten([parts[i] for parts in kept]) for i, key in enumerate(route.keys)}


class Update(_Lines):
  """`update` of a composition: updates, State, params -> updates, State."""

  def __call__(self, updates: Any, state: State, params: Any = None, **extra_args: Any) -> tuple[Any, State]:
    del extra_args  # optax's contract: unknown extra arguments are for other transformations
    asked = moved()
    if asked is None or params is None:
      return self._run(updates, state, params)
    new, after = self._run(updates, state, params, applies=True)
    with unseen(), use('xla'):  # a name for each parameter: no program computes what nothing asks for
      updates, _ = self._run(updates, state, params)
    asked.add(updates, params, new)
    return updates, after

  def step(self, params: Any, state: State, updates: Any) -> tuple[Any, State]:
    """The same and `optax.apply_updates`, in one pass: params, State, updates -> params, State."""
    if params is None:
      raise ValueError('step returns parameters, so it needs them: call step(params, state, grads).')
    return self._run(updates, state, params, applies=True)

  def _run(self, updates: Any, state: State, params: Any, applies: bool = False) -> tuple[Any, State]:
    with jax.numpy_dtype_promotion('standard'):  # bfloat16 becomes float32 on purpose
      plan, arrays, still = self._prepare(updates, state, params, applies)
      results, count, kept, ages = run(plan, seen(plan, arrays))
    results = [p if g is None else x for g, p, x in zip(arrays.grads, still, results, strict=True)]
    unflatten = plan.tree.unflatten
    return unflatten(results), State(count, {key: unflatten(x) for key, x in kept.items()}, ages)

  def _prepare(self, updates: Any, state: State, params: Any, applies: bool) -> tuple[Plan, Arrays, list[Any]]:
    """What is static in a step, what varies, and what is returned where no gradient arrives."""
    if self._reader is not None and params is None:
      raise ValueError(f'{self._reader!r} needs the parameters: call update(updates, state, params).')
    check_state('update', self._keys, state)
    if set(state.ages) != self._ages:
      raise ValueError(
        f'update needs a State with the ages of {sorted(self._ages)}, but got {sorted(state.ages)}: a decay rate '
        'that is a schedule has an age. Carry a state from a fixed rate to a schedule, or back, by interop.warm_start.'
      )
    leaves, tree = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
    if not all(g is None or isinstance(g, jax.Array) for g in leaves):
      trees.check_inexact('update', updates)
    grads = list(map(_array, leaves))
    slots = {name: trees.align(tree, f'state.slots[{name!r}]', kept) for name, kept in state.slots.items()}
    given = [None] * len(grads) if params is None else trees.align(tree, 'params', params)
    ps = list(map(_array, trees.moving_leaves(grads, given)))
    eager = not any(isinstance(x, Tracer) for x in (*grads, state.count))
    active = self._active(tree, grads if params is None else ps)
    hyper, lines = jax.tree.flatten(tuple(line.at(state.count, eager) for line in self.lines))
    plan = Plan(lines, self._bare_routes, active, tree, applies)
    return plan, Arrays(hyper, grads, ps, state.count, slots, state.ages), given if applies else grads

  @functools.cached_property
  def _keys(self) -> list[str]:
    return keys_of(self.routes)

  @functools.cached_property
  def _ages(self) -> set[str]:
    return set(scheduled_rates(self.lines))

  @functools.cached_property
  def _bare_routes(self) -> tuple[Route, ...]:
    return tuple(route.bare() for route in self.routes)

  @functools.cached_property
  def _reader(self) -> Line | None:
    return next((line for line in self.lines if line.reads_params), None)

  def _active(self, tree: Any, params: Sequence[Any]) -> tuple[tuple[bool, ...], ...]:
    """For each array which lines apply to it."""
    everywhere = [True] * len(params)
    masks = (full_mask(line.name, line.where, tree.unflatten(params)) if line.where else None for line in self.lines)
    columns = [everywhere if mask is None else trees.align(tree, 'mask', mask) for mask in masks]
    return tuple(zip(*columns, strict=True)) if columns else ((),) * len(params)


def _array(x: Any) -> Any:
  """A leaf as an array: Python numbers arrive under jax.disable_jit."""
  return x if x is None or isinstance(x, jax.Array) else jnp.asarray(x)


def _check_needs(lines: Sequence[Line]) -> None:
  known = {slot.name for line in lines for slot in line.slots}
  for line in lines:
    if not known.issuperset(line.writes):
      raise ValueError(f'{line!r} writes {", ".join(line.writes)}, but no piece of the composition owns such a slot.')
    for need in line.requires():
      if need not in known:
        raise ValueError(f'{line!r} needs {need}: put one of {", ".join(sorted(_GIVERS.get(need, ())))} before it.')
    known.update(line.gives)
