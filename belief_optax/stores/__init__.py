"""Stores: how the slots of a parameter are kept between the steps, whatever the mathematics between them."""

from belief_optax.stores.base import FLOAT32, Coded, Float32, PerSlot, Route, Store, StoreLike, resolve
from belief_optax.stores.direction import Int8
from belief_optax.stores.packed import Packed16
from belief_optax.stores.plain import BFloat16, Params

__all__ = [
  'FLOAT32',
  'BFloat16',
  'Coded',
  'Float32',
  'Int8',
  'Packed16',
  'Params',
  'PerSlot',
  'Route',
  'Store',
  'StoreLike',
  'resolve',
]
