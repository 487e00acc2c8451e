"""What low-precision states and parameters save, and what they cost: bytes, rounding, training, speed.

    python -m benchmarks.precision                     # all sections; half an hour
    python -m benchmarks.precision --sections speed    # some of them; the figures of the others are kept
    python -m benchmarks.precision --quick             # a smoke test at tiny sizes; seconds

It keeps what it measures, section by section, in benchmarks/results/precision-<device>.json. From that file it writes
docs/precision.md and its plots: no figure in the text is typed by hand.
"""

import dataclasses
import itertools
import pydoc_data.topics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import belief_optax as bo
from belief_optax import stores
from belief_optax.comparison.networks import cross_entropy, perceptron
from belief_optax.comparison.statistics import interval
from benchmarks import step as timing
from benchmarks.sections import ROOT, Section, reports
from benchmarks.step import BELIEF, LR, count, spread, table
from examples._common import COLORS, digits, save

# min_size=0: every array is coded, however small.
CODED = {'packed16': stores.Packed16(min_size=0), 'int8': stores.Int8()}
ROUNDING = {'bfloat16': stores.BFloat16(), **CODED}
STORES = {'float32': stores.FLOAT32, **ROUNDING}
METHODS = ('float32', 'nearest', 'stochastic', 'compensated', 'split')
COLOR = {name: color for names in (STORES, METHODS) for name, color in zip(names, COLORS.values(), strict=False)}
MEAN, DIFFERENCE = '{:.4f} ± {:.4f}', '{:+.4f} ± {:.4f}'
SPEED_GOALS = {'packed16': 0.35, 'int8': 0.6}
LOOP = ', one loop'


def percent(x: float) -> str:
  if x >= 1e4:
    return f'{x:.0e} times'
  return f'{1 + x:,.0f} times' if x >= 10 else f'{100 * x:.0f} %' if x >= 0.0995 else f'{100 * x:.2g} %'


def listed(words: Sequence[str]) -> str:
  return ' and '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words)


def as_type(dtype: Any, tree: Any) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), tree)


def bytes_section(sizes: Any) -> dict[str, Any]:
  """The state of AdaBelief for the arrays of a GPT-like model, with the default `min_size` of each store."""
  params = timing.filled(sizes.shapes, seed=0)
  short, rows = as_type('bfloat16', params), {}
  for name in stores.base.STORES:
    tx = bo.adabelief(LR, store=name)
    whole = short, bo.compose(tx, bo.round_updates('split')).init(short)
    kept = {'float32': tx.init(params), 'bfloat16': tx.init(short), 'whole': whole}
    rows[name] = {what: bo.state_bytes(tree) / count(params) for what, tree in kept.items()}
  leaves, least = jax.tree.leaves(params), stores.Packed16().min_size
  share = count([x for x in leaves if x.size < least]) / count(params)
  return {'parameters': count(params), 'arrays': len(leaves), 'min_size': least, 'share': share, 'rows': rows}


def bytes_text(s: dict[str, Any]) -> list[str]:
  header = ['bytes per parameter', 'state, float32 parameters', 'state, bfloat16 parameters', 'all, with `split`']
  rows, whole = s['rows'], {name: row['whole'] for name, row in s['rows'].items()}
  return [
    f'{bytes_section.__doc__} {s["parameters"]:,} parameters in {s["arrays"]} arrays. The last column is everything '
    "that training keeps between steps: bfloat16 parameters, the state, and what `round_updates('split')` adds.",
    table(header, [[name, *(f'{x:.3f}' for x in row.values())] for name, row in rows.items()]),
    f'**Reading.** Training in float32 keeps {4 + rows["float32"]["float32"]:.2f} bytes per parameter. bfloat16 '
    f'parameters with `split` keep {listed([f"{whole[n]:.2f} with {n}" for n in ROUNDING])}. '
    f'{percent(s["share"])} of the parameters are in arrays of fewer than {s["min_size"]} elements, whose moments '
    'packed16 leaves in float32.',
  ]


FALLS = ('4', '100')


def nearest(store: stores.Store) -> stores.Store:
  """The same codes with plain rounding."""

  class Nearest(type(store)):
    def save(self, group, values, kept, dither):
      return super().save(group, values, kept, stores.bits.to_nearest(values[0]))

  return dataclasses.dataclass(frozen=True)(Nearest)(min_size=0)


