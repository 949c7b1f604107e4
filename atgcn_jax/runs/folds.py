"""Checks for folds that are in more than one split."""

from __future__ import annotations

import warnings
from typing import Any

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.processes import is_first


def shared_folds(data: Any, one: str, other: str) -> list[str]:
  """Return the sorted names of the folds that two splits have in common.

  Args:
    data: A `data` section.
    one: `train`, `validation` or `test`. `validation` includes the training folds if
      `data.validation_share` is above 0.
    other: Likewise.
  """

  def folds(split: str) -> set[str]:
    named = [*data[f"{split}_folds"]]
    if split == "validation" and data.validation_share > 0:
      named += data.train_folds
    return set(map(str, named))

  return sorted(folds(one) & folds(other))


def check_folds(config: Any) -> None:
  """Refuse to train on test clips, and warn if the plateau rule uses their mAP.

  Raises:
    UserError: If a fold is in both splits and `data.allow_test_overlap` is not set. The message
      names the folds.
  """
  shared = shared_folds(config.data, "train", "test")
  if shared and not config.data.allow_test_overlap:
    raise UserError(
      f"data.train_folds and data.test_folds both name {', '.join(shared)}: this would train on "
      "test clips; name other folds, or set --config.data.allow_test_overlap=True"
    )
  if config.optim.plateau_factor < 1:
    warn_if_test_clips(config, "optim.plateau_factor changes the learning rate by the mAP")


def warn_if_test_clips(config: Any, what: str) -> None:
  """Warn in process 0 if validation clips that decide something are also test clips.

  Args:
    config: The config.
    what: The start of the message, which says what the validation clips decide and ends before the
      fold names.
  """
  shared = shared_folds(config.data, "validation", "test")
  if shared and is_first():
    warnings.warn(
      f"{what} of fold {', '.join(shared)}, which is also in data.test_folds, so test metrics are "
      "too high; name other data.validation_folds",
      stacklevel=3,
    )
