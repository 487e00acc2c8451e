"""What Adam's bias correction does, and the common mistake of keeping the corrected moments.

The moments of Adam start at 0. The corrected m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t) are for the step only; m and v
themselves are carried on. If m^ and v^ are carried on instead (m <- m^, v <- v^), each step divides by 1 - b^t again.
v^ grows like 1000^t / t!, and the step m^ / (sqrt(v^) + eps) collapses within ten steps, for any gradient.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _common import COLORS, arguments, save

import belief_optax as bo

STEPS, B1, B2, EPS = 20, 0.9, 0.999, 1e-8
TIME = np.arange(1, STEPS + 1)
QUANTITIES = (r'$|\hat m|$', r'$\hat v$', r'$|\hat m| \,/\, (\sqrt{\hat v} + \epsilon)$')
REGIMES = {
  'noise about 0': np.random.default_rng(0).normal(size=STEPS),
  'linearly growing': TIME / 10,
  'constant': np.ones(STEPS),
}


def right(gradients):
  """m^, v^ and the step of Adam: m and v are carried on as they are."""
  adam = bo.compose(bo.first_moment(B1), bo.second_moment(B2), bo.bias_correct(B1, B2), bo.precondition(EPS))

  def step(state, g):
    u, state = adam.update(g, state)
    m, v = state.slots['mu'], state.slots['nu']
    return state, (m / (1 - B1**state.count), v / (1 - B2**state.count), u)

  gradients = jnp.asarray(gradients, jnp.float32)
  return jax.lax.scan(step, adam.init(gradients[0]), gradients)[1]


def mistaken(gradients):
  """The same, but what is carried on is m^ and v^."""
  m = v = 0.0
  history = []
  for t, g in zip(TIME, gradients, strict=True):
    m = (B1 * m + (1 - B1) * g) / (1 - B1**t)
    v = (B2 * v + (1 - B2) * g**2) / (1 - B2**t)
    history.append((m, v, m / (v**0.5 + EPS)))
  return np.transpose(history)


def main(out: Path):
  figure, grid = plt.subplots(3, 3, figsize=(9, 7), sharex=True, sharey='row', subplot_kw={'yscale': 'log'})
  for column, (regime, gradients) in zip(grid.T, REGIMES.items(), strict=True):
    good, bad = right(gradients), mistaken(gradients)
    print(f'{regime}: the step at t = 10 is {good[2][9]:.1e}; with the mistake it is {bad[2][9]:.1e}')
    column[0].plot(TIME, np.abs(gradients), '.', color='0.6', label=r'gradient: $|g|$, $g^2$')
    column[1].plot(TIME, gradients**2, '.', color='0.6')
    for axes, ours, theirs in zip(column, good, bad, strict=True):
      axes.plot(TIME, np.abs(ours), color=COLORS['AdaBelief'], label='right: m and v are kept')
      axes.plot(TIME, np.abs(theirs), '--', color=COLORS['Adam'], label=r'mistake: $\hat m$ and $\hat v$ are kept')
    column[0].set_title(f'gradient: {regime}')
    column[2].set(xlabel='step', xticks=range(0, STEPS + 1, 5))
  for axes, quantity in zip(grid[:, 0], QUANTITIES, strict=True):
    axes.set_ylabel(quantity)
  figure.align_ylabels()
  figure.legend(*grid[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
  save(figure, out / 'bias_correction.png')


if __name__ == '__main__':
  main(arguments(__doc__, 'bias_correction').parse_args().out)
