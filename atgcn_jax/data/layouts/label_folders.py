"""A folder per label: sound files whose folder is their label."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

from atgcn_jax.audio import folders
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.inputs import one_line
from atgcn_jax.data.layouts.listing import (
  SHOWN,
  Listing,
  Row,
  check_audio_folder,
  load_file,
  make_listing,
  spelling_doubts,
)
from atgcn_jax.errors import UserError, counted
from atgcn_jax.labels.vocabulary import Vocabulary

# Names of folders that state a fold, in lower case.
FOLDS = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
  **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
NO_LABEL = "_"  # start of the names of folders whose files have no label
NOT_UTF8 = "named in another encoding than UTF-8; rename it"


def list_folders(
  audio: str | os.PathLike,
  settings: Frontend,
  vocabulary: Vocabulary | None,
  fold: str | None = None,
  *,
  folds: bool = True,
) -> Listing:
  """List the sound files of a folder that has a folder per label. Clip ids are relative paths.

  The label is the uppermost folder, as an id or a name of the vocabulary. Files of a folder whose
  name starts with an underscore have no label. If all other uppermost folders are named as in
  FOLDS, they state the folds, and the label is the folder below. Deeper folders do not matter.

  Args:
    audio: Folder of the folders.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the listing. Defaults to the sorted names of the folders.
    fold: Fold of all clips whose folders state none.
    folds: Whether the clips need folds.

  Raises:
    UserError: If the folder has no sound file in a folder of a label, a clip has no fold, all
      folders state one in spite of `fold`, or there are labels beside folders of folds.
  """
  root = str(check_audio_folder(audio))
  found = folders.contents(root)
  sounds = [path for path in found.files if path.lower().endswith(folders.SOUNDS)]
  unreadable = [(one_line(path), NOT_UTF8) for path in sounds if not _is_utf8(path)]
  sounds = list(filter(_is_utf8, sounds))
  uppermost = {path.partition("/")[0] for path in sounds if "/" in path}
  fold_of = _folds(root, uppermost)
  if fold and uppermost and fold_of.keys() == uppermost:
    raise UserError(f"--fold {fold}: the folders of {root} state the folds; leave it out")
  if folds and not fold and (lacking := sorted(uppermost - fold_of.keys())):
    if fold_of:
      raise UserError(
        f"{root}: {lacking[0]} has no fold; give --fold train for it, or move it into the folder "
        "of a fold"
      )
    raise UserError(
      f"{root}: its folders state labels but no folds; give --split 80/10/10, or put the folders "
      "of the labels into folders train, validation and test"
    )
  loose: list[str] = []

  def rows() -> Iterator[Row]:
    for path in sounds:
      *parts, _ = path.split("/")
      above = 1 if parts and parts[0] in fold_of else 0
      if len(parts) <= above:
        loose.append(path)
        continue
      label = parts[above]
      labels = [] if label.startswith(NO_LABEL) else [label]
      where = f"{root}: folder {'/'.join(parts[: above + 1])}"
      ids = vocabulary.as_ids(labels) if vocabulary else labels
      yield Row(path, fold_of.get(parts[0], fold or ""), path, ids, where)

  listing = make_listing(rows(), vocabulary, functools.partial(load_file, root, settings), root)
  doubts = spelling_doubts(listing.folds, listing.vocabulary.ids)
  listing.remarks.extend(f"{root}: {doubt}" for doubt in doubts)
  others = folders.other_formats(found.files)
  if not listing.clip_ids:
    raise UserError(
      f"{root}: no sound file in a folder of a label{f'; {others}' if others else ''}; give the "
      "folder that has one folder per label to --audio"
    )
  if loose:
    shown = ", ".join(map(one_line, loose[:SHOWN]))
    listing.remarks.append(
      f"{root}: {counted(len(loose), 'file is', 'files are')} in no folder of a label and left "
      f"out: {shown}"
    )
  if others:
    listing.remarks.append(f"{root}: {others}")
  listing.unreadable.extend([*found.faults, *unreadable])
  return listing


def _folds(root: str, uppermost: set[str]) -> dict[str, str]:
  """Return the folds that uppermost folders state; none if these are labels.

  Raises:
    UserError: If there are folders of several folds and others that are labels.
  """
  known = {name: FOLDS[name.lower()] for name in uppermost if name.lower() in FOLDS}
  if len({*known.values()}) < 2:  # the name may be that of a sound, such as a train
    return known if known.keys() == uppermost else {}
  if others := sorted(name for name in uppermost - known.keys() if not name.startswith(NO_LABEL)):
    shown = ", ".join(map(one_line, others[:SHOWN]))
    raise UserError(
      f"{root}: {shown} is no fold, unlike {', '.join(sorted(known))}; move it into one of these "
      "folders, or away"
    )
  return known


def _is_utf8(path: str) -> bool:
  """Return whether a path is text that a store can hold."""
  try:
    return bool(path.encode())
  except UnicodeEncodeError:
    return False
