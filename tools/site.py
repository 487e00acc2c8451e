"""The pages of the site that nobody writes: a hook of MkDocs, see mkdocs.yml.

- `index.md` is the README, and `changelog.md` the changelog.
- `optimizers/NAME.md`: each public optimizer, every piece beside its equation, from the docstrings.
- `reference/NAME.md`: every public name.

Docstrings are in the reST of this package (`.. math::`, double backticks, sections of Google's style); here they become
Markdown. Formulas become MathML while the site is built, so a page needs no script and no network for them. Examples
are shown without prompts, as code and what it prints, so that they can be copied.

The part above the line "MkDocs" needs no MkDocs: the tests call it too.
"""

import doctest
import html
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import belief_optax as bo
from belief_optax import diagnostics, optimizers, pieces, presets

ROOT = Path(__file__).parents[1]
EDGES = ('Args', 'Attributes', 'Returns', 'Raises', 'Example', 'References')


# What there is.


class Module(NamedTuple):
  """A page of the reference.

  Attributes:
    title: its title, and how its names begin.
    about: what its docstring says.
    names: its public names.
  """

  title: str
  about: str
  names: Mapping[str, Any]


def modules() -> dict[str, Module]:
  """The pages of the reference, by file name: the package in three parts, and every other package with `__all__`."""
  own = {name: getattr(bo, name) for name in bo.__all__ if not inspect.ismodule(getattr(bo, name))}
  of = lambda names: {name: own[name] for name in names if name in own}
  parts = {'optimizers': of(optimizers.__all__), 'pieces': of(pieces.__all__)}
  rest = {name: x for name, x in own.items() if not any(name in part for part in parts.values())}
  found = {
    'package': Module('bo', 'What stands in the package beside optimizers and pieces.', rest),
    'optimizers': Module('bo', inspect.getdoc(optimizers) or '', parts['optimizers']),
    'pieces': Module('bo', inspect.getdoc(pieces) or '', parts['pieces']),
  }
  for info in pkgutil.iter_modules(bo.__path__):
    if info.name in ('optimizers', 'pieces', '__main__', 'one_pass', 'param_groups', 'conversions'):
      continue
    module = importlib.import_module(f'belief_optax.{info.name}')
    names = public(module)
    if names:
      found[info.name] = Module(info.name, inspect.getdoc(module) or '', names)
  return found


def public(module: Any) -> dict[str, Any]:
  """The public names of a module: of `__all__`, or what it defines; of a package of modules those of the modules."""
  listed = getattr(module, '__all__', None)
  if listed is None:
    own = inspect.getmembers(module, lambda x: inspect.isfunction(x) or inspect.isclass(x))
    return {name: x for name, x in own if not name.startswith('_') and x.__module__ == module.__name__}
  found: dict[str, Any] = {}
  for name in listed:
    x = getattr(module, name)
    if inspect.ismodule(x) and x.__name__.startswith(module.__name__):
      found |= {f'{name}.{inner}': y for inner, y in functions_of(x).items()}
    else:
      found[name] = x
  return found


def functions_of(module: Any) -> dict[str, Any]:
  """What a module of presets defines itself."""
  own = inspect.getmembers(module, lambda x: inspect.isfunction(x) or inspect.isclass(x))
  defined = lambda x: (
    x.__module__ == module.__name__ and (inspect.isclass(x) or x.__code__.co_filename == module.__file__)
  )
  lines = lambda x: inspect.isclass(x) and (issubclass(x, bo.Line) or not x.__doc__)
  return {name: x for name, x in own if not name.startswith('_') and defined(x) and not lines(x)}


# Docstrings as Markdown.


def sections(docstring: str) -> dict[str, str]:
  """The sections by title; what stands before them has the title ''."""
  parts = re.split(rf'^({"|".join(EDGES)}):\n', docstring, flags=re.MULTILINE)
  found = {'': parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))
  return {title: textwrap.dedent(text).strip('\n') for title, text in found.items()}


def markdown(text: str) -> str:
  """Prose of a docstring: its math, its code and its examples."""
  text = re.sub(r'^(\.\. math::.*(?:\n(?: .*|(?=\n  )))*)', lambda m: _display(m[1]), text, flags=re.MULTILINE)
  text = re.sub(r'\$\$(.+?)\$\$', lambda m: f'\n\n$$\n{" ".join(m[1].split())}\n$$\n\n', text, flags=re.DOTALL)
  text = re.sub(r'``(.+?)``', r'`\1`', text, flags=re.DOTALL)
  text = re.sub(r'(?<![`/\w])docs/(\w+)\.md', r'[\1](../\1.md)', text)
  text = re.sub(r'::$', ':', text, flags=re.MULTILINE)
  text = re.sub(r'(?m)(^[^\s-].*\n)(- )', r'\1\n\2', text)  # a list needs an empty line before it
  text = re.sub(r'(?<![(<"])(https?://[^\s),;]+[^\s),;.])', r'<\1>', text)
  return examples(text)


