"""Files with the scores of finished runs, which a reproduction reads instead of running again."""

from __future__ import annotations

import io
import json
import os
import pathlib
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.runs.config import config_from_json, contradictions, plain_config
from atgcn_jax.runs.config_defaults import flat
from atgcn_jax.runs.scoring import score_split
from atgcn_jax.runtime.whole_files import write_result

# Keys of files whose content a run compares when it resumes.
FILES = ("data.vocabulary", "graph.source", "graph.ontology", "graph.embeddings")


def read_scores(path: pathlib.Path, config: Any, store: ClipStore, step: str) -> tuple | None:
  """Read the scores and labels of a run that finished under a config.

  Returns:
    None if the file does not exist, or has another config, store or kind of step.

  Raises:
    UserError: The file is damaged.
  """
  if not path.is_file():
    return None
  saved = read_arrays(path)
  try:
    # A key that is younger than the file has its default.
    old = plain_config(config_from_json(json.loads(str(saved["config"]))))
    names, scores, labels = (saved[name] for name in ("names", "scores", "labels"))
    if (scores.dtype, scores.ndim, labels.shape) != (np.float32, 2, scores.shape):
      raise ValueError("the arrays are not scores and labels")
    if names.dtype.kind != "U" or names.shape != scores.shape[1:] or not np.isfinite(scores).all():
      raise ValueError("the names do not fit the scores, or a score is not finite")
    of_store, of_step = str(saved["store"]), str(saved.get("step", "latest"))  # older: no step
  except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{path}: cannot be read as scores ({reason(error)}); remove it, and the run is scored again"
    ) from error
  finished = old["optim"]["steps"] == config.optim.steps and of_store == store.fingerprint
  if not (finished and of_step == step) or contradictions(old, config):
    return None
  # With other names, training compares the content of the files.
  return (scores, labels) if names_the_same(old, config) else None


def score_and_write(
  path: pathlib.Path, workdir: pathlib.Path, config: Any, store: ClipStore, step: str
) -> tuple:
  """Score a finished run on its test clips and write the file that `read_scores` reads.

  The file appears under its name when it is complete.

  Returns:
    Scores and labels.
  """
  last = str(config.optim.steps)
  scored = score_split(workdir, last if step == "latest" else step, None, "test")
  names = scored.vocabulary.names
  content = io.BytesIO()
  np.savez_compressed(
    content,
    scores=scored.scores,
    labels=scored.labels,
    clip_ids=scored.clip_ids,
    names=np.array(names),
    config=np.array(json.dumps(plain_config(config))),
    store=np.array(store.fingerprint),
    step=np.array(step),
  )
  write_result(path, content.getvalue())
  return scored.scores, scored.labels


def names_the_same(saved: dict[str, Any], config: Any) -> bool:
  """Return whether two configs name the same files and the same baseline to start from.

  Args:
    saved: The plain config of a finished run.
    config: The config that is wanted now.
  """
  old, new = flat(saved), flat(plain_config(config))
  begun = [os.path.basename(str(one["start.run"])) for one in (old, new)]
  return begun[0] == begun[1] and all(old[key] == new[key] for key in FILES)
