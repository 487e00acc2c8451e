"""Which first steps should `adabelief` and `radam` take by default? Docs: docs/first_steps.md.

    python -m benchmarks.first_steps            # minutes: writes docs/first_steps.md and results/first_steps.json
    python -m benchmarks.first_steps --quick    # seconds: nothing is written

Rectification has no adaptive step before rho_t reaches 5 (t = 6). Until then the reference algorithms take the plain mean
(SGD), whose length is that of the gradient, or no step. Each candidate trains with the loss multiplied by 10^-4 .. 10^4:
an optimizer that is invariant to that scale ends with the same loss.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import belief_optax as bo

ROOT = Path(__file__).parents[1]
SCALES = (1e-4, 1e-2, 1.0, 1e2, 1e4)
RATES = tuple(10 ** (-3.5 + 0.5 * i) for i in range(5))  # 3e-4 .. 3e-2
CANDIDATES: dict[str, Callable[[Any], bo.Recipe]] = {
  'adabelief, mean at first': lambda lr: bo.adabelief(lr, rectify=True, degenerate_to_sgd=True),
  'adabelief, still at first': lambda lr: bo.adabelief(lr, rectify=True, degenerate_to_sgd=False),
  'adabelief, not rectified': lambda lr: bo.adabelief(lr, rectify=False),
  'radam, mean at first': lambda lr: bo.radam(lr, degenerate_to_sgd=True),
  'radam, still at first': lambda lr: bo.radam(lr, degenerate_to_sgd=False),
}


# Tasks: parameters from a key, and a loss of parameters and a key.


def digits() -> tuple[Any, Any]:
  """A network of 64 hidden units on handwritten digits, in batches of 64."""
  from sklearn.datasets import load_digits

  data = load_digits()
  x, y = jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target)

  def init(key):
    one, two = jax.random.split(key)
    draw = lambda key, n, m: jax.random.normal(key, (n, m)) / math.sqrt(n)
    return {'w': draw(one, 64, 64), 'b': jnp.zeros(64), 'v': draw(two, 64, 10), 'c': jnp.zeros(10)}

  def loss(p, key):
    i = jax.random.randint(key, (64,), 0, 1400)
    logits = jnp.tanh(x[i] @ p['w'] + p['b']) @ p['v'] + p['c']
    return optax.softmax_cross_entropy_with_integer_labels(logits, y[i]).mean()

  return init, loss


def regression() -> tuple[Any, Any]:
  """Least squares without noise, with curvatures from 0.01 to 1."""
  curvature = jnp.logspace(-2, 0, 50)
  return lambda key: jax.random.normal(key, (50,)), lambda p, _: jnp.sum(curvature * p**2) / 2


def variational() -> tuple[Any, Any]:
  """The mean and the scale of a Gaussian that approximates another one, by reparameterized samples of the ELBO."""

  def loss(p, key):
    z = p['mean'] + jnp.exp(p['log_scale']) * jax.random.normal(key, (8, 5))
    return jnp.mean(jnp.sum((z - 3) ** 2 / (2 * 0.25), -1)) - jnp.sum(p['log_scale'])

  return lambda key: {'mean': jax.random.normal(key, (5,)), 'log_scale': jnp.zeros(5)}, loss


def rosenbrock() -> tuple[Any, Any]:
  """Rosenbrock's valley from beside (-1.5, 2)."""
  init = lambda key: jnp.asarray([-1.5, 2.0]) + 0.1 * jax.random.normal(key, (2,))
  return init, lambda p, _: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


TASKS = {
  'digits': (digits, 400),
  'regression': (regression, 400),
  'ELBO': (variational, 400),
  'Rosenbrock': (rosenbrock, 2000),
}


