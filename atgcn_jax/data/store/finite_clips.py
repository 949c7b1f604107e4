"""Refusal of clips whose stored values are NaN or infinite.

A model does not show them: XLA compiles maxima for CPUs so that a NaN may become a number, and the
scores of such clips look like any others.
"""

from __future__ import annotations

import os

import numpy as np

from atgcn_jax.errors import UserError

_POSITIVE, _NEGATIVE = 0x7C00, 0xFC00  # the bits of float16's infinities; those of NaN are above


def check_log_mels(path: str | os.PathLike, clip_ids: np.ndarray, log_mel: np.ndarray) -> None:
  """Refuse log-mels [B, T, F] read from a store that are not finite; 4 µs a clip of 400 x 64.

  Args:
    path: of the store.
    clip_ids: str[B].
    log_mel: uint8, which is always finite, or float16.
  Raises:
    UserError: naming the first of the clips.
  """
  if log_mel.dtype != np.float16 or not log_mel.size:
    return
  # Maxima of integers take a thirtieth of the time of np.isfinite on float16.
  if log_mel.view(np.int16).max() < _POSITIVE and log_mel.view(np.uint16).max() < _NEGATIVE:
    return
  bad = ~np.isfinite(log_mel).all(axis=(1, 2))
  raise _not_finite(path, f"the log-mel of clip {clip_ids[np.argmax(bad)]} is NaN or infinite")


def check_small(
  path: str | os.PathLike,
  clip_ids: np.ndarray,
  peak_db: np.ndarray,
  normaliser: np.ndarray | None,
) -> None:
  """Refuse a store's peaks float32[N] and normaliser float32[2, F] that are not finite.

  Raises:
    UserError: naming the first of the clips.
  """
  bad = ~np.isfinite(peak_db)
  if bad.any():
    fault = f"the peak of clip {clip_ids[np.argmax(bad)]} is NaN or infinite"
    raise _not_finite(path, f"{fault} ({bad.sum()} of {len(bad)} clips)")
  if normaliser is not None and not (np.isfinite(normaliser).all() and (normaliser[1] > 0).all()):
    raise UserError(
      f"{path}: its normaliser is not a finite mean and a positive deviation; prepare the store "
      "again"
    )


def _not_finite(path: str | os.PathLike, fault: str) -> UserError:
  return UserError(
    f"{path}: {fault}; prepare the store again, or without the clips that `atgcn data-card` lists "
    "as not finite"
  )
