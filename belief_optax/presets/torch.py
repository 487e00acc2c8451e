"""torch.optim of PyTorch 2.13: `import torch.optim` becomes `from belief_optax import presets`."""

import dataclasses
from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import DECAY_RATE, EPSILON, MOMENTUM, NONNEGATIVE, Recipe, compose, is_zero, when
from belief_optax.presets.dialect import adam_direction, as_in_torch, constants, decay_mode, flags, numbers, rates


def adam(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  amsgrad: bool = False,
  *,
  foreach: Any = None,
  maximize: bool = False,
  capturable: bool = False,
  differentiable: bool = False,
  fused: Any = None,
  decoupled_weight_decay: bool = False,
) -> Recipe:
  r"""Equals `torch.optim.Adam`.

  .. math:: \theta_t = \theta_{t-1} - \alpha_t \hat m_t / (\sqrt{\hat v_t} + \varepsilon)

  The weight decay is L2 unless it is decoupled. AMSGrad takes the maximum of the raw moments, and corrects it after
  that (optax: the maximum of the corrected ones).

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root, >= 0.
    weight_decay: >= 0, part of the gradient.
    amsgrad: whether the second moment is replaced by its maximum.
    foreach: without effect.
    maximize: whether the objective is maximized.
    capturable: without effect.
    differentiable: without effect.
    fused: without effect.
    decoupled_weight_decay: whether the decay is AdamW's.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.adam(amsgrad=True)
    compose(
      complex_as_reals(),
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      running_max(eps_root=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  flags(amsgrad=amsgrad, decoupled_weight_decay=decoupled_weight_decay)
  direction = adam_direction(*rates(betas), eps, amsgrad=amsgrad)
  return as_in_torch(direction, lr, weight_decay, decay_mode(decoupled_weight_decay), maximize)


def adamw(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 1e-2,
  amsgrad: bool = False,
  *,
  maximize: bool = False,
  foreach: Any = None,
  capturable: bool = False,
  differentiable: bool = False,
  fused: Any = None,
) -> Recipe:
  r"""Equals `torch.optim.AdamW`: `adam` with decoupled weight decay.

  .. math:: \theta_t = \theta_{t-1} - \alpha_t (\hat m_t / (\sqrt{\hat v_t} + \varepsilon) + w \theta_{t-1})

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root, >= 0.
    weight_decay: w >= 0, multiplied by the learning rate (optax: 1e-4 by default).
    amsgrad: whether the second moment is replaced by its maximum.
    maximize: whether the objective is maximized.
    foreach: without effect.
    capturable: without effect.
    differentiable: without effect.
    fused: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.adamw() == presets.torch.adam(weight_decay=1e-2, decoupled_weight_decay=True)
    True
  """
  return adam(lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


def radam(
  lr: optax.ScalarOrSchedule = 1e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  decoupled_weight_decay: bool = False,
  *,
  foreach: Any = None,
  maximize: bool = False,
  capturable: bool = False,
  differentiable: bool = False,
) -> Recipe:
  r"""Equals `torch.optim.RAdam`.

  .. math:: u_t = r_t \hat m_t \sqrt{1 - b_2^t} / (\sqrt{v_t} + \varepsilon) \text{, or } \hat m_t
    \text{ while } \rho_t \le 5

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments.
    eps: added to the root of the raw moment, >= 0.
    weight_decay: >= 0, part of the gradient.
    decoupled_weight_decay: whether the decay is AdamW's.
    foreach: without effect.
    maximize: whether the objective is maximized.
    capturable: without effect.
    differentiable: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.radam()
    compose(
      complex_as_reals(),
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
      bias_correct_step(b1=0.9, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  flags(decoupled_weight_decay=decoupled_weight_decay)
  b1, b2 = rates(betas)
  direction = adam_direction(b1, b2, eps, pieces.rectify(b2), eps_scaled=True)
  return as_in_torch(direction, lr, weight_decay, decay_mode(decoupled_weight_decay), maximize)


@dataclasses.dataclass(frozen=True)
class MomentumSchedule:
  """mu_t = b1 (1 - 0.96^(t psi) / 2), the momentum of torch's NAdam at t = count + 1."""

  b1: Any
  momentum_decay: Any

  def __call__(self, count: Any) -> Any:
    return self.b1 * (1 - 0.5 * 0.96 ** ((count + 1.0) * self.momentum_decay))


def nadam(
  lr: optax.ScalarOrSchedule = 2e-3,
  betas: tuple[Any, Any] = (0.9, 0.999),
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  momentum_decay: float = 4e-3,
  decoupled_weight_decay: bool = False,
  *,
  foreach: Any = None,
  maximize: bool = False,
  capturable: bool = False,
  differentiable: bool = False,
) -> Recipe:
  r"""Equals `torch.optim.NAdam`.

  .. math::
    \mu_t = b_1 (1 - \tfrac12 0.96^{t \psi}), \qquad
    \hat m_t = \frac{\mu_{t+1} m_t}{1 - \mu_1 \cdots \mu_{t+1}} + \frac{(1 - \mu_t) g_t}{1 - \mu_1 \cdots \mu_t}

  where m is the average at the constant rate b1. Torch keeps the product of the mu in its default dtype; here it is
  kept as a sum of logarithms without loss.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    betas: the decay rates of the two moments; the first is a number.
    eps: added to the root, >= 0.
    weight_decay: >= 0, part of the gradient.
    momentum_decay: psi >= 0, a number.
    decoupled_weight_decay: whether the decay is AdamW's.
    foreach: without effect.
    maximize: whether the objective is maximized.
    capturable: without effect.
    differentiable: without effect.

  Returns:
    A `Recipe`; its state has an age, minus the logarithm of the product of the mu.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.nadam()
    compose(
      complex_as_reals(),
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      nesterov(b1=MomentumSchedule(b1=0.9, momentum_decay=0.004), debias=True),
      bias_correct(b1=None, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.002, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  (momentum_decay,) = numbers(NONNEGATIVE, momentum_decay=momentum_decay)
  flags(decoupled_weight_decay=decoupled_weight_decay)
  b1, b2 = rates(betas)
  constants(**{'betas[0]': b1, 'momentum_decay': momentum_decay})
  direction = compose(
    pieces.first_moment(b1),
    pieces.second_moment(b2),
    pieces.nesterov(MomentumSchedule(b1, momentum_decay)),
    pieces.bias_correct(b2=b2),
    pieces.precondition(eps),
  )
  return as_in_torch(direction, lr, weight_decay, decay_mode(decoupled_weight_decay), maximize)


def rmsprop(
  lr: optax.ScalarOrSchedule = 1e-2,
  alpha: optax.ScalarOrSchedule = 0.99,
  eps: optax.ScalarOrSchedule = 1e-8,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  momentum: optax.ScalarOrSchedule = 0.0,
  centered: bool = False,
  capturable: bool = False,
  foreach: Any = None,
  maximize: bool = False,
  differentiable: bool = False,
) -> Recipe:
  r"""Equals `torch.optim.RMSprop`.

  .. math:: \theta_t = \theta_{t-1} - \alpha_t c_t, \qquad c_t = \mu c_{t-1} + g_t / (\sqrt{v_t} + \varepsilon)

  The learning rate stands outside of the momentum and eps outside of the root (optax and TensorFlow: both inside).
  Centered, v is the variance, without the subtraction that can turn negative in torch.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    alpha: the decay rate of the second moment.
    eps: added to the root, >= 0.
    weight_decay: >= 0, part of the gradient.
    momentum: in [0, 1]; 0 for none.
    centered: whether the mean of the gradient is taken out.
    capturable: without effect.
    foreach: without effect.
    maximize: whether the objective is maximized.
    differentiable: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.rmsprop(momentum=0.9)
    compose(
      complex_as_reals(),
      second_moment(b2=0.99, initial=0.0),
      precondition(eps=1e-08, eps_root=0.0),
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='dampened', dtype=None),
      scale_by_learning_rate(learning_rate=0.01, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (alpha,) = numbers(DECAY_RATE, alpha=alpha)
  (eps,) = numbers(EPSILON, eps=eps)
  (momentum,) = numbers(MOMENTUM, momentum=momentum)
  flags(centered=centered)
  direction = compose(
    pieces.centered_moment(alpha) if centered else pieces.second_moment(alpha),
    pieces.precondition(eps),
    *when(not is_zero(momentum), pieces.heavy_ball(momentum)),
  )
  return as_in_torch(direction, lr, weight_decay, 'l2', maximize)


@dataclasses.dataclass(frozen=True)
class InverseTime:
  """1 / (1 + decay (t - 1)) at t = count + 1."""

  decay: Any

  def __call__(self, count: Any) -> Any:
    return 1 / (1.0 + self.decay * count)


def adagrad(
  lr: optax.ScalarOrSchedule = 1e-2,
  lr_decay: float = 0.0,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  initial_accumulator_value: optax.ScalarOrSchedule = 0.0,
  eps: optax.ScalarOrSchedule = 1e-10,
  foreach: Any = None,
  *,
  maximize: bool = False,
  differentiable: bool = False,
  fused: Any = None,
) -> Recipe:
  r"""Equals `torch.optim.Adagrad`.

  .. math:: \theta_t = \theta_{t-1} - \frac{\alpha_t}{1 + (t-1) \eta} \frac{g_t}{\sqrt{v_t} + \varepsilon}

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    lr_decay: eta >= 0, a number.
    weight_decay: >= 0, part of the gradient.
    initial_accumulator_value: the value of v before the first step, >= 0 (optax: 0.1).
    eps: added to the root, >= 0 (optax: under it).
    foreach: without effect.
    maximize: whether the objective is maximized.
    differentiable: without effect.
    fused: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.adagrad()
    compose(
      complex_as_reals(),
      accumulate_squares(initial=0.0),
      precondition(eps=1e-10, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.01, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  lr_decay, initial = numbers(NONNEGATIVE, lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value)
  (eps,) = numbers(EPSILON, eps=eps)
  constants(lr_decay=lr_decay)
  direction = compose(
    pieces.accumulate_squares(initial),
    pieces.precondition(eps),
    *when(not is_zero(lr_decay), pieces.scale(InverseTime(lr_decay))),
  )
  return as_in_torch(direction, lr, weight_decay, 'l2', maximize)


def sgd(
  lr: optax.ScalarOrSchedule = 1e-3,
  momentum: optax.ScalarOrSchedule = 0.0,
  dampening: optax.ScalarOrSchedule = 0.0,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  nesterov: bool = False,
  *,
  maximize: bool = False,
  foreach: Any = None,
  differentiable: bool = False,
  fused: Any = None,
) -> Recipe:
  r"""Equals `torch.optim.SGD`.

  .. math:: c_1 = g_1, \quad c_t = \mu c_{t-1} + (1 - \tau) g_t, \qquad
    \theta_t = \theta_{t-1} - \alpha_t c_t \text{ or } \theta_{t-1} - \alpha_t (g_t + \mu c_t)

  The first buffer is the gradient itself, whatever the dampening (optax has no dampening).

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    momentum: mu in [0, 1]; 0 for none.
    dampening: tau in [0, 1]; without effect where the momentum is 0.
    weight_decay: >= 0, part of the gradient.
    nesterov: whether the momentum looks ahead; needs a momentum and no dampening.
    maximize: whether the objective is maximized.
    foreach: without effect.
    differentiable: without effect.
    fused: without effect.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range, or `nesterov` does not fit.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.torch.sgd(momentum=0.9)
    compose(
      complex_as_reals(),
      heavy_ball(decay=0.9, nesterov=False, dampening=0.0, first='undampened', dtype=None),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  momentum, dampening = numbers(MOMENTUM, momentum=momentum, dampening=dampening)
  flags(nesterov=nesterov)
  if nesterov and (is_zero(momentum) or not is_zero(dampening)):
    raise ValueError(f'nesterov=True needs a momentum and no dampening, got {momentum=} and {dampening=}.')
  buffer = pieces.heavy_ball(momentum, nesterov, dampening, 'undampened')
  return as_in_torch(compose(*when(not is_zero(momentum), buffer)), lr, weight_decay, 'l2', maximize)
