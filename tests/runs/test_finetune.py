"""Fine-tuning of runs on other labels."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from marks import slow
from runs_support import (
  FRONTEND,
  contents,
  make_store,
  records,
  same_bits,
  saved,
  start_many,
  tiny_config,
  trained,
)

from atgcn_jax import cli
from atgcn_jax.data.normaliser import band_statistics
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.interop.export import export
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.plan.compiled_step import traced_step
from atgcn_jax.runs import finetune as finetuning
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.load import load_run, read_run
from atgcn_jax.runs.training_loop import train
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training import sharding

# Eight labels; the source has six.
OTHERS = Vocabulary(
  tuple(f"/m/x{k}" for k in range(8)),
  ("Bark", "Meow", "Rain", "Wind", "Engine", "Siren", "Door", "Bell"),
)
SMALL = [
  f"--config.{change}"
  for change in (
    "optim.steps=12",
    "optim.learning_rate=1e-2",
    "optim.schedule=constant",
    "optim.warmup_steps=2",
    "evaluation.every=6",
    "checkpoint.every=3",
    "checkpoint.keep=9",
    "log.every=1",
  )
]


@pytest.fixture
def store(tmp_path):
  return make_store(tmp_path / "others.h5", vocabulary=OTHERS, seed=1)


def finetune(store, workdir, *arguments, source=None):
  words = ["finetune", "--from", source or trained(), "--store", store, "--workdir", workdir]
  return cli.main([*map(str, words), *SMALL, *arguments])


def at(workdir, step):
  return load_run(workdir, step, sharding.data_mesh())


def encoder(state):
  kinds = ("params", "batch_stats")
  if not isinstance(state, dict):
    state = state.variables
  return {kind: state[kind]["encoder"] for kind in kinds}


@pytest.mark.slow
def test_finetune_on_other_labels(store, tmp_path):
  assert finetune(store, tmp_path / "run") == 0
  source, begun, done = saved(trained()), at(tmp_path / "run", "0"), saved(tmp_path / "run")
  assert done.run.vocabulary == OTHERS
  assert done.run.propagation.shape == (8, 8)
  assert done.run.config.start.step == "30"
  assert same_bits(encoder(begun.state), encoder(source.state.variables))
  assert not same_bits(encoder(done.state), encoder(begun.state))
  # Graph convolutions apply to any number of label vectors.
  assert same_bits(begun.state["params"]["head"], source.state.params["head"])
  clips = open_store(store)
  mean, _ = band_statistics(clips, split_clips(clips, splits_of(done.run.config), "train"))
  assert np.array_equal(done.run.normaliser.mean, mean)
  losses = [loss for _, keys, loss in records(tmp_path / "run") if "loss" in keys]
  assert np.mean(losses[-3:]) < np.mean(losses[:3])
  sound = np.random.default_rng(0).standard_normal(FRONTEND.samples).astype("f")
  assert {tag.id for tag in Tagger.restore(tmp_path / "run").tag(sound, top=8)} == set(OTHERS.ids)


def test_frozen_leaves_the_encoder(store, tmp_path):
  assert finetune(store, tmp_path / "run", "--frozen") == 0
  begun, done = at(tmp_path / "run", "0"), saved(tmp_path / "run")
  source = saved(trained())
  assert same_bits(encoder(done.state), encoder(source.state))
  assert np.array_equal(done.run.normaliser.mean, source.run.normaliser.mean)
  before, after = begun.state["params"]["head"], done.state.params["head"]
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)))
  losses = [loss for _, keys, loss in records(tmp_path / "run") if "loss" in keys]
  assert np.mean(losses[-3:]) < np.mean(losses[:3])
  moments = [x.shape for x in jax.tree.leaves(done.state.opt_state) if x.ndim]
  assert sorted(moments) == sorted(2 * [x.shape for x in jax.tree.leaves(after)])


@pytest.mark.parametrize("name", ["cnn10", slow("talnet"), slow("google_cnn"), slow("deepres")])
def test_a_frozen_step_has_no_backward_pass_through_the_encoder(tmp_path, name):
  costs = []
  for frozen in (False, True):
    config = tiny_config(
      tmp_path, f"model.encoder={name}", f"model.freeze_encoder={frozen}", "model.depth=34"
    )
    step = traced_step(config, jax.devices()[:1], 2, frames=160, bands=64, classes=8)
    costs.append(step.lower().cost_analysis()["flops"])
  assert costs[1] < costs[0] / 2


@pytest.mark.slow
def test_with_parts_of_the_state_on_each_device(store, tmp_path):
  assert finetune(store, tmp_path / "whole", "--frozen") == 0
  assert finetune(store, tmp_path / "parts", "--frozen", "--config.sharding.fsdp=True") == 0
  one, other = saved(tmp_path / "whole").state, saved(tmp_path / "parts").state
  assert same_bits(encoder(one), encoder(other))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-3, atol=2e-4),
    one.params["head"],
    other.params["head"],
  )


@pytest.mark.slow
def test_a_given_graph(store, tmp_path, capsys):
  random = np.random.default_rng(0)
  together = random.integers(1, 9, (8, 8))
  together = together + together.T
  counts = tmp_path / "counts.npz"
  np.savez(
    counts,
    mids=np.array(OTHERS.ids),
    occurrences_full=together.sum(axis=1),
    cooccurrences_full=together,
  )
  vocabulary = tmp_path / "vocabulary.csv"
  rows = [f"{k},{mid},{name}" for k, (mid, name) in enumerate(zip(OTHERS.ids, OTHERS.names))]
  vocabulary.write_text("\n".join(["index,mid,display_name", *rows, ""]))
  graph = tmp_path / "graph.npz"
  words = ["--counts", counts, "--set", "full", "--vocabulary", vocabulary, "--out", graph]
  assert cli.main(["graph", *map(str, words)]) == 0
  short = "--config.optim.steps=3"
  full = "--config.graph.counts_set=full"
  for name, file, *more in (("counts", counts, short, full), ("graph", graph, short)):
    assert finetune(store, tmp_path / name, "--graph", str(file), *more) == 0
    made = saved(tmp_path / name).run.propagation
    np.testing.assert_allclose(made, np.load(graph)["propagation"], atol=1e-6)
  assert finetune(store, tmp_path / "own", short) == 0
  assert not np.allclose(saved(tmp_path / "own").run.propagation, made)


@pytest.mark.slow
def test_resumes_to_the_same_bits(store, tmp_path):
  assert finetune(store, tmp_path / "whole") == 0
  for steps in ("5", "12"):
    assert finetune(store, tmp_path / "cut", f"--config.optim.steps={steps}") == 0
  assert same_bits(saved(tmp_path / "cut").state, saved(tmp_path / "whole").state)
  before = contents(tmp_path / "whole" / "checkpoints")
  assert finetune(store, tmp_path / "whole") == 0
  assert contents(tmp_path / "whole" / "checkpoints") == before


@pytest.mark.slow
def test_from_an_export(store, tmp_path):
  export(trained(), "huggingface", tmp_path / "export")
  assert finetune(store, tmp_path / "one", source=tmp_path / "export") == 0
  assert finetune(store, tmp_path / "other") == 0
  assert same_bits(saved(tmp_path / "one").state, saved(tmp_path / "other").state)


def refused(capsys, *arguments, **options):
  capsys.readouterr()
  with_status = finetune(*arguments, **options)
  printed = capsys.readouterr()
  assert with_status == 2
  assert len(printed.err.strip().splitlines()) == 1
  return printed.err


def test_invalid_arguments(store, tmp_path, capsys):
  out = tmp_path / "run"
  assert "no run with a checkpoint" in refused(capsys, store, out, source=tmp_path / "nothing")
  assert "nothing.h5" in refused(capsys, tmp_path / "nothing.h5", out)
  assert "no such checkpoint" in refused(capsys, store, out, "--step", "7")
  assert "nothing.npz" in refused(capsys, store, out, "--graph", str(tmp_path / "nothing.npz"))
  folds = "--config.data.train_folds=('9',)"
  assert "data.train_folds" in refused(capsys, store, out, folds)
  odd = dataclasses.replace(FRONTEND, name="odd", fmax=1900.0)
  other = make_store(tmp_path / "odd.h5", vocabulary=OTHERS, frontend=odd)
  assert "has the front end tiny, the store has odd" in refused(capsys, other, out)
  assert not out.exists()


def test_a_source_in_a_bucket_is_not_the_one_on_the_disk(tmp_path, monkeypatch):
  found = read_run(trained(), 30)
  found.run.config.start.update({"run": str(tmp_path), "step": "30"})
  monkeypatch.setattr(finetuning, "read_run", lambda workdir, step: found)
  with pytest.raises(UserError, match=f"started from {tmp_path}, not from gs://bucket/run; use"):
    finetuning.check_begun_with("gs://bucket/run", 30, trained())


@pytest.mark.slow
def test_a_folder_with_another_start_is_not_changed(store, tmp_path, capsys):
  source = shutil.copytree(trained(), tmp_path / "source")
  out = tmp_path / "run"
  assert finetune(store, out, "--config.optim.steps=3", source=source) == 0
  before = contents(out)
  assert f"its run started from {source}" in refused(capsys, store, out)
  assert "model.freeze_encoder" in refused(capsys, store, out, "--frozen", source=source)
  assert "run started from step 30" in refused(capsys, store, out, "--step", "28", source=source)
  assert contents(out) == before
  scratch = shutil.copytree(trained(), tmp_path / "scratch")
  before = contents(scratch)
  assert "has a run with another config" in refused(capsys, store, scratch, source=source)
  assert contents(scratch) == before


@pytest.mark.slow
def test_an_encoder_with_parameters_per_label_requires_as_many_labels(store, tmp_path, capsys):
  folder = tmp_path / "given"
  folder.mkdir()
  config = tiny_config(folder, "model.encoder=multilevel_attention_embeddings", "optim.steps=1")
  train(config, folder / "run")
  assert "has parameters per label and only fits 6 labels" in refused(
    capsys, store, tmp_path / "run", source=folder / "run"
  )


@pytest.mark.slow
def test_two_processes_start_as_one_does(store, tmp_path):
  words = ["finetune", "--from", trained(), "--store", store, "--workdir", tmp_path / "run", *SMALL]
  for process in start_many(2, *words, "--config.optim.steps=3"):
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
  assert saved(tmp_path / "run").step == 3
  assert finetune(store, tmp_path / "run") == 0  # resumed by one process
  assert finetune(store, tmp_path / "one") == 0
  together, alone = (
    [loss for _, keys, loss in records(tmp_path / name) if "loss" in keys]
    for name in ("run", "one")
  )
  np.testing.assert_allclose(together[:2], alone[:2], rtol=1e-4)
