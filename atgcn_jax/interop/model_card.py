"""The model card of a run, made from the files of the run only."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax

from atgcn_jax.runs.run import Loaded

SPLITS = ("train", "validation", "test", "all")
FIGURES = (
  *("mAP", "mAP_low", "mAP_high", "mAUC", "mAUC_low", "mAUC_high"),
  *("d_prime", "clips", "classes_scored"),
)
USE = """
```python
import atgcn_jax

tagger = atgcn_jax.Tagger.restore("FOLDER")  # this folder
for tag in tagger.tag("recording.wav", top=5):
  print(f"{tag.score:.3f}  {tag.name}")
```
"""
HEAD = """---
library_name: atgcn_jax
pipeline_tag: audio-classification
tags:
- audio-tagging
- jax
---
"""


def model_card(loaded: Loaded, workdir: pathlib.Path) -> str:
  """Return the model card as Markdown: system, training, front end, evaluations, labels.

  Args:
    loaded: The checkpoint.
    workdir: Run directory; the results are read from the JSON files in its `evaluation`.
  """
  run, config = loaded.run, loaded.run.config
  model, names = config.model, run.vocabulary.names
  count = sum(leaf.size for leaf in jax.tree.leaves(loaded.state["params"]))
  head = f"graph, {model.layers} layers" if model.head == "graph" else model.head
  system = {
    "encoder": model.encoder,
    "head": head,
    "width": model.width,
    "compute type": model.dtype,
    "parameters": f"{count:,}",
    "labels": len(names),
    "step": loaded.step,
  }
  if model.head == "graph":
    system["graph method"] = config.graph.method
  training = {
    "clips": os.path.basename(os.path.normpath(config.data.store)),
    "fingerprint of the clips": run.store_fingerprint or "none: imported weights",
    "folds": ", ".join(map(str, config.data.train_folds)),
    "steps planned": config.optim.steps,
    "clips per step": config.data.batch_size,
    "learning rate": config.optim.learning_rate,
    "seed": config.seed,
  }
  frontend = run.frontend
  front_end = {
    "name": frontend.name,
    "sample rate": f"{frontend.sample_rate} Hz",
    "window": f"{frontend.seconds} s, {frontend.samples} samples",
    "spectrogram": f"{frontend.frames} frames of {frontend.n_mels} mel bands",
    "Fourier transform": f"{frontend.n_fft} points, every {frontend.hop} samples",
    "bands": f"{frontend.fmin} Hz to {frontend.fmax} Hz",
  }
  return "\n".join(
    [
      HEAD,
      f"# Audio tagging: {len(names)} labels, {model.encoder} with a {model.head} head\n",
      "The model gives each label a score between 0 and 1, for sound of any length. Sound is cut",
      "into windows, whose scores are averaged; shorter sound is padded with silence.",
      USE,
      _table("System", system),
      _table("Training", training),
      _table("Front end", front_end),
      _evaluations(loaded, workdir),
      "## Licence\n\nNot stated. If you publish these weights, state the licence here.\n",
      "## Labels\n",
      *(f"- {name} (`{label_id}`)" for label_id, name in zip(run.vocabulary.ids, names)),
      "",
    ]
  )


def _evaluations(loaded: Loaded, workdir: pathlib.Path) -> str:
  """Return the results at this step as tables, those on the store of the training first.

  Results of some labels only, or with estimates of added labels, are left out.
  """
  own, others = {}, {}
  for path in sorted((workdir / "evaluation").glob("*.json")):
    found = _read(path)
    if found.get("step") != loaded.step or found.keys() & {"labels", "added"}:
      continue
    split, store, fingerprint = map(found.get, ("split", "store", "store_fingerprint"))
    if fingerprint is None:  # written by a version that did not store it
      others[f"{split} of a store that was not recorded"] = found
    elif fingerprint == loaded.run.store_fingerprint:
      own[split] = found
    else:
      others[f"{split} of {store}, fingerprint {fingerprint[:8]}"] = found
  of_step = [record for record in loaded.history if record["step"] == loaded.step]
  if of_step:
    own.setdefault("validation", of_step[-1])
  in_order = {split: own[split] for split in SPLITS if split in own}
  if not in_order | others:
    return "## Evaluation\n\nThis checkpoint was not evaluated.\n"
  return "\n".join(
    _table(
      f"Evaluation: {name}, step {loaded.step}",
      {key: _figure(values[key]) for key in FIGURES if key in values},
    )
    for name, values in (in_order | others).items()
  )


def _read(path: pathlib.Path) -> dict[str, Any]:
  """Return the JSON object in a file, or an empty dict if the file holds anything else."""
  try:
    found = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _table(title: str, rows: dict[str, Any]) -> str:
  lines = [f"| {name} | {value} |" for name, value in rows.items()]
  return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _figure(value: Any) -> str:
  if value is None:
    return "undefined"
  return f"{value:.4f}" if isinstance(value, float) else str(value)
