"""Parameters and optimizer state of other programs: torch's, here and back, through files, and Adam's for AdaBelief.

Nothing here needs torch to be installed; its objects may come from anywhere. A file of `torch.save` is for
`torch.load`, whose result goes in here; `save_safetensors` and `load_safetensors` need neither torch nor pickle.
"""

from belief_optax.interop.dumping import dump_params, dump_state
from belief_optax.interop.files import load_safetensors, save_safetensors
from belief_optax.interop.loading import load_params, load_state
from belief_optax.interop.names import Name, flax_names
from belief_optax.interop.nesting import put_state, take_state
from belief_optax.interop.warm import warm_start

__all__ = [
  'Name',
  'dump_params',
  'dump_state',
  'flax_names',
  'load_params',
  'load_safetensors',
  'load_state',
  'put_state',
  'save_safetensors',
  'take_state',
  'warm_start',
]
