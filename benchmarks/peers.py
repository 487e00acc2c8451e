"""A step beside everybody else's, in one process and in interleaved rounds.

    make bench-peers                                    # all sections, with all packages; half an hour
    python -m benchmarks.peers --sections 25M first     # these anew; the figures of the others are kept
    python -m benchmarks.peers --quick                  # a smoke test; its figures mean nothing

Contenders are the steps of this package (one machine loop, and XLA's path), optax, torch's AdamW in its three forms,
and the AdaBelief of adabelief-pytorch, pytorch_optimizer and timm. A package that is not installed is named as such.
Figures go to `results/peers-<cores>.json`, from which the Markdown beside it and docs/speed.png are made. How it
measures stands in `step.py`: a ratio is taken within a round, then its median with quartiles.
"""

import argparse
import contextlib
import functools
import importlib.util
import io
import json
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

if '--cores' in sys.argv:  # XLA counts the cores of the process when it starts
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[sys.argv.index('--cores') + 1])])

import jax
import optax

import belief_optax as bo
from belief_optax.execution import Mode, native, primitive, use
from benchmarks import step as base

LR, DECAY = base.LR, base.DECAY
Run = Callable[[], dict[str, float]]

# Contenders.


class Jax(NamedTuple):
  """A transformation, its step, and the way in which steps are run."""

  make: Callable[[], Any]
  step: Callable[[Any], Callable[..., Any]] = base.make_step
  mode: Mode = 'xla'

  def compiled(self, shapes: Any, inner: int) -> Any:
    tx = self.make()
    step = _repeated(self.step(tx), inner)
    with use(self.mode):
      return jax.jit(step, donate_argnums=(0, 1)).lower(shapes, self.state(tx, shapes), shapes).compile()

  @staticmethod
  def state(tx: Any, shapes: Any) -> Any:
    return jax.eval_shape(tx.init, shapes)

  def run(self, shapes: Any, grads: Any, inner: int) -> tuple[Run, int]:
    """A step, and the bytes that it must move: it reads the gradients, and reads and writes the rest."""
    program, params = self.compiled(shapes, inner), base.filled(shapes, 1)
    data = [params, self.make().init(params)]

    def run() -> dict[str, float]:
      seconds, data[:] = base.timed(lambda: program(*data, grads))
      return {'step': seconds / inner}

    return run, base.nbytes(grads) + 2 * base.nbytes(data)

  def eager(self, shapes: Any, grads: Any) -> Run:
    """`tx.update` outside of jit."""
    tx, params = self.make(), base.filled(shapes, 1)
    state = tx.init(params)

    def run() -> dict[str, float]:
      nonlocal state
      with use(self.mode):
        seconds, (_, state) = base.timed(lambda: tx.update(grads, state, params))
      return {'step': seconds}

    return run


def _repeated(step: Callable[..., Any], inner: int) -> Callable[..., Any]:
  """Several steps as one program."""
  if inner == 1:
    return step
  return lambda *data_grads: jax.lax.fori_loop(0, inner, lambda _, data: step(*data, *data_grads[2:]), data_grads[:2])


class Torch(NamedTuple):
  """An optimizer of torch: parameters -> optimizer. It has no other way than the eager one."""

  make: Callable[[Any], Any]

  def run(self, shapes: Any, grads: Any, inner: int) -> tuple[Run, int]:
    return base.torch_run(shapes, lambda: inner, self.make), 7 * base.nbytes(grads)

  def eager(self, shapes: Any, grads: Any) -> Run:
    del grads
    return base.torch_run(shapes, lambda: 1, self.make)


def one_pass(tx: Any) -> Callable[..., Any]:
  return lambda params, state, grads: bo.step(tx, params, state, grads)


def package(name: str, version: str, path: str, **options: Any) -> Callable[[Any], Any]:
  """An optimizer of one of the packages of tests/parity/peers.txt, called like the others of its kind."""

  def make(params: Any) -> Any:
    import peers  # of tests/parity

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # some say how they rectify
      warnings.simplefilter('ignore')  # most of them are older than the torch that they stand on
      return peers.load(name, version, path)(params, lr=LR, **options)

  return make


