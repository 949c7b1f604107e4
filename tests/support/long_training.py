"""Train a small model for many steps, and fit lines to the memory, threads, files and step times.

  python tests/support/long_training.py --folder DIR [--steps 20000] [--every 200] [--out FILE]

The process saves, evaluates and logs every `--every` steps. After each record of the log, its
resident memory, threads and open files are read. Prints a table and the slopes of the lines
through the rows after the first tenth of the steps, which includes start and compilation.
`docs/reliability.md` has the results. Linux only.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

TESTS = pathlib.Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.05
COLUMNS = ("memory MB", "threads", "files", "ms a step", "ms a step, all")


def command(folder: pathlib.Path, steps: int, every: int) -> list[str]:
  """Make the store and the config, and return the arguments that train the tiny model."""
  from runs_support import tiny_config

  tiny_config(folder)
  changes = {
    "optim.steps": steps,
    "checkpoint.every": every,
    "evaluation.every": every,
    "log.every": every,
  }
  overrides = [f"--config.{key}={value}" for key, value in changes.items()]
  return ["train", "--config", f"{folder}/config.py", "--workdir", f"{folder}/run", *overrides]


def usage(process: int) -> tuple[float, int, int]:
  """Return the resident memory in MB, the threads and the open files of a process."""
  place = pathlib.Path(f"/proc/{process}")
  status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
  memory = int(status["VmRSS"].split()[0]) * 1024 / 1e6
  return memory, int(status["Threads"]), len(os.listdir(place / "fd"))


def watched(arguments: list[str], workdir: pathlib.Path, log: pathlib.Path) -> np.ndarray:
  """Train in a process, and return a row (step, *COLUMNS) for each record of its log."""
  from atgcn_jax.runs.records import read_records

  with log.open("wb") as file:
    process = subprocess.Popen(
      [sys.executable, "-m", "atgcn_jax", *arguments],
      cwd=TESTS.parent,
      stdout=file,
      stderr=file,
    )
  rows: list[tuple[float, ...]] = []
  metrics, size, last, at = workdir / "metrics.jsonl", 0, 0, time.monotonic()
  while process.poll() is None:
    time.sleep(POLL_SECONDS)
    if not metrics.exists() or metrics.stat().st_size == size:
      continue
    size, now = metrics.stat().st_size, time.monotonic()
    trained = [record for record in read_records(workdir) if "clips_per_second" in record]
    if not trained or trained[-1]["step"] == last:
      continue
    step, rate = trained[-1]["step"], trained[-1]["clips_per_second"]
    try:
      row = (step, *usage(process.pid), 8e3 / rate, 1e3 * (now - at) / (step - last))
    except OSError:
      break  # the process has ended
    rows.append(row)
    last, at = step, now
  if process.wait():
    raise SystemExit(f"the training failed: {log.read_text()[-2000:]}")
  return np.array(rows)


def slopes(rows: np.ndarray) -> list[tuple[float, float]]:
  """Return the slope of each column per 1,000 steps by least squares, and its standard error."""
  thousands = rows[:, 0] / 1000
  fits = [np.polyfit(thousands, column, 1, cov=True) for column in rows[:, 1:].T]
  return [(float(fit[0]), float(np.sqrt(covariance[0, 0]))) for fit, covariance in fits]


def report(rows: np.ndarray) -> str:
  """Return the table and the slopes as Markdown."""
  lines = [f"| step | {' | '.join(COLUMNS)} |", f"|---{'|---:' * len(COLUMNS)}|"]
  shown = rows[np.unique(np.linspace(0, len(rows) - 1, 11).round().astype(int))]
  for step, memory, threads, files, own, everything in shown:
    lines.append(
      f"| {step:,.0f} | {memory:.1f} | {threads:.0f} | {files:.0f} | {own:.2f} | {everything:.2f} |"
    )
  steady = rows[rows[:, 0] > rows[-1, 0] / 10]
  fitted = " | ".join(f"{slope:+.3f} ± {error:.3f}" for slope, error in slopes(steady))
  return "\n".join([*lines, f"| slope per 1,000 steps | {fitted} |"])


def main() -> None:
  """Train and print the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--folder", type=pathlib.Path, required=True, help="new folder for the run")
  parser.add_argument("--steps", type=int, default=20_000)
  parser.add_argument("--every", type=int, default=200, help="steps between two records")
  parser.add_argument("--out", type=pathlib.Path, help="CSV file for all rows")
  options = parser.parse_args()
  folder = options.folder.absolute()
  folder.mkdir(parents=True, exist_ok=True)
  arguments = command(folder, options.steps, options.every)
  rows = watched(arguments, folder / "run", folder / "log.txt")
  if options.out:
    header = ",".join(("step", *COLUMNS[:4], "ms a step with saves and evaluations"))
    np.savetxt(options.out, rows, "%.3f", ",", header=header, comments="")
  print(report(rows))


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.path.insert(0, str(TESTS.parent))
  sys.path.insert(0, str(TESTS / "support"))
  main()
