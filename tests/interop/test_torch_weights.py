"""Tests that converted PyTorch weights give the outputs and losses of PyTorch."""

import functools
import runpy

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from marks import slow

from atgcn_jax import models
from atgcn_jax.interop.importing import read_state_dict
from atgcn_jax.interop.torch_weights import convert, state_dict_of
from atgcn_jax.models.layers import Placement
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.sharding import data_mesh
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, make_train_step

# On one CPU, CNN10's blocks have a separate implementation.
ONE, TWO = Placement(1, "cpu"), Placement(2, "cpu")
NO_DROPOUT = {"block": 0.0, "pooled": 0.0, "embedding": 0.0}


def model_config(head, **changes):
  return ml_collections.ConfigDict(
    DEFAULTS["model"] | {"head": head, "dropout": NO_DROPOUT} | changes
  )


def adam_losses(model, variables, log_mel, labels, learning_rate, steps, devices=1):
  """Return the loss before each update of the training step."""
  adam = optimiser(optax.constant_schedule(learning_rate))
  step = make_train_step(
    model,
    adam,
    data_mesh(jax.devices()[:devices]),
    normaliser=Normaliser(np.zeros(log_mel.shape[-1], "f"), np.ones(log_mel.shape[-1], "f")),
    augmentation=Augmentation(),
    seed=0,
  )
  state = jax.jit(lambda variables: start_state(variables, adam))(variables)
  losses = []
  for _ in range(steps):
    state, measured = step(state, {"log_mel": log_mel, "labels": labels}, 1.0)
    losses.append(float(measured["loss"]))
  return losses


# A reference that needs no files, for five labels, width 1/16 and label embeddings of length 6.
# Tensor n (from 0, in the order of `tensor_shapes`) is r = sin(n + i² mod 1009), where i is the
# flat index, transformed as follows:
# - running variances are 1 + |r| / 10, batch norm weights 1 + r / 10;
# - biases and running means are r / 10; all other tensors are 2 r / sqrt(fan in).
# FINGERPRINT was computed with an independent PyTorch implementation in float64: logits of three of
# four clips, and the loss before each of six Adam steps at 3e-4 in training mode.
FINGERPRINT = {
  "linear": (
    [
      [0.347949, -0.178615, 0.222970, -0.469243, 0.574922],
      [0.419811, -0.251654, 0.208284, -0.816938, 1.119642],
      [0.607673, -0.371951, 0.414471, -0.935667, 1.507457],
    ],
    [1.0045421, 0.9321916, 0.8673569, 0.8098283, 0.7576219, 0.7117436],
  ),
  "graph": (
    [
      [1.342504, 0.446163, 0.423026, 0.792171, -0.013703],
      [2.356065, 1.956175, 1.541694, 1.485154, -0.093507],
      [3.072597, 2.103137, 1.594737, 1.840128, -0.217145],
    ],
    [2.3141910, 2.0744891, 1.8762160, 1.7149840, 1.5673322, 1.4357855],
  ),
}


def noise(n, shape):
  i = np.arange(np.prod(shape, dtype=int))
  return np.sin(n + i * i % 1009).reshape(shape)


def tensor_shapes(head, bands=32, sizes=(4, 8, 16, 32)):
  def batch_norm(name, size):
    return {f"{name}.{k}": (size,) for k in ("weight", "bias", "running_mean", "running_var")}

  shapes = batch_norm("bn0", bands)
  before = 1
  for block, size in enumerate(sizes, 1):
    for i, inputs in ((1, before), (2, size)):
      shapes[f"conv_block{block}.conv{i}.weight"] = (size, inputs, 3, 3)
      shapes |= batch_norm(f"conv_block{block}.bn{i}", size)
    before = size
  shapes |= {"fc1.weight": (before, before), "fc1.bias": (before,)}
  if head == "graph":
    return shapes | {"gcn.gc1.weight": (6, 16), "gcn.gc2.weight": (16, 32)}
  return shapes | {"fc_audioset.weight": (5, before), "fc_audioset.bias": (5,)}


