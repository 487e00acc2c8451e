"""The presets beside the real packages, in all 50 steps: `make parity`."""

import peers
import problem
import pytest
import recording
from compare import each_batch, errors, too_large

pytestmark = [
  pytest.mark.parity,
  pytest.mark.skipif(peers.MISSING, reason='the real packages are not here: see `make parity`'),
]


@each_batch()
def test_presets_equal_the_real_packages(batch, dtype):
  recorded = recording.load()
  real = {config: peers.run(config, dtype) for config in batch if dtype in config.dtypes}
  assert not too_large(errors(batch, dtype, lambda config, _: real[config]), dtype)
  old = {config: problem.error(recorded[config.digest(), dtype], recording.kept(x)) for config, x in real.items()}
  assert not too_large(old, dtype), 'the recording is not what the packages compute: `make record`'