def freeze_section(sizes: Any) -> dict[str, Any]:
  """sqrt(nu) at b2 = 0.999, relative to float32, after the gradients have become smaller."""
  before, after, every = sizes.falls
  kept = {name: ROUNDING[name] for name in sizes.rounding}
  kept |= {f'{name}, plain': nearest(store) for name, store in kept.items()}
  txs = {name: bo.adam(LR, store=store) for name, store in {'float32': stores.FLOAT32, **kept}.items()}
  zeros = {fall: jnp.zeros((64, 64)) for fall in FALLS}

  def step(states: Any, t: jax.Array) -> Any:
    g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), (64, 64))
    grads = {fall: jnp.where(t < before, g, g / float(fall)) for fall in FALLS}
    return {name: tx.update(grads, states[name])[1] for name, tx in txs.items()}, None

  def compare(nu: jax.Array, exact: jax.Array) -> dict[str, jax.Array]:
    ratio = jnp.sqrt(nu / exact)
    return {'rms': jnp.sqrt(jnp.mean((ratio - 1) ** 2)), 'curve': jnp.quantile(ratio, jnp.array([0.1, 0.5, 0.9]))}

  def stretch(states: Any, steps: jax.Array) -> Any:
    states = jax.lax.scan(step, states, steps)[0]
    nu = {name: bo.decode_state(states[name], tx).slots['nu'] for name, tx in txs.items()}
    return states, {name: jax.tree.map(compare, nu[name], nu['float32']) for name in kept}

  start = {name: tx.init(zeros) for name, tx in txs.items()}
  steps = jnp.arange(before + after).reshape(-1, every)
  found = jax.device_get(jax.jit(lambda: jax.lax.scan(stretch, start, steps)[1])())
  short = lambda x: {what: values[before // every :].round(4).tolist() for what, values in x.items()}
  rows = {name: {fall: short(found[name][fall]) for fall in FALLS} for name in kept}
  return {'before': before, 'after': after, 'every': every, 'elements': 64 * 64, 'rows': rows}


def freeze_text(s: dict[str, Any]) -> list[str]:
  error = lambda name: [s['rows'][name][fall]['rms'] for fall in FALLS]
  cells = lambda name: [f'{percent(e[-1])}, {percent(max(e))}' for e in error(name)]
  names, plain = [name for name in ROUNDING if name in s['rows']], ', plain'
  medians = {name: [m for fall in FALLS for _, m, _ in s['rows'][name][fall]['curve']] for name in names}
  header = ['rms error: at the end, largest', *(f'{how}fall by {fall}' for how in ('', 'plain, ') for fall in FALLS)]
  return [
    f'{freeze_section.__doc__} {s["elements"]} elements take {s["before"]} steps of normal gradients, then '
    f'{s["after"]} steps of gradients that are {listed(FALLS)} times smaller. "Plain" is the same code with '
    'round-to-nearest.',
    table(header, [[name, *cells(name), *cells(name + plain)] for name in names]),
    '![The root of the second moment after gradients fell](precision_freeze.png)',
    f'**Reading.** After the fall the error is never larger than '
    f'{listed([f"{percent(max(map(max, error(name))))} ({name})" for name in names])}. With round-to-nearest it '
    f'reaches '
    f'{listed([f"{percent(max(map(max, error(name + plain))))} ({name})" for name in names])}. The error is the '
    'spacing of the codes, not a drift: the median stays between '
    f'{listed([f"{min(m):.2f} and {max(m):.2f} of that of float32 ({name})" for name, m in medians.items()])}.',
  ]


def freeze_plot(s: dict[str, Any]) -> Any:
  figure, panels = plt.subplots(1, len(FALLS), figsize=(9, 4))
  steps = np.arange(s['every'], s['after'] + 1, s['every'])
  for axes, fall in zip(panels, FALLS, strict=True):
    for name, row in s['rows'].items():
      store, _, plain = name.partition(', ')
      low, median, high = np.transpose(row[fall]['curve'])
      axes.plot(steps, median, '--' if plain else '-', color=COLOR[store], label=name, linewidth=1.3)
      if not plain:
        axes.fill_between(steps, low, high, color=COLOR[store], alpha=0.15, linewidth=0)
    axes.set(title=f'gradients fell by {fall}', xlabel='steps since then', yscale='log')
    axes.set_yticks(ticks := [0.2, 0.5, 1, 2, 5, 10], ticks)
    axes.minorticks_off()
  panels[0].set_ylabel(r"$\sqrt{\nu}$ relative to float32's: median, 10-90 %")
  figure.legend(*axes.get_legend_handles_labels(), loc='outside right center')
  return figure


LEAST, ROWS, ELEMENTS = 1e-16, 1.5, 2.0  # and standard deviations: of log10 of a row's scale, of log of its elements


def linear_int8(nu: jax.Array) -> jax.Array:
  blocks = nu.reshape(-1, 256)
  unit = blocks.max(1, keepdims=True) / 255
  return (jnp.round(blocks / unit) * unit).reshape(nu.shape)


def as_kept(store: stores.Store) -> Callable[[jax.Array], jax.Array]:
  """What a step with g = sqrt(nu) and b2 = 0, so that nu = g^2, leaves of nu: rounded as in training."""
  tx = bo.compose(bo.first_moment(0.9), bo.second_moment(0.0), store=store)
  return lambda nu: bo.decode_state(tx.update(jnp.sqrt(nu), tx.init(nu))[1], tx).slots['nu']


class Slots(stores.Store):
  """What others keep, simulated: each slot alone, to nearest, relative to the largest of 256 elements."""

  def rounds(self, group: Any, kept: Any) -> bool:
    return True

  def save(self, group: Any, values: Any, kept: Any, dither: Any) -> Any:
    return (self.nearest(values[0], group[0].real),)

  def nearest(self, x: jax.Array, positive: bool) -> jax.Array:
    blocks = x.reshape(-1, 256)
    top = jnp.maximum(jnp.abs(blocks).max(1, keepdims=True), 1e-38)
    codes = self.codes(positive)
    index = jnp.searchsorted((codes[1:] + codes[:-1]) / 2, blocks / top)
    return (jnp.asarray(codes)[index] * top).reshape(x.shape)

  def codes(self, positive: bool) -> np.ndarray:
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Linear(Slots):
  """Even codes."""

  def codes(self, positive: bool) -> np.ndarray:
    return np.float32(np.linspace(0, 1, 256) if positive else np.linspace(-1, 1, 255))


@dataclasses.dataclass(frozen=True)
class Dynamic(Slots):
  """Dynamic tree codes (Dettmers et al., 2021), as bitsandbytes has them: seven decades of 1, 2, 4 ... codes."""

  def codes(self, positive: bool) -> np.ndarray:
    cells = [np.linspace(0.1, 1, 2 ** (i + positive) + 1) for i in range(7)]
    size = np.concatenate([10.0 ** (i - 6) * (x[1:] + x[:-1]) / 2 for i, x in enumerate(cells)])
    return np.float32(np.sort(np.concatenate([size, [0, 1]] if positive else [size, -size, [0, 1]])))


OTHERS = {'dynamic 8-bit codes': Dynamic(), 'linear 8-bit codes': Linear()}
SPREADS = (0, 6, 12, 20)
DIRECTIONS = {
  'Adam': lambda store: bo.adam(1.0, eps=1e-16, store=store),
  'AdaBelief': lambda store: bo.adabelief(1.0, eps=1e-16, eps_root=0.0, store=store),
}


def directions(make: Callable[[Any], Any], kept: dict[str, Any], spread: int, steps: int, n: int) -> Any:
  """The rms error of the direction relative to float32, over the last steps, and the longest step of all."""
  txs = {name: make(store) for name, store in {'float32': stores.FLOAT32, **kept}.items()}
  scale = jnp.exp2(jax.random.uniform(jax.random.key(1), (n,), minval=-float(spread), maxval=1e-6))

  def step(states: Any, t: jax.Array) -> Any:
    g = scale * jax.random.normal(jax.random.fold_in(jax.random.key(3), t), (n,))
    out = {name: tx.update(g, states[name]) for name, tx in txs.items()}
    exact = out['float32'][0]
    figures = {name: (jnp.sum((u - exact) ** 2), jnp.abs(u).max()) for name, (u, _) in out.items()}
    return {name: state for name, (_, state) in out.items()}, (figures, jnp.sum(exact**2))

  start = {name: tx.init(jnp.zeros(n)) for name, tx in txs.items()}
  found, size = jax.device_get(jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(steps))[1])())
  late = slice(-steps // 10, None)
  error = lambda off: float(np.sqrt(off[late].sum() / size[late].sum()))
  return {name: {'error': error(off), 'longest': float(u.max())} for name, (off, u) in found.items()}


LANDSCAPES = {  # where they start, and the function
  'parabola': ((4.0, -3.0), lambda p: p[0] ** 2 + 10 * p[1] ** 2),
  'Rosenbrock': ((-1.5, 2.0), lambda p: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2),
  'valley of abs': ((4.0, -3.0), lambda p: jnp.abs(p[0]) + jnp.abs(p[1]) / 10),
}


def descent(name: str, store: Any, steps: int) -> float:
  """What AdaBelief reaches on a landscape."""
  start, loss = LANDSCAPES[name]
  tx = bo.adabelief(optax.cosine_decay_schedule(1e-2, steps), store=store)

  def step(carry: Any, _: Any) -> Any:
    p, state = carry
    updates, state = tx.update(jax.grad(loss)(p), state, p)
    return (p + updates, state), None

  p = jnp.array(start)
  return float(loss(jax.jit(lambda: jax.lax.scan(step, (p, tx.init(p)), None, steps)[0][0])()))


def directions_section(sizes: Any) -> dict[str, Any]:
  """The direction of a step, relative to float32, when the gradients of neighbours have different scales."""
  steps, n = sizes.directions
  kept = {**{name: ROUNDING[name] for name in sizes.rounding}, **OTHERS}
  rows = {
    f'{title}, {name}': {str(spread): found[name] for spread, found in of.items()}
    for title, make in DIRECTIONS.items()
    for of in [{spread: directions(make, kept, spread, steps, n) for spread in SPREADS}]
    for name in ('float32', *kept)
  }
  found = {name: {key: descent(name, store, steps) for key, store in STORES.items()} for name in LANDSCAPES}
  return {'steps': steps, 'elements': n, 'rows': rows, 'landscapes': found}


def directions_text(s: dict[str, Any]) -> list[str]:
  powers = ['1', *(f'2^{spread}' for spread in SPREADS[1:])]
  errors = [[name, *(percent(of[str(x)]['error']) for x in SPREADS)] for name, of in s['rows'].items()]
  longest = [[name, *(f'{of[str(x)]["longest"]:,.3g}' for x in SPREADS)] for name, of in s['rows'].items()]
  ours = [of[str(x)] for name, of in s['rows'].items() if name.endswith('int8') for x in SPREADS]
  reading = []
  if ours:
    reading = [
      f'**Reading.** The direction of int8 is off by {percent(min(x["error"] for x in ours))} to '
      f'{percent(max(x["error"] for x in ours))}, whatever its neighbours are, and no step is longer than '
      f'{max(x["longest"] for x in ours):.3g} learning rates. Codes that round to nearest relative to the largest of a '
      'block lose a small mean beside a large one, and keep its second moment as 0: then eps says how long a step is. '
      'Among equal scales dynamic codes are closer to float32 than int8: '
      f'{percent(s["rows"]["Adam, dynamic 8-bit codes"]["0"]["error"])}.'
    ]
  return [
    f'{directions_section.__doc__} {s["elements"]:,} elements, each with a scale of its own between 1 / spread and '
    f'1 (log-uniform), take {s["steps"]:,} steps of normal gradients; eps is 1e-16. The error is the root mean square '
    'over the last tenth of the steps. The last two rows of each algorithm simulate what other packages keep: codes '
    'relative to the largest of 256 neighbours, rounded to nearest, dynamic as in bitsandbytes, or linear.',
    table(['rms error of the direction, spread', *powers], errors),
    table(['longest step in learning rates, spread', *powers], longest),
    f'The loss that AdaBelief reaches in {s["steps"]:,} steps down from 1e-2 along a cosine, on landscapes where its '
    'steps in '
    'float32 are long; with int8 none is longer than 7.5 learning rates.',
    table(['loss at the end', *STORES], [[n, *(f'{x:.2g}' for x in of.values())] for n, of in s['landscapes'].items()]),
    *reading,
  ]


def code_errors(kept: np.ndarray, truth: np.ndarray) -> dict[str, float]:
  off = np.sqrt(kept / truth) - 1
  median, p99, worst = np.quantile(np.abs(off), (0.5, 0.99, 1.0)).tolist()
  return {'median': median, 'p99': p99, 'worst': worst, 'short': float(-off.min()), 'zeros': float(np.mean(kept == 0))}


def codes_section(sizes: Any) -> dict[str, Any]:
  """sqrt(nu) after nu was stored once, relative to the exact root."""
  coders = {name: as_kept(store) for name, store in ROUNDING.items()}
  coders |= {'plain bfloat16': lambda nu: nu.astype(jnp.bfloat16), 'linear int8': linear_int8}
  exact, found = as_kept(stores.FLOAT32), {}
  draw, shape = np.random.default_rng(0), (sizes.side, sizes.side)
  normal = 10.0 ** draw.normal(-8, ROWS, (sizes.side, 1)) * np.exp(draw.normal(0, ELEMENTS, shape))
  for title, values in {'log-uniform': LEAST ** draw.uniform(size=shape), 'log-normal rows': normal}.items():
    nu = jnp.asarray(values, jnp.float32)
    truth = np.asarray(exact(nu), np.float64)
    found[title] = {n: code_errors(np.asarray(code(nu), np.float64), truth) for n, code in coders.items()}
  return {'elements': sizes.side**2, 'tensors': found}


def codes_text(s: dict[str, Any]) -> list[str]:
  of, keys = s['tensors'], ('median', 'p99', 'worst', 'short', 'zeros')
  header = ['error of the root', 'median', '99 of 100', 'worst', 'too small', 'zeros']
  lines = []
  for title, rows in of.items():
    lines += [f'**{title}**', table(header, [[n, *(percent(row[k]) for k in keys)] for n, row in rows.items()])]
  worst = lambda key: listed([f'{percent(max(rows[n][key] for rows in of.values()))} ({n})' for n in ROUNDING])
  ninety_nine = listed([f'{percent(of["log-normal rows"][n]["p99"])} ({n})' for n in ROUNDING])
  zeros = max(rows[n]['zeros'] for rows in of.values() for n in ROUNDING)
  return [
    f'{codes_section.__doc__} {s["elements"]:,} numbers between {LEAST:g} and 1 with evenly distributed '
    f'logarithms, and as many in rows of log-normal scales (a factor of {10**ROWS:.0f} per standard deviation) with '
    'log-normal '
    f'elements (a factor of {np.exp(ELEMENTS):.1f}). The stores round with their dither. The last two rows round to '
    'nearest, linear int8 in blocks of 256. "Too small" is the largest shortfall of a root: that is the side on which '
    'a step grows.',
    *lines,
    f'**Reading.** {"No store turns a number into zero" if zeros == 0 else f"Stores keep {percent(zeros)} zeros"}; '
    'linear '
    f'int8 turns {listed([percent(rows["linear int8"]["zeros"]) for rows in of.values()])} of them into zero. A root '
    'is too '
    f'small by at most {worst("short")}. On log-normal rows 99 of 100 roots are off by at most {ninety_nine}. '
    f'The largest errors are {worst("worst")}: '
    'the codes of a root in int8 are 6 to 12 % apart.',
  ]


CONTEXT, WIDTH, HEADS = 32, 32, 2
WIDE = (1e-2, 3e-2, 1e-1, 3e-1)


class Task(NamedTuple):
  """What is trained. A seed draws the start and the batches, so that all optimizers of a seed meet the same."""

  title: str
  rates: tuple[float, ...]
  steps: int
  seeds: int
  draw: Callable[[np.random.Generator, int], Any]  # steps -> start, batches (x, y), validation (x, y), test (x, y)
  model: Callable[[Any, Any], jax.Array]  # parameters, x -> output
  loss: Callable[[jax.Array, Any], jax.Array]  # output, y
  scores: Callable[[jax.Array, Any], dict[str, jax.Array]]  # the lower the better; the first one chooses the rate


def weights(draw: np.random.Generator, *shape: int) -> np.ndarray:
  return np.float32(draw.normal(size=shape) * (2 / shape[0]) ** 0.5)


def layers(draw: np.random.Generator, *sizes: int) -> list[dict[str, np.ndarray]]:
  return [{'w': weights(draw, a, b), 'b': np.zeros(b, np.float32)} for a, b in itertools.pairwise(sizes)]


def digits_task() -> Task:
  images, labels, *test = map(np.asarray, digits())

  def draw(rng: np.random.Generator, steps: int) -> Any:
    start, take = layers(rng, 64, 64, 64, 10), rng.integers(1000, size=(steps, 64))
    return start, (images[take], labels[take]), (images[1000:], labels[1000:]), tuple(test)

  def scores(logits: jax.Array, labels: Any) -> dict[str, jax.Array]:
    wrong = 100 * (logits.argmax(-1) != labels).mean()
    return {'cross entropy': cross_entropy(logits, labels), 'errors, %': wrong}

  title = 'a perceptron 64-64-64-10 on 1000 handwritten digits, batches of 64'
  return Task(title, WIDE, 500, 12, draw, perceptron, cross_entropy, scores)


def teacher_task(*hidden: int) -> Task:
  student = (16, *hidden, 1)

  def draw(rng: np.random.Generator, steps: int) -> Any:
    start, teacher = layers(rng, *student), layers(rng, 16, 16, 1)
    inputs = [np.float32(rng.normal(size=(*size, 16))) for size in ((steps, 64), (4096,), (4096,))]
    return start, *((x, np.asarray(perceptron(teacher, x))) for x in inputs)

  loss = lambda output, y: jnp.mean((output - y) ** 2)
  scores = lambda output, y: {'log10 of the unexplained share': jnp.log10(loss(output, y) / y.var())}
  title = f'a perceptron {"-".join(map(str, student))} learns a random one of each seed, 16-16-1, fresh batches of 64'
  return Task(title, WIDE, 1000, 12, draw, perceptron, loss, scores)


def transformer(p: Any, x: jax.Array) -> jax.Array:
  h = p['embedding'][x] + p['positions']
  for layer in p['layers']:
    qkv = jax.nn.standardize(h) @ layer['qkv']
    q, k, v = jnp.split(qkv.reshape(*x.shape, 3 * HEADS, h.shape[-1] // HEADS), 3, axis=-2)
    h = h + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(h.shape) @ layer['out']
    h = h + jax.nn.relu(jax.nn.standardize(h) @ layer['up']) @ layer['down']
  return jax.nn.standardize(h) @ p['head']


def letters_task(layers: int = 1, width: int = WIDTH, steps: int = 1000, seeds: int = 6) -> Task:
  topics = pydoc_data.topics.topics
  alphabet, text = np.unique(list('\n'.join(topics[name] for name in sorted(topics))), return_inverse=True)
  train, *held_out = np.split(np.int32(text), [len(text) * 8 // 10, len(text) * 9 // 10])
  outer = {'embedding': (len(alphabet), width), 'positions': (CONTEXT, width), 'head': (width, len(alphabet))}
  inner = {'qkv': (width, 3 * width), 'out': (width, width), 'up': (width, 4 * width), 'down': (4 * width, width)}

  def windows(part: np.ndarray, starts: np.ndarray) -> Any:
    window = part[starts[..., None] + np.arange(CONTEXT + 1)]
    return window[..., :-1], window[..., 1:]

  def draw(rng: np.random.Generator, steps: int) -> Any:
    drawn = lambda shapes: {name: weights(rng, *shape) for name, shape in shapes.items()}
    start = {**drawn(outer), 'layers': [drawn(inner) for _ in range(layers)]}
    batches = windows(train, rng.integers(len(train) - CONTEXT, size=(steps, 8)))
    return start, batches, *(windows(x, np.linspace(0, len(x) - CONTEXT - 1, 512).astype(int)) for x in held_out)

  scores = lambda logits, y: {'nats per character': cross_entropy(logits, y)}
  title = f'a transformer of {layers} layer{"s"[: layers > 1]}, width {width} and context {CONTEXT} on the '
  title += f'{len(text):,} characters ({len(alphabet)} distinct) of pydoc_data.topics, '
  title += f'Python {sys.version.split()[0]}, batches of 8'
  return Task(title, WIDE[:3], steps, seeds, draw, transformer, cross_entropy, scores)


TASKS = {'digits': digits_task, 'teacher': lambda: teacher_task(64, 64), 'letters': letters_task}


def train(task: Task, make: Callable[[Any], Any], dtype: str, rate: jax.Array, drawn: Any) -> tuple[Any, Any]:
  """The scores on validation and test data after training along a cosine that ends at 0."""
  start, batches, *held_out = drawn
  params, steps = as_type(dtype, start), len(batches[0])
  output = lambda p, x: task.model(as_type('float32', p), x)

  def step(carry: Any, now: Any) -> Any:
    (params, state), (t, (x, y)) = carry, now
    grads = jax.grad(lambda p: task.loss(output(p, x), y))(params)
    updates, state = make(rate * (1 + jnp.cos(jnp.pi * t / steps)) / 2).update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  params, _ = jax.lax.scan(step, (params, make(rate).init(params)), (jnp.arange(steps), batches))[0]
  validation, test = (task.scores(output(params, x), y) for x, y in held_out)
  return validation, test


def contest(task: Task, makers: dict[str, tuple[Callable[[Any], Any], str]]) -> dict[str, Any]:
  """Each optimizer at its best rate; all are compared with the first one, seed by seed."""
  drawn = [task.draw(np.random.default_rng(seed), task.steps) for seed in range(task.seeds)]
  drawn = jax.tree.map(lambda *x: np.stack(x), *drawn)
  rows: dict[str, Any] = {}
  base: dict[str, Any] = {}  # the scores of the first optimizer, and its rate
  for name, (make, dtype) in makers.items():
    # One program, one training after the other: as fast as vmap on two cores, and compiled in half the time.
    each = lambda rate, drawn, of=(task, make, dtype): jax.lax.map(lambda one: train(*of, rate, one), drawn)
    program = jax.jit(lambda rates, drawn, each=each: jax.lax.map(lambda rate: each(rate, drawn), rates))
    validation, test = jax.device_get(program(jnp.array(task.rates), drawn))
    best = int(np.nan_to_num(next(iter(validation.values())).mean(1), nan=np.inf).argmin())
    base = base or {'best': best, 'test': test}
    figures = {}
    for figure, x in test.items():
      reference = base['test'][figure][base['best']]
      figures[figure] = {'scores': x[best].tolist(), 'mean': interval(x[best])}
      figures[figure] |= {'difference': interval(x[best] - reference), 'equal': interval(x[base['best']] - reference)}
    rows[name] = {'rate': task.rates[best], 'at_edge': best in (0, len(task.rates) - 1), 'figures': figures}
  facts = {'title': task.title, 'rates': task.rates, 'steps': task.steps, 'seeds': task.seeds}
  return {**facts, 'parameters': count(drawn[0]) // task.seeds, 'rows': rows}


def verdict(difference: tuple[float, float]) -> str:
  """Of a difference with its interval, where less is better."""
  mean, half = difference
  if not np.isfinite(mean):
    return 'diverges'
  return 'tie' if abs(mean) <= half else 'worse' if mean > 0 else 'better'


def contest_lines(name: str, s: dict[str, Any]) -> list[str]:
  first = next(iter(s['rows']))
  header = ['', 'best rate']

  def cells(row: dict[str, Any]) -> Iterator[str]:
    for of in row['figures'].values():
      yield MEAN.format(*of['mean'])
      compared = [x for d in (of['difference'], of['equal']) for x in (DIFFERENCE.format(*d), verdict(d))]
      yield from [''] * len(compared) if row is s['rows'][first] else compared

  for figure in s['rows'][first]['figures']:
    header += [figure, f'minus {first}', 'verdict', f'the same at the rate of {first}', 'verdict']
  edge = [name for name, row in s['rows'].items() if row['at_edge']]
  rates = ', '.join(f'{rate:g}' for rate in s['rates'])
  return [
    f'**{name}**: {s["title"]}. {s["parameters"]:,} parameters, {s["steps"]} steps, {s["seeds"]} seeds, rates {rates}.'
    + (f' The best rate is at the edge of this grid for {listed(edge)}.' if edge else ''),
    table(header, [[name, f'{row["rate"]:g}', *cells(row)] for name, row in s['rows'].items()]),
  ]


def contest_reading(tasks: dict[str, Any]) -> str:
  cases: dict[str, list[str]] = {}
  for task, s in tasks.items():
    for name, row in list(s['rows'].items())[1:]:
      for figure, of in row['figures'].items():
        case = f'{name} on {task} ({figure} {DIFFERENCE.format(*of["difference"])})'
        cases.setdefault(verdict(of['difference']), []).append(case)
  total = sum(map(len, cases.values()))
  ties = len(cases.pop('tie', ()))
  others = ''.join(f'; {word}: {listed(cases[word])}' for word in cases)
  said = f'{ties} of {total} differences are within noise (the 95 % interval contains 0){others}. '
  return said + f'Of {total} such intervals {0.05 * total:.1f} are expected to miss 0 by chance.'


def contest_plot(s: dict[str, Any]) -> Any:
  panels = [(task, f) for task, of in s['tasks'].items() for f in next(iter(of['rows'].values()))['figures']]
  figure, grid = plt.subplots(1, len(panels), figsize=(2.6 * len(panels) + 1, 2.6), squeeze=False, sharey=True)
  for axes, (task, what) in zip(grid[0], panels, strict=True):
    (first, _), *rows = s['tasks'][task]['rows'].items()
    for i, (name, row) in enumerate(rows):
      mean, half = row['figures'][what]['difference']
      axes.errorbar(mean, i, xerr=half, fmt='o', capsize=3, color=COLOR[name])
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set(title=task, xlabel=f'{what},\nminus {first}', ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.locator_params(axis='x', nbins=4)
  return figure


def training_section(sizes: Any) -> dict[str, Any]:
  """AdaBelief with each store on small tasks, where every array is coded (`min_size=0`)."""
  make = lambda store: lambda rate: bo.adabelief(rate, store=store)
  makers = {name: (make(STORES[name]), 'float32') for name in ('float32', *sizes.rounding)}
  return {'tasks': {name: contest(make_task(), makers) for name, make_task in sizes.tasks.items()}}


def training_text(s: dict[str, Any]) -> list[str]:
  return [
    f'{training_section.__doc__} Every store gets the same grid of learning rates, which decay to 0 along a cosine. '
    'The '
    'best rate is chosen on validation data, by the mean over the seeds; the figures are on test data. A seed fixes '
    'the initial parameters and the batches for all stores. Means have 95 % confidence intervals (t); differences are '
    'paired by seed; lower is better.',
    *(line for name, of in s['tasks'].items() for line in contest_lines(name, of)),
    '![Differences to float32](precision_training.png)',
    f'**Reading.** {contest_reading(s["tasks"])}',
  ]


LONG = ('float32', 'packed16', 'int8')


def long_section(sizes: Any) -> dict[str, Any]:
  """AdaBelief with each store on a language model of more than a million parameters."""
  layers, width, steps, seeds = sizes.long
  task, rate, every = letters_task(layers, width, steps, seeds), 3e-3, max(steps // 100, 1)
  curves: dict[str, list[Any]] = {name: [] for name in LONG}
  ends: dict[str, list[float]] = {name: [] for name in LONG}
  for name in LONG:
    tx = bo.adabelief(optax.cosine_decay_schedule(rate, steps), store=STORES[name])

    def step(carry: Any, batch: Any, tx: Any = tx) -> Any:
      params, state = carry
      loss, grads = jax.value_and_grad(lambda p: task.loss(task.model(p, batch[0]), batch[1]))(params)
      updates, state = tx.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), loss

    run = jax.jit(lambda start, batches, step=step, tx=tx: jax.lax.scan(step, (start, tx.init(start)), batches))
    for seed in range(seeds):
      start, batches, _, (x, y) = task.draw(np.random.default_rng(seed), steps)
      (params, _), losses = run(start, batches)
      score = jax.jit(lambda p, x, y: task.loss(task.model(p, x), y))
      ends[name].append(
        float(np.mean([score(params, *part) for part in zip(np.split(x, 8), np.split(y, 8), strict=True)]))
      )
      curves[name].append(np.asarray(losses).reshape(-1, every).mean(1).round(4).tolist())
  size, base = count(start), np.array(ends[LONG[0]])
  rows = {n: {'mean': interval(x), 'difference': interval(np.array(x) - base)} for n, x in ends.items()}
  return {
    'title': task.title,
    'parameters': size,
    'rate': rate,
    'every': every,
    'steps': steps,
    'seeds': seeds,
    'rows': rows,
    'curves': curves,
  }


def long_text(s: dict[str, Any]) -> list[str]:
  of = lambda row, first: ['', ''] if first else [DIFFERENCE.format(*row['difference']), verdict(row['difference'])]
  lines = [[n, MEAN.format(*row['mean']), *of(row, n == LONG[0])] for n, row in s['rows'].items()]
  return [
    f'{long_section.__doc__} It is {s["title"]}: {s["parameters"]:,} parameters, {s["steps"]:,} steps from '
    f'{s["rate"]:g} down along a cosine, {s["seeds"]} seeds, the same for every store. Test loss with 95 % intervals '
    '(t); differences are paired by seeds.',
    table(['', 'nats per character', f'minus {LONG[0]}', 'verdict'], lines),
    '![Training loss of each store](precision_long.png)',
  ]


def long_plot(s: dict[str, Any]) -> Any:
  figure, axes = plt.subplots(figsize=(7, 4))
  for name, curves in s['curves'].items():
    steps = s['every'] * np.arange(1, len(curves[0]) + 1)
    axes.plot(steps, np.mean(curves, 0), color=COLOR[name], label=name, linewidth=1.2)
    axes.fill_between(steps, np.min(curves, 0), np.max(curves, 0), color=COLOR[name], alpha=0.2, linewidth=0)
  axes.set(xlabel='steps', ylabel='training loss, nats per character', title='mean and range of the seeds')
  axes.legend()
  return figure


def rounding_by(method: str, tx: bo.Recipe) -> tuple[optax.GradientTransformation, str]:
  """An optimizer of which an update is rounded so, and the type of its parameters."""
  if method in ('float32', 'nearest'):
    return tx, 'float32' if method == 'float32' else 'bfloat16'
  return bo.compose(tx, bo.round_updates(method)), 'bfloat16'


def small_steps(method: str, steps: int = 200) -> dict[str, float]:
  """Adam descends from 1 on a constant gradient."""
  tx, dtype = rounding_by(method, bo.adam(LR))

  def step(_: int, carry: Any) -> Any:
    updates, state = tx.update(jnp.ones_like(carry[0]), carry[1], carry[0])
    return optax.apply_updates(carry[0], updates), state

  p = jnp.ones(4096, dtype)
  values = np.asarray(jax.jit(lambda *start: jax.lax.fori_loop(0, steps, step, start))(p, tx.init(p))[0], np.float64)
  error = float(np.sqrt(np.mean((values - (1 - steps * LR)) ** 2)))
  return {'steps': steps, 'mean': float(values.mean()), 'deviation': float(values.std()), 'rms': error}


def parameters_section(sizes: Any) -> dict[str, Any]:
  """How an update is rounded to bfloat16 parameters."""
  make = lambda method: lambda rate: rounding_by(method, bo.adabelief(rate))[0]
  makers = {method: (make(method), rounding_by(method, bo.adam(LR))[1]) for method in sizes.methods}
  tasks = {name: contest(make_task(), makers) for name, make_task in sizes.bf16_tasks.items()}
  return {'rows': {method: small_steps(method) for method in sizes.methods}, 'tasks': tasks}


def parameters_text(s: dict[str, Any]) -> list[str]:
  rows, apart = s['rows'], float(jnp.finfo(jnp.bfloat16).eps) / 2
  steps = rows['float32']['steps']
  header = ['', 'mean', 'deviation', f'rms distance from {1 - steps * LR:g}']
  cells = lambda row: [f'{row[key]:.5f}' for key in ('mean', 'deviation', 'rms')]
  others = [f'{row["rms"]:.5f} ({name})' for name, row in rows.items() if name not in ('float32', 'nearest')]
  return [
    f'{parameters_section.__doc__} `nearest` is plain `optax.apply_updates`; the others are the methods '
    f'of `bo.round_updates`. {small_steps.__doc__} {steps} steps of {LR:g}; the bfloat16 numbers there are '
    f'{apart:.5f} apart.',
    table(header, [[name, *cells(row)] for name, row in rows.items()]),
    'AdaBelief with float32 moments, trained as above: parameters and gradients are bfloat16, the model computes in '
    'float32, and the score is that of the bfloat16 parameters.',
    *(line for name, of in s['tasks'].items() for line in contest_lines(name, of)),
    '![Differences to float32](precision_parameters.png)',
    f'**Reading.** Rounded to nearest, the parameters end {rows["nearest"]["rms"]:.5f} away from where they should; '
    'with the methods '
    f'{listed(others)}, of which {apart / 2:.5f} at the most is due to bfloat16 itself. In training, '
    f'{contest_reading(s["tasks"])}',
  ]


def speed_section(sizes: Any) -> dict[str, Any]:
  """A jitted `step(params, state, grads) -> (params, state)`, donated, by XLA and as one machine loop."""
  shapes = timing.flat_tree(sizes.size, 8)
  grads, rows, runs = timing.filled(shapes, seed=0), {}, {}

  def stepping(compiled: Callable[..., Any], data: list[Any]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
      seconds, data[:] = timing.timed(lambda: compiled(*data, grads))
      return {'step': seconds}

    return run

  ours = {name: bo.adabelief(LR, store=name) for name in STORES}
  contenders: dict[str, Any] = {BELIEF: (optax.adabelief(LR), None, 'xla')}
  contenders |= {name: (tx, None, 'xla') for name, tx in ours.items()}
  contenders |= {f'{name}{LOOP}': (tx, tx.step, 'auto') for name, tx in ours.items()}
  for name, (tx, step, mode) in contenders.items():
    params = timing.filled(shapes, seed=1)
    with bo.execution.use(mode):
      compiled, state = timing.compile_step(tx, shapes, step), tx.init(params)
    rows[name] = {'state': bo.state_bytes(state) / count(shapes), **timing.program_facts(compiled, shapes)}
    runs[name] = stepping(compiled, [params, state])

  sampler = timing.Sampler('speed', runs, sizes.rounds, warm_up=2)
  for name, row in rows.items():
    row |= {'ms': sampler.summary(name, 'step'), 'ratio': sampler.ratio(name, BELIEF, 'step')}
  return {'size': count(shapes), 'rounds': sizes.rounds, 'busy': sampler.other_processes, 'rows': rows}


def speed_text(s: dict[str, Any]) -> list[str]:
  header = ['step', 'ms', f'/ {BELIEF}', 'state, B/param', 'moved as compiled, B/param', 'kernels', 'copies']
  figures = {'state': '.2f', 'compiled_bytes_per_parameter': '.1f', 'kernels': '', 'copies': ''}
  seen = lambda row, key: row[key] >= 0.05 or key == 'copies'  # XLA does not say what a machine loop moves
  shown = lambda row: (f'{row[key]:{f}}' if seen(row, key) else '' for key, f in figures.items())
  cells = lambda row: [spread(row['ms'], 0), spread(row['ratio'], 2), *shown(row)]
  ratio = {name: row['ratio']['median'] for name, row in s['rows'].items() if name != BELIEF}
  busy = 'an unknown number of' if s['busy'] is None else f'{s["busy"]:.2f}'
  goals = [
    f'{store} at {goal}: {ratio[store]:.2f}, {"" if ratio[store] <= goal else "NOT "}reached'
    for store, goal in SPEED_GOALS.items()
  ]
  faster, slower = ([f'{n} ({r:.2f})' for n, r in ratio.items() if (r < 1) == yes] for yes in (True, False))
  return [
    f'{speed_section.__doc__} {s["size"]:,} parameters in 8 arrays, {s["rounds"]} interleaved rounds, other processes '
    f'kept {busy} cores busy. Medians with quartiles; a ratio is taken within each round.',
    table(header, [[name, *cells(row)] for name, row in s['rows'].items()]),
    f'**Reading.** Goals, relative to {BELIEF}: {listed(goals)}. '
    f'Faster than {BELIEF}: {listed(faster) or "none"}; not faster: {listed(slower) or "none"}.',
  ]


SECTIONS = {
  'bytes': Section(bytes_section, bytes_text, 'Bytes per parameter'),
  'freeze': Section(freeze_section, freeze_text, 'Nothing freezes', freeze_plot),
  'codes': Section(codes_section, codes_text, 'What codes can tell apart'),
  'directions': Section(directions_section, directions_text, 'Directions'),
  'training': Section(training_section, training_text, 'Training', contest_plot),
  'long': Section(long_section, long_text, 'A longer training', long_plot),
  'parameters': Section(parameters_section, parameters_text, 'Parameters in bfloat16', contest_plot),
  'speed': Section(speed_section, speed_text, 'Speed'),
}
LINE = {'line': lambda: teacher_task()._replace(steps=3, seeds=2)}
SIZES: dict[str, tuple[Any, Any]] = {  # of the whole run, and of a smoke test
  'shapes': (timing.transformer_tree(layers=6, width=256, vocabulary=9216), timing.flat_tree(32_768, 4)),
  'rounding': (tuple(ROUNDING), ('packed16',)),  # what is followed and trained with, beside float32
  'falls': ((2000, 4000, 50), (40, 40, 20)),  # steps before the gradients fall, steps after, distance of what is drawn
  'side': (1024, 64),  # of the tensors that are coded
  'directions': ((4000, 8192), (20, 512)),  # steps and elements
  'long': ((2, 256, 3000, 3), (1, 32, 4, 2)),  # layers, width, steps, seeds
  'tasks': (TASKS, LINE),
  'bf16_tasks': ({name: TASKS[name] for name in ('digits', 'teacher')}, LINE),
  'methods': (METHODS, ('float32', 'nearest', 'split')),
  'size': (25_000_000, 8000),  # parameters of a timed step
  'rounds': (11, 3),
}


def markdown(report: dict[str, Any]) -> str:
  lines = [
    '# Precision: what fewer bits save, and what they cost',
    'Written by `make bench-precision` from what it measured, which is kept in `benchmarks/results`; '
    '`python -m benchmarks.precision --sections NAME` measures a section again.',
  ]
  for name, s in report.items():
    lines += [f'## {SECTIONS[name].title}', *SECTIONS[name].paragraphs(s)]
  return '\n\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> None:
  for name, report, out in reports('precision', __doc__.splitlines()[0], SECTIONS, SIZES, argv):
    docs = out or ROOT / 'docs'
    (docs / 'precision.md').write_text(markdown(report))
    if plot := SECTIONS[name].plot:
      save(plot(report[name]), docs / f'precision_{name}.png')


if __name__ == '__main__':
  main()
