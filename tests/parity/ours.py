"""The presets: configurations go in, the parameters after each of the 50 steps come out."""

import collections
import dataclasses
import functools
import warnings
from operator import attrgetter

import jax
import jax.numpy as jnp
import problem
from configs import CONFIGS
from helpers import precision

import belief_optax as bo
from belief_optax import presets


@dataclasses.dataclass(frozen=True)
class Rates:
  """A table of learning rates as a schedule, in the widest dtype there is."""

  name: str

  def __call__(self, count):
    return jnp.asarray(problem.RATES[self.name], float)[count]


def recipe(config, make, **others):
  """What a factory of optimizers makes of a configuration."""
  kwargs = {**config.kwargs, **others}
  if config.rates:
    kwargs[config.rate_name] = Rates(config.rates)
  return make(**kwargs)


def preset(config):
  """The preset of a configuration, or the algorithm of our own."""
  if not config.is_preset:
    rates = {'learning_rate': Rates(config.rates)} if config.rates else {}
    return getattr(bo, config.preset)(**{**config.own_kwargs, **config.ours, **rates})
  others = dict(config.ours)
  if isinstance(decay := config.kwargs.get('weight_decay'), dict):  # of labml
    others['weight_decay'] = presets.labml.WeightDecay(**decay)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', presets.DialectWarning)  # the bugs are what is compared
    return recipe(config, attrgetter(config.preset)(presets), **others)


def scan(txs, dtype, complex_, by_array=False):
  """The trajectories of optax transformations, compiled together: an array (50, 36) for each."""
  split = problem.tree if by_array else problem.pairs
  with precision(dtype):
    start, grads = (split(x.astype(dtype), complex_) for x in (problem.PARAMS, problem.GRADS))
    return [problem.flat(rows) for rows in _descend(tuple(txs), start, grads)]


@functools.partial(jax.jit, static_argnums=0)
def _descend(txs, params, grads):
  def step(carry, g):
    carry = [_step(tx, g, *its) for tx, its in zip(txs, carry, strict=True)]
    return carry, [params for params, _ in carry]

  return jax.lax.scan(step, [(params, tx.init(params)) for tx in txs], grads)[1]


def _step(tx, grads, params, state):
  updates, state = tx.update(grads, state, params)
  return jax.tree.map(jnp.add, params, updates), state


@functools.cache
def batches():
  """The configurations that are compiled together, which takes half the time: those of 16 different presets.

  The first batches of each kind of problem have all functions of presets, the others what else these are called with.
  """
  batches = []
  for kind in dict.fromkeys(map(_kind, CONFIGS)):
    equal = {}
    for config in CONFIGS:
      if _kind(config) == kind:
        equal.setdefault(preset(config), []).append(config)
    seen = collections.Counter()
    turn = {}
    for tx, (config, *_) in equal.items():
      turn[tx] = seen[config.preset]
      seen[config.preset] += 1
    txs = sorted(equal, key=turn.get)
    batches += [tuple(c for tx in txs[i : i + 16] for c in equal[tx]) for i in range(0, len(txs), 16)]
  return batches


def _kind(config):
  return config.complex_, config.by_array


def run(batch, dtype):
  """The trajectories of the presets of a batch: an array (50, 36) for each of its configurations."""
  txs = [preset(config) for config in batch]
  different = list(dict.fromkeys(txs))
  of = dict(zip(different, scan(different, dtype, *_kind(batch[0])), strict=True))
  return [of[tx] for tx in txs]
