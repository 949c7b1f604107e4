"""One device and eight devices compute the same training step, for each layout of the state."""

import functools

import jax
import pytest
from marks import slow
from narrow_system import assert_same_first_step, assert_same_in_float64, trained

from atgcn_jax.training.sharding import Layout, data_mesh

LAYOUTS = {
  "whole": lambda: Layout(data_mesh()),
  "fsdp": lambda: Layout(data_mesh(), fsdp=True),
  "labels": lambda: Layout(data_mesh(label_parts=2)),
  "both": lambda: Layout(data_mesh(label_parts=2), fsdp=True),
}


def one_device():
  return Layout(data_mesh(jax.devices()[:1]))


@functools.cache
def on_one(steps, form, dtype, head):
  return trained(one_device(), steps, form, dtype, record=steps == 1, head=head)


@pytest.mark.parametrize("form", ["authors", slow("panns")])
def test_loss_and_gradients_of_a_step(form):
  eight = trained(LAYOUTS["whole"](), 1, form, "float32", record=True)
  assert_same_first_step(on_one(1, form, "float32", "graph"), eight)


@pytest.mark.parametrize("head", ["graph", slow("linear")])
@pytest.mark.parametrize("layout", [slow("fsdp"), slow("labels"), "both"])
def test_loss_and_gradients_of_a_step_with_sharded_state(layout, head):
  eight = trained(LAYOUTS[layout](), 1, "authors", "float32", record=True, head=head)
  assert_same_first_step(on_one(1, "authors", "float32", head), eight)


@pytest.mark.parametrize("layout", [slow("whole"), slow("both")])
def test_twenty_steps_in_float64(layout):
  with jax.enable_x64(True):
    one = on_one(20, "authors", "float64", "graph")
    eight = trained(LAYOUTS[layout](), 20, "authors", "float64", record=False)
  assert_same_in_float64(one, eight, 20)
