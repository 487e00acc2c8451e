"""Parameter groups by the paths of parameters, on top of `optax.partition`."""

import contextlib
import dataclasses
import difflib
import fnmatch
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import optax

from belief_optax.core.piece import comparable
from belief_optax.core.trees import keys_of_path, moving

Pattern = str | re.Pattern[str]
_REST = 'default'
_SHOWN = 10  # how many names an error lists


def name_of(path: tuple[Any, ...]) -> str:
  """The keys of a leaf joined by '/'; the `.value` of a box of Flax (nnx.Param, nn.Partitioned) is not part of it."""
  return '/'.join(keys_of_path(path))


def listing(names: Iterable[str], wanted: Sequence[str]) -> str:
  """Names for an error message: all if they are few, else those that are most like what was wanted."""
  names = list(dict.fromkeys(names))
  if len(names) <= _SHOWN:
    return ', '.join(names)
  # Measuring how alike two strings are is slow, so only for some.
  of_each = (difflib.get_close_matches(one, names, _SHOWN, cutoff=0.0) for one in wanted[:_SHOWN])
  nearest = dict.fromkeys(itertools.chain.from_iterable(zip(*of_each, strict=True)))
  return f'{", ".join(list(nearest)[:_SHOWN])} (the nearest {_SHOWN} of {len(names)})'


# Which group a parameter belongs to.


def matches(pattern: Pattern, name: str) -> bool:
  """Whether a pattern matches the whole path; a glob also matches itself."""
  if isinstance(pattern, re.Pattern):
    return pattern.fullmatch(name) is not None
  return pattern == name or fnmatch.fnmatchcase(name, pattern)  # a glob with brackets does not match itself


def pattern_text(pattern: Pattern) -> str:
  """A pattern as it stands in an error message."""
  return repr(pattern) if isinstance(pattern, str) else f're.compile({pattern.pattern!r})'


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
  """Patterns and the transformations of what they match; the last transformation is for the rest."""

  patterns: tuple[Pattern, ...]
  transformations: tuple[optax.GradientTransformation, ...]

  def _key(self) -> Any:
    return self.patterns, tuple(map(comparable, self.transformations))

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Groups) and self._key() == other._key()

  def __hash__(self) -> int:
    return hash(self._key())

  def label(self, path: tuple[Any, ...]) -> str:
    """The group of a leaf: that of the first pattern that matches its path."""
    name = name_of(path)
    hits = (f'group_{i}' for i, pattern in enumerate(self.patterns) if matches(pattern, name))
    return next(hits, _REST)

  def labels(self, tree: Any) -> Any:
    """The group of each leaf, as a tree."""
    return jax.tree_util.tree_map_with_path(lambda path, _: self.label(path), tree)

  def check(self, params: Any) -> None:
    """Raises where a pattern matches no parameter."""
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    idle = [pattern for pattern in self.patterns if not any(matches(pattern, name) for name in names)]
    if not idle or not names:  # a placeholder of optax.tree.map_params has no leaves, and matches nothing
      return
    wanted = [pattern if isinstance(pattern, str) else pattern.pattern for pattern in idle]
    brackets = any('[' in pattern for pattern in idle if isinstance(pattern, str))
    raise ValueError(
      f'by_path: {listing(map(pattern_text, idle), wanted)} match{"es" if len(idle) == 1 else ""} no parameter. '
      f'The paths are: {listing(names, wanted)}.'
      + (" In a glob '[' begins a set of characters; write '[[]' for the bracket itself." if brackets else '')
    )

  @property
  def partition(self) -> optax.GradientTransformationExtraArgs:
    """The groups as a transformation that does not ask whether each pattern matches something."""
    names = [*(f'group_{i}' for i in range(len(self.patterns))), _REST]
    return optax.partition(dict(zip(names, self.transformations, strict=True)), self.labels)


@dataclasses.dataclass(frozen=True)
class _Init:
  groups: Groups

  def __call__(self, params: Any) -> Any:
    self.groups.check(params)
    return self.groups.partition.init(params)


