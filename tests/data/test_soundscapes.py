"""Built-in soundscapes: reproducible bits, labels by the known graph, distinguishable sounds."""

import csv
import json

import numpy as np
import pytest
import soundfile
from sklearn.ensemble import ExtraTreesClassifier

from atgcn_jax.data.synthetic.soundscapes import (
  CATEGORIES,
  CLIP_SECONDS,
  RATE,
  SOUNDS,
  clip_labels,
  draw_scene,
  render,
  scene_fold,
  scene_graph,
  soundscape_ontology,
  soundscape_vocabulary,
  with_ancestors,
  write_soundscapes,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import ancestors, read_ontology
from atgcn_jax.labels.vocabulary import read_vocabulary

SCENES = 3000


@pytest.fixture(scope="module")
def scenes():
  return [draw_scene(3, number) for number in range(SCENES)]


def test_labels_form_an_ontology_of_at_least_24_sounds():
  vocabulary, ontology = soundscape_vocabulary(), soundscape_ontology()
  assert len(SOUNDS) >= 24
  assert len(set(vocabulary.ids)) == len(vocabulary.ids) == len(SOUNDS) + len(CATEGORIES)
  assert [entry["id"] for entry in ontology] == list(vocabulary.ids)
  assert [entry["name"] for entry in ontology] == list(vocabulary.names)
  children = [child for entry in ontology for child in entry["child_ids"]]
  assert len(children) == len(set(children))
  assert set(children) <= set(vocabulary.ids)
  roots = {entry["name"] for entry in ontology} - {
    entry["name"] for entry in ontology if entry["id"] in children
  }
  assert roots == {name for name, parent in CATEGORIES.items() if parent is None}


def test_a_clip_is_positive_for_all_ancestors():
  vocabulary = soundscape_vocabulary()
  parent: dict[str, str] = {
    c: entry["id"] for entry in soundscape_ontology() for c in entry["child_ids"]
  }
  names = {vocabulary.names[k] for k in with_ancestors([0])}
  assert names == {"Plucked string", "String instrument", "Music"}
  for leaf in range(len(SOUNDS)):
    expected = {vocabulary.ids[leaf]}
    while expected != (wider := expected | {parent[k] for k in expected if k in parent}):
      expected = wider
    assert {vocabulary.ids[k] for k in with_ancestors([leaf])} == expected
  labels = with_ancestors([27, 3, 5])
  assert labels == sorted(set(labels))


def test_scene_graph_is_a_random_walk_with_three_companions_per_sound():
  graph = scene_graph(3)
  assert graph.shape == (len(SOUNDS), len(SOUNDS))
  assert graph.dtype == np.float64
  np.testing.assert_allclose(graph.sum(axis=1), 1)
  assert np.all(np.diag(graph) == 0)
  strong = graph > 0.05
  np.testing.assert_array_equal(strong, strong.T)
  np.testing.assert_array_equal(strong.sum(axis=1), 3)
  assert not np.allclose(graph, scene_graph(4))


def test_scenes_have_one_to_five_different_sounds_inside_the_clip(scenes):
  counts = np.bincount([len(scene) for scene in scenes], minlength=6)
  assert counts[0] == 0
  assert len(counts) == 6
  assert np.all(counts[1:] > 0.05 * SCENES)
  overlapping = 0
  for scene in scenes:
    assert len({event.label for event in scene}) == len(scene)
    for event in scene:
      assert 1 <= event.seconds <= 8
      assert 0 <= event.onset <= CLIP_SECONDS - event.seconds
    first = min(event.onset + event.seconds for event in scene)
    overlapping += max(event.onset for event in scene) < first and len(scene) > 1
  assert overlapping > 0.3 * SCENES
  occurrences = np.bincount([event.label for scene in scenes for event in scene])
  assert len(occurrences) == len(SOUNDS)
  assert occurrences.min() > 0.05 * SCENES


def test_labels_cooccur_according_to_the_known_graph(scenes):
  there = np.zeros((SCENES, len(SOUNDS)))
  for number, scene in enumerate(scenes):
    there[number, [event.label for event in scene]] = 1
  together = there.T @ there
  given = together / np.diag(together)[:, None]
  graph, off = scene_graph(3), ~np.eye(len(SOUNDS), dtype=bool)
  assert np.corrcoef(given[off], graph[off])[0, 1] > 0.85
  assert np.corrcoef(given[off], scene_graph(4)[off])[0, 1] < 0.5
  # Companions are well separated from the others, so a threshold on the counts recovers the graph.
  assert np.mean(given[graph > 0.05] > 0.3) > 0.95
  assert np.mean(given[off & (graph < 0.05)] < 0.3) > 0.99


def test_rendering_depends_only_on_seed_and_number():
  first, labels = render(5, 7)
  render(5, 8)
  again, labels_again = render(5, 7)
  assert first.tobytes() == again.tobytes()
  assert labels == labels_again == clip_labels(5, 7)
  assert labels == with_ancestors(event.label for event in draw_scene(5, 7))
  assert not np.array_equal(first, render(5, 8)[0])
  assert not np.array_equal(first, render(6, 7)[0])


def test_waveforms_are_valid():
  for number in range(40):
    waveform, labels = render(11, number)
    assert waveform.shape == (int(RATE * CLIP_SECONDS),)
    assert waveform.dtype == np.float32
    assert np.all(np.isfinite(waveform))
    assert 0.01 < np.max(np.abs(waveform)) < 1
    assert np.sqrt(np.mean(waveform**2)) > 1e-3
    assert labels


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: sound.name)
def test_every_instrument_fills_its_length(sound):
  for k, seconds in enumerate((0.5, 1.0, sound.longest) * 4):
    x = sound.instrument(np.random.default_rng(k), seconds, RATE)
    assert x.shape == (round(seconds * RATE),)
    assert x.dtype == np.float32
    assert np.all(np.isfinite(x))
    assert np.max(np.abs(x)) == pytest.approx(1, abs=1e-3)


