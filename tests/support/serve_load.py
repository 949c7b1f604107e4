"""Send sounds to `atgcn serve` from several clients, and watch its memory, threads and files.

  python tests/support/serve_load.py --workdir RUN [--minutes 10] [--clients 8]

Prints one JSON object: requests, failures, times of answers, and for memory, threads and open
files the values before and after, and the slope per hour of the second half. `docs/serve.md` has
results. Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import soundfile

FORMATS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"))
WATCHED_SECONDS = 5.0


def sounds() -> list[bytes]:
  """Return sounds of several lengths, rates and formats."""
  random, found = np.random.default_rng(0), []
  for seconds in (0.5, 3, 10, 25, 40):
    for k, (kind, subtype) in enumerate(FORMATS):
      rate = (16_000, 44_100, 48_000)[k]
      wave = 0.1 * random.standard_normal(round(seconds * rate))
      target = io.BytesIO()
      soundfile.write(target, wave, rate, subtype, format=kind)
      found.append(target.getvalue())
  return found


class Watch(threading.Thread):
  """Memory in bytes, threads and open files of a process, at some times."""

  def __init__(self, process: int):
    super().__init__(daemon=True)
    self._folder = pathlib.Path(f"/proc/{process}")
    self.rows: list[tuple[float, int, int, int]] = []
    self.ended = threading.Event()

  def look(self) -> None:
    """Add a row."""
    status = dict(line.split(":", 1) for line in (self._folder / "status").read_text().splitlines())
    memory = int(status["VmRSS"].split()[0]) * 1024
    files = len(os.listdir(self._folder / "fd"))
    self.rows.append((time.monotonic(), memory, int(status["Threads"]), files))

  def run(self) -> None:
    """Add rows until the end."""
    while not self.ended.wait(WATCHED_SECONDS):
      self.look()

  def summary(self) -> dict[str, dict[str, float]]:
    """Return the values and slopes."""
    table = np.array(self.rows)
    half = table[len(table) // 2 :]
    hours = (half[:, 0] - half[0, 0]) / 3600
    found = {}
    for k, name in enumerate(("memory_bytes", "threads", "files"), 1):
      slope = float(np.polyfit(hours, half[:, k], 1)[0]) if len(half) > 1 else float("nan")
      found[name] = {
        "before": table[0, k],
        "middle": half[0, k],
        "most": table[:, k].max(),
        "after": table[-1, k],
        "slope_per_hour": slope,
      }
    return found


def client(address: str, number: int, end: float, answers: list, failures: list) -> None:
  """Send sounds and fetch tables until the end, as one client."""
  random, contents = np.random.default_rng(number), sounds()
  while time.monotonic() < end:
    body, start = contents[random.integers(len(contents))], time.monotonic()
    request = urllib.request.Request(
      f"{address}api/sounds?name=client{number}&min_score=0.1",
      body,
      {"Content-Type": "application/octet-stream"},
    )
    try:
      with urllib.request.urlopen(request, timeout=600) as answer:
        key = json.load(answer)["id"]
      answers.append(time.monotonic() - start)
      for path in (f"api/sounds/{key}/tables/raven", f"api/sounds/{key}/detections", ""):
        with urllib.request.urlopen(address + path, timeout=600) as answer:
          answer.read()
    except (OSError, ValueError, KeyError) as error:
      failures.append(f"{type(error).__name__}: {error}")


def main() -> None:
  """Start the server, send sounds, and print the result."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--minutes", type=float, default=10)
  parser.add_argument("--clients", type=int, default=8)
  options = parser.parse_args()
  server = subprocess.Popen(
    [sys.executable, "-m", "atgcn_jax", "serve", "--workdir", options.workdir, "--port", "0"],
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    address = server.stdout.readline().split("open ")[1].split()[0]
    watch, answers, failures = Watch(server.pid), [], []
    watch.look()
    watch.start()
    end = time.monotonic() + 60 * options.minutes
    threads = [
      threading.Thread(target=client, args=(address, k, end, answers, failures))
      for k in range(options.clients)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    watch.ended.set()
    watch.join()
    time.sleep(15)  # idle threads and connections end
    watch.look()
  finally:
    server.terminate()
  status = server.wait(600)
  times = np.array(answers) if answers else np.zeros(1)
  print(
    json.dumps(
      {
        "minutes": options.minutes,
        "clients": options.clients,
        "sounds": len(answers),
        "failures": failures,
        "median_seconds": float(np.median(times)),
        "longest_seconds": float(times.max()),
        "exit_status": status,
      }
      | watch.summary(),
      indent=1,
    )
  )


if __name__ == "__main__":
  main()
