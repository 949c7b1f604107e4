"""Tests of exports of pretrained networks, which are loaded in processes without this package."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from test_export import SNIPPETS, assert_scores_of, outside

from atgcn_jax import Tagger
from atgcn_jax.audio import sound_files
from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.errors import UserError
from atgcn_jax.interop import onnx
from atgcn_jax.interop.export import write_export
from atgcn_jax.labels.vocabulary import read_vocabulary
from atgcn_jax.pretrained import cache
from atgcn_jax.pretrained.catalogue import MODELS
from atgcn_jax.pretrained.settings import config_of
from atgcn_jax.runs.run import Loaded, Run
from atgcn_jax.runs.safetensors_folder import read_export
from atgcn_jax.training.step import Normaliser

FORMATS = ("StableHLO", "SavedModel", "ONNX", "Hugging Face")
FRONTEND = FRONTENDS["efficientat"]


@pytest.fixture(scope="module")
def small():
  """Return a network of a tenth of the width on clips of one second, with random weights."""
  frontend = dataclasses.replace(FRONTEND, seconds=1.0)
  bands = np.zeros(frontend.n_mels, "f")
  run = Run(
    config_of(MODELS["mn01"]),
    read_vocabulary("audioset"),
    frontend,
    Normaliser(bands, bands + 1),
    *(None, None, None, ""),
  )
  random = np.random.default_rng(0)

  def value(path, leaf):
    if path[-1].key == "kernel":
      return random.standard_normal(leaf.shape, "f") * (2 / np.prod(leaf.shape[:-1])) ** 0.5
    return np.full(leaf.shape, path[-1].key in ("scale", "var"), "f")

  variables = jax.tree.map_with_path(value, run.abstract_state().variables)
  return Loaded(0, run, [], jax.device_put(variables))


@pytest.fixture(scope="module")
def published(shared, tmp_path_factory):
  """Return the published network `mn04`."""
  home = tmp_path_factory.mktemp("cache")
  folder = home / "atgcn_jax" / cache.FOLDER
  folder.mkdir(parents=True)
  shutil.copy(shared / "data/weights" / MODELS["mn04"].file, folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(home))
    return read_export(cache.pretrained_run("mn04", offline=True))


def noises():
  """Return noise that grows, of one window and of two and a half."""
  random = np.random.default_rng(0)
  size = FRONTEND.sample_rate
  made = {
    "one": random.standard_normal((1, size)),
    "long": random.standard_normal((2, size * 5 // 2)),
  }
  return {
    name: (sound * np.geomspace(1e-3, 0.1, sound.shape[1])).astype("f")
    for name, sound in made.items()
  }


def recordings(shared):
  """Return real sounds: four of the golden file, and recordings of ESC-10."""
  golden = np.load(shared / "golden/mn04.npz")["waveform"]
  found = {"golden": (golden / 32768).astype("f")}
  for path in sorted((shared / "data/esc10/audio").glob("*.ogg"))[:120:40]:
    found[path.stem] = sound_files.load_waveform(path, FRONTEND.sample_rate)[None]
  found["long"] = np.concatenate([sound[:1] for sound in found.values()], axis=1)
  return found


# Exports of runs that this package trained are tested each time in test_export.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "published"])
@pytest.mark.parametrize("format_", FORMATS)
def test_exports_give_the_scores_of_the_tagger(name, format_, request, tmp_path):
  python = []
  if format_ == "ONNX":
    try:
      python = [onnx.converter()]
    except UserError as error:
      pytest.skip(str(error))
  loaded = request.getfixturevalue(name)
  sounds = noises() if name == "small" else recordings(request.getfixturevalue("shared"))
  to = format_.replace(" ", "").lower()
  folder = tmp_path / f"demo-{to}"
  folder.mkdir()
  write_export(folder, loaded, to, tmp_path)
  tagger = Tagger(loaded.run, loaded.state)
  if format_ == "Hugging Face":
    restored = Tagger.restore(folder)
    for sound in sounds.values():
      np.testing.assert_array_equal(restored.scores(sound[0]), tagger.scores(sound[0]))
    return
  assert_scores_of(tagger, sounds, outside(SNIPPETS[format_], tmp_path, sounds, *python))
