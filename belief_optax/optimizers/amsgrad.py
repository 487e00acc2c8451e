"""AMSGrad: Adam whose second moment never falls."""

from typing import Literal

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, choice, compose, flag, when
from belief_optax.core.vocabulary import DTypeLike, Mask, StoreLike, WeightDecayMode, checked
from belief_optax.optimizers.descend import descend

MaxOf = Literal['corrected', 'raw']


def amsgrad(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  eps: optax.ScalarOrSchedule = 1e-8,
  eps_root: optax.ScalarOrSchedule = 0.0,
  mu_dtype: DTypeLike | None = None,
  bias_correction_mu: bool = True,
  bias_correction_nu: bool = True,
  *,
  max_of: MaxOf = 'corrected',
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""AMSGrad.

  .. math::
    \hat v_t = \max(\hat v_{t-1}, v_t / (1-b_2^t)), \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{m_t / (1-b_1^t)}{\sqrt{\hat v_t + \varepsilon_{root}} + \varepsilon}

  with the moments of `adam`. The maximum of the corrected moments is optax's: the large ones of the first steps stay.
  Without any bias correction (``bias_correction_mu=bias_correction_nu=False``) it is the paper's, with ``max_of='raw'``
  torch's.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    eps_root: added under the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    mu_dtype: dtype of the stored mean, by name or dtype; None for float32, or wider where the parameter is wider.
    bias_correction_mu: whether the mean is corrected.
    bias_correction_nu: whether the second moment is corrected.
    max_of: `'corrected'`: the maximum is taken after bias correction; `'raw'`: before it, and then corrected.
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
    >>> bo.amsgrad(1e-3, max_of='raw')
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      running_max(eps_root=0.0),
      bias_correct(b1=0.9, b2=0.999),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Reddi et al., On the convergence of Adam and beyond (https://arxiv.org/abs/1904.09237), Algorithm 2.
  """
  rate1 = b1 if flag('bias_correction_mu', bias_correction_mu) else None
  rate2 = b2 if flag('bias_correction_nu', bias_correction_nu) else None
  corrected = *when(bias_correction_mu or bias_correction_nu, pieces.bias_correct(rate1, rate2)), pieces.running_max()
  direction = compose(
    pieces.first_moment(b1, *checked(mu_dtype=mu_dtype)),
    pieces.second_moment(b2),
    *(corrected if choice('max_of', max_of, MaxOf) == 'corrected' else reversed(corrected)),
    pieces.precondition(eps, eps_root),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
