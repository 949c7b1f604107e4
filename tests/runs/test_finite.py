"""NaN and infinite values are refused in all inputs and never returned as results."""

import csv
import json
import types

import jax
import numpy as np
import pytest
import runs_support
import small_store
from marks import slow
from runs_support import make_store, newest_sound, tiny_config, trained, wav, waveforms
from safetensors.numpy import load_file, save_file
from test_import_torch import config_of, saved_state

from atgcn_jax import cli
from atgcn_jax.audio import findings
from atgcn_jax.audio.frontend import FRONTENDS, log_mel
from atgcn_jax.audio.quantisation import quantise
from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.tfds.audioset_tfds import examples_of, planned
from atgcn_jax.data.tfds.write import FORMATS, write_tfds
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.interop.importing import import_torch
from atgcn_jax.runs import training_loop
from atgcn_jax.runs.label_graph import label_graph
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.run_checkpoints import save_checkpoint
from atgcn_jax.runs.step_inputs import device_feed, host_feed
from atgcn_jax.runs.thresholds import read_thresholds
from atgcn_jax.serving import sound_scorer
from atgcn_jax.serving import tagger as tagging
from atgcn_jax.training import checkpoint, saved_checkpoints, sharding
from atgcn_jax.training.finite import first_not_finite

pytestmark = pytest.mark.usefixtures("plain_pages")

NAN = float("nan")


def refused(capsys, status, *arguments):
  """Return the only line that a failing command prints, which is on stderr."""
  capsys.readouterr()
  assert cli.main([*map(str, arguments)]) == status
  reported = capsys.readouterr()
  assert reported.out == ""
  (line,) = reported.err.splitlines()
  assert len(line) < 400
  return line


# Stores.


@pytest.mark.parametrize("value", [NAN, slow(np.inf), slow(-np.inf)])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_clips_of_a_store(tmp_path, capsys, value, dtype):
  store = make_store(tmp_path / "s.h5", clips=40, dtype=dtype)
  small_store.spoil(store, [3, 7], value)
  what, count = ("peak", " (2 of 40 clips)") if dtype == "uint8" else ("log-mel", "")
  reported = f"s.h5: the {what} of clip clip3 is NaN or infinite{count}; prepare the store again"
  command = ["evaluate", "--workdir", trained(), "--store", store]
  assert reported in refused(capsys, 2, *command)
  command = ["compare", trained(), trained(), "--store", store, "--out", tmp_path / "out"]
  assert reported in refused(capsys, 2, *command)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("feed", [host_feed, device_feed])
def test_a_batch_names_the_clip_of_a_store(tmp_path, feed):
  path = make_store(tmp_path / "s.h5", clips=16, dtype="float16")
  small_store.spoil(path, [5])
  store, mesh = open_store(path), sharding.data_mesh()
  with pytest.raises(UserError, match=r"s\.h5: the log-mel of clip clip5 is NaN or infinite;"):
    list(feed(store, np.arange(16), mesh, range(2), 8, 0, balanced=False).given)


@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_training(tmp_path, placement, dtype):
  store = make_store(tmp_path / "s.h5", dtype=dtype)
  small_store.spoil(store, [4])
  config = tiny_config(tmp_path, f"data.store={store}", f"data.placement={placement}")
  with pytest.raises(UserError, match=r"s\.h5: the (peak|log-mel) of clip clip4 is NaN"):
    training_loop.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_tfds_datasets(tmp_path, monkeypatch, file_format, dtype):
  small_store.make(tmp_path / "s.h5", 20, dtype)
  small_store.spoil(tmp_path / "s.h5", [3])
  with pytest.raises(UserError, match=r"s\.h5: the (peak|log-mel) of clip clip 3 ü is NaN"):
    list(examples_of(*planned(types.SimpleNamespace(store=str(tmp_path / "s.h5"), audio=""))))
  # Written as by a version without these checks.
  for module in ("tfds.dataset", "store.clip_store"):
    monkeypatch.setattr(f"atgcn_jax.data.{module}.check_small", lambda *_: None)
  monkeypatch.setattr("atgcn_jax.data.store.clip_store.check_log_mels", lambda *_: None)
  made = write_tfds(str(tmp_path / "d"), file_format=file_format, store=str(tmp_path / "s.h5"))
  monkeypatch.undo()
  with pytest.raises(UserError, match=r"the (peak|log-mel) of clip clip 3 ü is NaN"):
    open_clips(made.path).read(np.arange(20))


