"""The parameters that a new run takes from another run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from atgcn_jax.errors import UserError
from atgcn_jax.models import SCORING_LABELS
from atgcn_jax.runs.run import Loaded, Run, named_apart

Variables = dict[str, Any]


def carried_over(
  run: Run, source: Loaded
) -> tuple[Callable[[Variables, Variables], Variables], str]:
  """Return a function from the variables of a run and of its source to those to start with.

  The encoder is the source's. The head is the source's where names and shapes match. If the labels
  differ, this holds only for a graph head, whose convolutions apply to any label vectors. Of a
  linear head, the labels that the source has by name then start with the source's weights.

  Args:
    run: The run.
    source: The checkpoint that `start.run` of its config names.

  Returns:
    The function, and a line on the labels of a linear head or an empty string.

  Raises:
    UserError: If the front end or the encoder of the source differs.
  """
  check_front_end(run, source.run)
  available = source.state
  remark, rows = "", None
  if source.run.vocabulary.ids != run.vocabulary.ids:
    # All parameters of a head are per label, except those of graph convolutions.
    parts = {"encoder", "head"} if run.config.model.head == "graph" else {"encoder"}
    available = {
      kind: {part: tree[part] for part in parts & tree.keys()} for kind, tree in available.items()
    }
    if both_score_linearly(run, source.run):
      rows = run.vocabulary.shared_names(source.run.vocabulary)
      shared, all_labels = len(rows[0]), len(run.vocabulary)
      remark = (
        f"{shared} of {all_labels} labels start with the weights of the label of that name in "
        f"{run.config.start.run}"
      )
  own = jax.tree.leaves_with_path(run.abstract_state().variables)
  shapes = {path: x.shape for path, x in jax.tree.leaves_with_path(available)}
  fitting = {path for path, x in own if shapes.get(path) == x.shape}
  check_encoder(run, source.run, [path for path, _ in own if path not in fitting])
  if rows is not None or any(path[1].key == "head" for path in fitting):
    check_prior(run, source.run)

  def carried(own: Variables, known: Variables) -> Variables:
    leaves = dict(jax.tree.leaves_with_path(known))
    variables = jax.tree.map_with_path(lambda path, x: leaves[path] if path in fitting else x, own)
    if rows is not None:
      ours, theirs = rows
      new, old = (tree["params"]["head"]["fc"] for tree in (variables, known))
      variables["params"]["head"]["fc"] = jax.tree.map(
        lambda x, y: x.at[..., ours].set(y[..., theirs]), new, old
      )
    return variables

  return carried, remark


def both_score_linearly(run: Run, source: Run) -> bool:
  """Return whether both heads are linear, with one weight vector of the same features per label."""
  models = run.config.model, source.config.model
  return all(m.head == "linear" and m.encoder not in SCORING_LABELS for m in models)


def check_front_end(run: Run, source: Run) -> None:
  """Refuse a source that needs other inputs.

  Raises:
    UserError: If its front end differs.
  """
  if source.takes(run.frontend):
    return
  needed, found, advice = named_apart(source.frontend, run.frontend)
  raise UserError(
    f"start.run: {run.config.start.run} has the front end {needed}, the store has {found}; prepare "
    f"the store {advice}"
  )


def check_prior(run: Run, source: Run) -> None:
  """Refuse a source with another prior: the scores of a head that is carried over would change.

  Raises:
    UserError: If its prior differs.
  """
  ours, theirs = run.config.model.prior, source.config.model.prior
  if ours != theirs:
    raise UserError(
      f"model.prior: {run.config.start.run} was trained with {theirs}, got {ours}; use {theirs}"
    )


def check_encoder(run: Run, source: Run, unmatched: list[Any]) -> None:
  """Refuse a source with another encoder.

  Args:
    run: The run.
    source: The source.
    unmatched: The paths of variables of the run that the source does not have in this shape.

  Raises:
    UserError: If one of them belongs to the encoder.
  """
  start, encoder = run.config.start.run, run.config.model.encoder
  unmatched = [path for path in unmatched if path[1].key == "encoder"]
  if unmatched and encoder == source.config.model.encoder in SCORING_LABELS:
    raise UserError(
      f"start.run: the encoder {encoder} of {start} has parameters per label and only fits "
      f"{len(source.vocabulary)} labels; name another run"
    )
  if unmatched:
    raise UserError(
      f"start.run: the encoder of {start} differs, {jax.tree_util.keystr(unmatched[0])} does not "
      "fit; name a run with the same encoder and width"
    )
