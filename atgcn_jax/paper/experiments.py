"""The rows of the paper's tables and the points of its figures: systems and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from atgcn_jax.errors import UserError

THRESHOLD, NEIGHBOUR_WEIGHT = 0.3, 0.2  # τ and p of the paper
POINTS = tuple(k / 10 for k in range(11))
BASELINE = "cnn10"
HEAD_RATE = "optim.head_factor"
BEGUN_WITH = "start.run=BASELINE"  # placeholder for the baseline's run of the same seed and fold


class Published(NamedTuple):
  """Results that the paper reports for AudioSet's evaluation set."""

  map: float
  mauc: float
  d_prime: float


class Experiment(NamedTuple):
  """A system with changed settings.

  Attributes:
    name: Name of the files of its runs. Experiments of the same name share their runs.
    title: Title of its row.
    config: Name of its config file without .py, and after a colon the recipe.
    changes: Changes of the config, KEY=VALUE.
    published: Results in the paper, or None.
  """

  name: str
  title: str
  config: str
  changes: tuple[str, ...] = ()
  published: Published | None = None


CNN10 = Experiment(BASELINE, "CNN10", "cnn10", (), Published(0.422, 0.970, 2.653))
AT_GCN = {
  layers: Experiment(
    f"atgcn_{layers}",
    f"AT-GCN, {layers} layer{'s' * (layers > 1)}",
    "atgcn",
    (f"model.layers={layers}",),
    figures,
  )
  for layers, figures in (
    (1, Published(0.428, 0.971, 2.711)),
    (2, Published(0.434, 0.974, 2.736)),
    (3, Published(0.430, 0.972, 2.715)),
  )
}
# Published results are those of the paper's own reruns, except for Google CNN and DeepRes, whose
# results are those of their authors.
TABLE1 = (
  Experiment("google_cnn", "Google CNN", "google_cnn", (), Published(0.314, 0.959, 2.452)),
  Experiment(
    "multilevel_attention",
    "Multi-level attention",
    "multilevel_attention",
    (),
    Published(0.362, 0.970, 2.667),
  ),
  Experiment("talnet", "TALNet", "talnet", (), Published(0.367, 0.969, 2.638)),
  Experiment("deepres", "DeepRes-style", "deepres", (), Published(0.392, 0.971, 2.682)),
  CNN10,
  *AT_GCN.values(),
  Experiment(
    "atgcn_restart",
    "AT-GCN, 2 layers, from CNN10",
    "atgcn:restart",
    (BEGUN_WITH,),
  ),
)
# Table I on AudioSet's features: the systems that need no spectrogram. CNN10's and AT-GCN's heads
# are on the same encoder of vectors. Multi-level attention has the result of its authors.
FEATURES_TABLE1 = (
  Experiment(
    "multilevel_attention",
    "Multi-level attention",
    "systems:multilevel_attention",
    (),
    Published(0.360, 0.970, 2.660),
  ),
  Experiment("decision_attention", "Decision-level attention", "systems:decision_attention"),
  Experiment("feature_attention", "Feature-level attention", "systems:feature_attention"),
  CNN10,
  *AT_GCN.values(),
)


def on_features(experiment: Experiment) -> Experiment:
  """Return an experiment with its head on the encoder of AudioSet's features instead of CNN10."""
  title = experiment.title.replace("CNN10", "linear head").replace("AT-GCN", "graph head")
  config = {"cnn10": "systems:linear", "atgcn": "systems:graph"}.get(experiment.config)
  return experiment._replace(title=title, config=config or experiment.config)


def with_graph(method: str, title: str, published: Published | None = None) -> Experiment:
  """Return AT-GCN with two layers on the graph of another method."""
  if method == "paper":
    return AT_GCN[2]._replace(title=title)
  return Experiment(f"graph_{method}", title, "atgcn", (f"graph.method={method}",), published)


