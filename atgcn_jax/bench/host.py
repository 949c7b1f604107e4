"""Benchmarks of the metrics and the front ends, and of scikit-learn and librosa as references."""

from __future__ import annotations

import functools
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from atgcn_jax.audio.frontend import FRONTENDS, log_mel
from atgcn_jax.errors import UserError
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runtime.process_setup import peak_bytes


def bench_metrics(clips: int = 20371, classes: int = 527, repeats: int = 5) -> dict[str, Any]:
  """Measure the median time of `tagging_metrics`, by default at the size of AudioSet's test set."""
  scores, labels = made_up_scores(clips, classes)
  seconds = _median(lambda: tagging_metrics(scores, labels), repeats)
  return _figures(
    f"atgcn_jax on numpy {np.__version__}", "metrics", seconds, clips, clips=clips, classes=classes
  )


def reference_metrics(clips: int = 20371, classes: int = 527, repeats: int = 5) -> dict[str, Any]:
  """Measure the median time of scikit-learn's two functions on the same scores."""
  import sklearn
  from sklearn.metrics import average_precision_score, roc_auc_score

  scores, labels = made_up_scores(clips, classes)

  def both():
    average_precision_score(labels, scores, average=None)
    roc_auc_score(labels, scores, average=None)

  seconds = _median(both, repeats)
  who = f"scikit-learn {sklearn.__version__}"
  return _figures(who, "metrics", seconds, clips, clips=clips, classes=classes)


def bench_frontend(name: str = "talnet", batch: int = 16, repeats: int = 5) -> dict[str, Any]:
  """Measure the median time of a jitted `log_mel` on full clips of noise, after a first call.

  Args:
    name: Name of a front end in `FRONTENDS`.
    batch: Clips per call.
    repeats: Number of calls.
  """
  waveforms = made_up_waveforms(name, batch)
  jitted = jax.jit(functools.partial(log_mel, frontend=name))
  seconds = _median(lambda: np.asarray(jitted(waveforms)), repeats)
  return {
    "device": jax.devices()[0].device_kind,
    **_figures(
      f"atgcn_jax on jax {jax.__version__}", "frontend", seconds, batch, frontend=name, batch=batch
    ),
  }


def reference_frontend(name: str = "talnet", batch: int = 16, repeats: int = 5) -> dict[str, Any]:
  """Measure the median time of librosa on the same clips, with one call per clip.

  Raises:
    UserError: librosa is not installed, or does not have this front end.
  """
  if FRONTENDS[name].log_offset is not None:
    raise UserError(f"--frontend {name}: librosa has none like it; choose talnet or panns")
  try:
    librosa = importlib.import_module("librosa")
  except ImportError:
    raise UserError("librosa: not installed; run pip install 'atgcn_jax[test]'") from None
  settings, waveforms = FRONTENDS[name], made_up_waveforms(name, batch)
  spectrogram = functools.partial(
    librosa.feature.melspectrogram,
    sr=settings.sample_rate,
    n_fft=settings.n_fft,
    win_length=settings.win_length,
    hop_length=settings.hop,
    pad_mode=settings.pad_mode,
    power=settings.power,
    n_mels=settings.n_mels,
    fmin=settings.fmin,
    fmax=settings.fmax,
  )

  def each():
    for waveform in waveforms:
      librosa.power_to_db(spectrogram(y=waveform), amin=settings.amin, top_db=settings.top_db)

  return _figures(
    f"librosa {librosa.__version__}",
    "frontend",
    _median(each, repeats),
    batch,
    frontend=name,
    batch=batch,
  )


def made_up_scores(clips: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Return random scores float32[N, K] and labels bool[N, K], of which 0.4 % are positive."""
  rng = np.random.default_rng(0)
  labels = rng.random((clips, classes)) < 0.004
  labels[0], labels[-1] = True, False  # every class has a positive and a negative
  logits = 1.5 * rng.standard_normal((clips, classes), np.float32) - 5 + 3 * labels
  return (1 / (1 + np.exp(-logits))).astype(np.float32), labels


def made_up_waveforms(name: str, batch: int) -> np.ndarray:
  """Return noise, float32[B, S], at the length of a front end's clips."""
  rng = np.random.default_rng(0)
  return 0.1 * rng.standard_normal((batch, FRONTENDS[name].samples), np.float32)


def _median(work: Callable[[], object], repeats: int) -> float:
  """Return the median seconds of the calls after the first."""
  seconds = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    work()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:])


def _figures(who: str, what: str, seconds: float, count: int, **sizes: Any) -> dict[str, Any]:
  return {
    "who": who,
    "what": what,
    **sizes,
    "seconds": seconds,
    "clips_per_second": count / seconds,
    "peak_bytes": peak_bytes(),
  }
