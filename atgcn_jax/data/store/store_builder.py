"""Build a clip store from a listing: load all clips, store log-mels and report failures."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.audio import frontend
from atgcn_jax.audio.findings import INCOMPLETE
from atgcn_jax.audio.quantisation import quantise
from atgcn_jax.data.layouts.listing import Clip, Listing, arrays_of, check_audio_folder, only
from atgcn_jax.data.store import unfinished
from atgcn_jax.data.store.clip_store import FORMAT
from atgcn_jax.data.store.findings_table import longer
from atgcn_jax.data.store.findings_table import rows as report_rows
from atgcn_jax.data.store.finished import clips_if_finished
from atgcn_jax.data.store.schema import OF_FILES
from atgcn_jax.data.store.store_writing import complete, report_store_write_failures, row_digest
from atgcn_jax.data.store.unfinished import Encoded
from atgcn_jax.data.store.worker_processes import in_processes
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.progress import counted
from atgcn_jax.runtime.whole_files import check_regular

CHUNK = 16  # clips per chunk of a worker
RESUMES = "free space, then run the same command again to resume, or choose another --out"
BOOKKEEPING = 250  # bytes per clip in the journal and the small arrays
KILLED = "the process that reads it is killed, by a decoder error or for lack of memory"
# Exceptions that decoders raise for bad files.
BAD_CLIP = (
  UserError,
  OSError,
  ValueError,
  LookupError,
  ArithmeticError,
  RuntimeError,
  EOFError,
  struct.error,
)


class Built(NamedTuple):
  """Number of clips in the store, of absent clips and of unreadable clips."""

  clips: int
  absent: int
  unreadable: int


def build_store(
  out: str | os.PathLike,
  listing: Listing,
  settings: frontend.Frontend,
  dtype: str,
  *,
  workers: int | None = None,
  wait: bool = False,
  strict: bool = False,
) -> Built:
  """Write the store of a listing, or resume an interrupted build. A finished store is kept.

  The content of the store does not depend on the number of workers or on interruptions. Clips that
  cannot be read are left out and listed in `unfinished.report_path(out)`. Faults in the sound of
  stored clips are listed in `unfinished.findings_path(out)`.

  Args:
    out: Path of the store.
    listing: Clips to store.
    settings: Settings of the log-mels.
    dtype: `uint8` or `float16`.
    workers: Number of worker processes. Defaults to one per core.
    wait: Whether to wait if another process is writing the same store. A store that already
      exists is then accepted, whatever it was built from.
    strict: Whether to leave out sounds with a missing part too.

  Returns:
    The numbers of stored, absent and unreadable clips.

  Raises:
    UserError: If no clip can be read, the folder of the clips disappears, the store cannot be
      written, another file or store is at its path, or another process is writing it and `wait` is
      false. Finished work is saved for the next call unless no clip can be read.
  """
  out, clips = pathlib.Path(out), len(listing.clip_ids)
  shape, in_folder = (clips, settings.frames, settings.n_mels), os.path.isdir(listing.root)
  with report_store_write_failures(out, RESUMES):
    if out.is_dir():
      raise UserError(f"{out}: is a folder; give the path of a file, such as store.h5")
    check_regular(out)
    identity = _identity(listing, settings, dtype, strict)
    stored = None if wait else clips_if_finished(out, identity)
    # A kill after the store was renamed leaves a folder, which is removed below.
    if stored is not None and not unfinished.partial_folder(out).exists():
      return _kept(out, listing, stored)
    with unfinished.open_unfinished(out, identity, shape, dtype, wait=wait) as part:
      if out.exists():  # also if another process has finished it in the meantime
        shutil.rmtree(part.folder)
        stored = None if wait else clips_if_finished(out, identity)
        return Built(clips, 0, 0) if stored is None else _kept(out, listing, stored)
      _warn_of_space(part, math.prod(shape[1:]) * np.dtype(dtype).itemsize, clips, out)
      starts = range(part.clips, clips, CHUNK)
      chunks = (listing.sources[start : start + CHUNK] for start in starts)
      work = functools.partial(_encoded_chunk, listing.load, listing.root, settings, dtype, strict)
      if starts:
        outcomes = in_processes(work, chunks, min(workers or cores(), len(starts)))
        # Closing ends the workers if writing fails.
        with contextlib.closing(outcomes):
          for chunk in counted(outcomes, total=clips, done=part.clips, what="preparing"):
            if in_folder and not all(isinstance(outcome, Encoded) for outcome in chunk):
              # A network folder may have disappeared. Its clips must not count as unreadable.
              check_audio_folder(listing.root)
            unfinished.append(part, [KILLED if outcome is None else outcome for outcome in chunk])
      if not part.rows:
        clip, reason = next(unfinished.failures(part))
        shutil.rmtree(part.folder)
        raise UserError(
          f"{os.path.join(listing.root, (listing.shown or listing.sources)[clip])}: {reason} "
          f"(first of {clips} clips; none of them can be read)"
        )
      return _finish(part, out, listing, settings, identity)


def _kept(out: pathlib.Path, listing: Listing, stored: int) -> Built:
  """Warn that a store of the same listing is finished, and return its numbers."""
  warnings.warn(
    f"{out}: is complete already and was left unchanged; to read its sounds again, remove it",
    stacklevel=3,
  )
  unreadable = len(listing.clip_ids) - stored + len(listing.unreadable)
  return Built(stored, len(listing.absent), unreadable)


def cores() -> int:
  """Return the number of CPU cores that this process may use."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:  # Not every system has sched_getaffinity.
    return os.cpu_count() or 1


