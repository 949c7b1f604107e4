"""Readers of tables, label lists and ontologies."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import mutations
import numpy as np
import small_store
from fuzzing import (
  MESSAGE,
  Random,
  Reader,
  change_text,
  ids_faults,
  is_name,
  texts,
  vocabulary_faults,
)
from packed_readers import listing_faults

from atgcn_jax.labels.vocabulary import Vocabulary

SETTINGS, VOCABULARY = small_store.FRONTEND, small_store.VOCABULARY


def read_vocabulary(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.vocabulary import read_vocabulary

  return read_vocabulary(path)


def read_label_ids(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.vocabulary import read_label_ids

  return read_label_ids(path)


def read_label_list(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.label_list import listed

  return listed(path, None, len, "folder")


def read_segments(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.counts import left_out, read_segments

  segments = read_segments(path, VOCABULARY)
  if len(message := left_out(path, segments)) > MESSAGE + 100 or not message.isprintable():
    raise ValueError(f"a remark of {len(message)} characters: {message[:100]!r}")
  return segments


def segments_faults(segments: Any) -> str:
  if not (np.isfinite(segments.starts).all() and (segments.starts < segments.ends).all()):
    return "times are out of order"
  return ids_faults(segments.clip_ids)


def read_ontology(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.ontology import read_ontology

  return read_ontology(path)


def ontology_faults(ontology: Any) -> str:
  for text in (*ontology.names, *ontology.names.values(), *sum(ontology.children.values(), ())):
    if type(text) is not str or (text and not is_name(text)):
      return f"the category {str(text)[:40]!r}"
  return ""


def read_ratings(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.ratings import read_ratings

  return read_ratings(path)


def make_esc50(path: pathlib.Path) -> None:
  (path / "meta").mkdir(parents=True)
  (path / "audio").mkdir()
  (path / "meta" / "esc50.csv").write_text(
    "filename,fold,target,category,esc10,src_file,take\n"
    "1-100032-A-0.wav,1,0,dog,True,100032,A\n1-100038-A-14.wav,1,14,rain,False,100038,A\n"
  )


def change_esc50(path: pathlib.Path, rng: Random) -> None:
  change_text(path / "meta" / "esc50.csv", rng)


def read_esc50(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.esc50 import LABELS, list_esc50
  from atgcn_jax.labels.ontology import ontology_of

  ids = tuple(dict.fromkeys(LABELS.values()))
  ontology = ontology_of([{"id": i, "name": i, "child_ids": []} for i in ids])
  return list_esc50(path, SETTINGS, Vocabulary(ids, ids), ontology, esc10=False)


def make_sonyc(path: pathlib.Path) -> None:
  path.mkdir()
  for name in ("00_a.wav", "00_b.wav"):
    (path / name).touch()
  (path / "annotations.csv").write_text(
    "split,sensor_id,audio_filename,annotator_id,1-1_small-engine_presence,1_engine_presence\n"
    "train,0,00_a.wav,4,1,1\nvalidate,0,00_b.wav,0,0,1\ntrain,0,00_a.wav,5,0,-1\n"
  )


def change_sonyc(path: pathlib.Path, rng: Random) -> None:
  change_text(path / "annotations.csv", rng)


def read_sonyc(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.sonyc import list_sonyc

  return list_sonyc(path, path / "annotations.csv", SETTINGS)


def read_events(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.event_tables import read_events

  return list(read_events(path, "a.wav"))


def events_faults(events: Any) -> str:
  return ids_faults([text for event in events for text in (event.file, event.label or "-")])


VOCABULARY_CSV = 'index,mid,display_name\n0,/m/a,Apple\n1,/m/b,"Birds, many"\n2,/m/c,Cat\n'
LABEL_LIST = 'filename,fold,positive_labels\na.wav,train,dog\nb/c.wav,test,"dog,rain"\nd.wav,1,\n'
SEGMENTS = '# a comment\n--aa, 0.000, 10.000, "/m/a,/m/b"\nbbbb, 30.000, 40.000, "/m/d"\n'
ONTOLOGY = json.dumps(
  [
    {"id": "/m/a", "name": "A", "child_ids": ["/m/b", "/m/c"], "description": "x"},
    {"id": "/m/b", "name": "B", "child_ids": []},
    {"id": "/m/c", "name": "C", "child_ids": []},
  ]
)
RATINGS = "label_id,num_rated,num_true\n/m/a,10,9\n/m/b,10,3\n"
TRACK = "0.5\t1.5\tdog\n2.0\t3.25\tcat\n"
EVENTS = "filename,onset,offset,label\na.wav,0.5,1.5,dog\nb.wav,2,3,cat\nc.wav,,,\n"
RAVEN = (
  "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\t"
  "Begin File\tFile Offset (s)\tSpecies\n"
  "1\tSpectrogram 1\t1\t0.5\t1.5\t200\t4000\ta.wav\t0.5\tdog\n"
  "2\tSpectrogram 1\t1\t12.0\t13.25\t200\t4000\tb.wav\t2.0\tcat\n"
)
ADDED = (
  "Siren: 0.6 Dog, 0.3 Cat\nWail:\n  id: /m/w\n  parents: [Cat]\n"
  "  counts: {Dog: 3, Cat: 1}\n  clips: 9\nOdd:\n"
)


def read_added(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.added import read_added_labels

  return read_added_labels(path, VOCABULARY)


def added_faults(labels: Any) -> str:
  for label in labels:
    numbers = [*label.relations.values(), *label.counts.values()]
    if not all(0 <= number < 1e15 for number in numbers):
      return f"numbers {numbers}"
  return ids_faults([text for label in labels for text in (label.id, label.name)])


READERS = {
  "vocabulary.csv": Reader(texts(VOCABULARY_CSV), change_text, read_vocabulary, vocabulary_faults),
  "ids.csv": Reader(texts(VOCABULARY_CSV), change_text, read_label_ids, ids_faults),
  "list.csv": Reader(texts(LABEL_LIST), change_text, read_label_list, listing_faults),
  "segments.csv": Reader(texts(SEGMENTS), change_text, read_segments, segments_faults),
  "ontology.json": Reader(
    texts(ONTOLOGY), mutations.change_json_file, read_ontology, ontology_faults
  ),
  "ratings.csv": Reader(texts(RATINGS), change_text, read_ratings, ids_faults),
  "esc50": Reader(make_esc50, change_esc50, read_esc50, listing_faults),
  "sonyc": Reader(make_sonyc, change_sonyc, read_sonyc, listing_faults),
  "track.txt": Reader(texts(TRACK), change_text, read_events, events_faults),
  "raven.txt": Reader(texts(RAVEN), change_text, read_events, events_faults),
  "events.csv": Reader(texts(EVENTS), change_text, read_events, events_faults),
  "added.yaml": Reader(texts(ADDED), change_text, read_added, added_faults),
}
