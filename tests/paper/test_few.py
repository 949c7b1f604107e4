"""Classifiers of labels with few positives."""

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import neighbour_weights
from atgcn_jax.paper import few_fits
from atgcn_jax.paper.few import as_markdown, best_strength, draw_curves
from atgcn_jax.paper.few_fits import Examples, drawn_clips, fit_linear, kept_positives
from atgcn_jax.paper.few_heads import PLAIN, Half, linear_fits


@pytest.fixture(scope="module")
def clips():
  """Return inputs of 400 clips and their three labels."""
  random = np.random.default_rng(0)
  inputs = random.standard_normal((400, 6)).astype(np.float32)
  labels = inputs @ random.standard_normal((6, 3)) + random.standard_normal((400, 3)) > 1.5
  return inputs, labels.astype(np.uint8)


def test_fewer_positives_are_a_part_of_more(clips):
  _, labels = clips
  kept = {n: kept_positives(labels, n, 0) for n in (1, 5, None)}
  assert [(kept[n] & (labels > 0)).sum(axis=0).tolist() for n in (1, 5)] == [[1] * 3, [5] * 3]
  assert kept[None].all()
  assert (kept[1] <= kept[5]).all()
  assert all(kept[n][labels == 0].all() for n in kept)
  assert not np.array_equal(kept[1], kept_positives(labels, 1, 1))


def test_every_counted_positive_is_drawn(clips, monkeypatch):
  monkeypatch.setattr(few_fits, "NEGATIVES", 50)
  _, labels = clips
  counted = kept_positives(labels, 5, 0)
  chosen = drawn_clips(labels, counted, 0)
  assert 50 <= len(chosen) <= 65
  assert ((labels > 0) & counted)[chosen].sum() == 15


def test_without_centres_the_fit_is_logistic_regression(clips, monkeypatch):
  monkeypatch.setattr(few_fits, "ITERATIONS", 300)
  inputs, labels = clips
  counted = kept_positives(labels, 7, 0)
  vectors, biases = fit_linear(
    Examples(inputs, labels.astype("f"), counted.astype("f")), strength=4.0
  )
  for k in range(3):
    expected = LogisticRegression(C=1 / 4.0, tol=1e-8).fit(
      inputs[counted[:, k]], labels[counted[:, k], k]
    )
    np.testing.assert_allclose(vectors[k], expected.coef_[0], atol=2e-3)
    assert biases[k] == pytest.approx(expected.intercept_[0], abs=2e-3)


def test_offsets_and_centres(clips, monkeypatch):
  monkeypatch.setattr(few_fits, "ITERATIONS", 300)
  inputs, labels = clips
  examples = Examples(inputs, labels.astype("f"), np.ones(labels.shape, "f"))
  centres = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
  # A distance from a centre is a distance from 0 of what is added to the centre's logits.
  vectors, biases = fit_linear(examples, 4.0, centres=centres)
  added, same = fit_linear(examples, 4.0, offsets=inputs @ centres.T)
  np.testing.assert_allclose(vectors, centres + added, atol=5e-3)
  np.testing.assert_allclose(biases, same, atol=5e-3)
  strong, _ = fit_linear(examples, 1e5, centres=centres)
  np.testing.assert_allclose(strong, centres, atol=1e-2)


def test_weights_of_neighbours():
  occurrences = np.array([10, 20, 40, 5])
  together = np.zeros((4, 4), int)
  together[3, :3] = together[:3, 3] = 1, 4, 0
  weights = neighbour_weights(Counts(occurrences, together), np.arange(3), np.array([3]))
  np.testing.assert_allclose(weights, [[1 / 3, 2 / 3, 0]])


def test_without_positives_scores_are_those_of_the_neighbours(clips):
  inputs, labels = clips
  known = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)
  weights = np.full((3, 4), 0.25, np.float32)
  parts = ("train", "validation", "test")
  estimates = {part: np.full(labels.shape, 2.0, np.float32) for part in parts}
  half = Half(dict.fromkeys(parts, inputs), dict.fromkeys(parts, labels), known, weights, estimates)
  plain, drawn, added = (fit(0, 20.0)("test") for fit in linear_fits(half, 0).values())
  assert (plain == 0).all()
  np.testing.assert_allclose(drawn, inputs @ known.mean(axis=0)[:, None].repeat(3, 1), rtol=1e-4)
  assert (added == 2).all()
  scores = linear_fits(half, 0)[PLAIN](None, 20.0)("test")
  assert best_strength(lambda n, s: lambda part: scores * (1 if s == 80 else -1), 5, labels) == 80
  assert np.isfinite(jax.device_get(scores)).all()


def test_the_table_has_a_column_per_number_of_positives(settings):
  values = [[0.1] * 7, [0.3] * 7]
  strengths = {("linear", n): 20.0 for n in (1, 2, 5, 10, 20, None)}
  text = as_markdown({"linear": values}, strengths, settings)
  assert "| classifier | 0 | 1 | 2 | 5 | 10 | 20 | all |" in text
  assert text.count("0.200 [-1.071, 1.471]") == 7
  assert "2 seeds" in text


def test_a_picture_that_fails_leaves_no_file(tmp_path, monkeypatch):
  path = tmp_path / "few.png"
  draw_curves(path, {PLAIN: [[0.1] * 7]})
  before = path.read_bytes()
  monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"part") and 1 / 0)
  with pytest.raises(ZeroDivisionError):
    draw_curves(path, {PLAIN: [[0.2] * 7]})
  assert path.read_bytes() == before


@pytest.fixture
def settings(tmp_path):
  from atgcn_jax.paper.experiment_configs import Settings

  return Settings("s.h5", tmp_path, None, 2, (), ())
