"""What all algorithms share: how corrected moments make a direction, and how a direction makes a step."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from belief_optax import pieces
from belief_optax.core import Recipe, compose, flag, is_array, is_zero
from belief_optax.core.vocabulary import checked


def normalized(b1: Any, b2: Any, eps: Any, eps_root: Any = 0.0, *, eps_scaled: bool = False) -> Recipe:
  """Bias correction and division: of the moments first or, with `eps_scaled`, of the step afterwards.

  `b1=None` says that the mean is corrected already.
  """
  if flag('eps_scaled', eps_scaled):
    return compose(pieces.precondition(eps, eps_root), pieces.bias_correct_step(b1, b2))
  return compose(pieces.bias_correct(b1, b2), pieces.precondition(eps, eps_root))


def descend(
  direction: Recipe,
  learning_rate: Any,
  weight_decay: Any = 0.0,
  mask: Any = None,
  mode: str = 'decoupled',
  momentum: Recipe | None = None,
  mask_name: str = 'weight_decay_mask',
  store: Any = None,
) -> Recipe:
  r"""Makes a step of a direction: learning rate, weight decay and, where an algorithm wants it there, momentum.

  With the direction u, the learning rate a_t and the weight decay w:

  - decoupled: a_t (u + w p) is subtracted; with momentum, which the decay does not enter, momentum(a_t u) + a_t w p;
  - l2: the gradient is g + w p;
  - fixed: a_t u + w p is subtracted;
  - independent: a_t u + (a_t / a_0) w p is subtracted;
  - cautious: as decoupled, where the direction and p do not differ in sign;
  - proximal: a_t u is subtracted, then p is divided by 1 + a_t w.
  """
  _, mask = checked(weight_decay_mode=mode, **{mask_name: mask})
  learning_rate, weight_decay = checked(learning_rate=learning_rate, weight_decay=weight_decay)
  momentum = momentum or compose()
  kept = functools.partial(compose, store=store)
  descent, minus = pieces.scale_by_learning_rate(learning_rate), pieces.scale(-1.0)
  if is_zero(weight_decay):
    return kept(direction, descent, momentum)
  if mode == 'proximal':
    return kept(direction, descent, momentum, pieces.proximal_decay(weight_decay, mask, learning_rate))
  add = pieces.add_cautious_decay if mode == 'cautious' else pieces.add_decayed_weights
  decay = add(weight_decay, mask)
  if mode == 'l2':
    return kept(decay, direction, descent, momentum)
  if mode in ('decoupled', 'cautious') and not momentum.lines:
    return kept(direction, decay, descent)
  if mode in ('decoupled', 'cautious'):
    decay = add(weight_decay, mask, learning_rate)
  if mode == 'independent':
    decay = pieces.add_decayed_weights(weight_decay, mask, relative(learning_rate, "weight_decay_mode='independent'"))
  if momentum.lines:  # the buffer has the sign that it has without decay
    return kept(direction, descent, momentum, minus, decay, minus)
  return kept(direction, pieces.scale_by_learning_rate(learning_rate, flip_sign=False), decay, minus)


@dataclasses.dataclass(frozen=True)
class Relative:
  """A schedule divided by its first value, as a value: `Relative(s) == Relative(s)`."""

  schedule: Any
  first: float

  def __call__(self, count: Any) -> Any:
    return self.schedule(count) / self.first


def relative(learning_rate: Any, option: str) -> Any:
  """The multiplier a_t / a_0 of a learning rate: 1.0 for a number. The option that asks for it is named in errors."""
  if is_array(learning_rate):
    raise TypeError(
      f'{option} needs the learning rate at the first step, but learning_rate is an array: '
      "pass a number or a schedule, or use 'fixed' with a schedule as weight_decay."
    )
  if not callable(learning_rate):
    return 1.0
  with jax.ensure_compile_time_eval():
    first = float(jnp.asarray(learning_rate(0)))
  if not (first > 0 and math.isfinite(first)):
    raise ValueError(
      f'{option} divides by the first learning rate, but the schedule begins with {first}: '
      "use 'fixed' with a schedule as weight_decay."
    )
  return Relative(learning_rate, first)
