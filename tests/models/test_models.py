"""CNN10 and AT-GCN: sizes, shapes, types, and the dependencies of a logit."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from atgcn_jax import models
from atgcn_jax.models.heads import GraphHead
from atgcn_jax.models.layers import activation
from atgcn_jax.runs.config_defaults import DEFAULTS

LABELS, WIDTH = 6, 1 / 32  # channels 2, 4, 8, 16, an embedding of 16, 8 hidden node features
RING = 0.6 * np.eye(LABELS, dtype="f") + 0.4 * np.roll(np.eye(LABELS, dtype="f"), 1, axis=1)
VECTORS = np.random.default_rng(0).standard_normal((LABELS, 5)).astype("f")
LOG_MEL = np.random.default_rng(1).standard_normal((3, 32, 16)).astype("f")


def config_of(head, **changes):
  return ml_collections.ConfigDict(DEFAULTS["model"] | {"head": head, "width": WIDTH} | changes)


def small(head, **changes):
  graph = {"propagation": RING, "label_embeddings": VECTORS} if head != "linear" else {}
  return models.build(config_of(head, **changes), num_classes=LABELS, **graph)


def shapes_of(model, log_mel=LOG_MEL):
  return dict(jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(log_mel)))


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def initial():
  """Return the variables of a small AT-GCN before training."""
  compiled = jax.jit(small("graph").init, compiler_options={"xla_backend_optimization_level": 0})
  return compiled(jax.random.key(0), LOG_MEL)


@pytest.fixture(scope="module")
def features():
  """Return variables and features of both small systems by the name of their head."""

  def compute(head):
    model, random = small(head), np.random.default_rng(2)
    variables = jax.tree.map(
      lambda x: (
        random.uniform(0.5, 1.5, x.shape).astype("f")
        if len(x.shape) < 2
        else (random.standard_normal(x.shape) * (2 / np.prod(x.shape[:-1])) ** 0.5).astype("f")
      ),
      shapes_of(model),
    )
    made = jax.jit(lambda v, x: model.apply(v, x, return_features=True))(variables, LOG_MEL)
    return variables, jax.tree.map(np.asarray, made)

  return {head: compute(head) for head in ("linear", "graph")}


# PANNs reports 5,219,279 parameters for CNN10, of which 527 x 512 + 527 belong to the classifier.
# The graph head has 300 x 512, or 300 x 256 + 256 x 512, or 300 x 256 + 256 x 256 + 256 x 512.
@pytest.mark.parametrize(
  ("head", "layers", "parameters"),
  [
    ("linear", 2, 5_219_279),
    ("graph", 1, 5_102_528),
    ("graph", 2, 5_156_800),
    ("graph", 3, 5_222_336),
  ],
)
def test_parameter_counts(head, layers, parameters):
  graph = {"propagation": np.eye(527, dtype="f"), "label_embeddings": np.zeros((527, 300), "f")}
  model = models.build(config_of(head, width=1.0, layers=layers), num_classes=527, **graph)
  assert count(shapes_of(model, np.zeros((1, 400, 64)))["params"]) == parameters


def test_graph_and_vectors_are_not_variables():
  model = small("graph")
  assert shapes_of(model).keys() == {"params", "batch_stats"}
  assert shapes_of(model)["params"]["head"].keys() == {"gc1", "gc2"}


def test_width_scales_channels():
  encoder = shapes_of(small("graph"))["params"]["encoder"]
  kernels = [encoder[f"conv_block{b}"]["conv2"]["kernel"].shape for b in range(1, 5)]
  assert kernels == [(3, 3, c, c) for c in (2, 4, 8, 16)]
  assert encoder["fc1"]["kernel"].shape == (16, 16)
  head = shapes_of(small("graph"))["params"]["head"]
  assert [head[f"gc{i}"]["weight"].shape for i in (1, 2)] == [(5, 8), (8, 16)]
  assert count(shapes_of(small("graph", width=1 / 16))) > 2 * count(shapes_of(small("graph")))


def test_initial_weights(initial):
  params = initial["params"]
  for name, bound in (("gc1", 8**-0.5), ("gc2", 16**-0.5)):
    weight = np.asarray(params["head"][name]["weight"])
    assert 0.8 * bound < np.abs(weight).max() <= bound
    assert weight.min() < 0 < weight.max()
  kernel = np.asarray(params["encoder"]["conv_block4"]["conv2"]["kernel"])
  bound = np.sqrt(6 / (9 * 16 + 9 * 16))  # Xavier, uniform
  assert 0.95 * bound < np.abs(kernel).max() <= bound
  np.testing.assert_array_equal(params["encoder"]["fc1"]["bias"], 0)


@pytest.mark.parametrize("head", ["linear", "graph"])
def test_logits_are_products_of_embedding_and_label_vectors(features, head):
  variables, made = features[head]
  assert made["logits"].shape == (3, LABELS)
  assert made["embedding"].shape == (3, 16)
  assert made["label_vectors"].shape == (LABELS, 16)
  bias = variables["params"]["head"]["fc"]["bias"] if head == "linear" else 0
  product = made["embedding"] @ made["label_vectors"].T + bias
  np.testing.assert_allclose(made["logits"], product, atol=1e-5)
  assert np.ptp(product, axis=0).min() > 1e-2  # the clips differ


@pytest.mark.parametrize("pooled", [False, True])
def test_a_prior_adds_its_log_odds_to_the_logits(pooled):
  changes = dict(encoder="vectors", frame_units=(4,), clip_units=() if pooled else (4,))
  if pooled:
    changes["pooling"] = "average"
  plain, rare = (small("graph", prior=prior, **changes) for prior in (0.5, 0.01))
  clips = np.random.default_rng(3).standard_normal((2, 10, 128)).astype("f")
  variables = jax.jit(plain.init)(jax.random.key(0), clips)
  before, after = (model.apply(variables, clips, return_features=True) for model in (plain, rare))
  name = "frame_logits" if pooled else "logits"
  np.testing.assert_allclose(after[name], before[name] + np.log(0.01 / 0.99), atol=1e-5)
  assert plain.offset == 0


def test_label_vectors_are_the_propagated_embeddings(features):
  variables, made = features["graph"]
  first, second = (np.float64(variables["params"]["head"][f"gc{i}"]["weight"]) for i in (1, 2))
  hidden = np.float64(RING) @ VECTORS @ first
  hidden = np.where(hidden < 0, 0.2 * hidden, hidden)
  np.testing.assert_allclose(made["label_vectors"], RING @ hidden @ second, atol=1e-5)


def test_one_layer_on_the_identity_is_a_linear_map():
  head = GraphHead(np.eye(LABELS, dtype="f"), VECTORS, layers=1)
  embedding = LOG_MEL[:, 0]
  variables = head.init(jax.random.key(0), embedding)
  made = head.apply(variables, embedding)
  weight = np.asarray(variables["params"]["gc1"]["weight"])
  np.testing.assert_allclose(made["logits"], embedding @ (VECTORS @ weight).T, atol=1e-5)


def test_a_logit_depends_only_on_the_label_and_its_neighbours():
  embedding = LOG_MEL[:1, 0]

  def influence(propagation):
    """Return bool[K, K]: whether the logit of label i depends on the vector of label j."""

    def logits(vectors):
      head = GraphHead(propagation, vectors, layers=2, hidden=8)
      weights = {
        "gc1": {"weight": jnp.sin(jnp.arange(40.0)).reshape(5, 8)},
        "gc2": {"weight": jnp.sin(jnp.arange(128.0)).reshape(8, 16)},
      }
      return head.apply({"params": weights}, embedding)["logits"][0]

    return np.abs(jax.jacobian(logits)(jnp.asarray(VECTORS))).max(axis=-1) > 1e-6

  np.testing.assert_array_equal(influence(np.eye(LABELS)), np.eye(LABELS, dtype=bool))
  one_edge = np.eye(LABELS)
  one_edge[1, 4] = 0.3  # label 1 gathers from label 4, but not vice versa
  np.testing.assert_array_equal(influence(one_edge), one_edge > 0)
  # Two layers reach the neighbours of neighbours.
  np.testing.assert_array_equal(influence(RING), RING @ RING > 0)


def test_activations():
  x = jnp.array([-2.0, 0.0, 3.0])
  np.testing.assert_allclose(activation("leaky_relu", 0.2, jnp.float32)(x), [-0.4, 0, 3])
  np.testing.assert_allclose(activation("relu", 0.2, jnp.float32)(x), [0, 0, 3])
  with pytest.raises(ValueError, match="tanh"):
    activation("tanh", 0.2, jnp.float32)


def test_prelu_trains_its_slope_from_the_same_start(features):
  variables, made = features["graph"]
  model = small("graph", activation="prelu")
  shapes = shapes_of(model)["params"]["head"]
  assert shapes["PReLU_0"]["negative_slope"].shape == ()
  assert shapes.keys() == {"gc1", "gc2", "PReLU_0"}
  embedding = made["embedding"]
  head = GraphHead(RING, VECTORS, hidden=8, activation="prelu")
  weights = dict(variables["params"]["head"])

  def total(slope):
    params = weights | {"PReLU_0": {"negative_slope": slope}}
    return head.apply({"params": params}, embedding)["logits"].sum()

  value, gradient = jax.value_and_grad(total)(0.2)
  np.testing.assert_allclose(value, made["logits"].sum(), rtol=1e-5, atol=1e-5)
  assert abs(gradient) > 1e-3
  start = head.init(jax.random.key(0), embedding)["params"]["PReLU_0"]["negative_slope"]
  np.testing.assert_allclose(start, 0.2, rtol=1e-6)


@pytest.mark.parametrize("head", ["linear", "graph"])
def test_bfloat16_computes_narrow_and_keeps_float32_parameters(features, head):
  variables, exact = features[head]
  model = small(head, dtype="bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(model))} == {jnp.dtype("float32")}
  apply = jax.jit(lambda v, x: model.apply(v, x, return_features=True))
  made = apply(variables, LOG_MEL)
  assert {name: x.dtype for name, x in made.items()} == dict.fromkeys(made, jnp.dtype("float32"))
  # The embedding is the result of bfloat16 arithmetic, so a cast to bfloat16 is lossless.
  np.testing.assert_array_equal(
    made["embedding"], made["embedding"].astype(jnp.bfloat16).astype(jnp.float32)
  )
  difference = np.abs(made["logits"] - exact["logits"]).max()
  assert 0 < difference < 0.05 * np.abs(exact["logits"]).max()
  traced = str(jax.make_jaxpr(apply)(variables, LOG_MEL))
  convolutions = [line for line in traced.splitlines() if "= conv_general_dilated[" in line]
  assert len(convolutions) == 8
  assert all(":bf16[" in line for line in convolutions)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"encoder": "cnn9"}, "model.encoder must be .* got 'cnn9'"),
    ({"head": "forest"}, "model.head must be .* got 'forest'"),
    ({"dtype": "float8"}, "model.dtype must be .* got 'float8'"),
    ({"layers": 0}, "model.layers must be at least 1, got 0"),
    ({"batch_norm": "none"}, "model.batch_norm must be .* got 'none'"),
  ],
)
def test_build_refuses_unknown_settings(changes, message):
  with pytest.raises(ValueError, match=message):
    small(**{"head": "graph"} | changes)


@pytest.mark.parametrize(
  ("graph", "message"),
  [
    ({}, "needs a propagation matrix"),
    ({"propagation": RING}, "needs a propagation matrix"),
    ({"propagation": RING[:3, :3], "label_embeddings": VECTORS}, r"shape \(6, 6\), got \(3, 3\)"),
    ({"propagation": RING, "label_embeddings": VECTORS[:5]}, r"shape \[6, E\], got \(5, 5\)"),
    ({"propagation": RING, "label_embeddings": VECTORS[0]}, r"shape \[6, E\], got \(5,\)"),
  ],
)
def test_build_refuses_graphs_of_another_size(graph, message):
  with pytest.raises(ValueError, match=message):
    models.build(config_of("graph"), num_classes=LABELS, **graph)
