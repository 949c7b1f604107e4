"""Sound files: formats, sample rates, channels and bad files."""

import io

import numpy as np
import pytest
import soundfile

from atgcn_jax.audio import sound_files
from atgcn_jax.errors import UserError

FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
NAMES = [kind for kind, _ in FORMATS]


def tone(rate, seconds=1.0, hertz=440.0, amplitude=0.5):
  return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def noise(samples, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def encode(samples, rate, kind, **options):
  if kind not in soundfile.available_formats():
    pytest.skip(f"this libsndfile cannot write {kind}")
  stream = io.BytesIO()
  channels = samples.shape[1] if samples.ndim > 1 else 1
  options.setdefault("subtype", dict(FORMATS).get(kind))
  with soundfile.SoundFile(stream, "w", rate, channels, format=kind, **options) as sound:
    sound.write(samples)
  return stream.getvalue()


def complaint(source, rate=16000):
  with pytest.raises(UserError) as caught:
    sound_files.load_waveform(source, rate)
  message = str(caught.value)
  assert "\n" not in message
  assert "; " in message
  return message


def frequency(waveform, rate):
  spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size), 8 * waveform.size))
  return spectrum.argmax() * rate / (8 * waveform.size)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (22050, 2), (44100, 1), (48000, 2)])
def test_every_format_keeps_length_pitch_and_level(kind, rate, channels, tmp_path):
  sound = tone(rate)
  path = tmp_path / f"tone.{kind.lower()}"
  path.write_bytes(encode(np.stack([sound] * channels, axis=1), rate, kind))
  waveform = sound_files.load_waveform(path, rate)
  assert waveform.dtype == np.float32
  assert waveform.shape == (rate,)
  assert frequency(waveform, rate) == pytest.approx(440, abs=0.2)
  assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
  if kind in ("WAV", "FLAC"):
    np.testing.assert_allclose(waveform, sound, atol=2**-15)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_channels_are_averaged(channels):
  sound = noise((4000, channels))
  waveform = sound_files.load_waveform(encode(sound, 16000, "WAV", subtype="FLOAT"), 16000)
  np.testing.assert_allclose(waveform, sound.mean(axis=1), atol=1e-7)


def test_path_bytes_and_stream_agree(tmp_path):
  data = encode(noise(5000), 22050, "FLAC")
  path = tmp_path / "clip {0} %s.flac"
  path.write_bytes(data)
  expected = sound_files.load_waveform(data, 16000)
  with path.open("rb") as stream:
    for source in (path, str(path), stream, io.BytesIO(data), bytearray(data)):
      np.testing.assert_array_equal(sound_files.load_waveform(source, 16000), expected)
  with pytest.raises(TypeError, match="binary"):
    sound_files.load_waveform(io.StringIO("text"), 16000)


def test_the_content_determines_the_format_not_the_suffix(tmp_path):
  path = tmp_path / "clip.raw"
  path.write_bytes(encode(noise(500), 16000, "WAV"))
  assert sound_files.load_waveform(path, 16000).shape == (500,)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("samples", [1, 7, 300_000])
def test_sounds_of_any_length_are_read_completely(kind, samples):
  assert sound_files.load_waveform(encode(noise(samples), 44100, kind), 44100).shape == (samples,)
  assert sound_files.load_waveform(encode(noise(samples), 44100, kind), 16000).size >= 1


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 32000), (11025, 48000)])
def test_resampling_keeps_pitch_level_and_duration(rate, wanted):
  waveform = sound_files.resample(tone(rate, 2.0, 1000.0), rate, wanted)
  assert waveform.dtype == np.float32
  assert abs(waveform.size - 2 * wanted) <= 1
  expected = tone(wanted, 2.0, 1000.0)
  middle = slice(wanted // 10, 2 * wanted - wanted // 10)  # without the transients of the filter
  np.testing.assert_allclose(waveform[middle], expected[middle], atol=2e-3)


def test_resampling_removes_frequencies_that_would_alias():
  assert (
    np.abs(sound_files.resample(tone(44100, 1.0, 12000.0), 44100, 16000)[800:-800]).max() < 1e-3
  )


def test_resampling_at_the_same_rate_changes_nothing():
  waveform = noise(100).astype(np.float32)
  np.testing.assert_array_equal(sound_files.resample(waveform, 16000, 16000), waveform)
  with pytest.raises(ValueError, match="positive"):
    sound_files.resample(waveform, 16000, 0)


def test_messages_name_sources_that_are_not_sound_files(tmp_path):
  assert complaint(tmp_path / "none.wav").startswith(f"{tmp_path}/none.wav: no such file")
  assert "is a folder" in complaint(tmp_path)
  assert "cannot be read" in complaint("null\0byte.wav")
  (tmp_path / "empty.wav").touch()
  assert "is empty" in complaint(tmp_path / "empty.wav")
  two_lines = tmp_path / "two\nlines.wav"
  two_lines.write_bytes(b"not sound at all, but words\n" * 100)
  assert "cannot be read as sound" in complaint(two_lines)
  assert "cannot be read as sound" in complaint(np.random.default_rng(0).bytes(5000))
  assert "cannot be read as sound" in complaint(bytes(5000))


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
def test_a_file_without_samples(kind):
  assert "no samples" in complaint(encode(noise(0), 16000, kind))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(bad):
  sound = noise((8000, 2))
  sound[4000, 1] = bad
  message = complaint(encode(sound, 16000, "WAV", subtype="FLOAT"))
  assert "the sample at 0.250 s is NaN or infinite" in message


def test_trailing_tags_are_ignored():
  for kind in NAMES:
    data = encode(noise(20000), 16000, kind) + b"TAG" + bytes(125)
    assert sound_files.load_waveform(data, 16000).shape == (20000,), kind


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (22050, 2), (44100, 2), (48000, 1)])
@pytest.mark.parametrize("quiet_first", [True, False])
def test_variable_bit_rate_mp3_without_a_frame_count_is_read_completely(
  rate, channels, quiet_first
):
  sound = noise((8 * rate, channels))
  sound[: 6 * rate if quiet_first else 0] = 0
  sound[6 * rate if not quiet_first else 8 * rate :] = 0
  data = encode(sound, rate, "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
  with_count = sound_files.load_waveform(data, rate)
  assert with_count.shape == (8 * rate,)
  second = data.index(b"\xff", 40)
  while data[second + 1] != data[1] or data[second + 2] & 0x0C != data[2] & 0x0C:
    second = data.index(b"\xff", second + 1)
  assert b"Xing" in data[:second]
  whole = sound_files.load_waveform(data[second:], rate)
  assert 0 <= whole.size - with_count.size < 3 * 1152  # delay and padding of the encoder
  tagged = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + data[second:] + b"TAG" + bytes(125)
  np.testing.assert_array_equal(sound_files.load_waveform(tagged, rate), whole)


def test_real_recordings(shared):
  paths = sorted((shared / "data/esc10/audio").glob("*.ogg"))
  for path in paths[::50]:
    info = soundfile.info(path)
    waveform, rate, findings = sound_files.decode(path)
    assert waveform.size == info.frames
    assert rate == info.samplerate
    assert findings == []
    assert waveform.any()