def _log_spectrum(x):
  """Return the log power in 60 bands of an eighth of an octave, [T, 60]."""
  edges = np.geomspace(60, 8000, 61)
  frames = np.lib.stride_tricks.sliding_window_view(x, 1024)[::320] * np.hanning(1024)
  power = np.abs(np.fft.rfft(frames)) ** 2
  bands = np.digitize(np.fft.rfftfreq(1024, 1 / RATE), edges)
  pooled = np.stack([power[:, bands == k].sum(axis=1) for k in range(1, 61)], axis=1)
  return 10 * np.log10(pooled + 1e-5)


def _shape_and_course(x):
  """Return features that do not change when the spectrum is shifted in pitch."""
  bands = _log_spectrum(x)
  loudness = bands.max(axis=1)
  mean, deviation = bands.mean(axis=0), bands.std(axis=0)
  course = np.abs(np.fft.rfft((loudness - loudness.mean()) * np.hanning(len(loudness))))
  rhythm = [np.log(1 + part.mean()) for part in np.array_split(course[1:65], 16)]
  steps = np.diff(bands, axis=0)
  return np.concatenate(
    [
      np.sort(mean)[::-3],
      np.sort(deviation)[::-3],
      np.sort(bands.max(axis=0))[::-3],
      rhythm,
      np.percentile(loudness, (5, 25, 50, 75)) - loudness.max(),
      np.percentile(steps, (1, 10, 50, 90, 99)),
      np.percentile(np.diff(bands, axis=1), (1, 10, 90, 99)),
      [np.abs(np.diff(steps, axis=1)).mean(), np.median(np.ptp(bands, axis=1))],
    ]
  )


def _pitch(x):
  """Return quantiles of the strongest band over all frames."""
  bands = _log_spectrum(x)
  return np.percentile(bands.argmax(axis=1)[bands.max(axis=1) > bands.max() - 25], (10, 50, 90))


