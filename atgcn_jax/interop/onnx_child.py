"""The conversion to ONNX, run as a program in the environment of the converter.

Its imports must not need TensorFlow or this package's version of Orbax: see `launch/onnx.sh`.
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
TOLERANCE = 1e-4  # largest difference of a score
# Windows are scored one after the other, so that sound of any length takes the memory of one.
SOUND = """
<ir_version: {ir_version}, opset_import: ["" : {opset}], producer_name: "atgcn_jax">
sound (float[batch, samples] waveforms) => (float[batch, {labels}] scores)
<int64[1] one = {{1}}, int64[1] size = {{{size}}}, int64[1] shortest = {{{shortest}}},
 int64[1] step = {{{step}}}, int64[1] before_step = {{{before}}}, int64[1] most = {{{most}}},
 int64[1] zero = {{0}}, int64[4] padding = {{0, 0, 0, {size}}}>
{{
  batch = Shape<start = 0, end = 1>(waveforms)
  samples = Shape<start = 1, end = 2>(waveforms)
  filled = Add(samples, size)
  counted = Sub(filled, shortest)
  quotient = Div(counted, size)
  count = Max(quotient, one)
  stepped = Add(samples, before_step)
  all_steps = Div(stepped, step)
  steps = Min(all_steps, most)
  length = Mul(steps, step)
  padded = Pad(waveforms, padding)
  used = Mul(count, length)
  cut = Slice(padded, zero, used, one)
  windows = Mul(batch, count)
  windows_shape = Concat<axis = 0>(windows, steps, step)
  sounds = Reshape(cut, windows_shape)
  found = Scan<num_scan_inputs = 1>(sounds)
  found_shape = Concat<axis = 0>(batch, count, labels)
  by_clip = Reshape(found, found_shape)
  scores = ReduceMean<keepdims = 0>(by_clip, one)
}}
"""


def main(source: str, out: str) -> None:
  """Convert an export to `huggingface` and check the result.

  Args:
    source: Folder that `write_huggingface` wrote.
    out: The .onnx file to write.
  """
  import onnx
  from safetensors.numpy import load_file

  config = json.loads(pathlib.Path(source, "config.json").read_text(encoding="utf-8"))
  tree = unflatten_dict(load_file(pathlib.Path(source, "model.safetensors")), sep=".")
  run = run_from_saved(config["run"], tree.pop("constants"))
  outputs = jax.jit(window_outputs(run, ONNX))
  variables = run.for_inference(ONNX)(tree)
  size, step = run.frontend.samples, run.length_step
  model = around(one_window(outputs, variables, size, step), size, step, len(run.vocabulary))
  onnx.checker.check_model(model, full_check=True)
  check_scores(model, lambda windows: outputs(variables, windows)["clip"], size, step)
  onnx.save(model, out)


def one_window(outputs, variables, size: int, step: int):
  """Return the network as an onnx.ModelProto, from a window to scores float32[K].

  The window is float32[N, step], in rows. N is unknown if `step` is less than `size`.

  Args:
    outputs: Function returned by `window_outputs`.
    variables: The variables of that function.
    size: Maximum number of samples in a window.
    step: Number of samples of whose multiples windows are.
  """
  from flax.core import axes_scan
  from jax2onnx import to_onnx

  # The converter replaces functions of jax.numpy while it traces. Flax's recurrent layers need the
  # original functions.
  vars(axes_scan)["jnp"] = types.SimpleNamespace(**vars(jnp))
  rows = "steps" if step < size else 1
  return to_onnx(
    lambda window: outputs(variables, window.reshape(1, -1))["clip"][0],
    [(rows, step)],
    opset=OPSET,
  )


def check_scores(model, scores, size: int, step: int) -> None:
  """Compare the scores of the model with those of JAX, on windows of noise, full, half and short.

  Args:
    model: The onnx.ModelProto.
    scores: Function from windows float32[B, S] to scores float32[B, K].
    size: Number of samples in a full window.
    step: Number of samples in the shortest window.

  Raises:
    ValueError: The scores differ by more than TOLERANCE, so the converter made a mistake.
  """
  import onnxruntime

  windows = np.random.default_rng(0).uniform(-0.5, 0.5, (2, size)).astype(np.float32)
  windows[1, size // 2 :] = 0
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
  )
  for given in (windows, windows[:, :step]):
    (found,) = session.run(["scores"], {"waveforms": given})
    if not np.allclose(found, scores(given), rtol=0, atol=TOLERANCE):
      difference = np.abs(found - scores(given)).max()
      raise ValueError(f"the scores of the converted model differ by {difference:.2g}")


def around(window, size: int, step: int, labels: int):
  """Return a model for sound of any batch size and length, made from the model of one window.

  Args:
    window: The onnx.ModelProto of `one_window`.
    size: Number of samples in a full window.
    step: As for `one_window`.
    labels: K, the number of labels.

  Raises:
    ValueError: `window` contains functions.
  """
  import onnx

  if len(window.functions):
    raise ValueError("the converted model contains functions, which are not supported")
  text = SOUND.format(
    ir_version=IR_VERSION,
    opset=OPSET,
    labels=labels,
    size=size,
    shortest=shortest_tail(size),
    step=step,
    before=step - 1,
    most=size // step,
  )
  model = onnx.parser.parse_model(text)
  model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([labels]), "labels"))
  body = onnx.compose.add_prefix(window, "window/").graph
  (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
  scan.attribute.append(onnx.helper.make_attribute("body", body))
  return model


if __name__ == "__main__":
  main(*sys.argv[1:])
