"""`belief-optax compare`: optimizers on equal terms, by `belief_optax.comparison`."""

import argparse
import importlib.util
from typing import Any

from belief_optax.cli.answer import Answer, Misuse, add_format, sentences


def available() -> bool:
  """Whether the package has the comparison."""
  return importlib.util.find_spec('belief_optax.comparison') is not None


def add(commands: Any) -> None:
  """Declares the command."""
  parser = commands.add_parser(
    'compare',
    help='optimizers on equal terms: tables, and pictures with --out',
    description='Optimizers on equal terms: the same search over learning rate and weight decay, other seeds and data '
    'for the test, paired intervals. Without --full it is a smoke test of seconds to minutes, and no evidence.',
  )
  parser.add_argument('names', nargs='+', metavar='OPT', help='adabelief, adam, ..., or optax:NAME')
  parser.add_argument('--on', nargs='+', required=True, metavar='TASK', help='digits, letters, landscapes, all, ...')
  parser.add_argument('--full', action='store_true', help='all steps and seeds: minutes to an hour')
  parser.add_argument('--out', metavar='DIR', help='a folder for JSON, Markdown and the picture')
  parser.add_argument('--workers', type=int, default=1, metavar='N', help='processes that share the work (default: 1)')
  parser.add_argument('--resume', action='store_true', help='take what is finished from --out')
  add_format(parser, 'markdown')
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Answer:
  """The comparison."""
  comparison: Any = importlib.import_module('belief_optax.comparison')
  try:
    with sentences():
      report = comparison.main(
        arguments.names,
        arguments.on,
        not arguments.full,
        arguments.out,
        arguments.format != 'json',
        workers=arguments.workers,
        resume=arguments.resume,
      )
  except (ImportError, OSError) as e:  # the extra is missing; the folder cannot be written
    raise Misuse(str(e)) from None
  if arguments.format == 'text':
    return Answer({}, [report.table()])  # which has the notes
  return Answer(report.as_dict(), texts={'markdown': report.markdown})
