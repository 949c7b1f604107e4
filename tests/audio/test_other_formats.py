"""Formats that need PyAV."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from atgcn_jax.audio import folders, other_formats, sound_files
from atgcn_jax.audio.decoding import open_sound, reading, sound_of
from atgcn_jax.errors import UserError

RATE = 48000
av = pytest.importorskip("av") if other_formats.INSTALLED else None
needs_av = pytest.mark.skipif(av is None, reason="needs PyAV (the extra ffmpeg)")
FORMATS = {  # suffix: container, codec
  "m4a": ("ipod", "aac"),
  "mp4": ("mp4", "aac"),
  "aac": ("adts", "aac"),
  "webm": ("webm", "libopus"),
  "mka": ("matroska", "libopus"),
  "wma": ("asf", "wmav2"),
}


def tone(seconds, channels=1):
  time = np.arange(round(seconds * RATE)) / RATE
  waves = [0.4 * np.sin(2 * np.pi * (400 + 300 * k) * time) for k in range(channels)]
  return np.stack(waves).astype(np.float32)


def encoded(sound, container, codec):
  """Return the bytes of a file of samples float32[C, n]."""
  target = io.BytesIO()
  layout = "mono" if len(sound) == 1 else "stereo"
  with av.open(target, "w", format=container) as file:
    stream = file.add_stream(codec, rate=RATE, layout=layout)
    if codec == "wmav2":
      stream.bit_rate = 128000
    resampler = av.AudioResampler(stream.format, layout, RATE, stream.frame_size or 1024)
    frame = av.AudioFrame.from_ndarray(sound, "fltp", layout)
    frame.sample_rate = RATE
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
      file.mux(stream.encode(piece))
    file.mux(stream.encode(None))
  return target.getvalue()


@needs_av
@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_are_decoded(tmp_path, suffix):
  sound = tone(2.5, channels=2)
  path = tmp_path / f"a.{suffix}"
  path.write_bytes(encoded(sound, *FORMATS[suffix]))
  found, rate, findings = sound_files.decode(path)
  assert rate == RATE
  assert findings == []
  assert abs(len(found) / RATE - 2.5) < 0.1
  wanted = sound.mean(axis=0)
  middle = found[RATE : RATE + 20000]
  # The codec delays the sound by less than 0.1 s.
  first = RATE - 4800
  at = first + int(np.argmax(np.correlate(wanted[first : RATE + 24800], middle)))
  assert np.sqrt(np.mean(np.square(middle - wanted[at : at + 20000]))) < 0.02
  assert path.suffix in folders.SOUNDS
  np.testing.assert_array_equal(sound_files.decode(path.read_bytes()).waveform, found)


@needs_av
def test_parts_equal_the_whole(tmp_path):
  path = tmp_path / "a.m4a"
  path.write_bytes(encoded(tone(3), "ipod", "aac"))
  whole = sound_files.decode(path).waveform
  with reading(path) as reader:
    for start, stop in ((100_000, 120_000), (5, 40_000)):
      part = np.concatenate(list(sound_of(reader, start, stop).blocks))
      np.testing.assert_array_equal(part, whole[start:stop])


@needs_av
def test_damage_is_reported(tmp_path):
  path = tmp_path / "a.mka"
  data = encoded(tone(4), "matroska", "libopus")
  path.write_bytes(data[: len(data) // 2])
  with open_sound(path) as sound:
    count = sum(map(len, sound.blocks))
  assert 0.2 < count / (4 * RATE) < 0.8
  (finding,) = sound.findings
  assert finding.kind == "incomplete"
  with (
    pytest.raises(UserError, match=r"a\.mka: is cut short or damaged"),
    open_sound(path, strict=True),
  ):
    pass


def video(path, codec, pictures, sound):
  """Write a video of black pictures, ten a second, and samples float32[1, n]; return its path."""
  options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
  with av.open(path, "w", options=options) as file:
    seen = file.add_stream("mpeg4" if path.suffix == ".mp4" else "libvpx", rate=10)
    heard = file.add_stream(codec, rate=RATE, layout="mono")
    seen.width = seen.height = 16
    seen.pix_fmt = "yuv420p"
    for _ in range(pictures):
      frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
      file.mux(seen.encode(frame))
    for start in range(0, sound.shape[1], 960):
      frame = av.AudioFrame.from_ndarray(sound[:, start : start + 960], "fltp", "mono")
      frame.sample_rate = RATE
      file.mux(heard.encode(frame))
    file.mux([*seen.encode(None), *heard.encode(None)])
  return path


@needs_av
@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("webm", "libopus")])
def test_the_picture_may_be_longer_than_the_sound(tmp_path, suffix, codec):
  found, rate, findings = sound_files.decode(video(tmp_path / f"a.{suffix}", codec, 30, tone(1)))
  assert len(found) / rate == pytest.approx(1, abs=0.1)
  assert findings == []


@needs_av
def test_the_sound_of_a_video_that_is_cut_short_is_reported(tmp_path):
  path = video(tmp_path / "a.mp4", "aac", 60, tone(4))
  with av.open(path) as file:
    half = [packet.pos for packet in file.demux(audio=0) if packet.size][94]
  found, _, (finding,) = sound_files.decode(path.read_bytes()[:half])  # a whole number of packets
  assert 1 < len(found) / RATE < 3
  assert finding.detail.startswith("the file states 4.0")


@needs_av
def test_a_change_of_channels_is_reported():
  content = encoded(tone(2, 2), *FORMATS["aac"]) + encoded(tone(1), *FORMATS["aac"])
  found, rate, (finding,) = sound_files.decode(content)
  assert len(found) / rate == pytest.approx(2, abs=0.1)
  assert finding.kind == "incomplete"
  with pytest.raises(UserError, match="is cut short or damaged"):
    sound_files.decode(content, strict=True)


@needs_av
def test_video_without_sound_and_other_files_are_rejected(tmp_path):
  target = io.BytesIO()
  with av.open(target, "w", format="mp4") as file:
    stream = file.add_stream("mpeg4", rate=10)
    stream.width = stream.height = 16
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
    file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
  with pytest.raises(UserError, match="sound data: has no sound; leave it out"):
    sound_files.decode(target.getvalue())
  with pytest.raises(
    UserError, match=r"cannot be read as sound \(unknown format\); give an intact"
  ):
    sound_files.decode(b"no sound at all")


def test_without_pyav_the_message_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setattr(other_formats, "INSTALLED", False)
  path = tmp_path / "a.m4a"
  path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
  with pytest.raises(
    UserError, match=r"a\.m4a: cannot be .*`pip install av` to read m4a.*, or give"
  ):
    sound_files.decode(path)
  with pytest.raises(UserError) as caught:
    sound_files.decode(b"text")
  assert "pip" not in str(caught.value)
  message = folders.other_formats(["a.ape", "b.m4a"] if not av else [])
  assert av or "left out: a.ape, b.m4a; `pip install av` to read m4a" in message


@pytest.mark.parametrize(
  ("kind", "subtype"), [("OGG", "OPUS"), ("AIFF", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16")]
)
def test_libsndfile_reads_opus_aiff_and_caf(kind, subtype):
  target = io.BytesIO()
  soundfile.write(target, tone(1).T, RATE, format=kind, subtype=subtype)
  found, rate, findings = sound_files.decode(target.getvalue())
  assert (len(found), rate, findings) == (RATE, RATE, [])


def test_pyav_is_imported_only_when_it_decodes():
  script = (
    "import sys, atgcn_jax.audio.sound_files, atgcn_jax.audio.folders; print('av' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
  assert done.stdout == "False\n"


@needs_av
@pytest.mark.parametrize("script", ["ffconcat version 1.0\nfile secret.mp3\n", "#EXTM3U\n{}\n"])
def test_lists_of_files_are_not_followed(tmp_path, monkeypatch, script):
  monkeypatch.chdir(tmp_path)
  soundfile.write("secret.mp3", tone(2)[0], RATE)
  with pytest.raises(UserError, match="unknown format"):
    sound_files.decode(script.format(tmp_path / "secret.mp3").encode())


@needs_av
def test_decoding_ends_after_the_most_seconds():
  content = encoded(tone(6), *FORMATS["webm"])
  with reading(content, most_seconds=2) as reader:
    assert 2 < reader.samples / reader.rate < 3
