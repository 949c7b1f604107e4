"""The systems of Table I: parameter counts, comparison with PyTorch, both heads, all configs."""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from marks import slow
from runs_support import tiny_config

from atgcn_jax import models
from atgcn_jax.errors import UserError
from atgcn_jax.models.layers import Placement
from atgcn_jax.models.resnet import ResNet
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.runs.parts import optimiser_of
from atgcn_jax.runs.training_loop import train
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.sharding import data_mesh
from atgcn_jax.training.state import initial_state
from atgcn_jax.training.step import Normaliser, make_train_step

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
TABLE1 = sorted((CONFIGS / "table1").glob("*.py"))
RECIPES = [
  *(str(path) for path in TABLE1),
  *(f"{path}:original" for path in TABLE1),
  f"{CONFIGS / 'table1/atgcn.py'}:restart",
]
ON_FEATURES = [
  f"{CONFIGS / 'audioset_features/systems.py'}:{name}"
  for name in ("linear", "graph", "decision_attention", "feature_attention", "multilevel_attention")
]
# One recipe per compiled program. The others differ only in the graph or in inputs of the step.
STEPS = [*(path for path in RECIPES if "atgcn.py:" not in path), *ON_FEATURES]
LABELS = 6
RING = 0.6 * np.eye(LABELS, dtype="f") + 0.4 * np.roll(np.eye(LABELS, dtype="f"), 1, axis=1)
VECTORS = np.random.default_rng(0).standard_normal((LABELS, 5)).astype("f")
QUICK = {"xla_backend_optimization_level": 0}
FRAME_WISE = {"talnet": 40, "google_cnn": 10, "deepres": 10}  # frames of 160


def config_of(encoder, head="linear", **changes):
  small = {"encoder": encoder, "head": head, "width": 1 / 32}
  return ml_collections.ConfigDict(DEFAULTS["model"] | small | changes)


def build(config, labels=LABELS):
  graph = {}
  if config.head == "graph":
    graph = {"propagation": RING, "label_embeddings": VECTORS}
  return models.build(config, num_classes=labels, **graph)


def shape_of(encoder):
  return (10, 128) if encoder in models.ON_VECTORS else (160, 32)


def clips_of(encoder, clips=3, seed=1):
  return np.random.default_rng(seed).standard_normal((clips, *shape_of(encoder))).astype("f")


def parameters(encoder, shape=(400, 64), **changes):
  model = models.build(config_of(encoder, width=1.0, **changes), num_classes=527)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables["params"]))


def conv_norm(size, inputs, outputs):
  return size * size * inputs * outputs + 2 * outputs


def residual_trunk(depth):
  """Return the number of parameters of ResNet-34 or -50 for one channel, without a classifier."""
  total, inputs = conv_norm(7, 1, 64), 64
  for channels, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3)):
    outputs = channels if depth == 34 else 4 * channels
    for block in range(blocks):
      if depth == 34:
        total += conv_norm(3, inputs, channels) + conv_norm(3, channels, channels)
      else:
        total += conv_norm(1, inputs, channels) + conv_norm(3, channels, channels)
        total += conv_norm(1, channels, outputs)
      if inputs != outputs:
        assert block == 0
        total += conv_norm(1, inputs, outputs)
      inputs = outputs
  return total


def test_parameters_of_talnet():
  widths = (1, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512)
  convolutions = sum(conv_norm(3, a, b) + b for a, b in itertools.pairwise(widths))
  # Per direction: three gates from 1024 and from 512, one bias per gate and one in the new state.
  recurrent = 2 * (3 * (1024 * 512 + 512 * 512) + 4 * 512)
  assert parameters("talnet") == 9_978_479
  assert convolutions + recurrent + 1024 * 527 + 527 == 9_978_479


def test_parameters_of_cnn14():
  assert parameters("cnn14") == 80_753_615  # Kong et al. state 80,753,615 for Cnn14


def test_parameters_of_multilevel_attention():
  assert parameters("multilevel_attention_embeddings", (10, 128)) == 2_630_619
  front_end = sum(conv_norm(3, a, b) for a, b in ((1, 32), (32, 64), (64, 128), (128, 128)))
  assert parameters("multilevel_attention") == 2_630_619 + front_end


@pytest.mark.parametrize(
  ("depth", "width", "known"), [(34, 512, 21_819_102), (50, 2048, 25_661_406)]
)
def test_parameters_of_deepres(depth, width, known):
  assert parameters("deepres", depth=depth) == known
  assert residual_trunk(depth) + 2 * (width * 527 + 527) == known


