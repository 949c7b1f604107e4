"""The conversion to ONNX, run as a program by the environment that has the converter.

What it imports must do without Orbax and TensorFlow: see `launch/onnx.sh`.
"""

from __future__ import annotations

import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from atgcn_jax.audio.windows import shortest_tail
from atgcn_jax.models.layers import ONNX
from atgcn_jax.runs.run import run_from_saved
from atgcn_jax.runs.window_outputs import window_outputs

OPSET, IR_VERSION = 21, 10
TOLERANCE = 1e-4  # of scores
# One window after another, so that sound of any length takes the memory of one window.
SOUND = """
<ir_version: {ir_version}, opset_import: ["" : {opset}], producer_name: "atgcn_jax">
sound (float[batch, samples] waveforms) => (float[batch, {labels}] scores)
<int64[1] one = {{1}}, int64[1] size = {{{size}}}, int64[1] shortest = {{{shortest}}},
 int64[1] zero = {{0}}, int64[4] behind = {{0, 0, 0, {size}}}>
{{
  batch = Shape<start = 0, end = 1>(waveforms)
  samples = Shape<start = 1, end = 2>(waveforms)
  filled = Add(samples, size)
  counted = Sub(filled, shortest)
  whole = Div(counted, size)
  count = Max(whole, one)
  padded = Pad(waveforms, behind)
  used = Mul(count, size)
  cut = Slice(padded, zero, used, one)
  windows = Mul(batch, count)
  windows_shape = Concat<axis = 0>(windows, size)
  sounds = Reshape(cut, windows_shape)
  found = Scan<num_scan_inputs = 1>(sounds)
  found_shape = Concat<axis = 0>(batch, count, labels)
  by_clip = Reshape(found, found_shape)
  scores = ReduceMean<keepdims = 0>(by_clip, one)
}}
"""


def main(source: str, out: str) -> None:
  """Write the model of a folder that `huggingface.write` wrote to a file."""
  import onnx
  from safetensors.numpy import load_file

  config = json.loads(pathlib.Path(source, "config.json").read_text(encoding="utf-8"))
  tree = unflatten_dict(load_file(pathlib.Path(source, "model.safetensors")), sep=".")
  run = run_from_saved(config["run"], tree.pop("constants"))
  outputs = jax.jit(window_outputs(run, ONNX))
  variables = run.for_inference(ONNX)(tree)
  size = run.frontend.samples
  model = around(one_window(outputs, variables, size), size, len(run.vocabulary))
  onnx.checker.check_model(model, full_check=True)
  check_scores(model, lambda windows: outputs(variables, windows)["clip"], size)
  onnx.save(model, out)


def one_window(outputs, variables, size: int):
  """The network as an onnx.ModelProto from a window float32[size] to scores float32[K].

  Args:
    outputs: as of `window_outputs`.
  """
  from flax.core import axes_scan
  from jax2onnx import to_onnx

  # The converter replaces functions of JAX while it traces; Flax's recurrent layers need the real.
  vars(axes_scan)["jnp"] = types.SimpleNamespace(**vars(jnp))
  return to_onnx(lambda window: outputs(variables, window[None])["clip"][0], [(size,)], opset=OPSET)


def check_scores(model, scores, size: int) -> None:
  """Run the model on noise, and a window of it cut short, beside what it was made of.

  Args:
    scores: from windows float32[B, size] to scores float32[B, K].
  Raises:
    ValueError: if they differ by more than TOLERANCE: the converter does not know an operation
      as well as it thinks.
  """
  import onnxruntime

  windows = np.random.default_rng(0).uniform(-0.5, 0.5, (2, size)).astype(np.float32)
  windows[1, size // 2 :] = 0
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
  )
  (found,) = session.run(["scores"], {"waveforms": windows})
  if not np.allclose(found, scores(windows), rtol=0, atol=TOLERANCE):
    difference = np.abs(found - scores(windows)).max()
    raise ValueError(f"the scores of what was converted differ by {difference:.2g}")


def around(window, size: int, labels: int):
  """A model of sound of any batch and length around that of one window.

  Args:
    window: as `one_window` gives it.
    size: samples in a window.
    labels: K.
  """
  import onnx

  if len(window.functions):
    raise ValueError("the converter made functions, which are not carried over")
  text = SOUND.format(
    ir_version=IR_VERSION,
    opset=OPSET,
    labels=labels,
    size=size,
    shortest=shortest_tail(size),
  )
  model = onnx.parser.parse_model(text)
  model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([labels]), "labels"))
  body = onnx.compose.add_prefix(window, "window/").graph
  (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
  scan.attribute.append(onnx.helper.make_attribute("body", body))
  return model


if __name__ == "__main__":
  main(*sys.argv[1:])
