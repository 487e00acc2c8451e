"""`python -m belief_optax`: the command line."""

import sys

from belief_optax.cli import main

if __name__ == '__main__':
  sys.exit(main())
