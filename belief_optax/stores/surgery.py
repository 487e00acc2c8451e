"""State surgery: a part of a state begins anew, or a state goes over to a changed model."""

import collections
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.core import Recipe, State, check_state, dtypes, keys_of
from belief_optax.param_groups import Pattern, matches, pattern_text
from belief_optax.stores import Route
from belief_optax.stores.base import Kept
from belief_optax.stores.convert import (
  at,
  check_ages,
  check_fit,
  kept_of,
  leaves_of,
  own,
  paths_of,
  routes_of,
  types,
  value_of,
)

Patterns = Pattern | Iterable[Pattern]
_LOG = logging.getLogger('belief_optax')


def reset_state(state: State, tx: Recipe, params: Any, patterns: Patterns) -> State:
  """Makes what is kept of some parameters that of `tx.init(params)`, and keeps all else.

  The count is that of all parameters and goes on, so that nothing corrects the bias of an average that begins anew:
  with Adam's default rates the steps of these parameters are up to 6.6 learning rates long, at the twelfth. Where that
  is too much, let the learning rate rise again, or give them a group of `by_path`, whose state has a count of its own.

  Args:
    state: a state of `tx`.
    tx: the recipe.
    params: the parameters.
    patterns: the parameters that begin anew: a glob over whole paths, a compiled regular expression, or several of
      them, as in `by_path`.

  Returns:
    A `State` that shares no buffer with `state`: either can be donated.

  Raises:
    TypeError: if `tx` is no recipe or a pattern is neither a glob nor a regular expression.
    ValueError: if the state is not one of `tx` and `params`, a pattern matches nothing, or two leaves have one path.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, params = bo.adam(1e-3), {'body': jnp.ones(1), 'head': jnp.ones(1)}
    >>> _, state = tx.update(params, tx.init(params))
    >>> print(bo.reset_state(state, tx, params, 'head').slots['nu'])
    {'body': Array([0.001], dtype=float32), 'head': Array([0.], dtype=float32)}
  """
  routes, chosen, paths = routes_of(tx, 'tx'), normal_patterns('patterns', patterns), _distinct('params', params)
  check_state('reset_state', keys_of(routes), state)
  if unused := idle(chosen, paths):
    raise ValueError(f'patterns: {", ".join(unused)} match no parameter. The paths are: {", ".join(paths)}.')
  old = leaves_of(state, params)
  check_fit(state, tx, params)
  new = leaves_of(tx.init(params), params)
  again = [matching(chosen, path) for path in paths]
  pick = lambda key: [y if on else jnp.copy(x) for x, y, on in zip(old[key], new[key], again, strict=True)]
  treedef = jax.tree.structure(params)
  return own(state)._replace(slots={key: treedef.unflatten(pick(key)) for key in keys_of(routes)})


def carry_state(state: State, tx: Recipe, old_params: Any, new_params: Any, *, resize: bool = False) -> State:
  """Carries a state over to a model in which parameters are new, gone or resized.

  What is kept of a parameter stays where its path and shape stay, and is that of `tx.init(new_params)` where the path
  is new. The count goes on: see `reset_state` for what that means for new parameters. What was dropped, made fresh or
  resized is listed in the log, `logging.getLogger('belief_optax')`.

  Args:
    state: a state of `tx` and `old_params`.
    tx: the recipe. Its masks must fit both trees: callables do.
    old_params: the parameters before, or their shapes.
    new_params: the parameters now.
    resize: whether an array that has another size is cut, or padded with fresh values at the end of each axis. Without
      it that is an error, because it is a guess what belongs where.

  Returns:
    A `State` of `tx` and `new_params` that shares no buffer with `state`: either can be donated.

  Raises:
    TypeError: if `tx` is no recipe.
    ValueError: if the state is not one of `tx` and `old_params`, two leaves have one path, or a parameter has another
      number of axes, another kind of numbers or, without `resize`, another shape: one error lists them all.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, old = bo.adam(1e-3), {'emb': jnp.ones(2)}
    >>> _, state = tx.update(old, tx.init(old))
    >>> carried = bo.carry_state(state, tx, old, {'emb': jnp.ones(3), 'head': jnp.ones(1)}, resize=True)
    >>> print(carried.count, carried.slots['nu']['emb'])
    1 [0.001 0.001 0.   ]
  """
  routes = routes_of(tx, 'tx')
  check_state('carry_state', keys_of(routes), state)
  before, after = _distinct('old_params', old_params), _distinct('new_params', new_params)
  old = leaves_of(state, old_params)
  check_fit(state, tx, old_params)
  resized = _resized(before, after, resize)
  target = tx.init(new_params)
  check_ages(state, target)
  new, places = leaves_of(target, new_params), {path: i for i, path in enumerate(before)}
  treedef, slots = jax.tree.structure(new_params), {}
  for route in routes:
    parts = [
      _carried(route, at(old, route, places[path]), at(new, route, i)) if path in places else at(new, route, i)
      for i, path in enumerate(after)
    ]
    slots |= {key: treedef.unflatten([part[i] for part in parts]) for i, key in enumerate(route.keys)}
  _report(dropped=[p for p in before if p not in after], fresh=[p for p in after if p not in before], resized=resized)
  return own(state)._replace(slots=slots)


