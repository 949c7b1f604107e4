"""Sound files that are cut short, damaged, or have a wrong length in the header."""

import io
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile
from test_audio_files import NAMES, encode, noise

from atgcn_jax.audio import byte_ranges, decoding, sound_files
from atgcn_jax.errors import SoundWarning, UserError

RATE, SAMPLES = 16000, 40000


def encoded(kind, samples=SAMPLES, rate=RATE):
  if kind == "RIFX":
    return bytearray(encode(noise(samples), rate, "WAV", subtype="PCM_16", endian="BIG"))
  return bytearray(encode(noise(samples), rate, kind))


def used(data):
  """Return the number of used samples and the finding; check that `strict` refuses the file."""
  waveform, _, findings = sound_files.decode(bytes(data))
  (found,) = findings
  assert found.kind == "incomplete"
  with pytest.raises(UserError, match="is cut short or damaged") as caught:
    sound_files.decode(bytes(data), strict=True)
  assert "\n" not in str(caught.value) + found.detail
  assert found.detail.startswith(str(caught.value).partition("(")[2].rpartition(")")[0])
  return len(waveform), found


CHUNKS = ("WAV", "AIFF", "RF64", "RIFX", "AU", "CAF", "W64")


@pytest.mark.parametrize("kind", [*dict.fromkeys([*NAMES, *CHUNKS])])
@pytest.mark.parametrize("keep", [0.5, 0.95, -1])
def test_the_remaining_part_of_a_cut_file_is_used(kind, keep):
  length = 5 * SAMPLES
  data = encoded(kind, length)
  whole, _, findings = sound_files.decode(bytes(data))
  assert len(whole) == length
  assert findings == []
  cut = data[:-1] if keep == -1 else data[: int(len(data) * keep)]
  samples, found = used(cut)
  expected = length * (keep if keep > 0 else 1)
  slack = {"OGG": 16384, "FLAC": 4096, "MP3": 3500, "CAF": 2048}.get(kind, 100)
  more = 1152 if kind == "MP3" else 0  # bytes per second vary
  assert expected - slack - 1 <= samples <= min(length, expected + more)
  np.testing.assert_allclose(sound_files.decode(bytes(cut)).waveform, whole[:samples], atol=0.02)
  if kind == "OGG":  # the header does not state the length
    assert np.isnan(found.seconds)
    assert f"{samples / RATE:.3f} s are used; the missing length is unknown" in found.detail
  else:
    assert found.seconds == pytest.approx((length - samples) / RATE, abs=0.1)
    assert " s (" in found.detail


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
@pytest.mark.parametrize("length", [4, 5, 20, 40, 43, 44])
def test_files_with_little_more_than_a_header_are_refused(kind, length):
  with pytest.raises(UserError, match="; "):
    sound_files.decode(bytes(encoded(kind)[:length]))


def with_size(data, kind, size):
  """Return the file with a header that states `size` bytes of sound."""
  data = bytearray(data)
  at = data.index(b"SSND" if kind == "AIFF" else b"data" if kind != "AU" else b".snd") + 4
  if kind in ("WAV", "RIFX"):
    data[at : at + 4] = struct.pack("<I" if kind == "WAV" else ">I", size)
  elif kind == "AIFF":
    data[at : at + 4] = struct.pack(">I", size + 8 if size else 0)
  elif kind == "AU":
    data[8:12] = struct.pack(">I", size)
  elif kind == "RF64":
    data[28:36] = struct.pack("<Q", size)
  elif kind == "CAF":
    data[at : at + 8] = struct.pack(">q", size + 4)
  return data


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "RF64", "RIFX", "AU", "CAF"])
@pytest.mark.parametrize("stated", [0, 2 * SAMPLES // 3])
def test_sound_beyond_the_size_in_the_header_is_used(kind, stated):
  data = encoded(kind)
  whole = sound_files.decode(bytes(data)).waveform
  data = with_size(data, kind, stated)
  samples, found = used(data)
  assert samples == SAMPLES
  np.testing.assert_array_equal(sound_files.decode(bytes(data)).waveform, whole)
  assert "all 2.500 s present are used" in found.detail
  assert found.seconds == 0


def test_chunks_tags_and_zeros_after_the_sound_are_not_sound():
  chunk = b"LIST" + struct.pack("<I", 4000) + b"INFO" + bytes(range(200)) * 20
  for rest in (chunk, b"ID3\x04" + bytes(range(200)) * 20, b"TAG" + bytes(125), bytes(5000)):
    data = bytes(encoded("WAV", 999)) + rest
    waveform, _, findings = sound_files.decode(data)
    assert len(waveform) == 999
    assert findings == []
  with pytest.raises(UserError, match="holds no samples"):
    sound_files.decode(bytes(with_size(encoded("WAV", 0), "WAV", 0)) + chunk)


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF])
def test_a_header_with_unknown_length_is_not_a_fault(size):
  waveform, _, findings = sound_files.decode(bytes(with_size(encoded("WAV"), "WAV", size)))
  assert len(waveform) == SAMPLES
  assert findings == []
  data = encoded("CAF")
  at = data.index(b"data") + 4
  data[at : at + 8] = b"\xff" * 8
  assert len(sound_files.decode(bytes(data)).waveform) == SAMPLES


