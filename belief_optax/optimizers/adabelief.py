"""AdaBelief: the step is large where the gradient is what the mean led to expect."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose, when
from belief_optax.core.vocabulary import Mask, Residual, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend, normalized


def scale_by_belief(
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-16,
  eps_root: optax.ScalarOrSchedule = 1e-16,
  *,
  nesterov: bool = False,
  rectify: bool = False,
  degenerate_to_sgd: bool = False,
  amsgrad: bool = False,
  residual: Residual = 'current',
  eps_scaled: bool = False,
  max_step: optax.ScalarOrSchedule | None = None,
  store: StoreLike = 'float32',
) -> Recipe:
  r"""The direction of AdaBelief, without learning rate; by default it equals `optax.scale_by_belief`.

  .. math::
    m_t = b_1 m_{t-1} + (1-b_1) g_t, \qquad
    s_t = b_2 s_{t-1} + (1-b_2) |g_t - m_t|^2 + \varepsilon_{root}, \qquad
    u_t = \frac{m_t / (1-b_1^t)}{\sqrt{s_t / (1-b_2^t)} + \varepsilon}

  Args:
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added to s at every step: a number >= 0, a scalar array or a schedule.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    rectify: whether to rectify the variance of the first steps (RAdam's r_t).
    degenerate_to_sgd: whether the steps before rectification is possible are the mean (True), whose length is that of
      the gradient, or none (False).
    amsgrad: whether s is replaced by the largest s so far, before bias correction; also with `rectify`.
    residual: `'current'` for $g_t - m_t$, `'debiased'` for $g_t - m_t/(1-b_1^t)$, `'previous'` for $g_t - m_{t-1}$. The
      debiased residual of the first step is taken as $g_1$.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    max_step: the longest step of an element before weight decay, in learning rates: a finite number > 0, a scalar array
      or a schedule; None for no limit.
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown, or nothing would ever move: rectified at b2 <= 2/3
      without `degenerate_to_sgd`.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.scale_by_belief()
    compose(
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-16, b1=None),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-16, eps_root=0.0),
    )

  References:
    Zhuang et al., AdaBelief (https://arxiv.org/abs/2010.07468), Algorithm 2.
  """  # own words: eps_root
  checked(residual=residual, nesterov=nesterov, amsgrad=amsgrad, rectify=rectify, degenerate_to_sgd=degenerate_to_sgd)
  (limit,), debiased = checked(max_step=max_step), residual == 'debiased'
  return compose(
    pieces.first_moment(b1),
    *when(debiased, pieces.bias_correct(b1)),
    pieces.belief(b2, eps_root, b1 if residual == 'previous' else None),
    *when(amsgrad, pieces.running_max()),
    *when(nesterov, pieces.nesterov(b1)),
    normalized(None if nesterov or debiased else b1, b2, eps, eps_scaled=eps_scaled),
    *((pieces.rectify(b2, degenerate_to_sgd=degenerate_to_sgd),) if rectify else ()),
    *(() if limit is None else (pieces.clip_direction(limit),)),
    store=store,
  )


def adabelief(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-16,
  eps_root: optax.ScalarOrSchedule = 1e-16,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  *,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  rectify: bool = False,
  degenerate_to_sgd: bool = False,
  amsgrad: bool = False,
  nesterov: bool = False,
  residual: Residual = 'current',
  eps_scaled: bool = False,
  max_step: optax.ScalarOrSchedule | None = None,
  store: StoreLike = 'float32',
) -> Recipe:
  r"""AdaBelief.

  .. math::
    m_t &= b_1 m_{t-1} + (1-b_1) g_t \\
    s_t &= b_2 s_{t-1} + (1-b_2) |g_t - m_t|^2 + \varepsilon_{root} \\
    \hat m_t &= m_t / (1-b_1^t), \quad \hat s_t = s_t / (1-b_2^t) \\
    u_t &= \hat m_t / (\sqrt{\hat s_t} + \varepsilon) \text{, rectified: times } r_t \\
    \theta_t &= \theta_{t-1} - \alpha_t (u_t + w \theta_{t-1})

  It equals ``optax.adabelief``. The official package rectifies the variance of the first steps and takes the plain mean
  until that is possible: ``rectify=True, degenerate_to_sgd=True``. Those five steps are as long as the gradient: at a
  gradient of 1e4 they are 10^4 learning rates. Every default here is invariant to the scale of the loss
  (docs/first_steps.md).

  The eps that is stored is a constant floor: the denominator is never below sqrt(eps_root / (1 - b2)), which is 3.2e-7
  by default and 3.2e-3, close to SGD, at eps_root = 1e-8. AdaBelief's eps corresponds to the square of Adam's.

  Where a gradient keeps its direction the step grows: to 3.4e5 learning rates at step 20,000 of a constant gradient.
  `max_step` bounds it. On the landscapes of examples/landscapes.py a bound of 10 costs at most 4 % more steps, and a
  bound of 1 the whole gain over Adam on |x| + |y| (docs/guards.md).

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added to s at every step: a number >= 0, a scalar array or a schedule.
    weight_decay: weight decay w (0 for none): a finite number >= 0, a scalar array or a schedule.
    weight_decay_mask: what decays: a tree of bools, a prefix of one, or a callable `params -> mask`; None for all.
    weight_decay_mode: how parameters decay: by the learning rate times w (`'decoupled'`), through the gradient
      (`'l2'`), by w alone (`'fixed'`), by w times the learning rate relative to its first value (`'independent'`), as
      decoupled, but only where the step does not move them away from 0 (`'cautious'`), or by a division by 1 + the
      learning rate times w after the step (`'proximal'`).
    rectify: whether to rectify the variance of the first steps (RAdam's r_t).
    degenerate_to_sgd: whether the steps before rectification is possible are the mean (True), whose length is that of
      the gradient, or none (False).
    amsgrad: whether s is replaced by the largest s so far, before bias correction; also with `rectify`.
    nesterov: whether to look ahead by one step, as Nesterov's momentum does.
    residual: `'current'` for $g_t - m_t$, `'debiased'` for $g_t - m_t/(1-b_1^t)$, `'previous'` for $g_t - m_{t-1}$. The
      debiased residual of the first step is taken as $g_1$.
    eps_scaled: whether bias correction applies to the step instead of the moments ("eps-hat").
    max_step: the longest step of an element before weight decay, in learning rates: a finite number > 0, a scalar array
      or a schedule; None for no limit.
    store: how the slots are kept between the steps: `'float32'`, `'params'`, `'bfloat16'`, `'packed16'`, `'int8'`, a
      `stores.Store`, or a mapping from slots to one of these.

  Returns:
    A `Recipe`: an `optax.GradientTransformationExtraArgs` that prints and compares as the list of its lines.

  Raises:
    ValueError: if a number is out of range or an option unknown, or nothing would ever move: rectified at b2 <= 2/3
      without `degenerate_to_sgd`.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.adabelief(1e-3, weight_decay=0.01)
    compose(
      first_moment(b1=0.9, dtype=None),
      belief(b2=0.999, eps_root=1e-16, b1=None),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-16, eps_root=0.0),
      add_decayed_weights(weight_decay=0.01, mask=None, multiplier=1.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Zhuang et al., AdaBelief (https://arxiv.org/abs/2010.07468), Algorithm 2; Liu et al., RAdam
    (https://arxiv.org/abs/1908.03265), Algorithm 2.
  """  # own words: eps_root
  direction = scale_by_belief(
    b1,
    b2,
    eps,
    eps_root,
    nesterov=nesterov,
    rectify=rectify,
    degenerate_to_sgd=degenerate_to_sgd,
    amsgrad=amsgrad,
    residual=residual,
    eps_scaled=eps_scaled,
    max_step=max_step,
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
