"""Embeddings of many files, for `atgcn embed`, the reader of its files, and those of stores."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.npz import npz_arrays
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import whole_file
from atgcn_jax.serving.many_files import finish_files, output_of
from atgcn_jax.serving.sound_scorer import Outcome
from atgcn_jax.serving.sources import spread
from atgcn_jax.serving.tagger import Tagger


class Embedded(NamedTuple):
  """Embeddings of N files, or of N windows of files.

  Attributes:
    embedding: float32[N, C].
    file: str[N].
    start_s: float64[N], the start of each window in seconds. None for files.
    end_s: float64[N], the end of each window in seconds. None for files.
    checkpoint: `Tagger.checkpoint`. Empty if unknown.
  """

  embedding: np.ndarray
  file: np.ndarray
  start_s: np.ndarray | None = None
  end_s: np.ndarray | None = None
  checkpoint: str = ""


def embed_files(
  tagger: Tagger,
  files: Sequence[str],
  out: str,
  *,
  windows: bool = False,
  hop_seconds: float | None = None,
) -> tuple[int, list[Exception]]:
  """Write the embeddings of sound files to an .npz file with the fields of `Embedded`.

  Args:
    tagger: The tagger.
    files: The files and folders.
    out: The .npz file to write. It is written atomically. Embeddings of finished files are stored,
      so that the same call continues after an interruption (see `partial_results`).
    windows: Whether to embed each window of a file instead of the complete file.
    hop_seconds: The hop between windows, see `Tagger.timeline`.

  Returns:
    The number of embedded files, and the errors of the files that could not be used.

  Raises:
    UserError, WorkFailed: If none of the files could be used. This is the last error, and nothing
      is written.
  """
  sounds, bad = spread(files)

  def finished(outcome: Outcome) -> tuple[bytes, str]:
    value = outcome.value
    parts = value if windows else (np.zeros(0), np.zeros(0), value[None])
    buffer = io.BytesIO()
    for part, dtype in zip(parts, (np.float64, np.float64, np.float32)):
      np.save(buffer, part.astype(dtype))
    return buffer.getvalue(), ""

  def outcomes(files: Sequence[str], alone: bool) -> Iterator[Outcome]:
    if windows:
      return tagger.window_embeddings(files, hop_seconds=hop_seconds, alone=alone)
    return tagger.embeddings(files, alone=alone)

  options = {"--strict": tagger.strict, "--windows": windows, "--hop-seconds": hop_seconds}
  with output_of("embed", "--out", out, options | tagger.identity(), sounds) as part:
    bad, contents = finish_files("embed", part, sounds, bad, outcomes, finished)
    names, parts = zip(*((name, _arrays(content)) for name, content in contents))
    starts, ends, vectors = (np.concatenate(column) for column in zip(*parts))
    counts = [len(embeddings) for _, _, embeddings in parts]
    embedded = Embedded(vectors, np.repeat(names, counts), starts, ends, tagger.checkpoint())
    if not windows:
      embedded = embedded._replace(start_s=None, end_s=None)
    write_embedded(out, embedded)
  return len(names), bad


def embed_store(tagger: Tagger, path: str | os.PathLike) -> Embedded:
  """Return the embeddings of the clips of a store, whose ids are the names of the files.

  Raises:
    UserError, WorkFailed: See `open_clips` and `Tagger.embed_clips`.
  """
  store = open_clips(path)
  names = np.array(store.clip_ids, str)
  return Embedded(tagger.embed_clips(store), names, checkpoint=tagger.checkpoint())


def _arrays(content: bytes) -> list[np.ndarray]:
  """Return the starts, ends and embeddings of one file."""
  buffer = io.BytesIO(content)
  return [np.load(buffer, allow_pickle=False) for _ in range(3)]


def write_embedded(path: str | os.PathLike, embedded: Embedded) -> None:
  """Write embeddings to an .npz file, atomically."""
  # np.savez cannot write an array named `file`, which is one of its own parameters.
  with whole_file(path_of(path)) as file, zipfile.ZipFile(file, "w") as archive:
    for name, array in embedded._asdict().items():
      if array is not None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
          np.lib.format.write_array(member, np.asanyarray(array))


def read_embedded(path: str | os.PathLike) -> Embedded:
  """Return the embeddings in an .npz file of `atgcn embed`.

  Raises:
    UserError: The file cannot be read, or has other content.
  """
  try:
    with path_of(path).open("rb") as file:
      arrays = npz_arrays(file)
    if missing := {"embedding", "file"} - arrays.keys():
      raise ValueError(f"it has no array {', '.join(sorted(missing))}")
    start_s, end_s = times = arrays.get("start_s"), arrays.get("end_s")
    embedding, names = arrays["embedding"], arrays["file"]
    if embedding.dtype.kind != "f" or embedding.ndim != 2 or not embedding.size:
      raise ValueError("embedding is not float[N, C]")
    if names.dtype.kind != "U" or names.shape != embedding.shape[:1]:
      raise ValueError("file is not one text per embedding")
    if (start_s is None) != (end_s is None) or any(
      one is not None and (one.dtype.kind != "f" or one.shape != names.shape) for one in times
    ):
      raise ValueError("start_s and end_s are not one number per embedding")
    if not all(np.isfinite(one).all() for one in (embedding, *times) if one is not None):
      raise ValueError("a value is NaN or infinite")
    checkpoint = str(arrays.get("checkpoint", ""))
  except (OSError, ValueError) as error:
    text = getattr(error, "strerror", None) or reason(error)
    raise UserError(
      f"{os.fspath(path)}: cannot be read as embeddings ({text}); name a file of `atgcn embed`"
    ) from error
  return Embedded(embedding.astype(np.float32), names, start_s, end_s, checkpoint)