def _display(block: str) -> str:
  latex = ' '.join(block.removeprefix('.. math::').split())
  if '&' in latex and '\\begin' not in latex:
    latex = f'\\begin{{split}} {latex} \\end{{split}}'
  return f'\n$$\n{latex}\n$$\n'


def examples(text: str) -> str:
  """Examples as blocks of code, and what they print."""
  out: list[str] = []
  code: list[str] = []

  def flush(want: str = '') -> None:
    if code:
      out.append(fenced('python', ''.join(code)))
      code.clear()
    if want:
      out.append(fenced('{ .text .output }', want))

  for part in doctest.DocTestParser().parse(text):
    if isinstance(part, str):
      if part.strip():
        flush()
        out.append(part)
    else:
      code.append(re.sub(r'\s*# doctest: .*', '', part.source))
      if part.want:
        flush(part.want.replace('<BLANKLINE>', ''))
  flush()
  return '\n'.join(out)


def fenced(kind: str, text: str) -> str:
  """A block of code."""
  return f'\n``` {kind}\n{text.rstrip()}\n```\n' if kind.startswith('{') else f'\n```{kind}\n{text.rstrip()}\n```\n'


def entries(section: str) -> list[tuple[str, str]]:
  """The names that a section explains, each with its words."""
  found = re.findall(r'^(\*{0,2}\w+)(?: \([^)]*\))?: (.*\n?(?:[ ]+.*\n?|\n(?=[ ]))*)', section, re.MULTILINE)
  return [(name, textwrap.dedent(f'    {text}' if '\n' not in text else text)) for name, text in found]


def signature_of(name: str, x: Any) -> str:
  """The call of a function or class, wrapped where it is long."""
  try:
    parameters = inspect.signature(x).parameters.values()
  except (TypeError, ValueError):
    return name
  shown, star = [], False
  for p in parameters:
    if p.name.startswith('_'):
      return name  # of a class that nobody calls
    if p.kind is p.KEYWORD_ONLY and not star:
      shown.append('*')
    star |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
    mark = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
    default = p.default if p.default is not p.empty and 'object at' not in repr(p.default) else p.empty
    missing = p.default is p.empty or 'MISSING' in repr(p.default)
    shown.append(mark + p.name + ('' if missing else f'={default!r}' if default is not p.empty else '=...'))
  call = f'{name}({", ".join(shown)})'
  if len(call) <= 76:
    return call
  return f'{name}(\n{textwrap.fill(", ".join(shown), 76, initial_indent="  ", subsequent_indent="  ")}\n)'


def types_of(x: Any) -> dict[str, str]:
  """The types of the arguments as people write them."""
  try:
    parameters = inspect.signature(x).parameters
  except (TypeError, ValueError):
    return {}
  return {name: _type(p.annotation) for name, p in parameters.items() if p.annotation is not p.empty}


def _type(kind: Any) -> str:
  text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
  text = text.replace('float | int | jax.jaxlib._jax.Array', 'number')
  if isinstance(kind, str) or len(text) > 60 or 'Callable' in text:
    strings = [one for part in (kind, *get_args(kind)) for one in get_args(part) if isinstance(one, str)]
    return ' | '.join(map(repr, strings)) if strings and len(strings) < 6 else ''
  return re.sub(r'(\w+\.)+(?=\w)', '', text) if text != 'Any' and 'Any' not in text else ''


