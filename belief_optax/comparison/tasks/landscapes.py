"""Functions of two numbers without noise, at a constant learning rate: how many steps to stay near the minimum."""

from typing import Any

import jax
import jax.numpy as jnp

from belief_optax.comparison.tasks.base import Task

NEAR = 0.1


def landscape(name: str, title: str, height: Any, start: tuple[float, float], minimum: tuple[float, float]) -> Task:
  """The task of a landscape; a seed moves its start by a normal distance of 0.1 in x and y."""
  return Task(
    name, 'landscapes', title, f'steps until the distance to the minimum stays within {NEAR:g}', steps=5000, every=5,
    seeds=10, target=NEAR, init=lambda key: jnp.array(start) + 0.1 * jax.random.normal(key, [2]),
    loss=lambda p, _: height(*p), score=lambda p, _: jnp.linalg.norm(p - jnp.array(minimum)), counts=True,
  )  # fmt: skip


def rosenbrock() -> Task:
  """A bent valley."""
  height = lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2
  return landscape('rosenbrock', 'Rosenbrock, from (-2, 2)', height, (-2.0, 2.0), (1.0, 1.0))


def beale() -> Task:
  """A plateau with steep walls."""
  height = lambda x, y: sum((a - x + x * y**n) ** 2 for n, a in enumerate((1.5, 2.25, 2.625), 1))
  return landscape('beale', 'Beale, from (1, 1.5)', height, (1.0, 1.5), (3.0, 0.5))


def absolute() -> Task:
  """A kink: the gradient does not shrink near the minimum."""
  return landscape('absolute', '|x| + |y|, from (4, 3)', lambda x, y: abs(x) + abs(y), (4.0, 3.0), (0.0, 0.0))
