"""Tests of `atgcn plan`, partly with programs that libtpu compiles."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs_support import tiny_config, trained

from atgcn_jax import cli
from atgcn_jax.bench.flops import product_flops
from atgcn_jax.errors import UserError
from atgcn_jax.plan import chips, estimate
from atgcn_jax.plan.chips import CHIPS, HOP_SECONDS, chip_of, collective_seconds, roofline
from atgcn_jax.plan.compiled_step import traced_step
from atgcn_jax.plan.estimate import bytes_asked, largest_fitting, plan_text
from atgcn_jax.plan.inputs import clip_bytes, plan_data
from atgcn_jax.runs.config import load_config
from atgcn_jax.training.sharding import data_mesh

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# This system compiles in five seconds; the convolutions of the others take a minute or more.
SMALL = f"{CONFIGS / 'table1' / 'multilevel_attention.py'}:original"
PLAN = ("plan", "--config", SMALL, "--topology", "v5e:2x2")
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install 'atgcn_jax[tpu]'"
)


def run(*arguments):
  """Run `atgcn ARGUMENTS` and return the exit status."""
  try:
    return cli.main(list(map(str, arguments)))
  except SystemExit as end:
    return end.code


@pytest.fixture(scope="module")
def found():
  """Return the plan of a small system on four chips, from the command line."""
  command = [sys.executable, "-m", "atgcn_jax", *PLAN, "--batch", "64", "--json"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@needs_libtpu
def test_memory_by_kind_adds_up(found):
  memory, disk = found["memory"], found["disk"]
  assert sum(memory.values()) == found["memory_total"] < found["memory_of_chip"]
  assert all(size >= 0 for size in memory.values())
  # Adam stores two numbers per parameter. Adam and the learning rate schedule count the steps.
  assert memory["optimiser state"] == 2 * memory["parameters"] + 8
  state = memory["parameters"] + memory["batch statistics"] + memory["optimiser state"]
  assert disk["checkpoint_bytes"] == state + 4
  assert disk["checkpoints_bytes"] == (2 + 2) * disk["checkpoint_bytes"]
  # Each of the 16 clips of a chip has 10 embeddings of 128 numbers, a peak, and a byte per label.
  assert memory["batch"] == 16 * (1280 + 4 + 527)


@pytest.mark.slow
@needs_libtpu
def test_the_chips_sum_the_gradients_the_statistics_and_the_loss(found):
  reductions, memory = found["collectives"], found["memory"]
  assert {row["kind"] for row in reductions} == {"all-reduce"}
  total = sum(row["count"] * row["bytes"] for row in reductions)
  assert total == memory["parameters"] + memory["batch statistics"] + 4
  # One all-reduce sums almost everything, except the statistics of the batch norms.
  assert max(row["bytes"] for row in reductions) > 0.99 * memory["parameters"]


@pytest.mark.slow
@needs_libtpu
def test_estimates_from_a_step(found):
  seconds = found["seconds"]
  pairs = [(row["kind"], row["bytes"]) for row in found["collectives"] for _ in range(row["count"])]
  again = roofline(CHIPS["v5e"], (2, 2), found["product_flops"], found["hbm_bytes"], pairs)
  assert seconds == pytest.approx(again)
  assert seconds["step"] > max(seconds["compute"], seconds["memory"]) > 0
  assert found["hours"] == pytest.approx(600_000 * seconds["step"] / 3600)
  assert found["clips_per_second"] == pytest.approx(64 / seconds["step"])
  assert found["input"]["bytes_per_second_per_host"] == pytest.approx(
    found["clips_per_second"] * (1280 + 4 + 66)
  )
  assert found["disk"]["store_bytes"] == 2_041_789 * (1280 + 4 + 66)
  assert 0.5 < found["compiler_flops"] / found["product_flops"] < 3
  assert len(found["assumed"]) == 2


@pytest.mark.slow
@needs_libtpu
def test_the_plan_as_text(found):
  text = plan_text(found)
  for word in (
    "4 chips, 1 hosts",
    "optimiser state",
    "program",
    "all-reduce",
    "hours, predicted",
  ):
    assert word in text
  assert str(found["batch"]) in text


@pytest.mark.slow
@needs_libtpu
def test_a_batch_that_does_not_fit_ends_with_1_and_names_the_largest(found, monkeypatch, capfd):
  # The memory of a chip suffices exactly for its 16 clips of a batch of 64.
  small = CHIPS["v5e"]._replace(hbm=found["memory_total"])
  monkeypatch.setitem(chips.CHIPS, "v5e", small)
  assert run(*PLAN, "--batch", 96) == 1
  printed = capfd.readouterr()
  (line,) = printed.err.splitlines()
  assert line.startswith("atgcn plan: does not fit: 96 clips per step on v5e:2x2 need ")
  assert line.endswith("; the largest batch that fits is 64")
  assert printed.out == ""


@needs_libtpu
@pytest.mark.slow
def test_a_real_chip_can_have_too_little_memory(capfd):
  assert run(*PLAN, "--batch", 280_000) == 1
  (line,) = capfd.readouterr().err.splitlines()
  assert "does not fit: 280000 clips per step" in line
  fits = int(line.rsplit(" ", 1)[1])
  assert 200_000 < fits < 280_000
  assert run(*PLAN, "--batch", fits) == 0
  assert f"{fits} clips per step" in capfd.readouterr().out


@needs_libtpu
@pytest.mark.slow
def test_convolutions_and_clips_on_the_chips(capfd):
  config = CONFIGS / "atgcn_audioset.py"
  command = ("plan", "--config", config, "--topology", "v6e:2x2", "--batch", 32, "--json")
  assert run(*command, "--config.data.placement=device") == 0
  found = json.loads(capfd.readouterr().out.splitlines()[-1])
  assert found["memory"]["clips"] == math.ceil(2_041_789 / 4) * 25_670
  assert found["input"]["bytes_per_second_per_host"] == 0
  assert 0.9 < found["compiler_flops"] / found["product_flops"] < 1.05


@pytest.mark.parametrize(("reported", "asked"), [("15.75G", 15.75), ("16.50G", 16.5)])
def test_a_step_that_the_compiler_rejects_never_fits(monkeypatch, reported, asked):
  def gives_up():
    raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Used {reported} of 15.75G hbm")

  monkeypatch.setattr(estimate, "compiled_step", gives_up)
  found = estimate.attempted(15.75 * 2**30)
  assert found.step is None
  assert found.needed_bytes > 15.75 * 2**30
  assert found.needed_bytes == pytest.approx(asked * 2**30)


@pytest.mark.parametrize(
  ("arguments", "reported"),
  [
    (("--topology", "v5e:16x16"), "use 256 or 512"),
    (("--topology", "v5e:2x2", "--batch", 3), "3 clips per step cannot be split over 4 chips"),
    (("--topology", "v5e:2x2", "--batch", 0), "use 4"),
    (("--topology", "v5e"), "--topology v5e: not a TPU topology"),
    (("--topology", "v99:2x2"), "one of v4, v5e, v5p, v6e"),
    (("--topology", "v5e:32x32"), "1 to 256"),
    (("--topology", "v5e:0x2"), "0 chips"),
    (("--topology", "v5e:2x2", "--config.data.sampling=none"), "data.sampling"),
    (("--topology", "v5e:2x2", "--config.model.dtype=int8"), "model.dtype"),
    (("--topology", "v5e:2x2", "--config.loss.laplacian=0.1"), "data.vocabulary"),
  ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, reported, capfd):
  assert run("plan", "--config", SMALL, *arguments) == 2
  printed = capfd.readouterr()
  (line,) = printed.err.splitlines()
  assert reported in line
  assert printed.out == ""


@needs_libtpu
def test_a_topology_that_the_library_refuses(capfd):
  assert run("plan", "--config", SMALL, "--topology", "v5e:3x3", "--batch", 9) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert "v5e:3x3" in line


def test_without_libtpu(monkeypatch, capfd):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  assert run(*PLAN, "--batch", 64) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert "pip install 'atgcn_jax[tpu]'" in line


def test_the_roofline_by_hand():
  chip = CHIPS["v5e"]
  gradients = ("all-reduce", 19_700_000)
  # 197e9 FLOPs take 1 ms, 1.638e9 bytes 2 ms. On 2x2 a chip has two links of 50 GB/s to send
  # 2 · 3/4 of the bytes over, and two hops there and back.
  found = roofline(chip, (2, 2), 197e9, 1.638e9, [gradients])
  assert found["compute"] == pytest.approx(1e-3)
  assert found["memory"] == pytest.approx(2e-3)
  assert found["collectives"] == pytest.approx(1.5 * 19.7e6 / 100e9 + 4e-6)
  assert found["step"] == pytest.approx(2e-3 + found["collectives"])
  assert roofline(chip, (1, 1), 197e9, 0, [gradients])["step"] == pytest.approx(1e-3)


def test_rings_have_two_links_per_axis_and_lines_one():
  chip = CHIPS["v5e"]
  way = 2 * (15 + 15) * HOP_SECONDS
  ring = collective_seconds(chip, (16, 16), "all-reduce", 256_000_000) - way
  assert ring == pytest.approx(2 * 255e6 / 200e9)
  line = collective_seconds(chip, (4, 4), "all-gather", 16_000_000) - 6 * HOP_SECONDS
  assert line == pytest.approx(15e6 / 100e9)
  scatter = collective_seconds(chip, (4, 4), "reduce-scatter", 1_000_000) - 6 * HOP_SECONDS
  assert scatter == pytest.approx(15e6 / 100e9)


def test_topologies_are_read():
  assert chip_of("v5p:2x2x4")[1] == (2, 2, 4)
  with pytest.raises(UserError, match="v5e-16"):
    chip_of("v5e-16")


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 8, 17, 250, 999, 5000])
@pytest.mark.parametrize("reported", [True, False])
def test_the_search_finds_the_largest_that_fits(limit, reported):
  tried = []

  def bytes_of(clips):
    tried.append(clips)
    return 7 + clips if clips <= limit or reported else float("inf")

  largest = largest_fitting(bytes_of, 7 + limit, 6000, bytes_of(6000))
  assert largest == max(n for n in (0, 1, 2, 4, *range(8, 6000, 8)) if n <= limit)
  assert len(tried) <= 24


def test_the_messages_of_the_compiler_are_parsed():
  temporaries = "the total memory required for HLO temporaries (251.48G) exceeds available HBM"
  assert bytes_asked(temporaries) == 251.48 * 2**30
  assert bytes_asked("in memory space hbm. Used 17.5G of 15.75G hbm") == 17.5 * 2**30
  assert bytes_asked("nothing reported") == float("inf")


def test_sizes_come_from_an_existing_store():
  config = tiny_config(trained().parent)
  data = plan_data(config)
  assert data.assumed == []
  assert data.store is not None
  assert (data.clips, data.frames, data.bands) == data.store.log_mel.shape
  assert data.stored_bytes == pathlib.Path(data.store.path).stat().st_size
  assert 0 < data.train_clips <= data.clips
  assert clip_bytes(527, 400, 64, "uint8") == 25_670  # as docs/data.md says


def test_a_config_without_a_vocabulary_and_with_a_folder():
  config = tiny_config(trained().parent, "data.root=data", "data.store=missing.h5")
  assert plan_data(config).assumed[1] == "AudioSet's 527 labels, as the config names no vocabulary"


def test_a_missing_store_is_of_the_front_end_of_the_config():
  config, store = f"{CONFIGS / 'own_data.py'}:mn04", "--config.data.store=missing.h5"
  data = plan_data(load_config(config, [store]))
  assert (data.frames, data.bands, data.dtype) == (1000, 128, "float16")
  assert data.assumed[0].startswith("2,041,789 clips of 1000 frames and 128 bands, as ")
  with pytest.raises(UserError, match=r"data.frontend must be one of talnet, panns"):
    plan_data(load_config(config, [store, "--config.data.frontend=odd"]))


def test_a_plan_has_the_steps_of_the_passes(monkeypatch):
  step = estimate.Attempt({"memory": {"parameters": 1}}, 1)
  monkeypatch.setattr(estimate, "attempted", lambda *_, **__: step)
  monkeypatch.setattr(estimate, "figures", lambda *_, steps, **__: {"steps": steps})
  config = load_config(CONFIGS / "own_data.py", ["--config.data.store=missing.h5"])
  found = estimate.plan_training(config, "v5e:2x2", batch=64)
  assert found["steps"] == math.ceil(8 * 2_041_789 / 64)


@pytest.mark.slow
def test_flops_of_a_recurrent_layer_count_every_frame():
  """Check that twice the frames have twice the products of TALNet, except for its head."""
  overrides = ["--config.model.width=0.0625"]
  config = load_config(CONFIGS / "table1" / "talnet.py", overrides)

  def flops(frames):
    traced = traced_step(config, jax.devices()[:1], 1, frames=frames, bands=32, classes=3)
    return product_flops(traced.jaxpr.jaxpr)

  assert flops(32) == pytest.approx(2 * flops(16), rel=0.02)


def test_flops_of_a_part_on_each_device_count_on_all():
  mesh = data_mesh()
  part = jax.sharding.PartitionSpec("data")
  product = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=part, out_specs=part)
  jaxpr = jax.make_jaxpr(product)(np.zeros((16, 3), "f"))
  assert product_flops(jaxpr.jaxpr) == 8 * 2 * (2 * 2 * 3)
