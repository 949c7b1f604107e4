"""Config files and overrides, valid and invalid."""

import json
import re

import ml_collections
import pytest
from marks import slow
from runs_support import REPOSITORY, tiny_config

from atgcn_jax.errors import UserError
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.config import config_from_json, contradictions, load_config, plain_config
from atgcn_jax.runs.config_defaults import DEFAULTS, flat

FILES = sorted((REPOSITORY / "configs").glob("*.py"))


def write(path, body):
  path.write_text(body)
  return path


@pytest.fixture
def small(tmp_path):
  return write(tmp_path / "small.py", "def get_config():\n  return {'optim': {'steps': 7}}\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_of_the_project_loads(path):
  config = load_config(path)
  assert plain_config(config).keys() == DEFAULTS.keys()
  assert config.optim.steps > 0


def test_settings_of_the_paper():
  for name, head in (("atgcn_audioset", "graph"), ("cnn10_audioset", "linear")):
    config = load_config(REPOSITORY / "configs" / f"{name}.py")
    assert (config.model.encoder, config.model.head, config.model.width) == ("cnn10", head, 1.0)
    assert (config.data.batch_size, config.optim.learning_rate) == (64, 1e-3)
    assert (config.graph.threshold, config.graph.neighbour_weight) == (0.3, 0.2)


def test_keys_missing_from_a_file_take_their_defaults(small):
  config = load_config(small)
  assert config.optim.steps == 7
  config.optim.steps = DEFAULTS["optim"]["steps"]
  assert plain_config(config) == json.loads(json.dumps(DEFAULTS))
  assert configs.default_config().to_dict() == DEFAULTS


def test_overrides_have_the_type_of_the_key(small):
  overrides = [
    "--config.optim.steps=9",
    "--config.optim.learning_rate=1",
    "--config.model.head=linear",
    "--config.data.train_folds=('1','2')",
    "--config.deterministic=true",
    "--config.model.dropout.block=0.5",
  ]
  config = load_config(small, overrides)
  assert (config.optim.steps, config.model.head, config.deterministic) == (9, "linear", True)
  assert isinstance(config.optim.learning_rate, float)
  assert tuple(config.data.train_folds) == ("1", "2")
  assert config.model.dropout.block == 0.5
  # The defaults are not changed.
  assert load_config(small).model.head == DEFAULTS["model"]["head"]


@pytest.mark.parametrize(
  ("override", "named"),
  [
    ("--config.optim.stepz=9", "optim.stepz"),
    ("--config.nothing=9", "nothing"),
    ("--config.optim=9", "optim"),
    ("--config.optim.steps.more=9", "optim.steps.more"),
    ("--config.optim.steps=many", "optim.steps"),
    ("--config.optim.steps=1.5", "optim.steps"),
    ("--config.optim.learning_rate=fast", "optim.learning_rate"),
    ("--config.deterministic=perhaps", "deterministic"),
    ("--config.optim.steps", "optim.steps"),
    ("--config.=3", "config"),
  ],
)
def test_invalid_overrides(small, override, named):
  with pytest.raises(UserError, match=named) as error:
    load_config(small, [override])
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "override",
  [
    "seed=-1",
    "seed=99999999999",
    "model.width=-1.0",
    "model.width=0.0",
    "model.layers=0",
    "model.prior=0.0",
    "model.prior=1.0",
    "model.dropout.block=1.5",
    "model.dropout.pooled=-0.1",
    "augment.mixup_alpha=-1.0",
    "augment.time_width=-3",
    "augment.band_stripes=-1",
    "optim.steps=0",
    "optim.warmup_steps=-3",
    "optim.learning_rate=-1.0",
    "optim.learning_rate=0.0",
    "optim.learning_rate=1e999",
    "optim.b1=1.0",
    "optim.plateau_patience=0",
    "data.validation_share=1.0",
    "data.batch_size=0",
    "graph.embedding_size=0",
    "evaluation.every=0",
    "checkpoint.keep=0",
    "log.every=-1",
  ],
)
def test_numbers_out_of_range(small, override):
  key, _, _ = override.partition("=")
  with pytest.raises(UserError, match=f"^{key} must be .*, got ") as error:
    load_config(small, [f"--config.{override}"])
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("kind", "value"),
  [(float, "nan"), (float, "1e99"), (int, "()"), slow(int, "1e99"), slow(float, "-inf")]
  + [slow(kind, value) for kind in (int, float) for value in ("[1]", "{}", "None", "(1, 2)")],
)
def test_odd_values_of_every_number_are_refused_by_name(kind, value):
  config = configs.default_config()
  for key, default in flat(DEFAULTS).items():
    if type(default) is not kind:
      continue
    with pytest.raises(UserError) as error:
      configs.config_with_overrides(config, [f"--config.{key}={value}"])
    assert re.fullmatch(rf"{re.escape(key)} must be .+, got .+", str(error.value))


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["optim.steps=1e3"], "optim.steps must be an integer, got 1e3"),
    (["seed=1", "optim.b1=x", "log.every=y"], "optim.b1 must be a finite number, got x"),
    (["deterministic=2"], "deterministic must be True or False, got 2"),
    (["data.train_folds=()"], "data.train_folds must be a tuple of texts, at least one, got ()"),
    (["data.test_folds=(1,)"], "data.test_folds must be a tuple of texts, got (1,)"),
    (
      ["model.clip_units=(0,)"],
      "model.clip_units must be a tuple of integers of at least 1, got (0,)",
    ),
    (["optim.steps"], "--config.optim.steps: has no value; write --config.optim.steps=VALUE"),
    (["graph.threshold=1.5"], "graph.threshold must be from 0 to 1, got 1.5"),
  ],
)
def test_a_message_has_the_key_the_value_and_what_it_may_be(overrides, message):
  with pytest.raises(UserError) as error:
    configs.config_with_overrides(
      configs.default_config(), [f"--config.{override}" for override in overrides]
    )
  assert str(error.value) == message


