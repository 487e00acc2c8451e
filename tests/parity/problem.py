"""Parameters, 50 steps of gradients and learning rates on which the presets meet the real packages.

Everything is held as one row of 36 numbers per step, column of the matrix after column, so that a recording is one
array. The complex problem is made of the same numbers, in pairs.
"""

import numpy as np

STEPS = 50
COLUMNS = ('random', 'tiny', 'sparse', 'constant', 'zero', 'near-constant')
ROWS = 4
SHAPES = {'kernel': (2, 2, 2, 1), 'vector': (4,)}  # the kernel as torch lays it out: (out, in, height, width)
SIZE = ROWS * len(COLUMNS) + sum(int(np.prod(shape)) for shape in SHAPES.values())
# Where each column, the kernel and the vector begin: an error is relative to the largest number of its group.
GROUPS = (*range(0, ROWS * len(COLUMNS) + 1, ROWS), SIZE - 4)


def _draw():
  """The parameters and the gradients, by a generator that NumPy keeps frozen; float32 holds each number exactly."""
  random = np.random.RandomState(2020)
  params = random.standard_normal(SIZE)
  grads = random.standard_normal((STEPS, SIZE))
  column = {name: np.s_[:, i * ROWS : (i + 1) * ROWS] for i, name in enumerate(COLUMNS)}
  constant = np.array([0.5, -1.0, 2.0, -0.25])
  grads[column['tiny']] *= 1e-6
  grads[column['sparse']] *= random.random_sample((STEPS, ROWS)) < 0.2
  grads[column['constant']] = constant
  grads[column['zero']] = 0.0
  grads[column['near-constant']] = constant * (1 + 1e-4 * grads[column['near-constant']])
  return params.astype(np.float32), grads.astype(np.float32)


PARAMS, GRADS = _draw()
DIGEST = PARAMS.tobytes() + GRADS.tobytes()


_t = np.arange(STEPS)
# Learning rates that change from step to step, by name; Keras keeps a learning rate in float32.
RATES = {
  'linear': np.where(_t < 5, (_t + 1) / 500, (STEPS - _t) / 4500).astype(np.float32),
  'stairs': np.where(_t < 10, 1e-2, np.where(_t < 30, 1e-3, 5e-3)).astype(np.float32),
}


def pairs(rows, complex_):
  """Rows (..., 36) as they are, or as rows of 18 complex numbers."""
  rows = np.ascontiguousarray(rows)
  return rows.view(np.result_type(rows.dtype, np.complex64)) if complex_ else rows


def tree(rows, complex_=False):
  """The arrays of rows: {'matrix': ..., 'kernel': ..., 'vector': ...}; complex ones are half as long."""
  rows, part = pairs(rows, complex_), 2 if complex_ else 1
  lead, end = rows.shape[:-1], ROWS * len(COLUMNS) // part
  out, inputs, *window = SHAPES['kernel']
  return {
    'matrix': np.swapaxes(rows[..., :end].reshape(*lead, len(COLUMNS), ROWS // part), -1, -2),
    'kernel': rows[..., end : end + 8 // part].reshape(*lead, out, inputs // part, *window),
    'vector': rows[..., end + 8 // part :],
  }


def flat(arrays):
  """The inverse of `tree` and of `pairs`: rows of 36 real numbers."""
  if isinstance(arrays, dict):
    matrix, kernel, vector = (np.asarray(arrays[name]) for name in ('matrix', 'kernel', 'vector'))
    lead = vector.shape[:-1]
    arrays = np.concatenate([x.reshape(*lead, -1) for x in (np.swapaxes(matrix, -1, -2), kernel, vector)], -1)
  rows = np.ascontiguousarray(arrays)
  return rows.view(rows.real.dtype)


def error(actual, expected):
  """The largest difference in any step, relative to the largest expected number of its group; infinite for NaN."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  largest = lambda x: np.maximum.reduceat(np.abs(x), GROUPS, axis=-1)
  worst = (largest(actual - expected) / largest(expected)).max()
  return float(worst) if np.isfinite(worst) else np.inf
