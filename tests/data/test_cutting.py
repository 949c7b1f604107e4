"""Long files as clips that inherit labels and fold, and the findings of a store."""

import csv
import dataclasses
import tracemalloc
import warnings

import numpy as np
import pytest
import small_store
import soundfile
from test_audio_files import encode, noise

from atgcn_jax import cli
from atgcn_jax.audio import frontend, sound_files
from atgcn_jax.data import prepare
from atgcn_jax.data.layouts.label_list import list_labelled
from atgcn_jax.data.layouts.listing import load_file
from atgcn_jax.data.store import findings_table, long_files, store_builder, unfinished
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.reports.data_card import data_card
from atgcn_jax.reports.data_card_files import card_markdown

SETTINGS = dataclasses.replace(small_store.FRONTEND, seconds=2.0, sample_rate=1000)
RATE = 4000
FILES = {  # name: seconds, fold, labels
  "a/long.wav": (7.0, "train", "/m/a,/m/c"),
  "exact.flac": (4.0, "test", "/m/b"),
  "short.ogg": (1.5, "train", ""),
  "tail.mp3": (4.1, "validation", "/m/c"),
}


@pytest.fixture(autouse=True)
def here(monkeypatch):
  """Work in this process."""

  def in_processes(work, chunks, processes):
    yield from map(work, chunks)

  for module in (store_builder, long_files):
    monkeypatch.setattr(module, "in_processes", in_processes)
  monkeypatch.setitem(frontend.FRONTENDS, "talnet", SETTINGS)