def documented(name: str, x: Any, level: int = 3, link: Callable[[str], str] = lambda text: text) -> str:
  """The documentation of a public name."""
  heading = f'{"#" * level} {name} {{ #{anchor(name)} }}'
  if not (inspect.isclass(x) or callable(x) or inspect.ismodule(x)):
    return f'{heading}\n\n{fenced("python", f"{name} = {x!r:.200}")}\n'
  parts = sections(inspect.getdoc(x) or '')
  calls = inspect.isclass(x) or callable(x)
  lines = [heading, fenced('python', signature_of(name, x)) if calls else '', link(markdown(parts.pop('')))]
  types = types_of(x)
  for title, text in parts.items():
    if title in ('Args', 'Attributes'):
      lines.append(f'\n**{"Arguments" if title == "Args" else title}**\n')
      for argument, said in entries(text):
        kind = f' ({types[argument]})' if types.get(argument) and title == 'Args' else ''
        body = textwrap.indent(link(markdown(said)).strip(), '    ').removeprefix('    ')
        lines.append(f'`{argument}`{html.escape(kind)}\n:   {body}\n')
    elif title == 'Raises':
      lines.append('\n**Raises**\n')
      lines += [f'`{error}`\n:   {link(markdown(said)).strip()}\n' for error, said in entries(text)]
    else:
      lines.append(f'\n**{title}**\n\n{link(markdown(text))}\n')
  if inspect.isclass(x):
    lines.append(methods(x, link))
  return '\n'.join(lines) + '\n'


def methods(cls: type, link: Callable[[str], str]) -> str:
  """The documented methods and properties that a class defines."""
  out = []
  for key, member in vars(cls).items():
    function = member.fget if isinstance(member, property) else getattr(member, '__func__', member)
    if key.startswith('_') or not inspect.isfunction(function) or not function.__doc__:
      continue
    call = (
      key
      if isinstance(member, property)
      else signature_of(key, function).replace('(self, ', '(').replace('(self)', '()')
    )
    parts = sections(inspect.getdoc(function) or '')
    body = ''.join(f'\n\n**{title}**\n\n{text}' if title else text for title, text in parts.items() if title != 'Args')
    text = link(markdown(body)).strip()
    out.append(f'`{" ".join(call.split())}`\n:   {textwrap.indent(text, "    ").removeprefix("    ")}\n')
  return '\n**Methods and properties**\n\n' + '\n'.join(out) if out else ''


def anchor(name: str) -> str:
  """The anchor of a public name."""
  return name.replace('.', '-')


def linked(page: str, found: Mapping[str, Module]) -> Callable[[str], str]:
  """Makes links of public names in code, for a page of the reference or of the optimizers."""
  places: dict[str, str] = {}
  for file, module in found.items():
    for name in module.names:
      full = name if module.title == 'bo' else f'{module.title}.{name}'
      places.setdefault(full, f'../reference/{file}.md#{anchor(name)}')
      if page == f'reference/{file}.md':  # its own names, without the name of their module
        places[name] = f'#{anchor(name)}'
  for name in optimizers.__all__:
    places[name] = f'../optimizers/{name}.md'

  def link(text: str) -> str:
    blocks = re.split(r'(^```.*?^```$|^\$\$.*?^\$\$$)', text, flags=re.MULTILINE | re.DOTALL)
    replace = lambda m: f'[{m[0]}]({places[m[1]]})' if m[1] in places and not places[m[1]].endswith(page) else m[0]
    blocks[::2] = [re.sub(r'(?<!\[)`(?:bo\.)?([\w.]+)`(?!\])', replace, block) for block in blocks[::2]]
    return ''.join(blocks)

  return link


# The page of an optimizer.


def optimizer_page(name: str, found: Mapping[str, Module]) -> str:
  """An optimizer: what it is, every piece beside its equation, what options change, its constants, its arguments."""
  function = getattr(bo, name)
  link = linked(f'optimizers/{name}.md', found)
  parts = sections(inspect.getdoc(function) or '')
  tx = made(function)
  lines = [f'# {name}', link(markdown(parts['']))]
  if tx is not None:
    of = diagnostics.describe(tx)
    lines.append('## The pieces\n\nWhat it does with its defaults, line by line. Each piece is a link to its page.\n')
    for part in of.parts:
      lines += [f'### {part.group}\n' if part.group else '', *(piece_row(step, link) for step in part.steps)]
    changes = list(variants(function, tx))
    if changes:
      lines.append('\n## What the options change\n')
      lines += [f'`{option}`\n:   {text}\n' for option, text in changes]
    constants = [row for part in of.parts for row in part.constants]
    if constants:
      lines.append('\n## What its constants mean\n\n| constant | value | meaning |\n| --- | ---: | --- |')
      lines += [f'| {row.name} | {_value(row.value)} | {row.meaning} |' for row in constants]
  lines.append('\n## In Python\n')
  lines.append(documented(name, function, 3, link).replace(link(markdown(parts[''])), ''))
  return '\n'.join(lines)


