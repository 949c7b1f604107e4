"""The classifiers that the study of labels with few training clips compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import (
  fit_calibration,
  label_pairs,
  left_out_weights,
  logarithms,
  neighbour_weights,
  regression_weights,
  weighted_sums,
)
from atgcn_jax.models import logit_offset
from atgcn_jax.paper.experiment_configs import Settings
from atgcn_jax.paper.experiment_runs import ScoredRun
from atgcn_jax.paper.few_fits import (
  Examples,
  cross_entropy,
  drawn_clips,
  fit_linear,
  kept_positives,
  minimise,
)
from atgcn_jax.paper.unseen import Draw
from atgcn_jax.runs.added_labels import extended_run
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.run import Loaded
from atgcn_jax.training import sharding
from atgcn_jax.training.step import normalised_log_mel

PLAIN, NEIGHBOURS = "linear", "linear, drawn to the neighbours' vectors"
PRIOR, GRAPH = "linear, added to the estimate", "graph head"
PARTS = ("train", "validation", "test")
BATCH = 1024


class Half(NamedTuple):
  """The inputs of the classifiers of the labels with few positives.

  Attributes:
    inputs: float32[N, C] of each part, embeddings of mean 0 and deviation 1 over the training.
    labels: [N, A] of each part.
    vectors: float32[K, C], those of the known labels for these inputs.
    weights: float32[A, K], weights of the neighbours of each label, which sum to 1.
    estimates: float32[N, A] of each part, the estimated log-odds.
  """

  inputs: dict[str, np.ndarray]
  labels: dict[str, np.ndarray]
  vectors: np.ndarray
  weights: np.ndarray
  estimates: dict[str, np.ndarray]


Scores = Callable[[str], np.ndarray]  # from the name of a part to scores [N, A]
Fit = Callable[[int | None, float], Scores]  # from the number of positives and the strength


def half_of(
  run: ScoredRun,
  draw: Draw,
  counts: Counts,
  store: ClipStore,
  clips: Mapping[str, np.ndarray],
  settings: Settings,
) -> Half:
  """Return the inputs of the classifiers that are fitted on a run with a linear head."""
  loaded = load_run(run.workdir, settings.step, sharding.data_mesh())
  inputs = {part: inputs_of(loaded, store, chosen) for part, chosen in clips.items()}
  labels = {part: store.labels(chosen) for part, chosen in clips.items()}
  mean, deviation = inputs["train"].mean(axis=0), inputs["train"].std(axis=0) + 1e-6
  classifier = jax.device_get(loaded.state["params"]["head"]["fc"])
  known, new = draw[:2]
  biases = classifier["bias"] + logit_offset(loaded.run.config.model)
  scores = {
    part: np.asarray(jax.nn.sigmoid(x @ classifier["kernel"] + biases))
    for part, x in inputs.items()
  }
  of_known = Counts(counts.occurrences[known], label_pairs(counts)[np.ix_(known, known)])
  line = fit_calibration(
    weighted_sums(scores["validation"], left_out_weights(of_known)), labels["validation"][:, known]
  )
  sums = {
    part: weighted_sums(s, regression_weights(counts, known, new)) for part, s in scores.items()
  }
  return Half(
    {part: (x - mean) / deviation for part, x in inputs.items()},
    {part: of_part[:, new] for part, of_part in labels.items()},
    classifier["kernel"].T * deviation,
    neighbour_weights(counts, known, new).astype(np.float32),
    {
      part: (line.intercept + line.slope * logarithms(s)).astype(np.float32)
      for part, s in sums.items()
    },
  )


def inputs_of(loaded: Loaded, store: ClipStore, clips: np.ndarray) -> np.ndarray:
  """Return the inputs of the head of a checkpoint for clips, float32[N, C]."""
  model, normaliser = loaded.run.model(), loaded.run.normaliser

  @jax.jit
  def features(variables: Any, batch: Any) -> Any:
    found: Any = model.apply(variables, normalised_log_mel(batch, normaliser), return_features=True)
    return found.get("hidden", found["embedding"])

  rows = []
  for start in range(0, len(clips), BATCH):
    batch = store.read(clips[start : start + BATCH])
    rows.append(features(loaded.state, {name: batch[name] for name in ("log_mel", "peak_db")}))
  return np.concatenate([np.asarray(part) for part in rows])


def linear_fits(half: Half, seed: int) -> dict[str, Fit]:
  """Return the three forms of linear classifiers."""
  size = half.labels["train"].shape[1], half.vectors.shape[1]
  nothing = {part: np.float32(0) for part in PARTS}

  def form(centres: np.ndarray, offsets: Mapping[str, Any]) -> Fit:
    def fit(positives: int | None, strength: float) -> Scores:
      vectors, biases = centres, np.zeros(len(centres), np.float32)
      if positives != 0:
        labels = half.labels["train"]
        counted = kept_positives(labels, positives, seed)
        chosen = drawn_clips(labels, counted, seed)
        offset = offsets["train"] if np.ndim(offsets["train"]) == 0 else offsets["train"][chosen]
        examples = Examples(
          half.inputs["train"][chosen], labels[chosen].astype("f"), counted[chosen].astype("f")
        )
        vectors, biases = fit_linear(examples, strength, centres=centres, offsets=offset)
      return lambda part: half.inputs[part] @ vectors.T + biases + offsets[part]

    return fit

  return {
    PLAIN: form(np.zeros(size, np.float32), nothing),
    NEIGHBOURS: form(half.weights @ half.vectors, nothing),
    PRIOR: form(np.zeros(size, np.float32), half.estimates),
  }


def graph_fit(
  run: ScoredRun,
  draw: Draw,
  weights: np.ndarray,
  words: np.ndarray,
  store: ClipStore,
  clips: Mapping[str, np.ndarray],
  settings: Settings,
  *,
  seed: int,
) -> Fit:
  """Return the fit of a graph head: its weights are trained on, with the new labels as nodes.

  Without clips, nodes only gather from their neighbours, as those of `tag --add-labels`. With clips
  they have their word vectors: without these, they could not learn to differ from their neighbours.
  """
  loaded = load_run(run.workdir, settings.step, sharding.data_mesh())
  inputs = {part: inputs_of(loaded, store, chosen) for part, chosen in clips.items()}
  known, new = draw[:2]
  order = np.concatenate([known, new])
  start = jax.device_get(loaded.state["params"]["head"])
  labels = store.labels(clips["train"])[:, order]

  def fit(positives: int | None, strength: float) -> Scores:
    nodes = words[new] if positives != 0 else np.zeros_like(words[new])
    model = extended_run(loaded.run, store.vocabulary.part(order), weights, nodes).model()

    def vectors_of(parameters: Any) -> Any:
      silence = jnp.zeros((1, inputs["train"].shape[1]))
      return model.head.apply({"params": parameters}, silence)["label_vectors"]

    parameters = start
    if positives != 0:
      counted = np.ones(labels.shape, bool)
      counted[:, len(known) :] = kept_positives(labels[:, len(known) :], positives, seed)
      chosen = drawn_clips(labels[:, len(known) :], counted[:, len(known) :], seed)
      x, y, use = (jnp.asarray(a[chosen], "f") for a in (inputs["train"], labels, counted))

      def objective(parameters: Any) -> Any:
        moved = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), parameters, start)
        change = 0.5 * strength * sum(jax.tree.leaves(moved))
        logits = x @ vectors_of(parameters).T + model.offset
        return cross_entropy(logits, y, use) + change

      parameters = minimise(objective, start)
    vectors = np.asarray(vectors_of(parameters))[len(known) :]
    return lambda part: inputs[part] @ vectors.T

  return fit