def _finish(
  part: unfinished.Partial,
  out: pathlib.Path,
  listing: Listing,
  settings: frontend.Frontend,
  identity: str,
) -> Built:
  journal = unfinished.read_journal(part)
  arrays = only(arrays_of(listing), journal.kept)
  arrays |= {name: getattr(journal, name) for name in ("peak_db", *OF_FILES)}
  rows = part.folder / unfinished.ROWS
  complete(rows, arrays, listing.vocabulary, settings, journal.digests, identity)
  shown = listing.shown or listing.sources
  failed = ((shown[clip], reason) for clip, reason in unfinished.failures(part))
  missing = itertools.chain(listing.absent, listing.unreadable, failed)
  findings = (
    row for clip, found in unfinished.found(part) for row in report_rows(found, shown[clip])
  )
  unfinished.publish(part, out, missing, findings)
  bad = part.clips - part.rows + len(listing.unreadable)
  return Built(part.rows, len(listing.absent), bad)


def _encoded_chunk(
  load: Callable[[str], Clip],
  root: str,
  settings: frontend.Frontend,
  dtype: str,
  strict: bool,
  sources: Sequence[str],
) -> list[Encoded | str]:
  """Return `outcome` for each source of a chunk. Runs in a worker process."""
  return [outcome(load, root, settings, dtype, source, strict=strict) for source in sources]


def outcome(
  load: Callable[[str], Clip],
  root: str,
  settings: frontend.Frontend,
  dtype: str,
  source: str,
  *,
  strict: bool = False,
) -> Encoded | str:
  """Load and encode one clip of a listing.

  Args:
    load: `Listing.load`.
    root: `Listing.root`, removed from the start of error messages.
    settings: Settings of the log-mels.
    dtype: `uint8` or `float16`.
    source: One of `Listing.sources`.
    strict: Whether a clip with a missing part counts as unreadable.

  Returns:
    The encoded clip, or the reason why the clip cannot be read.
  """
  try:
    clip = load(source)
    for finding in clip.findings or ():
      if strict and finding.kind == INCOMPLETE:
        fault = finding.detail.partition("; ")[0]
        return f"is cut short or damaged ({fault}); fetch or encode it again"
    return encoded(clip, settings, dtype)
  except MemoryError:
    return "needs more memory than is available"
  except BAD_CLIP as error:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix(f"{pathlib.Path(root) / source}: ")


def encoded(clip: Clip, settings: frontend.Frontend, dtype: str) -> Encoded:
  """Encode a clip for the store. A waveform is cut to the clip length or padded with silence.

  Embeddings are stored as they are.

  Raises:
    ValueError: If the log-mel cannot be stored.
  """
  log_mel = clip.sound
  if log_mel.ndim == 1:
    cut = clip.sound[: settings.samples]
    padded = np.pad(cut, (0, settings.samples - len(cut)))
    log_mel = np.asarray(_jitted_log_mel(settings)(padded))
  if settings.value_limit is None:
    rows, peaks = quantise(log_mel[None], dtype)
  else:
    rows, peaks = log_mel[None], np.array([settings.value_limit], np.float32)
  digest = row_digest(rows[0].tobytes())
  findings = clip.findings
  if findings is not None:
    findings = [*findings, *longer(clip.seconds, settings)]
  return Encoded(rows[0], digest, float(peaks[0]), clip.seconds, clip.rate_hz, findings)


@functools.cache
def _jitted_log_mel(settings: frontend.Frontend) -> Callable[[np.ndarray], Any]:
  import jax

  return jax.jit(functools.partial(frontend.log_mel, frontend=settings))


def _identity(listing: Listing, settings: frontend.Frontend, dtype: str, strict: bool) -> str:
  """Return a hash of everything a store depends on except the content of the source files."""
  digest = hashlib.sha256(json.dumps([FORMAT, settings.as_json(), dtype]).encode())
  vocabulary = listing.vocabulary
  for texts in (vocabulary.ids, vocabulary.names, listing.clip_ids, listing.folds, listing.sources):
    for text in texts:
      digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(b"\n")
  for array in (listing.label_offsets, listing.label_indices, listing.normaliser):
    digest.update(b"" if array is None else array.tobytes())
  root = os.path.realpath(listing.root) if os.path.isdir(listing.root) else listing.root
  digest.update(root.encode("utf-8", "surrogateescape"))
  digest.update(b"strict" if strict else b"")
  return digest.hexdigest()


def _warn_of_space(
  part: unfinished.Partial, clip_bytes: int, clips: int, out: pathlib.Path
) -> None:
  """Warn before writing if the disk has too little free space."""
  needed = (clip_bytes + BOOKKEEPING) * (clips - part.clips)
  free = shutil.disk_usage(part.folder).free
  if needed > free:
    warnings.warn(
      f"{out}: {needed / 1e6:.1f} MB must be written, but only {free / 1e6:.1f} MB are free",
      stacklevel=2,
    )
