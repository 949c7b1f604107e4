"""Unfinished clip store: rows and a journal in a hidden folder, from which a build can resume.

The folder `.STORE.partial/` is next to the store. It contains `rows.h5` (the future store file,
with only the log-mels), `journal.jsonl` and a lock file. The first line of the journal identifies
the store that is being written. Each further line records the outcome of a chunk of clips. It is
written after the rows of the chunk, so every recorded row exists. An incomplete last line is
dropped. The rows and the journal contain everything that is needed to finish the store.
"""

from __future__ import annotations

import contextlib
import csv
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax import __version__
from atgcn_jax.audio.findings import Finding
from atgcn_jax.data.store.findings_table import COLUMNS, flags_of, missing_of
from atgcn_jax.data.store.store_writing import create_rows
from atgcn_jax.errors import UserError
from atgcn_jax.runtime import journal
from atgcn_jax.runtime.whole_files import write_at

ROWS, JOURNAL, LOCK = "rows.h5", "journal.jsonl", "lock"


class Encoded(NamedTuple):
  """Encoded clip: log-mel `row` [T, F], its `digest`, and the values of the small arrays."""

  row: np.ndarray
  digest: bytes
  peak_db: float
  seconds: float
  rate_hz: int
  findings: Sequence[Finding] | None


@dataclass
class Partial:
  """Open unfinished store.

  Attributes:
    folder: Folder of the unfinished store.
    rows_at: Byte offset of the first row in `rows.h5`.
    journal_size: Size of the journal in bytes.
    clips: Number of processed clips.
    rows: Number of processed clips that were written.
  """

  folder: pathlib.Path
  rows_at: int
  journal_size: int
  clips: int
  rows: int


class Journal(NamedTuple):
  """Outcome of N clips: `kept` bool[N], and the small arrays of the clips that are stored."""

  kept: np.ndarray
  peak_db: np.ndarray
  seconds: np.ndarray
  rate_hz: np.ndarray
  findings: np.ndarray
  missing_seconds: np.ndarray
  digests: bytes


def partial_folder(out: str | os.PathLike) -> pathlib.Path:
  """Return the folder of the unfinished store for `out`."""
  out = pathlib.Path(out)
  return out.with_name(f".{out.name}.partial")


@contextlib.contextmanager
def open_unfinished(
  out: str | os.PathLike, identity: str, shape: tuple[int, int, int], dtype: str, *, wait: bool
) -> Iterator[Partial]:
  """Open or create the unfinished store for `out`, and lock it while the context is active.

  Args:
    out: Path of the store.
    identity: Hash of the content to write.
    shape: Shape [N, T, F] of all log-mels.
    dtype: `uint8` or `float16`.
    wait: Whether to wait for another process that holds the lock, rather than raise an error.

  Yields:
    The unfinished store, with the state that an earlier process left.

  Raises:
    UserError: If another process holds the lock and `wait` is false, or the unfinished store has
      another identity or is of another version.
  """
  folder = partial_folder(out)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(journal.locked(folder / LOCK, wait=wait, make_folder=True))
    except journal.Busy:
      raise UserError(
        f"{out}: another process is writing it; wait for it to finish or choose another --out"
      ) from None
    first = next(journal.records(folder / JOURNAL), None)
    if first is None or not (folder / ROWS).is_file():
      rows_at = create_rows(folder / ROWS, shape, dtype)
      first = {
        "identity": identity,
        "version": __version__,  # another version may decode sounds in another way
        "rows_at": rows_at,
        "head": _head(folder, rows_at).hex(),
      }
      (folder / JOURNAL).write_bytes(journal.line(first))
    elif first["identity"] != identity:
      raise UserError(
        f"{folder}: contains an unfinished store of other files, labels or settings; "
        "continue with those or remove this folder"
      )
    elif first.get("version") != __version__:
      raise UserError(
        f"{folder}: contains an unfinished store of another version of atgcn_jax; continue with "
        "that version or remove this folder"
      )
    partial = Partial(folder, first["rows_at"], 0, 0, 0)
    for record in journal.records(folder / JOURNAL):
      partial.journal_size += record.pop("bytes")
      partial.clips += record.get("clips", 0)
      partial.rows += len(record.get("peak_db", ()))
    os.truncate(folder / JOURNAL, partial.journal_size)
    restore(partial, shape, dtype, bytes.fromhex(first["head"]))
    yield partial


def restore(partial: Partial, shape: tuple[int, int, int], dtype: str, head: bytes) -> None:
  """Remove what an interrupted `complete` may have added to the file of rows.

  Args:
    partial: The unfinished store.
    shape: Shape [N, T, F] of all log-mels.
    dtype: `uint8` or `float16`.
    head: Original bytes of the file before the first row.
  """
  size = partial.rows_at + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
  with open(partial.folder / ROWS, "rb+", buffering=0) as file:
    write_at(file.fileno(), head, 0)
    file.truncate(size)


