"""The data card: a description of a clip store that makes evaluations comparable."""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from atgcn_jax.audio.findings import KINDS
from atgcn_jax.data.open_clips import open_clips, store_name
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.data.store.findings_table import LONGER, NOT_KNOWN, SHORTER, counts
from atgcn_jax.labels.counts import Segments, left_out, read_segments
from atgcn_jax.labels.ratings import read_ratings
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary
from atgcn_jax.runs.clip_ids import clip_ids_hash, listed_id

CHUNK_BYTES = 2**24  # size of the log-mels read at a time
NAMED = 20  # maximum number of named clips, groups or labels; all are counted


def data_card(
  store_path: str | os.PathLike,
  *,
  segments: Sequence[str | os.PathLike] = (),
  vocabulary: str | os.PathLike | None = None,
  ratings: str | os.PathLike | None = None,
) -> dict[str, Any]:
  """Return the data card of a store as JSON values. All log-mels are read once, in chunks.

  Args:
    store_path: The store.
    segments: Official segment lists. The card reports which of their segments are in the store.
    vocabulary: The labels of these lists; by default those of the store.
    ratings: A list of label qualities (`labels.ratings`).

  Raises:
    UserError: If a file cannot be used.
  """
  store = open_clips(store_path, finite=False)
  labels = read_vocabulary(vocabulary) if vocabulary else store.vocabulary
  rated = read_ratings(ratings) if ratings else {}
  lists = [_list_card(path, read_segments(path, labels), store, labels) for path in segments]
  sizes = np.diff(store.label_offsets)
  folds = np.unique(store.folds).tolist()
  owners = np.repeat(store.folds, sizes)
  by_fold = {
    fold: np.bincount(store.label_indices[owners == fold], minlength=len(store.vocabulary))
    for fold in folds
  }
  classes = _classes(store.vocabulary, by_fold, labels, lists, rated)
  empty = [one for one in classes if not one["clips"]]
  return {
    "store": store_name(store),
    "content_sha256": store.fingerprint,
    "frontend": {"name": store.frontend.name, "seconds": store.frontend.seconds},
    "stored_as": str(store.log_mel.dtype),
    "clips": len(store),
    "clip_ids_sha256": clip_ids_hash(store.clip_ids),
    "folds": {
      fold: {"clips": int(here.sum()), "clip_ids_sha256": clip_ids_hash(store.clip_ids[here])}
      for fold in folds
      for here in [store.folds == fold]
    },
    "lists": lists,
    "durations": _durations(store),
    "rates_hz": _rates(store.rate_hz),
    "findings": _findings(store),
    **_contents(store),
    "labels": {
      "classes": len(store.vocabulary),
      "positives": int(sizes.sum()),
      "per_clip_mean": float(sizes.mean()) if len(sizes) else None,
      "per_clip": {str(n): int(count) for n, count in enumerate(np.bincount(sizes)) if count},
      "without_a_clip": _some([one["name"] for one in empty]),
    },
    "ratings": _quality(classes) if rated else None,
    "classes": classes,
  }


def _list_card(
  path: str | os.PathLike, listed: Segments, store: ClipStore, labels: Vocabulary
) -> dict[str, Any]:
  """Return the card of a segment list: which segments are in the store.

  `by_class` has the counts per class; `_classes` removes it.
  """
  if text := left_out(path, listed):
    warnings.warn(text, UserWarning, stacklevel=3)
  row_of = {clip_id: row for row, clip_id in enumerate(listed.clip_ids)}
  here = np.zeros(len(row_of), bool)
  matched, by_fold = 0, dict.fromkeys(np.unique(store.folds).tolist(), 0)
  for clip_id, fold in zip(store.clip_ids.tolist(), store.folds.tolist()):
    known = listed_id(clip_id, row_of)
    if known is not None:
      matched += 1
      by_fold[fold] += 1
      here[row_of[known]] = True
  there = np.repeat(here, np.diff(listed.offsets))
  counts = [
    np.bincount(indices, minlength=len(labels))
    for indices in (listed.label_indices, listed.label_indices[there])
  ]
  return {
    "list": pathlib.Path(path).name,
    "segments": len(here),
    "present": int(here.sum()),
    "clips_matched": matched,
    "clips_matched_by_fold": by_fold,
    "broken_rows": listed.broken,
    "repeated_rows": listed.repeated,
    "by_class": {label: [int(a), int(b)] for label, a, b in zip(labels.ids, *counts)},
  }


def _classes(
  own: Vocabulary,
  by_fold: dict[str, np.ndarray],
  labels: Vocabulary,
  lists: list[dict[str, Any]],
  rated: dict[str, tuple[int, int]],
) -> list[dict[str, Any]]:
  """Return one row per label of the store or of the lists.

  The counts per class are moved from the list cards into the rows. `by_fold` has the number of
  clips of each label of the store, int64[K], by fold.
  """
  names = dict(zip(labels.ids, labels.names)) | dict(zip(own.ids, own.names))
  by_list = [one.pop("by_class") for one in lists]
  rows = []
  for label_id, name in names.items():
    counts = [counts.get(label_id, [0, 0]) for counts in by_list]
    k = own.index.get(label_id)
    clips = {fold: 0 if k is None else int(counted[k]) for fold, counted in by_fold.items()}
    rows.append(
      {
        "id": label_id,
        "name": name,
        "clips": sum(clips.values()),
        "clips_by_fold": clips,
        "listed": [listed for listed, _ in counts],
        "present": [present for _, present in counts],
      }
    )
    if rated:
      checked, true = rated.get(label_id, (0, 0))
      rows[-1] |= {"rated": checked, "true": true, "quality": true / checked if checked else None}
  return rows


