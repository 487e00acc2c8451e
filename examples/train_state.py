"""AdaBelief with a schedule in a Flax TrainState, and why an optimizer should be a value.

A TrainState keeps its `tx` as a static field, so `jax.jit` compares it at each call. An optimizer made anew, for the
next fold or after a restart, is equal to the old one here, and the compiled step is used again. Optimizers that are
bundles of closures differ each time: the step is traced and compiled anew.

The step takes `state` first and returns it first, and donates it: parameters and moments are updated in place.
"""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from _common import COLORS, arguments, digits, plot_loss, save
from flax.training.train_state import TrainState

import belief_optax as bo

STEPS, BATCH = 400, 64
SCHEDULE = optax.cosine_decay_schedule(1e-2, STEPS)


class Net(nn.Module):
  """One hidden layer."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(10)(nn.relu(nn.Dense(128)(x)))


NET = Net()
traces = 0


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, images, labels, batch):
  global traces
  traces += 1  # Python runs this line only while jit traces

  def loss(params):
    logits = state.apply_fn({'params': params}, images[batch])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

  value, grads = jax.value_and_grad(loss)(state.params)
  return state.apply_gradients(grads=grads), value


def train(tx, seed):
  """Trains from scratch; returns the losses and how often the step was traced."""
  before = traces
  images, labels, *_ = digits()
  params = NET.init(jax.random.key(seed), images[:1])['params']
  state = TrainState.create(apply_fn=NET.apply, params=params, tx=tx)
  losses = []
  for batch in np.random.default_rng(seed).integers(len(images), size=(STEPS, BATCH)):
    state, loss = train_step(state, images, labels, batch)
    losses.append(loss)
  return jax.device_get(losses), traces - before


def main(out: Path):
  print(bo.adabelief(SCHEDULE), end='\n\n')
  figure, axes = plt.subplots(figsize=(6.5, 4))
  for seed, color in enumerate((COLORS['AdaBelief'], COLORS['Adam'])):
    losses, count = train(bo.adabelief(SCHEDULE), seed)
    print(f'belief_optax.adabelief, optimizer {seed + 1}: traces of the step: {count}')
    plot_loss(axes, losses, color=color, label=f'seed {seed}')
  for seed in range(2):
    _, count = train(optax.adabelief(SCHEDULE), seed)
    print(f'optax.adabelief, optimizer {seed + 1}: traces of the step: {count}')
  axes.set(xlabel='step', title='Handwritten digits: AdaBelief in a TrainState, cosine schedule')
  axes.legend()
  save(figure, out / 'train_state.png')


if __name__ == '__main__':
  main(arguments(__doc__, 'train_state').parse_args().out)
