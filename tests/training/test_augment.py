"""Mixup and SpecAugment."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from marks import slow

from atgcn_jax import models
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training import augment

KEY = jax.random.key(5)
NO_STRIPES = {"time_stripes": 0, "band_stripes": 0}
SIZES = {"time_stripes": 2, "time_width": 10, "band_stripes": 2, "band_width": 4}


def settings_of(**changes):
  return augment.Augmentation(**(DEFAULTS["augment"] | changes))


# Compiled as a whole, which takes a fraction of the time of compiling each operation.
spec_augment = jax.jit(augment.spec_augment, static_argnames=tuple(SIZES))


def stripes(key, x, **changes):
  return np.asarray(spec_augment(key, x, **(SIZES | changes)))


def augmentation(**changes):
  """Return a compiled function of a key, clips and labels.

  It returns augmented clips and labels, and whether the clips change after the first batch norm.
  """

  @jax.jit
  def augmented(key, clips, labels):
    before, after, mixed = augment.augmentation_plan(key, settings_of(**changes), labels)
    assert (before is None) != (after is None)
    return (before or after)(clips), mixed, before is None

  return lambda *given: jax.device_get(augmented(*given))


def widths(zero):
  """Return the lengths of the runs of true entries in bool[n]."""
  edges = np.diff(np.concatenate([[0], zero.astype(int), [0]]))
  return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


def test_authors_mixup_uses_one_weight_and_partners_of_the_same_group():
  batch = 24
  # One-hot clips: row b of the mixed batch shows the components of clip b.
  clips = jnp.eye(batch).reshape(batch, batch, 1)
  mixup = augmentation(mixup_alpha=0.7, **NO_STRIPES)
  mixed, labels, after_norm = mixup(KEY, clips, jnp.eye(batch))
  mixed = mixed[..., 0]
  assert not after_norm
  np.testing.assert_array_equal(mixed, labels)
  np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-6)
  own = np.diag(mixed)
  weight = own[own < 1].min()
  assert 0 < weight < 1
  partners = []
  for clip, row in enumerate(mixed):
    others = [b for b in np.flatnonzero(row) if b != clip]
    if others:
      assert row[clip] == pytest.approx(weight)
      assert row[others[0]] == pytest.approx(1 - weight)
    else:
      assert row[clip] == pytest.approx(1)  # a clip may be its own partner
    partners.append(others[0] if others else clip)
  groups = np.arange(batch) // 8
  np.testing.assert_array_equal(np.array(partners) // 8, groups)
  assert sorted(partners) == list(range(batch))  # a permutation
  assert (np.array(partners) != np.arange(batch)).sum() > batch / 2


GROUPS = {16: 8, 12: 4, 6: 6, 7: 7, 50: 10, 45: 15, 34: 34, 1: 1}


@pytest.mark.parametrize(("batch", "group"), GROUPS.items())
def test_groups_divide_the_batch(batch, group):
  _, partners = augment.draw_group_mixing(KEY, batch, 0.2)
  assert partners.shape == (batch // group, group)
  np.testing.assert_array_equal(np.sort(partners), np.tile(np.arange(group), (batch // group, 1)))


def test_weights_follow_the_beta_distribution():
  draw = jax.jit(jax.vmap(lambda key: augment.draw_group_mixing(key, 8, 0.2)[0]))
  weights = np.asarray(draw(jax.random.split(KEY, 4000)))
  assert weights.mean() == pytest.approx(0.5, abs=0.03)
  assert weights.var() == pytest.approx(0.25 / (2 * 0.2 + 1), abs=0.01)  # of Beta(a, a)


def test_panns_mixup_turns_pairs_into_clips():
  clips = jnp.eye(16)[:, :, None]
  mixup = augmentation(form="panns", mixup_alpha=1.0, **NO_STRIPES)
  mixed, labels, after_norm = mixup(KEY, clips, jnp.eye(16))
  mixed = mixed[..., 0]
  assert after_norm
  assert mixed.shape == (8, 16)
  np.testing.assert_array_equal(mixed, labels)
  weights = mixed[np.arange(8), 2 * np.arange(8)]
  assert len(np.unique(weights)) == 8
  expected = np.zeros((8, 16))
  expected[np.arange(8), 2 * np.arange(8)] = weights
  expected[np.arange(8), 2 * np.arange(8) + 1] = 1 - weights
  np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_panns_mixup_comes_after_the_norm_of_all_unmixed_clips():
  config = ml_collections.ConfigDict(
    DEFAULTS["model"]
    | {"head": "linear", "width": 1 / 64}
    | {"dropout": {"block": 0.0, "pooled": 0.0, "embedding": 0.0}}
  )
  model = models.build(config, num_classes=3)
  clips = 3 + 2 * np.random.default_rng(0).standard_normal((8, 16, 16)).astype("f")
  variables = jax.tree.map(
    lambda x: jnp.ones(x.shape), jax.eval_shape(model.init, KEY, jnp.zeros((1, 16, 16)))
  )
  augmentation = settings_of(form="panns", mixup_alpha=1.0, **SIZES)

  def train(variables, clips):
    seen = []
    _, behind, _ = augment.augmentation_plan(KEY, augmentation, jnp.zeros((8, 3)))
    logits, updates = model.apply(
      variables,
      clips,
      train=True,
      after_norm=lambda x: seen.append(x) or behind(x),
      mutable=["batch_stats"],
    )
    return logits, updates["batch_stats"]["encoder"]["bn0"], seen[0]

  compiled = jax.jit(train, compiler_options={"xla_backend_optimization_level": 0})
  logits, statistics, normalised = compiled(variables, clips)
  assert logits.shape == (4, 3)
  mean, variance = clips.mean(axis=(0, 1)), clips.var(axis=(0, 1))
  np.testing.assert_allclose(statistics["mean"], 0.9 + 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * variance, rtol=1e-5)
  np.testing.assert_allclose(normalised, 1 + (clips - mean) / np.sqrt(variance + 1e-5), atol=1e-4)


def test_clips_per_example():
  assert augment.clips_per_example(settings_of()) == 1
  assert augment.clips_per_example(settings_of(form="panns")) == 2
  assert augment.clips_per_example(settings_of(form="panns", mixup_alpha=0.0)) == 1


@pytest.mark.parametrize("form", augment.FORMS)
def test_all_off_changes_nothing(form):
  x = jax.random.normal(KEY, (8, 20, 16))
  labels = jnp.eye(8)
  nothing = augmentation(form=form, mixup_alpha=0.0, **NO_STRIPES)
  unchanged, kept, _ = nothing(KEY, x, labels)
  np.testing.assert_array_equal(unchanged, x)
  np.testing.assert_array_equal(kept, labels)


def test_unknown_form():
  with pytest.raises(ValueError, match="cutmix"):
    augment.augmentation_plan(KEY, settings_of(form="cutmix"), jnp.eye(4))


def test_stripes_are_complete_rows_and_columns():
  x = 1 + jax.random.uniform(KEY, (64, 50, 20))
  masked = stripes(KEY, x)
  zero = masked == 0
  np.testing.assert_array_equal(masked, np.where(zero, 0, x))
  rows, columns = zero.all(axis=2), zero.all(axis=1)
  np.testing.assert_array_equal(zero, rows[:, :, None] | columns[:, None, :])
  for found, width in ((rows, 10), (columns, 4)):
    assert max(len(widths(row)) for row in found) == 2
    assert width < found.sum(axis=1).max() <= 2 * width  # two separate stripes
    assert len(np.unique(found, axis=0)) > 40  # different stripes for each clip


def test_one_stripe_takes_every_width_and_place():
  x = jnp.ones((4000, 30, 16))
  rows = (stripes(KEY, x, time_stripes=1, time_width=6, band_stripes=0) == 0).all(axis=2)
  assert max(len(widths(row)) for row in rows[:200]) == 1
  counts = np.bincount(rows.sum(axis=1), minlength=7) / len(rows)
  assert len(counts) == 7
  np.testing.assert_allclose(counts, 1 / 7, atol=0.025)
  assert rows.any(axis=0).all()  # the first and the last frame too


def test_only_the_configured_axis_is_masked():
  x = jnp.ones((32, 30, 16))
  assert not (stripes(KEY, x, time_stripes=0) == 0).all(axis=2).any()
  assert not (stripes(KEY, x, band_stripes=0) == 0).all(axis=1).any()
  np.testing.assert_array_equal(stripes(KEY, x, time_stripes=0, band_stripes=0), x)
  assert stripes(KEY, x, time_width=0, band_width=0).all()


def test_a_stripe_may_be_as_wide_as_the_clip():
  masked = stripes(KEY, jnp.ones((400, 8, 16)), time_stripes=1, time_width=100, band_stripes=0)
  assert set((masked == 0).all(axis=2).sum(axis=1)) == set(range(9))


@pytest.mark.parametrize("form", ["authors", slow("panns")])
def test_augmentation_is_a_pure_function_of_the_key(form):
  x = jax.random.normal(KEY, (16, 40, 16))
  augmented = augmentation(form=form, mixup_alpha=1.0, **SIZES)
  one, again, other = (augmented(jax.random.key(seed), x, jnp.eye(16)) for seed in (1, 1, 2))
  jax.tree.map(np.testing.assert_array_equal, one, again)
  assert not np.array_equal(one[0], other[0])
  assert not np.array_equal(one[1], other[1])
