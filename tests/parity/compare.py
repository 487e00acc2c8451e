"""How far the presets are from the real packages, batch by batch, and how far they may be."""

import ours
import problem
import pytest

TOLERANCES = {'float64': 1e-12, 'float32': 2e-6}


def errors(batch, dtype, real, part=lambda trajectory: trajectory):
  """The error of each preset of a batch: of `part` of its trajectory, where `real(config, dtype)` is right."""
  pairs = zip(batch, ours.run(batch, dtype), strict=True)
  return {c: problem.error(part(trajectory), real(c, dtype)) for c, trajectory in pairs if dtype in c.dtypes}


def too_large(errors, dtype):
  """The errors that are not tolerated, by name."""
  return {config.name: error for config, error in errors.items() if not error <= TOLERANCES[dtype]}


def _batches():
  """All batches; those in which no preset is called for the first time are of the full matrix."""
  seen = set()
  for i, batch in enumerate(ours.batches()):
    presets = {(config.preset, config.complex_, config.by_array) for config in batch}
    yield pytest.param(batch, id=f'batch {i}', marks=pytest.mark.full if presets <= seen else ())
    seen |= presets


def each_batch(dtypes=TOLERANCES):
  """Calls a test with each batch and dtype."""
  return lambda test: pytest.mark.parametrize('dtype', dtypes)(pytest.mark.parametrize('batch', list(_batches()))(test))
