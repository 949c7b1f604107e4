"""Conversion between PyTorch state dicts and Flax variables.

State dicts have the names of PANNs' CNN10 and CNN14, of the authors' AT-GCN or of EfficientAT's
networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from atgcn_jax.models import logit_offset
from atgcn_jax.models.cnn10 import CHANNELS, CNN14_CHANNELS
from atgcn_jax.models.mobilenet import STAGES, in_eights

# PANNs checkpoints contain the frozen tensors of their spectrogram extractor.
FRONT_END = re.compile(r"(spectrogram_extractor|logmel_extractor|spec_augmenter)\.")
# The authors' AT-GCN stores its graph as a parameter. Here the graph is part of the run.
IGNORED = re.compile(r"(.*\.num_batches_tracked|(gcn\.)?(A|adj))$")

# The place of a tensor: collection, path, and the axes that transpose PyTorch's layout to Flax's.
Place = tuple[str, tuple[str, ...], tuple[int, ...] | None]
Layout = Iterator[tuple[str, Place]]
DENSE = (1, 0)
BLOCKS = {"cnn10": len(CHANNELS), "cnn14": len(CNN14_CHANNELS)}
# PANNs' images have frames first, EfficientAT's have bands first.
FRAMES_FIRST, BANDS_FIRST = (2, 3, 1, 0), (3, 2, 1, 0)


def convert(state_dict: Mapping[str, Any], config: Any) -> dict[str, Any]:
  """Return variables (`params`, `batch_stats`) for `atgcn_jax.models.build(config, …)`.

  Args:
    state_dict: Tensors by name, as NumPy arrays or PyTorch tensors. For the encoders `cnn10` and
      `cnn14`: `bn0.*`, `conv_block1.conv1.weight` [O, I, 3, 3], `conv_block1.bn1.*`, `fc1.*`, and
      `fc_audioset.*` [K, C] for the linear head. For `mobilenet`: `features.0.0.weight`,
      `features.1.block.0.1.running_var`, …, `classifier.2.*`, and `classifier.5.*` [K, C] for the
      linear head. For the graph head of either: `gcn.gc1.weight` [E, H], `gcn.gc2.weight`, ….
      Front-end tensors, batch counters and a stored graph are ignored.
    config: The `model` section of a config, which determines encoder, width and head.

  Returns:
    float32 arrays in Flax's layout.

  Raises:
    ValueError: The encoder is another, or tensors are missing, have an unknown name or belong to
      the other head.

  Source:
    Names as in Kong et al., PANNs, 2020, in the code of Wang et al., IEEE SPL 2020, and in
    EfficientAT's code (Schmid et al., ICASSP 2023).
  """
  layout = dict(_layout(config))
  tensors = {
    name.removeprefix("module."): value
    for name, value in state_dict.items()
    if not FRONT_END.match(name.removeprefix("module."))
    and not IGNORED.match(name.removeprefix("module."))
  }
  missing = sorted(layout.keys() - tensors.keys())
  unknown = sorted(tensors.keys() - layout.keys())
  if missing or unknown:
    raise ValueError(
      f"state dict does not fit a {config.encoder} with a {config.head} head: "
      f"missing {missing[:5] or 'none'}, unknown {unknown[:5] or 'none'}"
    )
  variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for name, (collection, path, axes) in layout.items():
    value = np.asarray(tensors[name], np.float32)
    if axes is not None and value.ndim != len(axes):
      raise ValueError(f"{name} has {value.ndim} axes, not {len(axes)}")
    _put(variables[collection], path, value if axes is None else value.transpose(axes))
  return variables


def state_dict_of(variables: Mapping[str, Any], config: Any) -> dict[str, np.ndarray]:
  """Return the state dict of which `convert` makes these variables, with the same bits.

  Batch counters are left out. PyTorch's `load_state_dict` does not need them.

  Args:
    variables: `params` and `batch_stats` of `atgcn_jax.models.build(config, …)`.
    config: As for `convert`.

  Raises:
    ValueError: The encoder has no PyTorch names.
  """
  state = {}
  for name, (collection, path, axes) in _layout(config):
    value = variables[collection]
    for key in path:
      value = value[key]
    value = np.asarray(value)
    state[name] = value if axes is None else np.ascontiguousarray(value.transpose(np.argsort(axes)))
  return state


def _layout(config: Any) -> Layout:
  """Yield the name and the place of each tensor of a system."""
  if logit_offset(config):
    raise ValueError(
      f"model.prior must be 0.5 for weights of PyTorch, which have no other, got {config.prior}"
    )
  if config.encoder in BLOCKS:
    yield from _panns(BLOCKS[config.encoder])
    classifier = "fc_audioset"
  elif config.encoder == "mobilenet":
    yield from _mobilenet(config.width)
    classifier = "classifier.5"
  else:
    raise ValueError(
      f"only weights of the encoders {', '.join((*BLOCKS, 'mobilenet'))} can be imported, not of "
      f"{config.encoder}"
    )
  if config.head == "linear":
    yield from _dense(classifier, ("head", "fc"))
  else:
    for layer in range(1, config.layers + 1):
      yield f"gcn.gc{layer}.weight", ("params", ("head", f"gc{layer}", "weight"), None)


def _panns(blocks: int) -> Layout:
  yield from _batch_norm("bn0", ("encoder", "bn0"))
  for block in range(1, blocks + 1):
    for i in (1, 2):
      torch_block, path = f"conv_block{block}", ("encoder", f"conv_block{block}")
      kernel = (*path, f"conv{i}", "kernel")
      yield f"{torch_block}.conv{i}.weight", ("params", kernel, FRAMES_FIRST)
      yield from _batch_norm(f"{torch_block}.bn{i}", (*path, f"bn{i}"))
  yield from _dense("fc1", ("encoder", "fc1"))


def _mobilenet(width: float) -> Layout:
  yield from _conv_norm("features.0", ("encoder", "stem"))
  inputs = in_eights(16 * width)
  for i, stage in enumerate(STAGES, 1):
    parts = ["depthwise", *(["squeeze"] if stage.squeezed else []), "project"]
    if in_eights(stage.expanded * width) != inputs:
      parts.insert(0, "expand")
    for j, part in enumerate(parts):
      name, path = f"features.{i}.block.{j}", ("encoder", f"block{i}", part)
      if part == "squeeze":
        for layer in ("fc1", "fc2"):
          yield from _dense(f"{name}.conc_se_layers.0.{layer}", (*path, layer))
      else:
        yield from _conv_norm(name, path)
    inputs = in_eights(stage.channels * width)
  yield from _conv_norm(f"features.{len(STAGES) + 1}", ("encoder", "last"))
  yield from _dense("classifier.2", ("encoder", "fc1"))


def _conv_norm(name: str, path: tuple[str, ...]) -> Layout:
  yield f"{name}.0.weight", ("params", (*path, "conv", "kernel"), BANDS_FIRST)
  yield from _batch_norm(f"{name}.1", (*path, "bn"))


def _dense(name: str, path: tuple[str, ...]) -> Layout:
  yield f"{name}.weight", ("params", (*path, "kernel"), DENSE)
  yield f"{name}.bias", ("params", (*path, "bias"), None)


def _batch_norm(name: str, path: tuple[str, ...]) -> Layout:
  yield f"{name}.weight", ("params", (*path, "scale"), None)
  yield f"{name}.bias", ("params", (*path, "bias"), None)
  yield f"{name}.running_mean", ("batch_stats", (*path, "mean"), None)
  yield f"{name}.running_var", ("batch_stats", (*path, "var"), None)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value
