"""What the real packages computed, kept in a file, so that the presets can be compared where they are not installed."""

from pathlib import Path

import numpy as np
import problem
from configs import CONFIGS, DTYPES

PATH = Path(__file__).with_name('recorded.npz')
STEPS = (1, 5, 6, 7, 20, 50)  # at b2 = 0.999, rectification begins with step 5 or 6


def kept(trajectory):
  """The recorded steps of a trajectory."""
  return trajectory[np.array(STEPS) - 1]


def save(run, known=None):
  """Records `run(config, dtype)` for all configurations that are not known; what is not compared is NaN."""
  nothing, known = np.full((len(STEPS), problem.SIZE), np.nan), known or {}

  def row(config, dtype):
    if dtype not in config.dtypes:
      return nothing
    old = known.get((config.digest(), dtype))
    return kept(run(config, dtype)) if old is None else old

  rows = {dtype: np.stack([row(config, dtype) for config in CONFIGS]).astype(dtype) for dtype in DTYPES}
  digests = np.array([config.digest() for config in CONFIGS])
  np.savez_compressed(PATH, digests=digests, **rows)


def load():
  """The recorded steps, an array (6, 36) by the digest of the configuration and the dtype."""
  with np.load(PATH) as file:
    return {
      (str(digest), dtype): row for dtype in DTYPES for digest, row in zip(file['digests'], file[dtype], strict=True)
    }