def test_parameters_of_the_google_cnn():
  classifier = 2048 * 128 + 128 + 128 * 527 + 527
  assert parameters("google_cnn") == residual_trunk(50) + classifier
  assert parameters("google_cnn", (998, 64)) == parameters("google_cnn")


@functools.cache
def features_of(encoder, head):
  """Return variables, features of three clips, and features after replacing all but the first."""
  model = build(config_of(encoder, head))
  clips = clips_of(encoder)
  variables = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0), clips)
  apply = jax.jit(lambda v, x: model.apply(v, x, return_features=True), compiler_options=QUICK)
  others = np.concatenate([clips[:1], 3 * clips_of(encoder, 2, seed=2)])
  return variables, apply(variables, clips), apply(variables, others)


@pytest.mark.parametrize("head", ["linear", "graph"])
@pytest.mark.parametrize(
  "encoder",
  # Convolutions compile longest. test_torch_weights.py and test_mobilenet.py test three of them.
  [name if name in models.ON_VECTORS else slow(name) for name in models.ENCODERS],
)
def test_every_encoder_works_with_either_head(encoder, head):
  _, found, beside_others = features_of(encoder, head)
  logits = np.asarray(found["logits"])
  assert logits.shape == (3, LABELS)
  assert logits.dtype == np.float32
  assert np.ptp(logits, axis=0).min() > 0  # for each label, clips differ
  assert np.abs(logits[0] - beside_others["logits"][0]).max() < 1e-5
  head_input = found.get("hidden", found["embedding"])
  assert found["label_vectors"].shape == (LABELS, head_input.shape[1])
  if encoder in FRAME_WISE:
    assert found["frame_logits"].shape == (3, FRAME_WISE[encoder], LABELS)
  else:
    assert "frame_logits" not in found


@pytest.mark.parametrize("pooling", ["max_mean", "feature_attention", "attention"])
def test_the_encoder_of_vectors_in_numpy(pooling):
  units = () if pooling == "attention" else (96,)
  model = build(config_of("vectors", pooling=pooling, frame_units=(64,), clip_units=units))
  clips = clips_of("vectors")
  variables = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0), clips)
  logits = jax.jit(model.apply, compiler_options=QUICK)(variables, clips)

  params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
  encoder, norm = params["encoder"], np.sqrt(1 + 1e-5)  # running variance 1, running mean 0

  def dense(of, x):
    return x @ of["kernel"] + of["bias"]

  def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

  x = np.maximum(dense(encoder["frame1"], clips / norm) / norm, 0)
  if pooling == "attention":
    weights = softmax(dense(params["pooling"]["attention"], x))
    p = (weights / (1 + np.exp(-dense(params["head"]["fc"], x)))).sum(axis=1)
    expected = np.log(p) - np.log(1 - p)
  else:
    if pooling == "max_mean":
      x = np.concatenate([x.max(axis=1), x.mean(axis=1)], axis=-1)
    else:
      x = (softmax(dense(encoder["attention"], x)) * x).sum(axis=1)
    x = np.maximum(dense(encoder["clip1"], x) / norm, 0)
    expected = dense(params["head"]["fc"], x)
  assert np.abs(logits - expected).max() < 1e-5


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pooling": "attention"}, "clip_units must be empty"),
    ({"pooling": "median"}, "pooling must be one of .*max_mean, feature_attention"),
    ({"frame_units": (0,)}, "must be integers"),
    ({"clip_units": ("wide",)}, "must be integers"),
  ],
)
def test_settings_of_the_encoder_of_vectors_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    build(config_of("vectors", **changes))


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["talnet", "google_cnn", "deepres"])
def test_the_clip_is_the_pooling_of_its_frames(encoder):
  _, found, _ = features_of(encoder, "linear")
  frames = 1 / (1 + np.exp(-np.asarray(found["frame_logits"], np.float64)))
  clip = 1 / (1 + np.exp(-np.asarray(found["logits"], np.float64)))
  if encoder == "talnet":
    assert np.abs(clip - (frames**2).sum(1) / frames.sum(1)).max() < 1e-5
  if encoder == "google_cnn":
    assert np.abs(clip - frames.mean(1)).max() < 1e-5
  assert (clip <= frames.max(1) + 1e-5).all()
  assert (clip >= frames.min(1) - 1e-5).all()


def test_ten_seconds_give_a_hundred_frames_of_talnet():
  model = models.build(config_of("talnet"), num_classes=LABELS)
  found = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, return_features=True)[0],
    jnp.zeros((2, 400, 64)),
  )
  assert found["frame_logits"].shape == (2, 100, LABELS)


