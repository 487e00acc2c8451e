"""What one step costs by XLA: its time, its tracing, its eager call and its memory, against optax in the same run.

    python -m benchmarks.step            # all sections; minutes
    python -m benchmarks.step --quick    # a smoke test at tiny sizes; seconds

All contenders of a section are measured in interleaved rounds (each round runs each of them once, in a new order), and
a ratio is the median of the ratios within the rounds, with quartiles: what else the machine does in the meantime slows
both sides of a ratio.
"""

import argparse
import datetime
import functools
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import Progress

import belief_optax as bo
from belief_optax.comparison.report import grid as table

LR, DECAY = 1e-3, 0.01
OURS, BELIEF, ADAM = 'belief_optax.adabelief', 'optax.adabelief', 'optax.adam'
CONTENDERS: dict[str, Callable[[], optax.GradientTransformation]] = {
  OURS: lambda: bo.adabelief(LR),
  'belief_optax.adabelief, weight decay': lambda: bo.adabelief(LR, weight_decay=DECAY),
  'belief_optax.adabelief, rectify=True': lambda: bo.adabelief(LR, rectify=True),
  'belief_optax.adam': lambda: bo.adam(LR),
  'belief_optax.adamw': lambda: bo.adamw(LR, weight_decay=DECAY),
  'belief_optax.radam': lambda: bo.radam(LR),
  BELIEF: lambda: optax.adabelief(LR),
  ADAM: lambda: optax.adam(LR),
  'optax.adamw': lambda: optax.adamw(LR, weight_decay=DECAY),
  'optax.radam': lambda: optax.radam(LR),
}
QUICK = (OURS, 'belief_optax.adam', BELIEF, ADAM)
PASS = 'in-place pass'
TORCH = 'torch AdamW, fused'


class Goal(NamedTuple):
  """A ratio that `OURS` should not exceed."""

  section: str
  figure: str
  peer: str
  limit: float


GOALS = (
  Goal('step', 'step', BELIEF, 0.45),
  Goal('step', 'step', ADAM, 1.05),
  Goal('trace', 'trace', BELIEF, 0.30),
  Goal('eager', 'eager', BELIEF, 0.15),
)


# Measuring.


class Sampler:
  """Runs contenders in interleaved rounds: a contender is called once a round and returns its times by figure."""

  def __init__(self, what: str, contenders: dict[str, Callable[[], dict[str, float]]], rounds: int, warm_up: int):
    order, shuffle = list(contenders), random.Random(0).shuffle
    self.samples: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    # No refresh thread: it would be one more job on the machine that is measured.
    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
      task = progress.add_task(what, total=warm_up + rounds)
      for i in range(warm_up + rounds):
        if i == warm_up:
          others = _foreign_cpu()
        shuffle(order)
        for name in order:
          for figure, seconds in contenders[name]().items():
            if i >= warm_up:
              self.samples[name].setdefault(figure, []).append(seconds)
        progress.update(task, advance=1, refresh=True)
    self.other_processes = others()

  def summary(self, name: str, figure: str) -> dict[str, float]:
    return quartiles([1e3 * s for s in self.samples[name][figure]])

  def ratio(self, name: str, peer: str, figure: str) -> dict[str, float]:
    """Round by round, then the median: both have met the same disturbances."""
    pairs = zip(self.samples[name][figure], self.samples[peer][figure], strict=True)
    return quartiles([a / b for a, b in pairs])

  def against(self, name: str, figure: str) -> dict[str, dict[str, float]]:
    return {peer: self.ratio(name, peer, figure) for peer in (BELIEF, ADAM)}


def quartiles(values: Sequence[float]) -> dict[str, float]:
  low, median, high = statistics.quantiles(values, n=4, method='inclusive')
  return {'median': median, 'low': low, 'high': high}


def _foreign_cpu() -> Callable[[], float | None]:
  """Starts a clock that tells how many cores other processes have kept busy since; None where /proc is missing."""
  stat = pathlib.Path('/proc/stat')
  if not stat.exists():
    return lambda: None

  def busy() -> float:
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split('\n', 1)[0].split()[1:9])
    own = os.times()
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf('SC_CLK_TCK') - own.user - own.system

  begin, start = busy(), time.perf_counter()
  return lambda: max(0.0, (busy() - begin) / (time.perf_counter() - start))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
  start = time.perf_counter()
  result = jax.block_until_ready(call())
  return time.perf_counter() - start, result


