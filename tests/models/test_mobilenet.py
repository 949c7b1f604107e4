"""MobileNetV3 compared with EfficientAT's code and with an independent implementation."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from marks import slow
from test_torch_weights import noise

from atgcn_jax import models
from atgcn_jax.audio.frontend import log_mel
from atgcn_jax.interop.torch_files import read_tensors
from atgcn_jax.interop.torch_weights import convert, state_dict_of
from atgcn_jax.models.layers import Placement
from atgcn_jax.models.mobilenet import MobileNet, in_eights
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.step import Normaliser, loss_and_gradients

# On one CPU, the convolutions have a separate implementation.
FORMS = pytest.mark.parametrize("placement", [Placement(1, "cpu"), slow(Placement(2, "cpu"))])
QUICK = {"xla_backend_optimization_level": 0}
STAGES = ("stem", *(f"block{i}" for i in range(1, 16)), "last")
NARROW, LABELS = 0.15, 5
# Outputs for `formula_state` and `formula_clips`, of an independent implementation in NumPy and
# float64 which agrees with EfficientAT's code: logits of three of four clips and the start of
# `embedding`, in inference and with the statistics of the batch, and running statistics after that.
LOGITS = [
  [2.822061, -2.748045, 5.010594, 0.659837, 6.663534],
  [0.850130, -0.620635, 0.582935, -2.229071, 1.009439],
  [0.659538, -0.421335, 1.509689, -0.983122, 2.436129],
]
EMBEDDING = [1.557452, 2.472948, 1.284565, 4.267410, 1.464377]
TRAINING_LOGITS = [
  [0.959785, -0.368353, 0.961475, -0.332695, -0.276786],
  [1.251995, -0.130885, 0.352074, 0.532042, -0.113898],
  [0.127609, -0.316058, 0.334540, -0.190522, 0.288748],
]
RUNNING = {
  "features.0.1.running_mean": [0.009899, -0.084044, 0.063938],
  "features.0.1.running_var": [1.090482, 1.187556, 1.098172],
  "features.9.block.1.1.running_mean": [0.096681, 0.031928, -0.048099],
  "features.16.1.running_var": [1.103189, 1.202183, 1.171491],
}


def config_of(width=NARROW, head="linear", **changes):
  section = {"encoder": "mobilenet", "head": head, "width": width}
  section["dropout"] = {"block": 0.0, "pooled": 0.0, "embedding": 0.0}
  return ml_collections.ConfigDict(DEFAULTS["model"] | section | changes)


def formula_state(labels=LABELS):
  """Return weights that follow from formulas, as those of `test_torch_weights.formula_state`."""
  model = models.build(config_of(), num_classes=labels)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 48, 32)))
  empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)
  state = {}
  for n, (name, tensor) in enumerate(state_dict_of(empty, config_of()).items()):
    r = noise(n, tensor.shape)
    if name.endswith("running_var"):
      value = 1 + np.abs(r) / 10
    elif tensor.ndim == 1:
      value = (1 if name.endswith("weight") else 0) + r / 10
    else:
      value = 2 * r / np.sqrt(np.prod(tensor.shape[1:]))
    state[name] = value.astype(np.float32)
  return state


def formula_clips():
  clip, frame, band = np.ogrid[1:5, :48, :32]
  waves = 2 * np.sin(clip * frame / 10) + 2 * np.sin(clip**2 * band / 20)
  return (noise(7, (4, 48, 32)) + waves).astype(np.float32)


@pytest.mark.parametrize("placement", [slow(Placement(1, "cpu")), Placement(2, "cpu")])
def test_fingerprint_in_inference(placement):
  model, variables = (
    models.build(config_of(), num_classes=LABELS),
    convert(formula_state(), config_of()),
  )
  apply = jax.jit(functools.partial(model.apply, return_features=True, placement=placement))
  known = models.with_constants(model, (48, 32), placement)(variables)
  for given in (variables, known):
    found = apply(given, formula_clips())
    np.testing.assert_allclose(found["logits"][:3], LOGITS, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["embedding"][0, :5], EMBEDDING, rtol=0, atol=2e-5)
    assert found["hidden"].shape == (4, in_eights(1280 * NARROW))


@FORMS
def test_fingerprint_in_training(placement):
  model, variables = (
    models.build(config_of(), num_classes=LABELS),
    convert(formula_state(), config_of()),
  )
  apply = functools.partial(model.apply, train=True, placement=placement, mutable=["batch_stats"])
  logits, new = jax.jit(apply)(variables, formula_clips())
  np.testing.assert_allclose(logits[:3], TRAINING_LOGITS, rtol=0, atol=2e-5)
  after = state_dict_of(variables | new, config_of())
  for name, expected in RUNNING.items():
    np.testing.assert_allclose(after[name][:3], expected, rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def golden(shared):
  return np.load(shared / "golden" / "mn04.npz")


@pytest.fixture(scope="module")
def published(shared):
  """Return the tensors of EfficientAT's file."""
  return read_tensors(shared / "data/weights/mn04_as_mAP_432.pt")