LOOP, UPDATES, XLA = 'adabelief, one loop', 'adabelief, update + apply_updates', 'adabelief, by XLA'
PACKED, DIRECTION, ADAMW = 'adabelief packed16, one loop', 'adabelief int8, one loop', 'adamw, one loop'
FUSED, OFFICIAL = base.TORCH, 'adabelief-pytorch'
OPTAX: dict[str, Jax | Torch] = {
  base.BELIEF: Jax(lambda: optax.adabelief(LR)),
  base.ADAM: Jax(lambda: optax.adam(LR)),
  'optax.adamw': Jax(lambda: optax.adamw(LR, weight_decay=DECAY)),
  'optax.radam': Jax(lambda: optax.radam(LR)),
}
OURS: dict[str, Jax | Torch] = {
  LOOP: Jax(lambda: bo.adabelief(LR), one_pass, 'native'),
  UPDATES: Jax(lambda: bo.adabelief(LR), base.make_step, 'native'),
  XLA: Jax(lambda: bo.adabelief(LR), one_pass),
  ADAMW: Jax(lambda: bo.adamw(LR, weight_decay=DECAY), one_pass, 'native'),
  PACKED: Jax(lambda: bo.adabelief(LR, store='packed16'), one_pass, 'native'),
  DIRECTION: Jax(lambda: bo.adabelief(LR, store='int8'), one_pass, 'native'),
}
TORCH: dict[str, Jax | Torch] = {
  FUSED: Torch(functools.partial(base.adamw_of_torch, fused=True)),
  'torch AdamW, foreach': Torch(functools.partial(base.adamw_of_torch, foreach=True)),
  'torch AdamW, for-loop': Torch(functools.partial(base.adamw_of_torch, foreach=False)),
}
PACKAGES: dict[str, Jax | Torch] = {
  OFFICIAL: Torch(
    package('adabelief-pytorch', '0.2.1', 'adabelief_pytorch.AdaBelief:AdaBelief', print_change_log=False)
  ),
  'pytorch_optimizer AdaBelief': Torch(
    package('pytorch-optimizer', '4.1.0', 'pytorch_optimizer.optimizer.adabelief:AdaBelief')
  ),
  'timm AdaBelief': Torch(package('timm', '1.0.31', 'timm.optim.adabelief:AdaBelief')),
}
ALL = {**OURS, **OPTAX, **TORCH, **PACKAGES}
COLOURS = (
  dict.fromkeys(OURS, '#0072B2')
  | dict.fromkeys(OPTAX, '#D55E00')
  | dict.fromkeys(TORCH, '#009E73')
  | dict.fromkeys(PACKAGES, '#CC79A7')
)
PEERS = (base.BELIEF, base.ADAM, FUSED, OFFICIAL)
CORE = (LOOP, PACKED, DIRECTION, XLA, base.BELIEF, base.ADAM, FUSED, OFFICIAL)


def _installed(contenders: Sequence[str]) -> list[str]:
  """Those that can be run here."""
  torch = importlib.util.find_spec('torch') is not None
  others = torch and importlib.util.find_spec('peers') is not None
  missing = {*([] if torch else TORCH), *([] if others else PACKAGES)}
  return [name for name in contenders if name not in missing]


# Sections.


class Tree(NamedTuple):
  """A section of steps on one tree."""

  contenders: Sequence[str]
  shapes: Callable[[], Any]
  tiny: Callable[[], Any]
  eager: bool = False
  inner: int = 1  # steps of a program

  def measure(self, args: argparse.Namespace) -> dict[str, Any]:
    shapes = self.tiny() if args.quick else self.shapes()
    grads, runs, needed = base.filled(shapes, 0), {}, {}
    for name in _installed(self.contenders):
      one = ALL[name]
      if self.eager:
        runs[name] = one.eager(shapes, grads)
      else:
        runs[name], needed[name] = one.run(shapes, grads, self.inner)
    if not self.eager:
      runs[base.PASS], needed[base.PASS] = _pass(shapes, self.inner)
    sampler = base.Sampler('step', runs, args.rounds, 2)
    rows = {name: _row(sampler, runs, name, needed) for name in runs}
    return {'parameters': base.count(shapes), 'arrays': len(jax.tree.leaves(shapes)), 'rows': rows} | _of(sampler)


