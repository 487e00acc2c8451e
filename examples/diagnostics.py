"""What AdaBelief does while it learns handwritten digits, measured during its steps and drawn.

Parameters are bfloat16 and the state has 2 bytes per parameter, so that the panel shows what both lose. The training
loop is the usual one: `measure` wraps the optimizer, and `read` is called every few steps.
"""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
from _common import arguments, digits, whole_number

import belief_optax as bo

BATCH = 64


class Net(nn.Module):
  """One hidden layer."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(10)(nn.relu(nn.Dense(128)(x)))


def main(out: Path, steps: int):
  images, labels, *_ = digits()
  net = Net()
  schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, steps // 10, steps)
  recipe = bo.adabelief(schedule, eps_root=1e-12, rectify=True, degenerate_to_sgd=True, store='int8')
  tx = bo.diagnostics.measure(recipe, groups={'biases': '*bias'}, every=2)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), net.init(jax.random.key(0), images[:1]))
  state = tx.init(params)

  @jax.jit
  def step(params, state, batch):
    def loss(params):
      return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, images[batch]), labels[batch]).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  history = []
  for t, batch in enumerate(np.random.default_rng(0).integers(len(images), size=(steps, BATCH)), 1):
    params, state, value = step(params, state, batch)
    if t == 1 or t % 2 == 0:
      history.append(bo.diagnostics.read(state))
  print(bo.diagnostics.describe(tx, params))
  print(f'the last loss: {value:.3f}')
  rich.print(bo.diagnostics.table(state))
  bo.diagnostics.plot(history, out / 'diagnostics.png')
  print(f'drew {out / "diagnostics.png"}')


if __name__ == '__main__':
  parser = arguments(__doc__, 'diagnostics')
  parser.add_argument('--steps', type=whole_number(20), default=400, help='steps (%(default)s)')
  args = parser.parse_args()
  main(args.out, args.steps)
