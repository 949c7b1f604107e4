"""`python -m atgcn_jax.cli` is the command `atgcn`."""

import sys

from atgcn_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
