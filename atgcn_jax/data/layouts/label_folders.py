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

  The label is the uppermost folder, as an id or a name of the vocabulary. If all uppermost folders
  are named as in FOLDS, they state the folds, and the label is the folder below. Deeper folders do
  not matter. Files of a folder whose name starts with an underscore have no label.

  Args:
    audio: Folder of the folders.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the listing. Defaults to the sorted names of the folders.
    fold: Fold of all clips whose folders state none.
    folds: Whether the clips need folds.

  Raises:
    UserError: If the folder has no sound file in a folder of a label, or a clip has no fold.
  """
  root = str(check_audio_folder(audio))
  found = folders.contents(root)
  sounds = [path for path in found.files if path.lower().endswith(folders.SOUNDS)]
  unreadable = [(one_line(path), NOT_UTF8) for path in sounds if not _is_utf8(path)]
  sounds = list(filter(_is_utf8, sounds))
  uppermost = {path.partition("/")[0].lower() for path in sounds if "/" in path}
  above = 1 if uppermost and uppermost <= FOLDS.keys() else 0
  loose = [path for path in sounds if path.count("/") <= above]
  if folds and not above and not fold:
    raise UserError(
      f"{root}: its folders state labels but no folds; give --split 80/10/10, or put the folders "
      "of the labels into folders train, validation and test"
    )

  def rows() -> Iterator[Row]:
    for path in sounds:
      parts = path.split("/")
      if len(parts) > above + 1:
        label = parts[above]
        labels = [] if label.startswith(NO_LABEL) else [label]
        where = f"{root}: folder {'/'.join(parts[: above + 1])}"
        ids = vocabulary.as_ids(labels) if vocabulary else labels
        yield Row(path, FOLDS[parts[0].lower()] if above else fold or "", path, ids, where)

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


def _is_utf8(path: str) -> bool:
  """Return whether a path is text that a store can hold."""
  try:
    return bool(path.encode())
  except UnicodeEncodeError:
    return False
