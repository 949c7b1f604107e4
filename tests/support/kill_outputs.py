"""Kill each command that writes, at each change of its output folder, and run it again.

  python tests/support/kill_outputs.py --folder DIR [--most 12] [VERB …]

A command is killed before it opens a file for writing, renames, deletes or creates a folder in its
output folder, and in the middle of writes of several lengths. No file may be incomplete under its
final name then, and the same command must succeed with the files of an undisturbed one. The
commands are those of `tests/runs/test_output_faults.py`. `docs/reliability.md` has the results.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from typing import NamedTuple

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0}
LENGTHS = (1, 100, 1000, 5000, 50_000, 500_000)  # of files at which a write is cut


class Kill(NamedTuple):
  """When to kill a process: before a change of its folder, or once a file has a length."""

  change: int | None = None
  length: int | None = None


def changed_path(event: str, arguments: tuple) -> str | None:
  """Return the path that an audit event is about to change, or None."""
  if event == "open":
    path, _, flags = arguments
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return os.fsdecode(path) if writes and isinstance(path, str | bytes | os.PathLike) else None
  if event in CHANGES and isinstance(arguments[CHANGES[event]], str | bytes | os.PathLike):
    return os.fsdecode(arguments[CHANGES[event]])
  return None


def in_child(work, log: pathlib.Path, out: pathlib.Path | None = None, kill: Kill | None = None):
  """Run a function in a forked process and return its exit status and the number of changes.

  The status is negative if a signal ended the process.
  """
  counted = log.with_suffix(".changes")
  counted.write_bytes(b"")
  process = os.fork()
  if not process:
    with log.open("ab") as text:
      os.dup2(text.fileno(), 1)
      os.dup2(text.fileno(), 2)
    counter = os.open(counted, os.O_WRONLY | os.O_APPEND)
    watch(out, kill or Kill(), counter)
    try:
      status = work() or 0
    except BaseException:
      traceback.print_exc()
      status = 99
    sys.stdout.flush()
    os._exit(status)
  _, ended = os.waitpid(process, 0)
  return os.waitstatus_to_exitcode(ended), counted.stat().st_size


def watch(out: pathlib.Path | None, kill: Kill, counter: int) -> None:
  """Count the changes of a folder by this process, and kill it at one of them."""
  if kill.length is not None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # ends the process at once, as SIGKILL does
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (kill.length, kill.length))
  seen = 0

  def hook(event, arguments):
    nonlocal seen
    path = changed_path(event, arguments)
    if out is None or path is None or not os.path.abspath(path).startswith(f"{out}{os.sep}"):
      return
    if seen == kill.change:
      os.kill(os.getpid(), signal.SIGKILL)
    seen += 1
    if kill.length is None:
      os.write(counter, b".")

  sys.addaudithook(hook)


def visible(files: dict[str, bytes]) -> dict[str, bytes]:
  """Return files without those that a kill may leave."""
  return {name: files[name] for name in files if ".tmp/" not in f"{name}/"}


def sweep(verb: str, inputs: pathlib.Path, folder: pathlib.Path, most: int) -> dict[str, int]:
  """Kill a command at some of its changes, repeat it each time, and count the faults.

  Args:
    verb: The command.
    inputs: Folder of its inputs.
    folder: Folder of its outputs.
    most: Largest number of changes at which it is killed.

  Returns:
    The numbers of changes, of kills, of files that were half-written, and of commands that failed
    when they were repeated.
  """
  import test_output_faults as faults
  from runs_support import contents

  log = folder / f"{verb}.log"

  def work(out):
    faults.prepare_here(pytest.MonkeyPatch())
    return faults.command(verb, inputs, out)()

  def run(out, kill=None):
    return in_child(lambda: work(out), log, out, kill)

  whole_folder = folder / f"{verb}-whole"
  status, changes = run(whole_folder)
  assert status == 0, (verb, status, log.read_text()[-2000:])
  whole = contents(whole_folder)
  step = max(1, -(-changes // most))
  kills = [Kill(change=k) for k in range(0, changes, step)]
  kills += [Kill(length=n) for n in LENGTHS if n < max(map(len, whole.values()))]
  found = {"changes": changes, "killed": 0, "half-written": 0, "failed again": 0}
  for number, kill in enumerate(kills):
    out = folder / f"{verb}-{number}"
    status, _ = run(out, kill)
    if status not in (-signal.SIGKILL, -signal.SIGXFSZ):
      continue  # the file is not written in one piece, or the command has ended before
    found["killed"] += 1
    try:
      faults.assert_nothing_is_half_written(out, whole)
    except AssertionError as error:
      found["half-written"] += 1
      print(f"{verb} {kill}: {str(error)[:200]}", file=sys.stderr)
    status, _ = run(out)
    try:
      assert status == 0, f"status {status}: {log.read_text()[-500:]}"
      faults.compare_files(visible(contents(out)), whole)
    except AssertionError as error:
      found["failed again"] += 1
      print(f"{verb} {kill}, again: {str(error)[:600]}", file=sys.stderr)
  return found


def main(options: argparse.Namespace) -> int:
  """Sweep over the commands and print a table."""
  import test_output_faults as faults

  bad, inputs = 0, options.folder / "inputs"
  shutil.rmtree(inputs, ignore_errors=True)
  inputs.mkdir()
  status, _ = in_child(lambda: faults.make_inputs(inputs), options.folder / "inputs.log")
  assert status == 0, (options.folder / "inputs.log").read_text()[-2000:]
  print("| command | changes of its folder | killed | half-written | failed again |")
  print("|---|---:|---:|---:|---:|")
  for verb in options.verbs or faults.COMMANDS:
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
      found = sweep(verb, inputs, pathlib.Path(folder), options.most)
    print(f"| `{verb}` | {' | '.join(map(str, found.values()))} |", flush=True)
    bad += found["half-written"] + found["failed again"]
  return 1 if bad else 0


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("verbs", nargs="*", help="keys of COMMANDS (default: all)")
  parser.add_argument("--folder", type=pathlib.Path, required=True, help="folder for the files")
  parser.add_argument("--most", type=int, default=12, help="kills of a command at changes")
  options = parser.parse_args()
  options.folder = options.folder.absolute()
  options.folder.mkdir(parents=True, exist_ok=True)
  # The commands run in forks of this process, which must not use JAX itself.
  os.environ["TMPDIR"] = tempfile.tempdir = str(options.folder)
  for name, value in (
    ("JAX_PLATFORMS", "cpu"),
    ("JAX_NUM_CPU_DEVICES", "1"),
    ("JAX_COMPILATION_CACHE_DIR", str(options.folder / "compiled")),
    ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"),
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
  ):
    os.environ.setdefault(name, value)
  for part in (TESTS.parent, *(path for path in TESTS.iterdir() if path.is_dir())):
    sys.path.insert(0, str(part))
  sys.exit(main(options))