def test_a_store_with_a_normaliser(tmp_path):
  path = make_store(tmp_path / "s.h5", clips=8)
  for mean, deviation in ((NAN, 1), (0, 0), (0, np.inf)):
    bad = [[0] * 15 + [mean], [1] * 15 + [deviation]]
    with small_store.h5py.File(path, "r+") as file:
      if "normaliser" in file:
        del file["normaliser"]
      file["normaliser"] = np.float32(bad)
    with pytest.raises(UserError, match=r"s\.h5: the normaliser must have finite means"):
      open_clips(path)


# Sound.


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_the_loudest_samples_have_finite_log_mels(frontend):
  rng = np.random.default_rng(0)
  sound = findings.LOUDEST * np.sign(rng.standard_normal(2 * FRONTENDS[frontend].sample_rate))
  assert findings.first_unusable(sound.astype("f")) is None
  compiled = jax.jit(log_mel, static_argnames=("frontend", "portable"))
  for portable in (False, True):
    assert np.isfinite(compiled(sound.astype("f"), frontend, portable=portable)).all()


def test_samples_beyond_the_range_of_sound(tmp_path, capsys, monkeypatch):
  runs_support.prepare_here(monkeypatch)
  folder, out = tmp_path / "audio", tmp_path / "s.h5"
  rng = np.random.default_rng(0)
  sound = rng.uniform(-1, 1, 16000)
  wav(folder / "a.wav", sound, 16000)
  wav(folder / "b.wav", 1e20 * sound, 16000)
  wav(folder / "c.wav", 1e300 * sound, 16000, subtype="DOUBLE")
  rows = "filename,fold,positive_labels\n" + "".join(f"{k}.wav,1,/m/a\n" for k in "abc")
  (tmp_path / "labels.csv").write_text(rows)
  built = prepare(folder, tmp_path / "labels.csv", out)
  assert built == (1, 0, 2)
  assert np.isfinite(open_clips(out).peak_db).all()
  reasons = dict(csv.reader((tmp_path / "s.h5.unreadable.csv").open()))
  assert "the sample at 0.000 s is " in reasons["b.wav"]
  assert "e+" in reasons["b.wav"]
  assert "where full scale is 1 and the limit 1e+12; write" in reasons["b.wav"]
  assert "is NaN or infinite" in reasons["c.wav"]
  line = refused(capsys, 2, "tag", "--workdir", trained(), folder / "b.wav")
  assert "b.wav: the sample at 0.000 s is" in line
  with pytest.raises(ValueError, match="one of the samples is NaN or infinite"):
    tagging.Tagger.restore(trained()).tag(1e300 * sound)


def test_log_mels_that_cannot_be_stored():
  log_mels = np.zeros((1, 4, 3), "f")
  log_mels[0, 1, 1] = 1e6
  with pytest.raises(ValueError, match=r"reaches 1e\+06, beyond the float16 limit of 65504"):
    quantise(log_mels, "float16")
  assert quantise(log_mels, "uint8")[1] == 1e6
  for value in (NAN, np.inf, -np.inf):
    log_mels[0, 1, 1] = value
    for dtype in ("uint8", "float16"):
      with pytest.raises(ValueError, match="its log-mel is NaN or infinite"):
        quantise(log_mels, dtype)


# Weights and constants of runs.


