"""Bytes of state, collectives and bytes on the wire per device, for models of 1B, 8B and 70B on 8 to 512 devices.

    python -m benchmarks.scaling                              # everything; eight minutes
    python -m benchmarks.scaling --trees 8B --devices 64      # some of it; the other figures are kept
    python -m benchmarks.scaling --quick                      # a smoke test with a tiny tree; seconds

Nothing is run: the step of an optimizer is compiled for shapes on simulated CPU devices and its program is read. It
writes docs/scaling.md and a plot from what it read, which is kept in benchmarks/results/scaling.json: no result in that
text is typed by hand.
"""

import argparse
import datetime
import itertools
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

if __name__ == '__main__':  # before jax is imported; of a flag that is given twice the last counts
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=512'.strip()
  os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.lines import Line2D
from rich.console import Console
from rich.progress import track

import belief_optax as bo
from belief_optax import sharding
from belief_optax.sharding.budget import SPLITS, LayoutName, bytes_of_state
from benchmarks.precision import listed
from benchmarks.step import count, describe_machine, nbytes, table
from examples._common import COLORS, directory, save

ROOT = pathlib.Path(__file__).parents[1]
FLOAT = 4  # bytes of a parameter
MEMORY = 80e9  # bytes of a device
DEVICES = (8, 64, 512)


# What is compiled.


class Model(NamedTuple):
  """A decoder as Llama's; its layers are stacked, as for a scan over them."""

  layers: int
  hidden: int
  ffn: int
  heads: int  # width of all keys, and of all values
  vocabulary: int = 128_256
  tied: bool = False
  min_size: int = 2**20  # smaller arrays are not split: here the norms

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    layers, hidden = self.layers, self.hidden
    rows = {'query': (hidden, hidden), 'key': (hidden, self.heads), 'value': (hidden, self.heads)}
    rows |= {'out': (hidden, hidden), 'gate': (hidden, self.ffn), 'up': (hidden, self.ffn), 'down': (self.ffn, hidden)}
    rows |= {'attention_norm': (hidden,), 'ffn_norm': (hidden,)}
    shapes = {name: (layers, *shape) for name, shape in rows.items()}
    shapes |= {'embedding': (self.vocabulary, hidden), 'norm': (hidden,)}
    shapes |= {} if self.tied else {'head': (self.vocabulary, hidden)}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


TREES = {
  '1B': Model(16, 2048, 8192, 512, tied=True),
  '8B': Model(32, 4096, 14_336, 1024),
  '70B': Model(80, 8192, 28_672, 1024),
}
TINY = {'tiny': Model(8, 128, 512, 128, vocabulary=1024, min_size=4096)}
STORES = {
  name: bytes_of_state(bo.adabelief(1e-3, store=name))[0] for name in ('float32', 'bfloat16', 'packed16', 'int8')
}
Step = Callable[[Any, Any, Any], tuple[Any, Any]]  # of parameters, state and gradients: parameters and state


class Layout(NamedTuple):
  title: str
  meaning: str
  kind: LayoutName
  passes: int = 0  # of the bytes of all parameters over the wire in a step, on paper; times (n - 1) / n
  model_passes: int = 0  # what the model itself communicates beside it

  @property
  def split_params(self) -> bool:
    return SPLITS[self.kind].params

  @property
  def split_state(self) -> bool:
    return SPLITS[self.kind].state


LAYOUTS = {
  'plain': Layout(
    'plain',
    'parameters and state on every device; under `jax.jit` the mean of the gradients',
    'plain',
    passes=2,
  ),
  'zero1-jit': Layout('ZeRO-1, jit', '`sharding.zero1` under `jax.jit`; parameters on every device', 'zero1', passes=3),
  'zero1-shard_map': Layout('ZeRO-1, shard_map', 'the same value inside `jax.shard_map`', 'zero1', passes=2),
  'fsdp': Layout(
    'FSDP',
    'parameters, gradients and state split in the largest dimension that the devices divide',
    'fsdp',
    model_passes=3,
  ),
}


def split(shape: tuple[int, ...], n: int, min_size: int) -> P:
  """How FSDP splits an array; whole where it is small or nothing divides."""
  dims = [i for i, side in enumerate(shape) if side % n == 0 and math.prod(shape) >= min_size]
  return P(*[None] * dim, 'data') if (dim := max(dims, key=lambda i: shape[i], default=None)) is not None else P()


class Case(NamedTuple):
  """What is compiled: shapes with their shardings, and how a step is made of them."""

  tx: Any
  mesh: Any
  grads: Any
  state: Any
  params: Any


def placed(tree: Any, shardings: Any) -> Any:
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def case(shapes: Any, n: int, layout: str, store: str, min_size: int) -> Case:
  mesh = jax.make_mesh((n,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
  tx, where = bo.adabelief(1e-3, store=store), jax.tree.map(lambda _: NamedSharding(mesh, P()), shapes)
  if LAYOUTS[layout].split_params:
    where = jax.tree.map(lambda x: NamedSharding(mesh, split(x.shape, n, min_size)), shapes)
  elif LAYOUTS[layout].split_state:
    tx = sharding.zero1(tx, where, min_size=min_size)
  params = placed(shapes, where)
  state = sharding.abstract_state(tx, params)
  # Without FSDP each device arrives with the gradients of its own batch.
  own = lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype, sharding=NamedSharding(mesh, P('data')))
  return Case(tx, mesh, params if LAYOUTS[layout].split_params else jax.tree.map(own, shapes), state, params)


def step_of(c: Case, layout: str) -> Step:
  def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    updates, state = c.tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  if LAYOUTS[layout].split_params:
    return step
  if layout == 'zero1-shard_map':
    own = lambda params, state, grads: step(params, state, jax.tree.map(lambda g: g[0], grads))
    specs = jax.tree.map(lambda x: x.sharding.spec, c.state)
    return jax.shard_map(own, mesh=c.mesh, in_specs=(P(), specs, P('data')), out_specs=(P(), specs))
  return lambda params, state, grads: step(params, state, jax.tree.map(lambda g: g.mean(0), grads))


def on_device(x: Any) -> int:
  """The bytes of an array on one device."""
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


# What it says.

# Bytes that each of n devices sends in a ring, by the bytes of the result.
RING: dict[str, Callable[[int, int], float]] = {
  'all-reduce': lambda n, size: 2 * (n - 1) / n * size,
  'all-gather': lambda n, size: (n - 1) / n * size,
  'reduce-scatter': lambda n, size: (n - 1) * size,  # of a whole that is n times as large
  'all-to-all': lambda n, size: (n - 1) / n * size,
  'collective-permute': lambda _, size: float(size),
  'collective-broadcast': lambda _, size: float(size),
}
COLLECTIVE = re.compile(rf'= (.*?) ({"|".join(RING)})(-start)?\(')
ARRAY = re.compile(r'\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')


def sizes(result: str) -> list[int]:
  """The bytes of each array in the type of a result."""
  sides = lambda text: math.prod(int(side) for side in text.split(',') if side)
  return [sides(dims) * (int(bits or 8) // 8) for _, bits, dims in ARRAY.findall(result)]


def collectives(program: str, n: int) -> dict[str, dict[str, float]]:
  """For each kind how many there are, on how many arrays, the bytes of their results and those on the wire."""
  found: dict[str, dict[str, float]] = {}
  for result, kind, started in COLLECTIVE.findall(program):
    if started:
      raise ValueError(f'{kind}-start: the result of an asynchronous half says not what is sent.')
    of, arrays = found.setdefault(kind, {'ops': 0, 'arrays': 0, 'bytes': 0, 'wire': 0}), sizes(result)
    more = {'ops': 1, 'arrays': len(arrays), 'bytes': sum(arrays), 'wire': RING[kind](n, sum(arrays))}
    of |= {what: of[what] + more[what] for what in of}
  return found


def on_paper(parameters: int, n: int, layout: str, store: str) -> dict[str, float]:
  """Bytes per device if every array were coded and split: what a formula per parameter says."""
  how, whole = LAYOUTS[layout], FLOAT * parameters * (n - 1) / n
  of = sharding.budget(bo.adabelief(1e-3, store=store), parameters, n, how.kind)
  return {'state': of.state, 'wire': how.passes * whole, 'model_wire': how.model_passes * whole}


def excess(c: Case, n: int, layout: str, store: str) -> dict[str, float]:
  """Why there are more bytes of state than on paper: float32 in a store of less, arrays that are not split."""
  parts, slots = n if LAYOUTS[layout].split_state else 1, jax.tree.leaves(c.state.slots)
  uncoded = [x for x in slots if x.dtype == jnp.float32] if store != 'float32' else []
  # A pair of moments that is kept as it is stands in one array with a last axis for the two.
  small = nbytes(uncoded) * (1 - STORES[store] / 8) / parts
  return {
    'float32': small,
    'whole': sum(on_device(x) - nbytes(x) / parts for x in slots),
  }


def program(c: Case, n: int, layout: str) -> dict[str, Any]:
  """What the compiled step says of itself."""
  compiled = jax.jit(step_of(c, layout), donate_argnums=(0, 1)).lower(c.params, c.state, c.grads).compile()
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  found = collectives(compiled.as_text(), n)
  return {
    'arguments': memory.argument_size_in_bytes,
    'temp': memory.temp_size_in_bytes,
    'accessed': (cost[0] if isinstance(cost, list) else cost)['bytes accessed'],
    'collectives': found,
    'wire': sum(of['wire'] for of in found.values()),
  }


def measured(shapes: Any, n: int, layout: str, store: str, min_size: int) -> dict[str, Any]:
  """Bytes per device by shapes, by the compiled program and on paper."""
  begin, c = time.perf_counter(), case(shapes, n, layout, store, min_size)
  here = {what: sum(map(on_device, jax.tree.leaves(getattr(c, what)))) for what in ('params', 'grads', 'state')}
  moments = next(iter(c.state.slots.values()))  # which are split as their parameters, or as ZeRO-1 splits them
  return {
    **here,
    'split_params': sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(moments)),
    'paper': on_paper(count(shapes), n, layout, store),
    'excess': excess(c, n, layout, store),
    **program(c, n, layout),
    'seconds': round(time.perf_counter() - begin, 1),
  }


# What is written.

SHORT = {'all-reduce': 'AR', 'all-gather': 'AG', 'reduce-scatter': 'RS'}


class Row(NamedTuple):
  tree: str
  n: int
  layout: str
  store: str
  of: dict[str, Any]

  @property
  def needs(self) -> int:
    """All that a device keeps but activations and what the step allocates."""
    return self.of['params'] + self.of['grads'] + self.of['state']

  @property
  def off(self) -> float:
    """The state relative to paper."""
    return self.of['state'] / self.of['paper']['state'] - 1


def rows_of(report: dict[str, Any]) -> list[Row]:
  """All rows, in the order of the page."""
  found = []
  for tree in [name for name in TREES | TINY if name in report]:
    rows = report[tree]['rows']
    for n, layout, store in itertools.product(DEVICES, LAYOUTS, STORES):
      if (key := f'{n}/{layout}/{store}') in rows:
        found.append(Row(tree, n, layout, store, rows[key]))
  return found


def gib(size: float) -> str:
  x = size / 2**30
  digits = next((digits for least, digits in ((100, 0), (10, 1), (0.01, 2), (0.001, 3)) if x >= least), None)
  return f'{x:,.{digits}f}' if digits is not None else '< 0.001' if x else '0'


def percent(x: float) -> str:
  return '0' if not x else '< 0.001 %' if abs(x) < 1e-5 else f'{100 * x:.2g} %' if abs(x) < 1 else f'{100 * x:,.0f} %'


def by_store(rows: Sequence[Row], text: Callable[[Row], str]) -> str:
  """What most stores have, and the others with their names."""
  stores: dict[str, list[str]] = {}
  for row in rows:
    stores.setdefault(text(row), []).append(row.store)
  most, *others = sorted(stores, key=lambda said: -len(stores[said]))
  return '; '.join([most, *(f'{", ".join(stores[said])}: {said}' for said in others)])


def grouped(rows: Sequence[Row], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
  groups: dict[tuple[Any, ...], list[Row]] = {}
  for row in rows:
    groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
  yield from groups.items()


def said_collectives(row: Row) -> str:
  several = lambda of: f' ({of["arrays"]} arrays)' if of['arrays'] > of['ops'] else ''
  found = row.of['collectives'].items()
  return ', '.join(f'{of["ops"]} {SHORT.get(kind, kind)}{several(of)}' for kind, of in sorted(found)) or 'none'


def state_cell(row: Row) -> str:
  mark = '**' if row.needs <= MEMORY else ''
  return f'{mark}{gib(row.of["state"])}{mark} ({gib(row.of["state"] + row.of["params"])})'


def columns(rows: Sequence[Row]) -> list[str]:
  return [store for store in STORES if any(row.store == store for row in rows)]


def main_table(rows: Sequence[Row]) -> str:
  stores, lines = columns(rows), []
  for (n, layout), group in grouped(rows, 'n', 'layout'):
    cells, first = {row.store: state_cell(row) for row in group}, group[0].of
    wire = by_store(group, lambda row: gib(row.of['wire']))
    of = [gib(first['params']), gib(first['grads']), *(cells.get(store, '') for store in stores)]
    model = gib(first['paper']['model_wire'])
    lines.append([f'{n}, {LAYOUTS[layout].title}', *of, by_store(group, said_collectives), wire, model])
  header = ['devices, layout', 'parameters', 'gradients', *stores, 'collectives of the step', 'wire', 'wire, model']
  return table(header, lines)


def bytes_text(report: dict[str, Any], rows: Sequence[Row]) -> list[str]:
  shorts = listed([f'{short} is {kind}' for kind, short in SHORT.items()])
  lines = [
    'GiB per device. The column of a store has the size of the state and, in brackets, of parameters and state '
    f'together. It is bold where parameters, gradients and state fit into {MEMORY / 1e9:.0f} GB ({gib(MEMORY)} GiB), '
    'not '
    f'counting activations and temporaries. Collectives are those of the compiled step ({shorts}). "Wire" is what a '
    'device sends per step over a ring: 2 (n-1)/n S for an all-reduce of S bytes, (n-1)/n S for a reduce-scatter or an '
    'all-gather. "Wire, model" is computed, not compiled: with FSDP the model itself gathers its parameters twice and '
    'scatters its gradients once; the other layouts reduce the gradients in the step.'
  ]
  for (tree,), group in grouped(rows, 'tree'):
    size = f'{report[tree]["parameters"]:,} parameters in {report[tree]["arrays"]} arrays'
    lines += [f'**{tree}**: {size}', main_table(group)]
  return lines


def fits_text(rows: Sequence[Row]) -> list[str]:
  stores, counts, lines = columns(rows), sorted({row.n for row in rows}), []
  for (tree, layout), group in grouped(rows, 'tree', 'layout'):
    fewest = {
      store: min((r.n for r in group if r.store == store and r.needs <= MEMORY), default='none') for store in stores
    }
    lines.append([f'{tree}, {LAYOUTS[layout].title}', *map(str, fewest.values())])
  return [
    f'The smallest of {listed([str(n) for n in counts])} devices on which parameters, gradients and state fit into '
    f'{MEMORY / 1e9:.0f} GB each. Activations and temporaries come on top.',
    table(['tree, layout', *stores], lines),
  ]


def fsdp_reading(rows: Sequence[Row]) -> list[str]:
  steps = [row for row in rows if LAYOUTS[row.layout].split_params]
  talking, said = [row for row in steps if row.of['collectives']], []
  for (layout, n, tree), group in grouped(talking, 'layout', 'n', 'tree'):
    of = ', '.join(f'{gib(row.of["wire"])} and {gib(row.of["temp"])} ({row.store})' for row in group)
    said.append(f'- {LAYOUTS[layout].title}, {tree} on {n} devices: {of}')
  quiet = [
    f'{sum(not row.of["collectives"] for row in group)} of {len(group)} ({LAYOUTS[layout].title})'
    for (layout,), group in grouped(steps, 'layout')
  ]
  first = f'**FSDP.** Of the compiled updates {listed(quiet)} have no collective.'
  if not said:
    return [first]
  return [
    f'{first} The others, in GiB on the wire and GiB allocated:',
    '\n'.join(said),
  ]


def between(values: Sequence[float], digits: int = 3) -> str:
  low, high = f'{min(values):.{digits}f}', f'{max(values):.{digits}f}'
  return low if low == high else f'between {low} and {high}'


def zero_reading(rows: Sequence[Row]) -> list[str]:
  plain = {(row.tree, row.n, row.store): row.of['wire'] for row in rows if row.layout == 'plain'}
  lines = []
  for layout in ('zero1-shard_map', 'zero1-jit'):
    steps = [row for row in rows if row.layout == layout and 'wire' in row.of]
    ratios = [row.of['wire'] / plain[key] for row in steps if (key := (row.tree, row.n, row.store)) in plain]
    if not ratios:
      continue
    of = lambda row, kind: row.of['collectives'].get(kind, {'arrays': 0})['arrays']
    pairs = sum(of(r, 'reduce-scatter') == of(r, 'all-gather') == r.of['split_params'] for r in steps)
    none = sum(not of(r, 'reduce-scatter') for r in steps)
    said = f'{pairs} of {len(steps)} compiled steps have one reduce-scatter and one all-gather for each split array'
    if none:
      said = f'{none} of {len(steps)} compiled steps have no reduce-scatter, but all-reduce whole gradients'
    lines.append(f'{LAYOUTS[layout].title}: {said}; the wire carries {between(ratios)} times the bytes of plain.')
  lines[:1] = [f'**ZeRO-1.** {line}' for line in lines[:1]]
  return [' '.join(lines)] if lines else []


def paper_text(rows: Sequence[Row]) -> list[str]:
  lines, off = [], lambda row: abs(row.off)
  for (layout, store), group in grouped(rows, 'layout', 'store'):
    worst = max(group, key=off)
    causes = [percent(worst.of['excess'][cause] / worst.of['paper']['state']) for cause in ('float32', 'whole')]
    if off(worst):
      name = f'{LAYOUTS[layout].title}, {store}'
      lines.append([name, percent(worst.off), f'{worst.tree}, {worst.n}', *causes])
  worst, compiled = max(rows, key=off), [row for row in rows if 'wire' in row.of]
  formula = [row for row in compiled if row.of['paper']['wire']]
  wires = {
    LAYOUTS[layout].title: max(abs(row.of['wire'] / row.of['paper']['wire'] - 1) for row in group)
    for (layout,), group in grouped(formula, 'layout')
  }
  sums = max((abs(r.of['arguments'] - r.needs) for r in compiled), default=0)
  formulas = listed([f'{size:g} ({store})' for store, size in STORES.items()])
  return [
    f'On paper the bytes of state per parameter are {formulas}, all of them split where the layout splits the state. '
    f'The state as sharded differs from that by at most {percent(worst.off)} ({worst.tree}, {worst.n} devices, '
    f'{LAYOUTS[worst.layout].title}, {worst.store}). The table has the largest difference of each layout and store, '
    'and '
    'its causes: arrays that the store leaves in float32, and arrays that every device holds whole. Layouts and stores '
    'without a difference are left out.',
    table(['layout, store', 'difference', 'tree, devices', 'in float32', 'whole'], lines),
    f'The arguments of the {len(compiled)} compiled programs are as large as these shards, to within {sums} bytes. The '
    f'bytes on the wire differ from paper by at most '
    f'{listed([f"{percent(off)} ({title})" for title, off in wires.items()])}, because small arrays are only reduced. '
    'With FSDP they are 0 on paper.',
  ]


def beside_text(rows: Sequence[Row]) -> list[str]:
  tree = '8B' if any(row.tree == '8B' for row in rows) else rows[0].tree
  stores, lines = columns(rows), []
  for (n, layout), group in grouped([row for row in rows if row.tree == tree], 'n', 'layout'):
    cell = lambda of: f'{gib(of["temp"])}, {gib(of["accessed"])}'
    cells = {row.store: cell(row.of) for row in group}
    lines.append([f'{n}, {LAYOUTS[layout].title}', *(cells.get(store, '') for store in stores)])
  ratios = []
  for (layout, store), group in grouped([row for row in rows if 'temp' in row.of], 'layout', 'store'):
    if store == stores[0]:
      times = between([row.of['temp'] / row.of['params'] for row in group], 1)
      ratios.append(f'{times} ({LAYOUTS[layout].title})')
  return [
    f'GiB per device that the step of {tree}, compiled for CPU, allocates beside its arguments and results, and that '
    'its kernels read and write (`cost_analysis`). Other backends fuse in other ways.',
    table(['devices, layout', *stores], lines),
    f'With {stores[0]}, over all trees, the step allocates {listed(ratios)} times the parameters on a device. With '
    'ZeRO-1 that is the gathered updates of all parameters, which come on top of "What fits".',
  ]


def markdown(report: dict[str, Any]) -> str:
  rows, facts = rows_of(report), max(report.values(), key=lambda tree: tree['date'])
  versions = ', '.join(f'{package} {version}' for package, version in facts['machine']['versions'].items())
  seconds = sum(row.of['seconds'] for row in rows)
  layouts = '\n'.join(f'- **{how.title}**: {how.meaning}.' for how in LAYOUTS.values())
  least = listed(sorted({f'{(TREES | TINY)[tree].min_size:,}' for tree in report}))
  note = '**--quick: a smoke test.** ' if facts['quick'] else ''
  sections = [
    '# Scaling: bytes and collectives per device',
    f'A simulation on paper and in code: the step of `bo.adabelief` (`bo.adam` keeps the same state) for '
    f'{listed(list(report))} parameters on {listed([str(n) for n in sorted({row.n for row in rows})])} devices, with '
    'every store. The parameters are shapes, the devices are simulated, and the step is compiled ahead of time: '
    'nothing runs and nothing is timed. `python -m benchmarks.scaling` writes this page from '
    '`benchmarks/results/scaling.json`.',
    'The shapes are those of Llama decoders with stacked layers, all in float32. The mesh has one axis:',
    layouts,
    f'ZeRO-1 splits the first dimension that the devices divide. Arrays of fewer than {least} elements are whole.',
    '## Bytes and collectives',
    *bytes_text(report, rows),
    '![State per device](scaling_state.png)',
    '## What fits',
    *fits_text(rows),
    '## Reading',
    *fsdp_reading(rows),
    *zero_reading(rows),
    '## Paper and program',
    *paper_text(rows),
    '## Beside arguments and results',
    *beside_text(rows),
    '## Limits',
    'Devices are simulated on one CPU: no time, no bandwidth and no accelerator was measured. Collectives are those '
    'that XLA:CPU chooses; under `jax.jit` compilers of accelerators may choose others. Bytes on the wire are those of '
    'a ring, from the shapes in the program; real networks have other algorithms. Only the step of the optimizer is '
    'compiled, not the model. Parameters and gradients are float32; activations and splits over more than one axis are '
    'not counted.',
    f'{note}*{facts["date"]}, {len(rows)} rows, all compiled, {seconds / 60:.1f} minutes, {versions}*',
  ]
  return '\n\n'.join(sections) + '\n'


DRAWN: dict[str, dict[str, Any]] = {
  'plain': {'linestyle': '--'},
  'zero1-jit': {'linestyle': '-', 'marker': 'o', 'markersize': 4},
  'fsdp': {'linestyle': '-', 'marker': 'x', 'markersize': 7},
}


def plot(rows: Sequence[Row]) -> Any:
  trees = {tree: group for (tree,), group in grouped(rows, 'tree')}
  colors = dict(zip(STORES, COLORS.values(), strict=False))
  wide = lambda store: {'linewidth': 3.5, 'alpha': 0.5} if store == 'bfloat16' else {'linewidth': 1.3}  # below packed16
  figure, panels = plt.subplots(1, len(trees), figsize=(9, 3.5), sharey=True, squeeze=False)
  for axes, (tree, group) in zip(panels[0], trees.items(), strict=True):
    for (store, layout), line in grouped(group, 'store', 'layout'):
      if layout in DRAWN:
        x, y = [row.n for row in line], [row.of['state'] / 1e9 for row in line]
        axes.plot(x, y, color=colors[store], **DRAWN[layout] | wide(store))
    axes.axhline(MEMORY / 1e9, color='black', linewidth=0.8, linestyle=':')
    axes.set(title=f'{tree}', xlabel='devices', xscale='log', yscale='log')
    axes.set_xticks(counts := sorted({row.n for row in group}), counts)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter('{x:g}')
  panels[0][0].set_ylabel('GB of state per device')
  lines = [Line2D([], [], color=colors[store], label=store, **wide(store)) for store in columns(rows)]
  lines += [Line2D([], [], color='grey', label=LAYOUTS[layout].title, **style) for layout, style in DRAWN.items()]
  lines += [Line2D([], [], color='black', linewidth=0.8, linestyle=':', label=f'{MEMORY / 1e9:.0f} GB')]
  figure.legend(handles=lines, loc='outside right center')
  return figure


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog='benchmarks.scaling', description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='a tiny tree on 8 devices, two stores: a smoke test')
  parser.add_argument('--trees', choices=list(TREES), nargs='+', help='models; the figures of the others are kept')
  parser.add_argument('--devices', choices=DEVICES, nargs='+', type=int, help='sizes of the mesh')
  parser.add_argument('--layouts', choices=list(LAYOUTS), nargs='+', default=list(LAYOUTS), help='what is split')
  parser.add_argument('--stores', choices=list(STORES), nargs='+', help='how the state is kept')
  parser.add_argument('--out', type=directory, help='folder (docs and benchmarks/results; with --quick: out/scaling)')
  args = parser.parse_args(argv)
  trees, devices, stores = (TINY, (8,), ('float32', 'packed16')) if args.quick else (TREES, DEVICES, STORES)
  if args.quick and args.out is None:  # a smoke test must not take the place of the figures
    args.out = directory('out/scaling')
  results, docs = (args.out or ROOT / 'benchmarks' / 'results') / 'scaling.json', args.out or ROOT / 'docs'
  report = json.loads(results.read_text()) if results.exists() and not args.quick else {}
  jax.config.update('jax_disable_most_optimizations', True)  # of LLVM; what XLA makes of a program is the same
  for name in args.trees or trees:
    model = (TREES | TINY)[name]
    cases = itertools.product(args.devices or devices, args.layouts, args.stores or stores)
    for n, layout, store in track(list(cases), f'{name} ...', console=Console(stderr=True)):
      row = measured(model.shapes(), n, layout, store, model.min_size)
      report.setdefault(name, {'rows': {}})['rows'][f'{n}/{layout}/{store}'] = row
      report[name] |= {'parameters': count(model.shapes()), 'arrays': len(model.shapes()), 'quick': args.quick}
      report[name] |= {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
        'machine': describe_machine(),
      }
      results.write_text(json.dumps(report, separators=(',', ':')) + '\n')
  report = {name: report[name] for name in TREES | TINY if name in report}
  (docs / 'scaling.md').write_text(markdown(report))
  save(plot(rows_of(report)), docs / 'scaling_state.png')


if __name__ == '__main__':
  main()
