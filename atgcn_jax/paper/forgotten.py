"""Labels that the raters forgot: training with a share of the positives removed at random."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from atgcn_jax.labels.ontology import label_ancestors
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.ontology_metrics import carried_up
from atgcn_jax.paper.experiment_configs import Settings, open_experiment_store
from atgcn_jax.paper.experiment_runs import ScoredRun
from atgcn_jax.paper.experiments import CNN10, Experiment
from atgcn_jax.paper.scored_runs import run_all
from atgcn_jax.runs.label_graph import ontology_at
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

SHARES = (0.0, 0.1, 0.3, 0.5)
VARIANTS = (
  CNN10,
  Experiment("targets", "CNN10, ontology targets", "cnn10", ("data.ontology_targets=True",)),
  Experiment("hierarchy", "CNN10, hierarchical loss [17]", "cnn10", ("loss.hierarchy=0.5",)),
  Experiment("laplacian", "CNN10, Laplacian term [16]", "cnn10", ("loss.laplacian=0.1",)),
)


def with_forgotten(experiment: Experiment, share: float) -> Experiment:
  """Return an experiment that trains without a share of the positives."""
  if not share:
    return experiment
  return experiment._replace(
    name=f"{experiment.name}_forgotten_{share:g}",
    changes=(*experiment.changes, f"data.forgotten_positives={share:g}"),
  )


def forgotten(settings: Settings, systems: Sequence[Experiment], ontology: str, note: str) -> str:
  """Train the systems with positives removed, and write `forgotten.md` and `forgotten.csv`.

  Args:
    settings: Settings of the reproduction.
    systems: The systems, with the baseline.
    ontology: Path of the ontology, for labels carried up.
    note: The text below the table.

  Returns:
    The table in Markdown.

  Raises:
    UserError: The settings, the store, the ontology or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  store = open_experiment_store(settings)
  above = label_ancestors(ontology_at(ontology, "forgotten"), store.vocabulary.ids)
  scored = run_all([with_forgotten(one, share) for one in systems for share in SHARES], settings)
  rows = []
  for system in systems:
    for targets in (False, True):
      values = [
        float(np.mean([_map(run, above if targets else None) for run in scored[name]]))
        for name in (with_forgotten(system, share).name for share in SHARES)
      ]
      rows.append((system.title, targets, values))
  _write_csv(settings.out / "forgotten.csv", rows)
  heads = " | ".join(f"{share:.0%} removed" for share in SHARES)
  lines = [
    "# Labels that the raters forgot",
    "",
    f"| system | test labels | {heads} |",
    "|---|---|" + "---|" * len(SHARES),
  ]
  for title, targets, values in rows:
    cells = " | ".join(f"{value:.3f}" for value in values)
    lines.append(f"| {title} | {'carried up' if targets else 'as they are'} | {cells} |")
  text = "\n".join([*lines, "", f"mAP, {settings.seeds} seeds. {note}"]) + "\n"
  write_result(settings.out / "forgotten.md", text.encode())
  return text


def _map(run: ScoredRun, above: Sequence[Sequence[int]] | None) -> float:
  """Return the mAP of a run, with the test labels carried up to these ancestors if given."""
  labels = run.labels if above is None else carried_up(run.labels, above)
  return float(tagging_metrics(run.scores, labels)["mAP"])


def _write_csv(path: pathlib.Path, rows: Sequence[tuple[str, bool, Sequence[float]]]) -> None:
  """Write the table as CSV, one row per system, kind of test labels and share."""
  table = [
    [title, int(targets), f"{share:g}", f"{value:.6f}"]
    for title, targets, values in rows
    for share, value in zip(SHARES, values)
  ]
  head = ["system", "labels_carried_up", "removed_share", "mAP"]
  write_result(path, csv_bytes([head, *table]))
