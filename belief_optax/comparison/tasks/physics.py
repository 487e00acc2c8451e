"""Fits to differential equations: their gradients have no noise."""

from typing import Any

import jax
import jax.numpy as jnp

from belief_optax.comparison.networks import layers, perceptron
from belief_optax.comparison.tasks.base import Task


def oscillator() -> Task:
  """A physics-informed network learns u(t) from u'' + 0.6 u' + 25 u = 0 and the start u = 1, u' = 0 alone."""
  damping, stiffness = 0.6, 25.0
  frequency = (stiffness - damping**2 / 4) ** 0.5

  def exact(t: jax.Array) -> jax.Array:
    return jnp.exp(-damping * t / 2) * (jnp.cos(frequency * t) + damping / 2 / frequency * jnp.sin(frequency * t))

  def derivatives(p: Any, t: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    u = lambda t: perceptron(p, t[None], jnp.tanh)[0]
    slope = lambda t: jax.jvp(u, (t,), (jnp.ones_like(t),))
    (value, first), (_, second) = jax.jvp(slope, (t,), (jnp.ones_like(t),))
    return value, first, second

  def loss(p: Any, key: jax.Array) -> jax.Array:
    del key  # all points at every step
    u, first, second = jax.vmap(lambda t: derivatives(p, t))(jnp.linspace(0, 1.5, 64))
    residual = (second + damping * first + stiffness * u) / stiffness
    return jnp.mean(residual**2) + (u[0] - 1) ** 2 + (first[0] / frequency) ** 2

  def score(p: Any, held: Any) -> jax.Array:
    del held
    t = jnp.linspace(0, 1.5, 100)
    return jnp.mean((perceptron(p, t[:, None], jnp.tanh)[:, 0] - exact(t)) ** 2)

  title = 'physics-informed perceptron 1-24-24-1 of a damped oscillator, 64 points, no data'
  return Task(
    'oscillator', 'noise-free', title, 'mean square against the exact solution', steps=2000, every=100, seeds=3,
    target=1e-4, init=lambda key: layers(key, 1, 24, 24, 1, gain=1.0), loss=loss, score=score,
  )  # fmt: skip


def orbit() -> Task:
  """A neural differential equation is fitted to a trajectory of predators and prey, without noise."""
  times, dt = 30, 0.2

  def trajectory(field: Any) -> jax.Array:
    def step(x: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:  # Runge and Kutta's
      a = field(x)
      b = field(x + dt / 2 * a)
      c = field(x + dt / 2 * b)
      d = field(x + dt * c)
      x = x + dt / 6 * (a + 2 * b + 2 * c + d)
      return x, x

    return jax.lax.scan(step, jnp.array([1.5, 1.0]), length=times)[1]

  truth = trajectory(lambda x: jnp.array([x[0] - x[0] * x[1], x[0] * x[1] - x[1]]))
  score = lambda p, _: jnp.mean((trajectory(lambda x: perceptron(p, x, jnp.tanh)) - truth) ** 2)

  def init(key: jax.Array) -> Any:
    *inner, last = layers(key, 2, 32, 2, gain=1.0)
    return [*inner, {**last, 'w': 0.1 * last['w']}]  # a field that is nearly still, so that no start diverges

  title = f'neural differential equation 2-32-2, fitted to {times} points of a Lotka-Volterra orbit'
  return Task(
    'orbit', 'noise-free', title, 'mean square of the trajectory', steps=1000, every=50, seeds=4, target=1e-4,
    init=init, loss=score, score=score,
  )  # fmt: skip
