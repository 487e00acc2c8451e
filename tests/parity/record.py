"""Records what the real packages compute: `make record`. With `--new` only what is not recorded yet.

What is recorded is compared with the packages by `make parity`.
"""

import sys

import peers
import recording

if __name__ == '__main__':
  recording.save(peers.run, recording.load() if '--new' in sys.argv[1:] else None)
