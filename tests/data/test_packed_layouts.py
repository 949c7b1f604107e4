"""Files of many clips: packed HDF5 files of PANNs, and .mat files of TALNet with a normaliser."""

import csv
import os
import pickle

import h5py
import numpy as np
import pytest
import runs_support
import scipy.io

from atgcn_jax.audio import frontend, sound_files
from atgcn_jax.data.layouts import talnet
from atgcn_jax.data.layouts.listing import load_file
from atgcn_jax.data.normaliser import decibels
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.run import new_run

TALNET = frontend.FRONTENDS["talnet"]
K = 5


@pytest.fixture(autouse=True)
def here(monkeypatch):
  runs_support.prepare_here(monkeypatch)


@pytest.fixture
def vocabulary(tmp_path):
  path = tmp_path / "vocabulary.csv"
  path.write_text("index,mid,display_name\n" + "".join(f"{k},/m/{k},L{k}\n" for k in range(K)))
  return path


def made_up(clips, samples, seed):
  rng = np.random.default_rng(seed)
  waveforms = rng.uniform(-0.5, 0.5, (clips, samples)).astype(np.float32)
  return waveforms, rng.random((clips, K)) < 0.4


def pack(path, clips=3, seed=0, rate=32000, attribute=True, kind=np.int16, names=None):
  """Write a packed file of PANNs and return its waveforms and targets."""
  waveforms, targets = made_up(clips, 10 * rate, seed)
  targets[0, 0] = True
  if kind is np.int16:
    waveforms = (waveforms * 32767).astype(np.int16)
  names = names or [f"Y{seed}_clip_{i}.wav" for i in range(clips)]
  path.parent.mkdir(exist_ok=True)
  with h5py.File(path, "w") as file:
    file.create_dataset("audio_name", data=np.array(names, "S20"))
    file.create_dataset("waveform", data=waveforms)
    file.create_dataset("target", data=targets)
    if attribute:
      file.attrs.create("sample_rate", data=rate, dtype=np.int32)
  return waveforms, targets


@pytest.mark.parametrize(
  ("rate", "attribute", "kind"),
  [
    (32000, True, np.int16),
    (32000, False, np.int16),
    (8000, False, np.int16),
    (16000, True, float),
  ],
)
def test_packed_waveforms(tmp_path, vocabulary, rate, attribute, kind):
  path = tmp_path / "p" / "unbalanced_train_segments_part00.h5"
  waveforms, targets = pack(path, rate=rate, attribute=attribute, kind=kind)
  out = tmp_path / "s.h5"
  built = prepare(path, None, out, layout="panns", vocabulary=vocabulary, dtype="float16")
  assert built == (3, 0, 0)
  store = open_store(out)
  assert store.clip_ids.tolist() == [f"Y0_clip_{i}.wav" for i in range(3)]
  assert store.folds.tolist() == ["train"] * 3
  np.testing.assert_array_equal(store.labels(np.arange(3)), targets)
  assert store.rate_hz.tolist() == [rate] * 3
  assert store.seconds.tolist() == [10.0] * 3
  scaled = waveforms / np.float32(32767) if kind is np.int16 else waveforms
  sound = sound_files.resample(scaled[1], rate, 16000)
  wanted = np.asarray(frontend.log_mel(sound, TALNET))
  np.testing.assert_allclose(np.asarray(store.log_mel[1], np.float32), wanted, atol=0.05)


