"""Mistakes of which each is an error of the type checker. It is read, and never run."""

from typing import Any

import optax

import belief_optax as bo

# Numbers.
bo.adabelief()  # error
bo.adabelief('1e-3')  # error
bo.adabelief(1e-3, b1=None)  # error
bo.adabelief(1e-3, b1=0.9, beta2=0.99)  # error
bo.adam(1e-3, eps=[1e-8])  # error
bo.rmsprop(1e-3, momentum='heavy')  # error
bo.scale_by_belief(weight_decay=0.1)  # error

# Options.
bo.adabelief(1e-3, weight_decay_mode='typo')  # error
bo.adamw(1e-3, weight_decay_mode=True)  # error
bo.adabelief(1e-3, residual='next')  # error
bo.scale_by_belief(residual=None)  # error
bo.amsgrad(1e-3, max_of='both')  # error
bo.sgd(1e-3, 0.9, first_buffer='zero')  # error
bo.heavy_ball(0.9, first='zero')  # error
bo.round_updates('nearest')  # error
bo.adam(1e-3, nesterov='yes')  # error

# Masks, dtypes and stores.
bo.adamw(1e-3, mask='bias')  # error
bo.adabelief(1e-3, weight_decay_mask=3)  # error
bo.add_decayed_weights(1e-2, 'bias')  # error
bo.adam(1e-3, mu_dtype=16)  # error
bo.first_moment(0.9, 16)  # error
bo.adabelief(1e-3, store=3)  # error
bo.adabelief(1e-3, store='int5')  # error
bo.adabelief(1e-3, store={'mu': 'int5'})  # error
bo.compose(bo.first_moment(), store='int5')  # error

# Pieces.
bo.first_moment(bogus=3)  # error
bo.first_moment('0.9')  # error
bo.scale()  # error
bo.lookahead(0.5)  # error
bo.precondition(1e-8, 0.0, 0.0)  # error
bo.compose(optax.scale(1.0))  # error
bo.compose(bo.first_moment)  # error


class Shift(bo.Line):
  by: optax.ScalarOrSchedule = bo.hyper(allowed=bo.ranges.FINITE)
  twice: bool = bo.option(default=False, normal=lambda _, value: value)

  def step(self, x: bo.Leaf, k: Any) -> bo.Leaf:
    self.by = 1.0  # error
    return x.redirect(x.u + k)


shift = bo.piece(Shift)
shift()  # error
shift(1.0, 'twice')  # error
