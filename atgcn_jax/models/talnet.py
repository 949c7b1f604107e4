"""TALNet: ten convolutions and a recurrent layer in both directions, a vector every 0.1 s."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import (
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  groups_of,
  parameter_dtype,
  scaled_channels,
)
from atgcn_jax.models.normalisation import BatchNorm

CHANNELS = (32, 64, 128, 256, 512)  # of two convolutions each
POOLED = ((2, 2), (2, 2), (1, 2), (1, 2), (1, 2))  # frames, bands
UNITS = 512  # of the recurrent layer, a direction


class TalNet(nn.Module):
  """The encoder of TALNet. Its GRU has one bias a gate, where PyTorch's has two.

  Source: Wang, Li and Metze, ICASSP 2019 (TALNet).
  """

  width: float = 1.0
  block_dropout: float = 0.0  # after each pooling
  batch_norm: str = "global"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    log_mel: Array,
    *,
    train: bool,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> dict[str, Array]:
    """Returns `frames` [B, T // 4, 1024 * width], and their mean as `embedding`.

    Args:
      log_mel: float[B, T, F] normalised log-mels; F at least 32, T at least 4.
      train: batch statistics and dropout (needs an rng `dropout`) where true.
      after_norm: applied to the input: there is no batch norm before the convolutions.
      placement: of the batch; by default it lies on all devices.
    """
    groups, kept = groups_of(self.batch_norm, placement), parameter_dtype(self.dtype)
    x = log_mel if after_norm is None else after_norm(log_mel)
    x = x[..., None].astype(self.dtype)
    for i, (channels, pooled) in enumerate(zip(CHANNELS, POOLED)):
      channels = scaled_channels(channels, self.width)
      for layer in (2 * i + 1, 2 * i + 2):
        x = nn.Conv(
          channels,
          (3, 3),
          kernel_init=nn.initializers.xavier_uniform(),
          dtype=self.dtype,
          param_dtype=kept,
          name=f"conv{layer}",
        )(x)
        x = BatchNorm(channels, self.dtype, groups, nn.relu, name=f"bn{layer}")(x, train=train)
      x = Dropout(self.block_dropout)(
        nn.max_pool(x, window_shape=pooled, strides=pooled), train=train
      )
    x_BxTxC = x.reshape(*x.shape[:2], -1)

    def gru(name: str) -> nn.RNN:
      cell = nn.GRUCell(
        scaled_channels(UNITS, self.width),
        kernel_init=nn.initializers.xavier_uniform(),
        recurrent_kernel_init=nn.initializers.orthogonal(),
        dtype=self.dtype,
        param_dtype=kept,
        name=name,
      )
      return nn.RNN(cell)

    frames: Any = nn.Bidirectional(gru("gru_forward"), gru("gru_backward"))(x_BxTxC)
    return {"frames": frames, "embedding": frames.mean(axis=1)}
