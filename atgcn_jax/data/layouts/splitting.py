"""Split of a listing into the folds train, validation and test, by groups of clips."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
import os
import re
import warnings

import numpy as np

from atgcn_jax.audio.inputs import one_line
from atgcn_jax.data.layouts.listing import SHOWN, Listing
from atgcn_jax.errors import UserError

PARTS = ("train", "validation", "test")
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)(?!\d)")


def parsed_shares(text: str) -> np.ndarray:
  """Return the shares of PARTS, float64[3] with the sum 1, of an option such as `80/10/10`.

  Raises:
    UserError: If the text is not three numbers above 0 with the sum 100.
  """
  try:
    shares = np.array([float(part) for part in text.split("/")])
  except ValueError:
    shares = np.zeros(0)
  if shares.shape != (3,) or not (shares > 0).all() or abs(shares.sum() - 100) > 1e-6:
    raise UserError(
      f"--split {text}: write the percentages of train, validation and test, such as 80/10/10"
    )
  return shares / 100


def with_split(listing: Listing, split: str, by: str = "", *, stratify: bool = False) -> Listing:
  """Return the listing with the folds of a split in place of its own.

  All clips of a group are in one fold. By default the fold of a group depends only on a hash of
  its name, so it never changes when clips are added or removed. With `stratify`, each label is
  split in the same proportions as far as possible; then the fold also depends on the other clips.

  Args:
    listing: The clips.
    split: Percentages of train, validation and test, such as `80/10/10`.
    by: `folder` (the folder of the file), `date` (the last date in its path), the name of a column
      that `listing.groups` holds, or empty. If empty, the groups are those of the listing, or each
      clip is one.
    stratify: Whether to stratify the split by label.

  Raises:
    UserError: If a file has no date, or a fold gets no clip.
  """
  shares = parsed_shares(split)
  names = _groups(listing, by)
  groups, group_of = np.unique(names, return_inverse=True)
  hashes = np.array([_hash(name) for name in groups.tolist()])
  if stratify:
    part_of = _stratified(listing, group_of, np.argsort(hashes, kind="stable"), shares)
  else:
    part_of = np.searchsorted(np.cumsum(shares)[:-1], hashes, side="right")
  parts = part_of[group_of]
  clips = np.bincount(parts, minlength=len(PARTS))
  if not clips.all():
    raise UserError(
      f"--split {split}: {PARTS[int(np.argmin(clips))]} gets no clip of {len(groups)} groups; "
      f"{'give more groups' if stratify else 'add --stratify, or give more groups'}"
    )
  _warn_of_lacking_labels(listing, parts, split, stratify)
  return dataclasses.replace(listing, folds=[PARTS[part] for part in parts.tolist()])


def _groups(listing: Listing, by: str) -> np.ndarray:
  """Return the name of the group of each clip, str[N]."""
  if by == "folder":
    found = [os.path.dirname(os.path.normpath(source)) for source in listing.sources]
  elif by == "date":
    found = [_date(source) for source in listing.sources]
  else:
    found = [os.path.normpath(name) for name in listing.groups or listing.clip_ids]
  return np.array(found, object).astype(str)


def _date(path: str) -> str:
  """Return the last date in a path, as YYYY-MM-DD.

  Raises:
    UserError: If there is none.
  """
  for match in reversed([*_DATE.finditer(path)]):
    try:
      return datetime.date(int(match[1]), int(match[3]), int(match[4])).isoformat()
    except ValueError:
      continue
  raise UserError(
    f"--split-by date: {one_line(path)} has no date such as 20240131 or 2024-01-31 in its name; "
    "add it, or split by folder or a column"
  )


def _hash(name: str) -> float:
  """Return a number from 0 to 1, uniform over names."""
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
  return int.from_bytes(digest, "big") / 2**64


def _stratified(
  listing: Listing, group_of: np.ndarray, order: np.ndarray, shares: np.ndarray
) -> np.ndarray:
  """Return the part of each group by iterative stratification, int64[G].

  Labels are visited from the fewest groups that are left to the most. Each group of a label goes to
  the part that lacks most clips of the label, and among equals to the part that lacks most clips.

  Args:
    listing: The clips.
    group_of: int64[N], group of each clip.
    order: int64[G], order in which groups of equal size are visited.
    shares: float64[3], shares of the parts.

  Source:
    K. Sechidis, G. Tsoumakas, I. Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD
    2011.
  """
  sizes, labels = np.bincount(group_of), len(listing.vocabulary)
  owners = np.repeat(group_of, np.diff(listing.label_offsets))
  pairs, counts = np.unique(owners * labels + listing.label_indices, return_counts=True)
  groups_with: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
  labels_with: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
  for pair, count in zip(pairs.tolist(), counts.tolist()):
    group, label = divmod(pair, labels)
    groups_with[label].append((group, count))
    labels_with[group].append((label, count))
  rank = np.argsort(order)
  lacking = np.outer(shares, np.bincount(listing.label_indices, minlength=labels))
  lacking_clips = shares * len(group_of)
  part_of = np.full(len(sizes), -1)

  def place(group: int, lacks: np.ndarray) -> None:
    nearly = lacks.round(6).tolist()  # sums of shares are rounded
    part = max(range(len(PARTS)), key=lambda k: (nearly[k], lacking_clips[k]))
    part_of[group] = part
    lacking_clips[part] -= sizes[group]
    for label, count in labels_with[group]:
      lacking[part, label] -= count
      left[label] -= 1

  left = {label: len(those) for label, those in groups_with.items()}
  while left:
    label = min(left, key=lambda k: (left[k], k))
    for group, _ in sorted(groups_with[label], key=lambda one: (-one[1], rank[one[0]])):
      if part_of[group] < 0:
        place(group, lacking[:, label])
    del left[label]
    left = {k: count for k, count in left.items() if count}
  for group in order.tolist():
    if part_of[group] < 0:
      place(group, lacking_clips)
  return part_of


def _warn_of_lacking_labels(
  listing: Listing, parts: np.ndarray, split: str, stratify: bool
) -> None:
  """Warn of labels that have no clip in a part."""
  owners = np.repeat(parts, np.diff(listing.label_offsets))
  names, used = listing.vocabulary.names, np.unique(listing.label_indices)
  for k, part in enumerate(PARTS):
    if len(lacking := np.setdiff1d(used, listing.label_indices[owners == k])):
      shown = ", ".join(names[label] for label in lacking[:SHOWN].tolist())
      advice = "add recordings" if stratify else "add --stratify or recordings"
      warnings.warn(
        f"--split {split}: {part} has no clip of {len(lacking)} of {len(used)} labels, such as "
        f"{shown}; {advice}",
        stacklevel=3,
      )
