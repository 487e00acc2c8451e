"""What the machine loop on the CPU saves: steps of both ways of running them, beside optax and torch, in one run.

    python -m benchmarks.native                       # all sections; about ten minutes
    python -m benchmarks.native --sections step small --cores 1
    python -m benchmarks.native --quick               # a smoke test; its figures mean nothing

It prints Markdown, and writes it and the figures to `results/native-<cores>.md` and `.json`. How it measures stands in
`step.py`: interleaved rounds, ratios within a round, medians with quartiles.
"""

import argparse
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

if '--cores' in sys.argv:  # XLA counts the cores of the process when it starts
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[sys.argv.index('--cores') + 1])])

import jax
import jax.numpy as jnp
import optax

import belief_optax as bo
from belief_optax.execution import Mode, native, use
from benchmarks import step as base

LR, DECAY = 1e-3, 0.01
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def one_pass(tx: Any) -> Step:
  return lambda params, state, grads: bo.step(tx, params, state, grads)


# name -> (transformation, its step, the way that is in force)
CONTENDERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Step], Mode]] = {
  'adabelief, step, native': (lambda: bo.adabelief(LR), one_pass, 'native'),
  'adabelief, update + apply_updates, native': (lambda: bo.adabelief(LR), base.make_step, 'native'),
  'adabelief, XLA': (lambda: bo.adabelief(LR), one_pass, 'xla'),
  'adamw, step, native': (lambda: bo.adamw(LR, weight_decay=DECAY), one_pass, 'native'),
  'adamw, XLA': (lambda: bo.adamw(LR, weight_decay=DECAY), one_pass, 'xla'),
  'adabelief packed16, step, native': (lambda: bo.adabelief(LR, store='packed16'), one_pass, 'native'),
  'adabelief packed16, XLA': (lambda: bo.adabelief(LR, store='packed16'), one_pass, 'xla'),
  'adabelief int8, step, native': (lambda: bo.adabelief(LR, store='int8'), one_pass, 'native'),
  'adabelief int8, XLA': (lambda: bo.adabelief(LR, store='int8'), one_pass, 'xla'),
  'optax.adabelief': (lambda: optax.adabelief(LR), base.make_step, 'xla'),
  'optax.adam': (lambda: optax.adam(LR), base.make_step, 'xla'),
}
FEW = ('adabelief, step, native', 'adabelief, XLA', 'optax.adabelief', 'optax.adam')
UPDATES = ('adabelief, update + apply_updates, native', 'adabelief, XLA', 'optax.adam')
PEERS = (base.BELIEF, base.ADAM, base.TORCH)


def compiled(name: str, shapes: Any) -> Any:
  make, step, mode = CONTENDERS[name]
  tx = make()
  with use(mode):
    return jax.jit(step(tx), donate_argnums=(0, 1)).lower(shapes, jax.eval_shape(tx.init, shapes), shapes).compile()


def steps(names: Sequence[str], shapes: Any, rounds: int, torch: bool) -> dict[str, Any]:
  """Times of a step on a tree."""
  grads, runs, needed = base.filled(shapes, 0), {}, {}
  for name in names:
    program, params = compiled(name, shapes), base.filled(shapes, 1)
    data = [params, CONTENDERS[name][0]().init(params)]
    needed[name] = base.nbytes(grads) + 2 * base.nbytes(data)

    def run(program: Any = program, data: list[Any] = data) -> dict[str, float]:
      seconds, data[:] = base.timed(lambda: program(*data, grads))
      return {'step': seconds}

    runs[name] = run
  # The machine's own speed: x + 1 in place over as many bytes as float32 AdaBelief needs, on all cores.
  swept = [jnp.zeros(x.shape if x.ndim else (1,)) for x in jax.tree.leaves(shapes) for _ in range(3)]
  sweep = jax.jit(lambda xs: [x + 1 for x in xs], donate_argnums=0).lower(swept).compile()
  needed[base.PASS] = 2 * base.nbytes(swept)

  def pass_() -> dict[str, float]:
    seconds, swept[:] = base.timed(lambda: sweep(swept))
    return {'step': seconds}

  runs[base.PASS] = pass_
  if torch:
    _torch_on_all_cores()
    runs[base.TORCH], needed[base.TORCH] = base.torch_run(shapes, lambda: 1, fused=True), 7 * base.nbytes(grads)
  sampler = base.Sampler('step', runs, rounds, 2)
  rows = {}
  for name in runs:
    part = {k: v * needed[name] / needed[base.PASS] for k, v in sampler.ratio(base.PASS, name, 'step').items()}
    rows[name] = {
      'ms': sampler.summary(name, 'step'),
      'of_pass': part,
      'ratio': {peer: sampler.ratio(name, peer, 'step') for peer in PEERS if peer in runs},
    }
  return {'other_processes_cores': sampler.other_processes, 'parameters': base.count(shapes), 'rows': rows}


