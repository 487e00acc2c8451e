"""What algorithms share in arguments, said once: the type, the range and the words of each.

`checked` checks arguments where an optimizer is built. `tools/docstrings.py` writes the words into the docstrings. They
stay literal in the source, so that `help` and an editor show all of them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

from jax.typing import DTypeLike
from optax import ScalarOrSchedule

from belief_optax.core.arguments import choice, flag, hyper, option, optional_hyper, state_dtype
from belief_optax.core.masks import mask_option
from belief_optax.core.ranges import DECAY_RATE, EPSILON, MOMENTUM, NONNEGATIVE, POSITIVE, THRESHOLD
from belief_optax.stores.base import StoreLike, resolve

WeightDecayMode = Literal['decoupled', 'l2', 'fixed', 'independent', 'cautious', 'proximal']
Residual = Literal['current', 'debiased', 'previous']


class Dataclass(Protocol):
  """An instance of a dataclass, as the nodes of many trees are (Equinox, Flax)."""

  __dataclass_fields__: ClassVar[dict[str, Any]]


Mask = bool | Mapping[Any, Any] | list[Any] | tuple[Any, ...] | Dataclass | Callable[[Any], Any]


class Vocabulary:
  """The arguments that more than one algorithm or piece has.

  In the words `{range}` stands for the range of the field, `{number}` for that and what else a number may be, `{names}`
  for the strings that the type allows.

  Attributes:
    learning_rate: step size alpha: {range}, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: {number}.
    b2: decay rate of the second moment: {number}.
    decay: decay rate d: {number}.
    momentum: decay rate d of the momentum buffer: {number}; None for none.
    dampening: tau: {number}. If it equals the decay rate, the buffer is an exponential average.
    eps: added to the root: {number}.
    eps_root: added under the root: {number}.
    eps_in_sqrt: whether eps is added under the root (optax, TensorFlow) or to it (torch).
    initial: value of the second moment before the first step: {number}.
    threshold: smallest rho_t with an adaptive step (5 in the paper's code, 4 in the paper): {number}.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    rectify: whether to rectify the variance of the first steps (RAdam's r_t).
    degenerate_to_sgd: whether the steps before rectification is possible are the mean (True), whose length is that of
      the gradient, or none (False).
    amsgrad: whether s is replaced by the largest s so far, before bias correction; also with `rectify`.
    bias_correction: whether the moments are corrected for their start at zero.
    max_step: the longest step of an element before weight decay, in learning rates: {number}; None for no limit.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    residual: `'current'` for $g_t - m_t$, `'debiased'` for $g_t - m_t/(1-b_1^t)$, `'previous'` for $g_t - m_{t-1}$.
      The debiased residual of the first step is taken as $g_1$.
    weight_decay: weight decay w (0 for none): {number}.
    weight_decay_mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    store: how the slots are kept between the steps: {names}, a `stores.Store`, or a mapping from slots to one of these.
  """

  learning_rate: ScalarOrSchedule = hyper(allowed=NONNEGATIVE)
  b1: ScalarOrSchedule = hyper(allowed=DECAY_RATE)
  b2: ScalarOrSchedule = hyper(allowed=DECAY_RATE)
  decay: ScalarOrSchedule = hyper(allowed=DECAY_RATE)
  momentum: ScalarOrSchedule | None = optional_hyper(allowed=MOMENTUM)
  dampening: ScalarOrSchedule = hyper(allowed=MOMENTUM)
  eps: ScalarOrSchedule = hyper(allowed=EPSILON)
  eps_root: ScalarOrSchedule = hyper(allowed=EPSILON)
  eps_in_sqrt: bool = option(normal=flag)
  initial: ScalarOrSchedule = hyper(allowed=NONNEGATIVE)
  threshold: ScalarOrSchedule = hyper(allowed=THRESHOLD)
  mu_dtype: DTypeLike | None = option(normal=state_dtype)
  nesterov: bool = option(normal=flag)
  rectify: bool = option(normal=flag)
  degenerate_to_sgd: bool = option(normal=flag)
  amsgrad: bool = option(normal=flag)
  bias_correction: bool = option(normal=flag)
  max_step: ScalarOrSchedule | None = optional_hyper(allowed=POSITIVE)
  eps_scaled: bool = option(normal=flag)
  residual: Residual = option(normal=functools.partial(choice, allowed=Residual))
  weight_decay: ScalarOrSchedule = hyper(allowed=NONNEGATIVE)
  weight_decay_mask: Mask | None = mask_option()
  mask: Mask | None = mask_option()
  weight_decay_mode: WeightDecayMode = option(normal=functools.partial(choice, allowed=WeightDecayMode))
  store: StoreLike = option(normal=resolve)


def checked(**arguments: Any) -> tuple[Any, ...]:
  """Returns arguments in their normal form, or raises an error that names one."""
  return tuple(vars(Vocabulary)[name].metadata['normal'](name, value) for name, value in arguments.items())
