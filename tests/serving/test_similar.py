"""Embeddings of windows, nearest clips, and suggestions for labelling."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from runs_support import FRONTEND, make_store, trained, wav, waveforms

from atgcn_jax import Tagger, cli
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.serving.embed_files import Embedded, read_embedded, write_embedded
from atgcn_jax.serving.similar import find_rows, nearest
from atgcn_jax.serving.suggestions import entropy_bits, suggestions

RATE = FRONTEND.sample_rate


@pytest.fixture(scope="module")
def tagger():
  return Tagger.restore(trained())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Return a folder with five sounds of one second and one of 2.5 seconds."""
  folder = tmp_path_factory.mktemp("sounds")
  sounds, _ = waveforms(8, 0)
  for k in range(5):
    wav(folder / f"{k}.wav", sounds[k])
  wav(folder / "long.wav", np.concatenate(sounds[5:8])[: 5 * RATE // 2])
  return folder


def run(*words):
  return cli.main([*map(str, words)])


def test_each_window_has_an_embedding(tagger, folder, tmp_path, capsys):
  out = tmp_path / "windows.npz"
  command = ("embed", "--workdir", trained(), "--out", out, "--windows", "--hop-seconds", 0.5)
  assert run(*command, folder / "0.wav", folder / "long.wav") == 0
  assert capsys.readouterr().out == f"{out}: 2 files\n"
  found = read_embedded(out)
  assert found.file.tolist() == [str(folder / "0.wav"), *[str(folder / "long.wav")] * 4]
  assert found.start_s.tolist() == [0, 0, 0.5, 1, 1.5]
  assert found.end_s.tolist() == [1, 1, 1.5, 2, 2.5]
  assert found.checkpoint == tagger.checkpoint()
  windows = tagger.embed_windows(folder / "long.wav", hop_seconds=0.5)
  np.testing.assert_allclose(found.embedding[1:], windows.embeddings, atol=1e-5)
  sound = np.concatenate(waveforms(8, 0)[0][5:8])
  np.testing.assert_allclose(windows.embeddings[2], tagger.embed(sound[RATE : 2 * RATE]), atol=1e-5)


EMBEDDED = Embedded(
  np.array([[1, 0], [3, 0.1], [0, 2], [1, 1], [-1, 0]], np.float32),
  np.array(["a/1.wav", "a/2.wav", "a/3.wav", "b/1.wav", "b/4.wav"]),
)
WINDOWS = EMBEDDED._replace(
  file=np.array(["x.wav", "x.wav", "x.wav", "y.wav", "y.wav"]),
  start_s=np.array([0.0, 1, 2, 0, 1]),
  end_s=np.array([2.0, 3, 4, 2, 3]),
)


def test_the_nearest_have_the_highest_cosine():
  found = nearest(EMBEDDED, np.array([2, 0], np.float32), 3, without=np.arange(5) == 0)
  assert [one.file for one in found] == ["a/2.wav", "b/1.wav", "a/3.wav"]
  expected = [3 / np.hypot(3, 0.1), 1 / np.sqrt(2), 0]
  assert [one.similarity for one in found] == pytest.approx(expected, abs=1e-6)
  assert found[0].start_s is None
  assert len(nearest(EMBEDDED, EMBEDDED.embedding[0], 9, without=np.arange(5) < 2)) == 3


def test_embedded_files_are_found_by_path_or_name():
  assert find_rows(EMBEDDED, "a/1.wav").tolist() == [0]
  assert find_rows(EMBEDDED, "./a/../a/1.wav").tolist() == [0]
  assert find_rows(EMBEDDED, "2.wav").tolist() == [1]
  assert find_rows(EMBEDDED, "other.wav").tolist() == []
  assert find_rows(EMBEDDED, "2.wav@1").tolist() == []  # no windows
  with pytest.raises(UserError, match=r"1.wav: 2 embedded files .* a/1.wav and b/1.wav"):
    find_rows(EMBEDDED, "1.wav")


def test_a_window_is_found_by_its_time():
  assert find_rows(WINDOWS, "x.wav").tolist() == [0, 1, 2]
  assert find_rows(WINDOWS, "x.wav@1.9").tolist() == [1]
  assert find_rows(WINDOWS, "y.wav@3").tolist() == [4]
  assert find_rows(WINDOWS, "x.wav@soon").tolist() == []
  assert find_rows(WINDOWS, "z.wav@1").tolist() == []
  with pytest.raises(UserError, match=r"no window of x\.wav is at 9 seconds"):
    find_rows(WINDOWS, "x.wav@9")


@pytest.fixture(scope="module")
def vectors(folder):
  """Return the embeddings of all files but one."""
  out = folder.parent / "vectors.npz"
  files = [folder / name for name in ("1.wav", "2.wav", "3.wav", "4.wav", "long.wav")]
  assert run("embed", "--workdir", trained(), "--out", out, *files) == 0
  return out


def test_similar(vectors, folder, tagger, tmp_path, capsys):
  capsys.readouterr()
  table = tmp_path / "similar.csv"
  command = ("similar", "--embeddings", vectors, "--top", 2)
  # An embedded file needs no system; another sound is embedded with the system of the others.
  assert run(*command, "--json", "1.wav") == 0
  (inside,) = map(json.loads, capsys.readouterr().out.splitlines())
  clips = ("1.wav", folder / "0.wav")
  assert run(*command, "--csv", table, "--workdir", trained(), *clips) == 0
  with table.open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["clip"] for row in rows] == ["1.wav", "1.wav", *[str(folder / "0.wav")] * 2]
  assert [row["file"] for row in rows[:2]] == [one["file"] for one in inside["similar"]]
  files = [folder / name for name in ("1.wav", "2.wav", "3.wav", "4.wav", "long.wav")]
  known, new = np.array(tagger.embed(files)), tagger.embed(folder / "0.wav")
  cosines = known @ new / np.linalg.norm(known, axis=1) / np.linalg.norm(new)
  best = np.argsort(-cosines)[:2]
  assert [row["file"] for row in rows[2:]] == [str(files[k]) for k in best]
  assert [float(row["similarity"]) for row in rows[2:]] == pytest.approx(cosines[best], abs=1e-4)
  assert str(folder / "1.wav") not in [row["file"] for row in rows[:2]]
  assert run(*command, "1.wav") == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "1.wav"
  assert len(lines) == 3


def test_similar_to_what_cannot_be_embedded(vectors, folder, capsys):
  command = ("similar", "--embeddings", vectors)
  for words, reason in (
    ((folder / "0.wav",), "give the --workdir or --model"),
    (("nothing.wav",), "neither in"),
    (("--workdir", trained(), "--step", "best", folder / "0.wav"), "made with another checkpoint"),
  ):
    capsys.readouterr()
    assert run(*command, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  """Return a store whose clips have the waveforms of the sound files."""
  return make_store(tmp_path_factory.mktemp("store") / "clips.h5", clips=9)


def test_similar_clips_of_a_store(store, tagger, tmp_path, capsys):
  sounds, _ = waveforms(9, 0)
  path = wav(tmp_path / "new.wav", sounds[4])
  # The clips of the store are quantised to 8 bits.
  vectors = tagger.embed_clips(open_store(store))
  np.testing.assert_allclose(vectors, tagger.embed(list(sounds)), rtol=0.05, atol=0.1)
  command = ("similar", "--store", store, "--workdir", trained(), "--top", 3, "--json")
  capsys.readouterr()
  assert run(*command, "clip4", path) == 0
  clip, file = map(json.loads, capsys.readouterr().out.splitlines())
  cosines = vectors @ vectors[4] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[4])
  order = [f"clip{k}" for k in np.argsort(-cosines)]
  assert order[0] == "clip4"
  assert [one["file"] for one in clip["similar"]] == order[1:4]
  assert file["similar"][0]["file"] == "clip4"
  assert file["similar"][0]["similarity"] == pytest.approx(1, abs=1e-2)


def test_similar_in_stores_that_do_not_fit(store, tmp_path, capsys):
  other = dataclasses.replace(FRONTEND, fmin=100.0, name="other")
  unfit = make_store(tmp_path / "unfit.h5", clips=4, frontend=other)
  broken = make_store(tmp_path / "broken.h5", clips=4, dtype="float16", broken=True)
  for options, status, reason in (
    (("--store", store), 2, "needs the --workdir or --model"),
    (("--embeddings", "x.npz", "--step", "best"), 2, "--step: only valid with --workdir or --mod"),
    (("--embeddings", "x.npz", "--offline"), 2, "--offline: only valid with --workdir or --model"),
    (("--embeddings", "x.npz", "--mirror", tmp_path), 2, "--mirror: only valid with --workdir"),
    (("--store", unfit, "--workdir", trained()), 2, "front end other, but the run needs tiny"),
    (("--store", broken, "--workdir", trained()), 2, "broken.h5"),
    (("--store", tmp_path / "none.h5", "--workdir", trained()), 2, "no such clip store"),
    (("--store", store, "--workdir", trained()), 2, "x: neither in"),
  ):
    capsys.readouterr()
    assert run("similar", *options, "x") == status
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"embedding": np.zeros(5)}, r"float\[N, C\]"),
    ({"embedding": np.full((5, 2), np.nan)}, "NaN"),
    ({"file": np.array(["a"])}, "one text per embedding"),
    ({"start_s": np.zeros(5)}, "one number per embedding"),
  ],
)
def test_other_files_are_refused(tmp_path, changes, reason):
  write_embedded(tmp_path / "a.npz", EMBEDDED._replace(**changes))
  with pytest.raises(UserError, match=reason):
    read_embedded(tmp_path / "a.npz")


