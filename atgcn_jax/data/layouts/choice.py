"""The listing of a data set in one of the layouts, from the options of `prepare`."""

from __future__ import annotations

import os
from typing import Any

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.audioset_features import list_features
from atgcn_jax.data.layouts.esc50 import list_esc50
from atgcn_jax.data.layouts.events import list_events
from atgcn_jax.data.layouts.label_folders import list_folders
from atgcn_jax.data.layouts.label_list import list_labelled
from atgcn_jax.data.layouts.listing import Listing
from atgcn_jax.data.layouts.options import GROUPED, MANY, OPTIONS
from atgcn_jax.data.layouts.panns import list_packed
from atgcn_jax.data.layouts.published_tables import list_fsd50k, list_urbansound8k
from atgcn_jax.data.layouts.segments import list_segments
from atgcn_jax.data.layouts.sonyc import list_sonyc
from atgcn_jax.data.layouts.talnet import list_talnet
from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import read_ontology
from atgcn_jax.labels.vocabulary import read_vocabulary

Path = str | os.PathLike


def check_options(layout: str, options: dict[str, Any]) -> None:
  """Check that all required options of a layout are set and no unsupported ones.

  Raises:
    UserError: If an option is missing or not supported.
  """
  needed, allowed = OPTIONS[layout]
  for name in needed:
    if not options[name]:
      other = "for a folder of recordings per label, use --layout folders; " * (layout == "list")
      raise UserError(f"--{name}: --layout {layout} needs it; {other}see `atgcn prepare --help`")
  for name, value in options.items():
    if value and name not in (*needed, *allowed):
      raise UserError(f"--{name}: --layout {layout} does not support it; leave it out")


def listing_of(layout: str, options: dict[str, Any], settings: Frontend) -> Listing:
  """Return the listing of a layout.

  Args:
    layout: Name of the layout.
    options: Options of the layout, and `audio`, `labels`, `folds` (whether the layout must state
      folds), `group` (column of groups, which may lack if it is one of BY_PATH; empty for none),
      `workers` and `strict`.
    settings: Front end of the clips.

  Raises:
    UserError: If the options or the files cannot be used.
  """
  audio = several("audio", options["audio"], layout)
  labels = several("labels", options["labels"], layout)
  fold = options["fold"]
  vocabulary = read_vocabulary(options["vocabulary"]) if options["vocabulary"] else None
  folds, group = options["folds"], options["group"]
  if group and layout not in GROUPED:
    raise UserError(f"--split-by {group}: --layout {layout} has no such column; use folder or date")
  if layout == "list":
    return list_labelled(audio[0], labels[0], settings, vocabulary, folds=folds, group=group)
  if layout == "folders":
    return list_folders(audio[0], settings, vocabulary, fold, folds=folds)
  if layout == "events":
    return list_events(
      audio[0],
      labels,
      settings,
      vocabulary,
      fold,
      workers=options["workers"],
      strict=options["strict"],
      folds=folds,
      group=group,
      background=bool(options["background"]),
    )
  if layout == "fsd50k":
    return list_fsd50k(audio[0], settings)
  if layout == "urbansound8k":
    return list_urbansound8k(audio[0], settings)
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


def several(name: str, value: Any, layout: str) -> list[Path]:
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
