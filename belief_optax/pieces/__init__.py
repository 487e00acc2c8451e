"""The lines of mathematics that the family is composed of."""

from belief_optax.pieces.corrections import bias_correct, bias_correct_step, nesterov, raw_mean, rectify
from belief_optax.pieces.decay import add_decayed_weights
from belief_optax.pieces.directions import add_eps_root, precondition, scale, scale_by_learning_rate
from belief_optax.pieces.moments import (
  accumulate_squares,
  belief,
  centered_moment,
  first_moment,
  heavy_ball,
  running_max,
  second_moment,
)
from belief_optax.pieces.outer import complex_as_reals, lookahead
from belief_optax.pieces.rounding import round_updates
from belief_optax.pieces.whole import cautious, centralize

__all__ = [
  'accumulate_squares',
  'add_decayed_weights',
  'add_eps_root',
  'belief',
  'bias_correct',
  'bias_correct_step',
  'cautious',
  'centered_moment',
  'centralize',
  'complex_as_reals',
  'first_moment',
  'heavy_ball',
  'lookahead',
  'nesterov',
  'precondition',
  'raw_mean',
  'rectify',
  'round_updates',
  'running_max',
  'scale',
  'scale_by_learning_rate',
  'second_moment',
]
