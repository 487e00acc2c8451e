"""Actor and critic balance a pole on a cart: the environment, its episodes and the loss, in JAX."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from belief_optax.comparison.networks import cross_entropy, layers, perceptron
from belief_optax.comparison.tasks.base import Task

LONGEST, EPISODES, DISCOUNT = 200, 16, 0.99


def advance(state: jax.Array, action: jax.Array) -> jax.Array:
  """One step of 0.02 s of Barto, Sutton and Anderson's cart and pole: [position, speed, angle, its speed]."""
  _, v, angle, w = state
  force = jnp.where(action == 1, 10.0, -10.0)
  push = (force + 0.05 * w**2 * jnp.sin(angle)) / 1.1
  turn = (9.8 * jnp.sin(angle) - jnp.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1))
  return state + 0.02 * jnp.array([v, push - 0.05 * turn * jnp.cos(angle) / 1.1, w, turn])


def stands(state: jax.Array) -> jax.Array:
  """Whether the cart is on the track and the pole within 12 degrees."""
  return (jnp.abs(state[0]) < 2.4) & (jnp.abs(state[2]) < 12 * jnp.pi / 180)


class Episodes(NamedTuple):
  """What happened.

  Attributes:
    states: [LONGEST, episodes, 4]; after a fall they stay.
    actions: [LONGEST, episodes], 0 or 1.
    alive: [LONGEST, episodes], 1.0 until the pole has fallen.
  """

  states: jax.Array
  actions: jax.Array
  alive: jax.Array


def play(p: Any, key: jax.Array, episodes: int = EPISODES) -> Episodes:
  """Episodes with actions drawn from the policy."""
  start, draws = jax.random.split(key)
  noise = jax.random.gumbel(draws, (LONGEST, episodes, 2))

  def step(carry: Any, noise: jax.Array) -> Any:
    state, alive = carry
    action = (perceptron(p['actor'], state, jnp.tanh) + noise).argmax(-1)
    after = jax.vmap(advance)(state, action)
    after = jnp.where(alive[:, None] > 0, after, state)  # a fallen pole stays, so that nothing overflows
    return (after, alive * jax.vmap(stands)(after)), Episodes(state, action, alive)

  begin = jax.random.uniform(start, (episodes, 4), minval=-0.05, maxval=0.05)
  return jax.lax.scan(step, (begin, jnp.ones(episodes)), noise)[1]


def cartpole() -> Task:
  """Policy gradients with a learned baseline."""

  def init(key: jax.Array) -> Any:
    actor, critic = jax.random.split(key)
    return {'actor': layers(actor, 4, 32, 2, gain=1.0), 'critic': layers(critic, 4, 32, 1, gain=1.0)}

  def loss(p: Any, key: jax.Array) -> jax.Array:
    states, actions, alive = play(jax.lax.stop_gradient(p), key)
    back = lambda after, alive: (alive + DISCOUNT * after,) * 2
    returns = jax.lax.scan(back, jnp.zeros(EPISODES), alive, reverse=True)[1] * (1 - DISCOUNT)
    value = perceptron(p['critic'], states, jnp.tanh)[..., 0]
    advantage = jax.lax.stop_gradient(returns - value)
    advantage = advantage / (jnp.sqrt((alive * advantage**2).sum() / alive.sum()) + 1e-3)
    logits = perceptron(p['actor'], states, jnp.tanh)
    surprise = jax.vmap(jax.vmap(cross_entropy))(logits, actions)
    return (alive * (advantage * surprise + (returns - value) ** 2)).sum() / alive.sum()

  score = lambda p, key: LONGEST - play(p, jax.random.key(key), 64).alive.sum(0).mean()
  title = f'cart and pole, actor 4-32-2 and critic 4-32-1, {EPISODES} episodes of at most {LONGEST} steps an update'
  return Task(
    'cartpole', 'reinforcement learning', title, f'{LONGEST} minus the mean return', steps=100, every=5, seeds=2,
    target=10.0, init=init, loss=loss, score=score, tune=jnp.int32(1), test=jnp.int32(2), worst=float(LONGEST),
  )  # fmt: skip
