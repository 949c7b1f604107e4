"""Scores of detections against tables of events."""

import json

import numpy as np
import pytest
from runs_support import FRONTEND, VOCABULARY, trained, wav, waveforms

from atgcn_jax import cli
from atgcn_jax.errors import UserError
from atgcn_jax.serving.detection_scores import Reference, score_detections, scores_text
from atgcn_jax.serving.detections import Detection

SOUNDS = ["x/a.wav", "x/b.wav", "y/c.wav"]
CSV = """filename,onset,offset,label
a.wav,0.5,1.5,Hum
a.wav,3.0,4.0,hum
a.wav,3.0,5.0,/m/1
x/b.wav,,,
y/c.wav,1,2,Bark
other.wav,1,2,Hum
"""


def reference(folder, text=CSV, name="events.csv"):
  (folder / name).write_text(text)
  return Reference([str(folder / name)], SOUNDS, VOCABULARY)


def test_events_of_known_labels_and_sounds(tmp_path):
  found = reference(tmp_path)
  assert found.labels == [0, 1]
  assert found.events == {
    "x/a.wav": {0: [(0.5, 1.5), (3.0, 4.0)], 1: [(3.0, 5.0)]},
    "x/b.wav": {},
    "y/c.wav": {},
  }
  assert found.remarks() == [
    "left out: 1 event of labels that the system does not have: Bark",
    "1 file of the tables is not among the sounds: other.wav",
  ]


def test_names_are_the_ends_of_paths(tmp_path):
  text = "filename,onset,offset,label\n/data/x/a.wav,0,1,Hum\nz/b.wav,1,2,Hum\ny/c,2,3,Hum\n"
  found = reference(tmp_path, text)
  assert found.events == {"x/a.wav": {0: [(0, 1)]}, "y/c.wav": {0: [(2, 3)]}}
  assert [*found.absent] == ["z/b.wav"]


def test_scores(tmp_path):
  detected = {
    "x/a.wav": [
      Detection(0.6, 1.1, "/m/0", "Hum", 0.9),  # onset and offset fit
      Detection(3.1, 9.0, "/m/0", "Hum", 0.9),  # the onset only
      Detection(0.0, 5.0, "/m/5", "Squeak", 0.9),  # not in the tables
    ],
    "x/b.wav": [Detection(0.0, 1.0, "/m/1", "Drone", 0.9)],
    "y/c.wav": [],
  }
  result = score_detections(detected, reference(tmp_path), VOCABULARY)
  hum, drone = result["labels"]["/m/0"], result["labels"]["/m/1"]
  assert list(result["labels"]) == ["/m/0", "/m/1"]

  def counts(scores):
    return tuple(scores[name] for name in ("hits", "false_alarms", "misses"))

  assert counts(hum["segment"]) == (3, 5, 0)
  assert counts(hum["event"]) == (1, 1, 1)
  assert counts(hum["onset"]) == (2, 0, 0)
  assert counts(drone["segment"]) == (0, 1, 2)
  assert counts(drone["event"]) == counts(drone["onset"]) == (0, 1, 1)
  assert counts(result["overall"]["onset"]) == (2, 1, 1)
  assert result["overall"]["onset"]["f1"] == pytest.approx(4 / 6)
  assert result["overall"]["onset"]["mean_f1"] == pytest.approx(0.5)
  assert result["sounds"] == 3
  lines = scores_text(result).splitlines()
  assert lines[2].split() == ["0.429", "0.333", "0.667", "all", "together"]
  assert lines[4].split() == ["0.545", "0.500", "1.000", "Hum"]
  # A wider collar.
  wide = score_detections(detected, reference(tmp_path), VOCABULARY, collar=5.0)
  assert counts(wide["labels"]["/m/0"]["event"]) == (2, 0, 0)


def test_tables_without_files_belong_to_the_sound_of_their_name(tmp_path):
  (tmp_path / "a.labels.txt").write_text("0.5\t1.5\tHum\n")
  (tmp_path / "b.wav.txt").write_text("1\t2\tDrone\n")
  raven = "Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n1\t0.5\t1.0\tHum\n"
  (tmp_path / "c.Table.1.selections.txt").write_text(raven)
  found = Reference([str(tmp_path)], SOUNDS, VOCABULARY)
  assert found.events == {
    "x/a.wav": {0: [(0.5, 1.5)]},
    "x/b.wav": {1: [(1.0, 2.0)]},
    "y/c.wav": {0: [(0.5, 1.0)]},
  }
  assert not found.remarks()


