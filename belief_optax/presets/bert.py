"""The optimizer of google-research/bert, also known as BertAdam of pytorch-pretrained-bert."""

import dataclasses
import re
from typing import Any

import jax
import optax

from belief_optax import pieces
from belief_optax.core import DECAY_RATE, EPSILON, NONNEGATIVE, Recipe, compose
from belief_optax.optimizers.descend import descend
from belief_optax.param_groups import name_of
from belief_optax.presets.dialect import numbers


@dataclasses.dataclass(frozen=True)
class NotNamed:
  """A mask that selects the parameters whose path contains none of the patterns."""

  patterns: tuple[str, ...]

  def __call__(self, params: Any) -> Any:
    found = lambda path, _: any(re.search(pattern, name_of(path)) for pattern in self.patterns)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: not found(path, leaf), params)


def adamw(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay_rate: optax.ScalarOrSchedule = 0.0,
  beta_1: optax.ScalarOrSchedule = 0.9,
  beta_2: optax.ScalarOrSchedule = 0.999,
  epsilon: optax.ScalarOrSchedule = 1e-6,
  exclude_from_weight_decay: list[str] | tuple[str, ...] | None = None,
  name: str = 'AdamWeightDecayOptimizer',
) -> Recipe:
  r"""Equals `AdamWeightDecayOptimizer` of BERT: AdamW without bias correction.

  .. math:: \theta_t = \theta_{t-1} - \alpha_t (m_t / (\sqrt{v_t} + \varepsilon) + w \theta_{t-1})

  Without bias correction its first step is (1 - b1) / sqrt(1 - b2) = 3.2 times Adam's, and it needs a warmup.

  Args:
    learning_rate: >= 0: number, scalar array or schedule.
    weight_decay_rate: w >= 0.
    beta_1: the decay rate of the mean.
    beta_2: the decay rate of the second moment.
    epsilon: added to the root, >= 0.
    exclude_from_weight_decay: regular expressions; a parameter in whose path (`'layer/bias'`) one is found does not
      decay.
    name: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.bert.adamw(1e-4, 0.01, exclude_from_weight_decay=['LayerNorm', 'bias'])
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      precondition(eps=1e-06, eps_root=0.0),
      add_decayed_weights(weight_decay=0.01, mask=NotNamed(patterns=('LayerNorm', 'bias')), multiplier=1.0),
      scale_by_learning_rate(learning_rate=0.0001, flip_sign=True),
    )
  """
  learning_rate, decay = numbers(NONNEGATIVE, learning_rate=learning_rate, weight_decay_rate=weight_decay_rate)
  b1, b2 = numbers(DECAY_RATE, beta_1=beta_1, beta_2=beta_2)
  (epsilon,) = numbers(EPSILON, epsilon=epsilon)
  patterns = () if exclude_from_weight_decay is None else exclude_from_weight_decay
  if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
    raise TypeError(f'exclude_from_weight_decay must be a list of regular expressions, got {patterns!r}.')
  direction = compose(pieces.first_moment(b1), pieces.second_moment(b2), pieces.precondition(epsilon))
  return descend(direction, learning_rate, decay, NotNamed(tuple(patterns)) if patterns else None)
