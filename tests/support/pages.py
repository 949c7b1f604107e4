"""The pages of the project and the `atgcn` commands in them."""

import pathlib
import re
import shlex

from runs_support import REPOSITORY

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
OMITTED = "…"  # marks a command with omitted parts
PLACEHOLDERS = {"K": "60", "$OMPI_COMM_WORLD_RANK": "0"}  # placeholders and their values
MEASURING = ("bench", "plan", "reproduce")  # run by test_docs_studies.py, others by test_docs_runs
# Commands that cannot run as they are, and the tests that run them in another way.
ELSEWHERE = {
  ".* gs://": "runtime/test_buckets.py",
  "train .* --workdir DIR": "runtime/test_processes.py",  # one of several processes
  # These need published weights.
  "(tag|embed) .*--model": "pretrained/test_pretrained.py",
  r"tag recording\.wav$": "pretrained/test_pretrained.py",
  "models get": "pretrained/test_pretrained.py",
  ".* runs/mn10": "interop/test_import_torch.py",
  "prepare --frontend efficientat .*--seconds": "data/test_label_folders.py",
  "(tag|evaluate) .*--add-labels": "serving/test_added_labels.py",
  "tag .*--explain": "serving/test_explain.py",
  "reproduce (unseen|few|forgotten)": "paper/test_unseen.py",
  ".* runs/mn04": "serving/test_own_length.py",
  "serve ": "serving/test_serve.py",  # until a signal ends it
  "tfds --audio": "data/test_tfds.py",  # in Apache Beam's environment
}


def name_of(page: pathlib.Path) -> str:
  """Return the path of a page within the repository."""
  return page.relative_to(REPOSITORY).as_posix()


def commands(page: pathlib.Path) -> list[list[str]]:
  """Return the words after `atgcn` of each command, also inside launchers and sentences."""
  text = page.read_text()
  blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
  shell = "".join(block for language, block in blocks if language in ("", "sh"))
  lines = shell.replace("\\\n", " ").splitlines()
  prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
  # In a sentence, a command without an option and its value is only a name.
  lines += re.findall(r"`(atgcn [a-z][^`]* --[a-z-]+ [^`-][^`]*)`", prose)
  found = [re.search(r"(?:^|[ /])atgcn ([a-z].*)", line.split("bash -c '")[-1]) for line in lines]
  given = [match[1].rstrip("'") for match in found if match and OMITTED not in match[0]]
  return [
    [PLACEHOLDERS.get(word, word.replace("DTYPE", "bfloat16")) for word in words]
    for words in (shlex.split(command, comments=True) for command in given)
  ]


def run_elsewhere(words: list[str]) -> list[str]:
  """Return the entries of ELSEWHERE that match a command."""
  return [pattern for pattern in ELSEWHERE if re.match(pattern, " ".join(words))]


def to_run(page: pathlib.Path, measuring: bool) -> list[list[str]]:
  """Return the commands of a page that one of the two test files runs."""
  here = [words for words in commands(page) if not run_elsewhere(words)]
  return [words for words in here if (words[0] in MEASURING) == measuring]
