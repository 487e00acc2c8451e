"""What a command answers: data for a program, and text or tables for a person."""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class Misuse(Exception):
  """A command was called in a wrong way; the message is a sentence for the user."""


@contextlib.contextmanager
def sentences() -> Iterator[None]:
  """The errors of the package are sentences for users: a `ValueError` or `TypeError` becomes a `Misuse`."""
  try:
    yield
  except (TypeError, ValueError) as e:
    raise Misuse(str(e)) from None


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text.

  Attributes:
    title: what stands over it.
    header: the names of its columns.
    rows: its cells. A row that begins with '!' in its last cell is a problem.
    note: what stands under it.
  """

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a command answers.

  Attributes:
    data: for `--json`.
    blocks: what a person reads, in order: texts, tables, and what rich can print.
    code: the exit code.
    texts: for other formats what makes the text, by the name of the format.
  """

  data: Mapping[str, Any]
  blocks: Sequence[Any] = ()
  code: int = 0
  texts: Mapping[str, Callable[[], str]] = dataclasses.field(default_factory=dict)


def add_format(parser: argparse.ArgumentParser, *more: str) -> None:
  """Declares `--json` and, where there are more formats, `--format`."""
  if more:
    formats = ('text', *more, 'json')
    parser.add_argument('--format', choices=formats, default='text', help='how to print it (default: text)')
  else:
    parser.set_defaults(format='text')
  parser.add_argument(
    '--json', dest='format', action='store_const', const='json', default=argparse.SUPPRESS, help='print JSON'
  )


def show(answer: Answer, form: str) -> None:
  """Prints an answer."""
  if form == 'json':
    print(json.dumps(answer.data, indent=2, ensure_ascii=False))
  elif form in answer.texts:
    print(answer.texts[form]().rstrip('\n'))
  else:
    for block in answer.blocks:
      if isinstance(block, str):
        print(block)
      elif isinstance(block, Table):
        _print_table(block)
      else:
        _console().print(block)


def _print_table(table: Table) -> None:
  rich = needed_rich()
  console = _console()
  rows = rich['Table'](box=rich['box'].SIMPLE_HEAD, show_header=any(table.header))
  for i, name in enumerate(table.header):
    rows.add_column(name, justify='right' if i and _is_number(table.rows, i) else 'left', overflow='fold')
  for row in table.rows:
    rows.add_row(*map(rich['escape'], row), style='bold red' if row[-1].startswith('!') else None)
  console.print(f'[bold]{rich["escape"](table.title)}[/]')
  console.print(rows)
  if table.note:
    console.print(f'[dim]{rich["escape"](table.note)}[/]')


def _console() -> Any:
  return needed_rich()['Console'](file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)


def _is_number(rows: Sequence[Sequence[str]], column: int) -> bool:
  return all(not row[column] or row[column].lstrip('<-')[:1].isdigit() for row in rows)


def needed_rich() -> dict[str, Any]:
  """What draws tables and progress; a Misuse that says how to install it where it is missing."""
  try:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table
  except ImportError:
    raise Misuse('tables need rich: pip install "belief_optax[cli]", or use --json.') from None
  return {'box': box, 'Console': Console, 'escape': escape, 'Progress': Progress, 'Table': Table}
