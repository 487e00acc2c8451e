"""Which first steps should `adabelief` and `radam` take by default: the plain mean, none, or adaptive ones?

    python -m benchmarks.first_steps            # about eight minutes on two busy cores
    python -m benchmarks.first_steps --quick    # a smoke test at tiny sizes; two minutes, most of it compiling

It writes docs/first_steps.md from what was measured and kept in benchmarks/results/first_steps.json: no result in that
text is typed by hand.
"""

import argparse
import datetime
import inspect
import itertools
import json
import math
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import belief_optax as bo
from belief_optax import formulas
from benchmarks.precision import cross_entropy, interval, layers, listed, perceptron
from benchmarks.step import describe_machine, table
from examples._common import digits, directory

ROOT = pathlib.Path(__file__).parents[1]
SCALES = (1e-4, 1e-2, 1.0, 1e2, 1e4)
RATES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
SEEDS, CHOOSING = 10, 5  # seeds that count, and others that choose the learning rate
ONE = SCALES.index(1.0)
LEAST = 1e-12  # a smaller score counts as that: what is left is the rounding of float32


class Candidate(NamedTuple):
  """An optimizer and the one that it is compared with."""

  make: Callable[[Any, Any], bo.Recipe]  # learning rate, scale of the loss (which only the controls use)
  text: str
  base: str
  control: bool = False


MEAN, MEAN_R = 'adabelief, mean at first', 'radam, mean at first'
STILL, PLAIN, STILL_R = 'adabelief, still at first', 'adabelief, not rectified', 'radam, still at first'
CANDIDATES = {
  MEAN: Candidate(
    lambda rate, _: bo.adabelief(rate, rectify=True, degenerate_to_sgd=True),
    '`bo.adabelief(rectify=True, degenerate_to_sgd=True)`: steps 1 to 5 are the mean of the gradients',
    MEAN,
  ),
  STILL: Candidate(
    lambda rate, _: bo.adabelief(rate, rectify=True, degenerate_to_sgd=False),
    '`bo.adabelief(rectify=True, degenerate_to_sgd=False)`: no motion in steps 1 to 5',
    MEAN,
  ),
  PLAIN: Candidate(
    lambda rate, _: bo.adabelief(rate, rectify=False),
    '`bo.adabelief(rectify=False)`, which equals `optax.adabelief`: adaptive from step 1',
    MEAN,
  ),
  MEAN_R: Candidate(
    lambda rate, _: bo.radam(rate, degenerate_to_sgd=True),
    '`bo.radam(degenerate_to_sgd=True)`, as `optax.radam` and torch: steps 1 to 5 are the mean of the gradients',
    MEAN_R,
  ),
  STILL_R: Candidate(
    lambda rate, _: bo.radam(rate, degenerate_to_sgd=False), '`bo.radam(degenerate_to_sgd=False)`: no motion', MEAN_R
  ),
  'adabelief, not rectified, eps scaled': Candidate(
    lambda rate, scale: bo.adabelief(rate, rectify=False, eps=1e-16 * scale, eps_root=1e-16 * scale**2),
    'a control: eps grows with the scale of the loss',
    MEAN,
    control=True,
  ),
  'radam, still at first, eps scaled': Candidate(
    lambda rate, scale: bo.radam(rate, degenerate_to_sgd=False, eps=1e-8 * scale), 'the same control', MEAN_R, True
  ),
}
REAL = [name for name, c in CANDIDATES.items() if not c.control]
BELIEF = [name for name in REAL if CANDIDATES[name].base == MEAN]
PAIRS = [(name, CANDIDATES[name].base) for name in REAL if CANDIDATES[name].base != name]
PAIRS.insert(2, (PLAIN, STILL))


# How long the first steps are.

KINDS: dict[str, Callable[[jax.Array], jax.Array]] = {  # of a key: 2,000 gradients
  'noise': lambda key: jax.random.normal(key, (2000,)),
  'heavy tails': lambda key: jax.random.cauchy(key, (2000,)),
  'constant': lambda _: jnp.ones(2000),
}


def lengths(tx: bo.Recipe, kind: str, scale: Any, steps: int) -> jax.Array:
  """The largest |step| / learning rate of each step."""

  def step(state: Any, t: jax.Array) -> Any:
    updates, state = tx.update(scale * KINDS[kind](jax.random.key(t)), state, params)
    return state, jnp.abs(updates).max()

  params = jnp.zeros(2000)
  return jax.lax.scan(step, tx.init(params), jnp.arange(steps))[1]


