"""Mixup and SpecAugment on the device, as functions of a random key.

A form is the order of the augmentations in a published recipe:

- `authors`: mixup (one weight per batch, partner from the clip's own group), then SpecAugment,
  both before the first batch norm.
- `panns`: after the first batch norm, SpecAugment, then mixup of adjacent pairs with one weight
  per pair. 2B clips give B examples.

Source:
  Wang et al., IEEE SPL 2020, IV-B, and the authors' code; Kong et al., PANNs, 2020.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
FORMS = ("authors", "panns")
GROUP = 8  # usual size of the groups within which `authors` selects partners


class Augmentation(NamedTuple):
  """The settings of mixup and SpecAugment, both disabled by default.

  Attributes:
    form: The order of the augmentations, one of FORMS.
    mixup_alpha: The parameter of the Beta distribution of mixup weights. 0 disables mixup.
    time_stripes: The number of stripes of frames. 0 disables these stripes.
    time_width: The maximum width of a stripe of frames.
    band_stripes: The number of stripes of bands. 0 disables these stripes.
    band_width: The maximum width of a stripe of bands.
  """

  form: str = "authors"
  mixup_alpha: float = 0.0
  time_stripes: int = 0
  time_width: int = 0
  band_stripes: int = 0
  band_width: int = 0


def clips_per_example(settings: Augmentation) -> int:
  """Return the number of clips that the input pipeline must provide per example of a batch."""
  return 2 if settings.form == "panns" and settings.mixup_alpha > 0 else 1


def augmentation_plan(key: Array, settings: Augmentation, labels_BxK: Array):
  """Return the augmentation of a batch.

  Args:
    key: Random key.
    settings: The settings.
    labels_BxK: float[B, K], labels from the input pipeline.

  Returns:
    The transform of the spectrogram before the first batch norm, the transform after it (each may
    be None), and the labels to train on.

  Raises:
    ValueError: If the form is unknown.
  """
  if settings.form not in FORMS:
    raise ValueError(f"augment.form {settings.form!r}: must be one of {', '.join(FORMS)}")
  mixup_key, stripe_key = jax.random.split(key)
  mix = _no_change
  if settings.mixup_alpha > 0 and settings.form == "authors":
    mix = functools.partial(
      mix_within_groups, *draw_group_mixing(mixup_key, len(labels_BxK), settings.mixup_alpha)
    )
  elif settings.mixup_alpha > 0:
    alpha, pairs = settings.mixup_alpha, len(labels_BxK) // 2
    mix = functools.partial(mix_pairs, jax.random.beta(mixup_key, alpha, alpha, (pairs,)))
  mask = functools.partial(
    spec_augment,
    stripe_key,
    time_stripes=settings.time_stripes,
    time_width=settings.time_width,
    band_stripes=settings.band_stripes,
    band_width=settings.band_width,
  )
  if settings.form == "authors":
    return (lambda x: mask(mix(x))), None, mix(labels_BxK)
  return None, (lambda x: mix(mask(x))), mix(labels_BxK)


def _no_change(x: Array) -> Array:
  return x


def draw_group_mixing(key: Array, batch: int, alpha: float) -> tuple[Array, Array]:
  """Draw a mixup weight from Beta(alpha, alpha) for the batch, and a partner for each clip.

  Partners are permuted within groups of consecutive clips; see `group_size`. No clip is sent to
  another device if this size divides the number of clips of a device.

  Returns:
    The weight float32[], and the partners int32[B // group, group].
  """
  weight_key, partner_key = jax.random.split(key)
  group = group_size(batch)
  weight = jax.random.beta(weight_key, alpha, alpha)
  partners = jnp.argsort(jax.random.uniform(partner_key, (batch // group, group)), axis=1)
  return weight, partners


def group_size(batch: int) -> int:
  """Return the size of the groups within which the clips of a batch are mixed.

  It is the greatest common divisor of the batch size and GROUP. If that is below 4, where many
  clips would be their own partners, it is the largest divisor up to twice GROUP, or else the batch.
  """
  if is_of_eight(batch):
    return math.gcd(batch, GROUP)
  return next((size for size in range(2 * GROUP, 3, -1) if batch % size == 0), batch)


def is_of_eight(batch: int) -> bool:
  """Return whether 4 or 8 divides the size of a batch."""
  return math.gcd(batch, GROUP) >= 4


def mix_within_groups(weight: Array, partners_GxP: Array, x: Array) -> Array:
  """Return `weight * x + (1 - weight) * partner(x)` for each clip; x is [B, …]."""
  grouped = x.reshape(*partners_GxP.shape, *x.shape[1:])
  index = partners_GxP.reshape(*partners_GxP.shape, *(1,) * (x.ndim - 1))
  partner = jnp.take_along_axis(grouped, index, axis=1).reshape(x.shape)
  weight = weight.astype(x.dtype)
  return weight * x + (1 - weight) * partner


def mix_pairs(weights_B: Array, x: Array) -> Array:
  """Mix each pair of adjacent clips of x [2B, …] with its own weight, and return [B, …]."""
  pairs = x.reshape(-1, 2, *x.shape[1:])
  weights = weights_B.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
  return weights * pairs[:, 0] + (1 - weights) * pairs[:, 1]


def spec_augment(
  key: Array,
  x_BxTxF: Array,
  *,
  time_stripes: int,
  time_width: int,
  band_stripes: int,
  band_width: int,
) -> Array:
  """Set random stripes of frames and of bands to zero, drawn separately for each clip.

  The width of a stripe is uniform on 0 … its maximum, and its position is uniform. Stripes may
  overlap.

  Args:
    key: Random key.
    x_BxTxF: Log-mels.
    time_stripes: Number of stripes of frames.
    time_width: Maximum width of a stripe of frames.
    band_stripes: Number of stripes of bands.
    band_width: Maximum width of a stripe of bands.

  Source:
    Park et al., SpecAugment, Interspeech 2019, without time warping.
  """
  batch, frames, bands = x_BxTxF.shape
  time_key, band_key = jax.random.split(key)
  unmasked_BxT = ~_stripes(time_key, batch, frames, time_stripes, time_width)
  unmasked_BxF = ~_stripes(band_key, batch, bands, band_stripes, band_width)
  return jnp.where(unmasked_BxT[:, :, None] & unmasked_BxF[:, None, :], x_BxTxF, 0)


def _stripes(key: Array, batch: int, size: int, count: int, max_width: int) -> Array:
  """Return bool[batch, size], true inside a stripe."""
  width_key, start_key = jax.random.split(key)
  width = jax.random.randint(width_key, (batch, count, 1), 0, min(max_width, size) + 1)
  start = jax.random.randint(start_key, (batch, count, 1), 0, size - width + 1)
  position = jnp.arange(size)
  return ((position >= start) & (position < start + width)).any(axis=1)
