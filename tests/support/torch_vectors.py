"""PyTorch form of the linear head on AudioSet's features, to compare the speed of a training.

It trains `configs/audioset_features/systems.py:linear` on random clips and prints a line of JSON:

  python tests/support/torch_vectors.py --clips 20000 --steps 500
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn

LABELS, FRAMES, BANDS, BATCH, UNITS = 527, 10, 128, 256, (1024, 512)


class Tagger(nn.Module):
  """Batch norm, maximum and mean over time, two layers, and a linear classifier."""

  def __init__(self):
    super().__init__()
    self.bn0 = nn.BatchNorm1d(BANDS)
    self.clip1, self.clip1_bn = nn.Linear(2 * BANDS, UNITS[0]), nn.BatchNorm1d(UNITS[0])
    self.clip2, self.clip2_bn = nn.Linear(*UNITS), nn.BatchNorm1d(UNITS[1])
    self.head = nn.Linear(UNITS[1], LABELS)
    self.pooled, self.block, self.embedding = nn.Dropout(0.1), nn.Dropout(0.3), nn.Dropout(0.3)

  def forward(self, x):
    """Return the logits [B, K] of vectors [B, T, F]."""
    x = self.bn0(x.transpose(1, 2)).transpose(1, 2)
    x = self.pooled(torch.cat([x.amax(1), x.mean(1)], dim=-1))
    x = self.block(self.clip1_bn(self.clip1(x)).relu())
    return self.head(self.embedding(self.clip2_bn(self.clip2(x)).relu()))


def main():
  """Train and print clips per second."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--clips", type=int, default=20000)
  parser.add_argument("--steps", type=int, default=500)
  options = parser.parse_args()
  torch.manual_seed(0)
  values = torch.randint(0, 256, (options.clips, FRAMES, BANDS), dtype=torch.uint8)
  labels = torch.rand(options.clips, LABELS) < 0.005
  model, loss = Tagger(), nn.BCEWithLogitsLoss()
  adam = torch.optim.Adam(model.parameters(), 1e-3)
  order, seconds = torch.randperm(options.clips), []
  for step in range(options.steps):
    began = time.perf_counter()
    rows = order[torch.arange(step * BATCH, (step + 1) * BATCH) % options.clips]
    x = values[rows].float() * (4 / 255) - 2
    adam.zero_grad()
    loss(model(x), labels[rows].float()).backward()
    adam.step()
    seconds.append(time.perf_counter() - began)
  median = statistics.median(seconds[5:])
  print(json.dumps({"who": f"torch {torch.__version__}", "clips_per_second": BATCH / median}))


if __name__ == "__main__":
  main()
