"""Why a label has its score: when it sounded, and which labels its vector came from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.errors import UserError, counted
from atgcn_jax.labels.summary import graph_row
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.window_outputs import window_features
from atgcn_jax.runtime.whole_files import write_output
from atgcn_jax.serving.timeline import Timeline, nearest_spans

SHOWN = 5  # contributions and spans in text


class Contribution(NamedTuple):
  """The share of a label in the log-odds of the explained label, and its own score."""

  name: str
  log_odds: float
  score: float


class Explanation(NamedTuple):
  """Why a label has its score in a sound.

  Attributes:
    label: The name of the label.
    score: Its score, the mean over windows.
    log_odds: The mean over windows of its log-odds. None if they are no sum of contributions: the
      system pools the scores of frames, or the label is an estimate.
    bias: The constant part of the log-odds: the bias of a linear head and the log-odds of
      `model.prior`.
    contributions: The other parts, the largest first. Under a graph head, each is what a neighbour
      passes to the label's vector; under a linear head, all is the label's own vector. For an
      estimate, the parts of its weighted sum. They and the bias add up to the log-odds.
    start_s: float64[N], start of each span, in seconds.
    end_s: float64[N], end of each span, in seconds.
    scores: float32[N], the score of the label in each span: a frame, or a window.
  """

  label: str
  score: float
  log_odds: float | None
  bias: float
  contributions: list[Contribution]
  start_s: np.ndarray
  end_s: np.ndarray
  scores: np.ndarray


class VectorParts(NamedTuple):
  """The parts of a label's vector, which add up to it.

  Attributes:
    positions: The positions of the labels that they come from.
    vectors: float[n, C].
    bias: The constant part of the label's log-odds.
  """

  positions: list[int]
  vectors: np.ndarray
  bias: float


def vector_parts(run: Run, variables: Any) -> Callable[[int], VectorParts] | None:
  """Return the function from the position of a label to the parts of its vector.

  The parts are exact: a graph head is linear in its last propagation.

  Args:
    run: The run.
    variables: The variables of the model, without inference constants.

  Returns:
    None for systems whose logits are no product of one vector per clip and the label's vector.
  """
  model = run.model()
  if model.pooling is not None or model.logit_norm is not None:
    return None
  if run.propagation is None:
    fc = {name: np.asarray(value) for name, value in variables["params"]["head"]["fc"].items()}

    def own(label: int) -> VectorParts:
      bias = float(fc["bias"][label]) + model.offset
      return VectorParts([label], fc["kernel"][None, :, label], bias)

    return own
  silence = np.zeros((1, run.frontend.frames, run.frontend.n_mels), np.float32)
  _, sown = model.apply(variables, silence, mutable=["intermediates"])
  last = np.asarray(sown["intermediates"]["head"][f"gc{run.config.model.layers}"]["messages"][0])

  def gathered(label: int) -> VectorParts:
    row = graph_row(run.propagation, label)
    senders = np.flatnonzero(row)
    return VectorParts(senders.tolist(), row[senders, None] * last[senders], model.offset)

  return gathered


def head_inputs(run: Run) -> Callable[[Any, Any], dict[str, Any]]:
  """Return the function from variables and waveforms to the vector that the head takes."""
  features_of = window_features(run)

  def inputs(variables: Any, waveforms: Any) -> dict[str, Any]:
    features = features_of(variables, waveforms)
    return {"embedding": features.get("hidden", features["embedding"])}

  return inputs


def explanation_text(source: str, found: Explanation) -> str:
  """Return an explanation as lines of text."""
  lines = [f"{source}: {found.label} {found.score:.3f}"]
  if found.log_odds is not None:
    lines[0] += f", log-odds {found.log_odds:+.2f}"
    if found.bias:
      lines.append(f"  {found.bias:+6.2f}  constant")
  for part in found.contributions[:SHOWN]:
    lines.append(f"  {part.log_odds:+6.2f}  {part.name} (scores {part.score:.3f})")
  rest = found.contributions[SHOWN:]
  if rest:
    others = counted(len(rest), "other label", "other labels")
    lines.append(f"  {sum(part.log_odds for part in rest):+6.2f}  {others}")
  loudest = np.argsort(-found.scores, kind="stable")[:SHOWN]
  spans = (
    f"{found.start_s[i]:.2f}-{found.end_s[i]:.2f} s: {found.scores[i]:.3f}" for i in sorted(loudest)
  )
  return "\n".join([*lines, f"  highest: {', '.join(spans)}"])


def explanation_json(source: str, found: Explanation) -> str:
  """Return an explanation as JSON."""
  spans = zip(found.start_s, found.end_s, found.scores)
  return json.dumps(
    {
      "file": source,
      "label": found.label,
      "score": found.score,
      "log_odds": found.log_odds,
      "bias": found.bias,
      "contributions": [part._asdict() for part in found.contributions],
      "timeline": [
        {"start_s": float(start), "end_s": float(end), "score": float(score)}
        for start, end, score in spans
      ],
    }
  )


def draw_explanation(path: str | os.PathLike[str], found: Explanation) -> None:
  """Draw the score over time and, if there are any, the contributions.

  Each score is drawn at the times that are nearest to the middle of its span, as in detections.

  Args:
    path: The .png, .svg or .pdf file to write.
    found: The explanation.

  Raises:
    UserError: The file has another ending or cannot be written.
  """
  kind = os.fspath(path).rpartition(".")[2]
  if kind not in ("png", "svg", "pdf"):
    raise UserError(f"--plot {path}: must end in .png, .svg or .pdf")
  from matplotlib.figure import Figure

  from atgcn_jax.reports.figure_style import BLUE, drawing, picture

  with drawing():
    panels = 2 if found.contributions else 1
    figure = Figure((5.5 * panels, 4), layout="constrained")
    left, *right = figure.subplots(1, panels, squeeze=False)[0]
    starts, ends = nearest_spans(Timeline(found.start_s, found.end_s, found.scores[:, None]))
    left.stairs(found.scores, np.append(starts, ends[-1]), color=BLUE, fill=True)
    left.set(title=f"{found.label}: score over time", xlabel="s", ylim=(0, 1))
    if right:
      _draw_contributions(right[0], found)
    content = picture(figure, kind, 130)
  write_output(path, content, "--plot")


def _draw_contributions(axes: Any, found: Explanation) -> None:
  """Draw a bar for each of the largest contributions."""
  from atgcn_jax.reports.figure_style import BLUE, ORANGE

  parts = found.contributions[: 2 * SHOWN]
  places = np.arange(len(parts))
  values = [part.log_odds for part in parts]
  axes.barh(places, values, color=[BLUE if value >= 0 else ORANGE for value in values])
  axes.set_yticks(places, [part.name for part in parts])
  axes.invert_yaxis()
  if found.log_odds is None:
    axes.set(title="where its estimate comes from", xlabel="part of the weighted sum")
  else:
    axes.set(title="where its vector comes from", xlabel="log-odds")
