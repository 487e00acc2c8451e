"""Pieces of belief_optax among transformations of optax: clipping, a schedule, groups, gradient accumulation.

- `recipe`: a variant of our own, an ordered list of pieces;
- `by_path`: no decay on biases, and the kernel of the head at a tenth of the learning rate;
- `optax.chain`: with clipping before them;
- `optax.MultiSteps`: one step for four small batches.
"""

import functools
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from _common import COLORS, arguments, digits, plot_loss, save
from flax import nnx

import belief_optax as bo

UPDATES, ACCUMULATE, BATCH = 300, 4, 16
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=50, decay_steps=UPDATES)


def recipe(scale=1.0, weight_decay=1e-2):
  """AdaBelief with a look-ahead mean, the largest belief so far, a short memory and decoupled decay."""
  return bo.compose(
    bo.first_moment(0.9),  # m_t = 0.9 m + 0.1 g
    bo.belief(0.99),  # s_t = 0.99 s + 0.01 (g - m_t)^2
    bo.running_max(),  # s_t <- max(s_{t-1}, s_t)
    bo.nesterov(0.9),  # m^_t looks one step ahead
    bo.bias_correct(b2=0.99),  # s^_t = s_t / (1 - 0.99^t)
    bo.precondition(1e-8),  # u_t = m^_t / (sqrt(s^_t) + 1e-8)
    bo.add_decayed_weights(weight_decay),  # u_t <- u_t + w theta
    bo.scale_by_learning_rate(SCHEDULE),  # u_t <- -alpha_t u_t
    bo.scale(scale),
  )


# The first pattern that matches wins: the bias of the head has no decay and the full learning rate.
GROUPS = bo.by_path({'*/bias': {'weight_decay': 0.0}, 'head/*': {'scale': 0.1}}, recipe)
TX = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), GROUPS), every_k_schedule=ACCUMULATE)


class Net(nnx.Module):
  """A body of two layers and a head."""

  def __init__(self, rngs: nnx.Rngs):
    self.body = nnx.Sequential(nnx.Linear(64, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 128, rngs=rngs), nnx.relu)
    self.head = nnx.Linear(128, 10, rngs=rngs)

  def __call__(self, x):
    return self.head(self.body(x))


GRAPH = nnx.graphdef(Net(nnx.Rngs(0)))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train(params, state, batches):
  """One step for each small batch; (params, state, losses)."""

  def loss(params, images, labels):
    logits = nnx.merge(GRAPH, params)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  def step(carry, batch):
    params, state = carry
    value, grads = jax.value_and_grad(loss)(params, *batch)
    updates, state = TX.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), value

  (params, state), losses = jax.lax.scan(step, (params, state), batches)
  return params, state, losses


def main(out: Path):
  print(recipe())
  images, labels, test_images, test_labels = digits()
  params = nnx.state(Net(nnx.Rngs(0)))
  order = np.random.default_rng(0).integers(len(images), size=(UPDATES * ACCUMULATE, BATCH))
  params, state, losses = train(params, TX.init(params), (images[order], labels[order]))
  accuracy = (nnx.merge(GRAPH, params)(test_images).argmax(-1) == test_labels).mean()
  print(f'{len(losses)} small batches, {state.gradient_step} steps, test accuracy {accuracy:.1%}')

  figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.5, 5.5), sharex=True, height_ratios=(2, 1))
  plot_loss(top, losses, window=10 * ACCUMULATE, color=COLORS['AdaBelief'])
  steps = np.arange(len(losses))
  rates = np.asarray(jax.vmap(SCHEDULE)(steps // ACCUMULATE))
  bottom.plot(1 + steps, rates, color='0.3', label='all else')
  bottom.plot(1 + steps, 0.1 * rates, '--', color='0.3', label='kernel of the head')
  bottom.set(xlabel=f'small batch of {BATCH}, {ACCUMULATE} to a step', ylabel='learning rate')
  bottom.legend()
  top.set_title('Handwritten digits: a custom recipe, clipped, grouped, accumulated')
  save(figure, out / 'chain.png')


if __name__ == '__main__':
  main(arguments(__doc__, 'chain').parse_args().out)
