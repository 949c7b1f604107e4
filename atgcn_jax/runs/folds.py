"""Folds that two splits share: what is refused, and what is reported."""

from __future__ import annotations

import warnings
from typing import Any

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.processes import is_first


def shared_folds(data: Any, one: str, other: str) -> list[str]:
  """The names of the folds that two splits have in common.

  Args:
    data: A `data` section.
    one, other: `train`, `validation` or `test`; `validation` includes the training folds where a
      share of their clips validates.
  """

  def folds(split: str) -> set[str]:
    named = [*data[f"{split}_folds"]]
    if split == "validation" and data.validation_share > 0:
      named += data.train_folds
    return set(map(str, named))

  return sorted(folds(one) & folds(other))


def check_folds(config: Any) -> None:
  """Refuse to train on the test clips; warn if the plateau rule follows their mAP.

  Raises:
    UserError: Naming the folds, unless `data.allow_test_overlap` is set.
  """
  shared = shared_folds(config.data, "train", "test")
  if shared and not config.data.allow_test_overlap:
    raise UserError(
      f"data.train_folds and data.test_folds both name {', '.join(shared)}: the test clips would "
      "be trained on; name other folds, or set --config.data.allow_test_overlap=True"
    )
  if config.optim.plateau_factor < 1:
    warn_if_test_clips(config, "optim.plateau_factor changes the learning rate by the mAP")


def warn_if_test_clips(config: Any, what: str) -> None:
  """Warn, in the first process, if what the validation clips decide is decided by test clips.

  Args:
    what: The start of the message, up to the clips.
  """
  shared = shared_folds(config.data, "validation", "test")
  if shared and is_first():
    warnings.warn(
      f"{what} of fold {', '.join(shared)}, which is in data.test_folds too, so that figures of "
      "the test clips are too high; name other data.validation_folds",
      stacklevel=3,
    )
