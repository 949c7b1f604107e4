"""Google's CNN: a residual network on patches of about one second, whose scores are averaged."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import (
  Array,
  Placement,
  SpectrogramTransform,
  groups_of,
  parameter_dtype,
  scaled_channels,
)
from atgcn_jax.models.resnet import ResNet

EMBEDDING = 128
PATCHES, LONGEST = 10, 96  # number of patches; maximum number of frames of a patch


def patches(x_BxTxF: Array) -> Array:
  """Return ten consecutive patches of equal length L, at most 96 frames: [B, 10, L, F].

  L is 40 for 400 frames (25 ms apart), and 96 for 998 or 1001 frames (10 ms apart). Remaining
  frames at the end are dropped.

  Raises:
    ValueError: There are fewer than ten frames.
  """
  batch, frames, bands = x_BxTxF.shape
  length = patch_length(frames)
  if not length:
    raise ValueError(f"{PATCHES} patches need at least {PATCHES} frames, got {frames}")
  return x_BxTxF[:, : PATCHES * length].reshape(batch, PATCHES, length, bands)


def patch_length(frames: int) -> int:
  """Return the number of frames of a patch for a clip with `frames` frames."""
  return min(LONGEST, frames // PATCHES)


class GoogleCnn(nn.Module):
  """The encoder: ResNet-50 on each patch, averaged over the patch, and a layer of 128 ReLU units.

  Source:
    Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017; Gemmeke et
    al., Audio Set, ICASSP 2017 (the embedding and its classifier).
  """

  width: float = 1.0
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
    """Return `frames` [B, 10, 128 * width], one per patch, and their mean as `embedding`.

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F]; T at least 10.
      train: Whether to use batch statistics.
      after_norm: Transform of the input, because no batch norm precedes the convolutions.
      placement: Placement of the batch. By default it is on all devices.
    """
    x = patches(log_mel_BxTxF if after_norm is None else after_norm(log_mel_BxTxF))
    resnet = ResNet(
      50, self.width, groups_of(self.batch_norm, placement), self.dtype, name="resnet"
    )
    y = resnet(x.reshape(-1, *x.shape[2:]), train).mean(axis=(1, 2))
    y = nn.Dense(
      scaled_channels(EMBEDDING, self.width),
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      param_dtype=parameter_dtype(self.dtype),
      name="fc",
    )(y)
    frames = nn.relu(y).reshape(*x.shape[:2], -1)
    return {"frames": frames, "embedding": frames.mean(axis=1)}
