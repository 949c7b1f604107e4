"""Tests that run the commands of the pages on clips and runs, with small substitute files."""

import functools
import hashlib
import http.server
import json
import pathlib
import shlex
import shutil
import tarfile
import tempfile
import threading

import feature_files
import numpy as np
import pytest
import soundfile
from pages import PAGES, name_of, to_run
from runs_support import REPOSITORY, prepare_here
from test_label_folders import fsd50k_folder, urbansound8k_folder
from test_layouts import esc50_folder, make_sound, write_annotations
from test_packed_layouts import pack, write_mat
from test_torch_weights import formula_state

from atgcn_jax import cli
from atgcn_jax.data import audioset_files
from atgcn_jax.data.layouts import esc50
from atgcn_jax.errors import UserError
from atgcn_jax.interop import onnx

SMALLER = [
  f"--config.{change}"
  for change in (
    "optim.steps=2",
    "optim.passes=0",
    "optim.warmup_steps=1",
    "data.batch_size=8",
    "evaluation.batch_size=8",
    "checkpoint.every=2",
    "evaluation.every=2",
  )
]
NARROW = "--config.model.width=0.03125"
TRAINED_ON = {  # overrides of the configs for a dozen clips
  "configs/quickstart.py": ["--config.data.store=clips.h5"],  # instead of soundscapes
  "configs/cnn10_audioset.py": ["--config.data.validation_share=0.3"],
  "configs/atgcn_audioset.py": ["--config.data.validation_share=0.3"],
  "configs/table1/multilevel_attention.py:original": ["--config.data.validation_share=0.3"],
}
PREPARED = (  # stores that the pages assume to exist
  "--audio clips/ --labels labels.csv --vocabulary vocabulary.csv --out clips.h5",
  "--audio DATA/esc10/audio --labels DATA/esc10/labels.csv --out DATA/esc10.h5 "
  "--vocabulary DATA/audioset/class_labels_indices.csv",
  "--layout segments --audio clips/ --vocabulary class_labels_indices.csv --out data/audioset.h5 "
  "--labels unbalanced_train_segments.csv eval_segments.csv",
)
MORE = {
  "train": [*SMALLER, NARROW],
  "finetune": SMALLER,
  "import-torch": ["--config.model.width=0.0625"],
  "mixtures": ["--clips", "12", "--rate", "4000"],
}
WRITTEN = {"--out", "--workdir", "--csv", "--plot"}  # options that name an output
MADE = {  # output files of each page that no option names
  "own-data.md": ("runs/mine/report.html", "runs/mine/compare/compare.png", "mine/README.md"),
}
LABELS = ("dog", "rain", "rooster", "sneezing", "helicopter")  # categories of ESC-50
IDS = [esc50.LABELS[name] for name in LABELS]
CLIPS = [f"{kind}_clip_{i:04d}" for kind in "abe" for i in range(8)]  # clips of three segment lists
LISTS = ("unbalanced_train_segments", "balanced_train_segments", "eval_segments")