def _torch_on_all_cores() -> None:
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))


def first_step(shapes: Any, rounds: int) -> dict[str, Any]:
  """Trace, lower, compile and run from empty caches; the machine code is LLVM's in the first round alone."""
  cold: dict[str, float] = {}

  def run(name: str) -> dict[str, float]:
    params = base.filled(shapes, 1)
    state = jax.block_until_ready(CONTENDERS[name][0]().init(params))
    jax.clear_caches()
    start = time.perf_counter()
    jax.block_until_ready(compiled(name, shapes)(params, state, params_copy(params)))
    seconds = time.perf_counter() - start
    cold.setdefault(name, seconds)
    return {'first': seconds}

  params_copy = functools.partial(jax.tree.map, jnp.copy)
  names = ('adabelief, step, native', 'adabelief, XLA', 'optax.adabelief')
  sampler = base.Sampler('first step', {n: functools.partial(run, n) for n in names}, rounds, 1)
  rows = {
    n: {'ms': sampler.summary(n, 'first'), 'cold_ms': 1e3 * cold[n], 'ratio': sampler.ratio(n, names[-1], 'first')}
    for n in names
  }
  return {'other_processes_cores': sampler.other_processes, 'arrays': len(jax.tree.leaves(shapes)), 'rows': rows}


def markdown(report: dict[str, Any]) -> str:
  out = [f'# The machine loop on {report["cores"]} cores', '', report['machine'], '']
  for name, section in report['sections'].items():
    out += [f'## {name}', '', f'Other processes kept {section["other_processes_cores"]:.1f} cores busy.', '']
    rows = section['rows']
    if 'arrays' in section:
      cells = [(n, base.spread(r['ms'], 0), f'{r["cold_ms"]:.0f}', base.spread(r['ratio'], 2)) for n, r in rows.items()]
      out += [base.table(('contender', 'ms', 'ms, first in the process', '/ optax.adabelief'), cells), '']
      continue
    peers = [p for p in PEERS if p in next(iter(rows.values()))['ratio']]
    cells = [
      (
        n,
        base.spread(r['ms'], 2),
        f'{r["of_pass"]["median"]:.2f}',
        *(base.spread(r['ratio'][p], 2) for p in peers),
      )
      for n, r in rows.items()
    ]
    out += [base.table(('contender', 'ms', 'of the pass', *(f'/ {p}' for p in peers)), cells), '']
  return '\n'.join(out)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
  parser.add_argument('--sections', nargs='+', default=['step', 'transformer', 'first', 'small'])
  parser.add_argument('--cores', type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument('--size', type=float, default=25e6)
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--quick', action='store_true', help='tiny sizes: a smoke test')
  parser.add_argument('--out', type=pathlib.Path)
  args = parser.parse_args(argv)
  if reason := native.available():
    parser.error(reason)
  size, rounds = (4096, 2) if args.quick else (int(args.size), args.rounds)
  model = (2, 8, 16) if args.quick else (24, 256, 4096)
  torch = base._has_torch()
  made: dict[str, Callable[[], dict[str, Any]]] = {
    'step': lambda: steps(tuple(CONTENDERS), base.flat_tree(size, 8), rounds, torch),
    'transformer': lambda: steps(FEW, base.transformer_tree(*model), rounds, torch),
    'first': lambda: first_step(base.transformer_tree(*model), max(2, rounds // 5)),
    'small': lambda: steps(
      FEW, base.flat_tree(1024 * (10 if args.quick else 1000), 10 if args.quick else 1000), rounds, torch
    ),
    'updates': lambda: steps(UPDATES, base.flat_tree(size, 8), rounds, False),
    'smaller': lambda: steps(FEW, base.flat_tree(1024 * 10_000, 10_000), rounds, torch),
  }
  machine = ', '.join(f'{k} {v}' for k, v in base.describe_machine().items())
  report = {'cores': args.cores, 'machine': machine, 'sections': {name: made[name]() for name in args.sections}}
  text = markdown(report)
  print(text)
  folder = args.out or pathlib.Path('out' if args.quick else 'benchmarks/results')
  folder.mkdir(parents=True, exist_ok=True)
  (folder / f'native-{args.cores}.md').write_text(text)
  (folder / f'native-{args.cores}.json').write_text(json.dumps(report, indent=1))


if __name__ == '__main__':
  main()