def test_a_folder_of_packed_files(tmp_path, vocabulary):
  folder = tmp_path / "p"
  pack(folder / "balanced_train.h5", names=["Ya.wav", "", "Yb.wav"])
  pack(folder / "eval.h5", seed=1, names=["Yc.wav", "Yb.wav", "Yd.wav"])
  with h5py.File(folder / "full_train_index.h5", "w") as file:
    file["hdf5_name"] = np.zeros(3)
  (folder / "train_part.h5").write_bytes((folder / "eval.h5").read_bytes()[:3000])
  pack(folder / "train_nan.h5", clips=2, seed=2, kind=float, names=["Ye.wav", "Yf.wav"])
  with h5py.File(folder / "train_nan.h5", "r+") as file:
    file["waveform"][1, 7] = np.nan
  out = tmp_path / "s.h5"
  with pytest.warns(UserWarning, match=r"1 rows repeat an id .*: Yb\.wav"):
    built = prepare([folder], None, out, layout="panns", vocabulary=vocabulary)
  assert built == (5, 1, 3)
  store = open_store(out)
  assert store.clip_ids.tolist() == ["Ya.wav", "Yb.wav", "Yc.wav", "Yd.wav", "Ye.wav"]
  assert store.folds.tolist() == ["train", "train", "eval", "eval", "train"]
  report = dict(csv.reader((tmp_path / "s.h5.unreadable.csv").open()))
  assert report[f"{folder}/balanced_train.h5:1"] == "not there"
  assert report[f"{folder}/full_train_index.h5"].startswith("has no audio_name, waveform, target")
  assert "truncated" in report[f"{folder}/train_part.h5"]
  assert report[f"{folder}/train_nan.h5:1"] == "a sample is NaN or infinite"
  assert len(report) == 1 + 4


def log_mels(clips, seed=0):
  waveforms, labels = made_up(clips, 160_000, seed)
  return np.array(frontend.log_mel(waveforms, TALNET)), labels


def write_mat(path, clips=3, seed=0, form="v5"):
  """Write a .mat file of TALNet and return its arrays."""
  feat, labels = log_mels(clips, seed)
  labels[0, 0] = True
  hashes = np.array([f"{seed}-hash{i:04d}" for i in range(clips)])
  path.parent.mkdir(exist_ok=True, parents=True)
  if form == "v7.3":  # as written by MATLAB: axes reversed, text as character codes
    with h5py.File(path, "w") as file:
      file["feat"], file["labels"] = feat.T, labels.T.astype(np.uint8)
      file["hashes"] = np.array([list(map(ord, text)) for text in hashes], np.uint16).T
  elif form == "cells":
    cells = np.array([[text] for text in hashes], object)
    scipy.io.savemat(path, {"feat": feat.astype(float), "labels": labels, "hashes": cells})
  else:
    scipy.io.savemat(path, {"feat": feat, "labels": labels, "hashes": hashes}, do_compression=True)
  return feat, labels, hashes.tolist()


@pytest.mark.parametrize("form", ["v5", "cells", "v7.3"])
def test_talnet(tmp_path, vocabulary, form):
  folder, out = tmp_path / "audioset", tmp_path / "s.h5"
  names = ["GAS_eval_part00.mat", "GAS_train_unbalanced_class007_part01.mat", "sub/GAS_valid_0.mat"]
  made = [write_mat(folder / name, seed=seed, form=form) for seed, name in enumerate(names)]
  built = prepare(folder, None, out, layout="talnet", vocabulary=vocabulary)
  assert built == (9, 0, 0)
  store = open_store(out)
  assert store.folds.tolist() == ["eval"] * 3 + ["train"] * 3 + ["validation"] * 3
  feat, labels, hashes = (np.concatenate(parts) for parts in zip(*made))
  assert store.clip_ids.tolist() == hashes.tolist()
  np.testing.assert_array_equal(store.labels(np.arange(9)), labels)
  np.testing.assert_allclose(decibels(np.asarray(store.log_mel), store.peak_db), feat, atol=0.16)
  assert store.normaliser is None
  assert np.isnan(store.seconds).all()
  assert store.rate_hz.tolist() == [0] * 9


