"""Mixtures of real recordings whose labels co-occur according to given counts.

A folder of recordings with one sound each becomes a folder of 10 s scenes with several sounds. A
clip is a pure function of the recordings, a seed and a clip number.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from atgcn_jax.audio import sound_files
from atgcn_jax.data.layouts.label_list import LabelledFile, check_files, read_label_list
from atgcn_jax.data.synthetic import sound_folder
from atgcn_jax.data.synthetic.co_occurring import draw_together
from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import load_counts
from atgcn_jax.labels.sparse import Matrix
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

CLIP_SECONDS = 10.0
CLIPS = (0.0, 1 / 3, 1 / 3, 1 / 3)  # probabilities of 1, 2, 3, 4 recordings in a mixture
QUIETEST_DB = -10.0  # lowest gain of a recording in dB
LEVEL = 0.1  # root mean square of a recording at a gain of 0 dB
EVENTS = "events.csv"


class PlacedRecording(NamedTuple):
  """Recording in a mixture: file, onset in seconds, gain in dB."""

  filename: str
  onset: float
  gain_db: float


class Kind(NamedTuple):
  """Recordings of one fold that have the same labels."""

  labels: tuple[int, ...]
  filenames: tuple[str, ...]


def write_mixtures(
  audio: str | os.PathLike,
  labels: str | os.PathLike,
  vocabulary: str | os.PathLike,
  counts: str | os.PathLike,
  out: str | os.PathLike,
  *,
  counts_set: str | None = None,
  clips: int,
  seed: int,
  rate: int = 32_000,
) -> None:
  """Write mixtures of a folder of recordings, as input of `atgcn prepare`.

  The folds take turns: clip k belongs to fold k modulo the number of folds, and is mixed only from
  recordings of that fold. In addition to the files of `sound_folder.write_folder`, `events.csv`
  lists the recordings in each clip.

  Args:
    audio: Folder of the recordings.
    labels: CSV with the columns `filename`, `fold`, `positive_labels`.
    vocabulary: CSV with the columns `index`, `mid`, `display_name`. Labels that no recording has
      are left out.
    counts: .npz with `mids`, `occurrences_SET`, `cooccurrences_SET` of these labels.
    out: Folder to write.
    counts_set: SET, the name of the counts in the file.
    clips: Number of mixtures.
    seed: Seed of the mixtures.
    rate: Sample rate of the mixtures in Hz.

  Raises:
    UserError: If a file cannot be used.
  """
  audio = pathlib.Path(audio)
  listed = read_label_list(labels)
  check_files(audio, listed, labels)
  sound_folder.check_replaceable(out, clips, [EVENTS])
  known = read_vocabulary(vocabulary)
  rows = [known.indices(row.labels, where=f"{labels}: {row.filename}") for row in listed]
  used = sorted({k for row in rows for k in row})
  if not used:
    raise UserError(f"{labels}: no file has a label; add the labels of the recordings")
  small = Vocabulary(*(tuple(field[k] for k in used) for field in (known.ids, known.names)))
  indices = [tuple(sorted(np.searchsorted(used, row).tolist())) for row in rows]
  pairs = load_counts(counts, small, counts_set).cooccurrences
  kinds = kinds_by_fold(listed, indices)
  if bare := [name for name, group in kinds.items() if len(group) < 2]:
    raise UserError(f"{labels}: fold {bare[0]} has fewer than two kinds of sound to mix; add some")
  graphs = {fold: together(group, pairs) for fold, group in kinds.items()}
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(["filename", "source", "onset_s", "gain_db"])

  def rendered() -> Iterator[sound_folder.Recording]:
    for k, name in enumerate(sound_folder.clip_names(clips)):
      fold = list(kinds)[k % len(kinds)]
      rng = np.random.default_rng(np.random.SeedSequence((seed, k)))
      drawn = [kinds[fold][i] for i in draw_together(rng, graphs[fold], CLIPS)]
      clip, events = mix_recordings(
        audio, [str(rng.choice(kind.filenames)) for kind in drawn], rng, rate
      )
      writer.writerows((name, e.filename, f"{e.onset:.3f}", f"{e.gain_db:.2f}") for e in events)
      yield sound_folder.Recording(
        clip, fold, sorted({label for kind in drawn for label in kind.labels})
      )

  sound_folder.write_folder(
    out, rendered(), clips, rate=rate, vocabulary=small, others={EVENTS: table.getvalue}
  )


def kinds_by_fold(
  listed: list[LabelledFile], indices: list[tuple[int, ...]]
) -> dict[str, list[Kind]]:
  """Group the recordings that have labels by fold and then by labels, both sorted."""
  found: dict[str, dict[tuple[int, ...], list[str]]] = {}
  for row, labels in zip(listed, indices):
    if labels:
      found.setdefault(row.fold, {}).setdefault(labels, []).append(row.filename)
  return {
    fold: [Kind(labels, tuple(sorted(names))) for labels, names in sorted(groups.items())]
    for fold, groups in sorted(found.items())
  }


def together(kinds: list[Kind], cooccurrences: Matrix) -> np.ndarray:
  """Return the probabilities of the kinds that join a recording of kind i.

  The probability of a pair of kinds is proportional to the co-occurrences of their labels. Labels
  that both kinds have are not counted.

  Args:
    kinds: List of L kinds.
    cooccurrences: int[K, K], number of clips with both labels of a pair.

  Returns:
    float64[L, L]. Each row sums to 1 or is zero.
  """
  chances = np.zeros((len(kinds), len(kinds)))
  for i, one in enumerate(kinds):
    for j, other in enumerate(kinds):
      mine, theirs = set(one.labels) - set(other.labels), set(other.labels) - set(one.labels)
      if i != j and mine and theirs:
        chances[i, j] = cooccurrences[np.ix_(sorted(mine), sorted(theirs))].sum()
  totals = chances.sum(axis=1, keepdims=True)
  return chances / np.where(totals > 0, totals, 1)


def mix_recordings(
  audio: pathlib.Path, filenames: list[str], rng: np.random.Generator, rate: int
) -> tuple[np.ndarray, list[PlacedRecording]]:
  """Mix recordings at random gains and onsets.

  Args:
    audio: Folder of the recordings.
    filenames: Recordings to mix.
    rng: Random number generator.
    rate: Sample rate in Hz.

  Returns:
    The mixture, float32[S] in [-1, 1], and its events.
  """
  clip, events = np.zeros(int(rate * CLIP_SECONDS), np.float32), []
  for filename in filenames:
    sound, gain_db = recording(audio / filename, rate), rng.uniform(QUIETEST_DB, 0)
    start = int(rng.integers(len(clip) - len(sound) + 1))
    clip[start : start + len(sound)] += sound * np.float32(10 ** (gain_db / 20))
    events.append(PlacedRecording(filename, start / rate, gain_db))
  return clip / np.float32(max(1.0, float(np.abs(clip).max()) / 0.95)), events


@functools.lru_cache(maxsize=256)
def recording(path: pathlib.Path, rate: int) -> np.ndarray:
  """Load up to 10 s of a file at a sample rate, scaled to LEVEL. Silence stays silent."""
  sound = sound_files.load_waveform(path, rate)[: int(rate * CLIP_SECONDS)]
  return sound * np.float32(LEVEL / max(float(np.sqrt(np.mean(sound**2))), 1e-6))