def spoilt_run(folder, name, value=NAN):
  """Return a run with one checkpoint that has this value in the named array."""
  config = tiny_config(trained().parent)
  run = new_run(config, open_store(config.data.store))
  state, constants = run.initial_state(), run.constants()
  if name in constants:
    constants[name] = np.array(constants[name])
    constants[name].flat[1] = value
  else:
    variables = {path: leaf for path, leaf in jax.tree.leaves_with_path(state.variables) if path}
    (where,) = [p for p in variables if jax.tree_util.keystr(p, simple=True, separator=".") == name]
    changed = jax.tree.map_with_path(
      lambda path, leaf: leaf.at[(0,) * leaf.ndim].set(value) if path == where else leaf,
      state.variables,
    )
    state = state.replace(**changed)
  with checkpoint.open_manager(folder) as manager:
    checkpoint.start_save(manager, state, constants, run.description() | {"history": []})
  return folder


BAD_ARRAYS = [
  ("params.encoder.clip1.kernel", NAN),
  ("batch_stats.encoder.bn0.var", np.inf),
  slow("mean", -np.inf),
  ("deviation", 0),
  slow("deviation", NAN),
  ("propagation", NAN),
  slow("label_embeddings", np.inf),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARRAYS)
def test_a_checkpoint(tmp_path, capsys, name, value):
  run, sound = (
    spoilt_run(tmp_path / "run", name, value),
    wav(tmp_path / "a.wav", waveforms(1, 0)[0][0]),
  )
  reported = f"checkpoint 0 holds values in {name} that are NaN or infinite; use another --step"
  for command in (
    ("tag", "--workdir", run, sound),
    ("embed", "--workdir", run, "--out", tmp_path / "e.npz", sound),
    ("evaluate", "--workdir", run),
    ("thresholds", "--workdir", run),
    ("export", "--workdir", run, "--to", "huggingface", "--out", tmp_path / "hub"),
  ):
    assert reported in refused(capsys, 2, *command)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "run"]
  with pytest.raises(UserError, match=f"values in {name}"):
    newest_sound(run, sharding.Layout(sharding.data_mesh()))


def test_an_export(tmp_path, capsys):
  hub = tmp_path / "hub"
  command = ["export", "--workdir", trained(), "--to", "huggingface", "--out", hub]
  assert cli.main([*map(str, command)]) == 0
  arrays = load_file(hub / "model.safetensors")
  for name in ("params.encoder.clip1.kernel", "constants.mean"):
    spoilt = {key: array.copy() for key, array in arrays.items()}
    spoilt[name][0] = NAN
    save_file(spoilt, hub / "model.safetensors")
    line = refused(capsys, 2, "tag", "--workdir", hub, wav(tmp_path / "a.wav", np.ones(99)))
    assert f"hub: model.safetensors holds values in {name} that are NaN or infinite" in line


def test_imported_weights(tmp_path):
  config, _ = config_of(tmp_path, "linear")
  path = saved_state(tmp_path, "linear", **{"fc1.bias": np.full(32, NAN, "f")})
  with pytest.raises(
    UserError, match=r"state\.npz: the weights of params\.encoder\.fc1\.bias hold"
  ):
    import_torch(path, config, tmp_path / "run", "panns")
  assert not (tmp_path / "run").exists()


def test_a_graph_file(tmp_path):
  config, propagation = config_of(tmp_path, "graph")
  ids = small_store.VOCABULARY.ids
  propagation[2, 1] = NAN
  np.savez(tmp_path / "graph.npz", propagation=propagation[:4, :4], mids=np.array(ids))
  with pytest.raises(UserError, match=r"graph\.npz: a weight of the graph is negative or not"):
    label_graph(config, small_store.VOCABULARY, None)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_thresholds(tmp_path, value):
  text = json.dumps({"step": 3, "labels": {"/m/0": {"threshold": 12345}}})
  (tmp_path / "thresholds.json").write_text(text.replace("12345", value))
  with pytest.raises(UserError, match=r"thresholds\.json: cannot be read as thresholds"):
    read_thresholds(tmp_path)


