"""Audio tagging with label graphs, in JAX."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["SoundWarning", "Tagger", "UserError", "WorkFailed"]


def __getattr__(name: str) -> Any:
  """Import a public name on first use, so that `import atgcn_jax` is fast."""
  if name == "Tagger":
    from atgcn_jax.serving.tagger import Tagger

    return Tagger
  if name in ("SoundWarning", "UserError", "WorkFailed"):
    from atgcn_jax import errors

    return getattr(errors, name)
  raise AttributeError(f"module 'atgcn_jax' has no attribute {name!r}")
