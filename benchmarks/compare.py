"""The family on equal terms: which optimizer is good for which kind of task?

    python -m benchmarks.compare                       # everything, with a process for each core; above an hour on two
    python -m benchmarks.compare --resume              # goes on where a run was stopped
    python -m benchmarks.compare --tasks digits landscapes --optimizers adabelief optax:lion  # other figures are kept
    python -m benchmarks.compare --quick               # a smoke test of about five minutes; its figures mean nothing
    python -m benchmarks.compare --text                # the page anew, from the kept figures

It keeps its figures in benchmarks/results/comparison.json and writes docs/evidence.md and its plot from them. Finished
cells wait in out/compare for `--resume`. A quick run writes to out/compare-quick and nowhere else.
"""

import argparse
import os
import pathlib
import sys

from belief_optax import comparison
from belief_optax.comparison import cells, optimizers, tasks
from belief_optax.comparison.run import compare

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'comparison.json'
PAGE, PLOT = ROOT / 'docs' / 'evidence.md', 'evidence.png'
QUICK = ('adabelief', 'adam', 'sgd')


def parse(argv):
  parser = argparse.ArgumentParser(
    prog='benchmarks.compare', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tasks', nargs='+', metavar='TASK', help=f'{", ".join((*tasks.TASKS, *tasks.GROUPS))} (all)')
  parser.add_argument('--optimizers', nargs='+', metavar='NAME', help='of belief_optax, or optax:NAME')
  parser.add_argument('--quick', action='store_true', help='a quarter of the steps: a smoke test')
  parser.add_argument('--resume', action='store_true', help='take the cells that an earlier run has finished')
  parser.add_argument('--workers', type=int, default=len(os.sched_getaffinity(0)), help='processes (%(default)s)')
  parser.add_argument('--text', action='store_true', help='write the page anew from the kept figures')
  parser.add_argument('--out', type=pathlib.Path, help='write everything there, and not to docs and benchmarks/results')
  args = parser.parse_args(argv)
  try:
    args.names = [
      one.name for one in optimizers.contenders(args.optimizers or (QUICK if args.quick else optimizers.DEFAULT))
    ]
    args.tasks, everything = tasks.names(args.tasks or ['all']), args.tasks is None
  except ValueError as e:
    parser.error(str(e))
  if args.workers < 1:
    parser.error(f'argument --workers: must be an integer >= 1, got {args.workers}')
  args.pairs = [(task, name) for task in args.tasks for name in args.names]
  if everything and args.optimizers is None and not args.quick:
    args.pairs.append(optimizers.CROSS_CHECK)
  return args


def publish(report):
  """The page, its plot and the figures."""
  report.figures['plot'] = PLOT
  cells.save(RESULTS, report.as_dict())
  PAGE.write_text(report.markdown(), 'utf-8')
  report.plot(PAGE.with_name(PLOT))


def main(argv=None):
  args = parse(argv)
  if args.text:
    publish(comparison.load(RESULTS))
    return 0
  folder = args.out or ROOT / 'out' / ('compare-quick' if args.quick else 'compare')
  try:
    report = compare(args.pairs, args.quick, folder, workers=args.workers, resume=args.resume)
  except KeyboardInterrupt:
    print(f'Stopped. Finished cells are in {folder / "cells"}: --resume goes on.', file=sys.stderr)
    return 130
  if not args.quick and args.out is None:
    publish(comparison.load(RESULTS).updated(report) if RESULTS.exists() else report)
  from rich.console import Console

  console = Console(highlight=False)
  console.width = max(console.width, 160)  # narrower columns would break numbers apart
  console.print(report.table())
  return 0


if __name__ == '__main__':
  sys.exit(main())
