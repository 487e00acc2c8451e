"""Many trainings of one task side by side: one compiled program for all learning rates, decays and seeds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from belief_optax.comparison.optimizers import Contender
from belief_optax.comparison.tasks.base import Task

Program = Callable[[Any, Any, Any, Any], jax.Array]


def program(task: Task, contender: Contender) -> Program:
  """The trainings of a population.

  Args:
    task: what is trained.
    contender: by which optimizer.

  Returns:
    A compiled function: rates [n], decays [n], seeds [n], held-out data -> scores float32 [n, task.points].
  """

  def train(rate: jax.Array, decay: jax.Array, seed: jax.Array, held: Any) -> jax.Array:
    start, draws = jax.random.split(jax.random.key(seed))
    params = task.init(start)
    tx = contender.make(lambda count: rate * task.schedule(count), decay)

    def step(carry: Any, t: jax.Array) -> Any:
      params, state = carry
      grads = jax.grad(task.loss)(params, jax.random.fold_in(draws, t))
      updates, state = tx.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), None

    def stretch(carry: Any, k: jax.Array) -> Any:
      carry, _ = jax.lax.scan(step, carry, k * task.every + jnp.arange(task.every))
      return carry, task.score(carry[0], held)

    return jax.lax.scan(stretch, (params, tx.init(params)), jnp.arange(task.points))[1]

  return jax.jit(jax.vmap(train, in_axes=(0, 0, 0, None)))


def steps_to_target(task: Task, curves: np.ndarray) -> np.ndarray:
  """After how many steps the score is at the target and stays there; infinite where it never does.

  Args:
    task: whose target and rhythm are meant.
    curves: scores [..., task.points].

  Returns:
    Steps [...], float64.
  """
  above = ~(curves <= task.target)  # NaN is above
  last = np.where(above.any(-1), curves.shape[-1] - above[..., ::-1].argmax(-1), 0)
  return np.where(last < curves.shape[-1], (last + 1.0) * task.every, np.inf)


def results(task: Task, curves: np.ndarray) -> np.ndarray:
  """What a training is judged by: its last score or, where steps count, its steps to the target.

  A training that does not arrive counts as more steps than the budget, the more the farther it ends.
  """
  last = np.where(np.isfinite(curves).all(-1), curves[..., -1], np.inf)
  if not task.counts:
    return last
  steps = steps_to_target(task, curves)
  with np.errstate(invalid='ignore'):
    return np.where(np.isfinite(steps), steps, task.steps * (1 + last / task.target))
