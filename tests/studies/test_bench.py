"""Tests of the benchmarks at small sizes, and of their helpers."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from atgcn_jax import cli, models
from atgcn_jax.bench import host, peers, steps
from atgcn_jax.bench import layers as bench_layers
from atgcn_jax.bench.feed import bench_feed
from atgcn_jax.bench.flops import forward_flops
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.runtime import process_setup


def says(text, status=0):
  return [sys.executable, "-c", f"import sys; print('''{text}'''); sys.exit({status})"]


def test_run_json_takes_the_last_line():
  assert steps.run_json(says('first\n{"seconds": 2}')) == {"seconds": 2}


def test_run_json_reports_why_a_command_failed():
  with pytest.raises(WorkFailed, match="exit status 3"):
    steps.run_json(says("{}", status=3))


def test_in_turn_leaves_out_the_first(tmp_path):
  tally = repr(str(tmp_path / "tally"))
  counting = f"file = open({tally}, 'a'); print(file.tell()); file.write('x')"
  mine, theirs = peers.in_turn([sys.executable, "-c", counting], says("7"), 2)
  assert (mine, theirs) == ([1, 2], [7, 7])


@pytest.mark.parametrize(
  ("key", "unit", "ours", "peer"),
  [("clips_per_second", "clips/s", 30.0, 10.0), ("seconds", "s", 1.0, 3.0)],
)
def test_a_ratio_above_one_favours_this_package(key, unit, ours, peer):
  results = [{key: ours}] * 3, [{key: peer}] * 3
  row = peers._row("name", results, key, unit)
  assert row["ratio"] == pytest.approx(3)


def test_the_table_has_one_line_per_row():
  row = {"name": "train", "ours": 8.1234, "peer": 4.0, "ratio": 2.031, "unit": "clips/s"}
  text = peers.peer_table({"rows": [row | {"limit": None}], "machine": peers.machine()})
  assert "| train | 8.123 clips/s | 4 clips/s | 2.03 | – |" in text.splitlines()
  assert f"jax {jax.__version__}" in text


def test_compare_reports_a_missing_twin(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    peers.compare_with_peers(str(tmp_path / "twin.py"), 1)


@pytest.mark.slow
def test_layers_of_a_small_network(monkeypatch):
  monkeypatch.setattr(bench_layers, "FRAMES", 16)
  monkeypatch.setattr(bench_layers, "BANDS", 16)
  monkeypatch.setattr(bench_layers, "CHANNELS", (2, 3))
  result = bench_layers.bench_layers(8, 1)
  flops = {layer["name"]: layer["flops"] for layer in result["layers"]}
  assert flops["conv_block1.conv2"] == 2 * 8 * 16 * 16 * 9 * 2 * 2
  assert flops["conv_block2.conv1"] == 2 * 8 * 8 * 8 * 9 * 2 * 3
  assert flops["conv_block2"] == flops["conv_block2.conv1"] + flops["conv_block2.conv2"]
  assert len(bench_layers.layer_table(result).splitlines()) == 2 + len(flops) + 2
  json.dumps(result)


@pytest.mark.slow
def test_flops_of_mobilenets_are_those_that_efficientat_states():
  # 0.11 and 0.54 billion multiplications with their additions for ten seconds.
  for name, stated in (("mn04", 0.11e9), ("mn10", 0.54e9)):
    model = models.build(steps.model_section(name, "float32"), num_classes=527)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1000, 128)))
    assert forward_flops(model, variables, (1000, 128)) / 2 == pytest.approx(stated, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "infer"])
def test_a_step_of_a_mobilenet(monkeypatch, what):
  monkeypatch.setitem(steps.SYSTEMS, "mn04", steps.SYSTEMS["mn04"] | {"width": 0.1})
  result = steps.bench(what, "mn04", 8, 1)
  assert result["clips_per_second"] == pytest.approx(8 / result["seconds_per_step"])
  assert result["flops"] > 0


def test_feed_refuses_another_front_end():
  with pytest.raises(UserError, match="--model mn04: feed has clips for cnn10 and atgcn"):
    bench_feed(8, "mn04", 8, 1, "float32")


@pytest.mark.parametrize(
  "words", ["memory --trace x", "train --reference", "feed --twin x.py", "counts --hubs"]
)
def test_options_of_other_benchmarks_are_refused(words, capsys):
  assert cli.main(["bench", *words.split()]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"{words.split()[1]}: only for " in line


def test_librosa_is_not_compared_with_front_ends_that_it_lacks():
  with pytest.raises(UserError, match="--frontend efficientat: librosa has none like it"):
    host.reference_frontend("efficientat", 1, 1)


def test_the_time_since_the_start_grows():
  first = steps.seconds_since_start()
  assert first is None or 0 < first < steps.seconds_since_start() < 24 * 3600


@pytest.fixture
def no_cache():
  before = jax.config.values["jax_compilation_cache_dir"]
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs_are_kept_in_the_users_cache(no_cache, monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  process_setup.keep_compiled_programs()
  folder = jax.config.values["jax_compilation_cache_dir"]
  assert folder.startswith(str(tmp_path / "atgcn_jax" / "compiled"))
  jax.config.update("jax_compilation_cache_dir", "elsewhere")
  process_setup.keep_compiled_programs()
  assert jax.config.values["jax_compilation_cache_dir"] == "elsewhere"


@pytest.mark.slow
def test_a_warm_start_is_quick_and_small(monkeypatch):
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")  # the batch of 2 does not split over eight
  result = steps.bench_starts("compile", "atgcn", 2)
  assert result["warm"]["first_step_seconds"] < result["cold"]["first_step_seconds"]
  assert result["peak_bytes"] < result["cold"]["peak_bytes"]
