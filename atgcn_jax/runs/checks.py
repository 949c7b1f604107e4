"""What is checked before a run starts or goes on."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.sparse import equal
from atgcn_jax.models import SCORING_LABELS
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.folds import check_folds
from atgcn_jax.runs.label_graph import label_graph, label_relations
from atgcn_jax.runs.load import Found, Loaded, find_checkpoints, read_run
from atgcn_jax.runs.log import read_records
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.safetensors_folder import load_either
from atgcn_jax.runs.step_inputs import PLACEMENTS
from atgcn_jax.runtime.buckets import check_output_folder
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.training import augment, sharding
from atgcn_jax.training.optim import learning_rate_schedule
from atgcn_jax.training.state import TrainState, start_state


def check_config(config) -> None:
  """Refuse settings that no run can have.

  Raises:
    UserError: With the key and what it may be.
  """
  configs.check_ranges(config)
  per_step = config.data.batch_size * augment.clips_per_example(config.augment)
  devices = jax.device_count()
  for key, size in (
    ("data.batch_size", per_step),
    ("data.batch_size", config.data.batch_size),
    ("evaluation.batch_size", config.evaluation.batch_size),
  ):
    if size % devices:
      raise UserError(f"{key}: {size} clips do not split over {devices} devices; take a multiple")
  check_names(config)
  check_folds(config)


def check_names(config) -> None:
  """Refuse a name that stands for nothing in the sections data, optim and augment.

  Raises:
    UserError: With the key and what it may be.
  """
  if config.data.sampling not in clip_order.MODES:
    raise UserError(f"data.sampling {config.data.sampling!r}: one of {', '.join(clip_order.MODES)}")
  if config.data.placement not in PLACEMENTS:
    raise UserError(f"data.placement {config.data.placement!r}: one of {', '.join(PLACEMENTS)}")
  try:
    learning_rate_schedule(config.optim)
    jax.eval_shape(
      lambda: augment.augmentation_plan(jax.random.key(0), config.augment, jnp.zeros((2, 1)))[2]
    )
  except ValueError as error:
    raise UserError(f"--config: {error}") from error


def layout_of(config, devices: list[jax.Device] | None = None) -> sharding.Layout:
  """How a run with this config lies on these devices (default: all).

  Raises:
    UserError: If the devices do not make whole rows of the parts that labels fall into.
  """
  devices, parts = devices or jax.devices(), config.sharding.label_parts
  if len(devices) % parts:
    raise UserError(
      f"sharding.label_parts: {parts} do not divide the {len(devices)} devices; take a divisor"
    )
  return sharding.Layout(sharding.data_mesh(devices, parts), config.sharding.fsdp)


def check_data(config, store: ClipStore) -> None:
  """Refuse clips that this config cannot train and validate on.

  Raises:
    UserError: Naming the key.
  """
  check_sampling(config, store)
  split_clips(store, config.data, "validation")  # refuses folds that the store does not have


def check_sampling(config, store: ClipStore) -> None:
  """Refuse an order of clips that the host cannot read their store in.

  Raises:
    UserError: Naming the key.
  """
  from_host = config.data.placement == "host"
  if from_host and store.shard_starts is not None and config.data.sampling != "shuffled":
    raise UserError(
      f"data.sampling {config.data.sampling!r}: needs any clip at hand, but {store.path} is "
      "TFRecord, read shard by shard; take 'shuffled' or data.placement=device, or write it as "
      "array_record"
    )


def check_workdir(workdir: str | os.PathLike) -> None:
  """Refuse a folder that cannot be made or written to; it is made once all is checked.

  Raises:
    UserError: Naming it.
  """
  check_output_folder("--workdir", workdir)


def start_run(run: Run, layout: sharding.Layout) -> tuple[Run, TrainState]:
  """Return a new run and its state before the first step, with the parameters of `start.run`.

  These are its encoder, and its head as far as names and shapes agree (for other labels only that
  of a graph). A frozen encoder also keeps the normaliser that it was trained with, since its batch
  statistics never adapt; any other run standardises by its own training clips.

  Raises:
    UserError: For a start.run that cannot be read, has another front end or another encoder.
  """
  start, abstract = run.config.start, run.abstract_state()
  kept = sharding.where_kept(layout, abstract, len(run.vocabulary))
  state = run.initial_state(kept)
  if start.run:
    given = load_either(start.run, start.step, layout.mesh)
    if given.run.frontend != run.frontend:
      raise UserError(
        f"start.run: {start.run} has the front end {given.run.frontend.name}, the store "
        f"{run.frontend.name}; prepare the store with --frontend {given.run.frontend.name}"
      )
    theirs = given.state
    if given.run.vocabulary.ids != run.vocabulary.ids:
      # A graph convolution makes classifiers of any labels' vectors; all else is a label's own.
      parts = {"encoder", "head"} if run.config.model.head == "graph" else {"encoder"}
      theirs = {
        kind: {part: tree[part] for part in parts & tree.keys()} for kind, tree in theirs.items()
      }
    offered = dict(jax.tree.leaves_with_path(theirs))
    ours = jax.tree.leaves_with_path(state.variables)
    fitting = {path for path, x in ours if path in offered and offered[path].shape == x.shape}
    odd = [path for path, _ in ours if path[1].key == "encoder" and path not in fitting]
    if odd and run.config.model.encoder == given.run.config.model.encoder in SCORING_LABELS:
      raise UserError(
        f"start.run: the encoder of {start.run}, {run.config.model.encoder}, scores labels itself "
        f"and fits no other number of them than {len(given.run.vocabulary)}; name another run"
      )
    if odd:
      raise UserError(
        f"start.run: the encoder in {start.run} is another, {jax.tree_util.keystr(odd[0])} does "
        "not fit; name a run of the same encoder and width"
      )
    variables = jax.tree.map_with_path(
      lambda path, x: offered[path] if path in fitting else x, state.variables
    )
    adam = run.optimiser()
    state = jax.jit(lambda given: start_state(given, adam), out_shardings=kept)(variables)
    if run.config.model.freeze_encoder:
      run = dataclasses.replace(run, normaliser=given.run.normaliser)
  return run, state


class Beginning(NamedTuple):
  """The contents of a run directory; `saved` is None if the run starts at step 0."""

  found: Found
  saved: Loaded | None


def beginning(config, store: ClipStore, workdir: str | os.PathLike) -> Beginning:
  """Where a training in this folder begins; `saved` is without its state.

  A run that has made no step, of another config or store, is left out. Weights that were imported
  and runs with a checkpoint of a later step, sound or not, are not.

  Raises:
    UserError: If none of the checkpoints in the folder is sound.
  """
  found = first_only(lambda: find_checkpoints(workdir))
  if found.sound is None:
    return Beginning(found, None)
  saved = read_run(workdir, found.sound)
  has_begun = found.steps != [0] or not saved.run.store_fingerprint
  kept = has_begun or first_only(lambda: is_the_same(saved, config, store, workdir))
  return Beginning(found, saved if kept else None)


def is_the_same(saved: Loaded, config, store: ClipStore, workdir: str | os.PathLike) -> bool:
  """Whether a run at step 0 is one of this config and store."""
  if saved.run.config.start.run != config.start.run:  # which counts until the first step
    return False
  try:
    continued(saved, config, store, workdir)
  except UserError:
    return False
  return True


def continued(saved: Loaded, config, store: ClipStore, workdir: str | os.PathLike) -> Run:
  """The saved run under a config that may differ in what is free on resume.

  Raises:
    UserError: Naming the keys that contradict the saved ones, or the file of other content; or if
      the run drew its clips in an order that is no longer there.
  """
  if not saved.run.store_fingerprint:
    raise UserError(
      f"--workdir {workdir}: holds imported weights, which are kept as they are; train them in "
      f"another folder with `atgcn finetune --from {workdir}`"
    )
  old = saved.run.config
  if differing := configs.contradictions(configs.plain_config(old), config):
    raise UserError(
      f"--workdir {workdir}: holds a run of another config: {'; '.join(differing)}; "
      "use that config or another folder"
    )
  if store.fingerprint != saved.run.store_fingerprint:
    raise UserError(
      f"{store.path}: not the clip store that the run in {workdir} was started on; "
      "name that one in data.store or use another folder"
    )
  if not saved.run.draws_unlabelled and config.data.sampling == "balanced":
    sizes = np.diff(store.labels_of(split_clips(store, config.data, "train"))[0])
    if unlabelled := int((sizes == 0).sum()):
      raise UserError(
        f"--workdir {workdir}: its run was started by a version whose data.sampling='balanced' "
        f"never drew the {unlabelled} training clips without a label; train in another folder, "
        f"with --config.start.run={workdir} to start from its parameters"
      )
  graphs = (old.graph, config.graph)
  if any(g.source != "store" or g.embeddings != "builtin" or g.ontology for g in graphs):
    propagation, embeddings = label_graph(config, saved.run.vocabulary, store)
    relations = label_relations(config, saved.run.vocabulary, store)
    for key, now, then in (
      ("source", propagation, saved.run.propagation),
      ("embeddings", embeddings, saved.run.label_embeddings),
      ("source", relations.get("similarity"), saved.run.relations.get("similarity")),
      ("ontology", relations.get("members"), saved.run.relations.get("members")),
    ):
      if now is not None and then is not None and not equal(now, then):
        raise UserError(
          f"graph.{key}: another content than the run in {workdir} was started with; "
          "name that file or use another folder"
        )
  return dataclasses.replace(saved.run, config=config)


def evaluated_behind(saved: Loaded, workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The logged evaluation of a checkpoint that was saved before that; at most one."""
  if any(record["step"] == saved.step for record in saved.history):
    return []
  logged = [record for record in read_records(workdir) if "mAP" in record]
  return [record for record in logged if record["step"] == saved.step][-1:]
