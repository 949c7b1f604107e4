"""The 3x3 convolution of CNN10."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.fast import folded_convolution
from atgcn_jax.models.layers import Array, parameter_dtype


class Convolution(nn.Module):
  """A 3x3 convolution without bias, with zero padding around each clip."""

  inputs: int
  channels: int
  dtype: jnp.dtype

  def setup(self):
    """Create the kernel."""
    shape, init = (3, 3, self.inputs, self.channels), nn.initializers.xavier_uniform()
    self.kernel = self.param("kernel", init, shape, parameter_dtype(self.dtype))

  def __call__(self, x_BxTxFxC: Array, parts: int | None = None) -> Array:
    """Return the convolution, [B, T, F, channels].

    Args:
      x_BxTxFxC: [B, T, F, inputs].
      parts: The number of parts into which clips are folded, for the form for TPUs. None for the
        default form.
    """
    x = x_BxTxFxC.astype(self.dtype)
    if parts:
      return folded_convolution.convolve_parts(x, self.kernel, parts)
    return folded_convolution.folded_convolve(x, self.kernel)
