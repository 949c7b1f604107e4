"""The readers of files from outside, each with a sound file, random changes of it, and checks.

A reader may refuse a changed file with a `UserError` of one short line, or return a value that is
consistent. Everything else is a failure.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import mutations
import numpy as np
import small_store

from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

MESSAGE = 400  # maximum length of a message without the path, in characters
Random = np.random.Generator
VOCABULARY = small_store.VOCABULARY


@dataclass(frozen=True)
class Reader:
  """One reader.

  Attributes:
    make: Writes a sound file or folder at a path.
    change: Changes it.
    read: Reads it.
    faults: Returns what is wrong with a value that was read; empty if nothing is.
  """

  make: Callable[[pathlib.Path], None]
  change: Callable[[pathlib.Path, Random], None]
  read: Callable[[pathlib.Path], Any]
  faults: Callable[[Any], str] = lambda value: ""


def outcome(reader: Reader, path: pathlib.Path) -> str:
  """Read a changed file and return `read`, `refused`, or the kind of failure and its details."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      value = reader.read(path)
  except UserError as error:
    text = str(error)
    if len(text.replace(str(path), "").replace(str(path.parent), "")) > MESSAGE:
      return f"long message: {len(text)} characters: {text[:200]!r}"
    return "refused" if text.isprintable() else f"unprintable message: {text[:200]!r}"
  except Exception as error:
    return f"traceback: {type(error).__name__}: {str(error)[:100]!r}{_place(error)}"
  fault = reader.faults(value)
  return f"accepted: {fault}" if fault else "read"


def _place(error: BaseException) -> str:
  """Return the innermost line of the package in a traceback."""
  place, trace = "", error.__traceback__
  while trace:
    file = trace.tb_frame.f_code.co_filename
    if "atgcn_jax" in file:
      place = f" at {file.partition('atgcn_jax/')[2]}:{trace.tb_lineno}"
    trace = trace.tb_next
  return place


def is_name(text: str) -> bool:
  """Return whether a text is not empty and has no characters that control its display."""
  kinds = {unicodedata.category(character) for character in text}
  return bool(text) and not kinds & {"Cc", "Zl", "Zp"} and not set(text) & set("\u202e\ufeff")


# Clip stores.


def make_store(path: pathlib.Path, dtype: str = "uint8") -> None:
  clips = 24
  small_store.write(path, small_store.decibels(clips), dtype)
  with h5py.File(path, "r+") as file:
    file["seconds"] = np.full(clips, 0.25, np.float32)
    file["rate_hz"] = np.full(clips, 1000, np.int32)
    file["findings"] = np.zeros(clips, np.uint8)
    file["missing_seconds"] = np.zeros(clips, np.float32)
    file["normaliser"] = np.ones((2, small_store.BANDS), np.float32)


def read_store(path: pathlib.Path) -> Any:
  from atgcn_jax.data.open_clips import open_clips

  store = open_clips(path)
  if len(store):
    store.read(np.arange(min(3, len(store))))
  return store