def test_a_wav_file_larger_than_four_gigabytes(tmp_path):
  path, extra = tmp_path / "long.wav", 16000
  size = 2**32 + extra
  head = b"RIFF" + struct.pack("<I", extra + 36) + b"WAVEfmt "
  head += struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data" + struct.pack("<I", extra)
  with path.open("wb") as file:  # a sparse file: only its ends take space on disk
    file.write(head)
    file.seek(44 + size - 8000)
    file.write(bytes(range(50)) * 160 + b"LIST" + struct.pack("<I", 4) + b"INFO")
  with decoding.reading(path) as reader:
    assert reader.samples == size
    assert not reader.contents.fault
    end = np.concatenate(list(decoding.sound_of(reader, size - 8000).blocks))
  np.testing.assert_allclose(end, np.tile(np.arange(50) / 128 - 1, 160))


def test_fewer_samples_than_the_header_states(monkeypatch):
  class Short(decoding._Stream):
    frames = property(lambda self: super().frames + 1)

  data = encode(noise(1000), 16000, "WAV")
  monkeypatch.setattr(decoding, "_Stream", Short)
  samples, found = used(data)
  assert samples == 1000
  assert found.detail.startswith("1000 of 1001 samples are present; less than 0.001 of 0.063 s")


def ogg_pages(data):
  position = 0
  while position < len(data):
    segments = data[position + 26]
    stop = position + 27 + segments + sum(data[position + 27 : position + 27 + segments])
    yield data[position:stop]
    position = stop