VARIANTS: dict[str, dict[str, Any]] = {
  'nesterov': {'nesterov': True},
  'amsgrad': {'amsgrad': True},
  'eps_scaled': {'eps_scaled': True},
  "residual='previous'": {'residual': 'previous'},
  "residual='debiased'": {'residual': 'debiased'},
}


def longest_step(steps: int) -> float:
  """The longest last step of AdaBelief, not rectified, that a search over sequences of gradients found."""

  def length(grads: np.ndarray, b1: float = 0.9, b2: float = 0.999) -> float:
    mean = belief = 0.0
    for g in grads:
      mean += (1 - b1) * (g - mean)
      belief = b2 * belief + (1 - b2) * (g - mean) ** 2 + 1e-16
    t = len(grads)
    return abs(mean / (1 - b1**t)) / (belief / (1 - b2**t)) ** 0.5

  rng = np.random.default_rng(0)
  starts = [rng.normal(size=steps) + i % 2 for i in range(10)]
  worst = min((scipy.optimize.minimize(lambda g: -length(g), x) for x in starts), key=lambda found: found.fun).x
  tx, params = bo.adabelief(1.0, rectify=False), jnp.zeros(())
  state, updates = tx.init(params), params
  for g in worst:
    updates, state = tx.update(jnp.float32(g), state, params)
  return abs(float(updates))


def lengths_section(quick: bool) -> dict[str, Any]:
  """The largest element of a step over the learning rate: 2,000 elements, parameters that stay at 0."""
  later = 50 if quick else 1000
  found: dict[str, Any] = {'later': later, 'steps': {}, 'after': {}, 'variants': {}}
  found['searched'] = {steps: longest_step(steps) for steps in ((2,) if quick else (2, 3, 5, 10))}
  for name in REAL:
    tx = CANDIDATES[name].make(1.0, 1.0)
    every = jax.vmap(lambda scale, tx=tx: {kind: lengths(tx, kind, scale, 10) for kind in KINDS})
    found['steps'][name] = {kind: x.tolist() for kind, x in jax.device_get(jax.jit(every)(jnp.array(SCALES))).items()}
    long = jax.jit(lambda tx=tx: {kind: lengths(tx, kind, 1.0, later)[10:].max() for kind in KINDS})
    found['after'][name] = {kind: float(x) for kind, x in jax.device_get(long()).items()}
  for variant, options in VARIANTS.items():
    found['variants'][variant] = {}
    for name, more in {STILL: {'rectify': True, 'degenerate_to_sgd': False}, PLAIN: {'rectify': False}}.items():
      tx = bo.adabelief(1.0, **options, **more)
      run = jax.jit(lambda tx=tx: {kind: lengths(tx, kind, 1.0, 10).max() for kind in KINDS})
      found['variants'][variant][name] = {kind: float(x) for kind, x in jax.device_get(run()).items()}
  return found


def number(x: float) -> str:
  if not math.isfinite(x):
    return 'fails'
  return '0' if x == 0 else f'{x:,.0f}' if 1000 <= abs(x) < 1e6 else f'{x:.2g}' if abs(x) < 10 else f'{x:.3g}'


def lengths_text(s: dict[str, Any]) -> list[str]:
  scales = [f'scale {scale:g}' for scale in SCALES]
  longest = lambda name, kind: [max(x) for x in s['steps'][name][kind]]
  rows = [[name, kind, *map(number, longest(name, kind))] for name in REAL for kind in KINDS]
  each = [
    [name, f'{SCALES[i]:g}', *map(number, s['steps'][name]['noise'][i])]
    for name, i in itertools.product(REAL, (ONE, len(SCALES) - 1))
  ]
  worst = {name: max(max(longest(name, kind)) for kind in KINDS) for name in REAL}
  bounded = [name for name in REAL if name not in (MEAN, MEAN_R)]
  after = [[name, *(number(s['after'][name][kind]) for kind in KINDS)] for name in REAL]
  variants = [
    [variant, *(number(of[name][kind]) for name in (STILL, PLAIN) for kind in KINDS)]
    for variant, of in s['variants'].items()
  ]
  debiased = {name: max(s['variants']["residual='debiased'"][name].values()) for name in (STILL, PLAIN)}
  header = [f'{name.split(", ")[1]}: {kind}' for name in (STILL, PLAIN) for kind in KINDS]
  return [
    f'{lengths_section.__doc__} The longest of the first ten steps, for gradients of that scale:',
    table(['', 'gradients', *scales], rows),
    'Step by step, on noise:',
    table(['', 'scale', *(f'step {t}' for t in range(1, 11))], each),
    f'**Reading.** The mean is as long as the gradient: {number(worst[MEAN])} learning rates at the worst. No step of '
    f'the others is longer than {listed([f"{worst[n]:.2f} ({n})" for n in bounded])}, at any scale. These are three '
    'kinds of gradients, not all that exist. A search over all sequences of gradients of one element found nothing '
    f'longer for {PLAIN} than {listed([f"{x:.2f} at step {t}" for t, x in s["searched"].items()])}. A search is no '
    'proof.',
    f'The longest of steps 11 to {s["later"]:,} at scale 1. A constant gradient is what AdaBelief believes in: its '
    'step grows for as long as nothing disturbs it, with and without rectification. This is the algorithm, not its '
    'start.',
    table(['', *KINDS], after),
    'The longest of the first ten steps at scale 1 with other options of `adabelief`:',
    table(['', *header], variants),
    "The corrected mean of one gradient is that gradient, so with `residual='debiased'` the first residual is taken as "
    'the gradient itself. As a difference it would be 0, and the first step would have no scale to divide by: it was '
    'up to 1.36e+07 learning rates long, and standing still at first did not help on a constant gradient (150,286). '
    f'Now the longest are {number(debiased[PLAIN])} and {number(debiased[STILL])}.',
  ]


