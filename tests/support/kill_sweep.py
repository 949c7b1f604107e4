"""Kill training processes in all phases of a save, and check the files that they leave.

  python tests/support/kill_sweep.py --kills 200 --seed 0 --folder DIR [--out FILE]

One run is trained to its end undisturbed. Another run is killed many times and resumed each time by
the same command. Both must end with the same bits. The phase in which a process was killed is
determined from the files that it left. `docs/reliability.md` has the results.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import random
import signal
import sys
import time
import warnings
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# With one device, a step takes milliseconds, and most of the life of a process is its start.
ENVIRONMENT = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": os.environ["JAX_PLATFORMS"]}

from runs_support import records, same_bits, saved, start, tiny_config  # noqa: E402

from atgcn_jax.training import checksums, saved_checkpoints  # noqa: E402

EVERY = 3  # steps between saves
AIMS = ("start", "restore", "step", "begin", "write", "rename", "delete", "aside")


class Kill(NamedTuple):
  """One kill: the aim, the phase in which it happened, and its cost."""

  aim: str
  phase: str
  done: int  # number of steps at the kill
  sound: int  # step of the newest valid checkpoint
  lost: int  # number of steps of this process that must be repeated


def command(folder: pathlib.Path, workdir: pathlib.Path, steps: int) -> list[str]:
  """Return the arguments of `atgcn train` for the tiny run, without TensorFlow at the start."""
  changes = {
    "optim.steps": steps,
    "checkpoint.every": EVERY,
    "evaluation.every": 40,
    "data.placement": "device",
    "deterministic": True,  # on a GPU, resumed runs have the same bits only with this
  }
  overrides = [f"--config.{key}={value}" for key, value in changes.items()]
  return ["train", "--config", str(folder / "config.py"), "--workdir", str(workdir), *overrides]


def checkpoints(workdir: pathlib.Path) -> dict[int, pathlib.Path]:
  """Return the folders of the final checkpoints by step, oldest first."""
  return {
    s: workdir / saved_checkpoints.FOLDER / str(s) for s in saved_checkpoints.saved_steps(workdir)
  }


def in_the_making(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Return the folders of unfinished checkpoints."""
  return list((workdir / saved_checkpoints.FOLDER).glob("*tmp*"))


def set_aside(workdir: pathlib.Path) -> int:
  """Return the number of checkpoints that were moved aside."""
  return len(list((workdir / "damaged").glob("*")))


def steps_done(workdir: pathlib.Path) -> int:
  """Return the number of steps in the log."""
  path = workdir / "metrics.jsonl"
  return path.read_text().count('"loss"') if path.exists() else 0


def log_state(workdir: pathlib.Path) -> tuple[int, int]:
  """Return a value that changes with each record and when a start rewrites the log."""
  path = workdir / "metrics.jsonl"
  return (path.stat().st_ino, path.stat().st_size) if path.exists() else (0, 0)


def flip_a_bit(workdir: pathlib.Path, rng: random.Random) -> None:
  """Damage the newest checkpoint."""
  newest = list(checkpoints(workdir).values())[-1]
  path = rng.choice([path for path in sorted(newest.rglob("*")) if path.is_file()])
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def moment(aim: str, workdir: pathlib.Path, rng: random.Random, seconds: float):
  """Return the condition on which to kill a process, and the maximum delay after it in seconds."""
  began, done, aside = time.monotonic(), steps_done(workdir), set_aside(workdir)
  sound = max(checkpoints(workdir), default=0)
  target = sound + EVERY * rng.randint(1, 3)  # one of the next three saves

  def final(step):
    return (workdir / saved_checkpoints.FOLDER / str(step)).exists()

  def with_checksums(step):
    return (workdir / saved_checkpoints.FOLDER / str(step) / checksums.NAME).exists()

  after = began + seconds * (rng.uniform(0, 0.6) if aim == "start" else rng.uniform(0.6, 1.1))
  return {
    "start": (lambda: time.monotonic() > after, 0),
    "restore": (lambda: time.monotonic() > after, 0),
    "step": (lambda: sound + 1 <= steps_done(workdir) != done, 0.1),
    "begin": (lambda: steps_done(workdir) >= target, 0.01),
    "write": (lambda: final(target) or in_the_making(workdir), 0.15),
    "rename": (lambda: final(target), 0.01),
    "delete": (lambda: with_checksums(target), 0.002),
    "aside": (lambda: set_aside(workdir) > aside, 0.005),
  }[aim]