def test_the_poolings_of_a_config_are_used():
  for pooling in models.POOLINGS:
    assert build(config_of("talnet", pooling=pooling)).pooling.kind == pooling
  for encoder, own in models.OWN_POOLING.items():
    model = build(config_of(encoder))
    assert (model.encoder.pooling if encoder == "vectors" else model.pooling.kind) == own


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"encoder": "vgg"}, "model.encoder must be one of cnn10, cnn14, .* got 'vgg'"),
    ({"encoder": "talnet", "pooling": "sum"}, "model.pooling must be .* got 'sum'"),
    ({"encoder": "deepres", "depth": 18}, "model.depth must be one of 34, 50, got 18"),
  ],
)
def test_unknown_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    build(config_of(**changes))


@pytest.mark.parametrize("encoder", models.ENCODERS)
def test_bfloat16_scores_in_float32(encoder):
  model = build(config_of(encoder, dtype="bfloat16"))
  variables = jax.eval_shape(model.init, jax.random.key(0), clips_of(encoder))
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  found = jax.eval_shape(lambda v, x: model.apply(v, x), variables, clips_of(encoder))
  assert found.dtype == jnp.float32


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: pathlib.Path(path).name)
def test_every_recipe_is_a_config_of_its_system(path):
  config, common = load_config(path), load_config(path.partition(":")[0])
  assert config.model.head == common.model.head
  assert (config != common) == (":" in path)


def slow_but_one(path):
  """Vectors take a step each time, AT-GCN and CNN10 in tests of devices and steps."""
  return path if pathlib.Path(path).name == "systems.py:graph" else slow(path)


@pytest.mark.parametrize(
  "path", [slow_but_one(path) for path in STEPS], ids=lambda path: pathlib.Path(path).name
)
def test_every_config_takes_a_step(path):
  config = load_config(path, [f"--config.model.width={1 / 32}"])
  shape = shape_of(config.model.encoder)
  model, clips = build(config.model), 8
  adam = optimiser_of(config.optim)
  state = jax.jit(functools.partial(initial_state, model, adam, 0, shape), compiler_options=QUICK)()
  bands = np.ones(shape[1], "f")
  step = make_train_step(
    model,
    adam,
    data_mesh(jax.devices()[:1]),
    normaliser=Normaliser(0 * bands, bands),
    augmentation=Augmentation(**config.augment),
    seed=0,
  )
  batch = {
    "log_mel": clips_of(config.model.encoder, clips),
    "labels": (np.random.default_rng(3).random((clips, LABELS)) < 0.4).astype("f"),
  }
  before = jax.tree.map(np.array, state.params)
  after, measured = jax.jit(step.__wrapped__, compiler_options=QUICK)(state, batch, 1.0)
  assert np.isfinite(float(measured["loss"]))
  assert float(measured["gradient_norm"]) > 0
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after.params)
  still = [jax.tree_util.keystr(p) for p, x in jax.tree.leaves_with_path(moved) if x == 0]
  assert not still  # every parameter has a gradient


def test_table1_rows_have_the_settings_of_the_audioset_configs():
  for row, named in (("cnn10", "cnn10_audioset"), ("atgcn", "atgcn_audioset")):
    ours = load_config(CONFIGS / "table1" / f"{row}.py").to_dict()
    theirs = load_config(CONFIGS / f"{named}.py").to_dict()
    theirs["model"]["dtype"] = "float32"
    if row == "cnn10":
      theirs["graph"] = ours["graph"]  # a linear head has no graph
    assert ours == theirs


def test_a_recipe_is_named_after_the_file():
  path = CONFIGS / "table1" / "talnet.py"
  assert load_config(path).data.batch_size == 64
  assert load_config(f"{path}:original").data.batch_size == 250
  with pytest.raises(UserError, match="recipe 'other': must be common or original"):
    load_config(f"{path}:other")
  with pytest.raises(UserError, match="takes 0 positional arguments"):
    load_config(f"{CONFIGS / 'quickstart.py'}:original")
  with pytest.raises(UserError, match="no such config file"):
    load_config(f"{path}x:original")


