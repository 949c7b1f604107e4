"""Google's CNN: a residual network on patches of about a second, whose scores are averaged."""

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
PATCHES, LONGEST = 10, 96


def patches(x_BxTxF: Array) -> Array:
  """Ten patches of equal length, of at most 96 frames, side by side: [B, 10, L, F].

  That is 40 frames of 400 (25 ms apart), and 96 of 998 or 1001 (10 ms apart); what is left over at
  the end is dropped.

  Raises:
    ValueError: for fewer than ten frames.
  """
  batch, frames, bands = x_BxTxF.shape
  length = patch_length(frames)
  if not length:
    raise ValueError(f"{frames} frames do not make {PATCHES} patches")
  return x_BxTxF[:, : PATCHES * length].reshape(batch, PATCHES, length, bands)


def patch_length(frames: int) -> int:
  """Frames of a patch of a clip with so many."""
  return min(LONGEST, frames // PATCHES)


class GoogleCnn(nn.Module):
  """The encoder: ResNet-50 on each patch, averaged over it, then 128 numbers with ReLU.

  Source: Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017;
    Gemmeke et al., Audio Set, ICASSP 2017 (the embedding and the classifier on it).
  """

  width: float = 1.0
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
    """Returns `frames` [B, 10, 128 * width], one a patch, and their mean as `embedding`.

    Args:
      log_mel: float[B, T, F] normalised log-mels; T at least 10.
      train: batch statistics where true.
      after_norm: applied to the input: there is no batch norm before the convolutions.
      placement: of the batch; by default it lies on all devices.
    """
    x = patches(log_mel if after_norm is None else after_norm(log_mel))
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
