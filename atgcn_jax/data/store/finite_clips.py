"""Checks that reject clips with NaN or infinite stored values.

The scores of a model do not reveal such clips. On CPUs, XLA compiles maxima so that a NaN may
become a number, and the scores of such clips look normal.
"""

from __future__ import annotations

import os

import numpy as np

from atgcn_jax.errors import UserError

_POSITIVE, _NEGATIVE = 0x7C00, 0xFC00  # bit patterns of +inf and -inf in float16; NaNs are larger


def check_log_mels(path: str | os.PathLike, clip_ids: np.ndarray, log_mel: np.ndarray) -> None:
  """Reject log-mels [B, T, F] that are not finite.

  The check takes 4 µs per clip of 400 x 64 values.

  Args:
    path: Path of the store, for the message.
    clip_ids: str[B].
    log_mel: uint8, which is always finite, or float16.

  Raises:
    UserError: If a value is not finite; names the first such clip.
  """
  if log_mel.dtype != np.float16 or not log_mel.size:
    return
  # An integer maximum takes a thirtieth of the time of np.isfinite on float16.
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
  """Reject peaks float32[N] or a normaliser float32[2, F] that are not finite.

  Args:
    path: Path of the store, for the message.
    clip_ids: str[N].
    peak_db: Peak of each clip in dB.
    normaliser: Mean and standard deviation of each band, if the store has them.

  Raises:
    UserError: If a value is not finite, or a deviation is not positive. For peaks, names the first
      such clip.
  """
  bad = ~np.isfinite(peak_db)
  if bad.any():
    fault = f"the peak of clip {clip_ids[np.argmax(bad)]} is NaN or infinite"
    raise _not_finite(path, f"{fault} ({bad.sum()} of {len(bad)} clips)")
  if normaliser is not None and not (np.isfinite(normaliser).all() and (normaliser[1] > 0).all()):
    raise UserError(
      f"{path}: the normaliser must have finite means and positive finite deviations; prepare the "
      "store again"
    )


def _not_finite(path: str | os.PathLike, fault: str) -> UserError:
  return UserError(
    f"{path}: {fault}; prepare the store again, or leave out the clips that `atgcn data-card` "
    "lists as not finite"
  )
