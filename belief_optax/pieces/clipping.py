"""What bounds a direction: element by element, or an array at a time."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import EPSILON, POSITIVE, Leaf, Line, Now, hyper, piece


class ClipDirection(Line):
  r"""Bounds every element of the direction.

  .. math:: u_t \leftarrow u_t \min(1, c / |u_t|)

  Between `precondition` and the learning rate, c is the longest step in learning rates: AdaBelief has no other bound
  where a gradient keeps its direction. Before the moments it bounds the gradient. An element that is not finite becomes
  NaN: no bound hides it.

  Args:
    limit: c: a finite number > 0, a scalar array or a schedule.

  Returns:
    A piece. It is elementwise; of a complex number it bounds the modulus.

  Raises:
    ValueError: if `limit` is out of range.
    TypeError: if `limit` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx, g = bo.clip_direction(2.0), jnp.array([-5.0, 1.0, 3.0])
    >>> print(tx.update(g, tx.init(g))[0])
    [-2.  1.  2.]
  """

  limit: ScalarOrSchedule = hyper(allowed=POSITIVE)

  caps = True

  def scalars(self, now: Now) -> Any:
    return now(self.limit)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.redirect(formulas.shortened(x.u, k))


clip_direction = piece(ClipDirection)


class ClipByRms(Line):
  r"""Shortens the direction of an array whose gradient is larger than its second moment expects (StableAdamW).

  .. math:: u_t \leftarrow u_t / \max(1, \mathrm{RMS}_t), \qquad
    \mathrm{RMS}_t = \sqrt{\operatorname{mean}(|g_t|^2 / \max(\hat{s}_t, \varepsilon^2))}

  The paper found that $\mathrm{RMS}_t$ rises one to eight steps before a loss spike. Behind `add_decayed_weights` and
  before the learning rate it divides the learning rate of the array, as in the paper, so that its decay is shortened
  too. It reads $\hat{s}_t$ as the lines before it left it: where they do not correct its bias (`eps_scaled`, RMSProp)
  the first steps are shortened by the bias. For AdaBelief $\mathrm{RMS}_t$ is above 1 wherever it gains: it takes those
  long steps away. It is not elementwise: a sharded array needs communication.

  Args:
    eps: the least root of the second moment that counts: 0 or a finite number >= 1.175e-38, a scalar array or a
      schedule. An element without a scale, where both are 0, counts as 0.

  Returns:
    A piece that needs a second moment.

  Raises:
    ValueError: if `eps` is out of range; at `init` if the second moment is missing.
    TypeError: if `eps` has a wrong type.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> stable_adamw = lambda learning_rate: bo.compose(
    ...     bo.first_moment(0.9), bo.second_moment(0.99), bo.bias_correct(0.9, 0.99), bo.precondition(1e-8),
    ...     bo.add_decayed_weights(0.1), bo.clip_by_rms(1e-8), bo.scale_by_learning_rate(learning_rate))
    >>> tx, p = stable_adamw(1.0), jnp.zeros(2)
    >>> _, state = tx.update(jnp.array([1.0, 1.0]), tx.init(p), p)
    >>> print(tx.update(jnp.array([9.0, 9.0]), state, p)[0].round(4))  # without it -0.8118
    [-0.5789 -0.5789]

  References:
    Wortsman et al., Stable and low-precision training for large-scale vision-language models
    (https://arxiv.org/abs/2304.13013), Algorithm 2; Shazeer and Stern, Adafactor (https://arxiv.org/abs/1804.04235),
    section 6.
  """  # own words: eps

  eps: ScalarOrSchedule = hyper(default=1e-8, allowed=EPSILON)

  needs = ('nu_hat',)
  elementwise = False

  def scalars(self, now: Now) -> Any:
    return now(self.eps) ** 2

  def step(self, x: Leaf, k: Any) -> Leaf:
    mean = jnp.mean(formulas.safe_divide(formulas.square(x.g), jnp.maximum(x.nu_hat, k)))
    return x.set(u=x.u / jnp.sqrt(jnp.maximum(mean, 1)))  # u <- u / max(1, RMS)


clip_by_rms = piece(ClipByRms)
