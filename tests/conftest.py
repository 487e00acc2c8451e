"""Runs before any test module, and so before jax: eight CPU devices for tests of meshes, and the tiers of tests."""

import os
import sys
import zlib

import pytest

_COUNT = '--xla_force_host_platform_device_count'

if 'jax' in sys.modules:
  raise RuntimeError('jax was imported before tests/conftest.py, which sets the number of its CPU devices.')
if _COUNT not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_COUNT}=8'.strip()
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# What these say of a row it takes a few rows to find out; the others are the full matrix.
BY_ROW = ('test_contracts', 'test_engine', 'test_execution', 'test_faults', 'test_step')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  """Marks what `make test` leaves to the full matrix, and keeps a third of everything where TEST_THIRD says which."""
  for item in items:
    row = getattr(item, 'callspec', None) and item.callspec.params.get('row')  # pyright: ignore[reportAttributeAccessIssue]
    if row and item.path.stem in BY_ROW and not row.covering:
      item.add_marker(pytest.mark.full)
  if turn := os.environ.get('TEST_THIRD'):
    mine = [item for item in items if zlib.crc32(item.nodeid.encode()) % 3 == int(turn) % 3]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine
