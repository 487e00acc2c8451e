"""What algorithms share in arguments, said once: the type, the range and the words of each.

`checked` checks arguments by it where an optimizer is built. `tools/docstrings.py` writes its words into the docstrings,
which stay literal in the source, so that `help` and an editor show all of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

from jax.typing import DTypeLike
from optax import ScalarOrSchedule

from belief_optax.core.arguments import choice, flag, hyper, option, optional_hyper, state_dtype
from belief_optax.core.masks import mask_option
from belief_optax.core.ranges import DECAY_RATE, EPSILON, MOMENTUM, NONNEGATIVE, THRESHOLD
from belief_optax.stores.base import StoreLike, resolve

WeightDecayMode = Literal['decoupled', 'l2', 'fixed', 'independent']
Residual = Literal['current', 'debiased', 'previous']


class Module(Protocol):
  """A dataclass, as the nodes of many trees are (Equinox, Flax)."""

  __dataclass_fields__: ClassVar[dict[str, Any]]


Mask = bool | Mapping[Any, Any] | list[Any] | tuple[Any, ...] | Module | Callable[[Any], Any]


@dataclasses.dataclass(kw_only=True)
class Vocabulary:
  """The arguments that more than one algorithm or piece has.

  In the words `{range}` stands for the range of the field, `{number}` for that and its alternatives, and `{names}` for
  the strings of its type. A function that keeps words of its own says so in a comment behind its docstring.

  Attributes:
    learning_rate: step size alpha: {range}, a scalar array (can change without recompiling) or a schedule
      `count -> value`.
    b1: decay rate of the mean: {number}.
    b2: decay rate of the second moment: {number}.
    decay: decay rate d: {number}.
    momentum: decay rate d of the momentum buffer: {number}; None for no momentum.
    dampening: tau: {number}. The buffer is an exponential average where tau equals its decay rate.
    eps: added to the root: {number}.
    eps_root: added under the root: {number}.
    eps_in_sqrt: whether eps is added under the root (optax, TensorFlow) or to it (torch).
    initial: value of the second moment before the first step: {number}.
    threshold: smallest rho_t with an adaptive step: {number}.
    mu_dtype: dtype in which the mean is kept, by name or dtype; None for float32, or wider where the parameter is.
    nesterov: whether the step goes along the look-ahead mean, as in Nesterov's momentum.
    rectify: whether the variance of the first steps is rectified (RAdam's r_t).
    degenerate_to_sgd: whether the step before rho_t reaches its threshold is the mean (True) or none (False).
    amsgrad: whether s is replaced by the largest s so far, before bias correction.
    bias_correction: whether the moments are corrected for their start at zero; False is BERT's Adam.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    residual: `'current'` for $g_t - m_t$, `'debiased'` for $g_t - m_t/(1-b_1^t)$, `'previous'` for $g_t - m_{t-1}$.
      The debiased residual of the first step is 0: keep `rectify`, or give `eps_root` a weight, or that step is huge.
    weight_decay: weight decay w, 0 for none: {number}.
    weight_decay_mask: which parameters decay: a tree of bools, a prefix of one, or a callable that makes one of the
      parameters; None for all.
    mask: which parameters decay: a tree of bools, a prefix of one, or a callable that makes one of the parameters; None
      for all.
    weight_decay_mode: what decays a parameter: the learning rate times w (`'decoupled'`), w in the gradient (`'l2'`),
      w alone (`'fixed'`), or w times the learning rate relative to its first value (`'independent'`).
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
  eps_scaled: bool = option(normal=flag)
  residual: Residual = option(normal=functools.partial(choice, allowed=Residual))
  weight_decay: ScalarOrSchedule = hyper(allowed=NONNEGATIVE)
  weight_decay_mask: Mask | None = mask_option()
  mask: Mask | None = mask_option()
  weight_decay_mode: WeightDecayMode = option(normal=functools.partial(choice, allowed=WeightDecayMode))
  store: StoreLike = option(normal=resolve)


def checked(**arguments: Any) -> tuple[Any, ...]:
  """Returns arguments in their normal form, or raises an error that names one."""
  fields = Vocabulary.__dataclass_fields__
  return tuple(fields[name].metadata['normal'](name, value) for name, value in arguments.items())
