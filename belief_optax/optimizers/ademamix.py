"""AdEMAMix: Adam with a second, slow mean."""

import optax

from belief_optax import pieces
from belief_optax.core import Recipe, compose
from belief_optax.core.vocabulary import Mask, StoreLike, WeightDecayMode
from belief_optax.optimizers.descend import descend


def ademamix(
  learning_rate: optax.ScalarOrSchedule,
  b1: optax.ScalarOrSchedule = 0.9,
  b2: optax.ScalarOrSchedule = 0.999,
  b3: optax.ScalarOrSchedule = 0.9999,
  alpha: optax.ScalarOrSchedule = 5.0,
  eps: optax.ScalarOrSchedule = 1e-8,
  *,
  warmup_steps: int | None = None,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  weight_decay_mask: Mask | None = None,
  weight_decay_mode: WeightDecayMode = 'decoupled',
  store: StoreLike = 'float32',
) -> Recipe:
  r"""AdEMAMix: Adam with a second mean, which remembers ten thousands of gradients.

  .. math::
    m_t = b_1 m_{t-1} + (1-b_1) g_t, \qquad s_t = b_{3,t} s_{t-1} + (1-b_{3,t}) g_t, \qquad
    \theta_t = \theta_{t-1} - \alpha_t \frac{\hat m_t + \alpha'_t s_t}{\sqrt{\hat v_t} + \varepsilon}

  with the moments of `adam`; $\alpha'$ is `alpha`. With `warmup_steps` T both `alpha` and the half-life of the slow
  mean rise linearly over T steps (`slow_mean` has the equations). The paper sets T to the number of all steps;
  without it, early steps are large. `optax.contrib.ademamix` takes two schedules instead.

  AdaBelief in the same way: `slow_mean` before `precondition`.

  Args:
    learning_rate: step size alpha: a finite number >= 0, a scalar array (can change without recompiling) or a schedule
      `count -> value`, whose first count is 0.
    b1: decay rate of the mean: a number in [0, 1), a scalar array or a schedule.
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    b3: decay rate of the slow mean: a number in [0, 1), a scalar array or a schedule.
    alpha: the weight of the slow mean: a finite number >= 0, a scalar array or a schedule.
    eps: added to the root: 0 or a finite number >= 1.175e-38, a scalar array or a schedule.
    warmup_steps: T: the number of steps until alpha and b3 are reached; None for none.
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
    >>> bo.ademamix(1e-3)
    compose(
      first_moment(b1=0.9, dtype=None),
      second_moment(b2=0.999, initial=0.0),
      bias_correct(b1=0.9, b2=0.999),
      slow_mean(b3=0.9999, alpha=5.0, warmup_steps=None, b1=0.9),
      precondition(eps=1e-08, eps_root=0.0),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
    )

  References:
    Pagliardini et al., AdEMAMix (https://arxiv.org/abs/2409.03137), Algorithm 1 and appendix A.1.
  """
  direction = compose(
    pieces.first_moment(b1),
    pieces.second_moment(b2),
    pieces.bias_correct(b1, b2),
    pieces.slow_mean(b3, alpha, warmup_steps, b1),
    pieces.precondition(eps),
  )
  return descend(direction, learning_rate, weight_decay, weight_decay_mask, weight_decay_mode, store=store)
