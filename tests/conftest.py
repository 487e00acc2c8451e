"""Runs before any test module, and so before jax: eight CPU devices, for the tests of meshes and sharding."""

import os
import sys

_COUNT = '--xla_force_host_platform_device_count'

if 'jax' in sys.modules:
  raise RuntimeError('jax was imported before tests/conftest.py, which sets the number of its CPU devices.')
if _COUNT not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_COUNT}=8'.strip()
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