def store_faults(store: Any) -> str:
  clips, classes = len(store), len(store.vocabulary)
  shape = (clips, store.frontend.frames, store.frontend.n_mels)
  shapes = {
    "peak_db": ("float32", (clips,)),
    "label_offsets": ("int64", (clips + 1,)),
    "label_indices": ("int32", store.label_indices.shape),
    "seconds": ("float32", (clips,)),
    "rate_hz": ("int32", (clips,)),
    "findings": ("uint8", (clips,)),
    "missing_seconds": ("float32", (clips,)),
    "normaliser": ("float32", (2, store.frontend.n_mels)),
  }
  for name, wanted in shapes.items():
    array = getattr(store, name)
    if array is not None and (str(array.dtype), array.shape) != wanted:
      return f"{name} is {array.dtype}{list(array.shape)}"
  if store.log_mel.shape != shape or store.log_mel.dtype not in (np.uint8, np.float16):
    return f"log_mel has shape {store.log_mel.shape}, the front end has {shape}"
  for name in ("clip_ids", "folds"):
    texts = getattr(store, name)
    if texts.dtype.kind != "U" or texts.shape != (clips,):
      return f"{name} is {texts.dtype}{list(texts.shape)}"
    if not all(map(is_name, texts.tolist())):
      return f"{name} has control characters"
  offsets = store.label_offsets
  if offsets[0] != 0 or offsets[-1] != len(store.label_indices) or (np.diff(offsets) < 0).any():
    return "label_offsets do not rise from 0 to the number of label_indices"
  if len(store.label_indices) and not (
    store.label_indices.min() >= 0 and store.label_indices.max() < classes
  ):
    return "a label index is out of range"
  if not np.isfinite(store.peak_db).all():
    return "a peak is not finite"
  if store.normaliser is not None and not (
    np.isfinite(store.normaliser).all() and (store.normaliser[1] > 0).all()
  ):
    return "the normaliser is not finite or not positive"
  if not isinstance(store.fingerprint, str):
    return f"the fingerprint is {type(store.fingerprint).__name__}"
  return frontend_faults(store.frontend) or vocabulary_faults(store.vocabulary)


def frontend_faults(frontend: Any) -> str:
  numbers = ("sample_rate", "n_fft", "win_length", "hop", "n_mels", "seconds", "power")
  for name in numbers:
    value = getattr(frontend, name)
    if type(value) not in (int, float) or not 0 < value < 1e9:
      return f"frontend.{name} is {str(value)[:40]}"
  if type(frontend.name) is not str or type(frontend.drop_last) is not bool:
    return "the front end has values of another type"
  return ""


def vocabulary_faults(vocabulary: Any) -> str:
  for text in (*vocabulary.ids, *vocabulary.names):
    if not isinstance(text, str):
      return f"the vocabulary has {type(text).__name__}"
    if text and not is_name(text):
      return f"the vocabulary has control characters: {text[:40]!r}"
  return ""


# Files of arrays.

COUNTS = np.array([[9, 4, 1, 0], [4, 8, 0, 2], [1, 0, 7, 0], [0, 2, 0, 6]])


def make_counts(path: pathlib.Path) -> None:
  pairs = COUNTS - np.diag(np.diag(COUNTS))
  np.savez(path, mids=VOCABULARY.ids, occurrences=np.diag(COUNTS), cooccurrences=pairs)