# What rectification itself costs.

RECTIFIED = (1, 5, 6, 10, 30, 100, 300, 1000, 3000)
B2 = (0.5, 0.6, 0.66, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999)


def factor(t: int, b2: float) -> float:
  """What rectification multiplies step t with when it stands still at first."""
  first = formulas.first_tractable_step(b2, 5.0)
  if first is None or t < first:
    return 0.0
  lam = formulas.decay_exponent(b2)
  rho = formulas.effective_length(t * lam, lam)
  return float(formulas.rectification(rho, formulas.effective_length_limit(lam), True))


def factor_section(quick: bool) -> dict[str, Any]:
  """The factor r_t by which rectification shortens step t (b2 = 0.999)."""
  del quick
  sums = np.cumsum([1 - factor(t, 0.999) for t in range(1, RECTIFIED[-1] + 1)])
  rows = {t: (factor(t, 0.999), float(sums[t - 1])) for t in RECTIFIED}
  starts = {b2: formulas.first_tractable_step(b2, 5.0) for b2 in B2}
  return {
    'rows': [[t, *row] for t, row in rows.items()],
    'first': [[b2, first, factor(first, b2) if first else 0.0] for b2, first in starts.items()],
  }


def factor_text(s: dict[str, Any]) -> list[str]:
  rows = {t: (r, lost) for t, r, lost in s['rows']}
  never = [f'{b2:g}' for b2, first, _ in s['first'] if first is None]
  begin = next(t for t, (r, _) in rows.items() if r)
  return [
    f'{factor_section.__doc__} "Lost" is the sum of 1 - r up to that step: the motion that is missing, in full steps.',
    table(
      ['step', *(f'{t:,}' for t in rows)],
      [['r_t', *(f'{r:.3f}' for r, _ in rows.values())], ['lost', *(f'{lost:.1f}' for _, lost in rows.values())]],
    ),
    f'**Reading.** To stand still for {begin - 1} steps costs {rows[begin - 1][1]:.0f} full steps. The warm-up that '
    f'follows costs many more: {rows[100][1]:.0f} after 100 steps, {rows[1000][1]:.0f} after 1,000. Both rectified '
    'candidates have it.',
    'When the first adaptive step comes, by b2:',
    table(
      ['b2', *(f'{b2:g}' for b2, _, _ in s['first'])],
      [
        ['first adaptive step', *(str(first or 'never') for _, first, _ in s['first'])],
        ['its r_t', *(f'{r:.3f}' if first else '' for _, first, r in s['first'])],
      ],
    ),
    f'For b2 = {listed(never)} there is no adaptive step at all. "Mean at first" is then SGD with a mean for ever. '
    '"Still at first" would never move, and is an error.',
  ]


# Tasks.


class Task(NamedTuple):
  """What is trained. A seed draws the start and the data, so that all candidates of a seed meet the same."""

  title: str
  steps: int
  draw: Callable[[np.random.Generator, int], Any]  # steps -> start, data
  loss: Callable[[Any, Any, Any], jax.Array]  # parameters, data, t
  score: Callable[[Any, Any], jax.Array] | None = None  # parameters, data -> what is reported; None: steps until near
  near: Callable[[Any], jax.Array] | None = None
  scales: tuple[float, ...] = SCALES