@pytest.mark.parametrize(
  ("body", "named"),
  [
    ("def get_config():\n  return {'optim': {'stepz': 7}}\n", "optim.stepz"),
    ("def get_config():\n  return {'speed': 7}\n", "speed"),
    ("def get_config():\n  return {'optim': 7}\n", "optim"),
    ("def get_config():\n  return {'optim': {'steps': 'many'}}\n", "steps"),
    ("def get_config():\n  return {'optim': {'steps': {'a': 1}}}\n", "optim.steps"),
    ("def get_config():\n  return 1 / 0\n", "ZeroDivisionError"),
    ("def get_config():\n  return 3\n", "get_config"),
    ("def get_config(:\n", "SyntaxError"),
    ("import nothing_of_this_name\n", "nothing_of_this_name"),
    ("raise SystemExit(5)\n", "SystemExit"),
    ("steps = 7\n", "get_config"),
    ("", "get_config"),
  ],
)
def test_invalid_files(tmp_path, body, named):
  path = write(tmp_path / "broken.py", body)
  with pytest.raises(UserError, match=named) as error:
    load_config(path)
  assert "broken.py" in str(error.value)
  assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
  for path in (tmp_path / "missing.py", tmp_path):
    with pytest.raises(
      UserError, match=r"no such config file; .* `configs` of the source checkout"
    ):
      load_config(path)
  binary = tmp_path / "binary.py"
  binary.write_bytes(bytes(range(256)))
  with pytest.raises(UserError, match=r"binary.py"):
    load_config(binary)


def test_saved_config_is_restored(tmp_path):
  config = tiny_config(tmp_path, "optim.steps=11")
  saved = json.loads(json.dumps(plain_config(config)))
  again = config_from_json(saved)
  assert plain_config(again) == saved
  assert isinstance(again, ml_collections.ConfigDict)
  assert contradictions(saved, config) == []
  # A run of an older version lacks newer keys, which take their defaults.
  del saved["deterministic"], saved["log"], saved["optim"]["clip_norm"]
  older = config_from_json(saved)
  assert older.optim.clip_norm == DEFAULTS["optim"]["clip_norm"]
  assert contradictions(plain_config(older), config) == []


def test_contradictions(tmp_path):
  old = plain_config(tiny_config(tmp_path))
  free = tiny_config(
    tmp_path,
    "optim.steps=99",
    "data.store=elsewhere.h5",
    "data.root=/data",
    "data.vocabulary=v.csv",
    "graph.source=g.npz",
    "graph.ontology=o.json",
    "graph.embeddings=e.npz",
    "checkpoint.every=5",
    "checkpoint.keep=9",
    "log.every=5",
  )
  assert contradictions(old, free) == []
  other = tiny_config(tmp_path, "seed=4", "data.batch_size=16", "model.dropout.block=0.3")
  assert contradictions(old, other) == [
    "data.batch_size: 8 → 16",
    "model.dropout.block: 0.1 → 0.3",
    "seed: 3 → 4",
  ]