def test_mat_files_of_other_shapes_are_reported(tmp_path, vocabulary):
  folder, out = tmp_path / "audioset", tmp_path / "s.h5"
  write_mat(folder / "GAS_train_a.mat")
  write_mat(folder / "GAS_valid_a.mat", seed=1)
  feat, labels, hashes = write_mat(folder / "GAS_eval_nan.mat", seed=2)
  feat[1, 3, 4] = np.nan
  whole = {"feat": feat, "labels": labels, "hashes": hashes}
  bad = {
    "GAS_eval_nan": whole,
    "a_keys": {"feat": feat},
    "b_frames": whole | {"feat": feat[:, :399]},
    "c_labels": whole | {"labels": labels[:, :3]},
    "d_hashes": whole | {"hashes": hashes[:2]},
  }
  for name, arrays in bad.items():
    scipy.io.savemat(folder / f"{name}.mat", arrays)
  (folder / "e_cut.mat").write_bytes((folder / "GAS_train_a.mat").read_bytes()[:5000])
  (folder / "f_words.mat").write_text("words\n" * 99)
  built = prepare(folder, None, out, layout="talnet", vocabulary=vocabulary)
  assert built == (8, 0, 7)
  report = dict(csv.reader((tmp_path / "s.h5.unreadable.csv").open()))
  assert report.pop("file") == "reason"
  reported = {os.path.basename(path): reason for path, reason in report.items()}
  assert reported["GAS_eval_nan.mat:1"] == "values are NaN or infinite"
  assert reported["a_keys.mat"] == "has no labels, hashes; it has feat"
  assert reported["b_frames.mat"] == "feat is 3 x 399 x 64, not 3 x 400 x 64"
  assert reported["c_labels.mat"] == "labels are 3 x 3, not 3 x 5"
  assert "feat is 3 x 400 x 64, not 2 x 400 x 64" in reported["d_hashes.mat"]
  assert {"e_cut.mat", "f_words.mat"} <= reported.keys()


MEAN, DEVIATION = np.linspace(-40, -20, 64), np.linspace(5, 15, 64)
# Such a pair with two bands, pickled by Python 2 with NumPy 1 and protocol 0.
PYTHON_2 = (
  b"(cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
  b"(I1\n(I2\ntp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\n"
  b"I0\ntp12\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00D\\xc0\\x00\\x00\\x00\\x00\\x00\\x00>\\xc0'\np13\n"
  b"tp14\nbg0\n(g1\n(I0\ntp15\ng3\ntp16\nRp17\n(I1\n(I2\ntp18\ng10\nI00\nS'\\x00\\x00\\x00\\x00\\x00"
  b"\\x00\\x14@\\x00\\x00\\x00\\x00\\x00\\x00.@'\np19\ntp20\nbtp21\n."
)


def test_a_normaliser_of_python_2(tmp_path):
  (tmp_path / "normalizer.pkl").write_bytes(PYTHON_2)
  found = talnet.read_normaliser(tmp_path / "normalizer.pkl", 2)
  assert found.tolist() == [[-40, -30], [5, 15]]


def save(path, kind, mean=MEAN, deviation=DEVIATION):
  if kind == "npz":
    np.savez(path, mu=mean, sigma=deviation)
  elif kind == "mat":
    scipy.io.savemat(path, {"mu": mean, "sigma": deviation})
  else:
    path.write_bytes(pickle.dumps((mean, deviation), protocol=int(kind)))


@pytest.mark.parametrize("kind", ["0", "1", "2", "4", "npz", "mat"])
def test_normalisers(tmp_path, kind):
  path = tmp_path / f"n.{kind if kind in ('npz', 'mat') else 'pkl'}"
  save(path, kind)
  found = talnet.read_normaliser(path, 64)
  np.testing.assert_allclose(found, np.stack([MEAN, DEVIATION]), rtol=1e-6)


class Harmful:
  def __reduce__(self):
    return os.mkdir, ("harmed",)


def test_a_pickle_never_runs_code(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "n.pkl").write_bytes(pickle.dumps((MEAN, Harmful())))
  with pytest.raises(UserError, match=r"n\.pkl: no pair .*mkdir is not an array"):
    talnet.read_normaliser("n.pkl", 64)
  assert not os.path.exists("harmed")


BAD_NORMALISERS = {
  "missing": lambda path: None,
  "words": lambda path: path.write_text("words"),
  "empty": lambda path: path.write_bytes(b""),
  "one": lambda path: path.write_bytes(pickle.dumps((MEAN,))),
  "a number": lambda path: path.write_bytes(pickle.dumps(3)),
  "other bands": lambda path: save(path, "2", MEAN[:3], DEVIATION[:3]),
  "of two lengths": lambda path: save(path, "2", MEAN, DEVIATION[:3]),
  "nan": lambda path: save(path, "2", MEAN * np.nan),
  "zero": lambda path: save(path, "2", deviation=0 * DEVIATION),
}