def digits_task(epochs: int, *hidden: int, held_out: bool = False) -> Task:
  images, labels, *test = digits()
  x, y = test if held_out else (images, labels)

  def draw(rng: np.random.Generator, steps: int) -> Any:
    orders = [rng.permutation(len(images))[: 40 * 32].reshape(40, 32) for _ in range(epochs)]
    return layers(rng, 64, *hidden, 10), np.concatenate(orders)[:steps].astype(np.int32)

  loss = lambda p, take, t: cross_entropy(perceptron(p, images[take[t]]), labels[take[t]])
  score = lambda p, _: cross_entropy(perceptron(p, x), y)
  shape, which = '-'.join(map(str, (64, *hidden, 10))), '500 test' if held_out else 'training'
  title = f'cross entropy of the {which} images; perceptron {shape}, batches of 32, epochs: {epochs}'
  return Task(title, 40 * epochs, draw, loss, score, scales=(1.0,) if held_out else SCALES)


def least_squares() -> Task:
  """20 unknowns, 64 equations without noise, singular values from 0.1 to 1."""

  def draw(rng: np.random.Generator, steps: int) -> Any:
    del steps
    u, _, vt = np.linalg.svd(rng.normal(size=(64, 20)), full_matrices=False)
    a = 8 * u * np.geomspace(0.1, 1, 20) @ vt
    return np.zeros(20, np.float32), (np.float32(a), np.float32(a @ rng.normal(size=20)))

  score = lambda p, data: jnp.mean((data[0] @ p - data[1]) ** 2)
  title = f'mean square; {least_squares.__doc__[:-1]}'
  return Task(title, 500, draw, lambda p, data, _: score(p, data), score)


def oscillation() -> Task:
  """A damped oscillation without noise at 100 times: amplitude, damping, frequency and phase are fitted."""
  times = jnp.linspace(0, 5, 100)

  def curve(p: Any) -> jax.Array:
    return p[0] * jnp.exp(-p[1] * times) * jnp.cos(p[2] * times + p[3])

  def draw(rng: np.random.Generator, steps: int) -> Any:
    del steps
    truth = np.array([1.0, 0.3, 2.0, 0.5]) * np.exp(0.2 * rng.normal(size=4))
    return np.array([1.0, 0.3, 2.0, 0.5], np.float32), np.float32(truth)

  score = lambda p, truth: jnp.mean((curve(p) - curve(truth)) ** 2)
  return Task(f'mean square; {oscillation.__doc__[:-1]}', 500, draw, lambda p, truth, _: score(p, truth), score)


def variational() -> Task:
  """A normal distribution with independent elements is fitted to a posterior, by 4 samples of the ELBO a step."""
  # Bayesian linear regression, 100 observations with a noise of 0.5: the posterior is known, the ELBO a sum, as usual.

  def draw(rng: np.random.Generator, steps: int) -> Any:
    x = rng.normal(size=(100, 10)) + rng.normal(size=(100, 1))
    y = x @ rng.normal(size=10) + 0.5 * rng.normal(size=100)
    precision = 4 * x.T @ x + np.eye(10)
    mean = np.linalg.solve(precision, 4 * x.T @ y)
    start = {'mean': np.zeros(10, np.float32), 'log_scale': np.zeros(10, np.float32)}
    return start, tuple(map(np.float32, (precision, mean, rng.normal(size=(steps, 4, 10)))))

  def loss(p: Any, data: Any, t: Any) -> jax.Array:
    precision, mean, noise = data
    off = p['mean'] + jnp.exp(p['log_scale']) * noise[t] - mean
    return jnp.mean(jnp.sum(off * (off @ precision), -1)) / 2 - p['log_scale'].sum()

  def score(p: Any, data: Any) -> jax.Array:
    precision, mean, _ = data
    off, x = p['mean'] - mean, jnp.diag(precision) * jnp.exp(2 * p['log_scale']) - 1
    return (off @ precision @ off + jnp.sum(x - jnp.log1p(x))) / 2

  return Task(f'nats above the best of its kind; {variational.__doc__[:-1]}', 1000, draw, loss, score)


def landscape(height: Callable[[Any, Any], Any], start: tuple[float, float], minimum: tuple[float, float]) -> Task:
  def draw(rng: np.random.Generator, steps: int) -> Any:
    del steps
    return np.float32(start + 0.1 * rng.normal(size=2)), np.zeros(1, np.float32)

  title = f'steps to distance 0.1 of the minimum, at a constant rate, from beside {start}'
  return Task(
    title, 10_000, draw, lambda p, *_: height(*p), near=lambda p: jnp.linalg.norm(p - jnp.array(minimum)) <= 0.1
  )


