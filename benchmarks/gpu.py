"""Steps on an accelerator: time, bandwidth against a device copy and kernels per step, beside optax and torch.

    python -m benchmarks.gpu            # at most eight minutes on one card, without a network
    python -m benchmarks.gpu --quick    # a smoke test at tiny sizes, on any backend

It prints Markdown and writes it, with the figures, to `results/step-gpu-<device>.md` and `.json`; with --quick to
`out`. A step is timed over several that follow each other, as in training: what the host needs to launch one hides
behind the card where the card needs longer. How it measures stands in `step.py`: interleaved rounds, ratios within a
round, medians with quartiles. torch takes part where it is installed for the same kind of device.
"""

import argparse
import functools
import json
import math
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import belief_optax as bo
from benchmarks import step as base

LR, DECAY = 1e-3, 0.01
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def ours(**options: Any) -> Any:
  return lambda: bo.adabelief(LR, **options)


# name -> (transformation, dtype of parameters and gradients)
CONTENDERS: dict[str, tuple[Callable[[], Any], str]] = {
  'adabelief': (ours(), 'float32'),
  'adabelief, packed16': (ours(store='packed16'), 'float32'),
  'adabelief, int8': (ours(store='int8'), 'float32'),
  'adam': (lambda: bo.adam(LR), 'float32'),
  'adamw': (lambda: bo.adamw(LR, weight_decay=DECAY), 'float32'),
  "adabelief, bfloat16, 'split'": (lambda: bo.compose(bo.adabelief(LR), bo.round_updates('split')), 'bfloat16'),
  "adabelief, int8, bfloat16, 'split'": (
    lambda: bo.compose(bo.adabelief(LR, store='int8'), bo.round_updates('split')),
    'bfloat16',
  ),
  base.BELIEF: (lambda: optax.adabelief(LR), 'float32'),
  base.ADAM: (lambda: optax.adam(LR), 'float32'),
  'optax.adamw': (lambda: optax.adamw(LR, weight_decay=DECAY), 'float32'),
}
PEERS = (base.BELIEF, base.ADAM, base.TORCH)
TREES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {  # of the whole run, and of a smoke test
  **{f'{n} of 4096 x 1024': (lambda n=n: matrices(n, 4096, 1024), lambda n=n: matrices(n, 16, 8)) for n in (1, 4, 12)},
  '100M in 8 arrays': (lambda: base.flat_tree(100_000_000, 8), lambda: base.flat_tree(4096, 8)),
  'transformer of 293 arrays': (
    lambda: base.transformer_tree(24, 768, 16_384),
    lambda: base.transformer_tree(1, 8, 32),
  ),
  '1,000 of 1K': (lambda: base.flat_tree(1024 * 1000, 1000), lambda: base.flat_tree(64 * 10, 10)),
}
COPY = 'x + 1 in place'


def matrices(n: int, rows: int, columns: int) -> dict[str, jax.ShapeDtypeStruct]:
  return {f'w{i:02}': jax.ShapeDtypeStruct((rows, columns), jnp.float32) for i in range(n)}


def make_step(tx: Any) -> Step:
  return lambda params, state, grads: bo.step(tx, params, state, grads)


