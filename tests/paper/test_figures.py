"""Tests of drawing Figures 3 and 4 and of the tables written with them."""

import csv

import numpy as np
import pytest
from test_graph_summary import size_of

from atgcn_jax.paper.figure3 import draw_figure3, write_figure3_csv
from atgcn_jax.paper.figure4 import draw_figure4, label_space, write_figure4

CURVES = (
  [(0.3, [0.43, 0.44]), (0.0, [0.2, 0.3]), (1.0, [0.4, 0.4])],
  [(0.2, [0.43, 0.44]), (1.0, [0.1, 0.1])],
)
BASELINE, TITLES = [0.42, 0.41], ["CNN10", "AT-GCN"]


def rows_of(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_figure3_is_drawn_and_written(tmp_path):
  draw_figure3(CURVES, BASELINE, TITLES, tmp_path / "f.png")
  assert min(size_of(tmp_path / "f.png")) > 300
  write_figure3_csv(CURVES, BASELINE, tmp_path / "f.csv")
  rows = rows_of(tmp_path / "f.csv")
  assert [(row["setting"], row["value"]) for row in rows] == [
    ("graph.threshold", "0.3"),
    ("graph.threshold", "0"),
    ("graph.threshold", "1"),
    ("graph.neighbour_weight", "0.2"),
    ("graph.neighbour_weight", "1"),
    ("cnn10", ""),
  ]
  assert float(rows[1]["mAP"]) == pytest.approx(0.25)
  assert float(rows[1]["mAP_deviation"]) == pytest.approx(0.05 * 2**0.5, rel=1e-4)
  one_seed = [[(value, seeds[:1]) for value, seeds in curve] for curve in CURVES]
  draw_figure3(one_seed, BASELINE[:1], TITLES, tmp_path / "f.svg")
  write_figure3_csv(one_seed, BASELINE[:1], tmp_path / "one.csv")
  assert {row["mAP_deviation"] for row in rows_of(tmp_path / "one.csv")} == {""}


def clusters(count=30, spread=0.05):
  """Return label vectors in three clusters, one per category, with alternating categories."""
  random = np.random.default_rng(0)
  centres = np.eye(3, 8)
  kinds = [k % 3 for k in range(count)]
  vectors = centres[kinds] + spread * random.standard_normal((count, 8))
  return vectors * random.uniform(1, 5, (count, 1)), [[f"kind {k}"] for k in kinds]


def test_label_space_of_clusters_and_of_noise():
  vectors, categories = clusters()
  tight = label_space(vectors, categories)
  assert tight.neighbours > 0.85  # a label has only nine others of its category, so nine of ten
  assert tight.chance == pytest.approx(9 / 29)
  assert min(tight.silhouette.values()) > 0.8
  loose = label_space(clusters(spread=3.0)[0], categories)
  assert abs(loose.neighbours - loose.chance) < 0.15
  assert loose.mean_silhouette < 0.1


def test_neighbours_by_hand():
  angles = np.radians([0, 10, 25, 90, 101])
  vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
  # Each label has four others, which are all neighbours. Any shared category counts.
  found = label_space(vectors, [["a"], ["a", "b"], ["b"], ["b"], ["c"]])
  shared = [1, 3, 2, 2, 0]
  assert found.neighbours == found.chance == pytest.approx(np.mean(shared) / 4)
  assert np.isnan(found.silhouette["c"])  # only one label


def test_figure4_is_drawn_and_written(tmp_path):
  vectors, categories = clusters()
  names = [f"label {k}" for k in range(28)] + ["Piano", "Guitar"]
  panels = {"CNN10": clusters(spread=1.0)[0], "AT-GCN": vectors}
  draw_figure4(panels, categories, names, tmp_path / "f.svg")
  text = (tmp_path / "f.svg").read_text()
  assert all(part in text for part in ("CNN10", "AT-GCN", "kind 0", "kind 2", "Piano", "Guitar"))
  assert ">label 6<" in text  # nine names, first those in NAMED
  assert ">label 7<" not in text
  draw_figure4(panels, categories, [*names[:28], "x", "y"], tmp_path / "g.svg")
  assert ">label 8<" in (tmp_path / "g.svg").read_text()
  spaces = {title: label_space(panel, categories) for title, panel in panels.items()}
  table = write_figure4(spaces, tmp_path / "f.csv")
  rows = {row["figure"]: row for row in rows_of(tmp_path / "f.csv")}
  assert float(rows["silhouette, kind 1"]["AT-GCN"]) == pytest.approx(
    spaces["AT-GCN"].silhouette["kind 1"], abs=1e-6
  )
  assert f"{spaces['CNN10'].neighbours:.3f}" in table