# As in examples/landscapes.py.
beale = lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2
rosenbrock = lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2
TASKS: dict[str, Callable[[], Task]] = {
  'digits': lambda: digits_task(5, 32),
  'digits, one epoch': lambda: digits_task(1, 32),
  'digits, longer': lambda: digits_task(20, 32, 32, 32, held_out=True),
  'least squares': least_squares,
  'oscillation': oscillation,
  'variational': variational,
  'sum of two moduli': lambda: landscape(lambda x, y: abs(x) + abs(y), (4.0, 3.0), (0.0, 0.0)),
  'oblique moduli': lambda: landscape(lambda x, y: abs(x + y) + abs(x - y) / 10, (4.0, 1.0), (0.0, 0.0)),
  'Beale': lambda: landscape(beale, (1.0, 1.5), (3.0, 0.5)),
  'Rosenbrock': lambda: landscape(rosenbrock, (-2.0, 2.0), (1.0, 1.0)),
}


def train(task: Task, candidate: Candidate, rate: Any, scale: Any, drawn: Any) -> jax.Array:
  """log10 of the score after training with the loss multiplied by the scale."""
  start, data = drawn

  def step(carry: Any, t: jax.Array) -> Any:
    params, state, arrived = carry
    grads = jax.grad(lambda p: scale * task.loss(p, data, t))(params)
    now = rate if task.near else rate * (1 + jnp.cos(jnp.pi * t / task.steps)) / 2
    updates, state = candidate.make(now, scale).update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    if task.near:
      arrived = jnp.where(task.near(params), jnp.minimum(arrived, t + 1.0), arrived)
    return (params, state, arrived), None

  start = jax.tree.map(jnp.asarray, start)
  carry = start, candidate.make(rate, scale).init(start), jnp.inf
  (params, _, arrived), _ = jax.lax.scan(step, carry, jnp.arange(task.steps))
  return jnp.log10(jnp.maximum(task.score(params, data), LEAST) if task.score else arrived)


def kept(scores: np.ndarray) -> list[Any]:
  """[rate][scale][seed], None for a failure."""
  return [[[round(x, 3) if math.isfinite(x) else None for x in seeds] for seeds in of] for of in scores.tolist()]


def training_section(quick: bool) -> dict[str, Any]:
  """Training with the loss multiplied by 1e-4 .. 1e4."""
  count = 3 if quick else SEEDS + CHOOSING
  tasks: dict[str, Any] = {}
  for title, make in TASKS.items():
    task = make()
    task = task._replace(steps=20) if quick else task
    drawn = [task.draw(np.random.default_rng(seed), task.steps) for seed in range(count)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *drawn)
    biggest = [max(float(jnp.abs(x).max()) for x in jax.tree.leaves(jax.grad(task.loss)(*one, 0))) for one in drawn]
    found: dict[str, Any] = {
      'title': task.title,
      'steps': task.steps,
      'gradient': biggest[:SEEDS],
      'scales': task.scales,
      'scores': {},
    }
    for name in CANDIDATES if task.scales == SCALES else REAL:
      candidate = CANDIDATES[name]
      begin = time.perf_counter()
      one = lambda rate, scale, drawn, of=(task, candidate): train(*of, rate, scale, drawn)
      every = jax.vmap(jax.vmap(jax.vmap(one, (None, None, 0)), (None, 0, None)), (0, None, None))
      scores = np.asarray(jax.jit(every)(jnp.array(RATES), jnp.array(task.scales), stacked), np.float64)
      found['scores'][name] = kept(scores)
      print(f'{title}, {name}: {time.perf_counter() - begin:.1f} s', file=sys.stderr, flush=True)
    tasks[title] = found
  return {'rates': RATES, 'scales': SCALES, 'seeds': min(SEEDS, count), 'tasks': tasks}


# What is said of it.


class Scores:
  """The scores of one task: log10, the lower the better, infinite for a failure."""

  def __init__(self, task: dict[str, Any], seeds: int):
    self.all = {name: np.nan_to_num(np.array(x, np.float64), nan=np.inf) for name, x in task['scores'].items()}
    self.seeds, self.scaled = seeds, len(task['scales']) > 1

  def best(self, name: str, scale: int) -> int:
    """The learning rate with the least median of the seeds that choose."""
    of = self.all[name][:, self.index(scale)]
    return int(np.median(of[:, self.seeds :] if of.shape[1] > self.seeds else of, axis=1).argmin())

  def at(self, name: str, rate: int, scale: int) -> np.ndarray:
    return self.all[name][rate, self.index(scale), : self.seeds]

  def index(self, scale: int) -> int:
    return scale if self.scaled else 0


MATERIAL = 1.1  # a tenth
SMALL = 10.0  # the first gradient of a task that is well scaled


