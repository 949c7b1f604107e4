"""A residual network with attention over time, in the style of DeepRes."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import Array, Placement, SpectrogramTransform, groups_of
from atgcn_jax.models.resnet import ResNet


class DeepRes(nn.Module):
  """The encoder: ResNet-34 or -50 on the entire spectrogram, averaged over frequency.

  The original code is not public. This is the closest form that the paper describes.

  Source:
    Ford et al., A deep residual network for large-scale acoustic scene analysis, Interspeech 2019.
  """

  depth: int = 50
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
    """Return `frames` [B, ceil(T / 16), C] and their mean as `embedding`, with C as for `ResNet`.

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F].
      train: Whether to use batch statistics.
      after_norm: Transform of the input, because no batch norm precedes the convolutions.
      placement: Placement of the batch. By default it is on all devices.
    """
    groups = groups_of(self.batch_norm, placement)
    x = log_mel_BxTxF if after_norm is None else after_norm(log_mel_BxTxF)
    x = ResNet(self.depth, self.width, groups, self.dtype, name="resnet")(x, train)
    frames = x.mean(axis=2)
    return {"frames": frames, "embedding": frames.mean(axis=1)}