def formula_state(head, bands=32, **sizes):
  state = {}
  for n, (name, shape) in enumerate(tensor_shapes(head, bands, **sizes).items()):
    r = noise(n, shape)
    if name.endswith("running_var"):
      value = 1 + np.abs(r) / 10
    elif "bn" in name and name.endswith("weight"):
      value = 1 + r / 10
    elif len(shape) == 1:
      value = r / 10
    else:
      value = 2 * r / np.sqrt(shape[0] if "gcn" in name else np.prod(shape[1:]))
    state[name] = value.astype(np.float32)
  return state


def formula_model(head):
  config = model_config(head, width=1 / 16)
  propagation = 0.7 * np.eye(5, dtype="f") + 0.3 * np.roll(np.eye(5, dtype="f"), 1, axis=1)
  propagation[0] = [0.5, 0, 0, 0.5, 0]
  vectors = noise(9, (5, 6)).astype("f")
  graph = {"propagation": propagation, "label_embeddings": vectors} if head == "graph" else {}
  return models.build(config, num_classes=5, **graph), convert(formula_state(head), config)


@pytest.mark.parametrize(
  ("head", "placement"),
  [("graph", ONE), slow("linear", TWO), slow("linear", ONE), slow("graph", TWO)],
)
def test_fingerprint(head, placement):
  clip, frame, band = np.ogrid[1:5, :48, :32]
  log_mel = noise(7, (4, 48, 32)) + 2 * np.sin(clip * frame / 10) + 2 * np.sin(clip**2 * band / 20)
  log_mel = log_mel.astype(np.float32)
  labels = (np.arange(4)[:, None] + np.arange(5)) % 3 == 0
  model, variables = formula_model(head)
  logits, losses = FINGERPRINT[head]
  apply = jax.jit(functools.partial(model.apply, placement=placement))
  np.testing.assert_allclose(apply(variables, log_mel)[:3], logits, atol=1e-5)
  known = models.with_constants(model, log_mel.shape[1:], placement)(variables)
  np.testing.assert_allclose(apply(known, log_mel)[:3], logits, atol=1e-5)
  trained = adam_losses(model, variables, log_mel, labels, 3e-4, len(losses), placement.devices)
  np.testing.assert_allclose(trained, losses, rtol=2e-5)


# Logits of three of four clips, of PANNs' CNN14 written with PyTorch's functions, in float64.
CNN14_LOGITS = [
  [0.319957, -0.011976, -0.128709, -0.352787, -0.159317],
  [0.615782, -0.123671, -0.246175, -0.428067, -0.240803],
  [0.624044, -0.134558, -0.314553, -0.394156, -0.209695],
]


@pytest.mark.parametrize("placement", [ONE, slow(TWO)])
def test_cnn14(placement):
  clip, frame, band = np.ogrid[1:5, :100, :64]
  log_mel = noise(7, (4, 100, 64)) + 2 * np.sin(clip * frame / 10) + 2 * np.sin(clip**2 * band / 20)
  config = model_config("linear", width=1 / 16, encoder="cnn14")
  model = models.build(config, num_classes=5)
  state = formula_state("linear", 64, sizes=(4, 8, 16, 32, 64, 128))
  variables = models.with_constants(model, (100, 64), placement)(convert(state, config))
  logits = jax.jit(functools.partial(model.apply, placement=placement))(
    variables, log_mel.astype("f")
  )
  np.testing.assert_allclose(logits[:3], CNN14_LOGITS, rtol=0, atol=1e-5)
  again = state_dict_of(convert(state, config), config)
  assert again.keys() == state.keys()
  for name, value in state.items():
    np.testing.assert_array_equal(again[name], value)


