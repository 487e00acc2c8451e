"""What an optimizer is, for a reader: its lines with their equations, and what its constants amount to."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import optax

from belief_optax.core import Recipe
from belief_optax.core.piece import snake
from belief_optax.diagnostics import mathematics
from belief_optax.diagnostics.constants import Constant, constants_of, sizes_of
from belief_optax.one_pass import links_of, recipe_in
from belief_optax.param_groups import ByPath, pattern_text


@dataclasses.dataclass(frozen=True)
class Step:
  """A line of a recipe.

  Attributes:
    call: the piece with its arguments.
    summary: the first sentence of its documentation.
    equation: its equation in LaTeX, from its docstring; '' if it shows none.
  """

  call: str
  summary: str
  equation: str


@dataclasses.dataclass(frozen=True)
class Part:
  """The recipe of one group of parameters.

  Attributes:
    group: the pattern of the group; '' where there is one recipe for all.
    before: what stands before it in an `optax.chain`.
    steps: its lines, in order.
    store: how its slots are kept.
    constants: what its arguments amount to.
  """

  group: str
  before: tuple[str, ...]
  steps: tuple[Step, ...]
  store: str
  constants: tuple[Constant, ...]


@dataclasses.dataclass(frozen=True)
class Description:
  """What `describe` returns: a value that prints as text, and writes itself as Markdown, LaTeX and JSON.

  Attributes:
    wrappers: the names of what stands around the recipes, from the outside.
    parts: the recipes.
    sizes: how many parameters there are and how many bytes the state has, where that is known.
  """

  wrappers: tuple[str, ...]
  parts: tuple[Part, ...]
  sizes: tuple[Constant, ...]

  def __str__(self) -> str:
    return '\n'.join(self._text()).rstrip('\n')

  def _text(self) -> Iterator[str]:
    if self.wrappers:
      yield f'Inside {", ".join(self.wrappers)}.\n'
    for part in self.parts:
      yield from [f'Group {part.group}:\n'] if part.group else []
      yield from [f'Behind {", ".join(part.before)}.\n'] if part.before else []
      for i, step in enumerate(part.steps, 1):
        yield f'{i:>3}  {step.call}'
        yield f'       {mathematics.plain(step.equation) or step.summary}'
      yield f'     store: {part.store}\n'
      yield from [*_columns(part.constants), '']
    yield from _columns(self.sizes)

  def markdown(self) -> str:
    """The same as Markdown, with equations between dollar signs."""
    lines: list[str] = [f'Inside {", ".join(map(_code, self.wrappers))}.\n'] if self.wrappers else []
    for part in self.parts:
      lines += [f'### {_code(part.group)}\n'] if part.group else []
      lines += [f'Behind {", ".join(map(_code, part.before))}.\n'] if part.before else []
      for i, step in enumerate(part.steps, 1):
        body = f'   $$\n   {step.equation}\n   $$\n' if step.equation else ''
        lines.append(f'{i}. {_code(step.call)}: {step.summary}\n\n{body}')
      lines += [f'Store: {_code(part.store)}\n', *_markdown_table(part.constants)]
    return '\n'.join([*lines, *_markdown_table(self.sizes)]).rstrip() + '\n'

  def latex(self) -> str:
    """The same as a part of a LaTeX document; the package amsmath is needed."""
    lines = [f'Inside {", ".join(map(_typewriter, self.wrappers))}.\n'] if self.wrappers else []
    for part in self.parts:
      lines += [rf'\paragraph{{{_typewriter(part.group)}}}'] if part.group else []
      lines += [f'Behind {", ".join(map(_typewriter, part.before))}.\n'] if part.before else []
      lines.append(r'\begin{enumerate}')
      for step in part.steps:
        lines.append(rf'  \item {_typewriter(step.call)}')
        lines += [rf'    \[ {step.equation} \]'] if step.equation else []
      lines += [r'\end{enumerate}', f'Store: {_typewriter(part.store)}.\n', *_latex_table(part.constants)]
    return '\n'.join([*lines, *_latex_table(self.sizes)]).rstrip() + '\n'

  def as_dict(self) -> dict[str, Any]:
    """The same as dicts, lists, strings and numbers, for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists


def describe(tx: optax.GradientTransformation, params: optax.Params | None = None) -> Description:
  """Says what an optimizer is: each line with its equation, and what its constants amount to.

  The equations are those of the docstrings. Constants are the half-life of each average, the least denominator and so
  the longest step, the first step that is rectified, the learning rate with which Adam takes the same steps (or
  AdaBelief, if this is Adam), the half-life of decoupled weight decay, and bytes.

  Args:
    tx: a recipe, an `optax.chain` that ends with one, `by_path`, or a wrapper of this package around one of these.
    params: the parameters, or `jax.ShapeDtypeStruct`s of them, to count the bytes of the whole state.

  Returns:
    A `Description`: `str` of it is text, `.markdown()`, `.latex()` and `.as_dict()` are the same for documents.

  Raises:
    TypeError: if no recipe is found in `tx`.

  Example:
    >>> import belief_optax as bo
    >>> print(bo.diagnostics.describe(bo.sgd(0.1, momentum=0.9)))
      1  heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None)
           c_t = d c_(t-1) + (1 - τ) u_t, u_t ← c_t or, with Nesterov's momentum, u_t + d c_t
      2  scale_by_learning_rate(learning_rate=0.1, flip_sign=True)
           u_t ← -α_t u_t
         store: Float32()
    <BLANKLINE>
         learning rate        0.1    at every step
         half-life of decay   6.579  steps, until a gradient has half of its weight
         bytes per parameter  4      of state, for a float32 parameter
  """
  if not isinstance(tx, optax.GradientTransformation):
    raise TypeError(f'tx must be a gradient transformation, got {tx!r}.')
  wrappers, found = [], []
  _find(tx, '', wrappers, found)
  parts = tuple(_part(group, before, recipe) for group, before, recipe in found)
  return Description(tuple(wrappers), parts, () if params is None else tuple(sizes_of(tx, params)))


def _find(tx: Any, group: str, wrappers: list[str], found: list[tuple[str, tuple[str, ...], Recipe]]) -> None:
  """Collects the recipes inside of a transformation, and the names of what stands around them."""
  before = []
  update: Any = tx.update
  while links := links_of(update):
    before += [_name(link) for link in links[:-1]]
    update = links[-1]
  if isinstance(tx, ByPath):
    wrappers.append('by_path')
    for pattern, one in zip(
      (*map(pattern_text, tx.groups.patterns), 'default'), tx.groups.transformations, strict=True
    ):
      _find(one, pattern, wrappers, found)
  elif inner := _inside(update):
    wrappers.append(_title(tx, update))
    _find(inner, group, wrappers, found)
  else:
    found.append((group, tuple(before), recipe_in(tx)))


def _inside(update: Any) -> Any:
  """The transformation that a wrapper of this package has as a field, or None."""
  if isinstance(update, optax.GradientTransformation):
    return update
  if not dataclasses.is_dataclass(update):
    return None
  values = (getattr(update, f.name, None) for f in dataclasses.fields(update))
  return next((x for value in values if (x := _inside(value)) is not None), None)


def _part(group: str, before: tuple[str, ...], recipe: Recipe) -> Part:
  steps = tuple(Step(repr(x), mathematics.summary(x), mathematics.equation(x)) for x in recipe.lines)
  return Part(group, before, steps, repr(recipe.store), tuple(constants_of(recipe)))


def _title(tx: Any, update: Any) -> str:
  """The name of a wrapper of this package: that of its guard, or of its class."""
  return getattr(getattr(update, 'guard', None), 'name', '') or snake(type(tx).__name__)


def _name(update: Any) -> str:
  """The name of a link: the lines of a recipe, a wrapper of ours, or a transformation of optax, a closure."""
  if lines := getattr(update, 'lines', None):
    return ', '.join(line.name for line in lines)
  name = getattr(update, '__qualname__', '').partition('.')[0] or _title(update, update)
  if name == optax.with_extra_args_support.__name__:  # it says nothing of itself: what it holds does
    cells = dict(zip(update.__code__.co_freevars, update.__closure__ or (), strict=True))
    return _name(cells['tx'].cell_contents.update) if 'tx' in cells else name
  return name


# Ways of writing.


def _columns(rows: Sequence[Constant]) -> list[str]:
  name, figure = (max((len(x) for x in each), default=0) for each in ([r.name for r in rows], [r.figure for r in rows]))
  return [f'     {row.name:<{name}}  {row.figure:<{figure}}  {row.meaning}' for row in rows]


def _code(text: str) -> str:
  return f'`{text}`'


def _markdown_table(rows: Sequence[Constant]) -> list[str]:
  if not rows:
    return []
  cells = (f'| {row.name} | {row.figure} | {row.meaning.replace("|", chr(92) + "|")} |' for row in rows)
  return ['| constant | value | meaning |', '| --- | ---: | --- |', *cells, '']


_NAMED = {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '<': r'\textless{}',
  '>': r'\textgreater{}',
}
_SPECIAL = str.maketrans({c: rf'\{c}' for c in '&%$#_{}'} | _NAMED)


def _escaped(text: str) -> str:
  return text.translate(_SPECIAL)


def _typewriter(text: str) -> str:
  return rf'\texttt{{{_escaped(text)}}}'


def _latex_table(rows: Sequence[Constant]) -> list[str]:
  if not rows:
    return []
  cells = (rf'  {_escaped(row.name)} & {_escaped(row.figure)} & {_escaped(row.meaning)} \\' for row in rows)
  return [r'\noindent\begin{tabular}{lrp{.6\linewidth}}', *cells, r'\end{tabular}', '']
