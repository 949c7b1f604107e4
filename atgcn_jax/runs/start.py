"""How a run starts, and how a run directory resumes."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

import jax
import numpy as np

from atgcn_jax.data.splits import recording_of, split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.sparse import equal
from atgcn_jax.models import NORMALISING
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.carry_over import carried_over
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.label_graph import label_graph, label_relations
from atgcn_jax.runs.load import Found, Loaded, find_checkpoints, read_run
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.safetensors_folder import load_either
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.training import sharding
from atgcn_jax.training.augment import is_of_eight
from atgcn_jax.training.state import TrainState, start_state


def layout_of(
  devices: list[jax.Device] | None = None, *, fsdp: bool, label_parts: int
) -> sharding.Layout:
  """Return the layout of a run.

  Args:
    devices: The devices. Defaults to all devices.
    fsdp: Whether parameters and optimiser state are sharded over the devices.
    label_parts: The number of shards of the label axis.

  Raises:
    UserError: If the number of devices is not a multiple of `label_parts`.
  """
  devices = devices or jax.devices()
  if len(devices) % label_parts:
    raise UserError(
      f"sharding.label_parts must be a divisor of the number of devices, {len(devices)}, got "
      f"{label_parts}"
    )
  return sharding.Layout(sharding.data_mesh(devices, label_parts), fsdp)


def start_run(run: Run, layout: sharding.Layout) -> tuple[Run, TrainState, str]:
  """Return a new run, its state before the first step, and a line for the user or an empty string.

  The parameters are those of `start.run` where they fit; see `carry_over.carried_over`. A frozen
  encoder keeps the normaliser that it was trained with, because its batch statistics never adapt,
  and so does an encoder whose first layer is not a batch norm. Any other run uses the normaliser of
  its own training clips.

  Raises:
    UserError: If start.run cannot be read, or has another front end or another encoder.
  """
  start, model = run.config.start, run.config.model
  shardings = sharding.where_kept(layout, run.abstract_state(), len(run.vocabulary))
  state = run.initial_state(shardings)
  if not start.run:
    return run, state, ""
  source = load_either(start.run, start.step, layout.mesh)
  carried, remark = carried_over(run, source)
  adam = run.optimiser()
  state = jax.jit(
    lambda own, known: start_state(carried(own, known), adam), out_shardings=shardings
  )(state.variables, source.state)
  if model.freeze_encoder or model.encoder not in NORMALISING:
    run = dataclasses.replace(run, normaliser=source.run.normaliser)
  return run, state, remark


class Beginning(NamedTuple):
  """The checkpoints in a run directory, and the run to resume.

  `saved` is None if training starts at step 0.
  """

  found: Found
  saved: Loaded | None


def beginning(config, store: ClipStore, workdir: str | os.PathLike) -> Beginning:
  """Return the checkpoints in a folder and the run to resume, without its state.

  A run that has a checkpoint only at step 0 is ignored if its config or store differs. Imported
  weights and runs with a later checkpoint, valid or not, are never ignored.

  Raises:
    UserError: If the folder has checkpoints, but none of them is valid.
  """
  found = first_only(lambda: find_checkpoints(workdir))
  if found.sound is None:
    return Beginning(found, None)
  saved = read_run(workdir, found.sound)
  has_begun = found.steps != [0] or not saved.run.store_fingerprint
  resumes = has_begun or first_only(lambda: is_the_same(saved, config, store, workdir))
  return Beginning(found, saved if resumes else None)


def is_the_same(saved: Loaded, config, store: ClipStore, workdir: str | os.PathLike) -> bool:
  """Return whether a run at step 0 has this config and store."""
  if saved.run.config.start.run != config.start.run:  # matters before the first step
    return False
  try:
    continued(saved, config, store, workdir)
  except UserError:
    return False
  return True


def continued(saved: Loaded, config, store: ClipStore, workdir: str | os.PathLike) -> Run:
  """Return the saved run with a new config, which may only differ in the keys free on resume.

  Raises:
    UserError: If other keys or the content of a file differ, or if the run sampled its clips in an
      order that this version no longer has. The message names the keys or the file.
  """
  if not saved.run.store_fingerprint:
    raise UserError(
      f"--workdir {workdir}: has imported weights, which training does not overwrite; train them "
      f"in another folder with `atgcn finetune --from {workdir}`"
    )
  old = saved.run.config
  if differing := configs.contradictions(configs.plain_config(old), config):
    raise UserError(
      f"--workdir {workdir}: has a run with another config: {'; '.join(differing)}; "
      "use that config or another folder"
    )
  if store.fingerprint != saved.run.store_fingerprint:
    raise UserError(
      f"{store.path}: not the clip store that the run in {workdir} started with; "
      "name that store in data.store or use another folder"
    )
  if not saved.run.draws_unlabelled and config.data.sampling == "balanced":
    sizes = np.diff(store.labels_of(split_clips(store, splits_of(config), "train"))[0])
    if unlabelled := int((sizes == 0).sum()):
      raise UserError(
        f"--workdir {workdir}: the run was started by a version in which data.sampling='balanced' "
        f"never drew the {unlabelled} training clips without a label; train in another folder, "
        f"with --config.start.run={workdir} to start from its parameters"
      )
  if not saved.run.rules:
    _check_old_rules(config, store, workdir)
  carried = saved.run.carried_labels  # empty for runs of an old version
  if carried and carried != store.labels_hash():
    raise _other_content("ontology", workdir)
  graphs = (old.graph, config.graph)
  if any(g.source != "store" or g.embeddings != "builtin" or g.ontology for g in graphs):
    propagation, embeddings = label_graph(config, saved.run.vocabulary, store)
    relations = label_relations(config, saved.run.vocabulary, store)
    for key, now, then in (
      ("source", propagation, saved.run.propagation),
      ("embeddings", embeddings, saved.run.label_embeddings),
      ("source", relations.get("similarity"), saved.run.relations.get("similarity")),
      ("source", relations.get("neighbours"), saved.run.relations.get("neighbours")),
      ("ontology", relations.get("members"), saved.run.relations.get("members")),
    ):
      if now is not None and then is not None and not equal(now, then):
        raise _other_content(key, workdir)
  return dataclasses.replace(saved.run, config=config)


def _check_old_rules(config, store: ClipStore, workdir: str | os.PathLike) -> None:
  """Refuse to resume a run of an old version whose split or mixup would change.

  Raises:
    UserError: If it would.
  """
  split, mixed = config.data.validation_share, config.augment
  if split and any(recording_of(clip) != clip for clip in store.clip_ids):
    changed = "data.validation_share held out pieces of files whose other pieces trained"
  elif mixed.mixup_alpha and mixed.form == "authors" and not is_of_eight(config.data.batch_size):
    changed = "clips of some batch sizes were mixed with themselves"
  else:
    return
  raise UserError(
    f"--workdir {workdir}: the run was started by a version in which {changed}; train in another "
    f"folder, with --config.start.run={workdir} to start from its parameters"
  )


def _other_content(key: str, workdir: str | os.PathLike) -> UserError:
  return UserError(
    f"graph.{key}: the content differs from that with which the run in {workdir} started; "
    "name the original file or use another folder"
  )