@pytest.fixture
def sounds(tmp_path):
  """Return a folder with FILES and their label list."""
  lines = ["filename,fold,positive_labels"]
  for k, (name, (seconds, fold, labels)) in enumerate(FILES.items()):
    path = tmp_path / "audio" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 16000 if name.endswith("mp3") else RATE
    kind = name.rpartition(".")[2].upper()
    path.write_bytes(encode(noise(round(seconds * rate), k), rate, kind))
    lines.append(f'{name},{fold},"{labels}"')
  (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
  return tmp_path


def prepared(folder, out="s.h5", **options):
  """Return the store of a folder, and the lines of the warnings."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    built = prepare.prepare(
      folder / "audio", folder / "labels.csv", folder / out, workers=1, **options
    )
  lines = [str(warning.message) for warning in caught if warning.category is SoundWarning]
  assert all("\n" not in line for line in lines)
  return built, open_store(folder / out), [line.partition(": ")[2] for line in lines]


def report(folder, name="s.h5"):
  path = unfinished.findings_path(folder / name)
  return list(csv.reader(path.open()))[1:] if path.exists() else []


def rewrite(folder, name, change):
  path = folder / "audio" / name
  path.write_bytes(change(path.read_bytes()))


CLIP_IDS = [
  *(f"a/long.wav@00000{k}.000" for k in (0, 2, 4, 6)),
  *(f"exact.flac@00000{k}.000" for k in (0, 2)),
  "short.ogg",
  *(f"tail.mp3@00000{k}.000" for k in (0, 2)),
]


def test_long_files_are_cut_into_clips(sounds):
  built, store, lines = prepared(sounds, segment=True)
  assert built == (9, 0, 0)
  assert store.clip_ids.tolist() == CLIP_IDS == sorted(CLIP_IDS)
  assert store.folds.tolist() == ["train"] * 4 + ["test"] * 2 + ["train"] + ["validation"] * 2
  rows = [[1, 0, 1]] * 4 + [[0, 1, 0]] * 2 + [[0, 0, 0]] + [[0, 0, 1]] * 2
  assert store.labels(np.arange(9)).tolist() == rows
  np.testing.assert_allclose(store.seconds, [2, 2, 2, 1, 2, 2, 1.5, 2, 2.1])
  assert (
    lines[0] == "1 of 9 sounds is longer than a clip of 2 s: 0.100 s (0.6% of all) are not used"
  )
  assert report(sounds) == [
    [
      "tail.mp3@000002.000",
      "longer",
      "0.100",
      "2.100 s long; the last 0.100 s (4.8%) are not used",
    ]
  ]


def test_the_card_does_not_call_pieces_files(sounds):
  prepared(sounds, segment=True)
  assert "| duration of the sounds (files or pieces of files) |" in card_markdown(
    data_card(sounds / "s.h5")
  )


def test_an_unreadable_clip_is_named_by_its_id(sounds, monkeypatch):
  outcome = store_builder.outcome

  def without_the_last(load, root, settings, dtype, source, **options):
    bad = source.endswith("-")
    return "is bad" if bad else outcome(load, root, settings, dtype, source, **options)

  monkeypatch.setattr(store_builder, "outcome", without_the_last)
  prepared(sounds, segment=True)
  unreadable = list(csv.reader(unfinished.report_path(sounds / "s.h5").open()))[1:]
  assert [name for name, _ in unreadable] == [CLIP_IDS[k] for k in (3, 5, 8)]


def test_clips_equal_the_parts_of_their_file(sounds):
  _, store, _ = prepared(sounds, segment=True)
  whole = sound_files.decode(sounds / "audio" / "a/long.wav").waveform
  for k, start in enumerate((0, 2, 4, 6)):
    part = whole[start * RATE : (start + 2) * RATE]
    name = f"part{k}.wav"
    (sounds / "audio" / name).write_bytes(encode(part, RATE, "WAV"))
    clip = store_builder.encoded(load_file(sounds / "audio", SETTINGS, name), SETTINGS, "uint8")
    np.testing.assert_array_equal(store.log_mel[k], clip.row)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_clips_do_not_depend_on_the_order_in_which_they_are_loaded(tmp_path, kind):
  (tmp_path / "a").write_bytes(encode(noise(16000 * 9), 16000, kind))
  sources = [f"a@{start:010.3f}" for start in (0, 2, 4, 6)] + ["a@000008.000-"]
  long_files._opened.cache_clear()
  first = [long_files.load_cut(str(tmp_path), SETTINGS, source).sound for source in sources]
  for source, waveform in [*zip(sources, first)][::-1]:
    again = long_files.load_cut(str(tmp_path), SETTINGS, source).sound
    np.testing.assert_array_equal(again, waveform)
  whole = sound_files.load_waveform(tmp_path / "a", 1000)
  joined = np.concatenate(first)
  assert len(joined) == len(whole) == 9000
  inside = np.concatenate([np.arange(k + 100, k + 900) for k in range(0, 9000, 1000)])
  np.testing.assert_allclose(joined[inside], whole[inside], atol=1e-3)


def test_a_long_file_is_read_in_bounded_memory(tmp_path):
  rate, hours = 8000, 1  # 115 MB as floats
  with soundfile.SoundFile(tmp_path / "a.wav", "w", rate, 1, subtype="PCM_16") as file:
    for _ in range(60 * hours):
      file.write(np.full(60 * rate, 0.1))
  tracemalloc.start()
  try:
    clip = load_file(str(tmp_path), SETTINGS, "a.wav")
    last = long_files.load_cut(str(tmp_path), SETTINGS, "a.wav@003598.000-")
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert (clip.seconds, last.seconds) == (3600, 2)
  assert len(clip.sound) == len(last.sound) == 2000
  assert peak < 16e6


def test_without_segment_the_unused_rest_is_reported(sounds):
  built, store, lines = prepared(sounds)
  assert built == (4, 0, 0)
  assert store.clip_ids.tolist() == list(FILES)
  assert lines == [
    "3 of 4 sounds are longer than a clip of 2 s: 9.100 s (54.8% of all) are not used; "
    "--segment cuts them into clips",
    "1 of 4 sounds is shorter than a clip of 2 s and padded with silence",
    f"see {sounds / 's.h5.findings.csv'} for details",
  ]
  assert [row[:3] for row in report(sounds)] == [
    ["a/long.wav", "longer", "5.000"],
    ["exact.flac", "longer", "2.000"],
    ["tail.mp3", "longer", "2.100"],
  ]


def test_a_rest_below_a_hundredth_of_a_clip_is_no_finding():
  frontend = dataclasses.replace(SETTINGS, seconds=5.0)
  assert not any(findings_table.longer(seconds, frontend) for seconds in (4.9, 5.0, 5.001, 5.049))
  assert [one.seconds for one in findings_table.longer(5.05, frontend)] == [pytest.approx(0.05)]
  np.testing.assert_array_equal(
    findings_table.is_longer(np.array([5.001, 5.06]), frontend), [False, True]
  )


def test_incomplete_files_are_cut_up_to_the_damage(sounds):
  rewrite(sounds, "a/long.wav", lambda data: data[: 44 + 2 * RATE * 5])
  rewrite(sounds, "exact.flac", lambda data: data[: len(data) * 7 // 8])
  built, store, lines = prepared(sounds, segment=True)
  assert built == (8, 0, 0)
  assert store.clip_ids.tolist() == [CLIP_IDS[k] for k in (0, 1, 2, 4, 5, 6, 7, 8)]
  incomplete = {row[0]: row for row in report(sounds) if row[1] == "incomplete"}
  assert list(incomplete) == ["a/long.wav@000004.000", "exact.flac@000002.000"]
  assert incomplete["a/long.wav@000004.000"][2:] == [
    "2.000",
    "16000 of 56000 bytes of sound are missing; 2.000 of 3.000 s (66.7%) are missing; "
    "the rest is used",
  ]
  np.testing.assert_allclose(store.missing_seconds[2], 2)
  assert sum("2 of 8 sounds are incomplete: " in line for line in lines) == 1
  built, store, _ = prepared(sounds, "strict.h5", segment=True, strict=True)
  assert built == (3, 0, 2)
  assert store.clip_ids.tolist() == CLIP_IDS[-3:]
  unreadable = dict(list(csv.reader(unfinished.report_path(sounds / "strict.h5").open()))[1:])
  assert list(unreadable) == ["a/long.wav", "exact.flac"]
  assert all("is cut short or damaged (" in reason for reason in unreadable.values())


def test_other_layouts_are_not_cut(tmp_path):
  with pytest.raises(UserError, match="--segment: --layout panns does not support it"):
    prepare.prepare(tmp_path, None, "s.h5", layout="panns", vocabulary="v.csv", segment=True)


def test_every_finding_is_counted(sounds):
  sound = np.outer(noise(2 * RATE), [1, -1])
  for name, samples in {
    "a/long.wav": sound,
    "exact.flac": 0 * sound,
    "tail.mp3": np.round(3276 * sound + 3000),
  }.items():
    data = encode(samples, RATE, "WAV", subtype="FLOAT")
    (sounds / "audio" / name).write_bytes(data)
  rewrite(sounds, "short.ogg", lambda data: encode(noise(RATE), RATE, "WAV")[:-4000])
  built, store, lines = prepared(sounds)
  assert built == (4, 0, 0)
  expected = {"a/long.wav": 8, "exact.flac": 2, "short.ogg": 1, "tail.mp3": 4}
  assert dict(zip(store.clip_ids.tolist(), store.findings.tolist())) == expected
  assert lines[1:-1] == [
    "1 of 4 sounds is incomplete: 0.500 s are missing",
    "1 of 4 sounds is silent",
    "1 of 4 sounds is out of range",
    "1 of 4 sounds is out of phase",
  ]
  assert [row[:3] for row in report(sounds)] == [
    ["a/long.wav", "out of phase", "0.000"],
    ["exact.flac", "silent", "0.000"],
    ["short.ogg", "incomplete", "0.500"],
    ["tail.mp3", "out of range", "0.000"],
  ]
  card = data_card(sounds / "s.h5")
  assert card["findings"] == {
    "not_known": 0,
    "incomplete": {"clips": 1, "seconds": 0.5, "seconds_not_known": 0, "first": ["short.ogg"]},
    "silent": {"clips": 1, "first": ["exact.flac"]},
    "out_of_range": {"clips": 1, "first": ["tail.mp3"]},
    "out_of_phase": {"clips": 1, "first": ["a/long.wav"]},
  }
  assert "| incomplete, 0.50 s missing | 1 (short.ogg). |" in card_markdown(card)


def test_reports_of_an_earlier_store_are_removed(sounds):
  prepared(sounds)
  for name in FILES:
    rewrite(sounds, name, lambda data: encode(noise(2 * RATE), RATE, "WAV"))
  (sounds / "s.h5").unlink()
  _, _, lines = prepared(sounds)
  assert lines == []
  assert report(sounds) == []


def test_findings_do_not_change_the_content_of_a_store(sounds):
  """Runs identify their store by the fingerprint."""
  rewrite(sounds, "a/long.wav", lambda data: data[:-4000])
  _, store, _ = prepared(sounds)
  assert store.findings.any()
  listing = list_labelled(sounds / "audio", sounds / "labels.csv", SETTINGS, None)
  without = dataclasses.replace(
    listing, load=lambda name: listing.load(name)._replace(findings=None)
  )
  store_builder.build_store(sounds / "without.h5", without, SETTINGS, "uint8", workers=1)
  other = open_store(sounds / "without.h5")
  assert other.fingerprint == store.fingerprint
  assert (other.findings == findings_table.NOT_KNOWN).all()
  card = data_card(sounds / "without.h5")
  assert card["findings"]["not_known"] == 4
  assert card["findings"]["silent"]["clips"] == 0


def test_stores_without_findings_open(tmp_path):
  store = small_store.make(tmp_path / "s.h5")
  assert store.findings is store.missing_seconds is None
  assert findings_table.counts(store) == {}
  card = data_card(tmp_path / "s.h5")
  assert card["findings"] is None
  assert "has no findings about incomplete" in card_markdown(card)


def test_a_journal_of_an_older_version_is_resumed(sounds, monkeypatch):
  """Its lines have no findings."""
  whole, _, _ = prepared(sounds)
  real = unfinished.append

  def append(part, outcomes):
    real(part, outcomes)
    path = part.folder / unfinished.JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    cut = lines[-1].rpartition(b', "findings"')[0] + b"}\n"
    path.write_bytes(b"".join([*lines[:-1], cut]))
    part.journal_size -= len(lines[-1]) - len(cut)

  monkeypatch.setattr(unfinished, "append", append)
  built, store, _ = prepared(sounds, "other.h5")
  assert built == whole
  assert (store.findings == findings_table.NOT_KNOWN).all()
  assert report(sounds, "other.h5") == []


def test_the_command_reports_in_a_few_lines(sounds, capfd):
  rewrite(sounds, "a/long.wav", lambda data: data[:-4000])
  line = ["prepare", "--audio", sounds / "audio", "--labels", sounds / "labels.csv"]
  line = [*map(str, line), "--out", str(sounds / "s.h5")]
  assert cli.main(line) == 0
  err = capfd.readouterr().err
  assert f"atgcn: {sounds / 's.h5'}: 1 of 4 sounds is incomplete: 0.500 s are missing\n" in err
  assert len(err.splitlines()) == 4
  (sounds / "s.h5").unlink()
  assert cli.main([*line, "--strict"]) == 1
  err = capfd.readouterr().err
  assert f"atgcn prepare: 1 cannot be read; see {sounds / 's.h5.unreadable.csv'}\n" in err
