"""Parameter groups by the paths of parameters, on top of `optax.partition`."""

import dataclasses
import fnmatch
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

Pattern = str | re.Pattern[str]
_REST = 'default'


def _matches(pattern: Pattern, path: str) -> bool:
  if isinstance(pattern, re.Pattern):
    return pattern.fullmatch(path) is not None
  return fnmatch.fnmatchcase(path, pattern)


def name_of(path: tuple[Any, ...]) -> str:
  """The keys of a leaf joined by '/'; the `.value` of a box of Flax (nnx.Param, nn.Partitioned) is not part of it."""
  boxed = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey('value')
  return jax.tree_util.keystr(path[:-1] if boxed else path, simple=True, separator='/')


@dataclasses.dataclass(frozen=True)
class Groups:
  """Patterns and the transformations of what they match; the last transformation is for the rest."""

  patterns: tuple[Pattern, ...]
  transformations: tuple[optax.GradientTransformation, ...]

  def labels(self, params: Any) -> Any:
    """The index of the first pattern that matches each leaf, as a tree of labels."""
    matched: set[str] = set()
    paths: list[str] = []

    def label(path: Any, _: Any) -> str:
      name = name_of(path)
      paths.append(name)
      hits = [f'group_{i}' for i, pattern in enumerate(self.patterns) if _matches(pattern, name)]
      matched.update(hits)
      return hits[0] if hits else _REST

    tree = jax.tree_util.tree_map_with_path(label, params)
    idle = [pattern for i, pattern in enumerate(self.patterns) if f'group_{i}' not in matched]
    if idle and paths:  # a placeholder of optax.tree.map_params has no leaves, and matches nothing
      raise ValueError(f'by_path: {", ".join(map(_text, idle))} match no parameter. The paths are: {", ".join(paths)}.')
    return tree

  @property
  def partition(self) -> optax.GradientTransformationExtraArgs:
    names = [*(f'group_{i}' for i in range(len(self.patterns))), _REST]
    return optax.partition(dict(zip(names, self.transformations, strict=True)), self.labels)


def _text(pattern: Pattern) -> str:
  return repr(pattern) if isinstance(pattern, str) else f're.compile({pattern.pattern!r})'


@dataclasses.dataclass(frozen=True)
class _Init:
  groups: Groups

  def __call__(self, params: Any) -> Any:
    return self.groups.partition.init(params)


@dataclasses.dataclass(frozen=True)
class _Update:
  groups: Groups

  def __call__(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
    return self.groups.partition.update(updates, state, params, **extra_args)


class ByPath(optax.GradientTransformationExtraArgs):
  """What `by_path` returns: a gradient transformation that compares and prints as its groups."""

  __slots__ = ()
  update: _Update  # pyright: ignore[reportIncompatibleVariableOverride]

  def __repr__(self) -> str:
    groups = self.update.groups
    names = [*map(_text, groups.patterns), 'default']
    rows = ''.join(f'{n}: {t!r},\n' for n, t in zip(names, groups.transformations, strict=True))
    return f'by_path(\n{textwrap.indent(rows, "  ")})'


def _override(factory: Callable[..., Any], overrides: Mapping[str, Any]) -> Any:
  """Calls a factory with overrides, which also replace what a `functools.partial` has bound by position."""
  if not isinstance(factory, functools.partial):
    return factory(**overrides)
  bound = inspect.signature(factory.func).bind_partial(*factory.args, **factory.keywords)
  return factory.func(**bound.arguments | dict(overrides))


def _transformation(made: Any) -> optax.GradientTransformation:
  if isinstance(made, optax.GradientTransformation):
    return made
  raise TypeError(f'default must be a gradient transformation or a factory of one, got or made {made!r}.')


def by_path(
  groups: Mapping[Pattern, optax.GradientTransformation | Mapping[str, Any]],
  default: optax.GradientTransformation | Callable[..., optax.GradientTransformation],
) -> ByPath:
  """Gives parameters their optimizer by their path, as the parameter groups of torch do.

  Args:
    groups: pattern -> transformation, or pattern -> overrides of `default`. A pattern is a glob over the whole path
      (`'*/bias'`; `*` also matches `/`) or a compiled regular expression that must match the whole path. A path is the
      keys of a leaf joined by `/`, as `'head/kernel'`. The first pattern that matches a leaf wins.
    default: the transformation of all other leaves; for overrides a factory such as
      `functools.partial(adamw, 1e-3, weight_decay=1e-2)`, which is called with each group's overrides.

  Returns:
    An `optax.GradientTransformationExtraArgs` over `optax.partition`, equal where patterns and transformations are.

  Raises:
    TypeError: if a pattern is no string or compiled regular expression, or a group no transformation or overrides.
    ValueError: if overrides are given but `default` is no factory; at `init`, if a pattern matches nothing (the paths
      are listed).

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
      raise TypeError(f'by_path: {_text(pattern)} must map to a transformation or to overrides, got {group!r}.')
    elif factory is None:
      raise ValueError(
        f'by_path: {_text(pattern)} overrides arguments, but default is a transformation; '
        'pass a factory such as functools.partial(adamw, 1e-3).'
      )
    else:
      transformations.append(_transformation(_override(factory, group)))
  value = Groups(tuple(groups), (*transformations, rest))
  return ByPath(_Init(value), _Update(value))