def last_begun(done: int) -> int:
  """Return the step of the last save that must have started after this number of steps."""
  return max(0, done - 1) // EVERY * EVERY


def phase(aim: str, workdir: pathlib.Path, started: bool, aside: int) -> str:
  """Return the phase in which the process was killed, from the files that it left."""
  finals, making = checkpoints(workdir), in_the_making(workdir)
  cut = [s for s, path in finals.items() if not (path / checksums.NAME).exists()]
  best = {max(scores)[1] for scores in [[(r[2], -r[0]) for r in records_of_map(workdir)]] if scores}
  stale = [s for s in list(finals)[:-2] if -s not in best]
  if aim == "aside" and (set_aside(workdir) > aside or not started):
    return "a damaged one being set aside"
  if not started:
    return "start and restore"
  if cut and cut[-1] == max(finals):
    return "between the rename and the checksums"
  if making:
    last = any((path / "commit_success.txt").exists() for path in making)
    return "between the last write and the rename" if last else "files being written"
  if cut or stale:
    return "an old checkpoint being deleted"
  done = steps_done(workdir)
  due = done if done % EVERY == 0 else last_begun(done)
  return "before the save, arrays being copied" if due not in finals else "between two saves"


def records_of_map(workdir: pathlib.Path) -> list:
  """Return the evaluations in the log whose checkpoint exists."""
  if not (workdir / "metrics.jsonl").exists():
    return []
  return [r for r in records(workdir) if "mAP" in r[1] and r[0] in checkpoints(workdir)]


def life(aim: str, arguments: list[str], workdir: pathlib.Path, rng, seconds: float):
  """Start the command and kill it.

  Returns the kill, or None if the command ended first, and the seconds until training started, or
  None.
  """
  aside, before = set_aside(workdir), log_state(workdir)
  if aim == "aside":
    *_, spare, newest = [-math.inf, -math.inf, *checkpoints(workdir)]
    if newest - spare > EVERY:  # there is no older checkpoint to fall back to after an earlier flip
      aim = "step"
    else:
      flip_a_bit(workdir, rng)
  condition, delay = moment(aim, workdir, rng, seconds)
  began, trained = time.monotonic(), None
  most = max(checkpoints(workdir), default=0) + 3 * EVERY  # enough steps for each aim
  process = start(*arguments, **ENVIRONMENT)
  while process.poll() is None:
    if trained is None and log_state(workdir) != before:
      trained = time.monotonic() - began
    if trained is not None and steps_done(workdir) > most:
      break
    # Before training starts, the files are those of earlier processes.
    if (trained is not None or aim in ("start", "restore", "aside")) and condition():
      break
    time.sleep(0.0003)
  time.sleep(rng.uniform(0, delay))
  process.kill()
  _, errors = process.communicate()
  assert process.returncode in (0, -signal.SIGKILL), errors
  assert "Traceback" not in errors, errors
  if process.returncode == 0:
    return None, trained
  started = log_state(workdir) != before
  what = phase(aim, workdir, started, aside)
  sound = saved_checkpoints.newest_verified(workdir)
  sound = -1 if sound is None else sound
  done = steps_done(workdir) if started else sound
  return Kill(aim, what, done, sound, max(0, done - max(0, sound))), trained


def check(kill: Kill, before: int, workdir: pathlib.Path) -> None:
  """Fail if anything is lost that was done before the last complete save."""
  steps = [r[0] for r in records_of_loss(workdir)]
  assert steps == list(range(1, len(steps) + 1)), f"{kill}: the log has {steps}"
  if kill.phase == "a damaged one being set aside":
    assert kill.sound >= before - EVERY, f"{kill}: it began at {before}"
  else:
    assert kill.sound >= before, f"{kill}: it began at {before}"
    # A save only starts after the previous save has ended.
    assert kill.sound >= last_begun(kill.done) - EVERY, f"{kill}: an ended save is lost"
    if kill.phase == "between two saves":
      assert kill.lost <= EVERY, f"{kill}: more than the interval is lost"