def test_entropy():
  scores = np.array([[0.5, 0.5], [0, 1], [0.25, 1]])
  quarter = 0.25 * 2 + 0.75 * np.log2(4 / 3)
  np.testing.assert_allclose(entropy_bits(scores), [2, 0, quarter])


def test_suggestions_are_uncertain_and_apart():
  scores = np.array([[0.5, 0.5], [0.5, 0.45], [0.9, 0.5], [0.01, 0.01]], np.float32)
  vectors = np.array([[1, 0], [2, 0.1], [0, 1], [0, 3]], np.float32)
  found = suggestions(scores, vectors, 3)
  # Clip 1 is as uncertain as clip 0, but almost the same sound.
  assert [one.position for one in found] == [0, 2, 1]
  assert [one.distance for one in found] == pytest.approx(
    [1, 1, 1 - 2 / np.hypot(2, 0.1)], abs=1e-6
  )
  assert found[0].uncertainty_bits == pytest.approx(2)
  assert [one.position for one in suggestions(scores, vectors, 9)] == [0, 2, 1, 3]


def test_the_command_suggests(tagger, folder, tmp_path, capsys):
  names = sorted(str(path) for path in folder.iterdir())
  scores, vectors = np.array(tagger.scores(names)), np.array(tagger.embed(names))
  expected = [names[one.position] for one in suggestions(scores, vectors, 4)]
  command = ("suggest", "--workdir", trained(), "--top", 4)
  assert run(*command, "--json", folder) == 0
  found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [one["file"] for one in found] == expected
  assert found[0]["tags"][0]["id"] in tagger.vocabulary.ids
  table = tmp_path / "next.csv"
  assert run(*command, "--csv", table, folder) == 0
  printed = capsys.readouterr()
  assert printed.out == ""
  assert f"atgcn suggest: wrote {table}" in printed.err
  with table.open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["file"] for row in rows] == expected
  assert float(rows[0]["uncertainty_bits"]) == pytest.approx(found[0]["uncertainty_bits"], abs=1e-3)
  assert [path.name for path in tmp_path.iterdir()] == ["next.csv"]
  assert run(*command, folder) == 0
  assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == expected