def final_losses(name: str, task: str, scale: float, seeds: int, steps: int) -> np.ndarray:
  """The mean loss of the last tenth of training, by learning rate and seed."""
  init, loss = TASKS[task][0]()

  def train(rate, seed):
    key = jax.random.key(seed)
    tx = CANDIDATES[name](rate)

    def step(carry, t):
      p, state = carry
      value, g = jax.value_and_grad(lambda p: scale * loss(p, jax.random.fold_in(key, t)))(p)
      u, state = tx.update(g, state, p)
      return (optax.apply_updates(p, u), state), value / scale

    p = init(key)
    _, values = jax.lax.scan(step, (p, tx.init(p)), jnp.arange(steps))
    return values[-(steps // 10) :].mean()

  each = jax.vmap(jax.vmap(train, (None, 0)), (0, None))
  return np.asarray(jax.jit(each)(jnp.asarray(RATES, jnp.float32), jnp.arange(seeds)), np.float64)


def first_steps(name: str, scale: float, constant: bool) -> list[float]:
  """The largest |step| / learning rate of each of the first ten steps, of 1,000 elements."""
  tx, p = CANDIDATES[name](1.0), jnp.zeros(1000)
  state, sizes = tx.init(p), []
  for t in range(10):
    g = jnp.ones(1000) if constant else jax.random.normal(jax.random.key(t), (1000,))
    u, state = tx.update(scale * g, state, p)
    sizes.append(float(jnp.abs(u).max()))
  return sizes


# The report.


def measure(quick: bool) -> dict[str, Any]:
  seeds, divisor = (2, 20) if quick else (5, 1)
  found: dict[str, Any] = {'steps': {}, 'losses': {}}
  for name in CANDIDATES:
    found['steps'][name] = {
      kind: {str(scale): first_steps(name, scale, kind == 'constant') for scale in SCALES}
      for kind in ('noise', 'constant')
    }
    found['losses'][name] = {
      task: {str(scale): final_losses(name, task, scale, seeds, steps // divisor).tolist() for scale in SCALES}
      for task, (_, steps) in TASKS.items()
    }
  return found


def _best(losses: list[list[float]]) -> tuple[int, float]:
  """The learning rate with the least median loss at this scale, and that loss."""
  medians = np.nanmedian(np.where(np.isfinite(losses), losses, np.inf), axis=1)
  return int(np.argmin(medians)), float(np.min(medians))


def _number(x: float) -> str:
  return 'diverged' if not math.isfinite(x) else f'{x:.3g}'


def report(found: dict[str, Any]) -> str:
  lines = [
    '# The first steps',
    '',
    'Written by `python -m benchmarks.first_steps`. Rectification takes no adaptive step before t = 6. "Mean at first" takes',
    'the plain mean until then (SGD), "still at first" takes no step, "not rectified" is `optax.adabelief`.',
    '',
    '## How long they are',
    '',
    'The largest element of a step, in learning rates, over the first ten steps.',
    '',
    '| | gradients | ' + ' | '.join(f'scale {scale:g}' for scale in SCALES) + ' |',
    '|---|---|' + '---|' * len(SCALES),
  ]
  for name, kinds in found['steps'].items():
    for kind, by_scale in kinds.items():
      lines.append(f'| {name} | {kind} | ' + ' | '.join(_number(max(by_scale[str(s)])) for s in SCALES) + ' |')
  rates = ', '.join(f'{rate:.2g}' for rate in RATES)
  lines += [
    '',
    '## What training makes of them',
    '',
    f'The median final loss over seeds at the learning rate that is best for scale 1 (of {rates}), which is then used for',
    'every scale of the loss: an optimizer that is invariant to the scale ends equally well.',
    '',
    '| task | | best rate | ' + ' | '.join(f'scale {scale:g}' for scale in SCALES) + ' |',
    '|---|---|---|' + '---|' * len(SCALES),
  ]
  for task in TASKS:
    for name, by_task in found['losses'].items():
      best, _ = _best(by_task[task]['1.0'])
      cells = [_number(float(np.median(by_task[task][str(scale)][best]))) for scale in SCALES]
      lines.append(f'| {task} | {name} | {RATES[best]:.2g} | ' + ' | '.join(cells) + ' |')
  lines += ['', '## At scale 1, against the mean at first', '']
  lines += [
    'Pairs of seeds, each side at its own best rate; the 95 % interval of the mean difference of log10(loss). An',
    'interval that contains 0 is a tie.',
    '',
  ]
  lines += ['| task | | difference | |', '|---|---|---|---|']
  for task in TASKS:
    for name, by_task in found['losses'].items():
      base = f'{name.split(",")[0]}, mean at first'
      if name != base:
        lines.append(f'| {task} | {name} | {_paired(by_task[task]["1.0"], found["losses"][base][task]["1.0"])} |')
  return '\n'.join(lines) + '\n'


def _paired(ours: list[list[float]], base: list[list[float]]) -> str:
  # A Gaussian loss may be below 0; what is compared is then the plain difference.
  a, b = (np.asarray(x[_best(x)[0]]) for x in (ours, base))
  difference = np.log10(a) - np.log10(b) if min(a.min(), b.min()) > 0 else a - b
  n = len(difference)
  half = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78}[n] * difference.std(ddof=1) / math.sqrt(n)
  verdict = 'a tie' if abs(difference.mean()) <= half else 'better' if difference.mean() < 0 else 'worse'
  return f'{difference.mean():+.3f} ± {half:.3f} | {verdict}'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--quick', action='store_true')
  quick = parser.parse_args().quick
  found = measure(quick)
  text = report(found)
  print(text)
  if not quick:
    (ROOT / 'docs' / 'first_steps.md').write_text(text)
    rounded = json.loads(json.dumps(found), parse_float=lambda x: float(f'{float(x):.4g}'))
    (ROOT / 'benchmarks' / 'results' / 'first_steps.json').write_text(json.dumps(rounded) + '\n')


if __name__ == '__main__':
  main()
