"""Where the state of an optimizer lives on a mesh: with its parameters, or split over the devices that share them.

Most updates are elementwise, so XLA runs them wherever the arrays are. What it cannot know is where the state should be
created: zeros do not depend on the parameters, so a plain `jax.jit(tx.init)` puts a full copy on every device.

- `state_shardings` says where each array of a state belongs, `init_sharded` creates the state there, and
  `abstract_state` describes it for a restore. For parameters that are themselves split (FSDP) nothing else is needed.
- `zero1` splits the state of parameters that are replicated (ZeRO, stage 1).
- `local_params` and `mean_gradients` are for training steps inside `jax.shard_map`.
- `budget` counts what a device has to hold, before there is one.
- Shardings with a memory kind put the state into host memory: see `init_sharded`.

JAX does the work: `jax.jit` with `NamedSharding`, or `jax.shard_map`.
"""

from belief_optax.sharding.budget import Budget, budget
from belief_optax.sharding.placement import (
  abstract_state,
  init_sharded,
  local_params,
  mean_gradients,
  state_shardings,
)
from belief_optax.sharding.zero1 import zero1

__all__ = [
  'Budget',
  'abstract_state',
  'budget',
  'init_sharded',
  'local_params',
  'mean_gradients',
  'state_shardings',
  'zero1',
]
