"""Mixup and SpecAugment, on the device, as functions of a key.

A form is the order in which a published recipe applies them:

- `authors`: mixup (one weight a batch, the partner from the clip's own group), then SpecAugment,
  both before the first batch norm.
- `panns`: behind the first batch norm, SpecAugment and then mixup of neighbouring pairs, a weight
  a pair, so that 2B clips give B.

Source: Wang et al., IEEE SPL 2020, IV-B, and the authors' code; Kong et al., PANNs, 2020.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
FORMS = ("authors", "panns")
GROUP = 8


def clips_per_example(config: Any) -> int:
  """How many clips the pipeline has to deliver for each example of a batch."""
  return 2 if config.form == "panns" and config.mixup_alpha > 0 else 1


def augmentation_plan(key: Array, config: Any, labels_BxK: Array):
  """The augmentation of one batch.

  Args:
    key: a random key.
    config: an `augment` section: `form`, `mixup_alpha`, and `time_stripes`, `time_width`,
      `band_stripes`, `band_width` of SpecAugment. An alpha or a number of stripes of 0 switches
      that part off.
    labels_BxK: float[B, K], the labels as they come from the pipeline.
  Returns:
    Transforms of the spectrogram for before and behind the first batch norm (None where there is
    none), and the labels to train on.
  Raises:
    ValueError: for an unknown form.
  """
  if config.form not in FORMS:
    raise ValueError(f"augment.form {config.form!r}: one of {', '.join(FORMS)}")
  mixup_key, stripe_key = jax.random.split(key)
  mix = _no_change
  if config.mixup_alpha > 0 and config.form == "authors":
    mix = functools.partial(
      mix_within_groups, *draw_group_mixing(mixup_key, len(labels_BxK), config.mixup_alpha)
    )
  elif config.mixup_alpha > 0:
    alpha, pairs = config.mixup_alpha, len(labels_BxK) // 2
    mix = functools.partial(mix_pairs, jax.random.beta(mixup_key, alpha, alpha, (pairs,)))
  mask = functools.partial(
    spec_augment,
    stripe_key,
    time_stripes=config.time_stripes,
    time_width=config.time_width,
    band_stripes=config.band_stripes,
    band_width=config.band_width,
  )
  if config.form == "authors":
    return (lambda x: mask(mix(x))), None, mix(labels_BxK)
  return None, (lambda x: mix(mask(x))), mix(labels_BxK)


def _no_change(x: Array) -> Array:
  return x


def draw_group_mixing(key: Array, batch: int, alpha: float) -> tuple[Array, Array]:
  """One weight Beta(alpha, alpha) for the batch and a partner for each clip.

  Partners are permuted within groups of GROUP consecutive clips (or of the largest size below
  that divides the batch), so that no clip has to cross from one device to another.

  Returns: weight float32[], partners int32[B // group, group].
  """
  weight_key, partner_key = jax.random.split(key)
  group = math.gcd(batch, GROUP)
  weight = jax.random.beta(weight_key, alpha, alpha)
  partners = jnp.argsort(jax.random.uniform(partner_key, (batch // group, group)), axis=1)
  return weight, partners


def mix_within_groups(weight: Array, partners_GxP: Array, x: Array) -> Array:
  """`weight` x + (1 - weight) partner(x), clip by clip; x is [B, …]."""
  grouped = x.reshape(*partners_GxP.shape, *x.shape[1:])
  index = partners_GxP.reshape(*partners_GxP.shape, *(1,) * (x.ndim - 1))
  partner = jnp.take_along_axis(grouped, index, axis=1).reshape(x.shape)
  weight = weight.astype(x.dtype)
  return weight * x + (1 - weight) * partner


def mix_pairs(weights_B: Array, x: Array) -> Array:
  """2B clips [2B, …] to B: each pair of neighbours mixed with its own weight."""
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
  """The log-mels with stripes of frames and of bands set to zero, drawn for each clip.

  Args:
    time_stripes, band_stripes: how many; stripes may overlap.
    time_width, band_width: a stripe's width is uniform on 0 … this, its place uniform.
  Source: Park et al., SpecAugment, Interspeech 2019, without time warping.
  """
  batch, frames, bands = x_BxTxF.shape
  time_key, band_key = jax.random.split(key)
  kept_BxT = ~_stripes(time_key, batch, frames, time_stripes, time_width)
  kept_BxF = ~_stripes(band_key, batch, bands, band_stripes, band_width)
  return jnp.where(kept_BxT[:, :, None] & kept_BxF[:, None, :], x_BxTxF, 0)


def _stripes(key: Array, batch: int, size: int, count: int, max_width: int) -> Array:
  """bool[batch, size], true inside a stripe."""
  width_key, start_key = jax.random.split(key)
  width = jax.random.randint(width_key, (batch, count, 1), 0, min(max_width, size) + 1)
  start = jax.random.randint(start_key, (batch, count, 1), 0, size - width + 1)
  position = jnp.arange(size)
  return ((position >= start) & (position < start + width)).any(axis=1)
