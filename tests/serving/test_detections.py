"""Detections from timelines, and their output."""

import csv
import json
import shutil

import numpy as np
import pytest
from runs_support import VOCABULARY, trained, wav, waveforms

from atgcn_jax import cli
from atgcn_jax.errors import UserError
from atgcn_jax.serving.detect_files import targets_of
from atgcn_jax.serving.detections import Rules, detections
from atgcn_jax.serving.timeline import Timeline, nearest_spans

LEAST = np.array([0.5, 0.8, np.nan, 0.5, 0.5, 0.5])


def line(scores):
  """Return a timeline of windows of 2 s, one per second, for scores [N] of the first labels."""
  columns = np.zeros((len(scores[0]), 6), np.float32)
  for k, column in enumerate(scores):
    columns[:, k] = column
  starts = np.arange(len(columns), dtype=float)
  return Timeline(starts, starts + 2, columns)


def spans(found, name="Hum"):
  return [(one.start_s, one.end_s) for one in found if one.name == name]


def test_each_row_stands_for_the_time_next_to_its_middle():
  starts, ends = nearest_spans(line([[0] * 3]))
  assert starts.tolist() == [0, 1.5, 2.5]
  assert ends.tolist() == [1.5, 2.5, 4]
  one = Timeline(np.array([0.0]), np.array([10.0]), np.zeros((1, 6), np.float32))
  assert [values.tolist() for values in nearest_spans(one)] == [[0], [10]]


def test_hysteresis_joins_rows_that_do_not_fall_below_the_release():
  scores = [0.1, 0.3, 0.9, 0.3, 0.6, 0.1, 0.3, 0.1, 0.6]
  found = detections(line([scores]), VOCABULARY, Rules(LEAST, release=0.5))
  assert spans(found) == [(1.5, 5.5), (8.5, 10)]
  assert [one.score for one in found] == pytest.approx([0.9, 0.6])
  strict = detections(line([scores]), VOCABULARY, Rules(LEAST, release=1.0))
  assert spans(strict) == [(2.5, 3.5), (4.5, 5.5), (8.5, 10)]
  long = detections(line([scores]), VOCABULARY, Rules(LEAST, release=0.5, seconds=2))
  assert spans(long) == [(1.5, 5.5)]


def test_labels_have_their_own_thresholds():
  found = detections(line([[0.7] * 3, [0.7] * 3, [0.9] * 3]), VOCABULARY, Rules(LEAST))
  assert {one.name for one in found} == {"Hum"}, "NaN is no threshold"


def test_nothing_above_the_thresholds_is_no_detection():
  assert not detections(line([[0.4] * 5]), VOCABULARY, Rules(LEAST))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sounds")
  return wav(folder / "a.wav", np.concatenate(list(waveforms(3, 9)[0])))


def detect(*arguments):
  return cli.main(["detect", "--workdir", str(trained()), *map(str, arguments)])


def test_csv_and_json_lines_agree(sound, tmp_path, capsys):
  assert detect("--min-score", 0.2, sound) == 0
  printed = list(csv.DictReader(capsys.readouterr().out.splitlines()))
  assert printed
  assert detect("--min-score", 0.2, "--format", "jsonl", "--out", tmp_path / "d.jsonl", sound) == 0
  lines = [json.loads(text) for text in (tmp_path / "d.jsonl").read_text().splitlines()]
  assert [(row["display_name"], float(row["start_s"])) for row in printed] == [
    (one["name"], round(one["start_s"], 3)) for one in lines
  ]
  for one in lines:
    assert 0 <= one["start_s"] < one["end_s"] <= 3
    assert one["score"] >= 0.2


def test_a_table_per_sound_for_raven_and_audacity(sound, tmp_path):
  for kind, ending in (("raven", ".selections.txt"), ("audacity", ".labels.txt")):
    assert detect("--min-score", 0.2, "--format", kind, "--out", tmp_path, sound) == 0
    rows = [line.split("\t") for line in (tmp_path / f"a.wav{ending}").read_text().splitlines()]
    if kind == "raven":
      assert rows[0][:5] == ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"]
      assert rows[1][0] == "1"
      assert rows[1][6] == "2000.0", "the highest frequency that the system hears"
      rows = [row[3:5] for row in rows[1:]]
    assert all(0 <= float(row[0]) < float(row[1]) <= 3 for row in rows)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--min-score", "0"), "--min-score 0: must be above 0"),
    (("--release", "1.5"), "--release 1.5: must be above 0 and at most 1"),
    (("--min-seconds", "nan"), "--min-seconds nan: must be at least 0"),
    (("--format", "raven"), "--format raven: writes a file per sound"),
    (("--out", "missing/d.csv"), "cannot be written"),
    (("--hop-seconds", "-1"), "--hop-seconds -1: must be above 0"),
  ],
)
def test_mistakes_end_in_one_line(sound, tmp_path, monkeypatch, capsys, arguments, message):
  monkeypatch.chdir(tmp_path)
  assert detect(*arguments, sound) == 2
  printed = capsys.readouterr()
  assert message in printed.err
  assert printed.err.count("\n") == 1
  assert not printed.out


@pytest.mark.filterwarnings("default")
def test_thresholds_of_another_step_are_reported_once(sound, tmp_path, capsys):
  run = shutil.copytree(trained(), tmp_path / "run")
  (run / "thresholds.json").write_text('{"step": 7, "labels": {"/m/0": {"threshold": 0.3}}}')
  command = ["detect", "--workdir", str(run), str(sound), str(sound)]
  assert cli.main(command) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert "the thresholds were tuned at step 7, but this is step 30; tune them again" in line
  assert cli.main([*command, "--min-score", "0.2"]) == 0
  assert capsys.readouterr().err == ""


def test_no_two_sounds_share_a_table(tmp_path):
  def name(*sounds, out=tmp_path, tables=()):
    paths = targets_of(sounds, "raven", str(out), tables).values()
    return [path.name.removesuffix(".selections.txt") for path in paths]

  assert name("s/a.ogg", "s/b.ogg") == ["a.ogg", "b.ogg"]
  assert name("s/a/c.ogg", "s/b/c.ogg") == ["s_a_c.ogg", "s_b_c.ogg"]
  assert name("s/a.ogg", "./s/a.ogg") == ["s_a.ogg"] * 2, "the same sound twice"
  message = r"--out .*: s/a/b/c\.ogg and s/a_b/c\.ogg would both be written to s_a_b_c\.ogg\.sel"
  with pytest.raises(UserError, match=message):
    name("s/a/b/c.ogg", "s/a_b/c.ogg")
  table = tmp_path / "a.ogg.selections.txt"
  table.touch()
  for tables in (tmp_path, table):
    with pytest.raises(UserError, match=r"a\.ogg\.selections\.txt is one of the tables of --score"):
      name("s/a.ogg", tables=[str(tables)])


def test_the_version(capsys):
  with pytest.raises(SystemExit) as stopped:
    cli.main(["--version"])
  assert stopped.value.code == 0
  assert capsys.readouterr().out.startswith("atgcn_jax ")
