"""The lines of mathematics that the family is composed of."""

from belief_optax.pieces.corrections import bias_correct, bias_correct_step, nesterov, rectify
from belief_optax.pieces.decay import add_decayed_weights
from belief_optax.pieces.directions import precondition, scale, scale_by_learning_rate
from belief_optax.pieces.moments import (
  accumulate_squares,
  belief,
  centered_moment,
  first_moment,
  heavy_ball,
  running_max,
  second_moment,
)

__all__ = [
  'accumulate_squares',
  'add_decayed_weights',
  'belief',
  'bias_correct',
  'bias_correct_step',
  'centered_moment',
  'first_moment',
  'heavy_ball',
  'nesterov',
  'precondition',
  'rectify',
  'running_max',
  'scale',
  'scale_by_learning_rate',
  'second_moment',
]
