"""The lines of mathematics that the family is composed of."""

from belief_optax.pieces.average import average_params
from belief_optax.pieces.bias import bias_correct, bias_correct_step, raw_mean
from belief_optax.pieces.clipping import clip_by_rms, clip_direction
from belief_optax.pieces.complex import complex_as_reals
from belief_optax.pieces.decay import add_cautious_decay, add_decayed_weights, proximal_decay
from belief_optax.pieces.delayed import after_first, clip_growing, previous_moment, seeded_moment
from belief_optax.pieces.differences import gradient_change, variance_reduction
from belief_optax.pieces.directions import average_direction, direction_moment, interpolated_mean, slow_mean, track_mean
from belief_optax.pieces.lookahead import lookahead
from belief_optax.pieces.moments import (
  accumulate_squares,
  belief,
  centered_moment,
  first_moment,
  running_max,
  second_moment,
  yogi_moment,
)
from belief_optax.pieces.momentum import heavy_ball, nesterov
from belief_optax.pieces.normalizing import (
  precondition_atan2,
  precondition_clamped,
  precondition_max,
  precondition_partial,
  sign,
)
from belief_optax.pieces.norms import clip_array_norm, keep_norm, trust_ratio
from belief_optax.pieces.rectify import rectify
from belief_optax.pieces.reductions import cautious, centralize
from belief_optax.pieces.rounding import round_updates
from belief_optax.pieces.rows import lazy_rows
from belief_optax.pieces.scaling import add_eps_root, precondition, scale, scale_by_learning_rate
from belief_optax.pieces.schedule_free import schedule_free

__all__ = [
  'accumulate_squares',
  'add_cautious_decay',
  'add_decayed_weights',
  'add_eps_root',
  'after_first',
  'average_direction',
  'average_params',
  'belief',
  'bias_correct',
  'bias_correct_step',
  'cautious',
  'centered_moment',
  'centralize',
  'clip_array_norm',
  'clip_by_rms',
  'clip_direction',
  'clip_growing',
  'complex_as_reals',
  'direction_moment',
  'first_moment',
  'gradient_change',
  'heavy_ball',
  'interpolated_mean',
  'keep_norm',
  'lazy_rows',
  'lookahead',
  'nesterov',
  'precondition',
  'precondition_atan2',
  'precondition_clamped',
  'precondition_max',
  'precondition_partial',
  'previous_moment',
  'proximal_decay',
  'raw_mean',
  'rectify',
  'round_updates',
  'running_max',
  'scale',
  'scale_by_learning_rate',
  'schedule_free',
  'second_moment',
  'seeded_moment',
  'sign',
  'slow_mean',
  'track_mean',
  'trust_ratio',
  'variance_reduction',
  'yogi_moment',
]