@dataclasses.dataclass(frozen=True)
class _Update:
  groups: Groups

  def __call__(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
    # A path alone says which group a leaf is in, so a group for which no update arrives needs no label.
    return self.groups.partition.update(updates, state, moving(updates, params), **extra_args)


class ByPath(optax.GradientTransformationExtraArgs):
  """What `by_path` returns: a gradient transformation that compares and prints as its groups."""

  __slots__ = ()

  @property
  def groups(self) -> Groups:
    return cast(Any, self.update).groups

  def __repr__(self) -> str:
    names = [*map(pattern_text, self.groups.patterns), 'default']
    rows = ''.join(f'{n}: {t!r},\n' for n, t in zip(names, self.groups.transformations, strict=True))
    return f'by_path(\n{textwrap.indent(rows, "  ")})'


# The transformation of a group.


@contextlib.contextmanager
def _naming(pattern: Pattern) -> Iterator[None]:
  """Says of an error that a factory raises which group it was called for."""
  try:
    yield
  except Exception as e:
    e.add_note(f'by_path: raised by default, called with the overrides of {pattern_text(pattern)}.')
    raise


def _override(pattern: Pattern, factory: Callable[..., Any], overrides: Mapping[str, Any]) -> Any:
  """Calls a factory with overrides, which also replace what a `functools.partial` has bound, in whatever way."""
  made = factory if isinstance(factory, functools.partial) else functools.partial(factory)
  try:
    parameters = inspect.signature(made.func).parameters.values()
  except (TypeError, ValueError):  # some callables do not tell
    with _naming(pattern):
      return made(**overrides)
  named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
  others = next((p.name for p in parameters if p.kind == p.VAR_KEYWORD), None)
  unknown = [name for name in overrides if name not in named]
  if unknown and others is None:
    owner = getattr(made.func, '__name__', repr(made.func))
    raise TypeError(
      f'by_path: {pattern_text(pattern)} overrides {", ".join(map(repr, unknown))}, but the arguments of {owner} are: '
      f'{listing(named, list(map(str, unknown)))}.'
    )
  bound = inspect.signature(made.func).bind_partial(*made.args, **made.keywords)
  bound.arguments |= {name: value for name, value in overrides.items() if name in named}
  if others is not None:
    bound.arguments[others] = {**bound.arguments.get(others, {}), **{name: overrides[name] for name in unknown}}
  with _naming(pattern):
    return made.func(*bound.args, **bound.kwargs)


def _transformation(made: Any) -> optax.GradientTransformation:
  if isinstance(made, optax.GradientTransformation):
    return made
  raise TypeError(f'default must be a gradient transformation or a factory of one, got or made {made!r}.')


def by_path(
  groups: Mapping[Pattern, optax.GradientTransformation | Mapping[str, Any]],
  default: optax.GradientTransformation | Callable[..., optax.GradientTransformation],
) -> ByPath:
  """Chooses the optimizer of each parameter by its path, like the parameter groups of torch.

  Args:
    groups: pattern -> transformation, or pattern -> overrides of `default`. A pattern is a glob over the whole path
      (`'*/bias'`; `*` also matches `/`), a path itself, or a compiled regular expression that must match the whole
      path. A path is the keys of a leaf joined by `/`, such as `'head/kernel'`. The first pattern that matches a leaf
      wins; two leaves with the same path are always in the same group.
    default: the transformation of all other leaves. To use overrides, pass a factory such as
      `functools.partial(adamw, 1e-3, weight_decay=1e-2)`; it is called once per group with the overrides of the group.

  Returns:
    An `optax.GradientTransformationExtraArgs` on top of `optax.partition`. Two are equal if their patterns and
    transformations are; a transformation that cannot be hashed is equal to itself alone.

  Raises:
    TypeError: if a pattern is no string or compiled regular expression, a group neither a transformation nor overrides,
      or an override no argument of the factory.
    ValueError: if overrides are given but `default` is no factory; at `init`, if a pattern matches no parameter (the
      nearest paths are listed).

  Example:
    >>> import functools, jax.numpy as jnp, belief_optax as bo
    >>> tx = bo.by_path(
    ...     {'*bias': dict(weight_decay=0.0), 'head/*': dict(learning_rate=1e-3)},
    ...     functools.partial(bo.sgd, 0.5, weight_decay=0.1))
    >>> params = {'body': {'kernel': jnp.ones(1), 'bias': jnp.ones(1)}, 'head': {'kernel': jnp.ones(1)}}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> print(updates['body']['kernel'], updates['body']['bias'], updates['head']['kernel'])
    [-0.55] [-0.5] [-0.0011]
  """
  factory = None if isinstance(default, optax.GradientTransformation) or not callable(default) else default
  rest = _transformation(default if factory is None else factory())
  transformations: list[optax.GradientTransformation] = []
  for pattern, group in groups.items():
    if not isinstance(pattern, str | re.Pattern):
      raise TypeError(f'by_path: a pattern must be a glob or a compiled regular expression, got {pattern!r}.')
    if isinstance(group, optax.GradientTransformation):
      transformations.append(group)
    elif not isinstance(group, Mapping):
      raise TypeError(f'by_path: {pattern_text(pattern)} must map to a transformation or to overrides, got {group!r}.')
    elif factory is None:
      raise ValueError(
        f'by_path: {pattern_text(pattern)} overrides arguments, but default is a transformation; '
        'pass a factory such as functools.partial(adamw, 1e-3).'
      )
    else:
      transformations.append(_transformation(_override(pattern, factory, group)))
  value = Groups(tuple(groups), (*transformations, rest))
  return ByPath(_Init(value), _Update(value))
