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


def save(run):
  """Records `run(config, dtype)` for all configurations; what is not compared is NaN."""
  nothing = np.full((len(STEPS), problem.SIZE), np.nan)
  rows = {
    dtype: np.stack([kept(run(c, dtype)) if dtype in c.dtypes else nothing for c in CONFIGS]).astype(dtype)
    for dtype in DTYPES
  }
  digests = np.array([config.digest() for config in CONFIGS])
  np.savez_compressed(PATH, digests=digests, **rows)


def load():
  """The recorded steps, an array (6, 36) by the digest of the configuration and the dtype."""
  with np.load(PATH) as file:
    return {
      (str(digest), dtype): row for dtype in DTYPES for digest, row in zip(file['digests'], file[dtype], strict=True)
    }
