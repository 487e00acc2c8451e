"""ranger-adabelief 0.1.0: AdaBelief, rectification, gradient centralization and lookahead."""

from typing import Any

import jax.numpy as jnp
import optax
from optax import ScalarOrSchedule

from belief_optax import pieces
from belief_optax.core import (
  DECAY_RATE,
  EPSILON,
  NONNEGATIVE,
  THRESHOLD,
  Leaf,
  Line,
  Now,
  Recipe,
  compose,
  hyper,
  is_zero,
  piece,
  when,
)
from belief_optax.pieces.rectify import tractability
from belief_optax.presets.dialect import flags, numbers, rates, warn_of_bug


class _WhileYoung(Line):
  """A line that does one thing while rho_t is below the threshold, and another from then on."""

  b2: ScalarOrSchedule = hyper(allowed=DECAY_RATE)
  threshold: ScalarOrSchedule = hyper(allowed=THRESHOLD)

  ages = ('b2',)

  def scalars(self, now: Now) -> Any:
    return tractability(now, self.b2, self.threshold)[0]


class StoreEpsWhenTractable(_WhileYoung):
  """Adds eps to the stored second moment, in adaptive steps alone."""

  eps: ScalarOrSchedule = hyper(allowed=EPSILON)

  needs = ('nu_hat', 'nu')
  writes = ('nu',)

  def scalars(self, now: Now) -> Any:
    return jnp.where(super().scalars(now), now(self.eps), 0.0)

  def step(self, x: Leaf, k: Any) -> Leaf:
    nu = x.slots['nu'] + k
    return x.keep(nu=nu).set(nu_hat='nu')


store_eps_when_tractable = piece(StoreEpsWhenTractable)


class MeanWhileYoung(_WhileYoung):
  """Takes the mean as the direction, before the first adaptive step."""

  needs = ('mu_hat',)

  def step(self, x: Leaf, k: Any) -> Leaf:
    return x.set(u=jnp.where(k, x.u, x.mu_hat))


mean_while_young = piece(MeanWhileYoung)


class KeepDirectionWhileYoung(_WhileYoung):
  """Keeps the direction as the mean, before the first adaptive step: there it is the same tensor, changed in place."""

  needs = ('mu_hat', 'mu')
  writes = ('mu',)

  def step(self, x: Leaf, k: Any) -> Leaf:
    mu = jnp.where(k, x.slots['mu'], x.u)
    return x.keep(mu=mu).set(mu_hat='mu')


keep_direction_while_young = piece(KeepDirectionWhileYoung)


def ranger(
  lr: optax.ScalarOrSchedule = 1e-3,
  alpha: optax.ScalarOrSchedule = 0.5,
  k: int = 6,
  N_sma_threshhold: optax.ScalarOrSchedule = 5,
  betas: tuple[Any, Any] = (0.95, 0.999),
  eps: optax.ScalarOrSchedule = 1e-5,
  weight_decay: optax.ScalarOrSchedule = 0.0,
  use_gc: bool = True,
  gc_conv_only: bool = False,
  gc_loc: bool = True,
  adabelief: bool = True,
  weight_decouple: bool = True,
  *,
  output_axis: int = -1,
) -> Recipe:
  r"""Equals `ranger_adabelief.RangerAdaBelief`.

  .. math:: u_t = \frac{r_t \sqrt{1-b_2^t}}{1-b_1^t} \left(\frac{m_t}{\sqrt{s_t} + \varepsilon} + w \theta_{t-1}\right)
    \text{, or } \frac{m_t + w \theta_{t-1}}{1-b_1^t} \text{ while } \rho_t \le 5

  of the centralized gradient, with lookahead. Eps is stored in s in adaptive steps alone. Before them decoupled decay,
  and centralization that is not of the gradient (`gc_loc=False`), change the stored mean, which is a bug.

  Args:
    lr: the learning rate >= 0: number, scalar array or schedule.
    alpha: how far lookahead's slow weights move, in [0, 1].
    k: the number of steps between two of their moves.
    N_sma_threshhold: rho_t above which steps are adaptive, >= 4 (spelled as in the package).
    betas: the decay rates of the two moments.
    eps: >= 0, stored in s and added to the root.
    weight_decay: w >= 0.
    use_gc: whether anything is centralized.
    gc_conv_only: whether only arrays of more than 3 axes are.
    gc_loc: whether it is the gradient (True) or the direction that is centralized.
    adabelief: whether the second moment is that of the residual (True) or Adam's, which stores no eps.
    weight_decouple: whether the decay is decoupled, or L2.
    output_axis: the axis of outputs in a kernel: -1 in Flax, 0 in torch, whose arrays the package knows.

  Returns:
    A `Recipe`.

  Raises:
    ValueError: if a number is out of range.
    TypeError: if an argument has a wrong type.

  Example:
    >>> from belief_optax import presets
    >>> presets.ranger_adabelief.ranger()
    compose(
      centralize(output_axis=-1, min_ndim=2),
      first_moment(b1=0.95, dtype=None),
      belief(b2=0.999, eps_root=0.0, b1=None),
      store_eps_when_tractable(b2=0.999, threshold=5.0, eps=1e-05),
      precondition(eps=1e-05, eps_root=0.0),
      bias_correct_step(b1=0.95, b2=0.999),
      rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=True),
      scale_by_learning_rate(learning_rate=0.001, flip_sign=True),
      lookahead(k=6, alpha=0.5),
    )
  """
  lr, weight_decay = numbers(NONNEGATIVE, lr=lr, weight_decay=weight_decay)
  (eps,) = numbers(EPSILON, eps=eps)
  (threshold,) = numbers(THRESHOLD, N_sma_threshhold=N_sma_threshhold)
  flags(use_gc=use_gc, gc_conv_only=gc_conv_only, gc_loc=gc_loc, adabelief=adabelief, weight_decouple=weight_decouple)
  decays, late = not is_zero(weight_decay), use_gc and not gc_loc
  in_place = late or (decays and weight_decouple)
  warn_of_bug(
    in_place,
    'ranger-adabelief: before the first adaptive step, decoupled weight decay and gc_loc=False change the stored mean.',
  )
  b1, b2 = rates(betas)
  decay, centered = pieces.add_decayed_weights(weight_decay), pieces.centralize(output_axis, 4 if gc_conv_only else 2)
  moments = (pieces.belief(b2, 0.0), store_eps_when_tractable(b2, threshold, eps))
  return compose(
    *when(decays and not weight_decouple, decay),
    *when(use_gc and gc_loc, centered),
    pieces.first_moment(b1),
    *(moments if adabelief else (pieces.second_moment(b2),)),
    pieces.precondition(eps),
    *when(in_place, mean_while_young(b2, threshold)),
    *when(decays and weight_decouple, decay),
    *when(late, centered),
    *when(in_place, keep_direction_while_young(b2, threshold)),
    pieces.bias_correct_step(b1, b2),
    pieces.rectify(b2, threshold),
    pieces.scale_by_learning_rate(lr),
    pieces.lookahead(k, alpha),
  )