def reference(shared, head):
  """Return model, variables and expected values of the full-width reference."""
  maker = runpy.run_path(str(shared / "golden" / "state.py"))
  numbers = np.load(shared / "golden" / "models_seed1.npz")
  config = model_config(head)
  if head == "linear":
    shapes, graph = maker["cnn10_shapes"](), {}
  else:
    shapes = maker["atgcn_shapes"]()
    graph = {
      "propagation": np.load(shared / "golden" / "adjacency_balanced.npz")["author_balanced"],
      "label_embeddings": np.load(shared / "data/audioset/glove_300d.npz")["vectors"],
    }
  model = models.build(config, num_classes=527, **graph)
  return model, convert(maker["make"](shapes, 1), config), numbers


@pytest.mark.parametrize("placement", [ONE, TWO])
@pytest.mark.parametrize(("head", "name"), [("linear", "cnn10"), ("graph", "atgcn")])
def test_logits_of_the_authors_code(shared, head, name, placement):
  model, variables, numbers = reference(shared, head)
  log_mel = np.random.RandomState(1).standard_normal((2, 400, 64)).astype(np.float32)
  apply = functools.partial(model.apply, return_features=True, placement=placement)
  features = jax.jit(apply)(variables, log_mel)
  np.testing.assert_allclose(features["logits"], numbers[f"{name}_logits"], rtol=0, atol=1e-4)
  np.testing.assert_allclose(features["embedding"], numbers["cnn10_embedding"], rtol=0, atol=1e-4)
  if head == "graph":
    np.testing.assert_allclose(features["label_vectors"], numbers["atgcn_nodes"], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "name"), [("linear", "cnn10"), ("graph", "atgcn")])
def test_loss_trajectory_of_the_authors_code(shared, head, name):
  model, variables, numbers = reference(shared, head)
  r = np.random.RandomState(101)
  log_mel = r.standard_normal((4, 400, 64)).astype(np.float32)
  labels = r.rand(4, 527) < 0.01
  losses = adam_losses(model, variables, log_mel, labels, 1e-4, 8)
  np.testing.assert_allclose(losses, numbers[f"{name}_losses"], rtol=1e-3)


@pytest.mark.parametrize("head", ["linear", "graph"])
def test_convert_fills_every_variable(head):
  model, variables = formula_model(head)
  wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 48, 32)))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, dict(wanted))


def test_convert_ignores_other_tensors():
  plain = formula_state("graph")
  dressed = {f"module.{name}": value for name, value in plain.items()} | {
    "spectrogram_extractor.stft.conv_real.weight": np.zeros((3, 1, 4)),
    "module.logmel_extractor.melW": np.zeros((3, 2)),
    "module.bn0.num_batches_tracked": np.array(7),
    "module.gcn.adj": np.zeros((5, 5)),
  }
  config = model_config("graph")
  jax.tree.map(np.testing.assert_array_equal, convert(plain, config), convert(dressed, config))


def test_convert_refuses_what_does_not_fit():
  state = formula_state("linear")
  less = {name: value for name, value in state.items() if name != "conv_block3.bn2.running_var"}
  with pytest.raises(ValueError, match=r"missing \['conv_block3.bn2.running_var'\], unknown none"):
    convert(less, model_config("linear"))
  with pytest.raises(ValueError, match=r"missing none, unknown \['extra.weight'\]"):
    convert(state | {"extra.weight": np.zeros(3)}, model_config("linear"))
  with pytest.raises(ValueError, match=r"missing \['gcn.gc1.weight', 'gcn.gc2.weight'\]"):
    convert(state, model_config("graph"))
  with pytest.raises(ValueError, match=r"missing \['gcn.gc3.weight'\]"):
    convert(formula_state("graph"), model_config("graph", layers=3))
  with pytest.raises(ValueError, match=r"model.prior must be 0.5 .* got 0.1"):
    convert(state, model_config("linear", prior=0.1))


def test_torch_tensors_convert_like_arrays(tmp_path):
  torch = pytest.importorskip("torch")
  arrays = formula_state("linear")
  tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in arrays.items()}
  torch.save({"model": tensors, "iteration": 3}, tmp_path / "panns.pth")
  config = model_config("linear")
  loaded = convert(read_state_dict(tmp_path / "panns.pth"), config)
  jax.tree.map(np.testing.assert_array_equal, loaded, convert(arrays, config))