class Comparison(NamedTuple):
  verdict: str
  factor: float = math.nan  # ours / theirs
  low: float = math.nan
  high: float = math.nan
  failed: tuple[int, int] = (0, 0)  # seeds of ours alone, of theirs alone

  def __str__(self) -> str:
    fails = f'; {self.failed[0]} to {self.failed[1]} seeds fail' if any(self.failed) else ''
    if math.isnan(self.factor):
      return self.verdict + fails
    return f'{times(self.factor)} ({times(self.low)} .. {times(self.high)}) {self.verdict}{fails}'


def times(x: float) -> str:
  return f'{x:.3f}' if 0.1 <= x < 10 else f'{x:.2g}'


def compare(ours: np.ndarray, theirs: np.ndarray) -> Comparison:
  """Pairs of seeds. A failure counts where six seeds more fail than of the other side (a sign test at 3 %)."""
  a, b = np.isfinite(ours), np.isfinite(theirs)
  failed = int((~a & b).sum()), int((a & ~b).sum())
  if not (a | b).any():
    return Comparison('both fail')
  both = a & b
  mean, half = interval(ours[both] - theirs[both]) if both.sum() > 2 else (math.nan, math.nan)
  if abs(failed[0] - failed[1]) >= 6:
    verdict = 'worse' if failed[0] > failed[1] else 'better'
  else:
    verdict = 'tie' if not abs(mean) > half else 'worse' if mean > 0 else 'better'
  return Comparison(verdict, *(float(10**x) for x in (mean, mean - half, mean + half)), failed)


def score_cell(scores: np.ndarray, counts: bool) -> str:
  show = (lambda x: f'{float(f"{x:.3g}"):,.0f}' if math.isfinite(x) else 'fails') if counts else number
  with np.errstate(invalid='ignore'):
    low, median, high = np.quantile(scores, (0.25, 0.5, 0.75), method='nearest')
  if not np.isfinite(median):
    return 'fails'
  return f'{show(10**median)} ({show(10**low)} .. {show(10**high)})'


def training_text(s: dict[str, Any]) -> list[str]:
  tasks = {title: Scores(task, s['seeds']) for title, task in s['tasks'].items()}
  scales = [f'scale {scale:g}' for scale in SCALES]
  lines = [
    f'{training_section.__doc__} The learning rates are {", ".join(f"{r:g}" for r in RATES)} in all cases. They fall '
    'to 0 along a cosine; where the score is a number of steps they are constant. '
    f'{s["seeds"]} seeds count. {CHOOSING} other seeds choose '
    'the rate with the least median at scale 1. This rate is then kept for all scales. A cell is the median and the '
    'quartiles of the seeds, the less the better; "fails" stands for a median that is not finite, or never arrives '
    f'within {max(t["steps"] for t in s["tasks"].values()):,} steps. A score below {LEAST:g} counts as {LEAST:g}. '
    '"Gradient" is the largest element of the first gradient at scale 1, median of the seeds.',
  ]
  for title, task in s['tasks'].items():
    rows = []
    indices = range(len(SCALES)) if tasks[title].scaled else [ONE]
    for name in task['scores']:
      best = tasks[title].best(name, ONE)
      cells = [score_cell(tasks[title].at(name, best, i), task['title'].startswith('steps')) for i in indices]
      rows.append([name, f'{RATES[best]:g}', *cells])
    lines += [
      f'**{title}**: {task["title"]}. {task["steps"]:,} steps. Gradient {number(float(np.median(task["gradient"])))}.',
      table(['', 'rate', *(scales[i] for i in indices)], rows),
    ]
  scaled = {title: of for title, of in tasks.items() if of.scaled}
  return [*lines, *invariance_text(scaled), *retuned_text(scaled)]


def against_one(tasks: dict[str, Scores], name: str) -> list[dict[str, Comparison]]:
  """By scale: each task at that scale against itself at scale 1, at the rate of scale 1."""
  best = {title: of.best(name, ONE) for title, of in tasks.items()}
  return [
    {title: compare(of.at(name, best[title], i), of.at(name, best[title], ONE)) for title, of in tasks.items()}
    for i in range(len(SCALES))
  ]


def tally(found: Sequence[Comparison]) -> str:
  counts = Counter(c.verdict for c in found)
  return ', '.join(f'{counts[word]} {word}' for word in ('better', 'tie', 'worse', 'both fail') if counts[word])


def invariance_text(tasks: dict[str, Scores]) -> list[str]:
  rows, others = [], [i for i in range(len(SCALES)) if i != ONE]
  for name in CANDIDATES:
    found = against_one(tasks, name)
    rows.append([name, *(tally(list(found[i].values())) for i in others)])
  return [
    f'### Does the scale matter?\n\nEach of the {len(tasks)} tasks against itself at scale 1, at the same rate. A tie '
    'has a 95 % interval of the paired differences that holds 0 or is 0 for all seeds. The two controls multiply eps '
    'with the scale (and eps_root with its square), so that nothing but rounding depends on it.',
    table(['', *(f'scale {SCALES[i]:g}' for i in others)], rows),
    *reading_of_invariance(tasks),
  ]


