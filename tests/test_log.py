"""What a run leaves for TensorBoard."""

from runs_support import trained

from atgcn_jax.buckets import import_tensorflow
from atgcn_jax.runs.log import read_records


def test_tensorboard_has_what_the_log_has():
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
