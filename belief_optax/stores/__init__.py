"""Stores: how the slots of a parameter are kept between the steps, whatever the mathematics between them."""

from belief_optax.stores.base import FLOAT32, Float32, PerSlot, Route, Store, resolve
from belief_optax.stores.coded import BFloat16, Coded, Int4, Int8, Packed16, Params

__all__ = [
  'FLOAT32',
  'BFloat16',
  'Coded',
  'Float32',
  'Int4',
  'Int8',
  'Packed16',
  'Params',
  'PerSlot',
  'Route',
  'Store',
  'resolve',
]