def measured(shapes: Any, rounds: int, seconds: float) -> dict[str, Any]:
  """All contenders on one tree."""
  rows: dict[str, Any] = {}
  runs: dict[str, Callable[[], dict[str, float]]] = {}
  times = {'inner': 1}

  def repeated(call: Callable[..., Any], data: list[Any], *fixed: Any) -> Callable[[], dict[str, float]]:
    def steps() -> Any:
      for _ in range(times['inner']):
        data[:] = call(*data, *fixed)
      return data

    return lambda: {'step': base.timed(steps)[0] / times['inner']}

  for name, (make, dtype) in CONTENDERS.items():
    tx = make()
    of = jax.tree.map(lambda x, dtype=dtype: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    params, grads = (base.filled(of, seed) for seed in (1, 0))
    state = jax.jit(tx.init)(params)
    begin = time.perf_counter()
    program = jax.jit(make_step(tx), donate_argnums=(0, 1)).lower(params, state, grads).compile()
    # The least that any program moves: it reads the gradients, and reads and writes the rest.
    moved = base.nbytes(grads) + 2 * (base.nbytes(params) + base.nbytes(state))
    rows[name] = {'bytes': moved, 'compile_s': time.perf_counter() - begin, **base.program_facts(program, shapes)}
    runs[name] = repeated(program, [params, state], grads)
  sweep, swept = base.in_place_pass(shapes, rows['adabelief']['bytes'] / base.count(shapes))
  rows[COPY], runs[COPY] = {'bytes': 2 * base.nbytes(swept)}, repeated(lambda xs: [sweep(xs)], [swept])
  for name, run in torch_runs(shapes, times).items():
    rows[name], runs[name] = {'bytes': 28 * base.count(shapes)}, run
  times['inner'] = max(1, min(200, math.ceil(seconds / min(runs['adabelief']()['step'] for _ in range(3)))))
  sampler = base.Sampler('step', runs, rounds, 2)
  for name, row in rows.items():
    row['ms'] = sampler.summary(name, 'step')
    row['gb_per_s'] = row['bytes'] / row['ms']['median'] / 1e6
    part = row['bytes'] / rows[COPY]['bytes']
    row['of_copy'] = {k: v * part for k, v in sampler.ratio(COPY, name, 'step').items()}
    row['ratio'] = {peer: sampler.ratio(name, peer, 'step') for peer in PEERS if peer in runs}
  arrays = len(jax.tree.leaves(shapes))
  return {'parameters': base.count(shapes), 'arrays': arrays, 'steps_per_sample': times['inner'], 'rows': rows}


def torch_runs(shapes: Any, times: dict[str, int]) -> dict[str, Callable[[], dict[str, float]]]:
  """torch's AdamW, fused and for each; none where torch is not installed for this kind of device."""
  try:
    import torch
  except ImportError:
    return {}
  if jax.default_backend() == 'gpu' and not torch.cuda.is_available():
    return {}
  inner = lambda: times['inner']
  make = lambda how: functools.partial(base.adamw_of_torch, **{how: True})
  return {f'torch AdamW, {how}': base.torch_run(shapes, inner, make(how)) for how in ('fused', 'foreach')}


def markdown(report: dict[str, Any]) -> str:
  out = [f'# Steps on {report["device"]}', '', report['machine'], '']
  if report['quick']:
    out += ['**--quick: a smoke test, no measurement.**', '']
  for name, section in report['trees'].items():
    rows = section['rows']
    peers = [peer for peer in PEERS if peer in rows]
    cells = [
      (
        n,
        base.spread(r['ms'], 3),
        f'{r["gb_per_s"]:,.0f}',
        f'{r["of_copy"]["median"]:.2f}',
        *(f'{r[key]}' if key in r else '' for key in ('kernels', 'copies')),
        f'{r["compile_s"]:.1f}' if 'compile_s' in r else '',
        *(f'{r["ratio"][peer]["median"]:.2f}' for peer in peers),
      )
      for n, r in rows.items()
    ]
    header = ('', 'ms', 'GB/s', f'of {COPY}', 'fusions', 'copies', 'compile, s', *(f'/ {peer}' for peer in peers))
    out += [
      f'## {name}',
      '',
      f'{section["parameters"]:,} parameters, {section["steps_per_sample"]} steps a sample.',
      '',
    ]
    out += [base.table(header, cells), '']
  return '\n'.join(out)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog='benchmarks.gpu', description=(__doc__ or '').split('\n')[0])
  parser.add_argument('--trees', nargs='+', choices=list(TREES), default=list(TREES))
  parser.add_argument('--rounds', type=int, default=9, help='at least 3 (9)')
  parser.add_argument('--quick', action='store_true', help='tiny sizes: a smoke test, no measurement')
  parser.add_argument('--out', type=pathlib.Path, help='folder (benchmarks/results; with --quick: out)')
  args = parser.parse_args(argv)
  if args.rounds < 3:
    parser.error(f'argument --rounds: quartiles need at least 3 rounds, got {args.rounds}')
  device = jax.devices()[0].device_kind
  machine = ', '.join(f'{key} {value}' for key, value in base.describe_machine().items())
  report: dict[str, Any] = {'device': device, 'machine': machine, 'quick': args.quick, 'trees': {}}
  folder = args.out or pathlib.Path('out' if args.quick else 'benchmarks/results')
  folder.mkdir(parents=True, exist_ok=True)
  slug = re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')
  for name in args.trees:
    report['trees'][name] = measured(TREES[name][args.quick](), args.rounds, 0.0 if args.quick else 0.05)
    jax.clear_caches()
    # After each tree: what was measured is kept if the next one runs out of time or memory.
    (folder / f'step-gpu-{slug}.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / f'step-gpu-{slug}.md').write_text(markdown(report))
  print(markdown(report))


if __name__ == '__main__':
  main()