# What is measured.


def make_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
  """The training step's optimizer part. Donated arguments stand in the order of the results: jit pairs them so."""

  def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return step


def compile_step(tx: optax.GradientTransformation, params: Any, step: Callable[..., Any] | None = None) -> Any:
  state = jax.eval_shape(tx.init, params)
  return jax.jit(step or make_step(tx), donate_argnums=(0, 1)).trace(params, state, params).lower().compile()


def flat_tree(size: int, leaves: int) -> dict[str, Any]:
  return {f'w{i:04}': jax.ShapeDtypeStruct((size // leaves,), jnp.float32) for i in range(leaves)}


def transformer_tree(layers: int, width: int, vocabulary: int) -> dict[str, Any]:
  """The parameters of a GPT-like model: 12 arrays per layer and 5 around them, of ten distinct shapes."""
  block = {
    'attention': {'qkv': (width, 3 * width), 'qkv_bias': (3 * width,), 'out': (width, width), 'out_bias': (width,)},
    'mlp': {'up': (width, 4 * width), 'up_bias': (4 * width,), 'down': (4 * width, width), 'down_bias': (width,)},
    'norm1': {'scale': (width,), 'bias': (width,)},
    'norm2': {'scale': (width,), 'bias': (width,)},
  }
  shapes = {
    'embedding': (vocabulary, width),
    'positions': (vocabulary // 4, width),
    'head': (width, vocabulary),
    'norm': {'scale': (width,), 'bias': (width,)},
    'layers': [block] * layers,
  }
  return jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
  )


def filled(tree: Any, seed: int) -> Any:
  """Arrays of a tree of shapes, with normal entries."""
  leaves, treedef = jax.tree.flatten(tree)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return treedef.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])


def count(tree: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# The compiled program.


def instructions(hlo: str) -> Iterator[str]:
  """The instructions that are run, each a kernel or less: those of the entry and of what it calls, not of fusions."""
  bodies: dict[str, list[str]] = {}
  entry, lines = '', []
  for line in hlo.splitlines():
    if (head := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line)) is not None:
      lines = bodies.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif ' = ' in line:
      lines.append(line)

  def walk(name: str) -> Iterator[str]:
    for line in bodies.get(name, ()):
      yield line
      if ' fusion(' not in line:
        for called in re.findall(r'(?:to_apply|calls|body)=%?([\w.\-]+)', line):
          yield from walk(called)

  return walk(entry)


def program_facts(compiled: Any, params: Any) -> dict[str, Any]:
  """What the compiled step says about itself; sizes per parameter, so that trees can be compared."""
  ops = list(instructions(compiled.as_text()))
  copies = [op for op in ops if re.search(r'= \w+\[\d[^\]]*\]\S* copy(-start)?\(', op)]
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return {
    'kernels': sum(' fusion(' in op for op in ops),
    'copies': len(copies),
    'temp_bytes': memory.temp_size_in_bytes,
    'temp_bytes_per_parameter': memory.temp_size_in_bytes / count(params),
    'compiled_bytes_per_parameter': cost['bytes accessed'] / count(params),
  }


@functools.cache
def transformer_facts(name: str, *model: int) -> dict[str, Any]:
  params, tx = transformer_tree(*model), CONTENDERS[name]()
  state = jax.eval_shape(tx.init, params)
  return {
    'state_bytes_per_parameter': nbytes(state) / count(params),
    **program_facts(compile_step(tx, params), params),
  }


# Sections.


def step_section(args: argparse.Namespace) -> dict[str, Any]:
  """Time of a jitted, donated step."""
  shapes = flat_tree(args.size, args.leaves)
  grads = filled(shapes, seed=0)
  runs, rows = {}, {}

  def repeated(call: Callable[..., Any], data: list[Any], *fixed: Any) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
      def steps() -> Any:
        for _ in range(inner):
          data[:] = call(*data, *fixed)
        return data

      return {'step': timed(steps)[0] / inner}

    return run

  for name, make in args.contenders.items():
    tx, params = make(), filled(shapes, seed=1)
    compiled, state = compile_step(tx, shapes), tx.init(params)
    # The least that any program of this algorithm moves: it reads the gradients, reads and writes the rest.
    moved = nbytes(grads) + 2 * (nbytes(params) + nbytes(state))
    rows[name] = {'bytes_per_parameter': moved / count(grads), **program_facts(compiled, shapes)}
    runs[name] = repeated(compiled, [params, state], grads)

  sweep, swept = in_place_pass(shapes, rows[OURS]['bytes_per_parameter'])
  rows[PASS] = {'bytes_per_parameter': 2 * nbytes(swept) / count(grads)}
  runs[PASS] = repeated(lambda xs: [sweep(xs)], [swept])

  if args.torch:
    rows[TORCH] = {'bytes_per_parameter': 28.0}
    runs[TORCH] = torch_run(shapes, lambda: inner, functools.partial(adamw_of_torch, fused=True))

  # Short steps (a GPU, a small tree) are timed several at a time, back to back as in training.
  inner = 1
  inner = min(100, math.ceil(0.01 / min(runs[OURS]()['step'] for _ in range(3))))
  sampler = Sampler('step', runs, args.repeats, warm_up=2)
  for name, row in rows.items():
    row['ms'] = sampler.summary(name, 'step')
    row['ratio'] = sampler.against(name, 'step')
    scale = row['bytes_per_parameter'] * count(grads) / 1e6
    row['gb_per_s'] = scale / row['ms']['median']
    of_pass = sampler.ratio(PASS, name, 'step')
    scale = row['bytes_per_parameter'] / rows[PASS]['bytes_per_parameter']
    row['fraction_of_pass'] = {k: v * scale for k, v in of_pass.items()}
    row['samples_ms'] = [1e3 * s for s in sampler.samples[name]['step']]
  return {
    'parameters': count(grads),
    'leaves': args.leaves,
    'rounds': args.repeats,
    'steps_per_sample': inner,
    'other_processes_cores': sampler.other_processes,
    'rows': rows,
  }


def in_place_pass(shapes: Any, bytes_per_parameter: float, inner: int = 1) -> tuple[Any, list[jax.Array]]:
  """The machine's own speed: x + 1 in place over as many bytes, read plus written; compiled, and its arrays."""
  swept = [jnp.zeros((math.ceil(bytes_per_parameter / 8 * x.size),)) for x in jax.tree.leaves(shapes)]
  sweep = lambda xs: [x + 1 for x in xs]
  passes = sweep if inner == 1 else lambda xs: jax.lax.fori_loop(0, inner, lambda _, ys: sweep(ys), xs)
  return jax.jit(passes, donate_argnums=0).lower(swept).compile(), swept


def adamw_of_torch(params: Any, **how: bool) -> Any:
  import torch

  return torch.optim.AdamW(params, lr=LR, weight_decay=DECAY, **how)


def torch_run(shapes: Any, inner: Callable[[], int], make: Callable[[Any], Any]) -> Callable[[], dict[str, float]]:
  """An optimizer of torch on a tree of shapes, on the kind of device that JAX has if torch knows it too."""
  import torch

  on_card = jax.default_backend() == 'gpu' and torch.cuda.is_available()
  wait = torch.cuda.synchronize if on_card else lambda: None
  device = 'cuda' if on_card else 'cpu'
  params = [torch.nn.Parameter(torch.randn(x.shape, device=device)) for x in jax.tree.leaves(shapes)]
  for p in params:
    p.grad = torch.randn_like(p)
  optimizer = make(params)

  def run() -> dict[str, float]:
    wait()
    start = time.perf_counter()
    for _ in range(inner()):
      optimizer.step()
    wait()
    return {'step': (time.perf_counter() - start) / inner()}

  return run


def trace_section(args: argparse.Namespace) -> dict[str, Any]:
  """Time until the first step can run: tracing, lowering, compiling, each from empty caches."""
  params = transformer_tree(args.layers, args.width, args.vocabulary)
  rounds = max(2, args.repeats // 3)

  def run(make: Callable[[], optax.GradientTransformation]) -> dict[str, float]:
    tx = make()
    state = jax.eval_shape(tx.init, params)
    jax.clear_caches()
    gc.collect()
    fresh = jax.jit(make_step(tx), donate_argnums=(0, 1))
    trace, traced = timed(lambda: fresh.trace(params, state, params))
    lower, lowered = timed(traced.lower)
    compilation, _ = timed(lowered.compile)
    return {'trace': trace, 'lower': lower, 'compile': compilation, 'total': trace + lower + compilation}

  sampler = Sampler(
    'trace',
    {n: functools.partial(run, make) for n, make in args.contenders.items()},
    rounds,
    warm_up=0 if args.quick else 1,
  )
  rows = {
    name: {
      'ms': {figure: sampler.summary(name, figure) for figure in sampler.samples[name]},
      'ratio': {figure: sampler.against(name, figure) for figure in sampler.samples[name]},
    }
    for name in args.contenders
  }
  for name in args.contenders:
    rows[name]['kernels'] = transformer_facts(name, args.layers, args.width, args.vocabulary)['kernels']
  return {
    'parameters': count(params),
    'leaves': len(jax.tree.leaves(params)),
    'shapes': len({x.shape for x in jax.tree.leaves(params)}),
    'rounds': rounds,
    'other_processes_cores': sampler.other_processes,
    'rows': rows,
  }


def eager_section(args: argparse.Namespace) -> dict[str, Any]:
  """Time of `tx.update` outside of jit, on a tree of small arrays."""
  shapes = transformer_tree(args.layers, args.eager_width, 64 * args.eager_width)
  params, grads = filled(shapes, seed=1), filled(shapes, seed=0)

  def runner(make: Callable[[], optax.GradientTransformation]) -> Callable[[], dict[str, float]]:
    tx = make()
    state = tx.init(params)

    def run() -> dict[str, float]:
      nonlocal state
      seconds, (_, state) = timed(lambda: tx.update(grads, state, params))
      return {'eager': seconds}

    return run

  runs = {name: runner(make) for name, make in args.contenders.items()}
  sampler = Sampler('eager', runs, args.repeats, warm_up=2)
  rows = {n: {'ms': sampler.summary(n, 'eager'), 'ratio': sampler.against(n, 'eager')} for n in args.contenders}
  return {
    'parameters': count(shapes),
    'leaves': len(jax.tree.leaves(shapes)),
    'rounds': args.repeats,
    'other_processes_cores': sampler.other_processes,
    'rows': rows,
  }


def memory_section(args: argparse.Namespace) -> dict[str, Any]:
  """What the compiled step holds beside its arguments and results."""
  params = transformer_tree(args.layers, args.width, args.vocabulary)
  rows = {name: transformer_facts(name, args.layers, args.width, args.vocabulary) for name in args.contenders}
  return {'parameters': count(params), 'leaves': len(jax.tree.leaves(params)), 'rows': rows}


SECTIONS = {'step': step_section, 'trace': trace_section, 'eager': eager_section, 'memory': memory_section}


# Reporting.


def spread(q: dict[str, float], digits: int) -> str:
  return f'{q["median"]:.{digits}f} ({q["low"]:.{digits}f} - {q["high"]:.{digits}f})'


def ratios(name: str, of: dict[str, dict[str, float]]) -> list[str]:
  return ['1' if name == peer else spread(of[peer], 2) for peer in (BELIEF, ADAM)]


def step_table(section: dict[str, Any]) -> str:
  header = ['step', 'ms', f'/ {BELIEF}', f'/ {ADAM}', 'B/param needed', 'B/param compiled', 'GB/s', 'of the pass']
  rows = [
    [
      name,
      spread(row['ms'], 2),
      *ratios(name, row['ratio']),
      f'{row["bytes_per_parameter"]:.1f}',
      f'{row["compiled_bytes_per_parameter"]:.1f}' if 'compiled_bytes_per_parameter' in row else '',
      f'{row["gb_per_s"]:.1f}',
      spread(row['fraction_of_pass'], 2),
    ]
    for name, row in section['rows'].items()
  ]
  return table(header, rows)


def trace_table(section: dict[str, Any]) -> str:
  header = ['until the first step', 'trace ms', 'lower ms', 'compile ms', 'kernels', f'trace / {BELIEF}']
  header += [f'trace / {ADAM}', f'total / {BELIEF}', f'total / {ADAM}']
  rows = [
    [
      name,
      *(spread(row['ms'][figure], 0) for figure in ('trace', 'lower', 'compile')),
      str(row['kernels']),
      *ratios(name, row['ratio']['trace']),
      *ratios(name, row['ratio']['total']),
    ]
    for name, row in section['rows'].items()
  ]
  return table(header, rows)


def eager_table(section: dict[str, Any]) -> str:
  header = ['eager update', 'ms', f'/ {BELIEF}', f'/ {ADAM}']
  return table(header, [[n, spread(row['ms'], 2), *ratios(n, row['ratio'])] for n, row in section['rows'].items()])


def memory_table(section: dict[str, Any]) -> str:
  header = ['compiled step', 'state B/param', 'temp bytes', 'temp B/param', 'copies', 'kernels', 'B/param compiled']
  rows = [
    [
      name,
      f'{row["state_bytes_per_parameter"]:.2f}',
      f'{row["temp_bytes"]:,}',
      f'{row["temp_bytes_per_parameter"]:.2f}',
      str(row['copies']),
      str(row['kernels']),
      f'{row["compiled_bytes_per_parameter"]:.1f}',
    ]
    for name, row in section['rows'].items()
  ]
  return table(header, rows)


TABLES = {'step': step_table, 'trace': trace_table, 'eager': eager_table, 'memory': memory_table}


def setting(name: str, section: dict[str, Any]) -> str:
  """The sentence above a table."""
  words = [f'{section["parameters"]:,} float32 parameters in {section["leaves"]} arrays']
  if 'shapes' in section:
    words.append(f'of {section["shapes"]} shapes')
  if 'rounds' in section:
    words.append(f'{section["rounds"]} interleaved rounds')
  if section.get('steps_per_sample', 1) > 1:
    words.append(f'{section["steps_per_sample"]} steps to a sample')
  if section.get('other_processes_cores') is not None:
    words.append(f'other processes kept {section["other_processes_cores"]:.2f} cores busy')
  return f'**{name}**: {", ".join(words)}. {SECTIONS[name].__doc__}'


def judge(sections: dict[str, Any]) -> list[dict[str, Any]]:
  verdicts = []
  for goal in GOALS:
    if goal.section in sections:
      ratio = sections[goal.section]['rows'][OURS]['ratio']
      measured = ratio.get(goal.figure, ratio)[goal.peer]
      verdicts.append({**goal._asdict(), **measured, 'reached': measured['median'] <= goal.limit})
  return verdicts


def verdict_line(v: dict[str, Any]) -> str:
  word = 'reached' if v['reached'] else 'not reached'
  return f'- {v["figure"]} of {OURS} / {v["peer"]} <= {v["limit"]:.2f}: {word}, {spread(v, 3)}'


def markdown(report: dict[str, Any]) -> str:
  machine = report['machine']
  lines = [
    f'# One step, {machine["device_kind"]}',
    '',
    f'{report["date"]}, {machine["device_count"]} x {machine["device_kind"]} ({machine["backend"]}), '
    f'{machine["cpu"]}, {machine["cores"]} cores, {machine["platform"]}, '
    + ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    + '. Medians with quartiles; a ratio is the median of the ratios within the rounds.'
    + (' **--quick: a smoke test, no measurement; the goals are not judged.**' if report['settings']['quick'] else ''),
    '',
  ]
  for name, section in report['sections'].items():
    lines += [setting(name, section), '', TABLES[name](section), '']
  lines += [*report['notes'], '']
  if report['goals']:
    lines += ['**Goals**', '', *map(verdict_line, report['goals']), '']
  return '\n'.join(lines)


def notes(args: argparse.Namespace) -> list[str]:
  said = []
  if 'step' in args.sections:
    said.append(
      f'"{PASS}" is a jitted, donated x + 1 over as many bytes, read plus written, as AdaBelief needs; "of the pass" '
      'is the rate at which the needed bytes are moved, relative to its rate. "B/param compiled" is what the kernels '
      "of the compiled step read and write, by XLA's cost analysis."
    )
    if not args.torch:
      said.append('torch is not installed: not measured')
  return said


def cpu_model() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  found = re.search(r'model name\s*:\s*(.*)', info.read_text()) if info.exists() else None
  return found[1] if found else platform.processor() or platform.machine()


def describe_machine() -> dict[str, Any]:
  device = jax.devices()[0]
  packages = ('belief_optax', 'jax', 'jaxlib', 'optax', *(['torch'] if _has_torch() else []))
  versions = {name: bo.__version__ if name == 'belief_optax' else importlib.metadata.version(name) for name in packages}
  return {
    'platform': platform.platform(),
    'backend': jax.default_backend(),
    'device_kind': device.device_kind,
    'device_count': jax.device_count(),
    'cpu': cpu_model(),
    'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    'load_average': os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'versions': {'python': platform.python_version(), **versions},
  }


def _has_torch() -> bool:
  return importlib.util.find_spec('torch') is not None


# Command line.


def _whole(text: str) -> int:
  """A positive integer, also as 25e6."""
  try:
    value = float(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} is no number') from None
  if not (math.isfinite(value) and value >= 1 and value == int(value)):
    raise argparse.ArgumentTypeError(f'{text!r} is no positive integer')
  return int(value)


def _sections(text: str) -> list[str]:
  names = [name.strip() for name in text.split(',')]
  for name in names:
    if name not in SECTIONS:
      raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(SECTIONS)}')
  return [name for name in SECTIONS if name in names]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(prog='benchmarks.step', description=__doc__.splitlines()[0])
  parser.add_argument('--size', type=_whole, help='parameters of the step section (25e6)')
  parser.add_argument('--leaves', type=_whole, default=8, help='arrays of the step section (8)')
  parser.add_argument('--repeats', type=_whole, help='rounds, at least 3; trace, which compiles, takes a third (21)')
  parser.add_argument('--quick', action='store_true', help='tiny sizes and 3 rounds: a smoke test, no measurement')
  parser.add_argument('--out', type=pathlib.Path, help='folder (benchmarks/results; with --quick: out)')
  parser.add_argument('--sections', type=_sections, default=list(SECTIONS), help=','.join(SECTIONS))
  args = parser.parse_args(argv)
  args.size = args.size or (8_000 if args.quick else 25_000_000)
  args.repeats = args.repeats or (3 if args.quick else 21)
  # A smoke test must not take the place of measured results.
  args.out = args.out or (pathlib.Path('out') if args.quick else pathlib.Path(__file__).parent / 'results')
  args.layers, args.width, args.vocabulary = (1, 8, 32) if args.quick else (24, 1024, 32_768)
  args.eager_width = 8 if args.quick else 64
  args.contenders = {name: CONTENDERS[name] for name in QUICK} if args.quick else CONTENDERS
  args.torch = _has_torch()
  if args.repeats < 3:
    parser.error(f'argument --repeats: quartiles need at least 3 rounds, got {args.repeats}')
  if args.size < args.leaves:
    parser.error(f'argument --leaves: {args.size} parameters do not fill {args.leaves} arrays')
  try:
    args.out.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    parser.error(f'argument --out: {e}')
  return args


def main(argv: Sequence[str] | None = None) -> None:
  args = parse(argv)
  jax.config.update('jax_enable_compilation_cache', False)  # a program read from disk was not compiled
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  report: dict[str, Any] = {
    'date': now,
    'machine': describe_machine(),
    'settings': {'quick': args.quick, 'size': args.size, 'leaves': args.leaves, 'repeats': args.repeats},
    'sections': {},
    'notes': notes(args),
  }
  with bo.execution.use('xla'):  # `native.py` measures the machine loop
    for name in args.sections:
      report['sections'][name] = SECTIONS[name](args)
  report['goals'] = [] if args.quick else judge(report['sections'])

  slug = re.sub(r'[^a-z0-9]+', '-', report['machine']['device_kind'].lower()).strip('-')
  text = markdown(report)
  (args.out / f'step-{slug}.json').write_text(json.dumps(report, indent=1) + '\n')
  (args.out / f'step-{slug}.md').write_text(text)
  print(text)
  print(f'Written: {args.out / f"step-{slug}"}.json and .md', file=sys.stderr)


if __name__ == '__main__':
  main()
