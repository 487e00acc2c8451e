"""One step of any optax transformation, in one pass over memory where it ends in a recipe."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import optax
from jax.core import Tracer

from belief_optax.core.applying import Moved, applying
from belief_optax.core.recipe import Init, Recipe, Update


def step(
  tx: optax.GradientTransformation, params: optax.Params, state: optax.OptState, grads: optax.Updates, **extra: Any
) -> tuple[Any, Any]:
  """What `tx.update` and `optax.apply_updates` do, for any transformation.

  A recipe of this package takes its step in one pass over memory, inside `skip_unhealthy` and `accumulate` too. In an
  `optax.chain` that ends with one, what stands before runs as it is. In a compiled step this also holds inside of
  wrappers that hand updates on as they are: `by_path`, `optax.partition`, `optax.masked`, `optax.inject_hyperparams`.
  Everything else runs as usual. The arguments stand in the order of the results, so that a jitted step that donates
  params and state copies nothing.

  Args:
    tx: the transformation.
    params: the parameters.
    state: its state, as `tx.init` makes it.
    grads: the gradients, a tree like the parameters.
    **extra: extra arguments of `tx.update`.

  Returns:
    The new parameters, in their dtypes, and the new state.

  Raises:
    ValueError: if shapes, structures or the state do not fit.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp, optax
    >>> tx = optax.chain(optax.clip_by_global_norm(1.0), bo.sgd(0.5))
    >>> params, grads = jnp.zeros(2), jnp.array([3.0, -4.0])
    >>> params, state = bo.step(tx, params, tx.init(params), grads)
    >>> print(params)
    [-0.3  0.4]
  """
  update = tx.update if isinstance(tx, optax.GradientTransformationExtraArgs) else _without_extra(tx.update)
  return _step(update, params, state, grads, extra)


def _without_extra(update: Callable[..., Any]) -> Callable[..., Any]:
  """What takes no extra arguments gets none, as in a chain."""
  return lambda updates, state, params, **_: update(updates, state, params)


def _step(update: Callable[..., Any], params: Any, state: Any, grads: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
  if isinstance(update, Update):
    return update.step(params, state, grads)
  if hasattr(update, 'step'):  # a guard
    return cast(Any, update).step(params, state, grads, **extra)
  links = links_of(update)
  if links and isinstance(state, tuple) and len(state) == len(links):
    *before, last = links
    states = []
    for one, old in zip(before, state[:-1], strict=True):
      grads, new = one(grads, old, params, **extra)
      states.append(new)
    params, new = _step(last, params, state[-1], grads, extra)
    return params, (*states, new)
  return _wrapped(update, params, state, grads, extra)


def _wrapped(update: Callable[..., Any], params: Any, state: Any, grads: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
  """The step of what knows of updates alone, in one pass where it hands on those of the recipes inside of it."""
  traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((params, state, grads)))  # eagerly nothing is left out
  moved = Moved()
  with applying(moved if traced else None):
    updates, after = update(grads, state, params, **extra)
  if not moved.all_in(updates):  # a wrapper has done something with them
    moved = Moved()
    updates, after = update(grads, state, params, **extra)
  return moved.applied(params, updates), after


def links_of(update: Callable[..., Any]) -> Sequence[Callable[..., Any]]:
  """The updates in an `optax.chain`, in order; none if it is something else.

  A chain is a closure, which says nothing of itself: they are read from it. Where a later optax writes it in another
  way a chain is taken for something else, and its step is right but not one pass; a test notices.
  """
  code = getattr(update, '__code__', None)
  if code is None or update.__qualname__ != optax.chain.__name__ + '.<locals>.update_fn':
    return ()
  if update.__module__ != optax.chain.__module__:
    return ()
  cells = dict(zip(code.co_freevars, update.__closure__ or (), strict=True))
  return cells['update_fns'].cell_contents if 'update_fns' in cells else ()


def recipe_in(tx: optax.GradientTransformation) -> Recipe:
  """The recipe with which a transformation ends."""
  update: Any = tx.update
  while links := links_of(update):
    update = links[-1]
  if not isinstance(update, Update):
    raise TypeError(f'tx must be a recipe or an optax.chain that ends with one, got {tx!r}.')
  return Recipe(cast(Any, Init(update.lines, update.store)), cast(Any, update))
