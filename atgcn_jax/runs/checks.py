"""Checks before a run starts or resumes."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.models import frame_limits
from atgcn_jax.runs.config_values import check_values
from atgcn_jax.runs.folds import check_folds, splits_of
from atgcn_jax.runs.parts import rate_of
from atgcn_jax.runs.safetensors_folder import is_safetensors_export
from atgcn_jax.runs.step_inputs import PLACEMENTS
from atgcn_jax.runtime.buckets import check_output_folder
from atgcn_jax.training import augment
from atgcn_jax.training.saved_checkpoints import saved_steps


def check_config(config) -> None:
  """Refuse invalid settings.

  Raises:
    UserError: If a setting is invalid. The message names the key and the valid values.
  """
  check_values(config)
  if config.model.dtype == "float64" and jax.dtypes.canonicalize_dtype("float64") != "float64":
    raise UserError("model.dtype: float64 needs the environment variable JAX_ENABLE_X64=1")
  devices = jax.device_count()
  for key, size in (
    ("data.batch_size", config.data.batch_size),
    ("evaluation.batch_size", config.evaluation.batch_size),
  ):
    if size % devices:
      raise UserError(
        f"{key}: {size} clips cannot be split over {devices} devices; use a multiple of {devices}"
      )
  check_names(config)
  check_folds(config)


def check_names(config) -> None:
  """Refuse unknown names in the sections data, optim and augment.

  Raises:
    UserError: If a name is unknown. The message names the key and the known names.
  """
  for key, value, known in (
    ("data.sampling", config.data.sampling, clip_order.MODES),
    ("data.placement", config.data.placement, PLACEMENTS),
  ):
    if value not in known:
      raise UserError(f"{key} must be one of {', '.join(known)}, got {value!r}")
  try:
    rate_of(config.optim)
    settings = augment.Augmentation(**config.augment)
    jax.eval_shape(
      lambda: augment.augmentation_plan(jax.random.key(0), settings, jnp.zeros((2, 1)))[2]
    )
  except ValueError as error:
    raise UserError(f"--config: {error}") from error


def check_warmup(optim: Any) -> None:
  """Warn if the warm-up takes all steps of a training.

  Args:
    optim: The section of the config, with the steps that passes over the clips need.
  """
  if 0 < optim.steps <= optim.warmup_steps:
    warnings.warn(
      f"optim.warmup_steps: the warm-up of {optim.warmup_steps} steps is not over when training "
      f"ends at step {optim.steps}; set a lower one",
      stacklevel=3,
    )


def check_start(source: str, workdir: str | os.PathLike) -> None:
  """Refuse a new run that starts from a folder without a run, before anything is built.

  Args:
    source: `start.run`, or empty.
    workdir: The run directory. If it has checkpoints, `source` is not read.

  Raises:
    UserError: If the folder has neither a checkpoint nor an export.
  """
  if not source or is_safetensors_export(source) or saved_steps(source) or saved_steps(workdir):
    return
  name = os.path.basename(os.path.normpath(source))
  name = name if re.match(r"(mn|cnn)\d\d", name) else "NAME"
  raise UserError(
    f"start.run {source}: no run with a checkpoint; get a pretrained network with `atgcn models "
    f"get {name} --out {source}`, or from a file with `atgcn import-torch`, or name another run"
  )


def check_data(config, store: ClipStore) -> None:
  """Refuse clips that this config cannot train and validate on.

  Raises:
    UserError: If the sampling, a fold, the encoder or the parts of the labels do not fit the store.
      The message names the key.
  """
  check_length(config.model.encoder, store)
  parts, labels = config.sharding.label_parts, len(store.vocabulary)
  if labels % parts:
    raise UserError(
      f"sharding.label_parts: {labels} labels cannot be split into {parts} equal parts; use a "
      f"divisor of {labels}"
    )
  check_sampling(store, config.data.sampling, config.data.placement)
  split_clips(store, splits_of(config), "validation")  # refuses folds that the store lacks


def check_length(encoder: str, store: ClipStore) -> None:
  """Refuse clips that are too short or too long for an encoder.

  Raises:
    UserError: If they are. The message states the lengths that fit.
  """
  frontend = store.frontend
  if frontend.value_limit is not None:
    return
  (least, most), frames = frame_limits(encoder), frontend.frames
  rule = f"at least {least}" if most is None else f"{least} to {most}"
  if frames < least or (most is not None and frames > most):
    raise UserError(
      f"model.encoder {encoder}: needs {rule} frames, but the clips of {store.path} have {frames} "
      f"({frontend.seconds:g} s); prepare them with another --seconds or use another encoder"
    )


def check_sampling(store: ClipStore, sampling: str, placement: str) -> None:
  """Refuse a clip order in which the host cannot read the store.

  Raises:
    UserError: If the host reads a TFRecord store with a sampling other than `shuffled`.
  """
  if placement == "host" and store.shard_starts is not None and sampling != "shuffled":
    raise UserError(
      f"data.sampling {sampling!r}: needs random access, but {store.path} is TFRecord, "
      "which is read shard by shard; use 'shuffled' or data.placement=device, or write the store "
      "as array_record"
    )


def check_workdir(workdir: str | os.PathLike) -> None:
  """Refuse a folder that cannot be made or written to. This does not make the folder.

  Raises:
    UserError: If the folder cannot be made or written to.
  """
  check_output_folder("--workdir", workdir)
