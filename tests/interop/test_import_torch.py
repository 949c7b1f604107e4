"""Tests of reading PyTorch files and of creating a run from one."""

import jax
import numpy as np
import pytest
from runs_support import REPOSITORY, newest_sound, wav
from test_mobilenet import formula_state as mobilenet_state
from test_torch_weights import formula_state

from atgcn_jax import Tagger, cli, models
from atgcn_jax.audio.frontend import FRONTENDS, log_mel
from atgcn_jax.errors import UserError
from atgcn_jax.interop.importing import import_torch, read_state_dict, read_torch
from atgcn_jax.interop.torch_weights import convert
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.runs import load
from atgcn_jax.runs.config import load_config
from atgcn_jax.training.sharding import Layout, data_mesh

CONFIGS = REPOSITORY / "configs"
VOCABULARY = Vocabulary(
  tuple(f"/m/{k}" for k in range(5)), ("Dog", "Bark", "Cat", "Rain", "Train horn")
)
CONFIG = """
def get_config():
  return dict(
    model=dict(width=0.0625, head="{head}"),
    data=dict(root={root!r}, vocabulary="labels.csv"),
    graph=dict(source="graph.npz", embedding_size=6),
  )
"""


def config_of(folder, head, *overrides):
  """Write the files of a narrow system on five labels to a folder and return its config."""
  write_vocabulary(folder / "labels.csv", VOCABULARY)
  propagation = np.random.default_rng(0).random((5, 5)).astype("f")
  # The file of the graph has the labels in another order.
  np.savez(folder / "graph.npz", propagation=propagation, mids=np.array(VOCABULARY.ids)[::-1])
  (folder / "config.py").write_text(CONFIG.format(head=head, root=str(folder)))
  return load_config(folder / "config.py", [f"--config.{item}" for item in overrides]), propagation


def saved_state(folder, head, **changes):
  np.savez(folder / "state.npz", **formula_state(head, bands=64) | changes)
  return folder / "state.npz"


@pytest.mark.parametrize("head", ["linear", "graph"])
def test_a_run_from_weights(tmp_path, head):
  config, propagation = config_of(tmp_path, head)
  front_end = {"logmel_extractor.melW": np.zeros((3, 2), "f")}
  import_torch(saved_state(tmp_path, head, **front_end), config, tmp_path / "run", "panns")
  loaded = load.load_run(tmp_path / "run", "latest", data_mesh())
  assert loaded.step == 0
  assert loaded.history == []
  assert loaded.run.vocabulary == VOCABULARY
  assert loaded.run.frontend.sample_rate == 32_000
  expected = convert(formula_state(head, bands=64), config.model)
  jax.tree.map(np.testing.assert_array_equal, loaded.state, expected)
  np.testing.assert_array_equal(loaded.run.normaliser.mean, np.zeros(64))
  np.testing.assert_array_equal(loaded.run.normaliser.deviation, np.ones(64))
  if head == "graph":
    np.testing.assert_array_equal(loaded.run.propagation, propagation[::-1, ::-1])
    assert loaded.run.label_embeddings.shape == (5, 6)
  else:
    assert loaded.run.propagation is None
  restored = newest_sound(tmp_path / "run", Layout(data_mesh()))
  assert restored is not None
  assert int(restored.state.step) == 0  # includes the optimiser state, so training can continue
  with pytest.raises(UserError, match="holds a run"):
    import_torch(saved_state(tmp_path, head), config, tmp_path / "run")