def test_missing_ogg_pages():
  data = encoded("OGG", 10 * SAMPLES)
  pages = list(ogg_pages(data))
  samples, found = used(b"".join(pages[:-1]))
  assert 9 * SAMPLES < samples < 10 * SAMPLES
  assert found.detail.startswith("its end-of-stream page is missing; ")
  samples, found = used(b"".join([*pages[:-2], pages[-1]]))
  assert found.detail.startswith(f"1 of {len(pages)} ogg pages are damaged or missing; ")
  assert samples < 10 * SAMPLES
  assert found.seconds == pytest.approx((10 * SAMPLES - samples) / RATE)


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_damage_inside_a_file_loses_only_the_damaged_part(kind):
  data = encoded(kind, 10 * SAMPLES)
  whole = sound_files.decode(bytes(data)).waveform
  data[len(data) // 2] ^= 0x10
  samples, found = used(data)
  assert 9 * SAMPLES < samples < 10 * SAMPLES
  assert found.seconds == pytest.approx((10 * SAMPLES - samples) / RATE)
  waveform = sound_files.decode(bytes(data)).waveform
  np.testing.assert_allclose(waveform[:SAMPLES], whole[:SAMPLES], atol=1e-6)
  np.testing.assert_allclose(waveform[-SAMPLES:], whole[-SAMPLES:], atol=1e-6)


def test_missing_mp3_frames():
  data = bytes(encoded("MP3"))
  samples, found = used(data[: len(data) // 2] + data[len(data) // 2 + 1500 :])
  assert " mp3 frames are present; " in found.detail
  assert found.seconds == pytest.approx((SAMPLES - samples) / RATE, abs=0.04)
  lost = bytearray(data)
  at = lost.index(lost[:2], len(lost) // 2)
  lost[at : at + 4] = bytes(4)
  samples, found = used(lost)
  assert SAMPLES - 1300 < samples < SAMPLES
  assert " mp3 frames are present; " in found.detail


def test_chained_ogg_is_read_completely():
  first, second = encoded("OGG"), encoded("OGG", SAMPLES // 2)
  waveform, _, findings = sound_files.decode(bytes(first + second))
  assert findings == []
  parts = [sound_files.decode(bytes(part)).waveform for part in (first, second)]
  np.testing.assert_array_equal(waveform, np.concatenate(parts))
  with decoding.reading(bytes(first + second)) as reader:
    middle = np.concatenate(list(decoding.sound_of(reader, SAMPLES - 100, SAMPLES + 100).blocks))
  np.testing.assert_allclose(middle, waveform[SAMPLES - 100 : SAMPLES + 100], atol=1e-6)
  samples, found = used(first + encoded("OGG", 8000, 8000))
  assert samples == SAMPLES
  assert found.detail.startswith("1 of its 2 streams differ in sample rate; 2.500 s are used")


def test_a_warning_names_the_file(tmp_path):
  path = tmp_path / "a.wav"
  path.write_bytes(encoded("WAV")[:-2])
  with pytest.warns(SoundWarning, match=f"^{path}: 2 of 80000 bytes of sound are missing; less"):
    sound_files.load_waveform(path, RATE)


def test_a_part_of_a_file_reads_like_a_file():
  file = byte_ranges.PartFile(b"0123456789", byte_ranges.Part(b"ab", 3, 7))
  assert file.read() == b"ab3456"
  assert file.seek(-3, io.SEEK_END) == 3
  assert file.read(2) == b"45"
  assert file.seek(-99) == file.tell() == 5
  assert file.read(9) == b"6"
  assert file.read(9) == b""


# Comparison with ffmpeg on the same files.

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")


def ffmpeg(*arguments):
  line = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
  return subprocess.run(line, check=True, capture_output=True).stdout


def by_ffmpeg(path):
  raw = ffmpeg("-i", path, "-f", "f32le", "-ac", "1", "-")
  return np.frombuffer(raw, np.float32)


DAMAGE = {
  "whole": lambda data: data,
  "cut": lambda data: data[: int(len(data) * 0.7)],
  "a byte short": lambda data: data[:-1],
  "a bit flipped": lambda data: [*data[: (k := len(data) // 2)], data[k] ^ 0x10, *data[k + 1 :]],
}


@needs_ffmpeg
@pytest.mark.parametrize("kind", [*NAMES, "AIFF", "CAF", "AU"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_samples_agree_with_ffmpeg(tmp_path, kind, damage):
  path = tmp_path / f"sound.{kind.lower()}"
  path.write_bytes(bytes(DAMAGE[damage](encoded(kind, 3 * SAMPLES))))
  ours, theirs = sound_files.decode(path).waveform, by_ffmpeg(path)
  # ffmpeg decodes a damaged FLAC block to noise, and the remaining bytes of an incomplete block.
  slack = {"FLAC": 2 * 4096, "OGG": 16384 if damage == "a bit flipped" else 2048, "MP3": 2305}
  assert abs(len(ours) - len(theirs)) <= slack.get(kind, 0)
  # The samples before the damage agree.
  np.testing.assert_allclose(ours[:SAMPLES], theirs[:SAMPLES], atol=1e-4)


@needs_ffmpeg
@pytest.mark.parametrize(
  ("name", "codec"),
  [
    ("vbr.wav", ["-c:a", "libmp3lame", "-q:a", "2"]),
    ("cbr.wav", ["-c:a", "libmp3lame", "-b:a", "128k"]),
    ("layer2.mp2", ["-c:a", "mp2", "-b:a", "192k"]),
    ("layer2.wav", ["-c:a", "mp2", "-b:a", "192k"]),
  ],
)
def test_mpeg_audio_in_wav_files_and_layer_two(tmp_path, name, codec):
  sound = noise(5 * 44100)
  sound[:80000] = 0  # the bit rate rises
  soundfile.write(tmp_path / "sound.flac", sound, 44100)
  try:
    ffmpeg("-i", tmp_path / "sound.flac", *codec, tmp_path / name)
  except subprocess.CalledProcessError as error:
    pytest.skip(f"this ffmpeg lacks the encoder: {error.stderr.decode().strip()}")
  waveform, rate, findings = sound_files.decode(tmp_path / name)
  assert findings == []
  assert rate == 44100
  assert 0 <= len(by_ffmpeg(tmp_path / name)) - len(waveform) <= 529  # delay of the decoder
  assert abs(waveform[-30000:]).max() > 0.1
  data = (tmp_path / name).read_bytes()
  samples, found = used(data[: int(0.6 * len(data))])
  assert samples / len(waveform) == pytest.approx(0.7 if name == "vbr.wav" else 0.6, abs=0.1)
  assert found.seconds > 0


@needs_ffmpeg
def test_flac_with_unknown_length_in_the_header(tmp_path):
  soundfile.write(tmp_path / "sound.wav", noise(SAMPLES), RATE, subtype="PCM_16")
  data = ffmpeg("-i", tmp_path / "sound.wav", "-f", "flac", "-")
  samples, found = used(data)
  assert samples == SAMPLES
  assert found.detail.startswith("its header does not state its length; all 2.500 s")
