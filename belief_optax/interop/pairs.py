"""What torch has for each leaf, and what may stay over on either side."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from belief_optax.interop.names import Bound, Key, Names, bind, leaves_of
from belief_optax.interop.problems import Problems
from belief_optax.stores.surgery import Patterns, idle, matching, normal_patterns

_LOG = logging.getLogger('belief_optax')
_IGNORE = "What has no leaf here is left out by ignore=, globs over torch's names or compiled regular expressions."


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Parameters of torch and leaves, one for one.

  Attributes:
    found: the path of a leaf -> torch's key of it, and the leaf.
    lacking: the path of a leaf that torch does not have -> where, what and which value of it is expected.
    ignored: torch's names of what is left out.
  """

  found: Mapping[str, tuple[Any, Bound]]
  lacking: Mapping[str, tuple[str, str, str]]
  ignored: Sequence[str]

  def complete(self, problems: Problems) -> dict[Any, Bound]:
    """The leaves by torch's keys, where none may be lacking."""
    for where, what, expected in self.lacking.values():
      problems.add(where, what, expected, 'none')
    return dict(self.found.values())


def pair(names: Names, params: Any, torch: Mapping[Any, str], problems: Problems, ignore: Patterns = ()) -> Pairs:
  """Finds the parameter of torch of each leaf; one of torch that has no leaf, and is not ignored, is a problem.

  Args:
    names: see `load_state`.
    params: the parameters.
    torch: its keys, in its order, and its names, which patterns see.
    problems: what does not fit is added there.
    ignore: patterns over torch's names.

  Returns:
    The pairs, and what has no partner.
  """
  patterns = normal_patterns('ignore', ignore)
  for pattern in idle(patterns, torch.values()):
    problems.add('ignore', 'pattern', f'one that matches some of {", ".join(torch.values())}', pattern)
  rest = [key for key, name in torch.items() if not matching(patterns, name)]
  kept = set(rest)
  bound, keys = bind(names, params, problems), _keys(names, torch, rest)
  found: dict[str, tuple[Any, Bound]] = {}
  lacking = {path: (path, 'names', 'one name') for path in leaves_of(params, Problems())}
  for key, b in bound.items():
    lacking.pop(b.name.path, None)
    where = f'{b.name.path} ({key!r})', 'parameter', 'one of torch'
    if keys.get(key) in kept:
      found[b.name.path] = keys[key], b
    elif isinstance(key, int) and key not in keys:  # whatever else may be lacking: the order is in doubt
      problems.add(*where, 'none')
    else:
      lacking[b.name.path] = where
  known = {keys[key] for key in bound if key in keys}
  named = any(isinstance(key, str) for key in bound)
  for key in (key for key in rest if key not in known):
    problems.add(repr(torch[key] if named else key), 'parameter of torch', 'a name', 'none', _IGNORE)
  return Pairs(found, lacking, [name for key, name in torch.items() if key not in kept])


def _keys(names: Names, torch: Mapping[Any, str], rest: Sequence[Any]) -> dict[Key, Any]:
  """What a key of `names` means: a name of torch, or one of its indices, which for a module are places."""
  indices = all(isinstance(key, int) for key in torch)
  if isinstance(names, Mapping):
    numbered = zip(torch, torch, strict=True) if indices else enumerate(torch)
  else:  # an order is that of what is not ignored
    numbered = enumerate(sorted(rest) if indices else rest)
  return {**{name: key for key, name in torch.items()}, **dict(numbered)}


class Missing:
  """What becomes of leaves for which torch has nothing: each is a problem, or is listed.

  Attributes:
    paths: those that are listed.
  """

  def __init__(self, allowed: bool, hint: str, problems: Problems):
    self._allowed, self._hint, self._problems = allowed, hint, problems
    self.paths: list[str] = []

  def add(self, path: str, where: str, what: str, expected: str) -> None:
    if self._allowed:
      self.paths.append(path)
    else:
      self._problems.add(where, what, expected, 'none', self._hint)


def report(function: str, ignored: Sequence[str], kind: str = '', paths: Sequence[str] = ()) -> None:
  """Says in the log what is ignored, and which leaves torch does not have."""
  if ignored:
    _LOG.warning('%s: ignored of torch: %s', function, ', '.join(ignored))
  if paths:
    _LOG.warning('%s: %s, as torch has nothing for them: %s', function, kind, ', '.join(paths))
