"""Conversion of PyTorch state dicts of PANNs' CNN10 and the authors' AT-GCN to Flax variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# PANNs checkpoints contain the frozen tensors of their spectrogram extractor.
FRONT_END = re.compile(r"(spectrogram_extractor|logmel_extractor|spec_augmenter)\.")
# The authors' AT-GCN stores its graph as a parameter. Here the graph is part of the run.
IGNORED = re.compile(r"(.*\.num_batches_tracked|(gcn\.)?(A|adj))$")


def convert(state_dict: Mapping[str, Any], config: Any) -> dict[str, Any]:
  """Return variables (`params`, `batch_stats`) for `atgcn_jax.models.build(config, …)`.

  Args:
    state_dict: Tensors by name, as NumPy arrays or PyTorch tensors: `bn0.*`,
      `conv_block1.conv1.weight` [O, I, 3, 3], `conv_block1.bn1.*`, `fc1.*`, and `fc_audioset.*`
      [K, C] for the linear head, or `gcn.gc1.weight` [E, H], `gcn.gc2.weight`, … for the graph
      head. Front-end tensors, batch counters and a stored graph are ignored.
    config: The `model` section of a config, which determines the head.

  Returns:
    float32 arrays in Flax's layout.

  Raises:
    ValueError: The encoder is not cnn10, or tensors are missing, have an unknown name or belong to
      the other head.

  Source: Names as in Kong et al., PANNs, 2020, and in the code of Wang et al., IEEE SPL 2020.
  """
  if config.encoder != "cnn10":
    raise ValueError(f"only weights of the encoder cnn10 can be imported, not of {config.encoder}")
  tensors = {
    name.removeprefix("module."): value
    for name, value in state_dict.items()
    if not FRONT_END.match(name.removeprefix("module."))
    and not IGNORED.match(name.removeprefix("module."))
  }
  layout = dict(_encoder_layout())
  if config.head == "linear":
    layout["fc_audioset.weight"] = ("params", ("head", "fc", "kernel"), (1, 0))
    layout["fc_audioset.bias"] = ("params", ("head", "fc", "bias"), None)
  else:
    for layer in range(1, config.layers + 1):
      layout[f"gcn.gc{layer}.weight"] = ("params", ("head", f"gc{layer}", "weight"), None)
  missing = sorted(layout.keys() - tensors.keys())
  unknown = sorted(tensors.keys() - layout.keys())
  if missing or unknown:
    raise ValueError(
      f"state dict does not fit a cnn10 with a {config.head} head: "
      f"missing {missing[:5] or 'none'}, unknown {unknown[:5] or 'none'}"
    )
  variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for name, (collection, path, axes) in layout.items():
    value = np.asarray(tensors[name], np.float32)
    _put(variables[collection], path, value if axes is None else value.transpose(axes))
  return variables


def _encoder_layout():
  """Yield (name, (collection, path, axes that transpose PyTorch's layout to Flax's))."""
  yield from _batch_norm("bn0", ("encoder", "bn0"))
  for block in range(1, 5):
    for i in (1, 2):
      torch_block, path = f"conv_block{block}", ("encoder", f"conv_block{block}")
      yield f"{torch_block}.conv{i}.weight", ("params", (*path, f"conv{i}", "kernel"), (2, 3, 1, 0))
      yield from _batch_norm(f"{torch_block}.bn{i}", (*path, f"bn{i}"))
  yield "fc1.weight", ("params", ("encoder", "fc1", "kernel"), (1, 0))
  yield "fc1.bias", ("params", ("encoder", "fc1", "bias"), None)


def _batch_norm(name: str, path: tuple[str, ...]):
  yield f"{name}.weight", ("params", (*path, "scale"), None)
  yield f"{name}.bias", ("params", (*path, "bias"), None)
  yield f"{name}.running_mean", ("batch_stats", (*path, "mean"), None)
  yield f"{name}.running_var", ("batch_stats", (*path, "var"), None)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value
