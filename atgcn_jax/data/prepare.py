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
from atgcn_jax.data.layouts.audioset_features import list_features
from atgcn_jax.data.layouts.esc50 import list_esc50
from atgcn_jax.data.layouts.feature_archive import unpacked_archive
from atgcn_jax.data.layouts.label_list import list_labelled
from atgcn_jax.data.layouts.listing import Clip, Listing, Row, make_listing, used_only
from atgcn_jax.data.layouts.options import CUTS, LAYOUT_OPTIONS, MANY, OPTIONS
from atgcn_jax.data.layouts.panns import list_packed
from atgcn_jax.data.layouts.segments import list_segments
from atgcn_jax.data.layouts.sonyc import list_sonyc
from atgcn_jax.data.layouts.talnet import list_talnet
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.store.findings_table import summary
from atgcn_jax.data.store.long_files import cut_long
from atgcn_jax.data.store.store_builder import Built, build_store, cores
from atgcn_jax.data.store.unfinished import findings_path
from atgcn_jax.data.synthetic import soundscapes
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.labels.ontology import read_ontology
from atgcn_jax.labels.vocabulary import read_vocabulary

Path = str | os.PathLike


def prepare(
  audio: Path | Sequence[Path],
  labels: Path | Sequence[Path] | None,
  out: Path,
  *,
  layout: str = "list",
  used_labels_only: bool = False,
  frontend_name: str | None = None,
  clip_seconds: float | None = None,
  dtype: str | None = None,
  workers: int | None = None,
  segment: bool = False,
  strict: bool = False,
  **layout_options: Any,
) -> Built:
  """Write the clip store of a data set.

  A file that is longer than a clip is cut to the first clip length. A shorter file is padded with
  silence. The decodable part of a damaged file is used. A SoundWarning for each kind of fault gives
  the number of sounds that are longer, shorter, incomplete, silent, out of range or out of phase.
  `OUT.findings.csv` lists all of them except the shorter ones. Files that cannot be read are left
  out and listed in `OUT.unreadable.csv`. After an interruption, the same call resumes.

  Args:
    audio: Folder of the sound files. For `esc50`, folder of the data set. For `panns` and `talnet`,
      packed files or folders of them. For `audioset-features`, the folder or the archive of the
      features. An archive is unpacked next to the store for the time of the call.
    labels: For `list`, a CSV with the columns `filename`, `fold`, `positive_labels` (ids separated
      by commas). For `segments`, AudioSet segment lists. For `sonyc`, its `annotations.csv`.
    out: Path of the store.
    layout: `list`, `segments`, `esc50`, `sonyc`, `panns`, `talnet` or `audioset-features`; see the
      `list_…` functions.
    used_labels_only: Whether to leave out the labels that no clip has.
    frontend_name: Name of the front end. Defaults to `vggish-features` for `audioset-features`,
      which has no other, and to `talnet` otherwise.
    clip_seconds: Length of a clip, 1 to 60 seconds, for layouts of sound files of any length.
      Defaults to that of the front end, 10 seconds.
    dtype: `uint8` or `float16`. Defaults to `uint8` for log-mels in dB and for embeddings, and to
      `float16` otherwise.
    workers: Number of worker processes. Defaults to one per core.
    segment: Whether to cut longer files into consecutive clips (`long_files.cut_long`).
    strict: Whether to treat files with a missing part as unreadable.
    **layout_options: Options of some layouts. `vocabulary`: CSV with the columns `index`, `mid`,
      `display_name`; defaults to the sorted label ids of the clips (`list` and `segments` only).
      `ontology`: AudioSet's `ontology.json`, for `esc50`. `esc10`: whether to use only the ESC-10
      part of `esc50`. `fold`: fold of all clips, for `segments`, `panns` and `talnet`; defaults to
      the fold in the file names. `normaliser`: file of mean and deviation, for `talnet`.

  Returns:
    The numbers of stored, absent and unreadable clips.

  Raises:
    UserError: If labels or options cannot be used, or no clip can be read. No store is written
      then.
  """
  if unknown := layout_options.keys() - LAYOUT_OPTIONS:
    raise TypeError(f"prepare() has no option {', '.join(sorted(unknown))}")
  options: dict[str, Any] = dict.fromkeys(LAYOUT_OPTIONS)
  options |= layout_options | {"labels": labels}
  _check_options(layout, options)
  for option, value in (("--segment", segment), ("--clip-seconds", clip_seconds)):
    if value and layout not in CUTS:
      raise UserError(f"{option}: --layout {layout} does not support it; leave it out")
  settings = _frontend(layout, frontend_name)
  if clip_seconds is not None:
    if not 1 <= clip_seconds <= 60:
      raise UserError(f"--clip-seconds {clip_seconds:g}: must be 1 to 60")
    settings = dataclasses.replace(settings, seconds=float(clip_seconds))
  dtype = dtype_of(settings, dtype)
  options["audio"] = paths = _several("audio", audio, layout)
  is_archive = layout == "audioset-features" and os.path.isfile(paths[0])
  with (
    unpacked_archive(paths[0], out) if is_archive else contextlib.nullcontext(paths[0]) as paths[0]
  ):
    listing = _listing(layout, options, settings)
    if used_labels_only:
      listing = used_only(listing)
    if not len(listing.label_indices):
      raise UserError(f"{labels or audio}: no file has a label; give files with labels")
    for remark in listing.remarks:
      warnings.warn(remark, stacklevel=2)
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


def _check_options(layout: str, options: dict[str, Any]) -> None:
  """Check that all required options of a layout are set and no unsupported ones.

  Raises:
    UserError: If an option is missing or not supported.
  """
  needed, allowed = OPTIONS[layout]
  for name in needed:
    if not options[name]:
      raise UserError(f"--{name}: --layout {layout} needs it; see `atgcn prepare --help`")
  for name, value in options.items():
    if value and name not in (*needed, *allowed):
      raise UserError(f"--{name}: --layout {layout} does not support it; leave it out")


def _listing(layout: str, options: dict[str, Any], settings: frontend.Frontend) -> Listing:
  """Return the listing of a layout."""
  audio = _several("audio", options["audio"], layout)
  labels = _several("labels", options["labels"], layout)
  fold = options["fold"]
  vocabulary = read_vocabulary(options["vocabulary"]) if options["vocabulary"] else None
  if layout == "list":
    return list_labelled(audio[0], labels[0], settings, vocabulary)
  if layout == "segments":
    return list_segments(audio[0], labels, settings, vocabulary, fold)
  if layout == "sonyc":
    return list_sonyc(audio[0], labels[0], settings)
  assert vocabulary is not None
  if layout == "audioset-features":
    return list_features(audio[0], vocabulary)
  if layout == "esc50":
    ontology = read_ontology(options["ontology"])
    return list_esc50(audio[0], settings, vocabulary, ontology, esc10=bool(options["esc10"]))
  if layout == "panns":
    return list_packed([os.fspath(path) for path in audio], settings, vocabulary, fold)
  paths = [os.fspath(path) for path in audio]
  return list_talnet(paths, settings, vocabulary, fold, options["normaliser"])


def _several(name: str, value: Any, layout: str) -> list[Path]:
  """Return the paths of an option. Most layouts accept only one path.

  Raises:
    UserError: If the layout accepts only one path and several are given.
  """
  paths = [value] if isinstance(value, str | os.PathLike) else list(value or ())
  if len(paths) > 1 and layout not in MANY[name]:
    raise UserError(
      f"--{name} {paths[1]}: --layout {layout} accepts one path; leave the others out"
    )
  return paths
