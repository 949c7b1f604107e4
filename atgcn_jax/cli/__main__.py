"""Entry point of `python -m atgcn_jax.cli`, the same as the command `atgcn`."""

import sys

from atgcn_jax.cli import main

if __name__ == "__main__":
  sys.exit(main())
