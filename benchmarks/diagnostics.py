"""What `diagnostics.measure` costs: steps with and without it, in one run.

    python -m benchmarks.diagnostics                    # 25M parameters in 8 arrays; minutes
    python -m benchmarks.diagnostics --modes native --rounds 31
    python -m benchmarks.diagnostics --quick            # a smoke test; its figures mean nothing

A contender runs ten steps a round; for every=100 the measured step and nine others, weighed. It prints Markdown, and
writes it and the figures to `results/diagnostics-<cores>.md` and `.json`. Ratios are taken within a round; the bytes
are those that XLA plans for beside arguments and results.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import belief_optax as bo
from belief_optax.execution import native, use
from benchmarks import step as base

PLAIN = 'without'
STEPS = 10  # of a round
# name -> options of `measure`; None for the optimizer alone
CONTENDERS: dict[str, dict[str, Any] | None] = {
  PLAIN: None,
  'without, again': None,
  'every=1': {'every': 1},
  'every=1, 65,536 of each': {'every': 1, 'sample': 1 << 16},
  'every=10': {'every': 10},
  'every=100': {'every': 100},
  'every=1, all elements': {'every': 1, 'sample': None},
  'every=10, all elements': {'every': 10, 'sample': None},
  'every=100, all elements': {'every': 100, 'sample': None},
}
OPTIMIZERS = {'adabelief': {}, 'adabelief int8': {'store': 'int8'}}


def steps(optimizer: str, mode: Any, shapes: Any, rounds: int, names: Sequence[str]) -> dict[str, Any]:
  """Times of ten steps, and the temporary bytes, with each way of measuring."""
  grads, runs, bytes_ = base.filled(shapes, 0), {}, {}
  for name in names:
    options = CONTENDERS[name]
    tx = bo.adabelief(base.LR, **OPTIMIZERS[optimizer])
    tx = tx if options is None else bo.diagnostics.measure(tx, **options)
    with use(mode):
      program = base.compile_step(tx, shapes)
    bytes_[name] = program.memory_analysis().temp_size_in_bytes
    params = base.filled(shapes, 1)
    runs[name] = _runner(program, [params, _started(tx, params)], grads, options)
  sampler = base.Sampler(f'{optimizer}, {mode}', runs, rounds, 1)
  rows = {
    name: {
      'ms': sampler.summary(name, 'step'),
      'ratio': sampler.ratio(name, PLAIN, 'step'),
      'temp_bytes': bytes_[name],
    }
    for name in names
  }
  return {'other_processes_cores': sampler.other_processes, 'rows': rows}


def _started(tx: Any, params: Any) -> Any:
  """A state that has finished steps: the first step is measured whatever `every` is."""
  state = tx.init(params)
  return state._replace(finished=jnp.int32(10)) if hasattr(state, 'finished') else state


def _runner(
  program: Any, data: list[Any], grads: Any, options: dict[str, Any] | None
) -> Callable[[], dict[str, float]]:
  every = 1 if options is None else options['every']

  def run() -> dict[str, float]:
    """The seconds of a step."""
    if every <= STEPS:
      return {'step': sum(_one(program, data, grads) for _ in range(STEPS)) / STEPS}
    data[1] = data[1]._replace(finished=jnp.int32(every - 1))
    measured = _one(program, data, grads)
    others = sum(_one(program, data, grads) for _ in range(STEPS - 1)) / (STEPS - 1)
    return {'step': (measured + (every - 1) * others) / every}

  return run


def _one(program: Any, data: list[Any], grads: Any) -> float:
  seconds, data[:] = base.timed(lambda: program(*data, grads))
  return seconds


def markdown(report: dict[str, Any]) -> str:
  out = [f'# What `diagnostics.measure` costs, on {report["cores"]} cores', '', report['machine'], '']
  for name, section in report['sections'].items():
    out += [f'## {name}', '', f'Other processes kept {section["other_processes_cores"]:.1f} cores busy.', '']
    cells = [
      (n, base.spread(r['ms'], 2), base.spread(r['ratio'], 3), f'{r["temp_bytes"] / 1e6:,.1f}')
      for n, r in section['rows'].items()
    ]
    out += [base.table(('measure', 'ms per step', '/ without', 'temporary MB'), cells), '']
  return '\n'.join(out)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
  parser.add_argument('--optimizers', nargs='+', choices=OPTIMIZERS, default=list(OPTIMIZERS))
  parser.add_argument('--modes', nargs='+', choices=['native', 'xla'], default=['native', 'xla'])
  parser.add_argument('--ways', nargs='+', choices=CONTENDERS, default=list(CONTENDERS), help='ways of measuring')
  parser.add_argument('--size', type=float, default=25e6)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--quick', action='store_true', help='tiny sizes: a smoke test')
  parser.add_argument('--out', type=pathlib.Path)
  args = parser.parse_args(argv)
  if 'native' in args.modes and (reason := native.available()):
    parser.error(reason)
  side = 32 if args.quick else int(args.size / 8 / 1024)
  shapes = [jax.ShapeDtypeStruct((side, 64 if args.quick else 1024), jnp.float32) for _ in range(8)]
  cores = len(os.sched_getaffinity(0))
  machine = ', '.join(f'{k} {v}' for k, v in base.describe_machine().items())
  names = list(dict.fromkeys([PLAIN, *args.ways]))
  sections = {
    f'{optimizer}, {mode}': steps(optimizer, mode, shapes, 2 if args.quick else args.rounds, names)
    for optimizer in args.optimizers
    for mode in args.modes
  }
  report = {'cores': cores, 'machine': machine, 'parameters': base.count(shapes), 'sections': sections}
  text = markdown(report)
  print(text)
  folder = args.out or pathlib.Path('out' if args.quick else 'benchmarks/results')
  folder.mkdir(parents=True, exist_ok=True)
  (folder / f'diagnostics-{cores}.md').write_text(text)
  (folder / f'diagnostics-{cores}.json').write_text(json.dumps(report, indent=1))


if __name__ == '__main__':
  main()
