"""TALNet: ten convolutions and a bidirectional recurrent layer, with one vector per 0.1 s."""

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

CHANNELS = (32, 64, 128, 256, 512)  # channels of two convolutions each
POOLED = ((2, 2), (2, 2), (1, 2), (1, 2), (1, 2))  # pooled frames and bands
UNITS = 512  # units of the recurrent layer per direction


class TalNet(nn.Module):
  """The encoder of TALNet. Its GRU has one bias per gate; PyTorch's GRU has two.

  Source:
    Wang, Li and Metze, ICASSP 2019 (TALNet).
  """

  width: float = 1.0
  block_dropout: float = 0.0  # after each pooling
  batch_norm: str = "global"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    log_mel_BxTxF: Array,
    *,
    train: bool,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> dict[str, Array]:
    """Return `frames` [B, T // 4, 1024 * width] and their mean as `embedding`.

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F]; F at least 32, T at least 4.
      train: Whether to use batch statistics and dropout (needs an rng `dropout`).
      after_norm: Transform of the input, because no batch norm precedes the convolutions.
      placement: Placement of the batch. By default it is on all devices.
    """
    groups, param_dtype = groups_of(self.batch_norm, placement), parameter_dtype(self.dtype)
    x = log_mel_BxTxF if after_norm is None else after_norm(log_mel_BxTxF)
    x = x[..., None].astype(self.dtype)
    for i, (channels, pooled) in enumerate(zip(CHANNELS, POOLED)):
      channels = scaled_channels(channels, self.width)
      for layer in (2 * i + 1, 2 * i + 2):
        x = nn.Conv(
          channels,
          (3, 3),
          kernel_init=nn.initializers.xavier_uniform(),
          dtype=self.dtype,
          param_dtype=param_dtype,
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
        param_dtype=param_dtype,
        name=name,
      )
      return nn.RNN(cell)

    frames: Any = nn.Bidirectional(gru("gru_forward"), gru("gru_backward"))(x_BxTxC)
    return {"frames": frames, "embedding": frames.mean(axis=1)}