@pytest.mark.parametrize(
  ("overrides", "changes", "message"),
  [
    (["data.vocabulary="], {}, "data.vocabulary: name the CSV"),
    (["model.width=0.125"], {}, "set model.width and data.vocabulary"),
    (["model.layers=3"], {}, "state.npz: .*missing .*gcn.gc3.weight.*config.model"),
    (["model.head=linear"], {}, "state.npz: .*missing .*fc_audioset.weight.*config.model"),
    ([], {"extra.weight": np.zeros(2, "f")}, "state.npz: .*unknown .*extra.weight"),
    (["model.activation=prelu"], {}, "state.npz: has no .*negative_slope.*model.activation"),
    (["graph.source=store"], {}, "graph.source: 'store' needs a clip store"),
    (["graph.embedding_size=7"], {}, "gc1.*set model.width"),
  ],
)
def test_what_does_not_fit_is_refused(tmp_path, overrides, changes, message):
  config, _ = config_of(tmp_path, "graph", *overrides)
  with pytest.raises(UserError, match=message) as caught:
    import_torch(saved_state(tmp_path, "graph", **changes), config, tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_the_width_of_the_weights_is_named(shared):
  config = load_config(f"{CONFIGS / 'pretrained/mn.py'}:mn10")
  message = r"model\.width 0\.4, but the config has 1; use .*mn\.py:mn04, or set .*width=0\.4"
  with pytest.raises(UserError, match=message):
    read_torch(shared / "data/weights/mn04_as_mAP_432.pt", config)


@pytest.mark.slow
def test_the_config_names_front_end_and_labels(tmp_path):
  (tmp_path / "config.py").write_text("""
def get_config():
  return dict(
    model=dict(encoder="mobilenet", head="linear", width=0.15),
    data=dict(vocabulary="audioset", frontend="efficientat"),
  )
""")
  np.savez(tmp_path / "state.npz", **mobilenet_state(527))
  config = load_config(tmp_path / "config.py")
  import_torch(tmp_path / "state.npz", config, tmp_path / "run")
  run = load.load_run(tmp_path / "run", "latest", data_mesh()).run
  assert run.frontend == FRONTENDS["efficientat"]
  assert (len(run.vocabulary), run.vocabulary.names[:2]) == (
    527,
    ("Speech", "Male speech, man speaking"),
  )
  np.testing.assert_array_equal(run.normaliser.mean, np.zeros(128))
  np.testing.assert_array_equal(run.normaliser.deviation, np.ones(128))
  config.data.frontend = "cochlea"
  with pytest.raises(UserError, match=r"data.frontend must be one of .*efficientat, got 'cochlea'"):
    import_torch(tmp_path / "state.npz", config, tmp_path / "other")


@pytest.mark.slow
def test_efficientats_file_becomes_a_tagger(shared, tmp_path):
  weights = shared / "data/weights/mn04_as_mAP_432.pt"
  config = CONFIGS / "pretrained/mn04.py"
  words = ["import-torch", weights, "--config", config, "--workdir", tmp_path / "run"]
  assert cli.main([*map(str, words)]) == 0
  tagger = Tagger.restore(tmp_path / "run")
  golden = np.load(shared / "golden/mn04.npz")
  waveforms = (golden["waveform"] / 32768).astype("f")
  tags = tagger.tag(waveforms[0], rate=32_000, top=527)
  assert len(tags) == 527
  assert {"Animal", "Dog", "Bark"} < {tag.name for tag in tags[:4]}
  # A short sound is padded with silence to ten seconds, which the reference is not.
  model = models.build(tagger.run.config.model, num_classes=527)
  variables = load.load_run(tmp_path / "run", "latest", data_mesh()).state
  padded = log_mel(np.pad(waveforms, ((0, 0), (0, 160_000))), "efficientat")
  for inputs, expected in (
    (log_mel(waveforms, "efficientat"), golden["logits"]),
    (padded, np.log(scores := np.array([tagger.scores(x) for x in waveforms])) - np.log1p(-scores)),
  ):
    found = jax.jit(model.apply)(variables, inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
  timeline = tagger.timeline(np.concatenate(waveforms), hop_seconds=5)
  assert timeline.scores.shape == (3, 527)
  np.testing.assert_array_equal(timeline.start_s, [0, 5, 10])


def test_npz_is_read_as_it_is(tmp_path):
  np.savez(tmp_path / "a.npz", **{"bn0.weight": np.arange(3.0)})
  np.testing.assert_array_equal(read_state_dict(tmp_path / "a.npz")["bn0.weight"], [0, 1, 2])
  np.savez(tmp_path / "b.npz", a=np.array([{"an": "object"}], dtype=object))
  for name in ("b.npz", "absent.npz"):
    with pytest.raises(UserError, match=name):
      read_state_dict(tmp_path / name)


@pytest.mark.slow
def test_an_imported_run_can_be_finetuned(tmp_path):
  config, _ = config_of(tmp_path, "graph")
  import_torch(saved_state(tmp_path, "graph"), config, tmp_path / "run", "panns")
  noise = np.random.default_rng(0).uniform(-0.1, 0.1, (12, 3200)).astype("f")
  rows = ["filename,fold,positive_labels"]
  for i, sound in enumerate(noise):
    wav(tmp_path / "clips" / f"{i}.wav", sound, 32_000)
    rows.append(f"{i}.wav,{'train' if i < 10 else 'validation'},{'ab'[i % 2]}")
  (tmp_path / "labels_of_clips.csv").write_text("\n".join([*rows, ""]))
  prepared = ["--audio", tmp_path / "clips", "--labels", tmp_path / "labels_of_clips.csv"]
  prepared += ["--frontend", "panns", "--out", tmp_path / "clips.h5"]
  assert cli.main(["prepare", *map(str, prepared)]) == 0
  begun = ["--from", tmp_path / "run", "--store", tmp_path / "clips.h5", "--frozen"]
  begun += ["--workdir", tmp_path / "next", "--config.optim.steps=1"]
  begun += ["--config.data.batch_size=8", "--config.evaluation.batch_size=8"]
  assert cli.main(["finetune", *map(str, begun)]) == 0
  one, other = (load.load_run(tmp_path / name, "latest", data_mesh()) for name in ("run", "next"))
  assert other.run.vocabulary.ids == ("a", "b")
  for kind in ("params", "batch_stats"):
    encoders = (loaded.state[kind]["encoder"] for loaded in (one, other))
    jax.tree.map(np.testing.assert_array_equal, *encoders)
