"""A report in sections, each measured and kept by itself: the command line of `guards` and `precision`."""

import argparse
import datetime
import json
import pathlib
import re
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks import step as timing
from examples._common import directory

ROOT = pathlib.Path(__file__).parents[1]


class Section(NamedTuple):
  """What a section measures, of the sizes it gets; its paragraphs; and where it has one, its title and its plot."""

  measure: Callable[[Any], dict[str, Any]]
  text: Callable[[dict[str, Any]], list[str]]
  title: str = ''
  plot: Callable[[dict[str, Any]], Any] | None = None

  def paragraphs(self, found: dict[str, Any]) -> list[str]:
    """Its text, and where and when it was measured."""
    machine = found['machine']
    versions = ', '.join(f'{package} {version}' for package, version in machine['versions'].items())
    where = f'{found["date"]}, {found["seconds"]:.0f} s on {machine["cores"]} cores, {machine["cpu"]}, {versions}'
    note = '**--quick: a smoke test, no measurement.** ' if found['quick'] else ''
    return [*self.text(found), f'{note}*{where}*']


def measured(section: Section, sizes: Mapping[str, tuple[Any, Any]], quick: bool) -> dict[str, Any]:
  begin, now = time.perf_counter(), datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes')
  found = section.measure(types.SimpleNamespace(**{size: pair[quick] for size, pair in sizes.items()}))
  facts = {'date': now, 'seconds': round(time.perf_counter() - begin, 1), 'quick': quick}
  return {**facts, 'machine': timing.describe_machine(), **found}


def reports(
  name: str,
  about: str,
  sections: Mapping[str, Section],
  sizes: Mapping[str, tuple[Any, Any]],
  argv: Sequence[str] | None = None,
) -> Iterator[tuple[str, dict[str, Any], pathlib.Path | None]]:
  """Measures what the command line asks for, and keeps it in benchmarks/results/<name>-<device>.json.

  Args:
    name: of the benchmark.
    about: what it does, one line.
    sections: all that it can measure, in the order of the report.
    sizes: name -> (that of the whole run, that of a smoke test).
    argv: the command line.

  Yields:
    After each section its name, the report of all that is known, and the folder for pages; None for their own places.
  """
  parser = argparse.ArgumentParser(prog=f'benchmarks.{name}', description=about)
  parser.add_argument('--quick', action='store_true', help='tiny sizes: a smoke test, no measurement')
  parser.add_argument('--sections', choices=list(sections), nargs='+', default=list(sections))
  parser.add_argument('--out', type=directory, help=f'folder (docs and benchmarks/results; with --quick: out/{name})')
  args = parser.parse_args(argv)
  if args.quick and args.out is None:  # a smoke test must not take the place of measured results
    args.out = directory(f'out/{name}')
  slug = re.sub(r'[^a-z0-9]+', '-', jax.devices()[0].device_kind.lower()).strip('-')
  results = (args.out or ROOT / 'benchmarks' / 'results') / f'{name}-{slug}.json'
  report = json.loads(results.read_text()) if results.exists() and not args.quick else {}
  for one in args.sections:
    print(f'{one} ...', file=sys.stderr, flush=True)
    report[one] = measured(sections[one], sizes, args.quick)
    report = {key: report[key] for key in sections if key in report}
    results.write_text(json.dumps(report, separators=(',', ':')) + '\n')
    yield one, report, args.out