def test_labelled_files_are_not_suggested(folder, tmp_path, capsys, monkeypatch):
  labels = tmp_path / "labels.csv"
  command = ("suggest", "--workdir", trained(), "--json", "--labels", labels)

  def suggested(*files):
    capsys.readouterr()
    assert run(*command, *files) == 0
    printed = capsys.readouterr()
    found = {json.loads(line)["file"] for line in printed.out.splitlines()}
    return found, printed.err.splitlines()[-1]

  # Names relative to the folder, to the current folder, and absolute; an empty field is a label.
  monkeypatch.chdir(folder.parent)
  names = ("1.wav", f"{folder.name}/./2.wav", folder / "long.wav", "absent.wav")
  labels.write_text("filename;positive_labels\n" + "".join(f"{name};\n" for name in names))
  expected = {str(folder / f"{k}.wav") for k in (0, 3, 4)}
  report = f"atgcn suggest: {labels}: 3 of 6 files are labelled and left out"
  assert suggested(folder) == (expected, report)
  relative = [f"{folder.name}/{name}" for name in ("0.wav", "1.wav")]
  assert suggested(*relative)[0] == {relative[0]}
  labels.write_text("filename,positive_labels\nother/1.wav,dog\n")
  found, report = suggested(folder)
  assert len(found) == 6
  assert "0 of 6 files" in report
  assert "relative to a folder" in report
  labels.write_text("filename,positive_labels\n1.wav,dog\n")
  assert run(*command, folder / "1.wav") == 2
  assert "names every file" in capsys.readouterr().err
