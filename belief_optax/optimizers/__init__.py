"""The algorithms: a docstring and a composition each."""

from belief_optax.optimizers.acprop import acprop
from belief_optax.optimizers.adabelief import adabelief, scale_by_belief
from belief_optax.optimizers.adagrad import adagrad
from belief_optax.optimizers.adam import adam, adamw, nadam, nadamw
from belief_optax.optimizers.adam_atan2 import adam_atan2
from belief_optax.optimizers.adamax import adamax
from belief_optax.optimizers.adamomentum import adamomentum
from belief_optax.optimizers.adan import adan
from belief_optax.optimizers.ademamix import ademamix
from belief_optax.optimizers.adopt import adopt
from belief_optax.optimizers.amsgrad import amsgrad
from belief_optax.optimizers.eadam import eadam
from belief_optax.optimizers.lamb import lamb
from belief_optax.optimizers.laprop import laprop
from belief_optax.optimizers.lars import lars
from belief_optax.optimizers.lion import lion
from belief_optax.optimizers.mars import mars
from belief_optax.optimizers.padam import padam
from belief_optax.optimizers.radam import radam
from belief_optax.optimizers.rmsprop import rmsprop
from belief_optax.optimizers.sgd import sgd
from belief_optax.optimizers.yogi import yogi

__all__ = [
  'acprop',
  'adabelief',
  'adagrad',
  'adam',
  'adam_atan2',
  'adamax',
  'adamomentum',
  'adamw',
  'adan',
  'ademamix',
  'adopt',
  'amsgrad',
  'eadam',
  'lamb',
  'laprop',
  'lars',
  'lion',
  'mars',
  'nadam',
  'nadamw',
  'padam',
  'radam',
  'rmsprop',
  'scale_by_belief',
  'sgd',
  'yogi',
]