TABLE2 = (
  CNN10,
  with_graph("binary", "binary [15, 28]", Published(0.431, 0.973, 2.727)),
  with_graph("ontology", "ontology [20]", Published(0.429, 0.971, 2.701)),
  with_graph("none", "P, no scheme", Published(0.132, 0.907, 1.872)),
  with_graph("threshold", "Eq. 6", Published(0.267, 0.952, 2.360)),
  with_graph("reweight", "Eq. 7", Published(0.188, 0.932, 2.113)),
  with_graph("paper", "Eq. 6 and 7"),
  with_graph("author", "the authors' code"),
  with_graph("identity", "no graph (identity)"),
  Experiment("laplacian", "CNN10, Laplacian term [16]", "cnn10", ("loss.laplacian=0.1",)),
  Experiment("hierarchy", "CNN10, hierarchical loss [17]", "cnn10", ("loss.hierarchy=0.5",)),
)


def with_vectors(source: str, title: str) -> Experiment:
  """Return AT-GCN with two layers and other label embeddings."""
  return Experiment(f"vectors_{source}", title, "atgcn", (f"graph.embeddings={source}",))


def from_baseline(experiment: Experiment) -> Experiment:
  """Return an experiment that starts from the parameters of the trained baseline that fit it."""
  return experiment._replace(
    name=f"{experiment.name}_restart",
    title=f"{experiment.title}, from CNN10",
    changes=(*experiment.changes, BEGUN_WITH, "start.step=latest"),
    published=None,
  )


def with_head_rate(experiment: Experiment, factor: float) -> Experiment:
  """Return an experiment whose head has its own learning rate.

  Args:
    experiment: The experiment to change.
    factor: Learning rate of the head, relative to that of the other parameters.
  """
  return experiment._replace(
    name=f"{experiment.name}_head_{factor:g}",
    title=f"{experiment.title}, head's rate x {factor:g}",
    changes=(*experiment.changes, f"{HEAD_RATE}={factor:g}"),
    published=None,
  )


# Does the graph help? The ablation trains the paper's head with and without a graph, with other
# label embeddings, and with its own learning rate. Adam moves label vectors that are sums of many
# products about ten times as far as free parameters. A fair comparison therefore trains CNN10's
# classifier at ten times the rate, or the graph head at a tenth. A system that starts from a
# trained CNN10 is compared with a CNN10 that is trained for the same number of further steps.
ABLATION = (
  CNN10,
  *AT_GCN.values(),
  with_graph("identity", "no graph (identity)"),
  with_graph("author", "the authors' graph"),
  with_vectors("random", "random vectors"),
  with_vectors("one_hot", "one-hot vectors"),
  with_head_rate(CNN10, 10),
  with_head_rate(AT_GCN[2], 0.1),
  with_head_rate(with_graph("identity", "no graph (identity)"), 0.1),
  from_baseline(CNN10),
  from_baseline(AT_GCN[2]),
)


class Curve(NamedTuple):
  """One panel of Figure 3: title of the setting, its config key, and the paper's choice."""

  title: str
  key: str
  chosen: float


FIGURE3 = (
  Curve("threshold τ (p = 0.2)", "graph.threshold", THRESHOLD),
  Curve("weight of the neighbours p (τ = 0.3)", "graph.neighbour_weight", NEIGHBOUR_WEIGHT),
)


def on_curve(curve: Curve, value: float) -> Experiment:
  """Return the experiment of one point of a curve."""
  if value == curve.chosen:
    return AT_GCN[2]
  setting = curve.key.removeprefix("graph.")
  name = f"{setting}_{value:g}"
  return Experiment(name, f"{setting} {value:g}", "atgcn", (f"{curve.key}={value:g}",))


def chosen(experiments: Sequence[Experiment], names: Sequence[str]) -> list[Experiment]:
  """Select experiments by name; the baseline is always included, the order is kept.

  Args:
    experiments: The experiments to select from.
    names: Names of the selected experiments; empty for all.

  Raises:
    UserError: A name is unknown.
  """
  known = [experiment.name for experiment in experiments]
  if unknown := [name for name in names if name not in known]:
    raise UserError(f"--rows {unknown[0]}: not a row; choose from {', '.join(known)}")
  return [e for e in experiments if not names or e.name in names or e.name == BASELINE]
