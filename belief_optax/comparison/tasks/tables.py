"""Two tables of scikit-learn: diabetes (regression) and breast cancer (classification)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belief_optax.comparison.networks import cross_entropy, layers, perceptron
from belief_optax.comparison.tasks.base import Task

BATCH = 32


def split(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
  """Half to train with, a quarter to tune with, a quarter to test with; the columns are standardized by the first."""
  order = np.random.default_rng(0).permutation(len(x))
  quarter = len(x) // 4
  parts = [order[: len(x) - 2 * quarter], order[-2 * quarter : -quarter], order[-quarter:]]
  x = (x - x[parts[0]].mean(0)) / x[parts[0]].std(0)
  return [(np.asarray(x[part], np.float32), y[part]) for part in parts]


def table(name: str, title: str, unit: str, xy: Any, sizes: tuple[int, ...], error: Any, target: float) -> Task:
  """A perceptron on a table, in batches of 32."""
  (x, y), tune, test = split(*xy)

  def loss(p: Any, key: jax.Array) -> jax.Array:
    take = jax.random.randint(key, [BATCH], 0, len(x))
    return error(perceptron(p, jnp.asarray(x)[take]), jnp.asarray(y)[take])

  return Task(
    name, 'tables', title, unit, steps=400, every=20, seeds=3, target=target, init=lambda key: layers(key, *sizes),
    loss=loss, score=lambda p, held: error(perceptron(p, held[0]), held[1]), tune=tune, test=test, decays=True,
  )  # fmt: skip


def diabetes() -> Task:
  """Regression on ten columns."""
  from sklearn.datasets import load_diabetes

  x, y = map(np.asarray, load_diabetes(return_X_y=True))
  y = np.float32((y - y.mean()) / y.std())
  error = lambda out, y: jnp.mean((out[:, 0] - y) ** 2)
  title = 'diabetes progression of 442 patients, perceptron 10-32-32-1'
  return table('diabetes', title, 'held-out mean square over variance', (x, y), (10, 32, 32, 1), error, 0.69)


def cancer() -> Task:
  """Two classes from 30 columns."""
  from sklearn.datasets import load_breast_cancer

  x, y = map(np.asarray, load_breast_cancer(return_X_y=True))
  title = 'breast cancer of 569 patients, perceptron 30-32-2'
  return table('cancer', title, 'held-out cross entropy', (x, np.int32(y)), (30, 32, 2), cross_entropy, 0.14)