@FORMS
def test_logits_and_embeddings_of_efficientats_code(golden, published, placement):
  config = config_of(0.4)
  model, variables = models.build(config, num_classes=527), convert(published, config)

  @jax.jit
  def apply(variables, waveforms):
    return model.apply(
      variables,
      log_mel(waveforms, "efficientat"),
      return_features=True,
      placement=placement,
      capture_intermediates=lambda module, _: module.name in STAGES,
      mutable=["intermediates"],
    )

  features, captured = apply(variables, (golden["waveform"] / 32768).astype(np.float32))
  np.testing.assert_allclose(features["logits"], golden["logits"], rtol=0, atol=1e-4)
  np.testing.assert_allclose(features["embedding"], golden["embedding"], rtol=0, atol=1e-4)
  assert features["label_vectors"].shape == (527, 512)
  if placement.devices == 1:  # this form has no stages to look at
    return
  for i, name in enumerate(STAGES):
    y_BxTxFxC = captured["intermediates"]["encoder"][name]["__call__"][0]
    y_BxCxFxT = np.asarray(y_BxTxFxC, np.float64).transpose(0, 3, 2, 1)
    assert y_BxCxFxT.shape == tuple(golden[f"shape_{i}"])
    axes = (1, 2, 3)
    found = [y_BxCxFxT.mean(axes), y_BxCxFxT.std(axes, ddof=1)]
    np.testing.assert_allclose(found, golden[f"features_{i}"], rtol=0, atol=1e-4)


def test_published_weights_convert_there_and_back(published):
  config = config_of(0.4)
  variables = convert(published, config)
  model = models.build(config, num_classes=527)
  wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 100, 128)))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, dict(wanted))
  back = state_dict_of(variables, config)
  counters = {name for name in published if name.endswith("num_batches_tracked")}
  running = sum(published[name].size for name in published if ".running_" in name)
  assert len(counters) == 46
  assert sum(published[name].size for name in published) == 983_599 + running + 46
  assert list(back) == [name for name in published if name not in counters]
  for name, tensor in back.items():
    assert tensor.dtype == published[name].dtype
    np.testing.assert_array_equal(tensor, published[name])


def test_convert_refuses_what_does_not_fit():
  state = formula_state()
  with pytest.raises(ValueError, match=r"mobilenet with a linear head: missing \['features.1"):
    convert({k: v for k, v in state.items() if not k.startswith("features.1.")}, config_of())
  with pytest.raises(ValueError, match=r"missing \['gcn.gc1.weight', .*unknown \['classifier.5"):
    convert(state, config_of(head="graph"))
  with pytest.raises(ValueError, match=r"classifier\.2\.weight has 1 axes, not 2"):
    convert(state | {"classifier.2.weight": np.zeros(3)}, config_of())
  with pytest.raises(ValueError, match="only weights of the encoders cnn10, cnn14, mobilenet"):
    convert(state, config_of(encoder="talnet"))