def _carried(route: Route, kept: Kept, like: Kept) -> Kept:
  """What is kept of a parameter, with the types of `like`."""
  if types(kept) == types(like):
    return tuple(map(jnp.copy, kept))
  pairs = [(value_of(route, i, kept), value_of(route, i, like)) for i in range(len(route.group))]
  return kept_of(route, [_paste(x, y) for x, y in pairs], like)


def _paste(x: jax.Array, onto: jax.Array) -> jax.Array:
  """The part of one array that another has room for, in its place."""
  common = tuple(slice(min(sides)) for sides in zip(x.shape, onto.shape, strict=True))
  return onto.at[common].set(x[common].astype(onto.dtype))


def _resized(before: dict[str, Any], after: dict[str, Any], allowed: bool) -> list[str]:
  """The paths of parameters that have another shape now; what cannot be carried over is an error."""
  resized, problems = [], []
  for path in (path for path in after if path in before):
    x, y = before[path], after[path]
    changed = np.shape(x) != np.shape(y)
    complex_ = [jnp.issubdtype(dtypes.of(p), jnp.complexfloating) for p in (x, y)]
    if complex_[0] != complex_[1] or np.ndim(x) != np.ndim(y) or (changed and not allowed):
      problems.append(f'{path} was {dtypes.of(x)}{list(np.shape(x))} and is {dtypes.of(y)}{list(np.shape(y))}')
    elif changed:
      resized.append(path)
  if problems:
    raise ValueError(
      f'new_params: {"; ".join(problems)}. resize=True cuts or pads an array with as many axes; what has nothing in '
      'common with the old one needs another path.'
    )
  return resized


def _report(**paths: Sequence[str]) -> None:
  words = [f'{what}: {", ".join(which)}' for what, which in paths.items() if which]
  if words:
    _LOG.warning('carry_state: %s', '; '.join(words))


def _distinct(name: str, params: Any) -> dict[str, Any]:
  """The leaves by their paths, each of which must be the path of one leaf."""
  paths = paths_of(params)
  if twice := [path for path, times in collections.Counter(paths).items() if times > 1]:
    raise ValueError(f'{name}: two leaves have the path {", ".join(twice)}: a path must name one.')
  return dict(zip(paths, jax.tree.leaves(params), strict=True))


# Patterns.


def normal_patterns(name: str, patterns: Any) -> tuple[Pattern, ...]:
  """Returns one or several patterns as a tuple, or raises a TypeError that names the argument."""
  several = (patterns,) if isinstance(patterns, str | re.Pattern) or not isinstance(patterns, Iterable) else patterns
  normal = tuple(several)
  for pattern in normal:
    if not isinstance(pattern, str | re.Pattern):
      raise TypeError(f'{name} must be a glob, a compiled regular expression, or several of them, got {pattern!r}.')
  return normal


def matching(patterns: Sequence[Pattern], text: str) -> bool:
  """Whether one of the patterns matches the whole text."""
  return any(matches(pattern, text) for pattern in patterns)


def idle(patterns: Sequence[Pattern], texts: Iterable[str]) -> list[str]:
  """The patterns that match none of the texts, as they are written."""
  texts = list(texts)
  return [pattern_text(pattern) for pattern in patterns if not any(matches(pattern, text) for text in texts)]