def append(partial: Partial, outcomes: Sequence[Encoded | str]) -> None:
  """Append the outcomes of the next clips to the unfinished store.

  Args:
    partial: The unfinished store.
    outcomes: For each clip the encoded clip, or the reason why it cannot be read.
  """
  clips = [outcome for outcome in outcomes if isinstance(outcome, Encoded)]
  record: dict[str, Any] = {
    name: [getattr(clip, name) for clip in clips] for name in ("peak_db", "seconds", "rate_hz")
  }
  record |= {"clips": len(outcomes), "digests": b"".join(clip.digest for clip in clips).hex()}
  record["failed"] = {k: text for k, text in enumerate(outcomes) if isinstance(text, str)}
  # Most clips have no findings. They are omitted to keep the journal small.
  record["findings"] = {k: found for k, one in enumerate(clips) if (found := one.findings) != []}
  data, line = b"".join(clip.row.tobytes() for clip in clips), journal.line(record)
  if clips:
    with open(partial.folder / ROWS, "rb+", buffering=0) as file:
      write_at(file.fileno(), data, partial.rows_at + partial.rows * clips[0].row.nbytes)
  with open(partial.folder / JOURNAL, "rb+", buffering=0) as file:
    write_at(file.fileno(), line, partial.journal_size)
  partial.journal_size += len(line)
  partial.clips += len(outcomes)
  partial.rows += len(clips)


def read_journal(partial: Partial) -> Journal:
  """Read the journal into arrays."""
  kept = np.ones(partial.clips, bool)
  peaks, seconds = (np.empty(partial.rows, np.float32) for _ in range(2))
  rates, digests = np.empty(partial.rows, np.int32), bytearray()
  flags, missing = np.zeros(partial.rows, np.uint8), np.zeros(partial.rows, np.float32)
  clip = row = 0
  for record in _chunks(partial):
    kept[[clip + int(k) for k in record["failed"]]] = False
    rows = slice(row, row + len(record["peak_db"]))
    peaks[rows], seconds[rows] = record["peak_db"], record["seconds"]
    rates[rows] = record["rate_hz"]
    for k, findings in _findings(record):
      flags[row + k], missing[row + k] = flags_of(findings), missing_of(findings)
    digests += bytes.fromhex(record["digests"])
    clip, row = clip + record["clips"], rows.stop
  return Journal(kept, peaks, seconds, rates, flags, missing, bytes(digests))


def failures(partial: Partial) -> Iterator[tuple[int, str]]:
  """Yield (clip, reason) for each clip that could not be read."""
  clip = 0
  for record in _chunks(partial):
    yield from ((clip + int(k), reason) for k, reason in record["failed"].items())
    clip += record["clips"]


def found(partial: Partial) -> Iterator[tuple[int, list[Finding]]]:
  """Yield (clip, findings) for each clip that has findings."""
  clip = 0
  for record in _chunks(partial):
    rows = [k for k in range(record["clips"]) if str(k) not in record["failed"]]
    yield from ((clip + rows[k], findings) for k, findings in _findings(record) if findings)
    clip += record["clips"]


def _findings(record: dict[str, Any]) -> Iterator[tuple[int, list[Finding] | None]]:
  """Yield (row, findings) for the rows of a journal record; None for unknown findings."""
  rows = range(len(record["peak_db"]))
  for k, findings in record.get("findings", dict.fromkeys(rows)).items():
    yield int(k), findings and [Finding(*one) for one in findings]


def findings_path(out: str | os.PathLike) -> pathlib.Path:
  """Return the path of the CSV report on faults in the sound of the store at `out`."""
  out = pathlib.Path(out)
  return out.with_name(f"{out.name}.findings.csv")


def report_path(out: str | os.PathLike) -> pathlib.Path:
  """Return the path of the CSV report on files that are missing in the store at `out`."""
  out = pathlib.Path(out)
  return out.with_name(f"{out.name}.unreadable.csv")


def publish(
  partial: Partial,
  out: str | os.PathLike,
  lacking: Iterable[tuple[str, ...]],
  findings: Iterable[tuple[str, ...]],
) -> None:
  """Move the finished store and its reports to their final paths, and remove the folder.

  A report without rows is not written, and an old report at its path is removed.

  Args:
    partial: The unfinished store, completed.
    out: Path of the store.
    lacking: (file, reason) for each file that is not in the store.
    findings: Report rows for the stored clips, with the columns COLUMNS.
  """
  reports = (
    ("unreadable.csv", report_path(out), ("file", "reason"), lacking),
    ("findings.csv", findings_path(out), COLUMNS, findings),
  )
  written = [_write_report(partial.folder / name, head, rows) for name, _, head, rows in reports]
  with open(partial.folder / ROWS, "rb+") as file:
    os.fsync(file.fileno())
  for (name, place, _, _), any_row in zip(reports, written):
    if any_row:
      os.replace(partial.folder / name, place)
    else:
      place.unlink(missing_ok=True)
  os.replace(partial.folder / ROWS, out)
  shutil.rmtree(partial.folder)


def _write_report(path: pathlib.Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
  """Write a CSV file and return whether it has rows after the header."""
  with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
    writer = csv.writer(file, lineterminator="\n")
    size = writer.writerow(head)
    writer.writerows(rows)
    any_row = file.tell() > size
  with path.open("rb+") as file:
    os.fsync(file.fileno())
  return any_row


def _head(folder: pathlib.Path, size: int) -> bytes:
  with (folder / ROWS).open("rb") as file:
    return file.read(size)


def _chunks(partial: Partial) -> Iterator[dict[str, Any]]:
  records = journal.records(partial.folder / JOURNAL)
  next(records)
  return records
