"""A residual network with attention over time, in the style of DeepRes."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import Array, Placement, SpectrogramTransform, groups_of
from atgcn_jax.models.resnet import ResNet


class DeepRes(nn.Module):
  """The encoder: ResNet-34 or -50 on the whole spectrogram, averaged over frequency.

  No code of the original is public; this is the closest form that its paper describes.

  Source: Ford et al., A deep residual network for large-scale acoustic scene analysis, Interspeech
    2019.
  """

  depth: int = 50
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
    """Returns `frames` [B, ceil(T / 16), C], and their mean as `embedding`; C as for `ResNet`.

    Args:
      log_mel: float[B, T, F] normalised log-mels.
      train: batch statistics where true.
      after_norm: applied to the input: there is no batch norm before the convolutions.
      placement: of the batch; by default it lies on all devices.
    """
    groups = groups_of(self.batch_norm, placement)
    x = log_mel if after_norm is None else after_norm(log_mel)
    x = ResNet(self.depth, self.width, groups, self.dtype, name="resnet")(x, train)
    frames = x.mean(axis=2)
    return {"frames": frames, "embedding": frames.mean(axis=1)}
