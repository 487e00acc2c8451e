"""What guards catch, what they cost in steps that should have been taken, and what they cost in bytes and time.

    python -m benchmarks.guards                     # `make bench-guards`: all sections; two minutes
    python -m benchmarks.guards --sections faults   # some of them; the figures of the others are kept
    python -m benchmarks.guards --quick             # a smoke test at tiny sizes; seconds

It keeps what it measures, section by section, in benchmarks/results/guards-<device>.json, and writes from that file the
tables of docs/guards.md, between their marks: no figure of a table is typed by hand.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

DEVICES = 8
COUNT = f'--xla_force_host_platform_device_count={DEVICES}'
if 'jax' not in sys.modules and 'device_count' not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {COUNT}'.strip()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import belief_optax as bo  # noqa: E402
from belief_optax import sharding  # noqa: E402
from benchmarks import step as timing  # noqa: E402
from benchmarks.sections import ROOT, Section, reports  # noqa: E402
from benchmarks.step import spread, table  # noqa: E402
from examples._common import digits  # noqa: E402

sys.path.insert(0, str(ROOT / 'examples'))  # the examples import what they share as scripts do
from landscapes import LANDSCAPES, arrival, walk  # noqa: E402

WORKERS, EACH, HIDDEN, SEED = 8, 8, 32, 0
LR = 3e-3


# A small training, into which faults are injected.


def start(key: jax.Array) -> dict[str, jax.Array]:
  one, two = jax.random.split(key)
  normal = lambda key, n, m: jax.random.normal(key, (n, m)) / jnp.sqrt(n)
  return {'w1': normal(one, 64, HIDDEN), 'b1': jnp.zeros(HIDDEN), 'w2': normal(two, HIDDEN, 10), 'b2': jnp.zeros(10)}


def logits(p: Any, x: jax.Array) -> jax.Array:
  return jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2'] + p['b2']


def loss(p: Any, x: jax.Array, y: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(logits(p, x), y).mean()


@functools.partial(jax.jit, static_argnums=0)
def train(tx: Any, factors: jax.Array, seed: jax.Array) -> Any:
  """Trains on digits with batches of eight workers, whose gradients are multiplied by factors [steps, workers].

  Returns whether each step was skipped (where a guard says so), and the accuracy on the test images.
  """
  x, y, x_test, y_test = digits()
  p = start(jax.random.key(seed))

  def step(carry: Any, inputs: Any) -> Any:
    p, state = carry
    t, factor = inputs
    rows = jax.random.randint(jax.random.fold_in(jax.random.key(seed + 100), t), (WORKERS, EACH), 0, len(x))
    grads = jax.vmap(lambda rows: jax.grad(loss)(p, x[rows], y[rows]))(rows)
    mean = lambda g: jnp.mean(g * factor.reshape(-1, *[1] * (g.ndim - 1)), 0)
    p, new = bo.step(tx, p, state, jax.tree.map(mean, grads))
    return (p, new), skipped(new) > skipped(state)

  carry = p, tx.init(p)
  (p, _), skips = jax.lax.scan(step, carry, (jnp.arange(len(factors)), factors))
  return skips, jnp.mean(logits(p, x_test).argmax(-1) == y_test)


def skipped(state: Any) -> Any:
  found = [getattr(state, name) for name in ('skipped', 'total_notfinite') if hasattr(state, name)]
  return found[0] if found else jnp.zeros((), jnp.int32)


FAULTS = {  # by what the gradients of the workers are multiplied, and from which step on
  'none': (1.0, 64),
  'x 10': (10.0, 64),
  'x 100': (100.0, 64),
  'x 1e6': (1e6, 64),
  'x 100, first 64 steps': (100.0, 0),
  'NaN': (np.nan, 64),
  'inf': (np.inf, 64),
  'NaN of one worker of 8': ('one', 64),
  'zeros': (0.0, 64),
}
CONTENDERS = {
  'unguarded': bo.adabelief(LR),
  'optax.apply_if_finite': optax.apply_if_finite(bo.adabelief(LR), 5),
  'skip_unhealthy': bo.skip_unhealthy(bo.adabelief(LR)),
}


def injected(kind: str, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """The factors of a training, and which of its steps are faulty: eight alone, and two runs of four."""
  factor, first = FAULTS[kind]
  draw = np.random.default_rng(seed)
  last = steps if first else 64
  alone = draw.choice(np.arange(first, last - 8), 8, replace=False)
  runs = draw.choice(np.arange(first, last - 8), 2, replace=False)
  faulty = np.zeros(steps, bool)
  if kind != 'none':
    faulty[np.concatenate([alone, *(runs + i for i in range(4))])] = True
  factors = np.ones((steps, WORKERS), np.float32)
  if factor == 'one':
    factors[faulty, WORKERS - 1] = np.nan
  else:
    factors[faulty] = factor
  return factors, faulty


def faults_section(sizes: Any) -> dict[str, Any]:
  """Faults in a training on digits."""
  cases = [(kind, seed) for kind in FAULTS for seed in range(sizes.seeds)]
  made = [injected(kind, sizes.steps, seed) for kind, seed in cases]
  factors, seeds = jnp.asarray([f for f, _ in made]), jnp.asarray([seed for _, seed in cases])
  rows: dict[str, Any] = {
    kind: {'injected': 0, 'caught': 0, 'healthy': 0, 'false': 0, 'accuracy': {}} for kind in FAULTS
  }
  for name, tx in CONTENDERS.items():
    skips, accuracy = jax.device_get(jax.vmap(functools.partial(train, tx))(factors, seeds))
    for (kind, _), (_, faulty), skip, right in zip(cases, made, skips, accuracy, strict=True):
      row = rows[kind]
      row['accuracy'].setdefault(name, []).append(round(float(right), 4))
      if name == 'skip_unhealthy':
        counts = {'injected': faulty, 'caught': faulty & skip, 'healthy': ~faulty, 'false': ~faulty & skip}
        for what, which in counts.items():
          row[what] += int(which.sum())
  return {'steps': sizes.steps, 'seeds': sizes.seeds, 'rows': rows, 'devices': on_devices(sizes.on_devices)}


def on_devices(steps: int) -> dict[str, Any]:
  """The NaN of one of eight devices, inside `jax.shard_map`: how many devices skip which steps."""
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  x, y, *_ = digits()
  tx, p = bo.skip_unhealthy(bo.adabelief(LR)), start(jax.random.key(0))

  def local(p: Any, state: Any, x: jax.Array, y: jax.Array, factor: jax.Array) -> Any:
    grads = jax.grad(loss)(sharding.local_params(p, 'data'), x, y)
    grads = sharding.mean_gradients(jax.tree.map(lambda g: g * factor[0], grads), 'data')
    p, new = tx.step(p, state, grads)
    return p, new, (new.skipped - state.skipped)[None]

  specs = P(), P(), P('data'), P('data'), P('data')
  shards = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), P(), P()))
  step, state, n = jax.jit(shards), tx.init(p), jax.device_count()
  factors, faulty = injected('NaN of one worker of 8', max(steps, 96), SEED)
  caught = wrong = 0
  for t in range(steps):
    rows = np.random.default_rng(t).integers(0, len(x), EACH * n)
    p, state, skip = step(p, state, x[rows], y[rows], jnp.asarray(np.resize(factors[t], n)))
    votes = [int(part.data[0]) for part in skip.addressable_shards]
    caught += faulty[t] and sum(votes) == n
    wrong += sum(votes) != n * faulty[t]
  return {
    'devices': n,
    'steps': steps,
    'injected': int(faulty[:steps].sum()),
    'caught': int(caught),
    'wrong': int(wrong),
  }


def faults_text(s: dict[str, Any]) -> list[str]:
  percent = lambda accuracies: f'{100 * np.mean(accuracies):.1f}'
  header = ['fault', 'injected', 'skipped', 'healthy steps', 'skipped', *(f'accuracy, {name}' for name in CONTENDERS)]
  cells = lambda row: [
    f'{row["injected"]}',
    f'{row["caught"]}',
    f'{row["healthy"]:,}',
    f'{row["false"]}',
    *(percent(row['accuracy'][name]) for name in CONTENDERS),
  ]
  d = s['devices']
  return [
    f"AdaBelief at learning rate {LR} trains a small network on scikit-learn's digits for {s['steps']} steps, "
    f'{s["seeds"]} seeds of each fault; 16 steps of each training are faulty: single ones, and runs of four. Accuracy '
    'is that on the test images in %, the mean over the seeds. Zeros are no fault that a guard should see.',
    table(header, [[kind, *cells(row)] for kind, row in s['rows'].items()]),
    f'On {d["devices"]} devices inside `jax.shard_map`, where one of them has a NaN at {d["injected"]} of {d["steps"]} '
    f'steps: all {d["devices"]} devices skipped {d["caught"]} of these, and at {d["wrong"]} steps some device decided '
    'otherwise than it should.',
  ]


# False alarms where nothing is wrong.

TAILS = {'normal': np.inf, 'Student t, 5': 5.0, 'Student t, 3': 3.0, 'Student t, 2': 2.0}
SIGMAS = (4.0, 6.0, 8.0)


def tails_section(sizes: Any) -> dict[str, Any]:
  """False alarms with heavy tails: the norm of gradients whose elements are noise of this kind, per 1000 steps."""
  rows = {}
  for name, freedom in TAILS.items():
    draw = np.random.default_rng(0)
    noise = draw.normal if freedom == np.inf else functools.partial(draw.standard_t, freedom)
    norms = [np.linalg.norm(noise(size=sizes.elements)) for _ in range(sizes.tail_steps)]
    rows[name] = {f'{sigma:g}': 1e3 * _alarms(sigma, jnp.float32(norms)) / sizes.tail_steps for sigma in SIGMAS}
  return {'steps': sizes.tail_steps, 'elements': sizes.elements, 'rows': rows}


def _alarms(sigma: float, norms: jax.Array) -> int:
  tx = bo.skip_unhealthy(bo.sgd(0.1), sigma=sigma)
  step = lambda state, norm: (tx.update(norm, state)[1], None)
  return int(jax.jit(lambda x: jax.lax.scan(step, tx.init(x[0]), x)[0])(norms).skipped)


def tails_text(s: dict[str, Any]) -> list[str]:
  return [
    f'Healthy steps that are skipped of 1000, where nothing is wrong: {s["steps"]:,} gradients of {s["elements"]:,} '
    'independent elements each.',
    table(['noise', *(f'sigma {x:g}' for x in SIGMAS)], [
      [name, *(f'{x:.2f}' for x in row.values())] for name, row in s['rows'].items()
    ]),
  ]  # fmt: skip


# What the longest step costs.

LIMITS = (None, 1000.0, 100.0, 10.0, 3.0, 1.0)


def max_step_section(sizes: Any) -> dict[str, Any]:
  """The steps to distance 0.1 of the minimum, by `max_step`."""
  rows = {}
  txs = {
    f'AdaBelief, max_step={limit:g}' if limit else 'AdaBelief': bo.adabelief(1e-3, max_step=limit) for limit in LIMITS
  }
  clipped = bo.compose(bo.scale_by_belief(), bo.clip_by_rms(), bo.scale_by_learning_rate(1e-3))
  for name, tx in {**txs, 'AdaBelief, clip_by_rms': clipped, 'Adam': bo.adam(1e-3)}.items():
    paths = {k: walk(tx, x.height, jnp.array(x.start)) for k, x in list(LANDSCAPES.items())[: sizes.landscapes]}
    rows[name] = {k: arrival(np.asarray(path), LANDSCAPES[k].minimum) for k, path in paths.items()}
    longest = max(float(np.abs(np.diff(np.asarray(path), axis=0)).max()) for path in paths.values())
    rows[name]['longest'] = 1e3 * longest
  return {'rows': rows}


def max_step_text(s: dict[str, Any]) -> list[str]:
  names = [name for name in next(iter(s['rows'].values())) if name != 'longest']
  cells = lambda row: [*(str(row[name] or '> 20000') for name in names), f'{row["longest"]:,.1f}']
  header = ['', *(f'`{name}`' for name in names), 'longest step, learning rates']
  header = [x.replace('|', '\\|') for x in header]
  return [
    'Steps to distance 0.1 of the minimum on landscapes without noise (`examples/landscapes.py`), learning rate 0.001.',
    table(header, [[name, *cells(row)] for name, row in s['rows'].items()]),
  ]


# Bytes and time.


def selected(tx: Any) -> Callable[..., Any]:
  """The guard as it is often written: a step of which everything is then chosen anew."""

  def step(params: Any, state: Any, grads: Any) -> Any:
    healthy = jnp.isfinite(bo.guards.global_norm(grads))
    new = tx.step(params, state, grads)
    return jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, (params, state))

  return step


def cost_section(sizes: Any) -> dict[str, Any]:
  """A jitted, donated step of AdaBelief."""
  shapes, tx, every = timing.flat_tree(sizes.size, 8), bo.adabelief(LR), 8
  skip, mean = bo.skip_unhealthy(tx), bo.accumulate(tx, every)
  select, others = selected(tx), {
    'optax.apply_if_finite': optax.apply_if_finite(tx, 5),
    'optax.MultiSteps': optax.MultiSteps(tx, every).gradient_transformation(),
  }  # fmt: skip
  contenders: dict[str, Any] = {
    'the step alone': (tx, tx.step),
    'skip_unhealthy': (skip, skip.step),
    'skip_unhealthy, by update': (skip, None),
    'the step, then where': (tx, select),
    'optax.apply_if_finite': (others['optax.apply_if_finite'], None),
    'accumulate': (mean, mean.step),
    'optax.MultiSteps': (others['optax.MultiSteps'], None),
  }
  grads, rows, runs = timing.filled(shapes, seed=0), {}, {}
  for name, (one, step) in contenders.items():
    with bo.execution.use('xla'):
      compiled = timing.compile_step(one, shapes, step)
    params = timing.filled(shapes, seed=1)
    data = [params, one.init(params)]
    memory = compiled.memory_analysis()
    rows[name] = {
      'copies': copies(compiled.as_text(), jax.tree.leaves(shapes)),
      'temp': memory.temp_size_in_bytes / timing.count(shapes),
      'state': bo.state_bytes(data[1]) / timing.count(shapes),
    }

    def run(compiled: Any = compiled, data: list[Any] = data) -> dict[str, float]:
      seconds = 0.0
      for _ in range(every):  # a whole cycle
        one_step, data[:] = timing.timed(lambda: compiled(*data, grads))
        seconds += one_step
      return {'step': seconds / every}

    runs[name] = run
  sampler = timing.Sampler('cost', runs, sizes.rounds, warm_up=1)
  for name, row in rows.items():
    row |= {'ms': sampler.summary(name, 'step'), 'ratio': sampler.ratio(name, 'the step alone', 'step')}
  return {
    'size': timing.count(shapes),
    'rounds': sizes.rounds,
    'every': every,
    'busy': sampler.other_processes,
    'rows': rows,
  }


def cost_text(s: dict[str, Any]) -> list[str]:
  header = ['', 'ms', '/ the step alone', 'copies of arrays', 'temporaries, B/param', 'state, B/param']
  cells = lambda r: [
    spread(r['ms'], 1),
    spread(r['ratio'], 2),
    f'{r["copies"]}',
    f'{r["temp"]:.1f}',
    f'{r["state"]:.0f}',
  ]
  busy = 'an unknown number of' if s['busy'] is None else f'{s["busy"]:.2f}'
  return [
    f'A jitted, donated step of AdaBelief by XLA on {s["size"]:,} parameters in 8 arrays; {s["rounds"]} interleaved '
    f'rounds of {s["every"]} steps, of which accumulation with every={s["every"]} takes one; other processes kept '
    f'{busy} cores busy. Medians with quartiles.',
    table(header, [[name, *cells(row)] for name, row in s['rows'].items()]),
  ]


# The report.


SECTIONS = {
  'faults': Section(faults_section, faults_text),
  'tails': Section(tails_section, tails_text),
  'max_step': Section(max_step_section, max_step_text),
  'cost': Section(cost_section, cost_text),
}
SIZES: dict[str, tuple[Any, Any]] = {  # of the whole run, and of a smoke test
  'steps': (600, 96),
  'seeds': (5, 1),
  'on_devices': (160, 3),
  'tail_steps': (20_000, 300),
  'elements': (1000, 10),
  'landscapes': (4, 1),
  'size': (8_000_000, 8000),
  'rounds': (7, 2),
}


def copies(program: str, like: Sequence[Any]) -> int:
  """How many copies of arrays like the parameters a compiled program makes."""
  sizes = {str(list(x.shape)).replace(' ', '') for x in like}
  return sum(shape in sizes for shape in re.findall(r'= \w+(\[[\d,]*\])\S* copy\(', program))


def between_marks(page: str, report: dict[str, Any]) -> str:
  """The page with what the report says between the marks of each section."""
  for name, s in report.items():
    text = '\n\n'.join(SECTIONS[name].paragraphs(s))
    begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    if not tail:
      raise ValueError(f'docs/guards.md has no marks {begin} and {end}.')
    page = f'{head}{begin}\n\n{text}\n\n{end}{tail}'
  return page


def main(argv: Sequence[str] | None = None) -> None:
  page = ROOT / 'docs' / 'guards.md'
  for _, report, out in reports('guards', __doc__.splitlines()[0], SECTIONS, SIZES, argv):
    text = between_marks(page.read_text('utf-8'), report)
    (out / page.name if out else page).write_text(text, 'utf-8')


if __name__ == '__main__':
  main()
