"""Audio faults of a store: flags stored with each clip, and counts for reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from atgcn_jax.audio.findings import INCOMPLETE, KINDS, Finding
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import counted

LONGER, SHORTER = "longer", "shorter"
COLUMNS = ("file", "finding", "seconds", "detail")
LEAST_REST = 0.01  # share of a clip; a shorter rest is no finding, such as 1 ms of 5.001 s
NOT_KNOWN = 255  # stored instead of flags for clips whose sound was not checked


def flags_of(findings: Iterable[Finding] | None) -> int:
  """Return a bit mask with one bit for each of KINDS in `findings`; NOT_KNOWN for None."""
  if findings is None:
    return NOT_KNOWN
  return sum({1 << KINDS.index(one.kind) for one in findings if one.kind in KINDS})


def missing_of(findings: Iterable[Finding] | None) -> float:
  """Return the missing length of a sound in seconds: NaN if it is unknown, 0 without findings."""
  return sum(one.seconds for one in findings or () if one.kind == INCOMPLETE)


def is_longer(seconds: Any, frontend: Frontend) -> Any:
  """Return whether sounds are longer than a clip by at least `LEAST_REST` of its length.

  Args:
    seconds: Length or array of lengths.
    frontend: Defines the clip length and the sample rate.
  """
  half_a_sample = 0.5 / frontend.sample_rate  # lengths are whole samples, stored as float32
  return seconds > (1 + LEAST_REST) * frontend.seconds - half_a_sample


def longer(seconds: float, frontend: Frontend) -> list[Finding]:
  """Return the finding for a sound that is longer than a clip; an empty list if it is not.

  Only the first clip length of such a sound is used.
  """
  if not is_longer(seconds, frontend):
    return []
  rest = seconds - frontend.seconds
  text = f"{seconds:.3f} s long; the last {rest:.3f} s ({rest / seconds:.1%}) are not used"
  return [Finding(LONGER, text, rest)]


def counts(store: ClipStore) -> dict[str, dict[str, Any]]:
  """Return the number of clips of a store with each kind of finding.

  Returns:
    A dict from kind to its counts. Every kind has `clips`. LONGER and INCOMPLETE also have
    `seconds`, the length of the sound that is not used. INCOMPLETE also has `seconds_not_known`,
    the number of clips for which that length is unknown. Kinds that the store has no data for are
    omitted.
  """
  found: dict[str, dict[str, Any]] = {}
  if store.seconds is not None:
    known = store.seconds[np.isfinite(store.seconds)].astype(np.float64)
    long = known[is_longer(known, store.frontend)]
    short = known < store.frontend.seconds - 0.5 / store.frontend.sample_rate
    rest = float((long - store.frontend.seconds).sum())
    found[LONGER] = {"clips": len(long), "seconds": round(rest, 3)}
    found[SHORTER] = {"clips": int(short.sum())}
  if store.findings is not None:
    flags = np.where(store.findings == NOT_KNOWN, 0, store.findings)
    for bit, kind in enumerate(KINDS):
      found[kind] = {"clips": int((flags >> bit & 1).sum())}
  if store.missing_seconds is not None and INCOMPLETE in found:
    known = np.isfinite(store.missing_seconds)
    missing = float(store.missing_seconds[known].sum(dtype=np.float64))
    found[INCOMPLETE] |= {"seconds": round(missing, 3), "seconds_not_known": int((~known).sum())}
  return found


def summary(store: ClipStore, longer_hint: str = "") -> list[str]:
  """Return one line of text for each kind of finding in a store.

  Args:
    store: The store.
    longer_hint: Text that is appended to the line about longer sounds.
  """
  found = {kind: one for kind, one in counts(store).items() if one["clips"]}
  clip = f"a clip of {store.frontend.seconds:g} s"
  seconds = store.seconds if store.seconds is not None else np.zeros(0)
  lines = []
  for kind, one in found.items():
    sounds = f"of {len(store)} sounds"
    text = f"{counted(one['clips'], f'{sounds} is', f'{sounds} are')} {kind}"
    if kind == LONGER:
      share = one["seconds"] / float(np.nansum(seconds, dtype=np.float64))
      text += f" than {clip}: {one['seconds']:.3f} s ({share:.1%} of all) are not used{longer_hint}"
    elif kind == SHORTER:
      filled = "silence" if store.frontend.value_limit is None else "repeated embeddings"
      text += f" than {clip} and padded with {filled}"
    elif kind == INCOMPLETE and "seconds" in one:
      text += f": {one['seconds']:.3f} s are missing"
      text += f" (unknown for {n} of them)" if (n := one["seconds_not_known"]) else ""
    lines.append(text)
  return lines


def rows(findings: Sequence[Finding], name: str) -> list[tuple[str, str, str, str]]:
  """Return the report rows (columns COLUMNS) for the findings of one sound."""
  return [
    (name, one.kind, "" if math.isnan(one.seconds) else f"{one.seconds:.3f}", one.detail)
    for one in findings
  ]
