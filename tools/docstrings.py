"""Writes what docstrings say of shared arguments: `belief_optax.core.vocabulary` has the words, in one place.

    python tools/docstrings.py          # in place
    python tools/docstrings.py --check  # prints a diff, and exits with 1 where a docstring says something else

An argument is shared if the vocabulary knows its name. Its range is that of the vocabulary or, for a piece, that of its
own field. A docstring that keeps words of its own says so behind its end, where `help` does not show it:
`# own words: eps, b1`.
"""

import argparse
import ast
import difflib
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, get_args

from belief_optax.core.vocabulary import Vocabulary

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ('belief_optax/optimizers', 'belief_optax/pieces')
SECTION = re.compile(r'^  (?:Args|Attributes):\n(?:    .*\n)+', re.MULTILINE)
ENTRY = re.compile(r'^    (\w+): (.*\n(?:      .*\n)*)', re.MULTILINE)
OWN = re.compile(r'# own words: (.*)')


def vocabulary() -> dict[str, str]:
  """The words of each argument; `{range}` stands for the range of the field."""
  section = SECTION.findall(inspect.getsource(Vocabulary))[0]
  words = {name: ' '.join(text.split()) for name, text in ENTRY.findall(section)}
  number = '{range}, a scalar array or a schedule'
  for name, kind in inspect.get_annotations(Vocabulary).items():
    strings = [f'`{x!r}`' for part in get_args(kind) for x in get_args(part) if isinstance(x, str)]
    words[name] = words[name].replace('{number}', number).replace('{names}', ', '.join(strings))
  return words


def rewritten(source: str, objects: Mapping[str, Any], words: Mapping[str, str]) -> str:
  """The source of a module with the words in its docstrings.

  Args:
    source: the source.
    objects: what is defined in it, by name.
    words: what `vocabulary` gives.

  Returns:
    The same source, if its docstrings say what the vocabulary says.

  Raises:
    ValueError: if a docstring announces words of its own for what is not one of its shared arguments.
  """
  lines = source.splitlines(keepends=True)
  for node in reversed(ast.parse(source).body):
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or ast.get_docstring(node) is None:
      continue
    place = slice(node.body[0].lineno - 1, node.body[0].end_lineno)
    docstring = ''.join(lines[place])
    fields = getattr(objects[node.name], '__dataclass_fields__', vars(Vocabulary))
    shared = {name for section in SECTION.findall(docstring) for name, _ in ENTRY.findall(section)} & words.keys()
    own = {name for names in OWN.findall(docstring) for name in names.split(', ')}
    if not own <= shared:
      raise ValueError(f'{node.name} has words of its own for {own - shared}, but its shared arguments are {shared}.')
    texts = {name: _entry(name, words[name], fields[name]) for name in shared - own}
    entry = lambda found, texts=texts: texts.get(found[1], found[0])
    lines[place] = [SECTION.sub(lambda section, entry=entry: ENTRY.sub(entry, section[0]), docstring)]
  return ''.join(lines)


def _entry(name: str, words: str, field: Any) -> str:
  if allowed := field.metadata.get('allowed'):
    words = words.replace('{range}', re.sub(r' \([a-z].*', '', allowed.words))  # without the reason in parentheses
  return textwrap.fill(f'    {name}: {words}', 120, subsequent_indent=' ' * 6, break_on_hyphens=False) + '\n'


def main() -> None:
  """Rewrites the docstrings of all algorithms and pieces, or compares them."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--check', action='store_true', help='print a diff instead, and exit with 1 if there is one')
  check, words, same = parser.parse_args().check, vocabulary(), True
  for path in (path for folder in SOURCES for path in sorted((ROOT / folder).glob('*.py'))):
    name, old = path.relative_to(ROOT).as_posix(), path.read_text('utf-8')
    new = rewritten(old, vars(importlib.import_module(name.removesuffix('.py').replace('/', '.'))), words)
    same &= new == old
    if check:
      sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, name))
    elif new != old:
      path.write_text(new, 'utf-8')
  sys.exit(int(check and not same))


if __name__ == '__main__':
  main()
