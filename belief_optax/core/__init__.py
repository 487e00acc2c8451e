"""The core: lines, the recipes that they make, and the engine that runs a recipe.

To write your own piece, subclass `Line` and name both the class and the piece:

    class ClipElements(Line):
      limit: ScalarOrSchedule = hyper(default=1.0, allowed=ranges.POSITIVE)  # a number, an array or a schedule

      def scalars(self, now):      # once per step: what `step` takes
        return now(self.limit)

      def step(self, x, k):        # once per array: the equation
        return x.redirect(jnp.clip(x.u, -k, k))

    clip_elements = piece(ClipElements)

It inherits printing, comparison, jit, masks, dtypes, stores and sharding. A step has three rhythms: Python numbers are
folded on the host, in float64, when the step is traced; `Line.scalars` runs once per step; `Line.step` once per array.

- `Line` says what a line can declare: what it needs and gives, the slots that it owns and those that it writes.
- `Slot` is an array that a line carries from step to step; `Leaf` is what `step` sees of one array, `Now` the clock
  that `scalars` gets.
- `hyper`, `optional_hyper`, `option` and `mask_option` declare fields; `ranges` has the ranges of numbers.
"""

from belief_optax.core.arguments import (
  choice,
  flag,
  hyper,
  hyperparameter,
  integer,
  is_array,
  is_zero,
  option,
  optional_hyper,
  optional_positive_integer,
  positive_integer,
  state_dtype,
)
from belief_optax.core.clock import Now, Sampled
from belief_optax.core.leaf import Leaf
from belief_optax.core.masks import mask_option, normal_mask
from belief_optax.core.piece import Line
from belief_optax.core.ranges import (
  DECAY_RATE,
  EPSILON,
  FINITE,
  FRACTION,
  MOMENTUM,
  NONNEGATIVE,
  POSITIVE,
  POSITIVE_DECAY_RATE,
  THRESHOLD,
  Range,
)
from belief_optax.core.recipe import Recipe, compose, keys_of, piece, when
from belief_optax.core.slot import Slot
from belief_optax.core.step import Rule, State, check_state

__all__ = [
  'DECAY_RATE',
  'EPSILON',
  'FINITE',
  'FRACTION',
  'MOMENTUM',
  'NONNEGATIVE',
  'POSITIVE',
  'POSITIVE_DECAY_RATE',
  'THRESHOLD',
  'Leaf',
  'Line',
  'Now',
  'Range',
  'Recipe',
  'Rule',
  'Sampled',
  'Slot',
  'State',
  'check_state',
  'choice',
  'compose',
  'flag',
  'hyper',
  'hyperparameter',
  'integer',
  'is_array',
  'is_zero',
  'keys_of',
  'mask_option',
  'normal_mask',
  'option',
  'optional_hyper',
  'optional_positive_integer',
  'piece',
  'positive_integer',
  'state_dtype',
  'when',
]
