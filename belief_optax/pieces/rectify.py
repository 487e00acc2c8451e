"""Rectification: the variance of the adaptive step while the second moment is young."""

from typing import Any

import jax.numpy as jnp
from optax import ScalarOrSchedule

from belief_optax import formulas
from belief_optax.core import DECAY_RATE, THRESHOLD, Leaf, Line, Now, Sampled, flag, hyper, is_array, option, piece


def tractability(now: Now, b2: Any, threshold: Any) -> tuple[Any, Any]:
  """Whether rho_t >= threshold, and r_t: scalars of a line that has `ages = ('b2',)`."""
  x = now.age('b2', b2)
  lam = x / now.t if isinstance(b2, Sampled) else formulas.decay_exponent(now(b2))
  rho, threshold = formulas.effective_length(x, lam), now(threshold)
  if is_array(lam) or is_array(threshold):
    adaptive = ~(rho < threshold)  # so that a NaN is not taken for a young average
  else:
    first = formulas.first_tractable_step(now(b2), threshold)
    adaptive = jnp.asarray(False) if first is None else now.step >= first
  return adaptive, formulas.rectification(rho, formulas.effective_length_limit(lam), adaptive)


class Rectify(Line):
  r"""Rectifies the variance of the adaptive step while the second moment is young.

  .. math::
    \rho_t = \rho_\infty - \frac{2 t b_2^t}{1 - b_2^t}, \qquad
    u_t \leftarrow \begin{cases} r_t u_t & \rho_t \ge \text{threshold} \\ \hat{m}_t \text{ or } 0 & \text{else}
    \end{cases}, \qquad
    r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}

  For a Python number b2 the first adaptive step is an integer that is found on the host, so the branch is right at
  every step. A scheduled b2 counts as the constant rate with the same product.

  Args:
    b2: decay rate of the second moment: a number in [0, 1), a scalar array or a schedule.
    threshold: smallest rho_t with an adaptive step (5 in the paper's code, 4 in the paper): a finite number >= 4, a
      scalar array or a schedule.
    degenerate_to_sgd: whether the steps before rectification is possible are the mean (True), whose length is that of
      the gradient, or none (False).

  Returns:
    A piece that needs both moments, to be placed after `precondition`.

  Raises:
    ValueError: if an argument is out of range, or no step could ever be taken: with `degenerate_to_sgd=False` rho must
      reach the threshold, which 5 is at b2 > 2/3; at `init` if a moment is missing.
    TypeError: if an argument has a wrong type.

  Example:
    >>> import belief_optax as bo
    >>> bo.rectify(0.999)
    rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True)

  References:
    Liu et al., On the variance of the adaptive learning rate (https://arxiv.org/abs/1908.03265), Algorithm 2.
  """

  b2: ScalarOrSchedule = hyper(default=0.999, allowed=DECAY_RATE)
  threshold: ScalarOrSchedule = hyper(default=5.0, allowed=THRESHOLD)
  degenerate_to_sgd: bool = option(default=True, normal=flag)

  needs = ('mu_hat', 'nu_hat')
  ages = ('b2',)

  def __post_init__(self) -> None:
    super().__post_init__()
    b2, threshold = self.b2, self.threshold
    if self.degenerate_to_sgd or not isinstance(b2, float) or not isinstance(threshold, float):
      return
    if formulas.first_tractable_step(b2, threshold) is None:
      least = 1 - 2 / (threshold + 1)  # where rho_inf = 2 / (1 - b2) - 1 is the threshold
      raise ValueError(
        f'b2={b2!r} never lets a step be rectified, so that with degenerate_to_sgd=False nothing would ever move: '
        f'b2 must be greater than {least:.4g} at threshold={threshold!r}, or degenerate_to_sgd=True.'
      )

  def scalars(self, now: Now) -> Any:
    return tractability(now, self.b2, self.threshold)

  def step(self, x: Leaf, k: Any) -> Leaf:
    adaptive, r = k
    fallback = x.mu_hat if self.degenerate_to_sgd else 0 * x.mu_hat  # a NaN stays visible
    return x.set(u=jnp.where(adaptive, r * x.u, fallback))


rectify = piece(Rectify)
