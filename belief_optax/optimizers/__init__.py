"""The algorithms: a docstring and a composition each."""

from belief_optax.optimizers.adabelief import adabelief, scale_by_belief
from belief_optax.optimizers.adagrad import adagrad
from belief_optax.optimizers.adam import adam, adamw, nadam, nadamw
from belief_optax.optimizers.amsgrad import amsgrad
from belief_optax.optimizers.radam import radam
from belief_optax.optimizers.rmsprop import rmsprop
from belief_optax.optimizers.sgd import sgd

__all__ = [
  'adabelief',
  'adagrad',
  'adam',
  'adamw',
  'amsgrad',
  'nadam',
  'nadamw',
  'radam',
  'rmsprop',
  'scale_by_belief',
  'sgd',
]