def read_counts(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.counts import load_counts

  return load_counts(path, VOCABULARY)


def counts_faults(counts: Any) -> str:
  from atgcn_jax.labels.counts import check_counts

  try:
    check_counts(counts.occurrences, counts.cooccurrences)
  except ValueError as error:
    return str(error)
  return "" if counts.occurrences.shape == (4,) else f"has shape {counts.occurrences.shape}"


def make_graph(path: pathlib.Path) -> None:
  from atgcn_jax.labels.sparse import csr, pack_matrices

  matrix = csr((COUNTS / COUNTS.sum(axis=1, keepdims=True)).astype(np.float32))
  np.savez(path, mids=VOCABULARY.ids, **pack_matrices({"propagation": matrix}))


def read_graph(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.label_files import read_arrays
  from atgcn_jax.runs.label_graph import stored_propagation

  arrays = read_arrays(path)
  if "propagation" not in arrays:
    raise UserError(f"{path}: no graph")
  return stored_propagation(path, arrays, VOCABULARY)


def graph_faults(matrix: Any) -> str:
  if matrix.shape != (4, 4) or matrix.dtype != np.float32:
    return f"the graph is {matrix.dtype}{matrix.shape}"
  return "" if np.isfinite(matrix).all() and (matrix >= 0).all() else "NaN or negative weights"


def make_vectors(path: pathlib.Path) -> None:
  np.savez(path, mids=VOCABULARY.ids, vectors=np.arange(12.0, dtype=np.float32).reshape(4, 3))


def read_vectors(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.embeddings import load_embeddings

  return load_embeddings(path, VOCABULARY, dimension=3)


def vectors_faults(vectors: Any) -> str:
  if vectors.shape != (4, 3) or vectors.dtype != np.float32:
    return f"the vectors are {vectors.dtype}{vectors.shape}"
  return "" if np.isfinite(vectors).all() else "not finite"


# Runs.


@functools.cache
def new_loaded() -> Any:
  """Return a tiny run with zeros for parameters, as loaded from a checkpoint of step 3."""
  import jax
  import runs_support

  from atgcn_jax.data.store.clip_store import open_store
  from atgcn_jax.runs.run import Loaded, new_run

  folder = pathlib.Path(runs_support.HOME.name) / "fuzzed"
  folder.mkdir(exist_ok=True)
  config = runs_support.tiny_config(folder)
  run = new_run(config, open_store(config.data.store))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), run.abstract_state().variables)
  return Loaded(3, run, [{"step": 3, "mAP": 0.25, "mAUC": 0.5, "d_prime": 0.0}], state)


def make_export(path: pathlib.Path) -> None:
  from atgcn_jax.interop.export import write_export

  path.mkdir()
  write_export(path, new_loaded(), "huggingface", path)


def change_export(path: pathlib.Path, rng: Random) -> None:
  if rng.random() < 0.7:
    mutations.change_json_file(path / "config.json", rng)
    return
  file = path / "model.safetensors"
  data = file.read_bytes()
  length = int.from_bytes(data[:8], "little")
  if rng.random() < 0.5:
    file.write_bytes(mutations.change_bytes(data, rng))
    return
  header = json.dumps(mutations.change_json(json.loads(data[8 : 8 + length]), rng)).encode()
  file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def read_export(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.safetensors_folder import read_export

  return read_export(path)


def loaded_faults(loaded: Any) -> str:
  if type(loaded.step) is not int or loaded.step < 0:
    return f"the step is {str(loaded.step)[:40]!r}"
  if type(loaded.history) is not list:
    return f"the history is {type(loaded.history).__name__}"
  for record in loaded.history:
    if type(record) is not dict or type(record.get("step")) is not int:
      return "a record of the history has no step"
    if type(record.get("mAP")) not in (float, int, type(None)):
      return "a record of the history has no mAP"
  return run_faults(loaded.run)


def run_faults(run: Any) -> str:
  bands, classes = run.frontend.n_mels, len(run.vocabulary)
  if run.normaliser.mean.shape != (bands,) or run.normaliser.deviation.shape != (bands,):
    return "the normaliser has another shape than the front end"
  if run.propagation is not None and run.propagation.shape != (classes, classes):
    return "the graph has another shape than the vocabulary"
  if run.range_db is not None and type(run.range_db) not in (int, float):
    return f"range_db is {type(run.range_db).__name__}"
  if type(run.store_fingerprint) is not str or type(run.draws_unlabelled) is not bool:
    return "values of another type"
  return frontend_faults(run.frontend) or vocabulary_faults(run.vocabulary)


def make_checkpoint(path: pathlib.Path) -> None:
  import jax

  from atgcn_jax.training import checkpoint

  loaded = new_loaded()
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), loaded.run.abstract_state())
  state = state.replace(step=np.array(loaded.step, np.int32))
  description = loaded.run.description() | {"history": loaded.history}
  with checkpoint.open_manager(path) as manager:
    checkpoint.start_save(manager, state, loaded.run.constants(), description, 0.25)


def change_checkpoint(path: pathlib.Path, rng: Random) -> None:
  from atgcn_jax.training import checksums

  (step,) = (path / "checkpoints").iterdir()
  files = [step / "run" / "metadata"] * 4
  files += [file for file in sorted(step.rglob("*")) if file.is_file() and file.name[0] in "_m"]
  file = files[rng.integers(len(files))]
  try:
    mutations.change_json_file(file, rng)
  except (ValueError, UnicodeDecodeError):
    file.write_bytes(mutations.change_bytes(file.read_bytes(), rng))
  (step / checksums.NAME).unlink(missing_ok=True)
  checksums.write_checksums(step)


