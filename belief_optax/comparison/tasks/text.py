"""A transformer that predicts the next character of Python's own documentation."""

import functools
import pydoc_data.topics
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.comparison.networks import blocks, cross_entropy, dense, transformer
from belief_optax.comparison.tasks.base import Task

CONTEXT, BATCH, HELD = 64, 8, 32


@functools.cache
def data() -> tuple[int, np.ndarray]:
  """The number of distinct characters, and the text as their numbers."""
  topics = pydoc_data.topics.topics
  alphabet, text = np.unique(list('\n'.join(topics[name] for name in sorted(topics))), return_inverse=True)
  return len(alphabet), text.astype(np.uint8)


def characters(name: str, depth: int, width: int, heads: int, steps: int, target: float) -> Task:
  """The task for a transformer of some size."""
  alphabet, text = data()
  train, tune, test = np.split(text, [len(text) * 8 // 10, len(text) * 9 // 10])
  windows = lambda part: part[
    np.linspace(0, len(part) - CONTEXT - 1, HELD).astype(int)[:, None] + np.arange(CONTEXT + 1)
  ]

  def init(key: jax.Array) -> Any:
    letters, places, inner, head = jax.random.split(key, 4)
    return {
      'letters': 0.02 * jax.random.normal(letters, (alphabet, width)),
      'places': 0.02 * jax.random.normal(places, (CONTEXT, width)),
      'blocks': blocks(inner, depth, width),
      'head': dense(head, width, alphabet, gain=1.0),
    }

  def score(p: Any, window: jax.Array) -> jax.Array:
    x, y = window[:, :-1].astype(jnp.int32), window[:, 1:].astype(jnp.int32)
    hidden = transformer(p['blocks'], p['letters'][x] + p['places'], heads, causal=True)
    return cross_entropy(hidden @ p['head']['w'] + p['head']['b'], y)

  def loss(p: Any, key: jax.Array) -> jax.Array:
    starts = jax.random.randint(key, [BATCH, 1], 0, len(train) - CONTEXT)
    return score(p, jnp.asarray(train)[starts + jnp.arange(CONTEXT + 1)])

  count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))
  title = (
    f'next character, transformer of {depth} layers, width {width}, {count:,} parameters; {len(text):,} characters of '
    f'pydoc_data.topics, Python {sys.version.split()[0]}; {BATCH} windows of {CONTEXT} a step'
  )
  return Task(
    name, 'text', title, 'held-out nats per character', steps=steps, every=steps // 10, seeds=1, target=target,
    init=init, loss=loss, score=score, tune=windows(tune), test=windows(test), decays=True,
  )  # fmt: skip


def letters() -> Task:
  """As large as the budget of the whole comparison allows."""
  return characters('letters', depth=2, width=96, heads=4, steps=300, target=2.9)


def letters_1m() -> Task:
  """Ten times the parameters, and beyond the budget of the whole comparison: run by name."""
  return characters('letters_1m', depth=5, width=128, heads=4, steps=1000, target=1.9)
