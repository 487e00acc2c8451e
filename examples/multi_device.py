"""One network on eight devices, trained three ways: the mesh changes, the optimizer does not.

  data parallel  parameters and state on every device, each with a part of the batch
  ZeRO-1         the same, with the state of the optimizer spread over the devices
  FSDP           parameters and state spread over the devices

The eight devices are simulated on the host. Each training takes the same batches of handwritten digits, so the losses
agree to rounding; what differs is what a device holds, and what the devices say to each other in a step.
"""

import collections
import functools
import itertools
import re
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from _common import COLORS, arguments, digits, plot_loss, save
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rich import box
from rich.console import Console
from rich.table import Table

import belief_optax as bo
from belief_optax import sharding

DEVICES, STEPS, BATCH, WIDTH = 8, 100, 64, 512
OPTIMIZER = bo.adabelief(optax.cosine_decay_schedule(1e-2, STEPS), weight_decay=1e-3)
COLLECTIVES = 'all-reduce', 'reduce-scatter', 'all-gather', 'all-to-all', 'collective-permute'


def init():
  """A network of two hidden layers."""
  rng, sides = np.random.default_rng(0), (64, WIDTH, WIDTH, 10)
  kernel = lambda n, m: (rng.normal(size=(n, m)) * np.sqrt(2 / n)).astype(np.float32)
  layers = enumerate(itertools.pairwise(sides))
  return {f'layer{i}': {'kernel': kernel(n, m), 'bias': np.zeros(m, np.float32)} for i, (n, m) in layers}


def loss(params, images, labels):
  x = images
  for layer in params.values():
    x = jax.nn.relu(x) @ layer['kernel'] + layer['bias']  # the pixels are >= 0, so the first relu changes nothing
  return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def ways(mesh):
  """For each way of training where the parameters are, and the optimizer."""
  params = init()
  replicated = jax.tree.map(lambda _: NamedSharding(mesh, P()), params)
  rows = jax.tree.map(lambda p: NamedSharding(mesh, P('data') if p.shape[0] % DEVICES == 0 else P()), params)
  return {
    'data parallel': (replicated, OPTIMIZER),
    'ZeRO-1': (replicated, sharding.zero1(OPTIMIZER, replicated, axis='data')),
    'FSDP': (rows, OPTIMIZER),
  }


def compile_step(tx, params, state, batch):
  """The step, compiled for arrays that lie as these do; it takes no others, and leaves them where they are."""
  where = jax.tree.map(lambda x: x.sharding, (params, state))
  everywhere = NamedSharding(state.count.sharding.mesh, P())

  @functools.partial(jax.jit, donate_argnums=(0, 1), out_shardings=(*where, None))
  def step(params, state, images, labels):
    whole = lambda params: jax.lax.with_sharding_constraint(params, everywhere)  # what is spread is gathered for use
    value, grads = jax.value_and_grad(lambda params: loss(whole(params), images, labels))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  return step.lower(params, state, *batch).compile()


def train(tx, where, mesh, images, labels):
  """Returns the losses, the last parameters and state, and the compiled step."""
  split = NamedSharding(mesh, P('data'))
  params = jax.device_put(init(), where)
  state = sharding.init_sharded(tx, params, where)
  step, losses = None, []
  for rows in np.random.default_rng(0).integers(len(images), size=(STEPS, BATCH)):
    batch = jax.device_put((images[rows], labels[rows]), split)
    step = step or compile_step(tx, params, state, batch)
    params, state, value = step(params, state, *batch)
    losses.append(value)
  return np.array(jax.device_get(losses)), params, state, step


def on_one_device(tree):
  """The bytes of a tree on the first device."""
  return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def collectives(step):
  """What the devices say to each other: on how many arrays each collective of the compiled step works."""
  said = collections.Counter()
  for result, name in re.findall(rf'= (.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(', step.as_text()):
    said[name] += len(re.findall(r'\w+\[', result))
  return '\n'.join(f'{n} {name}' for name, n in sorted(said.items()))


def draw_owners(axes, x, name):
  """Which device holds which part of a matrix, as colours; what all of them hold is grey."""
  shards = [] if x.sharding.is_fully_replicated else x.addressable_shards
  owner = np.full(x.shape, np.nan)
  for i, shard in enumerate(shards):
    owner[shard.index] = i
    rows, columns = (np.mean(part.indices(side)[:2]) for part, side in zip(shard.index, x.shape, strict=True))
    axes.text(columns, rows, f'device {i}', ha='center', va='center', fontsize=7, color='white')
  if not shards:
    axes.text(x.shape[1] / 2, x.shape[0] / 2, f'all of it on each\nof {DEVICES} devices', ha='center', va='center')
  colors = plt.get_cmap('viridis', DEVICES + 2).with_extremes(bad='0.85')
  axes.imshow(owner, cmap=colors, vmin=-0.5, vmax=DEVICES + 1.5)
  axes.set(title=name, xticks=[], yticks=[])
  axes.grid(False)


def draw(results, path):
  figure = plt.figure(figsize=(9, 6.6))
  curves, parts = figure.subfigures(2, 1, height_ratios=(1.25, 1))
  left, right = curves.subplots(1, 2, width_ratios=(1.6, 1))
  for i, ((name, (losses, params, state, _)), color) in enumerate(zip(results.items(), COLORS.values(), strict=False)):
    plot_loss(left, losses, color=color, linewidth=(6, 3.5, 1.2)[i], label=name)  # they coincide
    held = [on_one_device(params) / 2**20, on_one_device(state) / 2**20]
    right.bar(np.arange(2) + 0.27 * (i - 1), held, 0.25, color=color)
    for x, y in enumerate(held):
      right.text(x + 0.27 * (i - 1), y, f'{y:.2f}', ha='center', va='bottom', fontsize=8)
  left.set(xlabel='step', title='The losses agree')
  left.legend()
  right.set(xticks=range(2), xticklabels=['parameters', "optimizer's state"], ylabel='MiB', title='On one device')
  for axes, (name, (_, _, state, _)) in zip(parts.subplots(1, len(results)), results.items(), strict=True):
    draw_owners(axes, state.slots['mu']['layer1']['kernel'], f"mu of layer1's kernel, {name}")
  save(figure, path)


def main(out: Path):
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', DEVICES)
  mesh = jax.make_mesh((DEVICES,), ('data',), axis_types=(AxisType.Auto,))
  images, labels, *_ = digits()
  results = {name: train(tx, where, mesh, images, labels) for name, (where, tx) in ways(mesh).items()}
  first, *_ = results['data parallel']
  columns = [
    [
      f'{on_one_device(params) / 2**20:.2f} MiB',
      f'{on_one_device(state) / 2**20:.2f} MiB',
      collectives(step),
      f'{losses[-1]:.6f}',
      f'{np.abs(losses - first).max():.1e}',
    ]
    for losses, params, state, step in results.values()
  ]
  names = 'parameters', 'optimizer state', 'collectives of a step', 'last loss', 'largest difference of a loss'
  table = Table('on one device', *results, box=box.SIMPLE)
  for row in zip(names, *columns, strict=True):
    table.add_row(*row)
  Console().print(table)
  draw(results, out / 'multi_device.png')


if __name__ == '__main__':
  main(arguments(__doc__, 'multi_device').parse_args().out)