def read_checkpoint(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.load import load_run
  from atgcn_jax.training import sharding

  return load_run(path, "best", sharding.data_mesh())


# TFDS folders.


def make_tfds(path: pathlib.Path) -> None:
  from atgcn_jax.data.tfds.write import write_tfds

  store = path.with_suffix(".h5")
  make_store(store)
  made = path.with_suffix(".made")
  write_tfds(str(made), file_format="tfrecord", shards=2, store=str(store))
  (columns,) = made.rglob("clips.npz")
  shutil.move(columns.parent, path)


def change_tfds(path: pathlib.Path, rng: Random) -> None:
  files = sorted(file for file in path.iterdir() if file.is_file())
  file = files[rng.integers(len(files))]
  if file.suffix == ".json":
    mutations.change_json_file(file, rng)
  elif file.suffix == ".npz":
    mutations.change_npz(file, rng)
  else:
    file.write_bytes(mutations.change_bytes(file.read_bytes(), rng))


# Packed layouts.

SETTINGS = small_store.FRONTEND


def make_mat(path: pathlib.Path) -> None:
  import scipy.io

  feat = np.zeros((3, SETTINGS.frames, SETTINGS.n_mels), np.float32)
  labels = np.eye(3, 4)
  hashes = np.array(["aaaa", "bbbb", "cccc"])
  scipy.io.savemat(path, {"feat": feat, "labels": labels, "hashes": hashes})


def change_mat(path: pathlib.Path, rng: Random) -> None:
  import scipy.io

  if rng.random() < 0.5:
    path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))
    return
  arrays = {k: v for k, v in scipy.io.loadmat(path).items() if k[0] != "_"}
  name = sorted(arrays)[rng.integers(len(arrays))]
  arrays[name] = mutations.change_array(arrays[name], rng)
  try:
    scipy.io.savemat(path, arrays)
  except (TypeError, ValueError):
    path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))


def make_mat73(path: pathlib.Path) -> None:
  with h5py.File(path, "w") as file:
    file["feat"] = np.zeros((SETTINGS.n_mels, SETTINGS.frames, 3), np.float32)
    file["labels"] = np.eye(4, 3)
    cells = [np.array([[ord(c)] for c in text], np.uint16) for text in ("aaaa", "bbbb", "cccc")]
    for i, cell in enumerate(cells):
      file[f"#refs#/{i}"] = cell
    references = [file[f"#refs#/{i}"].ref for i in range(3)]
    file.create_dataset("hashes", data=references, dtype=h5py.ref_dtype)


def change_mat73(path: pathlib.Path, rng: Random) -> None:
  if rng.random() < 0.5:
    path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))
    return
  with h5py.File(path, "r+") as file:
    name = ("feat", "labels", "hashes", "#refs#/1")[rng.integers(4)]
    values = file[name][()]
    del file[name]
    if rng.random() < 0.2:
      return
    values = np.zeros(3) if values.dtype.kind == "O" else mutations.change_array(values, rng)
    file[name] = np.zeros(2) if values.dtype.kind in "OU" else values


