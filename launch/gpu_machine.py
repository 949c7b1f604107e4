"""Print what this machine has, as a line of JSON: devices, versions, memory, driver, speed.

The exit status is 2 if JAX finds none of the devices that JAX_PLATFORMS names.
"""

import json
import subprocess
import sys

QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"


def nvidia_smi():
  """Return what nvidia-smi reports, or an empty string if it is not installed."""
  try:
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
  except (OSError, subprocess.TimeoutExpired):
    return ""


def main():
  """Print the facts and return the exit status."""
  import jax

  try:
    device = jax.devices()[0]
  except RuntimeError as error:
    print(f"no device: {str(error).splitlines()[0]}")
    return 2
  from atgcn_jax.bench.peers import machine
  from atgcn_jax.bench.steps import matrix_product_rate

  types = ("float32",) if device.platform == "cpu" else ("bfloat16", "float32")
  peaks = {f"{dtype} FLOP/s": matrix_product_rate(dtype) for dtype in types}
  limit = (device.memory_stats() or {}).get("bytes_limit")
  facts = {"platform": device.platform, **machine(), "memory for JAX": limit}
  print(json.dumps(facts | {QUERY: nvidia_smi(), **peaks}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
