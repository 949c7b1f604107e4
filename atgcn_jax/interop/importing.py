"""Creation of a run directory from a PyTorch checkpoint."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import numpy as np

from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.errors import UserError
from atgcn_jax.interop.torch_files import read_tensors
from atgcn_jax.interop.torch_weights import convert
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.vocabulary import read_vocabulary
from atgcn_jax.models.mobilenet import last_channels
from atgcn_jax.runs.config import vocabulary_path
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.label_graph import label_graph
from atgcn_jax.runs.load import find_checkpoints, make_way, read_run
from atgcn_jax.runs.run import Loaded, Run
from atgcn_jax.runtime.buckets import check_output_folder
from atgcn_jax.training import checkpoint
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser


def import_torch(
  state_path: str | os.PathLike,
  config,
  workdir: str | os.PathLike,
  frontend_name: str = "",
  *,
  option: str = "--workdir",
) -> None:
  """Write step 0 of a run with the given weights, to tag with, evaluate or train further.

  The config names the vocabulary and the graph. The weights expect log-mels as the front end
  computes them, so the normaliser of the run has mean 0 and deviation 1.

  Args:
    state_path: An .npz file of tensors by name, or a .pt or .pth file of PyTorch.
    config: A complete config.
    workdir: Run directory to create.
    frontend_name: Front end that the weights were trained with. By default that of the config, or
      talnet if the config names none.
    option: Option that names the run directory, for messages.

  Raises:
    UserError: The weights do not fit the config or are not finite, or the folder holds imported
      weights or a run that has taken a step.
  """
  check_output_folder(option, workdir)
  refuse_if_held(workdir)
  found = find_checkpoints(workdir)
  if found.sound is not None:
    is_imported = not read_run(workdir, found.sound).run.store_fingerprint
    if is_imported or found.steps != [0]:
      raise UserError(f"{option} {workdir}: holds a run; choose another folder")
  imported = read_torch(state_path, config, frontend_name)
  run = imported.run
  state = start_state(imported.state, run.optimiser())
  with held(workdir):
    make_way(workdir, found, replaced=found.sound is not None)
    with checkpoint.open_manager(workdir) as manager:
      checkpoint.start_save(manager, state, run.constants(), run.description() | {"history": []})


def read_torch(state_path: str | os.PathLike, config, frontend_name: str = "") -> Loaded:
  """Return step 0 of a run with the given weights. See `import_torch` for the arguments.

  Raises:
    UserError: The weights do not fit the config or are not finite.
  """
  if not config.data.vocabulary:
    raise UserError("data.vocabulary: name the CSV of the labels that the weights were trained for")
  frontend_name = frontend_name or config.data.frontend or "talnet"
  if frontend_name not in FRONTENDS:
    raise UserError(f"data.frontend must be one of {', '.join(FRONTENDS)}, got {frontend_name!r}")
  vocabulary = read_vocabulary(vocabulary_path(config.data.root, config.data.vocabulary))
  propagation, embeddings = label_graph(config, vocabulary, None)
  frontend = FRONTENDS[frontend_name]
  run = Run(
    config=config,
    vocabulary=vocabulary,
    frontend=frontend,
    normaliser=Normaliser(np.zeros(frontend.n_mels, "f"), np.ones(frontend.n_mels, "f")),
    propagation=propagation,
    label_embeddings=embeddings,
    range_db=None,
    store_fingerprint="",
  )
  try:
    variables = convert(read_state_dict(state_path), config.model)
  except ValueError as error:
    raise UserError(
      f"{state_path}: {error}; set --config.model to the system of the weights"
    ) from error
  check_shapes(state_path, run, variables)
  if name := first_not_finite(variables):
    raise UserError(
      f"{state_path}: the weights of {name} hold NaN or infinity; use a checkpoint with finite "
      "weights"
    )
  return Loaded(0, run, [], jax.device_put(variables))


def check_shapes(path: str | os.PathLike, run: Run, variables: dict[str, Any]) -> None:
  """Check that weights have the width and number of labels of a run.

  Args:
    path: File of the weights, for messages.
    run: The run.
    variables: The weights, in Flax's layout.

  Raises:
    UserError: A parameter is missing or has another shape; the message names the first.
  """
  expected = jax.tree.leaves_with_path(run.abstract_state().variables)
  loaded = dict(jax.tree.leaves_with_path(variables))
  for where, leaf in expected:
    name = jax.tree_util.keystr(where)
    if where not in loaded:  # the slopes of PReLU, which no supported checkpoint has
      raise UserError(f"{path}: has no {name}; set model.activation to leaky_relu or relu")
    if loaded[where].shape != leaf.shape:
      if (width := _other_width(run, variables)) is not None:
        raise UserError(
          f"{path}: has the weights of model.width {width:g}, but the config has "
          f"{run.config.model.width:g}; use configs/pretrained/mn.py:mn{round(10 * width):02d}, or "
          f"set --config.model.width={width:g}"
        )
      raise UserError(
        f"{path}: {name} has shape {loaded[where].shape}, but the config's system has "
        f"{leaf.shape}; set model.width and data.vocabulary to those of the weights"
      )


def _other_width(run: Run, variables: dict[str, Any]) -> float | None:
  """Return the width of EfficientAT's weights, or None if the config has it or it is unknown."""
  if run.config.model.encoder != "mobilenet":
    return None
  channels = variables["params"]["encoder"]["last"]["conv"]["kernel"].shape[-1]
  width = round(channels / last_channels(1.0), 1)
  fits = last_channels(width) == channels != last_channels(run.config.model.width)
  return width if fits else None


def read_state_dict(path: str | os.PathLike) -> dict[str, Any]:
  """Return the tensors by name of an .npz file, or of a .pt or .pth file of PyTorch.

  Files are read without PyTorch and without unpickling arbitrary objects.

  Raises:
    UserError: The file cannot be read.
  """
  return read_arrays(path) if pathlib.Path(path).suffix == ".npz" else read_tensors(path)