@pytest.mark.parametrize("label", ["", "a\nb"])
def test_thresholds_of_a_label_without_a_name(tmp_path, label):
  text = json.dumps({"step": 3, "labels": {label: {"threshold": 0.5}}})
  (tmp_path / "thresholds.json").write_text(text)
  with pytest.raises(UserError, match=r"label '.*' is empty or has control characters"):
    read_thresholds(tmp_path)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
  config = tiny_config(trained().parent)
  run = new_run(config, open_store(config.data.store))
  state = run.initial_state()
  with checkpoint.open_manager(tmp_path) as manager:
    save_checkpoint(manager, run, state, [])
    stats = jax.tree.map(lambda x: x + np.inf, state.batch_stats)
    with pytest.raises(WorkFailed, match=r"step 1: a value of batch_stats\..* of step 0"):
      save_checkpoint(manager, run, state.replace(step=state.step + 1, batch_stats=stats), [])
  assert saved_checkpoints.saved_steps(tmp_path) == [0]


def test_arrays_in_parts():
  mesh = sharding.data_mesh()
  split, whole = sharding.split(mesh), sharding.replicated(mesh)
  rows = np.zeros((16, 3), "f")
  tree = {"a": jax.device_put(rows, split), "b": [jax.device_put(rows, whole)], "n": np.arange(3)}
  assert first_not_finite(tree) is None
  bad = rows.copy()  # an array on a CPU device may share the memory of the rows
  bad[13, 1] = NAN
  assert first_not_finite(tree | {"a": jax.device_put(bad, split)}) == "a"
  assert first_not_finite(tree | {"b": [jax.device_put(bad, whole)]}) == "b.0"
  assert first_not_finite(tree | {"n": bad}) == "n"


# Results.


@pytest.fixture
def of_nan(monkeypatch):
  """Make runs return NaN for sounds that start with a sample of full scale."""
  made = sound_scorer.window_outputs

  def window_outputs(run):
    def outputs(variables, windows):
      bad = np.float32(NAN) * (windows[:, :1] == 1)
      found = made(run)(variables, windows)
      return {name: jax.numpy.where(windows[:, :1] == 1, bad, x) for name, x in found.items()}

    return outputs

  monkeypatch.setattr(sound_scorer, "window_outputs", window_outputs)


def test_scores_and_embeddings(tmp_path, capsys, of_nan):
  sound = waveforms(1, 0)[0][0]
  good = wav(tmp_path / "good.wav", sound)
  sound[0] = 1
  bad = wav(tmp_path / "bad.wav", sound)
  reported = "bad.wav: the {} NaN or infinite at step 30 of the run; use another step"
  tag, embed = (("tag", "--workdir", trained()), ("embed", "--workdir", trained(), "--out"))
  assert reported.format("scores are") in refused(capsys, 1, *tag, bad)
  assert reported.format("embedding is") in refused(capsys, 1, *embed, tmp_path / "e.npz", bad)
  assert not (tmp_path / "e.npz").exists()
  assert cli.main([*map(str, (*tag, "--json", bad, good))]) == 1
  printed = capsys.readouterr()
  assert [json.loads(line)["file"] for line in printed.out.splitlines()] == [str(good)]
  assert reported.format("scores are") in printed.err
  tagger = tagging.Tagger.restore(trained())
  for call in (tagger.tag, tagger.scores, tagger.embed, tagger.timeline):
    call(good)
    with pytest.raises(WorkFailed, match=r"bad\.wav: the"):
      call(bad)
  with pytest.raises(WorkFailed, match="sound data: the scores"):
    tagger.tag(sound)


def test_a_tagger_of_variables(tmp_path):
  loaded = load_run(trained(), "latest", sharding.data_mesh(jax.devices()[:1]))
  spoilt = jax.tree.map(lambda x: x * np.float32(NAN), loaded.state)
  with pytest.raises(ValueError, match=r"^batch_stats\.\S+ holds values that are NaN"):
    tagging.Tagger(loaded.run, spoilt)
