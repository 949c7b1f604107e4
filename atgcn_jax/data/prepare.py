"""Preparation of a clip store from labelled sound files in several layouts, or from soundscapes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

from atgcn_jax.audio import frontend
from atgcn_jax.data.layouts.choice import check_options, listing_of, several
from atgcn_jax.data.layouts.feature_archive import unpacked_archive
from atgcn_jax.data.layouts.listing import Clip, Row, make_listing, used_only
from atgcn_jax.data.layouts.options import BY_PATH, CUTS, GROUPED, LAYOUT_OPTIONS
from atgcn_jax.data.layouts.splitting import parsed_shares, with_split
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.store.findings_table import summary
from atgcn_jax.data.store.finished import read_finished
from atgcn_jax.data.store.long_files import cut_long
from atgcn_jax.data.store.store_builder import Built, build_store, cores
from atgcn_jax.data.store.unfinished import findings_path
from atgcn_jax.data.synthetic import soundscapes
from atgcn_jax.errors import SoundWarning, UserError

Path = str | os.PathLike
SHORTEST, LONGEST = 0.1, 60.0  # length of a clip, in seconds


def prepare(
  audio: Path | Sequence[Path],
  labels: Path | Sequence[Path] | None,
  out: Path,
  *,
  layout: str = "list",
  used_labels_only: bool = False,
  frontend_name: str | None = None,
  dtype: str | None = None,
  workers: int | None = None,
  seconds: float | None = None,
  segment: bool = False,
  strict: bool = False,
  split: str = "",
  split_by: str = "",
  stratify: bool = False,
  **layout_options: Any,
) -> Built:
  """Write the clip store of a data set.

  A file that is longer than a clip is cut to the first clip length. A shorter file is padded with
  silence. The decodable part of a damaged file is used. A SoundWarning for each kind of fault gives
  the number of sounds that are longer, shorter, incomplete, silent, out of range or out of phase.
  `OUT.findings.csv` lists all of them except the shorter ones. Files that cannot be read are left
  out and listed in `OUT.unreadable.csv`. After an interruption, the same call resumes. A finished
  store is never replaced: the same call leaves it unchanged, with a warning.

  Args:
    audio: Folder of the sound files. For `folders`, it has a folder per label. For `esc50`,
      `fsd50k` and `urbansound8k`, folder of the data set. For `panns` and `talnet`, packed files or
      folders of them. For `audioset-features`, the folder or the archive of the features. An
      archive is unpacked next to the store for the time of the call.
    labels: For `list`, a CSV with the columns `filename`, `fold`, `positive_labels` (ids separated
      by commas) or a column of 0 and 1 per label. For `events`, tables of events; by default the
      `.txt` files next to the sound files. For `segments`, AudioSet segment lists. For `sonyc`, its
      `annotations.csv`.
    out: Path of the store.
    layout: One of `layouts.options.OPTIONS`; see the `list_…` functions.
    used_labels_only: Whether to leave out the labels that no clip has.
    frontend_name: Name of the front end. Defaults to `vggish-features` for `audioset-features`,
      which has no other, and to `talnet` otherwise.
    dtype: `uint8` or `float16`. Defaults to `uint8` for log-mels in dB and for embeddings, and to
      `float16` otherwise.
    workers: Number of worker processes. Defaults to one per core.
    seconds: Length of a clip in seconds. Defaults to that of the front end, 10.
    segment: Whether to cut longer files into consecutive clips (`long_files.cut_long`).
    strict: Whether to treat files with a missing part as unreadable.
    split: Percentages of train, validation and test that replace the folds, such as `80/10/10`
      (`splitting.with_split`). Empty for the folds of the layout.
    split_by: Groups of the split: for `list` and `events` the name of a column, otherwise or
      without such a column `folder` or `date` (`splitting.with_split`).
    stratify: Whether to stratify the split by label.
    **layout_options: Options of some layouts. `vocabulary`: CSV with the columns `index`, `mid`,
      `display_name`; defaults to the sorted labels of the clips (`list`, `folders`, `events` and
      `segments` only). `ontology`: AudioSet's `ontology.json`, for `esc50`. `esc10`: whether to use
      only the ESC-10 part of `esc50`. `fold`: fold of all clips, for `segments`, `panns` and
      `talnet`; defaults to the fold in the names of folders or files; for `folders` and `events`,
      fold of the files without one. `normaliser`: file of mean and deviation, for `talnet`.
      `background`: whether to store clips without an event too, for `events`.

  Returns:
    The numbers of stored, absent and unreadable clips.

  Raises:
    UserError: If labels or options cannot be used, no clip can be read, or another file or store
      is at `out`. No store is written then.
  """
  if unknown := layout_options.keys() - LAYOUT_OPTIONS:
    raise TypeError(f"prepare() has no option {', '.join(sorted(unknown))}")
  read_finished(out)  # refuses another file before the sounds are listed
  options: dict[str, Any] = dict.fromkeys(LAYOUT_OPTIONS)
  options |= layout_options | {"labels": labels}
  check_options(layout, options)
  for_sounds = {"segment": segment, "split": split, "seconds": seconds}
  if layout not in CUTS and (unsupported := [name for name, on in for_sounds.items() if on]):
    raise UserError(f"--{unsupported[0]}: --layout {layout} does not support it; leave it out")
  if (split_by or stratify) and not split:
    raise UserError(f"--{'split-by' if split_by else 'stratify'}: needs --split 80/10/10")
  if split_by.lower() in BY_PATH:
    split_by = split_by.lower()
  if split:
    parsed_shares(split)
    if options["fold"]:
      raise UserError("--fold: --split replaces all folds; leave one of the two out")
  if segment and layout == "events":
    raise UserError("--segment: --layout events cuts around events; use --background for the rest")
  options |= {
    "folds": not split,
    "group": split_by if layout in GROUPED or split_by not in BY_PATH else "",
    "workers": workers or cores(),
    "strict": strict,
  }
  settings = with_seconds(_frontend(layout, frontend_name), seconds)
  dtype = dtype_of(settings, dtype)
  options["audio"] = paths = several("audio", audio, layout)
  is_archive = layout == "audioset-features" and os.path.isfile(paths[0])
  with (
    unpacked_archive(paths[0], out) if is_archive else contextlib.nullcontext(paths[0]) as paths[0]
  ):
    listing = listing_of(layout, options, settings)
    if used_labels_only:
      listing = used_only(listing)
    if not len(listing.label_indices):
      raise UserError(f"{labels or audio}: no file has a label; give files with labels")
    for remark in listing.remarks:
      warnings.warn(remark, stacklevel=2)
    if split:
      by = "" if options["group"] and listing.groups else split_by
      listing = with_split(listing, split, by, stratify=stratify)
    if segment:
      listing = cut_long(listing, settings, workers or cores(), strict=strict)
    built = build_store(out, listing, settings, dtype, workers=workers, strict=strict)
  hint = "" if segment or layout not in CUTS else "; --segment cuts them into clips"
  for line in summary(open_store(out), hint):
    warnings.warn(f"{out}: {line}", SoundWarning, stacklevel=2)
  if findings_path(out).exists():
    text = f"{out}: see {findings_path(out)} for details"
    warnings.warn(text, SoundWarning, stacklevel=2)
  return built


def _frontend(layout: str, name: str | None) -> frontend.Frontend:
  """Return the front end of a layout.

  Raises:
    UserError: If the layout does not support the front end with this name.
  """
  features = frontend.VGGISH_FEATURES
  if layout == "audioset-features":
    if name not in (None, features.name):
      raise UserError(
        f"--frontend {name}: --layout {layout} is of {features.name} only; leave it out"
      )
    return features
  if name == features.name:
    raise UserError(
      f"--frontend {name}: computing these features needs Google's VGGish network, which this "
      "package does not have; choose another front end, or use the published features with "
      "--layout audioset-features"
    )
  return frontend.FRONTENDS[name or "talnet"]


def with_seconds(settings: frontend.Frontend, seconds: float | None) -> frontend.Frontend:
  """Return a front end with another clip length in seconds, or as it is for None.

  Raises:
    UserError: If the length is not between a tenth of a second and a minute.
  """
  if seconds is None:
    return settings
  if not SHORTEST <= seconds <= LONGEST:
    raise UserError(f"--seconds {seconds:g}: must be {SHORTEST:g} to {LONGEST:g}")
  return dataclasses.replace(settings, seconds=float(seconds))


def dtype_of(settings: frontend.Frontend, asked: str | None) -> str:
  """Return the type in which log-mels or embeddings are stored.

  Args:
    settings: Front end of the log-mels.
    asked: Requested type. Defaults to `uint8` for log-mels in dB and for embeddings, and to
      `float16` otherwise.

  Raises:
    UserError: If the log-mels cannot be stored in the requested type.
  """
  if settings.value_limit is not None:
    if asked == "float16":
      raise UserError(f"--dtype float16: {settings.name} are published in uint8; leave it out")
    return "uint8"
  in_db = settings.log_offset is None
  if asked == "uint8" and not in_db:
    raise UserError(f"--dtype uint8: only for log-mels in dB; use float16 for {settings.name}")
  return asked or ("uint8" if in_db else "float16")


def prepare_soundscapes(out: Path, clips: int, seed: int, workers: int | None = None) -> None:
  """Write the store of the first `clips` built-in soundscapes.

  If another process is writing the same store, wait for it and use its result.
  """
  known = soundscapes.soundscape_vocabulary()
  rows = (
    Row(
      f"{number:06d}",
      soundscapes.scene_fold(number),
      f"{number:06d}",
      [known.ids[k] for k in soundscapes.clip_labels(seed, number)],
      "",
    )
    for number in range(clips)
  )
  listing = make_listing(rows, known, functools.partial(_render, seed), f"seed {seed}")
  settings = frontend.FRONTENDS["talnet"]
  build_store(out, listing, settings, "uint8", workers=workers, wait=True)


def _render(seed: int, clip_id: str) -> Clip:
  waveform = soundscapes.render(seed, int(clip_id))[0]
  return Clip(waveform, soundscapes.CLIP_SECONDS, soundscapes.RATE)