def test_a_graph_head_scores_the_hidden_layer():
  ring = 0.6 * np.eye(LABELS, dtype="f") + 0.4 * np.roll(np.eye(LABELS, dtype="f"), 1, axis=1)
  config = config_of(head="graph", layers=2)
  vectors = noise(9, (LABELS, 6)).astype("f")
  model = models.build(config, num_classes=LABELS, propagation=ring, label_embeddings=vectors)
  state = {k: v for k, v in formula_state().items() if not k.startswith("classifier.5")}
  state |= {"gcn.gc1.weight": noise(1, (6, 38)), "gcn.gc2.weight": noise(2, (38, 192))}
  variables = convert(state, config)
  apply = functools.partial(model.apply, return_features=True)
  found = jax.jit(apply, compiler_options=QUICK)(variables, formula_clips())
  product = np.asarray(found["hidden"]) @ np.asarray(found["label_vectors"]).T
  # A logit is a sum of terms up to the size of the largest logit.
  np.testing.assert_allclose(found["logits"], product, rtol=0, atol=1e-6 * np.abs(product).max())
  back = state_dict_of(variables, config)
  assert back.keys() == state.keys()
  jax.tree.map(np.testing.assert_array_equal, convert(back, config), variables)


def parameters_of(width):
  model = models.build(config_of(width), num_classes=527)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 100, 128)))
  assert variables["params"]["encoder"]["fc1"]["bias"].shape == (1280 * width,)
  return sum(x.size for x in jax.tree.leaves(variables["params"]))


def test_parameters():
  assert round(parameters_of(1.0), -4) == 4_880_000  # as EfficientAT states for mn10
  assert parameters_of(0.4) == 983_599


def test_channels_are_multiples_of_eight():
  numbers = (3, 11.9, 12, 16 * 0.4, 36, 672 // 4, 72 * 0.1)
  assert [in_eights(n) for n in numbers] == [8, 16, 16, 8, 40, 168, 8]
  for n in np.linspace(8, 900, 300):
    assert in_eights(n) % 8 == 0
    assert in_eights(n) >= 0.9 * n


def gradients(model, variables, placement):
  class State:
    step, params, batch_stats = 0, variables["params"], variables["batch_stats"]

  @functools.partial(jax.jit, compiler_options=QUICK)
  def of(log_mel):
    return loss_and_gradients(
      model,
      State,
      {"log_mel": log_mel, "labels": jnp.asarray(noise(3, (4, LABELS)) > 0)},
      normaliser=Normaliser(np.zeros(32, "f"), np.ones(32, "f")),
      augmentation=Augmentation(),
      seed=0,
      placement=placement,
    )

  return of(formula_clips())


@pytest.mark.slow
def test_gradients_of_both_forms_agree():
  model, variables = (
    models.build(config_of(), num_classes=LABELS),
    convert(formula_state(), config_of()),
  )
  one, other = (gradients(model, variables, Placement(n, "cpu")) for n in (1, 2))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(1e-2, np.abs(b).max()))


@pytest.mark.slow
def test_bfloat16_follows_float32():
  variables = convert(formula_state(), config_of())
  model = models.build(config_of(dtype="bfloat16"), num_classes=LABELS)
  apply = functools.partial(model.apply, return_features=True, placement=Placement(2, "cpu"))
  found = jax.jit(apply, compiler_options=QUICK)(variables, formula_clips())
  assert found["embedding"].dtype == found["logits"].dtype == jnp.float32
  assert 0 < np.abs(found["logits"][:3] - np.array(LOGITS)).max() < 0.3


@pytest.mark.slow
def test_local_statistics_are_of_the_clips_of_a_device():
  variables = convert(formula_state(), config_of())
  variables = {kind: tree["encoder"] for kind, tree in variables.items()}

  def embedding(batch_norm, clips, devices):
    apply = functools.partial(
      MobileNet(NARROW, batch_norm).apply,
      train=True,
      placement=Placement(devices, "cpu"),
      mutable=["batch_stats"],
    )
    return jax.jit(apply, compiler_options=QUICK)(variables, clips)[0]["embedding"]

  clips = formula_clips()
  apart = [embedding("global", part, 1) for part in (clips[:2], clips[2:])]
  together = embedding("local", clips, 2)
  np.testing.assert_allclose(together, np.concatenate(apart), rtol=0, atol=2e-4)