def reading_of_invariance(tasks: dict[str, Scores]) -> Iterator[str]:
  said = []
  for name in CANDIDATES:
    found = [c for of in against_one(tasks, name) for c in of.values()]
    lost = [c for c in found if c.verdict == 'worse' and (c.failed[0] >= 6 or c.factor > MATERIAL)]
    fails = sum(c.failed[0] >= 6 for c in lost)
    cases = f'{len(lost)} of {len(tasks) * (len(SCALES) - 1)} cases'
    said.append(f'- {name}: {cases}{f", of which {fails} fail" if fails else ""}')
  yield 'Worse than at scale 1 by more than a tenth:\n\n' + '\n'.join(said)
  yield 'A case that is worse while its control is a tie is due to eps: it counts where gradients are tiny.'


def retuned_text(tasks: dict[str, Scores]) -> list[str]:
  def cell(ours: str, theirs: str, i: int) -> str:
    return tally([compare(t.at(ours, t.best(ours, i), i), t.at(theirs, t.best(theirs, i), i)) for t in tasks.values()])

  def kept(ours: str, theirs: str, i: int) -> str:
    return tally(
      [compare(t.at(ours, t.best(ours, ONE), i), t.at(theirs, t.best(theirs, ONE), i)) for t in tasks.values()]
    )

  rows = [
    [f'{ours} against {theirs}', how, *(of(ours, theirs, i) for i in range(len(SCALES)))]
    for ours, theirs in PAIRS
    for how, of in (('of scale 1', kept), ('of each scale', cell))
  ]
  return [
    f'### Against each other, at every scale\n\nThe {len(tasks)} tasks, both sides with the rate that is best for them '
    'at scale 1, or chosen anew at each scale.',
    table(['', 'rate', *(f'scale {scale:g}' for scale in SCALES)], rows),
  ]


def verdict_text(s: dict[str, Any]) -> list[str]:
  tasks = {title: Scores(task, s['seeds']) for title, task in s['tasks'].items()}
  header = ['factor of the final score', *(f'{ours} / {theirs}' for ours, theirs in PAIRS)]
  own = lambda t, ours, theirs: compare(t.at(ours, t.best(ours, ONE), ONE), t.at(theirs, t.best(theirs, ONE), ONE))
  same = lambda t, ours, theirs, rate: compare(t.at(ours, rate, ONE), t.at(theirs, rate, ONE))
  found = {pair: {title: own(t, *pair) for title, t in tasks.items()} for pair in PAIRS}
  rows = [[title, *(str(found[pair][title]) for pair in PAIRS)] for title in tasks]
  rows.append(['all tasks', *(tally(list(found[pair].values())) for pair in PAIRS)])
  small = {title: float(np.median(task['gradient'])) <= SMALL for title, task in s['tasks'].items()}
  for what, is_small in ((f'gradient up to {SMALL:g}', True), (f'gradient above {SMALL:g}', False)):
    of = lambda pair, yes=is_small: [c for title, c in found[pair].items() if small[title] == yes]
    rows.append([what, *(tally(of(pair)) for pair in PAIRS)])
  grid = [
    [f'{value:g}', *(tally([same(t, *pair, rate) for t in tasks.values()]) for pair in PAIRS)]
    for rate, value in enumerate(RATES)
  ]
  material = lambda of: [
    f'{title} ({times(c.factor)})' for title, c in of.items() if c.verdict == 'worse' and c.factor > MATERIAL
  ]
  won = lambda of: [
    f'{title} ({times(c.factor)})' for title, c in of.items() if c.verdict == 'better' and c.factor < 1 / MATERIAL
  ]
  total = sum(len(of) for of in found.values())
  lines = [
    f'- {ours} against {theirs}: better by more than a tenth on {listed(won(of)) or "none"}; worse by more than a '
    f'tenth on {listed(material(of)) or "none"}.'
    for (ours, theirs), of in found.items()
  ]
  ends = [name for t in tasks.values() for name in REAL if t.best(name, ONE) in (0, len(RATES) - 1)]
  edge = ', '.join(f'{name}: {ends.count(name)}' for name in REAL)
  return [
    'The loss as it is (scale 1), each side at its own best rate. The factor of the final score, or of the number of '
    'steps, is a geometric mean with its 95 % interval over pairs of seeds; below 1 the first one is better. An '
    f'interval that holds 1 is a tie. The rows on the gradient divide the tasks by the first gradient: below {SMALL:g} '
    'they are called well scaled.',
    table(header, rows),
    f'**Reading.** Of {total} intervals {0.05 * total:.1f} are expected to miss 1 by chance.\n\n' + '\n'.join(lines),
    'The best rates. A candidate that takes the place of another one may want another rate:',
    table(
      ['', *(name for name in REAL)],
      [[title, *(f'{RATES[t.best(name, ONE)]:g}' for name in REAL)] for title, t in tasks.items()],
    ),
    f'The best rate is at the edge of the grid in {len(ends)} of {len(tasks) * len(REAL)} cases ({edge}).',
    f'The same {len(tasks)} tasks with both sides at the same rate. No choice of a rate enters here; a warm-up, which '
    'rectification is, shortens all early steps and so gains where the rate is too large and loses where it is small.',
    table(['rate', *header[1:]], grid),
  ]


