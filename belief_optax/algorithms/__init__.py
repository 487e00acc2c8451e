"""The algorithms: a docstring and a composition each."""

from belief_optax.algorithms.adabelief import adabelief, scale_by_belief
from belief_optax.algorithms.adagrad import adagrad
from belief_optax.algorithms.adam import adam, adamw, nadam, nadamw
from belief_optax.algorithms.amsgrad import amsgrad
from belief_optax.algorithms.radam import radam
from belief_optax.algorithms.rmsprop import rmsprop
from belief_optax.algorithms.sgd import sgd

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