def _value(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def made(function: Callable[..., Any], **more: Any) -> Any:
  """An optimizer with its defaults; None where more than a learning rate has to be given, or it is refused."""
  parameters = inspect.signature(function).parameters
  given = {rate: 1e-3 for rate in ('learning_rate', 'lr') if rate in parameters}
  try:
    return function(**given, **more)
  except (TypeError, ValueError):
    return None


def piece_row(step: Any, link: Callable[[str], str]) -> str:
  """A piece beside its equation."""
  name, rest = re.match(r'(\w+)(.*)', step.call, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
  call = f'<code markdown="span">{link(f"`{name}`").replace("`", "")}{html.escape(rest)}</code>'
  equation = f'$$\n{step.equation}\n$$' if step.equation else ''
  left = f'<div markdown>\n\n{call}\n\n{step.summary}\n\n</div>'
  return f'<div class="piece" markdown>\n{left}\n<div markdown>\n\n{equation}\n\n</div>\n</div>\n'


def variants(function: Callable[..., Any], tx: Any) -> Iterable[tuple[str, str]]:
  """Each option of few values that changes the list of lines, and how."""
  for name, parameter in inspect.signature(function).parameters.items():
    strings = [one for one in get_args(parameter.annotation) if isinstance(one, str)]
    values = [not parameter.default] if isinstance(parameter.default, bool) else strings
    more = {'weight_decay': 0.01} if name == 'weight_decay_mode' else {}
    base = made(function, **more) if more else tx
    for value in values:
      other = made(function, **{name: value}, **more) if value != parameter.default else None
      if other is None or not hasattr(other, 'lines') or not hasattr(base, 'lines') or other.lines == base.lines:
        continue
      before, after = [repr(line) for line in base.lines], [repr(line) for line in other.lines]
      gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
      text = '; '.join([*(f'without `{x}`' for x in gone), *(f'with `{x}`' for x in new)]) or 'another order: ' + (
        ', '.join(f'`{line.name}`' for line in other.lines)
      )
      yield f'{name}={value!r}', text


# All pages.


def navigation(nav: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The navigation of mkdocs.yml with what is found: `optimizers`, `reference`, `more`, and pages with a `?`."""
  docs = ROOT / 'docs'
  known = set(re.findall(r'\w+\.md', (ROOT / 'mkdocs.yml').read_text('utf-8')))
  others = [path for path in sorted(docs.glob('*.md')) if path.name not in known]
  found = {
    'optimizers': [{'All': 'optimizers/index.md'}, *({name: f'optimizers/{name}.md'} for name in optimizers.__all__)],
    'reference': [
      {'All names': 'reference/index.md'},
      *({f: f'reference/{f}.md'} for f in modules() if f != 'optimizers'),
    ],
    'more': [{path.read_text('utf-8').splitlines()[0].lstrip('# '): path.name} for path in others],
  }

  def entry(one: Any) -> list[Any]:
    if isinstance(one, str):
      return found[one]
    ((name, what),) = one.items()
    if isinstance(what, list):
      return [{name: [x for inner in what for x in entry(inner)]}]
    if what in found:
      return [{name: found[what]}]
    there = not what.endswith('?') or (docs / what[:-1]).exists()
    return [{name: what.rstrip('?')}] if there else []

  return [x for one in nav for x in entry(one)]


def pages() -> dict[str, str]:
  """The generated pages, by path."""
  found = modules()
  out = {'index.md': home((ROOT / 'README.md').read_text('utf-8'))}
  out['changelog.md'] = (ROOT / 'CHANGELOG.md').read_text('utf-8')
  out['optimizers/index.md'] = optimizers_index()
  out |= {f'optimizers/{name}.md': optimizer_page(name, found) for name in optimizers.__all__}
  out['reference/index.md'] = reference_index(found)
  for file, module in found.items():
    if file != 'optimizers':  # which have pages of their own
      out[f'reference/{file}.md'] = reference_page(file, module, linked(f'reference/{file}.md', found))
  return out


def home(readme: str) -> str:
  """The README, with links that hold on the site."""
  readme = readme.replace('](docs/', '](')
  return re.sub(r'\[([^\]]+)\]\((?!https?:|#)([^)]+)\)', lambda m: m[0] if _on_site(m[2]) else m[1], readme)


def _on_site(target: str) -> bool:
  file = target.partition('#')[0]
  return (ROOT / 'docs' / file).exists() or file in ('index.md', 'changelog.md') or file.startswith('optimizers/')


def optimizers_index() -> str:
  """The list of all optimizers."""
  rows = [f'[`{name}`]({name}.md)\n:   {summary(getattr(bo, name))}\n' for name in optimizers.__all__]
  return '\n'.join(['# Optimizers\n', inspect.getdoc(optimizers) or '', '', *rows])


def summary(x: Any) -> str:
  """The first sentence, in one line."""
  text = (inspect.getdoc(x) or '').partition('\n\n')[0]
  return ' '.join(text.replace('``', '`').split())


def reference_index(found: Mapping[str, Module]) -> str:
  """Every public name, in one list per page."""
  lines = ['# Reference\n', 'Every public name. `bo` is `belief_optax`.\n']
  for file, module in found.items():
    lines.append(f'## {file}\n')
    for name, x in module.names.items():
      target = f'../optimizers/{name}.md' if file == 'optimizers' else f'{file}.md#{anchor(name)}'
      said = summary(x) if callable(x) else ''
      lines.append(f'[`{module.title}.{name}`]({target})\n:   {said or repr(x)[:100]}\n')
    lines.append('')
  return '\n'.join(lines)


def reference_page(file: str, module: Module, link: Callable[[str], str]) -> str:
  """A page of the reference."""
  lines = [f'# {file}\n', link(markdown(module.about)), '']
  for name, x in module.names.items():
    lines.append(documented(name, x, 2, link))
  return '\n'.join(lines)


# Markdown of pages that people write.


def prepared(text: str) -> str:
  """Blocks of code with prompts become code and what it prints."""
  return re.sub(r'^```python\n(>>> .*?)^```$', lambda m: examples(m[1]), text, flags=re.MULTILINE | re.DOTALL)


def mathml(page: str) -> str:
  """The formulas that Markdown has left in a page, as MathML; what cannot be read is an error."""
  from latex2mathml.converter import convert

  def converted(match: re.Match[str]) -> str:
    latex, block = html.unescape(match[2]).strip(), match[1] == '['
    latex = latex.replace(r'\begin{aligned}', r'\begin{split}').replace(r'\end{aligned}', r'\end{split}')
    latex = re.sub(r'_\{(root|t\+1|\w{3,})\}', lambda m: m[0] if '+' in m[1] else f'_{{\\text{{{m[1]}}}}}', latex)
    math = convert(latex, display='block' if block else 'inline')
    if unknown := re.search(r'>[^<]*\\[A-Za-z]+', math):
      raise ValueError(f'no MathML for {unknown[0][1:]!r} in {latex!r}')
    return spaced(math)

  return re.sub(
    r'<(?:span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</(?:span|div)>', converted, page, flags=re.DOTALL
  )


def spaced(math: str) -> str:
  """Bars are brackets, and a minus behind an arrow is a sign: else they are spaced as operators between terms."""
  math = re.sub(
    r'<mo(?: stretchy="false")?>(&#x0007C;|&#x02016;)</mo>', r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', math
  )
  return re.sub(r'(<mo>&#x(?:02190|0003D);</mo>)<mo>&#x02212;</mo>', r'\1<mo form="prefix">&#x02212;</mo>', math)


# MkDocs.


def on_config(config: Any) -> Any:
  """The navigation."""
  config['nav'] = navigation(config['nav'])
  return config


def on_files(files: Any, config: Any) -> Any:
  """Adds what is generated."""
  from mkdocs.structure.files import File

  for path, text in pages().items():
    files.append(File.generated(config, path, content=text))
  files.append(File.generated(config, 'assets/math.woff2', content=math_font()))
  return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
  """Examples without prompts."""
  return prepared(markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
  """Formulas as MathML."""
  return mathml(content)


def math_font() -> bytes:
  """STIX Two Math, which the package ziamath brings, less the characters that formulas here do not use."""
  import io

  import ziamath
  from fontTools import subset
  from fontTools.ttLib import TTFont

  font = TTFont(Path(ziamath.__file__).parent / 'fonts' / 'STIXTwoMath-Regular.ttf')
  ranges = ((0x20, 0x17F), (0x2B0, 0x3FF), (0x2000, 0x206F), (0x20D0, 0x20EF), (0x2100, 0x22FF), (0x2308, 0x23FF),
            (0x27E6, 0x27EF), (0x1D434, 0x1D467), (0x1D6A4, 0x1D71B))  # fmt: skip
  options = subset.Options(layout_features=['*'], flavor='woff2', notdef_outline=True)
  subsetter = subset.Subsetter(options)
  subsetter.populate(unicodes=[code for first, last in ranges for code in range(first, last + 1)])
  subsetter.subset(font)
  font.flavor = 'woff2'
  out = io.BytesIO()
  font.save(out)
  return out.getvalue()


# `presets` is imported so that its modules are there when their pages are made.
assert presets
