"""A listing to a clip store: all clips loaded, their log-mels stored, what failed reported."""

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
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.audio import frontend
from atgcn_jax.audio.findings import INCOMPLETE
from atgcn_jax.audio.quantisation import quantise
from atgcn_jax.data.layouts.listing import Clip, Listing, arrays_of, check_audio_folder, only
from atgcn_jax.data.store import unfinished
from atgcn_jax.data.store.clip_store import (
  FORMAT,
  OF_FILES,
  complete,
  report_store_write_failures,
  row_digest,
)
from atgcn_jax.data.store.findings_table import longer
from atgcn_jax.data.store.findings_table import rows as report_rows
from atgcn_jax.data.store.unfinished import Encoded
from atgcn_jax.data.store.worker_processes import in_processes
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.progress import counted

CHUNK = 16  # clips a worker takes at a time
RESUMES = "make room or choose another --out; the same command goes on with what is there"
BOOKKEEPING = 250  # bytes a clip of the journal and the small arrays
KILLED = "ends the process that reads it, by a fault of the decoder or for want of memory"
# What decoders raise on bad files.
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
  """What became of the clips: in the store, not there to begin with, and not to be read."""

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
  """Write the store of a listing, or resume where a process that was stopped left it.

  The store does not depend on how many workers write it, nor on when they were stopped. Clips that
  cannot be read are left out; they are listed in `partial.report_path(out)`. What is wrong with the
  sound of others is listed in `partial.findings_path(out)`.

  Args:
    dtype: `uint8` or `float16`.
    workers: processes; by default one a core.
    strict: leave out the sounds of which a part is missing too.
    wait: where another process writes the same store, whether to wait for it; a
      store that is there already is then left as it is.
  Raises:
    UserError: no clip can be read, their folder goes away, the store cannot be written, or is being
      written by another. What was done is kept for the next call.
  """
  out, clips = pathlib.Path(out), len(listing.clip_ids)
  shape, in_folder = (clips, settings.frames, settings.n_mels), os.path.isdir(listing.root)
  with report_store_write_failures(out, RESUMES):
    if out.is_dir():
      raise UserError(f"{out}: is a folder; name the store to write in it, such as store.h5")
    identity = _identity(listing, settings, dtype, strict)
    with unfinished.open_unfinished(out, identity, shape, dtype, wait=wait) as part:
      if wait and out.exists():
        shutil.rmtree(part.folder)
        return Built(clips, 0, 0)
      _warn_of_space(part, math.prod(shape[1:]) * np.dtype(dtype).itemsize, clips, out)
      starts = range(part.clips, clips, CHUNK)
      chunks = (listing.sources[start : start + CHUNK] for start in starts)
      work = functools.partial(_encoded_chunk, listing.load, listing.root, settings, dtype, strict)
      if starts:
        outcomes = in_processes(work, chunks, min(workers or cores(), len(starts)))
        # No worker outlives an error in the writing.
        with contextlib.closing(outcomes):
          told = counted(outcomes, total=clips, done=part.clips, what="preparing")
          for chunk in told:
            if in_folder and not all(isinstance(outcome, Encoded) for outcome in chunk):
              check_audio_folder(listing.root)  # or is it gone, as folders of other machines may be
            unfinished.append(part, [KILLED if outcome is None else outcome for outcome in chunk])
      if not part.rows:
        clip, reason = next(unfinished.failures(part))
        shutil.rmtree(part.folder)
        raise UserError(
          f"{os.path.join(listing.root, listing.sources[clip])}: {reason} "
          f"(the first of {clips} clips, of which none can be read)"
        )
      return _finish(part, out, listing, settings)


def cores() -> int:
  """The CPU cores that this process may use."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:  # not on every system
    return os.cpu_count() or 1


def _finish(
  part: unfinished.Partial, out: pathlib.Path, listing: Listing, settings: frontend.Frontend
) -> Built:
  journal = unfinished.read_journal(part)
  arrays = only(arrays_of(listing), journal.kept)
  arrays |= {name: getattr(journal, name) for name in ("peak_db", *OF_FILES)}
  complete(part.folder / unfinished.ROWS, arrays, listing.vocabulary, settings, journal.digests)
  failed = ((listing.sources[clip], reason) for clip, reason in unfinished.failures(part))
  lacking = itertools.chain(listing.absent, listing.unreadable, failed)
  findings = (
    row
    for clip, found in unfinished.found(part)
    for row in report_rows(found, listing.sources[clip])
  )
  unfinished.publish(part, out, lacking, findings)
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
  """The clips as they are stored, or why one cannot be read. Runs in a worker."""
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
  """A clip of a listing as it is stored, or why it cannot be read; see `Listing`.

  Args:
    strict: a clip of which a part is missing cannot be read.
  """
  try:
    clip = load(source)
    for finding in clip.findings or ():
      if strict and finding.kind == INCOMPLETE:
        fault = finding.detail.partition("; ")[0]
        return f"is cut short or damaged ({fault}); fetch or encode it again"
    return encoded(clip, settings, dtype)
  except MemoryError:
    return "needs more memory than there is"
  except BAD_CLIP as error:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix(f"{pathlib.Path(root) / source}: ")


def encoded(clip: Clip, settings: frontend.Frontend, dtype: str) -> Encoded:
  """A clip as it is stored: cut to the clip length, or padded with silence.

  Raises:
    ValueError: if its log-mel cannot be stored.
  """
  log_mel = clip.sound
  if log_mel.ndim == 1:
    cut = clip.sound[: settings.samples]
    padded = np.pad(cut, (0, settings.samples - len(cut)))
    log_mel = np.asarray(_jitted_log_mel(settings)(padded))
  rows, peaks = quantise(log_mel[None], dtype)
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
  """A hash of all that a store depends on, besides what its files hold."""
  digest = hashlib.sha256(json.dumps([FORMAT, asdict(settings), dtype]).encode())
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
  """Say in time that the disk will not do."""
  needed = (clip_bytes + BOOKKEEPING) * (clips - part.clips)
  free = shutil.disk_usage(part.folder).free
  if needed > free:
    warnings.warn(
      f"{out}: {needed / 1e6:.1f} MB are yet to be written, but {free / 1e6:.1f} MB are free",
      stacklevel=2,
    )
