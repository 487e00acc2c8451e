"""What several test files share: float64 in any supported JAX, and a quick way to take many steps."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np


def x64():
  """A context in which arrays are 64 bits wide. It is `jax.enable_x64` or, in older JAX, `jax.experimental`'s."""
  if hasattr(jax, 'enable_x64'):
    return jax.enable_x64(True)
  from jax.experimental import enable_x64

  return enable_x64()


def precision(dtype):
  """The context in which arrays of a dtype can exist."""
  return x64() if np.finfo(dtype).bits == 64 else contextlib.nullcontext()


@functools.partial(jax.jit, static_argnums=0)
def _scan(txs, grads, params):
  def step(states, g):
    us, states = zip(*[tx.update(g, state, params) for tx, state in zip(txs, states, strict=True)], strict=True)
    return states, us

  return jax.lax.scan(step, tuple(tx.init(params) for tx in txs), grads)


def take_steps(txs, grads, params):
  """One step per row of `grads` (a tree of stacked arrays) with each optimizer; the parameters stand still.

  Returns (updates, state) per optimizer, where the updates are stacked like the gradients.
  """
  states, updates = _scan(tuple(txs), grads, params)
  return list(zip(updates, states, strict=True))


class Table:
  """A schedule that is a list of values, for JAX and for NumPy: both see the same rounded numbers."""

  def __init__(self, values, dtype=np.float32):
    self.values = np.asarray(values, dtype)

  def __call__(self, count):
    if isinstance(count, jax.Array):
      return jnp.asarray(self.values)[count]
    return float(self.values[count])


def relative_error(actual, expected):
  """The largest difference in each column (the last axis), relative to the column's largest expected element."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  scale = np.abs(expected).max(-1)
  difference = np.abs(actual - expected).max(-1)
  assert np.isfinite(difference).all()
  return difference / np.where(scale > 0, scale, 1)  # where nothing moves, the error is absolute
