"""Adam and its nearest relatives: AdamW, NAdam, NAdamW."""

from typing import Any

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose, when
from belief_optax.core.vocabulary import DTypeLike, Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend, normalized


def _direction(
  b1: Any, b2: Any, eps: Any, eps_root: Any, mu_dtype: Any, nesterov: bool, bias_correction: bool, eps_scaled: bool
) -> Recipe:
  """m^ / (sqrt(v^) + eps), the direction of all four."""
  checked(bias_correction=bias_correction, eps_scaled=eps_scaled, nesterov=nesterov)
  if eps_scaled and not bias_correction:
    raise ValueError('eps_scaled=True is a kind of bias correction, but bias_correction=False.')
  return compose(
    pieces.first_moment(b1, *checked(mu_dtype=mu_dtype)),
    pieces.second_moment(b2),
    *when(nesterov, pieces.nesterov(b1, debias=bias_correction)),
    normalized(None if nesterov else b1, b2, eps, eps_root, eps_scaled=eps_scaled)
    if bias_correction
    else pieces.precondition(eps, eps_root),
  )


def adam(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  eps_root: optax.ScalarOrSchedule = 0.0,
  mu_dtype: DTypeLike | None = None,
  *,
  nesterov: bool = False,
  bias_correction: bool = True,
  eps_scaled: bool = False,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""Adam.

  .. math::
    m_t = b_1 m_{t-1} + (1-b_1) g_t, \qquad v_t = b_2 v_{t-1} + (1-b_2) |g_t|^2, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{m_t / (1-b_1^t)}{\sqrt{v_t / (1-b_2^t) + \varepsilon_{root}} + \varepsilon}

  With ``bias_correction=False`` it is BERT's Adam.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    bias_correction: whether the moments are corrected for their start at zero.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    weight_decay_mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.adam(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Kingma and Ba, Adam (https://arxiv.org/abs/1412.6980), Algorithm 1.
  """
  direction = _direction(b1, b2, eps, eps_root, mu_dtype, nesterov, bias_correction, eps_scaled)
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)


def adamw(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  eps_root: optax.ScalarOrSchedule = 0.0,
  mu_dtype: DTypeLike | None = None,
  weight_decay: optax.ScalarOrSchedule = 1e-4,
  mask: Mask | None = None,
  *,
  nesterov: bool = False,
  bias_correction: bool = True,
  eps_scaled: bool = False,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""AdamW: Adam with decoupled weight decay.

  .. math::
    \theta_t = \theta_{t-1} - \alpha_t \left(
      \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + w \theta_{t-1}\right)

  with the moments of `adam`. Torch and optax multiply the decay by the learning rate (the mode `'decoupled'`), the
  paper by the schedule alone (`'independent'`).

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    bias_correction: whether the moments are corrected for their start at zero.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.adamw(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      add_decayed_weights(weight_decay=0.0001, mask=None, multiplier=1.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Loshchilov and Hutter, Decoupled weight decay regularization (https://arxiv.org/abs/1711.05101), Algorithm 2.
  """
  direction = _direction(b1, b2, eps, eps_root, mu_dtype, nesterov, bias_correction, eps_scaled)
  return descend(direction, learning_rate, weight_decay, mask, weight_decay_mode, mask_name='mask', store=store)


def nadam(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  eps_root: optax.ScalarOrSchedule = 0.0,
  mu_dtype: DTypeLike | None = None,
  *,
  bias_correction: bool = True,
  eps_scaled: bool = False,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""NAdam: Adam with the look-ahead of Nesterov in the mean.

  .. math::
    \hat m_t = \frac{b_1 m_t}{1-b_1^{t+1}} + \frac{(1-b_1) g_t}{1-b_1^t}, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}

  with the moments of `adam`.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
    bias_correction: whether the moments are corrected for their start at zero.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    weight_decay_mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.nadam(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      nesterov(b1=0.9, debias=True),
      bias_correct(b1=None, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Dozat, Incorporating Nesterov momentum into Adam (ICLR workshop 2016), Algorithm 2.
  """
  direction = _direction(b1, b2, eps, eps_root, mu_dtype, True, bias_correction, eps_scaled)
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)


def nadamw(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  eps_root: optax.ScalarOrSchedule = 0.0,
  mu_dtype: DTypeLike | None = None,
  weight_decay: optax.ScalarOrSchedule = 1e-4,
  mask: Mask | None = None,
  *,
  bias_correction: bool = True,
  eps_scaled: bool = False,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""NAdamW: NAdam with decoupled weight decay.

  .. math::
    \theta_t = \theta_{t-1} - \alpha_t \left(
      \frac{\hat m_t}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon} + w \theta_{t-1}\right)

  with the look-ahead mean of `nadam`.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    bias_correction: whether the moments are corrected for their start at zero.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.nadamw(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      nesterov(b1=0.9, debias=True),
      bias_correct(b1=None, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      add_decayed_weights(weight_decay=0.0001, mask=None, multiplier=1.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Dozat (ICLR workshop 2016), Algorithm 2; Loshchilov and Hutter (https://arxiv.org/abs/1711.05101), Algorithm 2.
  """
  direction = _direction(b1, b2, eps, eps_root, mu_dtype, True, bias_correction, eps_scaled)
  return descend(direction, learning_rate, weight_decay, mask, weight_decay_mode, mask_name='mask', store=store)
