"""The presets beside what the real packages computed: no torch, no TensorFlow."""

import re

import ledger
import numpy as np
import pytest
import recording
from compare import each_batch, errors, too_large
from configs import CONFIGS


@pytest.fixture(scope='module')
def recorded():
  return recording.load()


# `make parity` compares both with the packages themselves.
@each_batch(['float64', pytest.param('float32', marks=pytest.mark.slow)])
def test_presets_equal_the_recorded_packages(recorded, batch, dtype):
  real = lambda config, dtype: recorded[config.digest(), dtype]
  assert not too_large(errors(batch, dtype, real, recording.kept), dtype)


def test_recording_is_of_these_configurations(recorded):
  """A changed configuration, problem or table asks for `make record`."""
  digests = [config.digest() for config in CONFIGS]
  assert {digest for digest, _ in recorded} == set(digests)
  for config in CONFIGS:
    for dtype in config.dtypes:
      assert np.isfinite(recorded[config.digest(), dtype]).all()


def test_configurations_differ_and_say_why_they_leave_out_a_dtype():
  assert len({config.name for config in CONFIGS}) == len({config.digest() for config in CONFIGS}) == len(CONFIGS) > 150
  assert all(bool(config.why) == (len(config.dtypes) == 1) for config in CONFIGS)


def test_ledger_is_of_these_configurations():
  """But for the errors, the committed file is what `make ledger` writes."""
  blank = lambda text: re.sub(r'\d(\.\d)?e[+-]\d\d', 'an error', text)
  nothing = {config: dict.fromkeys(config.dtypes, 0.0) for config in CONFIGS}
  assert blank(ledger.PATH.read_text()) == blank(ledger.text(nothing))
