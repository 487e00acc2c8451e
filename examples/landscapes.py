"""Walks SGD with momentum, Adam and AdaBelief over four landscapes without noise, all at learning rate 1e-3.

Draws their paths and prints how many steps each needs to come within 0.1 of the minimum. AdaBelief divides by the
spread of the gradient about its mean. Without noise that spread shrinks, so its steps grow where the gradient keeps
its direction; Adam's are bounded by the learning rate. SGD has no bound, and from these starts it is the fastest.

AdaBelief runs with rectify=False, as Algorithm 2 of its paper is written.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from _common import COLORS, arguments, save
from rich.console import Console
from rich.table import Table

import belief_optax as bo

STEPS, NEAR, DOT = 20_000, 0.1, 1_000
OPTIMIZERS = {'SGD': bo.sgd(1e-3, momentum=0.9), 'Adam': bo.adam(1e-3), 'AdaBelief': bo.adabelief(1e-3, rectify=False)}


def beale(x, y):
  return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


class Landscape(NamedTuple):
  height: Any  # a function of x and y
  start: tuple[float, float]
  minimum: tuple[float, float]
  window: tuple[float, float, float, float]  # x and y that are drawn: from, to, from, to


LANDSCAPES = {
  '|x| + |y|': Landscape(lambda x, y: abs(x) + abs(y), (4.0, 3.0), (0.0, 0.0), (-1.0, 5.0, -1.0, 4.0)),
  '|x + y| + |x - y| / 10': Landscape(
    lambda x, y: abs(x + y) + abs(x - y) / 10, (4.0, 1.0), (0.0, 0.0), (-1.0, 5.0, -3.0, 2.0)
  ),
  'Beale': Landscape(beale, (1.0, 1.5), (3.0, 0.5), (-0.5, 4.0, -1.0, 2.0)),
  'Rosenbrock': Landscape(
    lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-2.0, 2.0), (1.0, 1.0), (-2.5, 2.5, -1.0, 4.5)
  ),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def walk(tx, height, start):
  """The path [STEPS + 1, 2] from the start."""

  def step(carry, _):
    point, state = carry
    updates, state = tx.update(jax.grad(lambda p: height(*p))(point), state, point)
    return (optax.apply_updates(point, updates), state), point

  return jax.lax.scan(step, (start, tx.init(start)), length=STEPS + 1)[1]


def arrival(path, minimum):
  """The first step that is near the minimum, or None."""
  near = np.linalg.norm(path - minimum, axis=1) <= NEAR
  return int(near.argmax()) if near.any() else None


def draw(axes, name, landscape, paths, steps):
  left, right, bottom, top = landscape.window
  x, y = np.meshgrid(np.linspace(left, right, 400), np.linspace(bottom, top, 400))
  height = np.maximum(landscape.height(x, y), 1e-2)
  levels = np.geomspace(height.min(), height.max(), 16)
  axes.contourf(x, y, height, levels, colors=plt.cm.Greys(np.linspace(0, 0.3, 15)))
  axes.contour(x, y, height, levels, colors='white', linewidths=0.5)
  for (label, path), n, width in zip(paths.items(), steps, (3.5, 3, 1.3), strict=True):  # the last lies on top
    axes.plot(*path[:n].T, '-o', color=COLORS[label], label=label, linewidth=width, ms=2.5 + width, markevery=DOT)
  axes.plot(*landscape.start, 's', color='black', label='start', zorder=3)
  axes.plot(*landscape.minimum, '*', color='black', ms=12, label='minimum', zorder=3)
  counts = ', '.join(f'{label} {n or f"> {STEPS}"}' for label, n in zip(paths, steps, strict=True))
  axes.set(title=f'{name}\n{counts}', xlim=(left, right), ylim=(bottom, top), xlabel='x', ylabel='y')
  axes.grid(False)


def main(out: Path):
  table = Table('landscape', 'start', *OPTIMIZERS, title=f'Steps to distance {NEAR}, learning rate 0.001')
  figure, grid = plt.subplots(2, 2, figsize=(9, 7.5))
  for axes, (name, landscape) in zip(grid.flat, LANDSCAPES.items(), strict=True):
    start = jnp.array(landscape.start)
    paths = {label: np.asarray(walk(tx, landscape.height, start)) for label, tx in OPTIMIZERS.items()}
    steps = [arrival(path, landscape.minimum) for path in paths.values()]
    table.add_row(name, f'{landscape.start}', *(str(n or f'> {STEPS}') for n in steps))
    draw(axes, name, landscape, paths, steps)
  figure.suptitle(f'Steps to distance {NEAR} at learning rate 0.001; a dot every {DOT} steps')
  figure.legend(*grid[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=5)
  Console(highlight=False).print(table)
  save(figure, out / 'landscapes.png')


if __name__ == '__main__':
  main(arguments(__doc__, 'landscapes').parse_args().out)
