"""Feed randomly changed files to the readers and print a table of the failures.

The readers run in processes of their own, so that a hang or a crash counts as a failure and the
rest continues. The input number N of a reader depends on the seed and N only.

  python tests/fuzz/run_fuzz.py [--inputs 1000] [--seed 0] [--show 3] [READER …]
"""

import argparse
import collections
import json
import os
import pathlib
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HANG_SECONDS = 10  # of computing; ten times as much of waiting
MUCH = 2**29  # growth of the peak memory that counts as a failure, in bytes
KINDS = ("traceback", "hang", "crash", "memory", "accepted", "long message", "unprintable message")


def serve(name, inputs, seed, first):
  """Feed inputs to a reader, and write a line of JSON before and after each."""
  import fuzz_readers
  import numpy as np

  reader = fuzz_readers.READERS[name]
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)
  with tempfile.TemporaryDirectory() as folder:
    sound = pathlib.Path(folder) / name
    reader.make(sound)
    first_outcome = fuzz_readers.outcome(reader, sound)
    assert first_outcome == "read", first_outcome
    base = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (base + 4 * 2**30, base + 4 * 2**30))
    for number in range(first, inputs):
      rng = np.random.default_rng([seed, number])
      path = pathlib.Path(folder) / str(number) / name
      path.parent.mkdir()
      copy = shutil.copytree if sound.is_dir() else shutil.copyfile
      copy(sound, path)
      reader.change(path, rng)
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
      print(json.dumps({"started": number}), file=answers)
      result = fuzz_readers.outcome(reader, path)
      grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak
      if grown > MUCH:
        result = f"memory: {grown / 1e6:.0f} MB; {result[:100]}"
      print(json.dumps({"finished": number, "outcome": result}), file=answers)
      shutil.rmtree(path.parent)


class Lines:
  """The answers of a process, with a limit on the time until the next one."""

  def __init__(self, process):
    self.process, self.rest = process, b""

  def next(self, seconds):
    """Return the next answer; None at the end, "" if there is none in time.

    The time is that of the process, so that a busy machine makes no failures.
    """
    end, computed = time.monotonic() + 10 * seconds, self.computed() + seconds
    while b"\n" not in self.rest:
      if not select.select([self.process.stdout], [], [], 1)[0]:
        if time.monotonic() > end or self.computed() > computed:
          return ""
        continue
      part = os.read(self.process.stdout.fileno(), 65536)
      if not part:
        return None
      self.rest += part
    line, _, self.rest = self.rest.partition(b"\n")
    return json.loads(line)

  def computed(self):
    """Return the seconds that the process has computed so far."""
    fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def outcomes(name, inputs, seed):
  """Return the outcome of each input of a reader."""
  found, first = [], 0
  while first < inputs:
    command = [sys.executable, __file__, "--serve", name, "--inputs", str(inputs)]
    command += ["--seed", str(seed), "--first", str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines, seconds, started = Lines(process), 300, None
    while answer := lines.next(seconds):
      if "started" in answer:
        started, seconds = answer["started"], HANG_SECONDS
      else:
        found.append(answer["outcome"])
        started, seconds = None, 60
        first = answer["finished"] + 1
    if answer is not None:
      process.kill()
    status = process.wait()
    process.stdout.close()
    if started is not None:
      found.append("hang" if answer == "" else f"crash: status {status}")
      first = started + 1
    elif answer == "" or (first < inputs):
      raise SystemExit(f"{name}: the process of the reader ended with status {status}")
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("readers", nargs="*")
  parser.add_argument("--inputs", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--show", type=int, default=3, help="examples of each kind of failure")
  parser.add_argument("--serve", help=argparse.SUPPRESS)
  parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.serve:
    serve(options.serve, options.inputs, options.seed, options.first)
    return
  import fuzz_readers

  print(f"| reader | inputs | read | refused | {' | '.join(KINDS)} |")
  print(f"|---|{'---:|' * (len(KINDS) + 3)}")
  for name in options.readers or fuzz_readers.READERS:
    found = outcomes(name, options.inputs, options.seed)
    counts = collections.Counter(one.partition(":")[0] for one in found)
    numbers = [len(found), counts["read"], counts["refused"], *(counts[kind] for kind in KINDS)]
    print(f"| {name} | {' | '.join(map(str, numbers))} |", flush=True)
    shown = collections.Counter()
    for number, one in enumerate(found):
      kind = one[:60]
      if one.partition(":")[0] in KINDS and shown[kind] < options.show:
        shown[kind] += 1
        print(f"    {number}: {one[:300]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
  for part in (ROOT, *(ROOT / "tests" / name for name in ("support", "fuzz", "interop"))):
    sys.path.insert(0, str(part))
  main()
