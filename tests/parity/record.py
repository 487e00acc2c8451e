"""Records what the real packages compute: `make record`."""

import peers
import recording

if __name__ == '__main__':
  recording.save(peers.run)