def _quality(classes: list[dict[str, Any]]) -> dict[str, Any]:
  """Return the share of true labels, as a mean over classes and over the labels in the store."""
  known = [one for one in classes if one["quality"] is not None]
  qualities, clips = (np.array([one[key] for one in known]) for key in ("quality", "clips"))
  return {
    "classes_rated": len(known),
    "classes_not_rated": _some([one["name"] for one in classes if one["quality"] is None]),
    "mean_by_class": float(qualities.mean()) if known else None,
    "mean_by_label": float(qualities @ clips / clips.sum()) if known and clips.any() else None,
  }


def _durations(store: ClipStore) -> dict[str, Any] | None:
  """Return statistics of the file durations in seconds, or None if the store has no durations."""
  seconds = store.seconds
  if seconds is None:
    return None
  known = seconds[np.isfinite(seconds)]
  result: dict[str, Any] = {"unknown": len(seconds) - len(known)}
  if len(known):
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    quantiles = np.quantile(known.astype(np.float64), [0, 0.25, 0.5, 0.75, 1])
    result |= {name: round(value, 6) for name, value in zip(names, quantiles.tolist())}
  found = counts(store)
  return result | {
    "clip_seconds": store.frontend.seconds,
    "shorter_than_a_clip": found[SHORTER]["clips"],
    "longer_than_a_clip": found[LONGER]["clips"],
    "seconds_not_used": found[LONGER]["seconds"],
  }


def _findings(store: ClipStore) -> dict[str, Any] | None:
  """Return the findings about the sound files by kind, or None if the store has none.

  Each kind has the number of `clips` and the `first` of them.
  """
  if store.findings is None:
    return None
  found, known = counts(store), store.findings != NOT_KNOWN
  for bit, kind in enumerate(KINDS):
    here = known & (store.findings >> bit & 1 == 1)
    found[kind]["first"] = store.clip_ids[here][:NAMED].tolist()
  return {"not_known": int((~known).sum())} | {
    kind.replace(" ", "_"): found[kind] for kind in KINDS
  }


def _rates(rates: np.ndarray | None) -> dict[str, int] | None:
  """Return the number of clips per sample rate of the file. Rate 0 stands for unknown."""
  if rates is None:
    return None
  return {str(rate): int(count) for rate, count in zip(*np.unique(rates, return_counts=True))}


def _contents(store: ClipStore) -> dict[str, Any]:
  """Return the silent, non-finite and duplicate clips, found by their stored log-mels."""
  silent, finite, hashes = _scanned(store)
  compared = np.flatnonzero(finite & ~silent)  # all silent clips are equal
  ordered = compared[np.argsort(hashes[compared], kind="stable")]
  starts = np.flatnonzero(np.diff(hashes[ordered], prepend=~hashes[ordered[:1]]) != 0)
  groups = [group for group in np.split(ordered, starts[1:]) if len(group) > 1]
  groups.sort(key=lambda group: group[0])
  across = [group for group in groups if len(set(store.folds[group])) > 1]

  def described(some: list[np.ndarray]) -> dict[str, Any]:
    named = [
      [{"id": str(store.clip_ids[i]), "fold": str(store.folds[i])} for i in group[:NAMED]]
      for group in some[:NAMED]
    ]
    return {"groups": len(some), "clips": sum(map(len, some)), "first": named}

  return {
    "silent": _some(store.clip_ids[silent].tolist()),
    "not_finite": _some(store.clip_ids[~finite].tolist()),
    "duplicates": described(groups),
    "duplicates_across_folds": described(across),
  }


def _scanned(store: ClipStore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Scan the log-mels of all clips.

  Digital silence is at the floor of the front end throughout. So its log-mel has only one value,
  which no other log-mel has.

  Returns:
    For each clip, whether its log-mel has only one value, bool[N]; whether it is finite, bool[N];
    and the first 64 bits of its hash, uint64[N].
  """
  silent, finite = np.zeros((2, len(store)), bool)
  hashes = np.zeros(len(store), np.uint64)
  row_bytes = math.prod(store.log_mel.shape[1:]) * store.log_mel.dtype.itemsize
  rows = max(1, CHUNK_BYTES // max(1, row_bytes))
  with tqdm(total=len(store), unit="clip", desc="reading", disable=None) as bar:
    for first in range(0, len(store), rows):
      part = slice(first, first + rows)
      chunk = store.log_mel[np.arange(len(store))[part]]
      # In a uint8 store, the peak of a log-mel that is not finite is not finite either.
      lowest, highest = chunk.min(axis=(1, 2)), chunk.max(axis=(1, 2))
      finite[part] = np.isfinite(store.peak_db[part]) & np.isfinite(lowest) & np.isfinite(highest)
      silent[part] = finite[part] & (lowest == highest)
      digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in chunk)
      hashes[part] = np.frombuffer(digests, np.uint64)
      bar.update(len(chunk))
  return silent, finite, hashes


def _some(names: list[str]) -> dict[str, Any]:
  """Return the number of names and the first of them."""
  return {"count": len(names), "first": names[:NAMED]}
