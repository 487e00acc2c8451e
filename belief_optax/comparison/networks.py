"""Small networks as pure functions; none of them has a convolution, which XLA is slow at under `vmap` over weights."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: Any) -> jax.Array:
  """The mean cross entropy, in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def dense(key: jax.Array, inputs: int, outputs: int, gain: float = 2.0) -> dict[str, jax.Array]:
  """A linear layer: normal weights of variance gain / inputs (2 for a relu), biases of 0."""
  return {'w': jax.random.normal(key, (inputs, outputs)) * (gain / inputs) ** 0.5, 'b': jnp.zeros(outputs)}


def layers(key: jax.Array, *sizes: int, gain: float = 2.0) -> list[dict[str, jax.Array]]:
  """The linear layers of a perceptron."""
  keys = jax.random.split(key, len(sizes) - 1)
  return [dense(k, a, b, gain) for k, (a, b) in zip(keys, itertools.pairwise(sizes), strict=True)]


def perceptron(p: Any, x: Any, activation: Any = jax.nn.relu) -> jax.Array:
  """Linear layers with an activation between them."""
  for layer in p[:-1]:
    x = activation(x @ layer['w'] + layer['b'])
  return x @ p[-1]['w'] + p[-1]['b']


def convolve(layer: Any, x: jax.Array) -> jax.Array:
  """A 3 x 3 convolution with padding, as one product of matrices: [n, h, w, c] -> [n, h, w, outputs]."""
  _, height, width, _ = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifts = itertools.product(range(3), range(3))
  patches = jnp.concatenate([padded[:, i : i + height, j : j + width] for i, j in shifts], axis=-1)
  return patches @ layer['w'] + layer['b']


def pool(x: jax.Array) -> jax.Array:
  """The mean of squares of 2 x 2."""
  n, height, width, channels = x.shape
  return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def blocks(key: jax.Array, depth: int, width: int) -> list[dict[str, Any]]:
  """The layers of a transformer."""
  shapes = {'qkv': (width, 3 * width), 'out': (width, width), 'up': (width, 4 * width), 'down': (4 * width, width)}
  keys = jax.random.split(key, (depth, len(shapes)))
  return [
    {name: dense(k, *shape, gain=1.0) for k, (name, shape) in zip(row, shapes.items(), strict=True)} for row in keys
  ]


def transformer(p: Any, x: jax.Array, heads: int, causal: bool) -> jax.Array:
  """Pre-norm layers of attention and a perceptron: [n, length, width] -> the same."""
  length = x.shape[1]
  mask = jnp.tril(jnp.ones((length, length), bool)) if causal else True
  linear = lambda layer, x: x @ layer['w'] + layer['b']
  for block in p:
    q, k, v = (part.reshape(*part.shape[:2], heads, -1) for part in jnp.split(linear(block['qkv'], normed(x)), 3, -1))
    scores = jnp.einsum('nqhd,nkhd->nhqk', q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    x = x + linear(block['out'], jnp.einsum('nhqk,nkhd->nqhd', weights, v).reshape(x.shape))
    x = x + linear(block['down'], jax.nn.gelu(linear(block['up'], normed(x))))
  return normed(x)


def normed(x: jax.Array) -> jax.Array:
  """Layer normalization without parameters."""
  return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
