"""Readers of packed sounds and features: TALNet's `.mat`, PANNs' HDF5, AudioSet's TFRecords."""

from __future__ import annotations

import pathlib
import shutil
import tarfile
from typing import Any

import h5py
import mutations
import numpy as np
import small_store
from fuzzing import MESSAGE, Random, Reader, is_name, vocabulary_faults

from atgcn_jax.errors import UserError

SETTINGS, VOCABULARY = small_store.FRONTEND, small_store.VOCABULARY


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


# AudioSet's features: TFRecord files, and archives of them.


def feature_content(clip_id: str) -> bytes:
  """Return a serialised SequenceExample of two embeddings."""
  from atgcn_jax.data.layouts import feature_records

  example = feature_records._message_class()()
  for key, kind, values in (
    ("video_id", "bytes_list", [clip_id.encode()]),
    ("start_time_seconds", "float_list", [30.0]),
    ("labels", "int64_list", [0, 2]),
  ):
    entry = example.context.feature.add(key=key)
    getattr(entry.value, kind).value.extend(values)
  rows = example.feature_lists.feature_list.add(key="audio_embedding").value
  for k in range(2):
    rows.feature.add().bytes_list.value.append(bytes([k] * feature_records.WIDTH))
  return example.SerializeToString()


def framed(content: bytes) -> bytes:
  """Return a record of a TFRecord file."""
  from atgcn_jax.data.layouts.feature_records import LENGTH, _masked_crc

  length = LENGTH.pack(len(content))
  return length + _masked_crc(length) + content + _masked_crc(content)


def make_features(path: pathlib.Path) -> None:
  (path / "bal_train").mkdir(parents=True)
  records = [framed(feature_content(f"clip-{k:06d}")) for k in range(3)]
  (path / "bal_train" / "a.tfrecord").write_bytes(b"".join(records))


def change_features(path: pathlib.Path, rng: Random) -> None:
  """Change the bytes of the file, or those of a record whose checksums agree."""
  file = path / "bal_train" / "a.tfrecord"
  if rng.random() < 0.4:
    file.write_bytes(mutations.change_bytes(file.read_bytes(), rng))
    return
  contents = [feature_content(f"clip-{k:06d}") for k in range(3)]
  k = rng.integers(3)
  contents[k] = mutations.change_bytes(contents[k], rng)
  file.write_bytes(b"".join(map(framed, contents)))


def read_features(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.audioset_features import list_features

  listing = list_features(path, VOCABULARY)
  for source in listing.sources[:2]:
    loaded(listing, source)
  return listing


def make_archive(path: pathlib.Path) -> None:
  folder = path.with_suffix(".folder")
  make_features(folder)
  with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
    tar.add(folder, "audioset_v1_embeddings")
  shutil.rmtree(folder)


def read_archive(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.feature_archive import unpacked_archive

  with unpacked_archive(path, path.with_name("store.h5")) as folder:
    return read_features(folder)


def change_bytes(path: pathlib.Path, rng: Random) -> None:
  path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))


READERS = {
  "talnet.mat": Reader(make_mat, change_mat, read_talnet, listing_faults),
  "talnet73.mat": Reader(make_mat73, change_mat73, read_talnet, listing_faults),
  "panns.h5": Reader(make_panns, change_panns, read_panns, listing_faults),
  "features": Reader(make_features, change_features, read_features, listing_faults),
  "features.tar": Reader(make_archive, change_bytes, read_archive, listing_faults),
  "features.tar.gz": Reader(make_archive, change_bytes, read_archive, listing_faults),
}
