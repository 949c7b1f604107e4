"""The config for own data: steps that follow the number of clips, and lengths of clips."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from runs_support import FRONTEND, REPOSITORY, make_store, tiny_config

from atgcn_jax import models
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.models import frame_limits
from atgcn_jax.pretrained.catalogue import MODELS
from atgcn_jax.runs.checks import check_data
from atgcn_jax.runs.config import default_config, load_config
from atgcn_jax.runs.schedule import with_passes
from atgcn_jax.runs.training_loop import train

OWN = REPOSITORY / "configs" / "own_data.py"


@pytest.mark.parametrize(("clips", "steps"), [(10, 600), (1200, 600), (1203, 602), (10_000, 5000)])
def test_steps_follow_the_clips(clips, steps):
  config = load_config(OWN)
  assert with_passes(config, clips).optim.steps == steps
  assert config.optim.steps == 600


def test_other_configs_have_their_own_steps():
  config = default_config()
  assert with_passes(config, 10**9).optim.steps == config.optim.steps


def test_a_pretrained_network_has_its_encoder_and_front_end():
  config = load_config(f"{OWN}:mn10")
  assert (config.model.encoder, config.model.width) == ("mobilenet", 1.0)
  assert (config.data.frontend, config.start.run) == ("efficientat", "runs/mn10")


@pytest.mark.parametrize("file", [OWN, OWN.parent / "pretrained" / "mn.py"])
def test_only_published_networks_are_arguments(file):
  published = [model.name for model in MODELS.values() if model.encoder == "mobilenet"]
  for name in published:
    assert load_config(f"{file}:{name}").model.width == MODELS[name].width
  with pytest.raises(UserError) as error:
    load_config(f"{file}:mn99")
  message = f"--config {file}:mn99: no network 'mn99'; write one of {', '.join(published)}"
  assert str(error.value) == message


def test_training_has_the_steps_of_its_passes(tmp_path):
  """A resumed run has the same number, and does nothing."""
  config = tiny_config(tmp_path)  # 30 clips train, 8 per step
  config.optim.update(steps=1, passes=0.7)
  for _ in range(2):
    assert int(train(config, tmp_path / "run").step) == 3
  assert config.optim.steps == 1


def jaxprs_in(parameters):
  """Return the programs that an equation contains."""
  closed = [value for value in jax.tree.leaves(parameters) if hasattr(value, "jaxpr")]
  return [value.jaxpr for value in closed]


def sizes_of(jaxpr):
  """Yield the shapes of all values of a program."""
  for equation in jaxpr.eqns:
    yield from (value.aval.shape for value in equation.outvars)
    for inner in jaxprs_in(equation.params):
      yield from sizes_of(inner)


def has_empty_values(encoder, frames):
  config = default_config().model
  config.update(encoder=encoder, head="linear", width=1 / 32)
  model = models.build(config, num_classes=3)
  clip = jnp.zeros((1, frames, 64))
  variables = jax.eval_shape(model.init, jax.random.key(0), clip)
  program = jax.make_jaxpr(model.apply)(variables, clip)
  return any(0 in shape for shape in sizes_of(program.jaxpr))


@pytest.mark.parametrize("encoder", [e for e in models.ENCODERS if e not in models.ON_VECTORS])
def test_the_shortest_clip_of_each_encoder(encoder):
  shortest, _ = frame_limits(encoder)
  assert not has_empty_values(encoder, shortest)
  if shortest > 1:
    with contextlib.suppress(ValueError, ZeroDivisionError):
      assert has_empty_values(encoder, shortest - 1)


@pytest.mark.parametrize(
  ("encoder", "seconds", "rule"),
  [("cnn10", 0.4, "at least 16"), ("google_cnn", 40.0, "10 to 1066")],
)
def test_clips_of_a_length_that_does_not_fit_are_refused(tmp_path, encoder, seconds, rule):
  frontend = dataclasses.replace(FRONTEND, seconds=seconds)
  store = open_store(make_store(tmp_path / "s.h5", clips=4, frontend=FRONTEND))
  config = default_config()
  config.model.encoder = encoder
  check_data(config, store)
  with pytest.raises(
    UserError, match=rf"model\.encoder {encoder}: needs {rule} frames, but the cl"
  ):
    check_data(config, dataclasses.replace(store, frontend=frontend))