def read_talnet(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.talnet import list_talnet

  listing = list_talnet([str(path)], SETTINGS, VOCABULARY, "train", None)
  for source in listing.sources[:2]:
    loaded(listing, source)
  return listing


def loaded(listing: Any, source: str) -> Any:
  """Load a clip as `prepare` does, which reports these exceptions."""
  from atgcn_jax.data.store.store_builder import BAD_CLIP

  try:
    return listing.load(source)
  except (*BAD_CLIP, MemoryError) as error:
    raise UserError(f"{source}: {' '.join(str(error).split())}") from error


def listing_faults(listing: Any) -> str:
  bad = next((text for text in (*listing.clip_ids, *listing.folds) if not is_name(text)), None)
  if bad is not None:
    return f"the id or fold {bad[:40]!r}"
  for place, reason in (*listing.unreadable, *listing.absent):
    if len(reason) > MESSAGE or not reason.isprintable():
      return f"a reason of {len(reason)} characters: {reason[:100]!r} of {place[-40:]}"
  return vocabulary_faults(listing.vocabulary)


def make_normaliser(path: pathlib.Path) -> None:
  import pickle

  pair = (np.zeros(SETTINGS.n_mels), np.ones(SETTINGS.n_mels))
  if path.suffix == ".npz":
    np.savez(path, mu=pair[0], sigma=pair[1])
  else:
    path.write_bytes(pickle.dumps(pair, protocol=2))


def read_normaliser(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.talnet import read_normaliser

  return read_normaliser(path, SETTINGS.n_mels)


def normaliser_faults(pair: Any) -> str:
  if pair.shape != (2, SETTINGS.n_mels) or pair.dtype != np.float32:
    return f"the normaliser is {pair.dtype}{pair.shape}"
  return "" if np.isfinite(pair).all() and (pair[1] > 0).all() else "not finite or not positive"


def make_panns(path: pathlib.Path) -> None:
  with h5py.File(path, "w") as file:
    file["audio_name"] = np.array(["a.wav", "b.wav", "c.wav"], "S20")
    file["waveform"] = np.zeros((3, 400), np.int16)
    file["target"] = np.eye(3, 4).astype(bool)
    file.attrs["sample_rate"] = np.int32(1000)


def change_panns(path: pathlib.Path, rng: Random) -> None:
  mutations.change_hdf5(path, rng)


def read_panns(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts import panns

  panns._opened.cache_clear()
  listing = panns.list_packed([str(path)], SETTINGS, VOCABULARY, "train")
  for source in listing.sources[:2]:
    loaded(listing, source)
  return listing


# Text files.


def texts(content: str) -> Callable[[pathlib.Path], None]:
  return lambda path: path.write_text(content)


def change_text(path: pathlib.Path, rng: Random) -> None:
  path.write_bytes(mutations.change_text(path.read_bytes(), rng))


def read_vocabulary(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.vocabulary import read_vocabulary

  return read_vocabulary(path)


def read_label_ids(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.vocabulary import read_label_ids

  return read_label_ids(path)


def ids_faults(ids: Any) -> str:
  bad = next((text for text in ids if not is_name(text)), None)
  return "" if bad is None else f"the id {bad[:40]!r}"


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


def make_thresholds(path: pathlib.Path) -> None:
  path.mkdir()
  labels = {label: {"name": label, "threshold": 0.5, "f1": 0.5} for label in VOCABULARY.ids}
  (path / "thresholds.json").write_text(json.dumps({"step": 3, "labels": labels}))


def change_thresholds(path: pathlib.Path, rng: Random) -> None:
  mutations.change_json_file(path / "thresholds.json", rng)


def read_thresholds(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.thresholds import read_thresholds

  return read_thresholds(path)


def thresholds_faults(thresholds: Any) -> str:
  if type(thresholds.step) is not int or thresholds.step < 0:
    return f"the step is {str(thresholds.step)[:40]!r}"
  bad = [value for value in thresholds.by_label.values() if not 0 <= value <= 1]
  return f"a threshold of {bad[0]}" if bad else ids_faults(thresholds.by_label)


def read_glove(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.embeddings import load_embeddings

  return load_embeddings(path, VOCABULARY, dimension=3)


# Configs.


def make_override(path: pathlib.Path) -> None:
  path.write_text("--config.seed=1")


def change_override(path: pathlib.Path, rng: Random) -> None:
  from atgcn_jax.runs.config import DEFAULTS, flat

  keys = sorted(flat(DEFAULTS))
  key = keys[rng.integers(len(keys))]
  if rng.random() < 0.1:
    key = mutations.change_text(key.encode(), rng).decode("utf-8", "replace")
  words = (
    *mutations.ODD_WORDS,
    "1e99",
    "(1,)",
    "()",
    "[1, 2]",
    "{}",
    "None",
    "True",
    "1.5",
    "-inf",
  )
  words += (str(2**63), "1e-400", "'a'", "('a',)", "('x',) * 10**9", "lambda: 0", "('\\x1b[31m',)")
  path.write_text(f"--config.{key}={words[rng.integers(len(words))]}")


def read_override(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.config import config_with_overrides, default_config

  with path.open(newline="") as file:
    return config_with_overrides(default_config(), [file.read()])


def make_config(path: pathlib.Path) -> None:
  from atgcn_jax.runs.config import DEFAULTS

  path.write_text(f"def get_config():\n  return {DEFAULTS!r}\n")


def change_config(path: pathlib.Path, rng: Random) -> None:
  from atgcn_jax.runs.config import DEFAULTS

  if rng.random() < 0.2:
    change_text(path, rng)
  else:
    changed = repr(mutations.change_json(DEFAULTS, rng))
    path.write_text(f"from math import inf, nan\ndef get_config():\n  return {changed}\n")


def read_config(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.config import load_config

  return load_config(path)


def config_faults(config: Any) -> str:
  from atgcn_jax.runs.config import DEFAULTS, flat

  defaults = flat(DEFAULTS)
  for key, value in flat(config.to_dict()).items():
    default = defaults[key]
    kinds = (int, float) if type(default) is float else (type(default),)
    if type(value) not in kinds:
      return f"{key} is {str(value)[:40]!r}"
    if type(value) in (int, float) and not abs(value) < 1e300:
      return f"{key} is {value}"
    if type(value) is str and not value.isprintable():
      return f"{key} is {value[:40]!r}"
    for item in value if type(value) is tuple else ():
      kind = int if key.endswith("units") else str
      if type(item) is not kind:
        return f"{key} has the item {str(item)[:40]!r}"
  return ""


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
GLOVE = "birds 0.1 0.2 0.3\ncat 0.5 -1 2\nmany 1 2 3\n"

READERS: dict[str, Reader] = {
  "store.h5": Reader(make_store, mutations.change_hdf5, read_store, store_faults),
  "float16.h5": Reader(
    functools.partial(make_store, dtype="float16"), mutations.change_hdf5, read_store, store_faults
  ),
  "counts.npz": Reader(make_counts, mutations.change_npz, read_counts, counts_faults),
  "graph.npz": Reader(make_graph, mutations.change_npz, read_graph, graph_faults),
  "vectors.npz": Reader(make_vectors, mutations.change_npz, read_vectors, vectors_faults),
  "normaliser.npz": Reader(
    make_normaliser, mutations.change_npz, read_normaliser, normaliser_faults
  ),
  "normaliser.pkl": Reader(
    make_normaliser,
    lambda path, rng: path.write_bytes(mutations.change_bytes(path.read_bytes(), rng)),
    read_normaliser,
    normaliser_faults,
  ),
  "export": Reader(make_export, change_export, read_export, loaded_faults),
  "checkpoint": Reader(make_checkpoint, change_checkpoint, read_checkpoint, loaded_faults),
  "tfds": Reader(make_tfds, change_tfds, read_store, store_faults),
  "talnet.mat": Reader(make_mat, change_mat, read_talnet, listing_faults),
  "talnet73.mat": Reader(make_mat73, change_mat73, read_talnet, listing_faults),
  "panns.h5": Reader(make_panns, change_panns, read_panns, listing_faults),
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
  "events.csv": Reader(texts(EVENTS), change_text, read_events, events_faults),
  "thresholds": Reader(make_thresholds, change_thresholds, read_thresholds, thresholds_faults),
  "glove.txt": Reader(texts(GLOVE), change_text, read_glove, vectors_faults),
  "override": Reader(make_override, change_override, read_override, config_faults),
  "config.py": Reader(make_config, change_config, read_config, config_faults),
}
