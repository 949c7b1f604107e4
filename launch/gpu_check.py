"""Run the steps of `gpu_check.sh` within a time, each in a process of its own; see its --help."""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import gpu_steps
from gpu_summary import summary

GRACE = 10  # seconds that a process has to end after SIGTERM
LEAST = 20  # seconds for which a postponed step is still started
PATIENCE = 10  # factor of the time limits in a rehearsal
# Two devices have the same form of the models as a GPU. Compilation is quick rather than good.
REHEARSAL = {
  "JAX_NUM_CPU_DEVICES": "2",
  "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
LINES = 40  # lines of output in a result without JSON


def run_step(step, limit, work, variables):
  """Run the process of a step, and return its record and its output.

  Args:
    step: The step.
    limit: Time limit in seconds.
    work: Folder for the output file of the process.
    variables: Environment variables of all steps.
  """
  began = time.monotonic()
  path = work / "output.txt"
  path.unlink(missing_ok=True)  # a process of an earlier run may still write to it
  with path.open("wb") as file:
    process = subprocess.Popen(
      step.command,
      cwd=gpu_steps.ROOT,
      env={**os.environ, **variables, **dict(step.variables)},
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    cut = False
    try:
      process.wait(limit)
    except subprocess.TimeoutExpired:
      cut = True
    finally:
      end(process)
  output = path.read_text(errors="replace")
  record = {"name": step.name, "part": step.part, "status": "done"}
  if cut or process.returncode:
    record["status"] = "cut" if cut else "failed"
    record["reason"] = f"limit of {limit:.0f} s" if cut else last_line(output, process.returncode)
  record["seconds"] = round(time.monotonic() - began, 1)
  return record | {"exit": process.returncode, "result": result_of(output)}, output


def stop(*_):
  """Exit, which ends the process of the step too; a second SIGTERM does not disturb this."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  sys.exit(143)


def end(process):
  """End a process and all that it started."""
  for number, grace in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
    try:
      os.killpg(process.pid, number)
    except ProcessLookupError:
      break
    try:
      process.wait(grace)
    except subprocess.TimeoutExpired:
      continue
  process.wait()


def last_line(output, status):
  """Return why a process failed: its exit status and its last line."""
  lines = output.strip().splitlines() or ["no output"]
  return f"exit status {status}: {lines[-1][:300]}"


def result_of(output):
  """Return the JSON object in the last line of an output, or else the last lines."""
  lines = output.strip().splitlines()
  try:
    found = json.loads(lines[-1])
  except (IndexError, ValueError):
    found = None
  return found if isinstance(found, dict) else {"output": lines[-LINES:]}


class Book:
  """The records of the steps, which are written as soon as a step has ended."""

  def __init__(self, out, title):
    self.out, self.title, self.records = out, title, []
    for name in ("results.jsonl", "log.txt", "summary.md"):
      (out / name).unlink(missing_ok=True)

  def add(self, record, output="", command=()):
    """Write a record, the output of its process, and the summary of all steps so far."""
    self.records.append(record)
    with (self.out / "results.jsonl").open("a") as file:
      file.write(json.dumps(record | {"command": list(command)}) + "\n")
    with (self.out / "log.txt").open("a") as file:
      file.write(f"=== {record['name']}: {record['status']}\n{output}\n")
    temporary = self.out / "summary.tmp"
    temporary.write_text(summary(self.title, self.records))
    temporary.replace(self.out / "summary.md")
    seconds = f" {record['seconds']} s" if "seconds" in record else ""
    print(f"{record['name']}: {record['status']}{seconds} {record.get('reason', '')}", flush=True)


def run_steps(steps, seconds, work, variables, book, patience=1):
  """Run the steps part by part, and those that had no time in their part at the end.

  Args:
    steps: The steps, ordered by part.
    seconds: Time for all steps.
    work: Folder for the output file of the process.
    variables: Environment variables of all steps.
    book: The records.
    patience: Factor of the steps' time limits.
  """
  start = time.monotonic()
  for step in steps:
    if missing := [path for path in step.needs if not path.exists()]:
      book.add({**left_out(step), "reason": f"needs {missing[0]}"})
  steps = [step for step in steps if all(path.exists() for path in step.needs)]
  parts = {step.part for step in steps} - {""}
  total = sum(gpu_steps.SHARES[part] for part in parts) or 1
  shares = {part: gpu_steps.SHARES[part] / total for part in sorted(parts)}

  def try_step(step, least, deadline):
    """Run a step if so many seconds are left, and return whether it was run."""
    if deadline - time.monotonic() < least:
      return False
    limit = min(patience * step.seconds, start + seconds - GRACE - time.monotonic())
    book.add(*run_step(step, max(1, limit), work, variables), step.command)
    return True

  postponed = []
  for step in steps:
    before = sum(share for part, share in shares.items() if part <= step.part)
    # A step usually takes less than half of its limit.
    if not try_step(
      step, step.seconds / 2, start + seconds * before if step.part else float("inf")
    ):
      postponed.append(step)
    elif not step.part and book.records[-1]["exit"] == 2:
      return
  for step in postponed:
    if not try_step(step, LEAST + GRACE, start + seconds):
      book.add({**left_out(step), "reason": "no time was left"})


def left_out(step):
  """Return the record of a step that is not run."""
  return {"name": step.name, "part": step.part, "status": "left out", "result": {}}


def main(arguments):
  """Run the steps and return the exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--work", type=pathlib.Path, required=True)
  parser.add_argument("--parts", default="abcd")
  parser.add_argument("--rehearse", action="store_true")
  parser.add_argument("--only", default="", help="comma-separated names of steps to run")
  options = parser.parse_args(arguments)
  out, work = options.out.resolve(), options.work.resolve()
  for folder in (out, work, work / "features"):
    folder.mkdir(parents=True, exist_ok=True)
  shared = pathlib.Path(os.environ.get("ATGCN_SHARED", "shared")).resolve()
  sizes = gpu_steps.SMALL if options.rehearse else gpu_steps.Sizes()
  only = [name for name in options.only.split(",") if name]
  steps = [
    step
    for step in gpu_steps.steps_of(sizes, shared, work)
    if (not step.part or step.part in options.parts) and (not only or step.name in only)
  ]
  variables = {
    "JAX_PLATFORMS": "cpu" if options.rehearse else "cuda,cpu",
    "XDG_CACHE_HOME": str(work / "cache"),
    "MPLCONFIGDIR": str(work / "cache/matplotlib"),
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    **(REHEARSAL if options.rehearse else {}),
  }
  title = "Rehearsal on the CPU, at small sizes" if options.rehearse else "GPU check"
  book = Book(out, title)
  run_steps(steps, 60 * options.minutes, work, variables, book, PATIENCE if options.rehearse else 1)
  if book.records[-1].get("exit") == 2 and not book.records[-1]["part"]:
    reason = book.records[-1]["reason"]
    print(f"gpu_check.sh: {reason}; use --rehearse to run on the CPU", file=sys.stderr)
    return 2
  return int(any(record["status"] in ("failed", "cut") for record in book.records))


if __name__ == "__main__":
  signal.signal(signal.SIGTERM, stop)
  sys.exit(main(sys.argv[1:]))
