"""The lines of mathematics that the family is composed of."""

from belief_optax.pieces.average import average_params
from belief_optax.pieces.bias import bias_correct, bias_correct_step, raw_mean
from belief_optax.pieces.clipping import clip_by_rms, clip_direction
from belief_optax.pieces.complex import complex_as_reals
from belief_optax.pieces.decay import add_cautious_decay, add_decayed_weights
from belief_optax.pieces.lookahead import lookahead
from belief_optax.pieces.moments import (
  accumulate_squares,
  belief,
  centered_moment,
  first_moment,
  running_max,
  second_moment,
)
from belief_optax.pieces.momentum import heavy_ball, nesterov
from belief_optax.pieces.rectify import rectify
from belief_optax.pieces.reductions import cautious, centralize
from belief_optax.pieces.rounding import round_updates
from belief_optax.pieces.rows import lazy_rows
from belief_optax.pieces.scaling import add_eps_root, precondition, scale, scale_by_learning_rate

__all__ = [
  'accumulate_squares',
  'add_cautious_decay',
  'add_decayed_weights',
  'add_eps_root',
  'average_params',
  'belief',
  'bias_correct',
  'bias_correct_step',
  'cautious',
  'centered_moment',
  'centralize',
  'clip_by_rms',
  'clip_direction',
  'complex_as_reals',
  'first_moment',
  'heavy_ball',
  'lazy_rows',
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