@pytest.mark.slow
def test_sounds_are_distinguished_by_timbre_and_course_rather_than_pitch():
  draws, train = 18, 12
  waves = [
    sound.instrument(np.random.default_rng((k, draw)), 3.0, RATE)
    for k, sound in enumerate(SOUNDS)
    for draw in range(draws)
  ]
  labels = np.repeat(np.arange(len(SOUNDS)), draws)
  known = np.tile(np.arange(draws) < train, len(SOUNDS))
  accuracy = {}
  for features in (_shape_and_course, _pitch):
    X = np.stack([features(x) for x in waves])
    trees = ExtraTreesClassifier(150, random_state=0).fit(X[known], labels[known])
    accuracy[features] = trees.score(X[~known], labels[~known])
  assert accuracy[_shape_and_course] > 0.9, accuracy
  assert accuracy[_pitch] < 0.7, accuracy


def test_pitches_of_pitched_sounds_overlap():
  pitched = {"Plucked string", "Bowed string", "Xylophone", "Flute", "Organ", "Church bell"}
  pitched |= {"Singing", "Speech", "Dog bark", "Frog", "Siren"}
  ranges = []
  for sound in SOUNDS:
    if sound.name in pitched:
      rows = [_pitch(sound.instrument(np.random.default_rng(k), 2.0, RATE))[1] for k in range(16)]
      ranges.append((min(rows), max(rows)))
  assert len(ranges) == len(pitched)
  for low, high in ranges:
    assert high - low >= 5  # Eight bands per octave: no sound has a fixed pitch.
    assert sum(min(high, b) > max(low, a) for a, b in ranges) - 1 >= len(ranges) / 2


def test_folds_are_determined_by_the_number():
  folds = [scene_fold(number) for number in range(100)]
  assert [folds.count(name) for name in ("train", "validation", "test")] == [80, 10, 10]


def test_written_folder_holds_sound_labels_vocabulary_and_ontology(tmp_path):
  folder = tmp_path / "new" / "soundscapes"
  for _ in range(2):  # A second call replaces what the first one wrote.
    write_soundscapes(folder, 3, seed=2)
  assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
    *(f"audio/{k:06d}.flac" for k in range(3)),
    "labels.csv",
    "ontology.json",
    "vocabulary.csv",
  ]
  vocabulary = read_vocabulary(folder / "vocabulary.csv")
  assert vocabulary == soundscape_vocabulary()
  assert json.loads((folder / "ontology.json").read_text()) == soundscape_ontology()
  ontology = read_ontology(folder / "ontology.json")
  assert ancestors(ontology, "snd/rain") == {"snd/nature"}
  with (folder / "labels.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["filename"] for row in rows] == [f"{k:06d}.flac" for k in range(3)]
  for k, row in enumerate(rows):
    waveform, labels = render(2, k)
    read, rate = soundfile.read(folder / "audio" / row["filename"], dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(read, waveform, atol=1.01 / 2**15)
    assert row["fold"] == scene_fold(k)
    assert row["positive_labels"].split(",") == [vocabulary.ids[label] for label in labels]


def test_a_folder_with_other_files_is_left_unchanged(tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  with pytest.raises(UserError, match=r"thesis\.txt"):
    write_soundscapes(tmp_path, 1, seed=0)
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
  with pytest.raises(UserError, match="not a folder"):
    write_soundscapes(tmp_path / "thesis.txt", 1, seed=0)


@pytest.mark.parametrize("name", ["labels.csv", "vocabulary.csv", "ontology.json"])
def test_a_table_of_other_origin_is_left_unchanged(tmp_path, name):
  (tmp_path / name).write_text("filename,fold,positive_labels\nmine.wav,1,/m/a\n")
  with pytest.raises(UserError, match=f"already holds a {name} of another origin; give a new"):
    write_soundscapes(tmp_path, 1, seed=0)
  assert "mine.wav" in (tmp_path / name).read_text()
  assert [path.name for path in tmp_path.iterdir()] == [name]
