"""What the page and the API show of a sound: its timeline, detections, spectrogram and graph."""

from __future__ import annotations

import collections
import secrets
import threading
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.sparse import edges_of
from atgcn_jax.serving.detections import Detection, Rules, as_file, detections
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.serving.timeline import Timeline, nearest_spans
from atgcn_jax.serving.web.limits import KEPT_BYTES, Limits, Refused
from atgcn_jax.serving.web.spectrogram import spectrogram_json
from atgcn_jax.serving.web.uploads import decoded

OVERHEAD = 4096  # bytes of a result besides its arrays
LABELS = 30  # number of labels with scores over time
ROWS = 1200  # maximum number of scores over time of a label
IN_GRAPH, NEIGHBOURS = 12, 4  # number of labels found in the graph, and of neighbours of each


class Result(NamedTuple):
  """The scores of a sound.

  Attributes:
    name: The name of the sound.
    seconds: Its length.
    line: Its timeline.
    remarks: What is wrong with the sound.
  """

  name: str
  seconds: float
  line: Timeline
  remarks: list[str]


class Results:
  """The newest results, by an id that cannot be guessed. The oldest are dropped."""

  def __init__(self, most_bytes: int = KEPT_BYTES):
    self._most, self._bytes = most_bytes, 0
    self._kept: collections.OrderedDict[str, Result] = collections.OrderedDict()
    self._lock = threading.Lock()

  def add(self, result: Result) -> str:
    """Keep a result and return its id."""
    key = secrets.token_urlsafe(12)
    with self._lock:
      self._kept[key] = result
      self._bytes += _bytes_of(result)
      while self._bytes > self._most and len(self._kept) > 1:
        self._bytes -= _bytes_of(self._kept.popitem(last=False)[1])
    return key

  def get(self, key: str) -> Result:
    """Return a result.

    Raises:
      Refused: There is no such result.
    """
    with self._lock:
      if key not in self._kept:
        raise Refused(404, "There is no result with this id any more; send the sound again.")
      self._kept.move_to_end(key)
      return self._kept[key]


def _bytes_of(result: Result) -> int:
  return OVERHEAD + sum(array.nbytes for array in result.line)


class Analysis:
  """The analysis of sounds with one tagger.

  Attributes:
    tagger: The tagger.
    limits: The limits of uploads.
    hop_seconds: See `Tagger.timeline`.
  """

  def __init__(self, tagger: Tagger, limits: Limits, hop_seconds: float | None = None):
    self.tagger, self.limits, self.hop_seconds = tagger, limits, hop_seconds
    matrix = tagger.run.propagation
    self._edges = None if matrix is None else edges_of(matrix)

  def prepare(self) -> None:
    """Compile the programs for one and for several windows, so that the first sound is quick.

    Raises:
      UserError: If the hop is out of its range.
    """
    size = self.tagger.run.frontend.samples
    for samples in (size, 2 * size):
      self._line(np.zeros(samples, np.float32))

  def result_of(self, name: str, body: bytes) -> tuple[Result, dict[str, Any]]:
    """Return the result of the bytes of a sound file, and its spectrogram as JSON.

    Raises:
      Refused: They cannot be used.
    """
    frontend = self.tagger.run.frontend
    sound = decoded(name, body, frontend.sample_rate, self.limits)
    seconds = len(sound.waveform) / frontend.sample_rate
    result = Result(name, seconds, self._line(sound.waveform), sound.remarks)
    return result, spectrogram_json(sound.waveform, frontend)

  def _line(self, waveform: np.ndarray) -> Timeline:
    (outcome,) = self.tagger.timelines([waveform], hop_seconds=self.hop_seconds)
    if isinstance(outcome.error, UserError):
      raise Refused(422, f"{outcome.error}.")
    if isinstance(outcome.error, WorkFailed):
      raise Refused(500, f"{outcome.error}.")
    return outcome.value

  def found(self, result: Result, rules: Rules) -> list[Detection]:
    """Return the detections in a sound."""
    return detections(result.line, self.tagger.vocabulary, rules)

  def result_json(self, result: Result, rules: Rules) -> dict[str, Any]:
    """Return all of a result as JSON."""
    return {
      "name": result.name,
      "seconds": result.seconds,
      "remarks": result.remarks,
    } | self.detections_json(result, rules)

  def detections_json(self, result: Result, rules: Rules) -> dict[str, Any]:
    """Return the detections in a sound, and the timeline and the graph of their labels, as JSON."""
    found = self.found(result, rules)
    return {
      "detections": [one._asdict() for one in found],
      "timeline": self._timeline_json(result.line, found),
      "graph": self._graph_json(found),
    }

  def _timeline_json(self, line: Timeline, found: list[Detection]) -> dict[str, Any]:
    """Return the scores over time of the labels found, then of others, the highest scores first."""
    starts, ends = nearest_spans(line)
    step = -(-len(starts) // ROWS)
    firsts = np.arange(0, len(starts), step)
    scores = np.maximum.reduceat(line.scores, firsts)
    highest = scores.max(axis=0)
    vocabulary = self.tagger.vocabulary
    is_other = np.ones(len(vocabulary), bool)
    is_other[vocabulary.positions(one.id for one in found)] = False
    labels = np.lexsort((-highest, is_other))[:LABELS]
    ids, names = vocabulary.ids, vocabulary.names
    return {
      "start_s": starts[firsts].round(3).tolist(),
      "end_s": np.append(starts[firsts][1:], ends[-1]).round(3).tolist(),
      "labels": [
        {
          "id": ids[k],
          "name": names[k],
          "highest": float(highest[k]),
          "scores": [round(score, 3) for score in scores[:, k].tolist()],
        }
        for k in labels
      ],
    }

  def _graph_json(self, found: list[Detection]) -> dict[str, Any] | None:
    """Return the labels found, their strongest neighbours, and the edges between all of them.

    Returns:
      None if the system has no label graph.
    """
    if self._edges is None:
      return None
    best: dict[str, float] = {}
    for one in sorted(found, key=lambda one: -one.score):
      best.setdefault(one.id, one.score)
    vocabulary = self.tagger.vocabulary
    chosen = [vocabulary.index[key] for key in list(best)[:IN_GRAPH]]
    receivers, senders, weights = self._edges
    nodes = dict.fromkeys(chosen)
    for label in chosen:
      own = np.flatnonzero(receivers == label)
      strongest = own[np.argsort(-weights[own], kind="stable")[:NEIGHBOURS]]
      nodes |= dict.fromkeys(senders[strongest].tolist())
    inside = np.isin(receivers, list(nodes)) & np.isin(senders, list(nodes))
    ids, names = vocabulary.ids, vocabulary.names
    return {
      "labels": [{"id": ids[k], "name": names[k], "score": best.get(ids[k])} for k in nodes],
      "edges": [
        {"from": ids[sender], "to": ids[receiver], "weight": round(float(weight), 4)}
        for receiver, sender, weight in zip(receivers[inside], senders[inside], weights[inside])
      ],
    }

  def table(self, result: Result, rules: Rules, kind: str) -> bytes:
    """Return the detections in a sound as a file in one of `FORMATS`."""
    found = self.found(result, rules)
    return as_file([(result.name, found)], kind, self.tagger.run.frontend.fmax)
