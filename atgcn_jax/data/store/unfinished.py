"""A clip store on the way: rows and a journal in a hidden folder beside it, to go on from.

`.STORE.partial/` holds `rows.h5` (the store's own file, as yet with its log-mels alone), the
`journal.jsonl` and a lock. The journal's first line says what is being written, each further one
what became of a chunk of clips, and is written after the chunk's rows: what it tells is there. A
last line cut short is dropped. The journal is all that finishing needs besides the rows.
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

from atgcn_jax.audio.findings import Finding
from atgcn_jax.data.store.clip_store import create_rows, write_at
from atgcn_jax.data.store.findings_table import COLUMNS, flags_of, missing_of
from atgcn_jax.errors import UserError
from atgcn_jax.runtime import journal

ROWS, JOURNAL, LOCK = "rows.h5", "journal.jsonl", "lock"


class Encoded(NamedTuple):
  """A clip as it is stored: `row` [T, F], `digest` of it, and what the small arrays hold."""

  row: np.ndarray
  digest: bytes
  peak_db: float
  seconds: float
  rate_hz: int
  findings: Sequence[Finding] | None


@dataclass
class Partial:
  """An open partial store: `clips` were dealt with, `rows` of them are written."""

  folder: pathlib.Path
  rows_at: int
  journal_size: int
  clips: int
  rows: int


class Journal(NamedTuple):
  """What became of N clips: `kept` bool[N]; the arrays of those kept; why others failed."""

  kept: np.ndarray
  peak_db: np.ndarray
  seconds: np.ndarray
  rate_hz: np.ndarray
  findings: np.ndarray
  missing_seconds: np.ndarray
  digests: bytes


def partial_folder(out: str | os.PathLike) -> pathlib.Path:
  """Where the store at `out` is while it is being written."""
  out = pathlib.Path(out)
  return out.with_name(f".{out.name}.partial")


@contextlib.contextmanager
def open_unfinished(
  out: str | os.PathLike, identity: str, shape: tuple[int, int, int], dtype: str, *, wait: bool
) -> Iterator[Partial]:
  """The partial store for `out`, as an earlier process left it or new, held by this one alone.

  Args:
    identity: a hash of what is to be written.
    shape: of all log-mels, [N, T, F].
    wait: whether to wait for another process that holds it, or to refuse.
  Raises:
    UserError: another process holds it, or it was begun with another identity.
  """
  folder = partial_folder(out)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(journal.locked(folder / LOCK, wait=wait, make_folder=True))
    except journal.Busy:
      raise UserError(
        f"{out}: another process is writing it; wait for that one or choose another --out"
      ) from None
    first = next(journal.records(folder / JOURNAL), None)
    if first is None or not (folder / ROWS).is_file():
      rows_at = create_rows(folder / ROWS, shape, dtype)
      first = {"identity": identity, "rows_at": rows_at, "head": _head(folder, rows_at).hex()}
      (folder / JOURNAL).write_bytes(journal.line(first))
    elif first["identity"] != identity:
      raise UserError(
        f"{folder}: holds a store begun with other files, labels or settings; "
        "go on with those or remove this folder"
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
  """Undo what an interrupted finish may have added to the file of rows."""
  size = partial.rows_at + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
  with open(partial.folder / ROWS, "rb+", buffering=0) as file:
    write_at(file.fileno(), head, 0)
    file.truncate(size)


def append(partial: Partial, outcomes: Sequence[Encoded | str]) -> None:
  """Write what became of the next clips: rows, or why there is none."""
  kept = [outcome for outcome in outcomes if isinstance(outcome, Encoded)]
  record: dict[str, Any] = {
    name: [getattr(outcome, name) for outcome in kept] for name in ("peak_db", "seconds", "rate_hz")
  }
  record |= {"clips": len(outcomes), "digests": b"".join(outcome.digest for outcome in kept).hex()}
  record["failed"] = {k: text for k, text in enumerate(outcomes) if isinstance(text, str)}
  # Of most clips there is nothing to say.
  record["findings"] = {k: found for k, one in enumerate(kept) if (found := one.findings) != []}
  data, line = b"".join(outcome.row.tobytes() for outcome in kept), journal.line(record)
  if kept:
    with open(partial.folder / ROWS, "rb+", buffering=0) as file:
      write_at(file.fileno(), data, partial.rows_at + partial.rows * kept[0].row.nbytes)
  with open(partial.folder / JOURNAL, "rb+", buffering=0) as file:
    write_at(file.fileno(), line, partial.journal_size)
  partial.journal_size += len(line)
  partial.clips += len(outcomes)
  partial.rows += len(kept)


def read_journal(partial: Partial) -> Journal:
  """All that the journal says of the clips that are in the store."""
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
  """The clips that could not be read, and why."""
  clip = 0
  for record in _chunks(partial):
    yield from ((clip + int(k), reason) for k, reason in record["failed"].items())
    clip += record["clips"]


def found(partial: Partial) -> Iterator[tuple[int, list[Finding]]]:
  """The clips with findings, and these."""
  clip = 0
  for record in _chunks(partial):
    rows = [k for k in range(record["clips"]) if str(k) not in record["failed"]]
    yield from ((clip + rows[k], findings) for k, findings in _findings(record) if findings)
    clip += record["clips"]


def _findings(record: dict[str, Any]) -> Iterator[tuple[int, list[Finding] | None]]:
  """Rows of a record of the journal with findings, None where they are not known."""
  rows = range(len(record["peak_db"]))
  for k, findings in record.get("findings", dict.fromkeys(rows)).items():
    yield int(k), findings and [Finding(*one) for one in findings]


def findings_path(out: str | os.PathLike) -> pathlib.Path:
  """Where is listed what is wrong with the sound in the store at `out`."""
  out = pathlib.Path(out)
  return out.with_name(f"{out.name}.findings.csv")


def report_path(out: str | os.PathLike) -> pathlib.Path:
  """Where the files are listed that the store at `out` lacks."""
  out = pathlib.Path(out)
  return out.with_name(f"{out.name}.unreadable.csv")


def publish(
  partial: Partial,
  out: str | os.PathLike,
  lacking: Iterable[tuple[str, ...]],
  findings: Iterable[tuple[str, ...]],
) -> None:
  """Put the whole store and its reports where they belong, and remove the folder.

  Args:
    lacking: the files that are not in the store, and why; without any there is no report.
    findings: rows of what is wrong with those that are in it; without any there is no report.
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
  """Write a CSV file; returns whether it has a row besides the head."""
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
