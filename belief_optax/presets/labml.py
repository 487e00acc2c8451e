"""The annotated optimizers of labml_nn 0.5.1."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import EPSILON, NONNEGATIVE, Recipe, compose, when
from belief_optax.optimizers.descend import descend, normalized
from belief_optax.presets.dialect import adam_direction, decay_mode, flags, numbers, rates, warn_of_bug


@dataclasses.dataclass(frozen=True)
class WeightDecay:
  """The weight decay of labml_nn, `labml_nn.optimizers.WeightDecay`.

  Attributes:
    weight_decay: >= 0: number, scalar array or schedule.
    weight_decouple: whether the decay is decoupled, or L2.
    absolute: whether decoupled decay is not multiplied by the learning rate.

  Example:
    >>> from belief_optax import presets
    >>> presets.labml.WeightDecay(1e-4, absolute=True)
    WeightDecay(weight_decay=0.0001, weight_decouple=True, absolute=True)
  """

  weight_decay: Any = 0.0
  weight_decouple: bool = True
  absolute: bool = False

  def __post_init__(self) -> None:
    numbers(NONNEGATIVE, weight_decay=self.weight_decay)
    flags(weight_decouple=self.weight_decouple, absolute=self.absolute)


def _optimizer(direction: Recipe, lr: Any, weight_decay: Any) -> Recipe:
  (lr,) = numbers(NONNEGATIVE, lr=lr)
  if not isinstance(weight_decay, WeightDecay):
    raise TypeError(f'weight_decay must be a presets.labml.WeightDecay, got {weight_decay!r}.')
  mode = decay_mode(weight_decay.weight_decouple, weight_decay.absolute)
  return descend(direction, lr, weight_decay.weight_decay, mode=mode)


def adam(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-16,
  weight_decay: WeightDecay = WeightDecay(),
  optimized_update: bool = True,
) -> Recipe:
  r"""Equals `labml_nn.optimizers.adam.Adam`.

  .. math:: u_t = \hat m_t \sqrt{1-b_2^t} / (\sqrt{v_t} + \varepsilon) \text{ or }
    \hat m_t / (\sqrt{\hat v_t} + \varepsilon)

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root, >= 0.
    weight_decay: a `WeightDecay`.
    optimized_update: whether eps is added to the root of the raw moment (True) or of the corrected one.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.labml.adam()
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      precondition(eps=1e-16, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  return amsgrad(lr, betas, eps, weight_decay, optimized_update, amsgrad=False)


def amsgrad(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-16,
  weight_decay: WeightDecay = WeightDecay(),
  optimized_update: bool = True,
  amsgrad: bool = True,
) -> Recipe:
  r"""Equals `labml_nn.optimizers.amsgrad.AMSGrad`, with the maximum of the raw moments.

  .. math:: v_t \leftarrow \max(v_{t-1}, v_t)

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root, >= 0.
    weight_decay: a `WeightDecay`.
    optimized_update: whether eps is added to the root of the raw moment (True) or of the corrected one.
    amsgrad: whether the second moment is replaced by its maximum.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.labml.amsgrad(amsgrad=False) == presets.labml.adam()
    True
  """
  (eps,) = numbers(EPSILON, eps=eps)
  flags(optimized_update=optimized_update, amsgrad=amsgrad)
  direction = adam_direction(*rates(betas), eps, amsgrad=amsgrad, eps_scaled=optimized_update)
  return _optimizer(direction, lr, weight_decay)


def radam(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: WeightDecay = WeightDecay(),
  optimized_update: bool = True,
  amsgrad: bool = False,
  degenerated_to_sgd: bool = True,
) -> Recipe:
  r"""Equals `labml_nn.optimizers.radam.RAdam`.

  .. math:: u_t \leftarrow r_t u_t \text{, or } \hat m_t \text{ while } \rho_t < 5

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root, >= 0.
    weight_decay: a `WeightDecay`.
    optimized_update: whether eps is added to the root of the raw moment (True) or of the corrected one.
    amsgrad: whether the second moment is replaced by its maximum.
    degenerated_to_sgd: whether the first steps are the mean (True) or none.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.labml.radam()
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  (eps,) = numbers(EPSILON, eps=eps)
  flags(optimized_update=optimized_update, amsgrad=amsgrad, degenerated_to_sgd=degenerated_to_sgd)
  b1, b2 = rates(betas)
  rectified = pieces.rectify(b2, 5.0, degenerated_to_sgd)
  direction = adam_direction(b1, b2, eps, rectified, amsgrad=amsgrad, eps_scaled=optimized_update)
  return _optimizer(direction, lr, weight_decay)


def adabelief(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-16,
  weight_decay: WeightDecay = WeightDecay(),
  amsgrad: bool = False,
  degenerate_to_sgd: bool = True,
  rectify: bool = True,
  *,
  optimized_update: bool | None = None,
  as_released: bool = False,
  defaults: Mapping[str, Any] | None = None,
) -> Recipe:
  r"""Equals `labml_nn.optimizers.ada_belief.AdaBelief`, as its documentation says or as it was released.

  .. math:: \hat s_t = \frac{s_t + \varepsilon}{1 - b_2^t}

  where s itself has no eps, and AMSGrad takes the maximum of s. The released class passes its arguments on by position
  and they shift by one: `amsgrad` becomes `optimized_update`, `degenerate_to_sgd` becomes `amsgrad`, and `defaults`
  becomes `degenerate_to_sgd`. So by default it runs with AMSGrad, and does not move for five steps.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the mean and of the belief.
    eps: >= 0, added to s without storing it, and to the root.
    weight_decay: a `WeightDecay`.
    amsgrad: whether s is replaced by its maximum.
    degenerate_to_sgd: whether the first steps are the mean (True) or none.
    rectify: whether the first steps are rectified.
    optimized_update: whether eps is added to the root of the raw s (True) or of the corrected one; None for True. The
      released class takes it from `amsgrad`.
    as_released: whether the arguments shift as they do in the release.
    defaults: an argument of the released class alone, in which any entry makes the first steps the mean; its values are
      not read.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range, `optimized_update` is given for the release, or `defaults` without it.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.labml.adabelief()
    compose(
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=0.0, b1=None),
      add_eps_root(eps_root=1e-16),
      precondition(eps=1e-16, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  (eps,) = numbers(EPSILON, eps=eps)
  flags(amsgrad=amsgrad, degenerate_to_sgd=degenerate_to_sgd, rectify=rectify, as_released=as_released)
  if defaults is not None and not isinstance(defaults, Mapping):
    raise TypeError(f'defaults must be None or a mapping, got {defaults!r}.')
  warn_of_bug(as_released, 'labml_nn AdaBelief as released: its arguments shift by one in the constructor.')
  if as_released:
    if optimized_update is not None:
      raise ValueError(f'optimized_update is the argument amsgrad where as_released=True, got {optimized_update!r}.')
    optimized_update, amsgrad, degenerate_to_sgd = amsgrad, degenerate_to_sgd, bool(defaults)
  elif defaults:
    raise ValueError(f'defaults has a meaning only where as_released=True, got {defaults!r}: use degenerate_to_sgd.')
  optimized_update = True if optimized_update is None else optimized_update
  flags(optimized_update=optimized_update)
  b1, b2 = rates(betas)
  direction = compose(
    pieces.first_moment(b1),
    pieces.belief(b2, 0.0),
    *when(amsgrad, pieces.running_max()),
    pieces.add_eps_root(eps),
    normalized(b1, b2, eps, eps_scaled=optimized_update),
    *((pieces.rectify(b2, 5.0, degenerate_to_sgd),) if rectify else ()),
  )
  return _optimizer(direction, lr, weight_decay)