def table(path, head, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{row}\n" for row in [head, *rows]))


def labels_of(i):
  return ",".join(sorted({IDS[i % 5], IDS[i // 5 % 5]}))


def write_lists(folder):
  """Write the files of AudioSet, with five labels."""
  names = [f"{k},{key},{('Bark', *LABELS[1:])[k].title()}" for k, key in enumerate(IDS)]
  table(folder / "class_labels_indices.csv", "index,mid,display_name", names)
  for k, name in enumerate(LISTS):
    rows = [f'{clip}, 0.000, 10.000, "{labels_of(i)}"' for i, clip in enumerate(CLIPS)]
    table(folder / f"{name}.csv", "# YTID, start, end, positive_labels", rows[8 * k : 8 * k + 8])
  table(folder / "qa_true_counts.csv", "label_id,num_rated,num_true", [f"{k},10,9" for k in IDS])
  nodes = [{"id": key, "name": "n", "child_ids": []} for key in esc50.LABELS.values()]
  (folder / "ontology.json").write_text(json.dumps(nodes))
  random = np.random.default_rng(0)
  vectors = random.standard_normal((5, 300)).astype("f")
  np.savez(folder / "glove_300d.npz", mids=IDS, vectors=vectors)
  counts = {"occurrences": np.full(5, 9), "cooccurrences": np.full((5, 5), 4)}
  np.savez(folder / "counts.npz", mids=IDS, **counts)
  of_set = {f"{name}_full": array for name, array in counts.items()}
  np.savez(folder / "cooccurrence.npz", mids=IDS, **of_set)


def write_features(path):
  """Write the archive of features of the clips of the segment lists."""
  with tempfile.TemporaryDirectory() as folder:
    for k, part in enumerate(("unbal_train", "bal_train", "eval")):
      contents = [
        feature_files.example(clip, {i % 5, i // 5 % 5}, feature_files.embeddings(i))
        for i, clip in enumerate(CLIPS)
      ]
      file = pathlib.Path(folder, part, "a.tfrecord")
      feature_files.write(file, contents[8 * k : 8 * k + 8])
    with tarfile.open(path, "w:gz") as archive:
      archive.add(folder, "audioset_v1_embeddings")


def write_sounds(folder, names, folds):
  """Write recordings, and return the head and rows of their label list."""
  rows = []
  for i, name in enumerate(names):
    make_sound(folder / name, i)
    rows.append(f'{name},{folds[i % len(folds)]},"{labels_of(i)}"')
  return "filename,fold,positive_labels", rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Return a folder with the files that the pages name."""
  folder = tmp_path_factory.mktemp("world")
  (folder / "configs").symlink_to(REPOSITORY / "configs")
  for name in ("recording.mp3", "recording.wav", "other.wav", "recordings/1.wav"):
    (folder / name).parent.mkdir(exist_ok=True)
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000)
    soundfile.write(folder / name, sound, 16_000)
  names = [f"{i}.wav" for i in range(24)]
  head, rows = write_sounds(folder / "clips", names, ("train", "train", "validation", "test"))
  for i, clip in enumerate(CLIPS):
    make_sound(folder / "clips" / f"{clip}.wav", i)
  table(folder / "labels.csv", head, rows)
  write_lists(folder)
  shutil.copy(folder / "class_labels_indices.csv", folder / "vocabulary.csv")
  for i in range(30):
    make_sound(folder / "sounds" / LABELS[i % 5] / f"{i}.wav", i)
    make_sound(folder / "calls" / f"{i}.wav", i)
    (folder / "calls" / f"{i}.txt").write_text(f"0.05\t0.15\t{LABELS[i % 5]}\n")
  fsd50k_folder(folder / "FSD50K")
  urbansound8k_folder(folder / "UrbanSound8K")
  for place in ("audioset", "data/audioset", "DATA/audioset"):
    write_lists(folder / place)
  shutil.copytree(folder / "clips", folder / "DIR")
  shutil.copy(folder / "labels.csv", folder / "LABELS.csv")
  words = {word for name in LABELS for word in (name, "bark")}
  vector = " ".join(f"{x:.2f}" for x in np.random.default_rng(2).standard_normal(300))
  (folder / "data/GLOVE").write_text("".join(f"{word} {vector}\n" for word in sorted(words)))
  esc = folder / "DATA/esc10"
  names = ["001-5-203128-A.ogg", *(f"{i}.ogg" for i in range(24))]
  table(esc / "labels.csv", *write_sounds(esc / "audio", names, "51234"))
  esc50_folder(folder / "ESC-50-master", LABELS, LABELS)
  write_annotations(folder / "annotations.csv")
  for name in ("00_0.wav", "01_1.wav", "02_2.wav", "gone.wav"):
    make_sound(folder / "SONYC" / name)
  (folder / "hdf5s").mkdir()
  pack(folder / "hdf5s/waveforms/eval.h5")
  write_mat(folder / "audioset/GAS_eval_part00.mat")
  write_features(folder / "features.tar.gz")
  for place in ("audioset", "data/audioset"):
    shutil.copy(folder / "features.tar.gz", folder / place)
  np.savez(folder / "Cnn10.npz", **formula_state("linear", bands=64))
  return folder


def run(words):
  """Run one command, after removing an output that another command of the page may have written."""
  made = {"train": "--workdir", "finetune": "--workdir", "prepare": "--out"}.get(words[0])
  if made:
    path = pathlib.Path(words[words.index(made) + 1])
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
  assert cli.main([*words, *MORE.get(words[0], [])]) == 0, words
  for option in WRITTEN.intersection(words):
    assert pathlib.Path(words[words.index(option) + 1]).exists(), words


@pytest.fixture(scope="module")
def home(world):
  """Return the folder with a first run, copied to all runs that the pages assume to exist."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(world)
    prepare_here(patch)
    for command in PREPARED:
      run(shlex.split(f"prepare {command}"))
    shutil.copy("clips.h5", "mine.h5")
    first = shlex.split("train --config configs/quickstart.py --workdir runs/demo")
    run([*first, *TRAINED_ON[first[2]]])
  for name in ("RUN", "runs/source", "runs/scratch", "quickstart/cnn10", "quickstart/atgcn"):
    shutil.copytree(world / "runs/demo", world / name)
  return world


@pytest.fixture
def mirror(world, monkeypatch):
  """Yield the address of a server with the files of AudioSet."""
  folder = world / "audioset"
  files = [
    audioset_files.File(file.name, "", sha256=digest(folder / file.name))
    for file in audioset_files.FILES
  ]
  monkeypatch.setattr(audioset_files, "FILES", files)
  handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def digest(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:--split 80/10/10")  # three clips of five labels
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page, False)], ids=name_of)
def test_commands_run(page, home, mirror, tmp_path, monkeypatch):
  shutil.copytree(home, tmp_path / "home", symlinks=True)
  monkeypatch.chdir(tmp_path / "home")
  prepare_here(monkeypatch)
  for words in to_run(page, measuring=False):
    if "onnx" in words and not has_converter():
      continue
    if words[0] == "metadata":
      words += ["--mirror", mirror]
      for file in audioset_files.FILES:
        (pathlib.Path(words[words.index("--out") + 1]) / file.name).unlink()
    if words[0] == "train":
      words += TRAINED_ON.get(words[2], [])
    run(words)
  assert all(pathlib.Path(path).is_file() for path in MADE.get(page.name, []))


def has_converter():
  try:
    return onnx.converter()
  except UserError:
    return None
