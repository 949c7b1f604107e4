"""Tests of the resources of a training step that is compiled for a TPU topology."""

import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from atgcn_jax import models
from atgcn_jax.bench.flops import graph_flops, layer_flops, product_flops, step_flops
from atgcn_jax.errors import UserError
from atgcn_jax.plan.compiled_step import collectives, compiled_step, topology_devices
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.config_defaults import DEFAULTS

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("head", ["linear", "graph"])
@pytest.mark.parametrize("width", [0.125, 1.0])
def test_flops_by_hand_are_those_of_the_traced_layers(head, width):
  clips, classes = 3, 7
  section = ml_collections.ConfigDict(DEFAULTS["model"] | {"head": head, "width": width})
  graph = {"propagation": np.eye(classes), "label_embeddings": np.zeros((classes, 300))}
  model = models.build(section, num_classes=classes, **graph)
  x = jnp.zeros((clips, 100, 32))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  found = product_flops(jax.make_jaxpr(model.apply)(variables, x).jaxpr)
  sizes = {"frames": 100, "bands": 32, "classes": classes}
  by_hand = clips * layer_flops(section, **sizes) + graph_flops(section, 300, classes=classes)
  assert by_hand == found
  assert step_flops(section, 300, clips, **sizes) == 3 * by_hand


def test_cnn10_has_ten_gigaflops_per_clip():
  assert layer_flops(ml_collections.ConfigDict(DEFAULTS["model"])) == pytest.approx(
    10.4e9, rel=0.01
  )


def test_collectives_are_read_from_the_program():
  text = """
    %a = (f32[64]{0:T(128)}, bf16[3,2]{1,0}) all-reduce(%x, %y), channel_id=1
    %b = f32[]{:T(128)} all-reduce-start(%z), channel_id=2
    %c = f32[] all-reduce-done(%b)
    %d = u8[8,4]{1,0} all-gather(%w), dimensions={0}
    %e = f32[8]{0} fusion(%all-reduce.1), calls=%f
  """
  assert collectives(text) == [("all-reduce", 268), ("all-reduce", 4), ("all-gather", 32)]


def test_a_topology_without_libtpu_is_a_user_error(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match="libtpu") as error:
    topology_devices("v5e:2x2")
  assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_norm", "reductions"), [("global", 18), ("local", 1)])
def test_resources_of_a_v5e_chip(batch_norm, reductions):
  pytest.importorskip("libtpu", reason="no libtpu: pip install 'atgcn_jax[tpu]'")
  override = f"--config.model.batch_norm={batch_norm}"
  config = load_config(CONFIGS / "atgcn_audioset.py", [override])
  figures = compiled_step(config, "v5e:2x2", 64)
  assert figures["chips"] == 4
  # The nine batch norms reduce their statistics one after the other, eight of them also in the
  # backward pass. Everything else is summed in one operation.
  assert [kind for kind, _ in figures["collectives"]] == ["all-reduce"] * reductions
  assert figures["memory"]["activations and temporaries"] <= 1e9
  assert 0.9 < figures["flops"] / figures["product_flops"] <= 1.05
  assert figures["product_flops"] / step_flops(config.model, 300, 64) == pytest.approx(1, rel=0.01)
