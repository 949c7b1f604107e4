"""The report page: complete, self-contained, escaped and reproducible."""

import hashlib
import html.parser
import json
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from sklearn.metrics import average_precision_score

from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.reports import figure_style, page_figures
from atgcn_jax.reports.confusions import Mistake
from atgcn_jax.reports.page import write_report
from atgcn_jax.reports.page_mistakes import Example
from atgcn_jax.reports.recall_figure import curve_groups, recall_and_precision

NASTY = (
  *("Rock & roll", "<b>Bold</b>", 'A "quoted" one', "$x^2$ {y} %s", "犬の鳴き声", "O'Clock"),
  *('url(#dots) id="x"', "</script><script>alert(1)</script>", "two  words", "g" * 50),
)
VOID = {"meta", "link", "br", "image", "img"}


class Page(html.parser.HTMLParser):
  """A parser that checks closing tags and collects attributes and the text by innermost tag."""

  def __init__(self, source: str):
    super().__init__()
    self.open: list[str] = []
    self.attributes: list[tuple[str, str, str | None]] = []
    self.texts: dict[str, list[str]] = {}
    self.feed(source)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.attributes += [(tag, name, value) for name, value in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.attributes += [(tag, name, value) for name, value in attrs]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

  def all(self, tag: str) -> list[str]:
    return self.texts.get(tag, [])


def arguments(K: int, **changes):
  random = np.random.default_rng(K)
  names = tuple(NASTY[k] if k < len(NASTY) else f"Label {k}" for k in range(K))
  linked = random.random((K, K)) * (random.random((K, K)) < 0.2)
  records = [{"step": s, "loss": 0.7 / s, "learning_rate": 1e-3} for s in range(1, 200)]
  records += [{"step": s, "mAP": s / 400, "mAUC": 0.9, "d_prime": 1.8} for s in (50, 100, 150)]
  clips = 40
  return {
    "title": "A <run> & more",
    "result": {"split": "test", "clips": clips, "mAP": 0.123456, "d_prime": None, "<x>": "&"},
    "records": records,
    "vocabulary": Vocabulary(tuple(f"/m/{k}&" for k in range(K)), names),
    "scores": random.random((clips, K)),
    "labels": random.random((clips, K)) < 0.3,
    "average_precision": random.random(K),
    "auc": random.random(K),
    "thresholds": None,
    "heard": [Example(Mistake(0, 0), "<clip> 0", "data:image/png;base64,AA==")],
    "missed": [Example(Mistake(1, K - 1), "clip 1", "", "data:audio/mpeg;base64,AA==")],
    "label_vectors": random.standard_normal((K, 8)).astype(np.float32),
    "propagation": (linked + np.eye(K)).astype(np.float32),
    "config": {"model": {"head": "<graph>"}, "words": "</pre>"},
  } | changes


def counted(*positives: int) -> np.ndarray:
  """Return labels [40, K], with these numbers of clips."""
  return np.arange(40)[:, None] < np.array(positives)


def written(folder, K: int, **changes) -> str:
  write_report(folder / "report.html", **arguments(K, **changes))
  return (folder / "report.html").read_text(encoding="utf-8")


def cells(source: str) -> list[list[str]]:
  """Return the rows of the table of labels."""
  table = source.partition('<div class="long"')[2].partition("</table>")[0]
  rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
  return [
    [html.unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in rows
  ]


def test_page_is_self_contained(tmp_path):
  source = written(tmp_path, 12)
  page = Page(source)
  ids = [value for _, name, value in page.attributes if name == "id"]
  assert len(ids) == len(set(ids)) > 0
  for tag, name, value in page.attributes:
    if (tag, name) in (("img", "src"), ("audio", "src")):
      assert value.startswith("data:")
    elif name in ("src", "href", "xlink:href", "data", "action", "srcset"):
      assert value in {f"#{known}" for known in ids}
  for target in re.findall(r"url\(#?([^)]*)\)", "".join(re.findall(r"<[^>]+>", source))):
    assert target in ids
  assert "://" not in source
  assert "@import" not in source
  assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_all_names_escaped(tmp_path):
  page = Page(source := written(tmp_path, len(NASTY)))
  assert len(page.all("script")) == 1
  assert page.all("b") == []
  assert page.all("title")[0] == page.all("h1")[0] == "A <run> & more"
  shown = [row[0] for row in cells(source)]
  assert sorted(shown) == sorted(NASTY)
  assert sorted(row[1] for row in cells(source)) == [f"/m/{k}&" for k in range(len(NASTY))]
  # In the map, each label has a name and a tooltip.
  drawn = source.partition('<svg class="map"')[2].partition("</svg>")[0]
  tips = [html.unescape(tip) for tip in re.findall(r"<title>(.*?)</title>", drawn, re.DOTALL)]
  assert tips == list(NASTY)
  labels = [html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", drawn)]
  assert {"Rock & roll", "$x^2$ {y} %s", "犬の鳴き声", "two words", "g" * 31 + "…"} <= {*labels}
  assert 'url(#dots) id="x"' in labels
  assert "<graph>" in "".join(page.all("pre"))
  assert "</pre>" in "".join(page.all("pre"))


def test_values(tmp_path):
  precision = np.array([0.25, np.nan, 1.0, 0.5])
  auc = np.array([0.75, np.nan, 0.99996, 0.5])
  labels = counted(3, 0, 40, 7)
  source = written(tmp_path, 4, average_precision=precision, auc=auc, labels=labels)
  assert [row[2:5] for row in cells(source)] == [
    ["40", "1.0000", "1.0000"],
    ["7", "0.5000", "0.5000"],
    ["3", "0.2500", "0.7500"],
    ["0", "–", "–"],
  ]
  assert "undefined for 1 of 4 labels" in source
  assert "mean, 0.583" in source
  assert "<td>mAP</td><td>0.1235</td>" in source
  assert "<td>d_prime</td><td>–</td>" in source
  assert "best 0.375 at step 150" in source


def test_the_top_has_intervals_chance_and_the_clips(tmp_path, plain_pages):
  result = {
    **{"mAP": 0.5, "mAP_low": 0.4, "mAP_high": 0.6, "mAUC": None, "mAUC_low": None},
    **{"split": "validation", "step": 30, "folds": ["a", "b"], "store": "x.h5", "OmAP": 0.7},
  }
  source = written(tmp_path, 4, result=result, labels=counted(4, 0, 8, 12))
  top = source.partition("<section>")[0]
  assert "0.5000 (95 % interval 0.4000 to 0.6000); random scores: 0.1500" in top
  assert "<td>mAUC</td><td>–</td>" in top
  assert "<td>Clips</td><td>40 of the split validation (folds a, b)</td>" in top
  assert "<td>Step</td><td>30</td>" in top
  assert "mAP_low" not in top
  last = source.rpartition("<section>")[2]
  assert "<td>mAP_low</td><td>0.4000</td>" in last
  config = arguments(4)["config"]
  digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
  assert digest in last


def test_curves_are_smoothed_if_there_are_enough_records():
  values = np.random.default_rng(0).random(100)
  smooth = page_figures.smoothed(values)
  assert smooth is not None
  assert smooth[50] == pytest.approx(values[48:53].mean())
  assert smooth[0] == pytest.approx(values[:3].mean())
  assert smooth[-1] == pytest.approx(values[-3:].mean())
  assert page_figures.smoothed(values[:30]) is None


def test_the_thick_line_is_explained(tmp_path, plain_pages):
  assert "running mean of the loss" in written(tmp_path, 3)
  few = [{"step": step, "loss": 0.5} for step in range(10)]
  assert "running mean of the loss" not in written(tmp_path, 3, records=few)


@pytest.mark.parametrize("K", [1, 2, 9, 10, 30])
def test_labels_with_a_precision_recall_curve(K):
  precision = np.random.default_rng(0).permutation(K) / K
  groups = [part.tolist() for part in curve_groups(np.append(precision, np.nan)).values()]
  ranked = np.argsort(-precision).tolist()
  if K <= 9:
    assert [k for group in groups for k in group] == ranked
  else:
    middle = (K - 3) // 2
    assert groups == [ranked[:3], ranked[middle : middle + 3], ranked[-3:]]


def test_the_area_below_a_curve_is_the_average_precision():
  random = np.random.default_rng(0)
  scores, positive = random.random(300).round(1), random.random(300) < 0.2  # with ties
  recall, precision = recall_and_precision(scores, positive)
  area = (np.diff(recall) * precision[1:]).sum()
  assert area == pytest.approx(average_precision_score(positive, scores))
  assert recall[0] == 0
  assert recall[-1] == 1
  many = recall_and_precision(random.random(9000), random.random(9000) < 0.5)
  assert len(many[0]) == 400
  assert many[0][-1] == 1


@pytest.mark.slow
def test_mistakes(tmp_path):
  source = written(tmp_path, 12)
  section = source.partition("<h2>Worst mistakes</h2>")[2].partition("</section>")[0]
  assert '<img alt="Log-mel spectrogram of &lt;clip&gt; 0" src="data:image/png' in section
  assert section.count("<audio") == 1
  assert f"<strong>{html.escape(NASTY[0])}</strong>" in section
  assert "--audio" not in section
  nothing: dict = {"heard": [], "missed": []}
  assert written(tmp_path, 12, **nothing).count("No mistakes.") == 2
  assert "--audio" not in written(tmp_path, 12, **nothing)
  silent = {"heard": [], "missed": [Example(Mistake(1, 0), "clip 1")]}
  assert written(tmp_path, 12, **silent).count("No mistakes.") == 1
  assert "evaluate with --audio DIR" in written(tmp_path, 12, **silent)


def test_each_label_has_what_is_heard_instead(tmp_path, plain_pages):
  labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
  scores = np.array([[0.1, 0.9, 0.9], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.9]])
  thresholds = np.array([0.5, 0.5, 0.5])
  source = written(tmp_path, 3, labels=labels, scores=scores, thresholds=thresholds)
  section = source.partition("<h2>Confusions</h2>")[2].partition("</section>")[0]
  assert "its threshold, stored with the run" in section
  rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)[1:]
  found = [[html.unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]
  a, b, c = NASTY[:3]
  assert found == [
    [a, "2", "1", f"{b} 1, {c} 1", ""],
    [b, "1", "1", "nothing 1", f"{a} 1"],
    [c, "0", "0", "", f"{a} 1, no label 1"],
  ]
  assert "as many clips reach as have the label" in written(tmp_path, 3)


def test_each_label_has_its_strongest_neighbours(tmp_path, plain_pages):
  precision = np.array([0.25, np.nan, 1.0, 0.5, 0.125])
  graph = np.eye(5)
  graph[0, [1, 2, 3, 4]] = 0.1, 0.4, 0.3, 0.2
  source = written(tmp_path, 5, average_precision=precision, propagation=graph)
  near = {row[0]: row[5] for row in cells(source)}
  assert near[NASTY[0]] == f"{NASTY[2]} 1.0000, {NASTY[3]} 0.5000, {NASTY[4]} 0.1250"
  assert near[NASTY[1]] == ""
  assert "Random scores have an mAP of about" in source


@pytest.mark.parametrize("K", [1, 2, 3])
def test_few_labels(tmp_path, K):
  source = written(tmp_path, K, propagation=np.full((K, K), 0.5))
  Page(source)
  assert len(cells(source)) == K
  assert ("requires at least three labels" in source) == (K < 3)
  assert ('class="map"' in source) == (K >= 3)
  assert ('class="graph"' in source) == (K >= 2)


def test_missing_parts_are_reported(tmp_path):
  nan = np.full(5, np.nan)
  changes: dict = {"records": [], "label_vectors": None, "propagation": None, "auc": nan}
  source = written(tmp_path, 5, average_precision=nan, **changes)
  Page(source)
  for sentence in (
    "no label graph",
    "no label vectors",
    "no training records",
    "undefined for 5 of 5",
  ):
    assert sentence in source
  assert "<svg" not in source


@pytest.mark.parametrize("kind", ["loss", "mAP"])
def test_one_kind_of_records(tmp_path, kind):
  records = [{"step": 10, kind: 0.5}, {"step": 20, kind: None}, {"step": 30, kind: float("nan")}]
  source = written(tmp_path, 3, records=records)
  assert source.count(">no records</text>") == 1


@pytest.mark.parametrize(
  ("vectors", "sentence"),
  [
    (np.ones((6, 4)), "requires at least three labels"),
    (np.full((6, 4), np.inf), "NaN or infinite values"),
    (np.arange(6.0)[:, None], 'class="map"'),
    (np.eye(6) * 1e30, 'class="map"'),
  ],
)
def test_odd_vectors(tmp_path, vectors, sentence):
  assert sentence in written(tmp_path, 6, label_vectors=vectors)


def test_a_graph_without_edges(tmp_path, plain_pages):
  source = written(tmp_path, 6, propagation=np.eye(6))
  assert "edges: 0; labels: 6; labels without a neighbour: 6." in source
  assert "Without edges, the graph has no effect on the scores." in source
  assert 'class="graph"' not in source
  propagation = np.eye(6)
  propagation[2, 0] = propagation[0, 1] = 0.1  # labels 2 and 0 receive
  source = written(tmp_path, 6, propagation=propagation)
  assert "edges: 2; labels: 6; labels without a neighbour: 4." in source


@pytest.mark.slow
def test_same_bytes(tmp_path):
  first = written(tmp_path, 24)
  with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
    assert written(tmp_path, 24) == first
  assert written(tmp_path, 24, seed=1) != first


@pytest.mark.slow
def test_many_labels(tmp_path):
  K = 300
  before = matplotlib.rcParams.copy()
  source = written(tmp_path, K)
  assert matplotlib.rcParams.copy() == before
  Page(source)
  assert len(source) < 600_000
  assert len(cells(source)) == K
  assert {"20 best labels", "20 worst labels"} <= {*re.findall(r">(20 \w+ labels)<", source)}
  assert source.partition('<svg class="map"')[2].count("<title>") == K
  graph = source.partition('<svg class="graph"')[2].partition("</svg>")[0]
  assert 0 < graph.count("<text") < 60


@pytest.mark.parametrize("K", [20, 100])
def test_names_do_not_hide_each_other(K):
  # The dots are in a row, closer to each other than the length of their names.
  names = [f"A rather long name {k}" for k in range(K)]
  places = np.stack([np.linspace(0.1, 0.9, K), np.full(K, 0.5)], axis=1)
  with figure_style.drawing():
    figure, axes = figure_style.map_axes(5.0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure_style.write_names(axes, places, names, np.arange(K))
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # the name without its line
  assert len(boxes) == 20 if K == 20 else 5 < len(boxes) <= 40
  for i, box in enumerate(boxes):
    assert not [other for other in boxes[:i] if box.padded(-1.5).overlaps(other)]
    assert axes.bbox.x0 <= box.x0
    assert box.x1 <= axes.bbox.x1


def test_strongest_edges():
  propagation = np.array([[9, 0.5, 0.0], [0.2, 9, 0.5], [0.7, 0.0, 9]])
  receivers, senders, weights = page_figures.strongest_edges(propagation, 3)
  assert [*zip(receivers, senders, weights)] == [(2, 0, 0.7), (0, 1, 0.5), (1, 2, 0.5)]
  assert len(page_figures.strongest_edges(propagation, 9)[2]) == 4
  assert len(page_figures.strongest_edges(np.eye(3), 9)[2]) == 0


def test_series_keeps_the_later_record():
  records: list[dict] = [
    {"step": 20, "loss": 2.0},
    {"step": 10, "loss": 1.0},
    {"step": 20, "loss": 3},
    {"a": 1},
    {"step": 30, "loss": "0.5"},
    {"step": 40, "mAP": 0.5},
  ]
  steps, values = page_figures.series(records, "loss")
  assert steps.tolist() == [10, 20]
  assert values.tolist() == [1.0, 3.0]


def test_an_older_page_survives_a_failure(tmp_path, plain_pages):
  first = written(tmp_path, 4)
  with pytest.raises(ValueError, match=r"auc \(3,\) does not fit a vocabulary of 4 labels"):
    written(tmp_path, 4, auc=np.zeros(3))
  with pytest.raises(ValueError, match="propagation"):
    written(tmp_path, 4, propagation=np.eye(3))
  assert (tmp_path / "report.html").read_text(encoding="utf-8") == first
  (tmp_path / "folder").mkdir()
  with pytest.raises(OSError, match="folder"):
    write_report(tmp_path / "folder", **arguments(4))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "report.html"]


@pytest.mark.slow
def test_the_map_shows_the_most_frequent_labels(tmp_path, monkeypatch):
  assert "The map shows" not in written(tmp_path, 12)
  monkeypatch.setattr(page_figures, "MAPPED", 5)
  source = written(tmp_path, 12, labels=counted(*range(12)))
  assert "The map shows the 5 of 12 labels with the most clips." in source
  drawing = source.partition("<h2>Label vectors</h2>")[2].partition("</section>")[0]
  assert "Label 11" in drawing
  assert NASTY[0] not in html.unescape(drawing)
