"""ESC-50 and ESC-10 in their published layout, with AudioSet labels."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterator

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import Listing, Row, check_audio_folder, load_file, make_listing
from atgcn_jax.errors import UserError, printable
from atgcn_jax.labels.label_files import SHOWN, text_lines
from atgcn_jax.labels.ontology import Ontology, ancestors
from atgcn_jax.labels.vocabulary import Vocabulary

COLUMNS = ("filename", "fold", "category", "esc10")

# The nearest AudioSet label of each category. AudioSet has no label for a washing machine (mapped
# to mechanisms), opening a can (mapped to burst) or drinking (mapped to liquid).
LABELS = {
  "dog": "/m/05tny_",
  "rooster": "/m/07qn5dc",
  "pig": "/t/dd00018",
  "cow": "/m/07rpkh9",
  "frog": "/m/07st88b",
  "cat": "/m/07qrkrw",
  "hen": "/m/07st89h",
  "insects": "/m/03vt0",
  "sheep": "/m/07bgp",
  "crow": "/m/07r5c2p",
  "rain": "/m/06mb1",
  "sea_waves": "/m/034srq",
  "crackling_fire": "/m/07pzfmf",
  "crickets": "/m/09xqv",
  "chirping_birds": "/m/07pggtn",
  "water_drops": "/m/07r5v4s",
  "wind": "/m/03m9d0z",
  "pouring_water": "/m/07prgkl",
  "toilet_flush": "/m/01jt3m",
  "thunderstorm": "/m/0jb2l",
  "crying_baby": "/t/dd00002",
  "sneezing": "/m/01hsr_",
  "clapping": "/m/0l15bq",
  "breathing": "/m/0lyf6",
  "coughing": "/m/01b_21",
  "footsteps": "/m/07pbtc8",
  "laughing": "/m/01j3sz",
  "brushing_teeth": "/m/012xff",
  "snoring": "/m/01d3sd",
  "drinking_sipping": "/m/04k94",
  "door_wood_knock": "/m/07r4wb8",
  "mouse_click": "/m/07qc9xj",
  "keyboard_typing": "/m/01m2v",
  "door_wood_creaks": "/m/07qh7jl",
  "can_opening": "/m/07qsvvw",
  "washing_machine": "/t/dd00077",
  "vacuum_cleaner": "/m/0d31p",
  "clock_alarm": "/m/046dlr",
  "clock_tick": "/m/07qjznl",
  "glass_breaking": "/m/07rn7sz",
  "helicopter": "/m/09ct_",
  "chainsaw": "/m/01j4z9",
  "siren": "/m/03kmc9",
  "car_horn": "/m/0912c9",
  "engine": "/m/02mk9",
  "train": "/m/07jdr",
  "church_bells": "/m/03w41f",
  "airplane": "/m/0cmf2",
  "fireworks": "/m/0g6b5",
  "hand_saw": "/m/01b82r",
}


def list_esc50(
  audio: str | os.PathLike,
  settings: Frontend,
  vocabulary: Vocabulary,
  ontology: Ontology,
  *,
  esc10: bool,
) -> Listing:
  """List the recordings of ESC-50, with the AudioSet label of the category and its ancestors.

  Args:
    audio: Folder with `meta/esc50.csv` and `audio/`.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the listing. Ancestors that are not in it are left out.
    ontology: AudioSet ontology.
    esc10: Whether to list only the recordings of ESC-10.

  Raises:
    UserError: If the table cannot be used, or the label of a category is not in the vocabulary.

  Source:
    K. J. Piczak, ESC: Dataset for Environmental Sound Classification.
  """
  check_audio_folder(audio)
  table, root = os.path.join(audio, "meta", "esc50.csv"), os.path.join(audio, "audio")
  widened = {
    category: [label, *sorted(ancestors(ontology, label) & vocabulary.index.keys())]
    for category, label in LABELS.items()
  }

  def rows() -> Iterator[Row]:
    for number, (name, fold, category, in_esc10) in _table(table):
      if category not in widened:
        shown = printable(category, SHOWN)
        raise UserError(f"{table}, line {number}: no category {shown!r} in ESC-50; fix the row")
      if not esc10 or in_esc10 == "True":
        yield Row(name, fold, name, widened[category], f"{table}, line {number}")

  listing = make_listing(rows(), vocabulary, functools.partial(load_file, root, settings), root)
  if not listing.clip_ids:
    raise UserError(f"{table}: lists no recording; give the folder of ESC-50 to --audio")
  return listing


def _table(path: str) -> Iterator[tuple[int, list[str]]]:
  """Yield the line number and the columns COLUMNS of each row."""
  reader = csv.DictReader(text_lines(path), strict=True)
  try:
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
      raise UserError(
        f"{path}: no column {', '.join(missing)}; use the original meta/esc50.csv of ESC-50"
      )
    for row in reader:
      fields = [row[name] for name in COLUMNS]
      if not all(fields):
        raise UserError(
          f"{path}, line {reader.line_num}: a field is empty or missing; download the file again"
        )
      yield reader.line_num, fields
  except csv.Error as error:
    raise UserError(f"{path}: not CSV ({error}); download the file again") from None