def records_of_loss(workdir: pathlib.Path) -> list:
  """Return the training steps in the log."""
  if not (workdir / "metrics.jsonl").exists():
    return []
  return [record for record in records(workdir) if "loss" in record[1]]


def finish(arguments: list[str]) -> None:
  """Run the command to its end."""
  process = start(*arguments, **ENVIRONMENT)
  _, errors = process.communicate()
  assert process.returncode == 0, errors


def sweep(folder: pathlib.Path, kills: int, seed: int, steps: int, say=lambda line: None):
  """Run the sweep and return the kills.

  Fails if a kill loses too much, or the runs end with different bits.
  """
  rng = random.Random(seed)
  tiny_config(folder)
  finish(command(folder, folder / "undisturbed", steps))
  workdir, arguments = folder / "killed", command(folder, folder / "killed", steps)
  seconds, before, met = 8.0, -1, []
  order = list(AIMS) * (kills // len(AIMS) + 1)
  rng.shuffle(order)
  while len(met) < kills:
    kill, trained = life(order[len(met)], arguments, workdir, rng, seconds)
    assert kill is not None, f"the run ended after {len(met)} kills: take more steps"
    seconds = seconds if trained is None else trained
    check(kill, before, workdir)
    # The next process must resume from there. Later records are removed from the log.
    before = kill.sound
    met.append(kill)
    say(f"{len(met)}/{kills} {kill}")
  finish(arguments)
  same_end(folder)
  return met


def same_end(folder: pathlib.Path) -> None:
  """Fail unless both runs ended with the same bits, the same log and valid checkpoints."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings about checkpoints moved aside at the last start
    one, other = saved(folder / "killed"), saved(folder / "undisturbed")
  assert one.step == other.step
  assert same_bits(one.state, other.state), "the parameters or the optimiser differ"
  assert one.history == other.history
  assert records(folder / "killed") == records(folder / "undisturbed")
  assert list(checkpoints(folder / "killed")) == list(checkpoints(folder / "undisturbed"))
  for step in checkpoints(folder / "killed"):
    saved_checkpoints.verify_checkpoint(folder / "killed", step)


def table(kills: list[Kill]) -> str:
  """Return a Markdown table of the phases, the kills, and the maximum and mean of lost steps."""
  groups = collections.defaultdict(list)
  for kill in kills:
    groups[kill.phase].append(kill.lost)
  groups["all"] = [kill.lost for kill in kills]
  lines = ["| under way | kills | steps lost, most | mean |", "|---|---:|---:|---:|"]
  for name, lost in sorted(groups.items(), key=lambda item: (item[0] == "all", item[0])):
    lines.append(f"| {name} | {len(lost)} | {max(lost)} | {sum(lost) / len(lost):.2f} |")
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=200, help="number of kills")
  parser.add_argument("--seed", type=int, default=0, help="random seed")
  parser.add_argument(
    "--steps", type=int, default=0, help="number of steps of the run; 0 means ten per kill"
  )
  parser.add_argument(
    "--folder", type=pathlib.Path, required=True, help="empty folder for the runs"
  )
  parser.add_argument(
    "--out", type=pathlib.Path, help="file for one JSON line per kill and the table"
  )
  options = parser.parse_args()
  options.folder.mkdir(parents=True, exist_ok=True)
  began = time.monotonic()
  steps = options.steps or 10 * options.kills + 60
  kills = sweep(
    options.folder, options.kills, options.seed, steps, lambda line: print(line, flush=True)
  )
  reported = (
    f"{len(kills)} kills, seed {options.seed}, {steps} steps, a save every {EVERY}: "
    f"{time.monotonic() - began:.0f} s; the same bits as undisturbed\n\n{table(kills)}\n"
  )
  print(reported)
  if options.out:
    options.out.write_text("".join(json.dumps(k._asdict()) + "\n" for k in kills) + "\n" + reported)


if __name__ == "__main__":
  sys.exit(main())
