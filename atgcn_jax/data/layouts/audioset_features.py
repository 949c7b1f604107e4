"""AudioSet's published VGGish features: folders of TFRecord files, one folder per part."""

from __future__ import annotations

import collections
import functools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from atgcn_jax.audio import folders
from atgcn_jax.data.layouts.feature_records import (
  LONGEST,
  FeatureClip,
  feature_clip,
  framed_records,
)
from atgcn_jax.data.layouts.listing import (
  Clip,
  Listing,
  Row,
  check_audio_folder,
  make_listing,
  repeat_remarks,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

PARTS = ("bal_train", "unbal_train", "eval")  # folders of the release, in the order of the listing
SUFFIX = ".tfrecord"
GIVE = "give the folder or archive of AudioSet's features to --audio"


def list_features(audio: str | os.PathLike, vocabulary: Vocabulary) -> Listing:
  """List the clips of AudioSet's feature release. Folds are the names of the parts.

  The clip id is the YouTube id. A further clip with the same id and another start gets the id
  `ID_START`, as in `list_segments`. A record that repeats an id and a start is left out and
  counted. A broken record is `unreadable`.

  Args:
    audio: Folder that contains folders named as in PARTS at any depth, or one of them.
    vocabulary: AudioSet's labels. The records contain positions in it.

  Raises:
    UserError: If there are no such files, or no record can be read.
  """
  if not os.path.exists(audio):
    raise UserError(f"{audio}: no such folder or archive; {GIVE}")
  root = check_audio_folder(audio)
  contents = folders.contents(root, (SUFFIX,))
  part_of = {name: (root.absolute() / name).parent.name for name in contents.files}
  files = [name for part in PARTS for name in contents.files if part_of[name] == part]
  if not files:
    raise UserError(f"{root}: contains no {SUFFIX} file in a folder {', '.join(PARTS)}; {GIVE}")
  unreadable: list[tuple[str, str]] = []
  repeated: collections.Counter[str] = collections.Counter()
  starts: dict[str, float] = {}
  further: set[str] = set()

  def clips() -> Iterator[tuple[str, str, FeatureClip]]:
    for name in tqdm(files, unit="file", desc="listing", disable=None):
      for source, clip in read_file(root, name, len(vocabulary)):
        if isinstance(clip, FeatureClip):
          yield source, part_of[name], clip
        else:
          unreadable.append((source, str(clip)))

  def rows() -> Iterator[Row]:
    for source, part, clip in clips():
      name = clip.clip_id
      if name not in starts:
        starts[name] = clip.start
      else:
        name = f"{clip.clip_id}_{clip.start:.3f}"
        if clip.start == starts[clip.clip_id] or name in further:
          repeated[clip.clip_id] += 1
          continue
        further.add(name)
      labels = [vocabulary.ids[k] for k in dict.fromkeys(clip.labels)]
      yield Row(name, part, source, labels, source)

  listing = make_listing(
    rows(), vocabulary, functools.partial(load_feature_clip, str(root)), str(root)
  )
  if not listing.clip_ids:
    source, reason = unreadable[0]
    raise UserError(f"{root / source}: {reason} (none of the records can be read); {GIVE}")
  listing.unreadable.extend([*contents.faults, *unreadable])
  if others := len(contents.files) - len(files):
    text = f"{others} {SUFFIX} files outside of folders {', '.join(PARTS)} are left out"
    listing.remarks.append(f"{root}: {text}")
  listing.remarks.extend(repeat_remarks("--audio", repeated))
  return listing


def read_file(
  root: pathlib.Path, name: str, label_count: int
) -> Iterator[tuple[str, FeatureClip | Exception]]:
  """Yield (source, clip) for each record of a file, and an error for what cannot be read.

  Args:
    root: Folder of the file.
    name: Path of the file in the folder.
    label_count: Number of labels. A record with a larger label number is broken.
  """
  try:
    with open(root / name, "rb") as file:
      if not os.fstat(file.fileno()).st_size:
        raise ValueError("the file is empty")
      for start, content in framed_records(file):
        source = f"{name}:{start}"
        if isinstance(content, ValueError):
          yield source, content
          continue
        try:
          clip = feature_clip(content)
          for label in clip.labels:
            if not 0 <= label < label_count:
              raise ValueError(f"label {label} is not one of the {label_count} of the vocabulary")
        except ValueError as error:
          yield source, error
        else:
          yield source, clip
  except (OSError, ValueError) as error:
    yield name, error


def load_feature_clip(root: str, source: str) -> Clip:
  """Load the record of a source `PATH:OFFSET` as embeddings uint8[LONGEST, WIDTH].

  The embeddings of a shorter clip are repeated from its start. Of the ways to pad, this one
  disturbs pooling over time the least: the maximum stays the same, and so do mean and attention
  where whole repetitions fill the clip. Zeros would be embeddings of no sound.

  Raises:
    OSError: If the file cannot be read.
    ValueError: If the record is broken.
  """
  name, _, start = source.rpartition(":")
  with open(os.path.join(root, name), "rb") as file:
    file.seek(int(start))
    _, content = next(framed_records(file))
  if isinstance(content, ValueError):
    raise content
  embeddings = feature_clip(content).embeddings
  padded = embeddings[np.arange(LONGEST) % len(embeddings)]
  return Clip(padded, seconds=float(len(embeddings)))