def test_detections_in_sounds_with_an_empty_table_are_false_alarms(tmp_path):
  (tmp_path / "a.txt").write_text("0\t1\tHum\n")
  (tmp_path / "b.txt").touch()
  (tmp_path / "c.selections.txt").write_text("Begin Time (s)\tEnd Time (s)\tAnnotation\n")
  found = Reference([str(tmp_path)], SOUNDS, VOCABULARY)
  assert not found.remarks()
  detected = {sound: [Detection(0.0, 1.0, "/m/0", "Hum", 0.9)] for sound in SOUNDS}
  result = score_detections(detected, found, VOCABULARY)
  assert result["sounds"] == 3
  assert result["overall"]["event"]["false_alarms"] == 2
  # A table with a column of files may be of any recordings.
  (tmp_path / "c.selections.txt").unlink()
  (tmp_path / "c.csv").write_text("filename,onset,offset,label\n")
  assert Reference([str(tmp_path)], SOUNDS, VOCABULARY).events.keys() == {"x/a.wav", "x/b.wav"}


def test_dots_in_the_names_of_tables(tmp_path):
  sounds = ["x/site.2020-01-31.wav", "x/._a.wav"]
  (tmp_path / "site.2020-01-31.wav.labels.txt").write_text("0.5\t1.5\tHum\n")
  (tmp_path / "._a.txt").write_text("1\t2\tDrone\n")
  found = Reference([str(tmp_path)], sounds, VOCABULARY)  # without the hidden table
  assert found.events == {sounds[0]: {0: [(0.5, 1.5)]}}
  assert Reference([str(tmp_path / "._a.txt")], sounds, VOCABULARY).events.keys() == {sounds[1]}
  with pytest.raises(UserError, match=r"other files: \._a\.txt"):
    Reference([str(tmp_path / "._a.txt")], sounds[:1], VOCABULARY)


def test_of_sounds_of_one_name_that_in_the_folder_of_the_table_counts(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for folder in ("x", "y"):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.txt").write_text("0.5\t1.5\tHum\n")
  found = Reference(["y", "x/a.txt"], ["x/a.wav", "y/a.wav"], VOCABULARY)
  assert found.events.keys() == {"x/a.wav", "y/a.wav"}


def test_tables_that_cannot_be_used(tmp_path):
  with pytest.raises(UserError, match=r"no event of a known label .*; other files: d\.txt"):
    reference(tmp_path, "0.5\t1.5\tHum\n", "d.txt")
  with pytest.raises(UserError, match=r"no event of a known label .*; unknown labels: Bark"):
    reference(tmp_path, "filename,onset,offset,label\na.wav,0,1,Bark\n")
  with pytest.raises(UserError, match=r"no event of a known label .*; other files: d.wav"):
    reference(tmp_path, "filename,onset,offset,label\nd.wav,0,1,Hum\n")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"has no \.txt, \.csv, \.tsv"):
    Reference([str(tmp_path / "empty")], SOUNDS, VOCABULARY)


def test_the_command(tmp_path, capsys):
  sound = wav(tmp_path / "a.wav", np.concatenate(list(waveforms(3, 9)[0])))
  command = ["detect", "--workdir", str(trained()), "--min-score", "0.2"]
  assert cli.main([*command, str(sound)]) == 0
  rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
  # Detections score perfectly against themselves.
  (tmp_path / "a.txt").write_text("".join(f"{row[1]}\t{row[2]}\t{row[4]}\n" for row in rows))
  (tmp_path / "b.csv").write_text("filename,onset,offset,label\nb.wav,0,1,Hum\n")
  command += ["--score", str(tmp_path / "a.txt"), "--score", str(tmp_path / "b.csv")]
  out = tmp_path / "detections.csv"
  assert cli.main([*command, "--json", "--out", str(out), str(sound)]) == 0
  printed = capsys.readouterr()
  assert "1 file of the tables is not among the sounds: b.wav" in printed.err
  result = json.loads(printed.out)
  assert result["overall"]["event"]["f1"] == 1
  assert result["overall"]["segment"]["mean_f1"] == 1
  assert len(out.read_text().splitlines()) == len(rows) + 1
  assert cli.main([*command, "--format", "raven", str(sound)]) == 0
  assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["1.000"] * 3
  assert FRONTEND.seconds == 1
  assert cli.main([*command, "--collar", "-1", str(sound)]) == 2
  assert "--collar -1: must be at least 0" in capsys.readouterr().err
  assert cli.main([*command[:5], "--json", str(sound)]) == 2
  assert "--json: only valid with --score" in capsys.readouterr().err