@pytest.mark.parametrize("bad", BAD_NORMALISERS)
def test_bad_normalisers(tmp_path, vocabulary, bad):
  path, out = tmp_path / "n.pkl", tmp_path / "out" / "s.h5"
  write_mat(tmp_path / "t" / "GAS_train.mat")
  BAD_NORMALISERS[bad](path)
  options = {"layout": "talnet", "vocabulary": vocabulary, "normaliser": path}
  with pytest.raises(UserError) as caught:
    prepare(tmp_path / "t", None, out, **options)
  assert str(caught.value).startswith(f"{path}: ")
  assert "; " in str(caught.value)
  assert "\n" not in str(caught.value)
  assert not out.parent.exists()


def test_a_run_uses_the_normaliser_of_the_clips(tmp_path, vocabulary):
  folder, out = tmp_path / "t", tmp_path / "s.h5"
  write_mat(folder / "GAS_train.mat")
  save(folder / "normalizer.pkl", "2")
  prepare(folder, None, out, layout="talnet", vocabulary=vocabulary)
  store = open_store(out)
  np.testing.assert_allclose(store.normaliser, np.stack([MEAN, DEVIATION]), rtol=1e-6)
  config = load_config(str(runs_support.write_config(tmp_path / "config.py", out)), [])
  run = new_run(config, store)
  np.testing.assert_allclose(run.normaliser.mean, MEAN, rtol=1e-6)
  np.testing.assert_allclose(run.normaliser.deviation, DEVIATION, rtol=1e-6)


def words(folder):
  (folder / "words.h5").write_text("words")
  return "words.h5"


def other_keys(folder):
  with h5py.File(folder / "keys.h5", "w") as file:
    file["images"] = np.zeros(3)
  return "keys.h5"


def other_labels(folder):
  waveforms, _ = pack(folder / "eval.h5")
  with h5py.File(folder / "eval.h5", "r+") as file:
    del file["target"]
    file["target"] = np.ones((len(waveforms), K + 1), bool)
  return "eval.h5"


def no_names(folder):
  pack(folder / "eval.h5", names=["", "", ""])
  return "eval.h5"


def no_fold(folder):
  pack(folder / "h5" / "part0.h5")
  return "h5/part0.h5"


def of_floats(folder):
  scipy.io.savemat(folder / "a.mat", {"feat": np.zeros(3)})
  return "a.mat"


BAD = {
  "no hdf5": ("panns", words, "words.h5: "),
  "other keys": (
    "panns",
    other_keys,
    "keys.h5: has no audio_name, waveform, target; it has images",
  ),
  "other labels": ("panns", other_labels, "target has 6 labels, but the vocabulary has 5"),
  "no names": ("panns", no_names, "contains no clip"),
  "no fold": ("panns", no_fold, "--fold"),
  "no file": ("panns", lambda folder: "none.h5", "none.h5: no such file"),
  "no packed file": ("panns", lambda folder: ".", "contains no .h5 file"),
  "no mat": ("talnet", lambda folder: ".", "contains no .mat file"),
  "other arrays": ("talnet", of_floats, "a.mat: has no labels, hashes; it has feat"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, vocabulary, bad):
  layout, make, names = BAD[bad]
  place, out = tmp_path / make(tmp_path), tmp_path / "out" / "s.h5"
  with pytest.raises(UserError) as caught:
    prepare(place, None, out, layout=layout, vocabulary=vocabulary)
  assert names in str(caught.value)
  assert "; " in str(caught.value)
  assert "\n" not in str(caught.value)
  assert not out.parent.exists()


def test_a_sound_file_reports_its_length_and_rate(tmp_path):
  import soundfile

  soundfile.write(tmp_path / "a.wav", np.zeros((8000, 2)), 44100)
  clip = load_file(str(tmp_path), TALNET, "a.wav")
  assert clip.rate_hz == 44100
  assert clip.seconds == 8000 / 44100
