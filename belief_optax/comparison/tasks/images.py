"""Scikit-learn's handwritten digits: a perceptron, a convolutional network, a transformer, wrong labels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.comparison.networks import (
  blocks,
  convolve,
  cross_entropy,
  dense,
  layers,
  perceptron,
  pool,
  transformer,
)
from belief_optax.comparison.tasks.base import Kind, Task

BATCH = 32


@functools.cache
def data() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
  """Images [n, 64] in 0 .. 1 and labels [n]: 1,000 to train with, 398 to tune with, 398 to test with."""
  from sklearn.datasets import load_digits

  images, labels = map(np.asarray, load_digits(return_X_y=True))
  order = np.random.default_rng(0).permutation(len(labels))
  images, labels = np.asarray(images[order] / 16, np.float32), np.asarray(labels[order], np.int32)
  return tuple((images[part], labels[part]) for part in (slice(1000), slice(1000, 1398), slice(1398, 1796)))


def classify(name: str, title: str, init: Any, model: Any, target: float, **options: Any) -> Task:
  """The classification of digits by a model, in batches of 32."""
  (images, labels), tune, test = data()
  labels = options.pop('labels', labels)

  def loss(p: Any, key: jax.Array) -> jax.Array:
    take = jax.random.randint(key, [BATCH], 0, len(images))
    return cross_entropy(model(p, jnp.asarray(images)[take]), jnp.asarray(labels)[take])

  score = lambda p, held: cross_entropy(model(p, held[0]), held[1])
  settings: dict[str, Any] = {'kind': 'images', 'steps': 600, 'every': 30, 'seeds': 3, **options}
  unit = 'cross entropy of held-out digits'
  return Task(
    name, title=title, unit=unit, target=target, init=init, loss=loss, score=score, tune=tune, test=test, decays=True,
    **settings,
  )  # fmt: skip


def digits() -> Task:
  """A perceptron."""
  init = lambda key: layers(key, 64, 64, 64, 10)
  return classify('digits', 'digits, perceptron 64-64-64-10', init, perceptron, TARGETS['digits'])


def noisy_digits() -> Task:
  """The same, with three labels of ten drawn at random."""
  draw, (_, labels) = np.random.default_rng(1), data()[0]
  wrong = np.where(draw.random(len(labels)) < 0.3, draw.integers(10, size=len(labels)), labels).astype(np.int32)
  init = lambda key: layers(key, 64, 64, 64, 10)
  kind: Kind = 'label noise'
  title = 'digits, 30 % of the training labels drawn at random, perceptron 64-64-64-10'
  return classify('noisy_digits', title, init, perceptron, TARGETS['noisy_digits'], kind=kind, labels=wrong)


def digits_cnn() -> Task:
  """A small convolutional network."""

  def init(key: jax.Array) -> Any:
    one, two, last = jax.random.split(key, 3)
    return {'one': dense(one, 9, 8), 'two': dense(two, 72, 16), 'last': dense(last, 64, 10)}

  def model(p: Any, x: jax.Array) -> jax.Array:
    x = pool(jax.nn.relu(convolve(p['one'], x.reshape(-1, 8, 8, 1))))
    x = pool(jax.nn.relu(convolve(p['two'], x)))
    return x.reshape(len(x), -1) @ p['last']['w'] + p['last']['b']

  title = 'digits, two convolutions of 8 and 16 channels'
  return classify('digits_cnn', title, init, model, TARGETS['digits_cnn'], steps=400, every=20, seeds=2)


def digits_vit() -> Task:
  """A small vision transformer."""
  width, depth, heads = 32, 2, 4

  def init(key: jax.Array) -> Any:
    patch, place, inner, head = jax.random.split(key, 4)
    return {
      'patch': dense(patch, 4, width),
      'place': 0.02 * jax.random.normal(place, (16, width)),
      'blocks': blocks(inner, depth, width),
      'head': dense(head, width, 10, gain=1.0),
    }

  def model(p: Any, x: jax.Array) -> jax.Array:
    patches = x.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(len(x), 16, 4)
    x = patches @ p['patch']['w'] + p['patch']['b'] + p['place']
    return transformer(p['blocks'], x, heads, causal=False).mean(1) @ p['head']['w'] + p['head']['b']

  title = f'digits, transformer of {depth} layers and width {width} over 16 patches'
  return classify('digits_vit', title, init, model, TARGETS['digits_vit'], steps=600, every=60, seeds=1)


TARGETS = {'digits': 0.077, 'noisy_digits': 0.6, 'digits_cnn': 0.083, 'digits_vit': 0.28}
