"""TensorBoard files and terminal output of a run."""

import io

import pytest
from runs_support import no_space, trained
from tqdm import tqdm

from atgcn_jax.runs import log
from atgcn_jax.runs.growing_files import growing_file
from atgcn_jax.runs.log import RunLog, metrics_text
from atgcn_jax.runs.records import read_records
from atgcn_jax.runtime.tensorflow import import_tensorflow


def test_tensorboard_has_the_values_of_the_log():
  tf = import_tensorflow()
  (path,) = (trained() / "tensorboard").iterdir()
  shown = {
    (value.tag, event.step): value.simple_value
    for event in tf.compat.v1.train.summary_iterator(str(path))
    for value in event.summary.value
  }
  logged = {
    (f"{'train' if 'loss' in record else 'validation'}/{name}", record["step"]): value
    for record in read_records(trained())
    for name, value in record.items()
    if name != "step"
  }
  assert {("train/loss", 30), ("validation/mAP", 30)} <= logged.keys()
  assert shown.keys() == logged.keys()
  assert all(abs(shown[key] - logged[key]) <= 1e-6 * abs(logged[key]) for key in logged)


@pytest.fixture
def clock(monkeypatch):
  """Return the time of the bars in a list with one entry, and draw bars without a terminal."""
  now = [0.0]

  def bar(**options):
    made = tqdm(**options | {"disable": False, "file": io.StringIO(), "mininterval": 0})
    made._time = lambda: now[0]
    made.start_t = made.last_print_t = now[0]
    return made

  monkeypatch.setattr(log, "tqdm", bar)
  return now


@pytest.mark.parametrize("every", [1, 7])
def test_the_bar_counts_steps_and_its_rate_excludes_compilation(tmp_path, clock, every):
  run_log, start, steps, seconds = RunLog(tmp_path, 10, 60, 64), 10, 60, 2.0
  bar = run_log._bar
  assert (bar.unit, bar.total, bar.n) == ("step", steps, start)
  clock[0] += 400  # compilation of the first step
  for step in range(start, 30):
    run_log.stepped(step + 1)  # the step is dispatched to the devices
    clock[0] += seconds
    if (step + 1) % every == 0:
      run_log.record(step + 1, {"loss": 0.5}, "train")
      assert bar.n == step + 1
    if step == start + 10:
      clock[0] += 300  # an evaluation
      run_log.resumed()
    assert bar.n in (step, step + 1)
    if bar.n > start:
      assert bar.format_dict["elapsed"] <= (step + 1 - start) * seconds
    rate = bar.format_dict["rate"]
    assert rate is None or rate == pytest.approx(1 / seconds, rel=0.6)
  assert bar.format_dict["rate"] == pytest.approx(1 / seconds, rel=0.1)
  run_log.close()


def test_undefined_metrics_are_reported_with_their_reason():
  whole = {"mAP": 0.25, "mAUC": 0.5, "d_prime": 0.0}
  assert metrics_text(whole, 9) == "mAP 0.2500, mAUC 0.5000, d_prime 0.0000"
  assert (
    metrics_text(whole | {"d_prime": None}, 9) == "mAP 0.2500, mAUC 0.5000; d_prime is infinite"
  )
  nothing = dict.fromkeys(whole)
  assert metrics_text(nothing, 1) == (
    "mAP, mAUC and d_prime are undefined: there is only one validation clip, but a label needs a "
    "clip with it and one without it"
  )
  assert metrics_text(nothing, 3) == (
    "mAP, mAUC and d_prime are undefined: each label is in all or in none of the 3 validation clips"
  )


def test_a_line_that_fits_only_in_part_is_a_failure(tmp_path):
  file = growing_file(tmp_path / "lines", "a\n")
  with no_space(), pytest.raises(OSError, match="File too large"):
    file.write(b"b" * 30)
  file.close()
