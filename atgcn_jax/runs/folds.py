"""The splits of a config, and checks for folds that are in more than one split."""

from __future__ import annotations

import warnings
from typing import Any

from atgcn_jax.data.splits import Splits
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.processes import is_first


def splits_of(config: Any) -> Splits:
  """Return the splits of a config."""
  data = config.data
  return Splits(data.train_folds, data.validation_folds, data.test_folds, data.validation_share)


def shared_folds(splits: Splits, one: str, other: str) -> list[str]:
  """Return the sorted names of the folds that two splits have in common.

  Args:
    splits: The splits.
    one: `train`, `validation` or `test`. `validation` includes the training folds if
      `validation_share` is above 0.
    other: Likewise.
  """

  def folds(split: str) -> set[str]:
    named = [*getattr(splits, f"{split}_folds")]
    if split == "validation" and splits.validation_share > 0:
      named += splits.train_folds
    return set(map(str, named))

  return sorted(folds(one) & folds(other))


def check_folds(config: Any) -> None:
  """Refuse to train on test clips, and warn if the plateau rule uses their mAP.

  Raises:
    UserError: If a fold is in both splits and `data.allow_test_overlap` is not set. The message
      names the folds.
  """
  splits = splits_of(config)
  shared = shared_folds(splits, "train", "test")
  if shared and not config.data.allow_test_overlap:
    raise UserError(
      f"data.train_folds and data.test_folds both name {', '.join(shared)}: this would train on "
      "test clips; name other folds, or set --config.data.allow_test_overlap=True"
    )
  if config.optim.plateau_factor < 1:
    warn_if_test_clips(splits, "optim.plateau_factor changes the learning rate by the mAP")


def warn_if_test_clips(splits: Splits, what: str) -> None:
  """Warn in process 0 if validation clips that decide something are also test clips.

  Args:
    splits: The splits.
    what: The start of the message, which says what the validation clips decide and ends before the
      fold names.
  """
  shared = shared_folds(splits, "validation", "test")
  if shared and is_first():
    warnings.warn(
      f"{what} of fold {', '.join(shared)}, which is also in data.test_folds, so test metrics are "
      "too high; name other data.validation_folds",
      stacklevel=3,
    )