def _pass(shapes: Any, inner: int) -> tuple[Run, int]:
  sweep, swept = base.in_place_pass(shapes, 28, inner)

  def run() -> dict[str, float]:
    seconds, swept[:] = base.timed(lambda: sweep(swept))
    return {'step': seconds / inner}

  return run, 2 * base.nbytes(swept)


def _row(sampler: base.Sampler, runs: dict[str, Run], name: str, needed: dict[str, int]) -> dict[str, Any]:
  row: dict[str, Any] = {
    'ms': sampler.summary(name, 'step'),
    'ratio': {peer: sampler.ratio(name, peer, 'step') for peer in PEERS if peer in runs},
  }
  if needed:
    scale = needed[name] / needed[base.PASS]
    row['of_pass'] = {k: v * scale for k, v in sampler.ratio(base.PASS, name, 'step').items()}
  return row


def _of(sampler: base.Sampler) -> dict[str, Any]:
  return {'other_processes_cores': sampler.other_processes}


class First(NamedTuple):
  """Trace, lower, compile and run, from empty caches; LLVM makes the machine code in the first round alone.

  `most` is how many rounds are taken where one lasts for minutes; then none is left out as a warm-up.
  """

  contenders: Sequence[str]
  shapes: Callable[[], Any]
  tiny: Callable[[], Any]
  most: int | None = None

  def measure(self, args: argparse.Namespace) -> dict[str, Any]:
    shapes, cold = self.tiny() if args.quick else self.shapes(), {}

    def run(one: Jax, name: str) -> dict[str, float]:
      params, grads = base.filled(shapes, 1), base.filled(shapes, 0)
      tx = one.make()
      state = jax.block_until_ready(tx.init(params))
      avals = Jax.state(tx, shapes)
      jax.clear_caches()
      with use(one.mode):
        fresh = jax.jit(one.step(tx), donate_argnums=(0, 1))
        trace, traced = base.timed(lambda: fresh.trace(shapes, avals, shapes))
        lower, lowered = base.timed(traced.lower)
        compilation, program = base.timed(lowered.compile)
        step, _ = base.timed(lambda: program(params, state, grads))
      seconds = {'trace': trace, 'lower': lower, 'compile': compilation, 'first': trace + lower + compilation + step}
      cold.setdefault(name, 1e3 * seconds['first'])
      return seconds

    runs = {name: functools.partial(run, ALL[name], name) for name in self.contenders}
    rounds = self.most or max(2, args.rounds // 3)
    sampler = base.Sampler('first step', runs, rounds, warm_up=0 if args.quick or self.most else 1)
    figures = ('trace', 'lower', 'compile', 'first')
    rows = {
      name: {
        'ms': {figure: sampler.summary(name, figure) for figure in figures},
        'cold_ms': cold[name],
        'ratio': {f: {peer: sampler.ratio(name, peer, f) for peer in PEERS if peer in runs} for f in figures},
      }
      for name in runs
    }
    size = {'parameters': base.count(shapes), 'arrays': len(jax.tree.leaves(shapes))}
    return {**size, 'rounds': rounds, 'rows': rows} | _of(sampler)


class Blocks(NamedTuple):
  """The machine loop with arrays cut into blocks of other sizes."""

  sizes: Sequence[int]
  shapes: Callable[[], Any]
  tiny: Callable[[], Any]

  @property
  def contenders(self) -> list[str]:
    return [f'{LOOP}, blocks of {size:,}' for size in self.sizes]

  def measure(self, args: argparse.Namespace) -> dict[str, Any]:
    shapes, chosen = self.tiny() if args.quick else self.shapes(), native.BLOCK
    grads, runs, needed = base.filled(shapes, 0), {}, {}
    try:
      for name, native.BLOCK in zip(self.contenders, self.sizes, strict=True):
        primitive.written.cache_clear()
        runs[name], needed[name] = ALL[LOOP].run(shapes, grads, 1)
    finally:
      native.BLOCK = chosen
      primitive.written.cache_clear()
    runs[base.PASS], needed[base.PASS] = _pass(shapes, 1)
    sampler = base.Sampler('blocks', runs, args.rounds, 2)
    rows = {name: _row(sampler, runs, name, needed) for name in runs}
    return {'parameters': base.count(shapes), 'arrays': len(jax.tree.leaves(shapes)), 'rows': rows} | _of(sampler)


def flat(size: int, arrays: int) -> Callable[[], Any]:
  return lambda: base.flat_tree(size, arrays)


def transformer(width: int, vocabulary: int) -> Callable[[], Any]:
  return lambda: base.transformer_tree(24, width, vocabulary)


TINY = flat(96, 3)
SMALL = (LOOP, XLA, base.BELIEF, base.ADAM, FUSED, 'torch AdamW, foreach', OFFICIAL)
SECTIONS: dict[str, Tree | First | Blocks] = {
  '1M': Tree(tuple(ALL), flat(1_000_000, 8), TINY),
  '25M': Tree(tuple(ALL), flat(25_000_000, 8), TINY),
  '100M': Tree(CORE, flat(100_000_000, 8), TINY),
  'transformer': Tree(tuple(ALL), transformer(256, 4096), TINY),
  '1000x1K': Tree(SMALL, flat(1024 * 1000, 1000), TINY),
  '1000x1K in one program': Tree(SMALL, flat(1024 * 1000, 1000), TINY, inner=20),
  '10000x1K': Tree((LOOP, base.ADAM, FUSED, 'torch AdamW, foreach'), flat(1024 * 10_000, 10_000), TINY),
  'first': First((LOOP, XLA, base.BELIEF, base.ADAM), transformer(256, 4096), TINY),
  'first of 1,000': First((LOOP, XLA, base.BELIEF, base.ADAM), flat(1024 * 1000, 1000), TINY),
  'first of 10,000': First((LOOP, base.BELIEF), flat(1024 * 10_000, 10_000), TINY, most=2),
  'blocks': Blocks([1 << n for n in range(11, 20, 2)], flat(25_000_000, 8), TINY),
  'eager': Tree((UPDATES, *OPTAX, *TORCH, *PACKAGES), transformer(64, 1024), TINY, eager=True),
}
ABOUT = {
  '1M': 'A step, jitted and donated',
  '25M': 'A step, jitted and donated',
  '100M': 'A step, jitted and donated',
  'transformer': 'A step of a GPT-like tree',
  '1000x1K': 'A step of 1,000 small arrays',
  '1000x1K in one program': 'The same, 20 steps in one program: without the arrays that enter and leave it',
  '10000x1K': 'A step of 10,000 small arrays',
  'first': 'The time to the first step of a GPT-like tree: trace, lower, compile and run, from empty caches',
  'first of 1,000': 'The same of 1,000 small arrays',
  'first of 10,000': 'The same of 10,000 small arrays',
  'blocks': 'A step, jitted and donated, by blocks of so many elements',
  'eager': '`tx.update` outside of jit, and torch',
}


class Goal(NamedTuple):
  """A ratio of a contender to a peer, or its part of the in-place pass, that a section should show."""

  section: str
  contender: str
  peer: str
  limit: float

  def judge(self, rows: dict[str, Any]) -> tuple[str, dict[str, float], bool] | None:
    """In words, what was measured, and whether it is reached; None where the peer was not there."""
    row = rows[self.contender]
    if self.peer == base.PASS:
      return f'at least {self.limit:.2f} of the pass', row['of_pass'], row['of_pass']['median'] >= self.limit
    found = (row['ratio']['first'] if self.section == 'first' else row['ratio']).get(self.peer)
    return (f'/ {self.peer} <= {self.limit:.2f}', found, found['median'] <= self.limit) if found else None


GOALS = (
  Goal('25M', LOOP, base.BELIEF, 0.28),
  Goal('25M', LOOP, base.ADAM, 0.65),
  Goal('25M', LOOP, FUSED, 1.00),
  Goal('25M', PACKED, FUSED, 0.80),
  Goal('25M', DIRECTION, FUSED, 0.90),
  Goal('25M', LOOP, OFFICIAL, 0.12),
  Goal('25M', PACKED, OFFICIAL, 0.12),
  Goal('25M', DIRECTION, OFFICIAL, 0.12),
  Goal('25M', LOOP, base.PASS, 0.90),
  Goal('25M', UPDATES, base.ADAM, 0.85),
  Goal('transformer', LOOP, base.BELIEF, 0.35),
  Goal('1000x1K', LOOP, base.BELIEF, 0.35),
  Goal('1000x1K in one program', LOOP, base.BELIEF, 0.35),
  Goal('first', LOOP, base.BELIEF, 0.20),
)


# Reporting.


def markdown(report: dict[str, Any]) -> str:
  out = [f'# A step beside its peers, {report["cores"]} cores', '']
  if report['quick']:
    out += ['**--quick: a smoke test, no measurement; the goals are not judged.**', '']
  for name, section in report['sections'].items():
    about = f'{ABOUT[name]}: {section["parameters"]:,} float32 parameters in {section["arrays"]} arrays'
    busy = f'{section["rounds"]} rounds, other processes kept {section["other_processes_cores"]:.2f} cores busy'
    out += [f'## {name}', '', f'{about}. {section["date"]}, {busy}. {section["machine"]}', '']
    out += [(_first_table if isinstance(SECTIONS[name], First) else _table)(section['rows']), '']
    if missing := [n for n in SECTIONS[name].contenders if n not in section['rows']]:
      out += [f'Not installed, not measured: {", ".join(missing)}.', '']
  verdicts = [] if report['quick'] else [v for goal in GOALS if (v := _verdict(goal, report['sections']))]
  return '\n'.join([*out, *(['## Goals', '', *verdicts, ''] if verdicts else [])])


def _table(rows: dict[str, Any]) -> str:
  peers = [peer for peer in PEERS if peer in rows]
  passes = any('of_pass' in row for row in rows.values())
  cells = [
    [
      name,
      base.spread(row['ms'], 2),
      *([f'{row["of_pass"]["median"]:.2f}'] if passes else []),
      *(base.spread(row['ratio'][peer], 2) for peer in peers),
    ]
    for name, row in rows.items()
  ]
  return base.table(('', 'ms', *(['of the pass'] if passes else []), *(f'/ {peer}' for peer in peers)), cells)


def _first_table(rows: dict[str, Any]) -> str:
  figures = ('trace', 'lower', 'compile', 'first')
  header = ['', *(f'{figure}, ms' for figure in figures), 'first in the process, ms']
  header += [f'{figure} / {base.BELIEF}' for figure in ('trace', 'first')]
  cells = [
    [
      name,
      *(base.spread(row['ms'][figure], 0) for figure in figures),
      f'{row["cold_ms"]:.0f}',
      *(base.spread(row['ratio'][figure][base.BELIEF], 2) for figure in ('trace', 'first')),
    ]
    for name, row in rows.items()
  ]
  return base.table(header, cells)


def _verdict(goal: Goal, sections: dict[str, Any]) -> str:
  found = goal.judge(sections[goal.section]['rows']) if goal.section in sections else None
  if found is None:
    return ''
  words, measured, reached = found
  word = 'reached' if reached else 'not reached'
  return f'- {goal.section}, {goal.contender}, {words}: {word}, {base.spread(measured, 2)}'


def plot(section: dict[str, Any], path: pathlib.Path) -> None:
  """A point with its quartiles for each contender: its time in units of optax.adam's, on a logarithmic axis."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  ratio = {n: r['ratio'][base.ADAM] for n, r in section['rows'].items()}
  names = sorted(ratio, key=lambda n: ratio[n]['median'], reverse=True)
  figure, axes = plt.subplots(figsize=(8, 0.32 * len(names) + 1), layout='constrained')
  for y, name in enumerate(names):
    q, colour = ratio[name], COLOURS.get(name, '#999999')
    axes.plot([q['low'], q['high']], [y, y], color=colour, linewidth=4, alpha=0.35, solid_capstyle='round')
    axes.plot(q['median'], y, 'o', color=colour, markersize=7)
    axes.text(1.06 * q['high'], y, f'{q["median"]:.2f}', va='center', fontsize=9)
  axes.set_yticks(range(len(names)), names, fontsize=9)
  axes.set_xscale('log')
  axes.set_xticks([0.5, 1, 2, 5, 10], ['0.5', '1', '2', '5', '10'])
  axes.minorticks_off()
  axes.set_xlim(left=0.4, right=1.6 * max(q['high'] for q in ratio.values()))
  axes.axvline(1, color='black', linewidth=0.6, linestyle=':')
  axes.grid(axis='y', alpha=0.2)
  axes.set_axisbelow(True)
  axes.set_xlabel(f'time of a step / {base.ADAM}, {section["parameters"] / 1e6:.0f}M float32 parameters, one run')
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  figure.savefig(path, dpi=150)
  plt.close(figure)


# Command line.


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog='benchmarks.peers', description=(__doc__ or '').split('\n')[0])
  parser.add_argument('--sections', nargs='+', choices=list(SECTIONS), default=list(SECTIONS))
  parser.add_argument('--cores', type=int, default=len(os.sched_getaffinity(0)), help='of this machine (all)')
  parser.add_argument('--rounds', type=int, help='at least 3; the time to the first step takes a third (15)')
  parser.add_argument('--quick', action='store_true', help='tiny sizes and 3 rounds: a smoke test, no measurement')
  parser.add_argument('--out', type=pathlib.Path, help='folder (benchmarks/results; with --quick: out)')
  args = parser.parse_args(argv)
  args.rounds = args.rounds or (3 if args.quick else 15)
  measured = args.out is None and not args.quick
  args.picture = pathlib.Path('docs/speed.png') if measured else (args.out or pathlib.Path('out')) / 'speed.png'
  args.out = args.out or pathlib.Path('out' if args.quick else 'benchmarks/results')
  if args.rounds < 3:
    parser.error(f'argument --rounds: quartiles need at least 3 rounds, got {args.rounds}')
  if reason := native.available():
    parser.error(reason)
  return args


def main(argv: Sequence[str] | None = None) -> None:
  args = parse(argv)
  jax.config.update('jax_enable_compilation_cache', False)  # a program read from disk was not compiled
  if _installed(TORCH):
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
  args.out.mkdir(parents=True, exist_ok=True)
  path = args.out / f'peers-{args.cores}.json'
  old = json.loads(path.read_text())['sections'] if path.exists() and not args.quick else {}
  report: dict[str, Any] = {'cores': args.cores, 'quick': args.quick, 'sections': old}
  machine = base.describe_machine()
  versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
  for name in args.sections:
    about = {'date': time.strftime('%Y-%m-%d'), 'machine': f'{machine["cpu"]}, {versions}', 'rounds': args.rounds}
    report['sections'][name] = about | SECTIONS[name].measure(args)
    jax.clear_caches()
    # After each section: what was measured is kept if the next one is interrupted.
    report['sections'] = {n: report['sections'][n] for n in SECTIONS if n in report['sections']}
    path.write_text(json.dumps(report, indent=1) + '\n')
    path.with_suffix('.md').write_text(markdown(report))
  if '25M' in args.sections:
    plot(report['sections']['25M'], args.picture)
  print(markdown(report))


if __name__ == '__main__':
  main()
