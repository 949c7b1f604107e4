"""The table of pretrained networks, for `atgcn models`."""

from __future__ import annotations

from typing import Any

from atgcn_jax.pretrained.cache import cached_run, record_of
from atgcn_jax.pretrained.catalogue import DEFAULT, MODELS, Pretrained

HEADINGS = (
  *("name", "system", "labels", "mAP", "parameters", "size", "licence", "cached", "checked"),
  "source",
)
NOTE = f"""
mAP is as published. `atgcn tag` uses {DEFAULT} by default. checked is how a file is checked:
  file      by its checksum, of the file that this project has compared with the original code
  checksum  by a checksum that others state; this project has not had the file
  content   by its content: no checksum is known, and this project has not had the file"""
RIGHT = {"mAP", "parameters", "size"}


def model_list() -> list[dict[str, Any]]:
  """Return the facts of each network, and its run in the cache with the file's SHA-256 or None."""
  return [_facts(model) for model in MODELS.values()]


def _facts(model: Pretrained) -> dict[str, Any]:
  run = cached_run(model)
  return {
    "name": model.name,
    "system": model.system,
    "labels": "AudioSet, 527",
    "mAP": model.mean_average_precision,
    "parameters": model.parameters,
    "bytes": model.size,
    "licence": model.licence,
    "source": model.source,
    "url": model.url(),
    "checksum": model.checksum or None,
    "verified": model.verified,
    "frontend": model.frontend,
    "cached": None if run is None else str(run),
    "cached_sha256": None if run is None else record_of(run)["sha256"],
  }


def model_table() -> str:
  """Return the networks as a plain table."""
  rows = [HEADINGS, *(_row(facts) for facts in model_list())]
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = [
    "  ".join(
      cell.rjust(width) if heading in RIGHT else cell.ljust(width)
      for heading, cell, width in zip(HEADINGS, row, widths)
    ).rstrip()
    for row in rows
  ]
  return "\n".join([*lines, NOTE])


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
  size = "unknown" if facts["bytes"] is None else f"{facts['bytes'] / 1e6:.1f} MB"
  return (
    facts["name"],
    facts["system"],
    facts["labels"],
    f"{facts['mAP']:.3f}",
    f"{facts['parameters']:,}",
    size,
    facts["licence"],
    "yes" if facts["cached"] else "no",
    "file" if facts["verified"] else "checksum" if facts["checksum"] else "content",
    facts["source"],
  )