def test_a_resnet_stage_agrees_with_pytorch():
  torch = pytest.importorskip("torch")
  width = 1 / 16
  model = ResNet(50, width)
  clips = np.random.default_rng(4).standard_normal((2, 38, 22)).astype("f")
  apply = jax.jit(lambda v, x: model.apply(v, x, False), compiler_options=QUICK)
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), clips)
  random = np.random.default_rng(5)
  variables = jax.tree.map(
    lambda x: (
      random.uniform(0.5, 1.5, x.shape).astype("f")
      if len(x.shape) == 1
      else (random.standard_normal(x.shape) / np.prod(x.shape[:-1]) ** 0.5).astype("f")
    ),
    shapes,
  )
  params, statistics = variables["params"], variables["batch_stats"]

  def conv_bn(x, *path, stride=1):
    ours, running = params, statistics
    for name in path:
      ours, running = ours[name], running[name]
    kernel = torch.tensor(ours["conv"]["kernel"]).permute(3, 2, 0, 1)
    y = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    numbers = (running["bn"]["mean"], running["bn"]["var"], ours["bn"]["scale"], ours["bn"]["bias"])
    return torch.nn.functional.batch_norm(y, *map(torch.tensor, numbers))

  x = torch.relu(conv_bn(torch.tensor(clips)[:, None], "stem"))
  x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
  for stage, blocks in enumerate((3, 4, 6, 3)):
    for block in range(blocks):
      name, stride = f"stage{stage + 1}_block{block + 1}", 2 if stage and not block else 1
      y = torch.relu(conv_bn(x, name, "layer1"))
      y = torch.relu(conv_bn(y, name, "layer2", stride=stride))
      y = conv_bn(y, name, "layer3")
      if "shortcut" in params[name]:
        x = conv_bn(x, name, "shortcut", stride=stride)
      x = torch.relu(x + y)
  expected = x.permute(0, 2, 3, 1).numpy()
  found = np.asarray(apply(variables, clips))
  assert found.shape == expected.shape
  assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_talnet_agrees_with_pytorch():
  torch = pytest.importorskip("torch")
  model = build(config_of("talnet", width=1 / 16))
  clips = clips_of("talnet", 2)
  variables = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0), clips)
  found = jax.jit(
    lambda v, x: model.apply(v, x, return_features=True, placement=Placement(1, "cpu")),
    compiler_options=QUICK,
  )(variables, clips)
  params = jax.tree.map(np.asarray, variables["params"]["encoder"])
  running = jax.tree.map(np.asarray, variables["batch_stats"]["encoder"])
  x = torch.tensor(clips)[:, None]
  for layer in range(1, 11):
    conv, norm, seen = params[f"conv{layer}"], params[f"bn{layer}"], running[f"bn{layer}"]
    kernel = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1)
    x = torch.nn.functional.conv2d(x, kernel, torch.tensor(conv["bias"]), padding=1)
    numbers = (seen["mean"], seen["var"], norm["scale"], norm["bias"])
    x = torch.relu(torch.nn.functional.batch_norm(x, *map(torch.tensor, numbers)))
    if layer % 2 == 0:
      x = torch.nn.functional.max_pool2d(x, (2, 2) if layer <= 4 else (1, 2))
  x = x.permute(0, 2, 3, 1).flatten(2)
  units = params["gru_forward"]["hr"]["kernel"].shape[0]
  gru = torch.nn.GRU(x.shape[-1], units, batch_first=True, bidirectional=True)
  with torch.no_grad():
    for direction, suffix in (("gru_forward", ""), ("gru_backward", "_reverse")):
      cell = params[direction]
      inputs = np.concatenate([cell[f"i{gate}"]["kernel"] for gate in "rzn"], 1)
      states = np.concatenate([cell[f"h{gate}"]["kernel"] for gate in "rzn"], 1)
      gru.__getattr__(f"weight_ih_l0{suffix}").copy_(torch.tensor(inputs.T))
      gru.__getattr__(f"weight_hh_l0{suffix}").copy_(torch.tensor(states.T))
      biases = np.concatenate([cell[f"i{gate}"]["bias"] for gate in "rzn"])
      gru.__getattr__(f"bias_ih_l0{suffix}").copy_(torch.tensor(biases))
      of_new = np.concatenate([np.zeros(2 * units, "f"), cell["hn"]["bias"]])
      gru.__getattr__(f"bias_hh_l0{suffix}").copy_(torch.tensor(of_new))
    frames = gru(x)[0].numpy()
  head = variables["params"]["head"]["fc"]
  expected = frames @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
  assert np.abs(found["frame_logits"] - expected).max() < 1e-5


@pytest.mark.slow
def test_a_frame_wise_system_with_a_graph_from_training_to_tags(tmp_path):
  config = tiny_config(tmp_path, "model.encoder=deepres", "model.depth=34", "optim.steps=2")
  train(config, tmp_path / "run")
  result = evaluate(tmp_path / "run")
  assert result["clips"] == 15
  assert "deepres with a label graph in run" in (tmp_path / "run" / "report.html").read_text()
  tags = Tagger.restore(tmp_path / "run").tag(np.sin(np.arange(5000) / 5).astype("f"), top=2)
  assert 0 < tags[1].score <= tags[0].score < 1
