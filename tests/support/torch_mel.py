"""PyTorch form of the front end `efficientat`, to compare its speed with ours.

It uses torch.stft on ten-second clips of noise and prints a line of JSON:

  python tests/support/torch_mel.py --batch 16 --steps 5
"""

import argparse
import json
import statistics
import time

import torch

RATE, CLIP, POINTS, WINDOW, HOP, BANDS, TOP_HZ = 32000, 320000, 1024, 800, 320, 128, 15000.0


def mel_filters():
  """Return triangles that are linear in mel, [F, POINTS // 2 + 1]."""

  def mels(hz):
    return 1127.0 * torch.log1p(hz / 700.0)

  bins = mels(torch.arange(POINTS // 2 + 1, dtype=torch.float64) * (RATE / POINTS))
  top = mels(torch.tensor(TOP_HZ, dtype=torch.float64))
  corners = torch.linspace(0.0, 1.0, BANDS + 2, dtype=torch.float64) * top
  lower, centre, upper = (corners[i : BANDS + i, None] for i in range(3))
  slopes = torch.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre))
  return slopes.clamp(min=0).float()


def log_mel(waveform, filters, window):
  """Return the log-mels [B, F, T] of waveforms [B, S]."""
  later = waveform[:, 1:] - 0.97 * waveform[:, :-1]
  spectrum = torch.stft(later, POINTS, HOP, WINDOW, window, center=True, return_complex=True)
  powers = torch.view_as_real(spectrum).square().sum(dim=-1)
  return ((filters @ powers + 1e-5).log() + 4.5) / 5


def main():
  """Compute log-mels and print clips per second."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--steps", type=int, default=5)
  options = parser.parse_args()
  waveforms = 0.1 * torch.randn(options.batch, CLIP)
  filters, window = mel_filters(), torch.hann_window(WINDOW, periodic=False)
  seconds = []
  for _ in range(options.steps + 1):
    start = time.perf_counter()
    log_mel(waveforms, filters, window)
    seconds.append(time.perf_counter() - start)
  median = statistics.median(seconds[1:])
  figures = {"seconds": median, "clips_per_second": options.batch / median}
  print(json.dumps({"what": "frontend", "batch": options.batch, **figures}))


if __name__ == "__main__":
  main()
