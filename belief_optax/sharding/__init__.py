"""Where the state of an optimizer lives on a mesh: with its parameters, or spread over the devices that share them."""

from belief_optax.sharding.placement import init_sharded, local_params, mean_gradients, state_shardings, zero1

__all__ = ['init_sharded', 'local_params', 'mean_gradients', 'state_shardings', 'zero1']