def defaults() -> str:
  of = {f: inspect.signature(f).parameters for f in (bo.adabelief, bo.radam)}
  show = lambda f, *keys: f'`bo.{f.__name__}` ({", ".join(f"{key}={of[f][key].default}" for key in keys)})'
  return f'{show(bo.adabelief, "rectify", "degenerate_to_sgd")} and {show(bo.radam, "degenerate_to_sgd")}'


def markdown(report: dict[str, Any]) -> str:
  machine, seconds = report['machine'], report['seconds']
  versions = ', '.join(f'{package} {version}' for package, version in machine['versions'].items())
  note = '**--quick: a smoke test, no measurement.** ' if report['quick'] else ''
  lines = [
    '# The first steps of AdaBelief and RAdam',
    'Written by `python -m benchmarks.first_steps` from what it measured, which is kept in '
    '`benchmarks/results/first_steps.json`.',
    'The second moment of the first gradients is a poor estimate. Rectification (RAdam) therefore has no adaptive step '
    'before step 6 (b2 = 0.999). What happens until then is a choice. The mean of the gradients is a step of SGD: its '
    'length is that of the gradient, so it depends on the scale of the loss. An adaptive step does not. Compared are',
    '\n'.join(f'- **{name}**: {CANDIDATES[name].text}.' for name in REAL),
    f'The defaults were {report["defaults"]} when this was written.',
    '## How long the first steps are',
    *lengths_text(report['lengths']),
    '## What rectification costs',
    *factor_text(report['factor']),
    '## Training with the loss multiplied',
    *training_text(report['training']),
    '## At scale 1',
    *verdict_text(report['training']),
    '## What this does not say',
    '- The networks are small perceptrons; no transformer and no convolution was trained.\n'
    '- All tasks are short. Most of what rectification does happens in the first thousand steps.\n'
    f'- Scores at the floor of {LEAST:g} are ties by that. Least squares and the oscillation end there at good rates.\n'
    '- The number of steps to a minimum counts a path that only passes by it. At large rates it may be luck.\n'
    '- Where the best rate is at the edge of the grid, a better one may lie beyond.\n'
    '- No task has a warm-up of the learning rate, clipping of gradients, or weight decay.\n'
    '- Multiplying a loss is one way to change the scale of gradients. Other units for one parameter were not tried.',
    f'{note}*{report["date"]}, {seconds:.0f} s on {machine["cores"]} cores, {machine["cpu"]}, {versions}*',
  ]
  return '\n\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog='benchmarks.first_steps', description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true', help='tiny sizes: a smoke test, no measurement')
  parser.add_argument('--text', action='store_true', help='write the text anew from the kept figures')
  parser.add_argument(
    '--out', type=directory, help='folder (docs and benchmarks/results; with --quick: out/first_steps)'
  )
  args = parser.parse_args(argv)
  if args.quick and args.out is None:  # a smoke test must not take the place of measured results
    args.out = directory('out/first_steps')
  results = (args.out or ROOT / 'benchmarks' / 'results') / 'first_steps.json'
  if args.text:
    report = json.loads(results.read_text())
  else:
    begin = time.perf_counter()
    report = {
      'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
      'quick': args.quick,
      'machine': describe_machine(),
      'defaults': defaults(),
      'lengths': lengths_section(args.quick),
      'factor': factor_section(args.quick),
      'training': training_section(args.quick),
    }
    report['seconds'] = round(time.perf_counter() - begin, 1)
    results.write_text(json.dumps(report, separators=(',', ':')) + '\n')
  text = markdown(report)
  ((args.out or ROOT / 'docs') / 'first_steps.md').write_text(text)
  print(text)


if __name__ == '__main__':
  main()
