"""Pretrained networks by name, fetched from a local server."""

import functools
import hashlib
import io
import json
import os
import stat
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile
from file_server import Server, address, cut_off, sends_other_bytes, serving
from marks import slow
from runs_support import REPOSITORY
from test_torch_files import mapping, saved, tensor
from test_torch_weights import noise

from atgcn_jax import Tagger, UserError, cli
from atgcn_jax.data import download
from atgcn_jax.errors import WorkFailed
from atgcn_jax.interop.torch_weights import state_dict_of
from atgcn_jax.labels.vocabulary import read_vocabulary
from atgcn_jax.pretrained import cache, catalogue
from atgcn_jax.pretrained.catalogue import MODELS, find_model
from atgcn_jax.pretrained.settings import config_of
from atgcn_jax.runs.config import load_config, plain_config
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.parts import model_of
from atgcn_jax.runs.safetensors_folder import read_export
from atgcn_jax.training.sharding import data_mesh

TINY = MODELS["mn01"]  # of the fewest parameters
FETCHED = {TINY.file, f"{TINY.file}.url"}


@functools.cache
def state_of(width=0.1):
  """Return weights of one of EfficientAT's networks that follow from a formula."""
  config = config_of(TINY._replace(width=width)).model
  module = model_of(config, read_vocabulary("audioset"), None, None)
  shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 100, 128), "f"))
  empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)
  names = enumerate(state_dict_of(empty, config).items())
  return {name: np.abs(noise(n, value.shape)).astype("f") for n, (name, value) in names}


def weights_file(path, state):
  """Write a state dict as PyTorch does."""
  program, members = {}, {}
  for key, (name, value) in enumerate(state.items()):
    value = np.ascontiguousarray(value, "<f4")
    strides = [int(step) // 4 for step in value.strides]
    program[name] = tensor(value.shape, strides, key=str(key), count=value.size)
    members[f"data/{key}"] = value.tobytes()
  return saved(path, mapping(program), members)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """Return the bytes of a file of random weights for TINY."""
  path = tmp_path_factory.mktemp("weights") / "tiny.pt"
  return weights_file(path, state_of()).read_bytes()


@pytest.fixture
def server(weights, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "PAUSES", (0.01, 0.02))
  monkeypatch.setenv("no_proxy", "*")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  with serving({TINY.file: weights}) as running:
    yield running


@pytest.fixture
def folder(tmp_path):
  """Return the folder of the cache."""
  return tmp_path / "cache/atgcn_jax/pretrained"


def entries(folder):
  return {path.name for path in folder.iterdir()} if folder.exists() else set()


def known(monkeypatch, checksum):
  """Let the checksum of TINY be known."""
  monkeypatch.setitem(MODELS, "mn01", TINY._replace(checksum=checksum))


def run_of(server, **options):
  return cache.pretrained_run("mn01", mirror=address(server), **options)


def error_of(capsys, status, *words):
  """Return the last line on stderr of a command that fails with this status."""
  assert cli.main([*map(str, words)]) == status
  lines = capsys.readouterr().err.splitlines()
  assert all(": retrying in" in line or "; retrying in" in line for line in lines[:-1])
  return lines[-1]


def test_a_model_is_fetched_and_converted_once(server, folder, weights, capsys):
  run = run_of(server)
  assert run == folder / "mn01"
  assert server.asked == [(TINY.file, None)]
  digest = hashlib.sha256(weights).hexdigest()
  said = capsys.readouterr().err
  assert f"{TINY.file}: fetched, {len(weights)} bytes, SHA-256 {digest} (no checksum" in said
  assert entries(folder) == {"mn01", "mn01.lock", *FETCHED}
  assert cache.record_of(run)["sha256"] == digest
  before = (run / cache.RECORD).stat().st_mtime_ns
  assert run_of(server, offline=True) == run
  assert (run / cache.RECORD).stat().st_mtime_ns == before
  loaded = read_export(run)
  assert loaded.run.frontend.name == "efficientat"
  assert len(loaded.run.vocabulary) == 527
  state = state_of()
  kernel = loaded.state["params"]["head"]["fc"]["kernel"]
  np.testing.assert_array_equal(kernel, state["classifier.5.weight"].T)
  assert capsys.readouterr() == ("", "")


def test_a_run_names_the_address_of_its_file(server, folder, tmp_path, capsys):
  words = ["models", "get", "mn01", "--out"]
  mirror = address(server)
  assert cli.main([*words, str(tmp_path / "first"), "--mirror", mirror]) == 0
  assert f"from {TINY.url(mirror)}, SHA-256" in capsys.readouterr().out
  # Also from the cache, and of a file that an earlier version has fetched.
  assert cli.main([*words, str(tmp_path / "second")]) == 0
  assert cache.record_of(tmp_path / "second")["url"] == TINY.url(mirror)
  (folder / f"{TINY.file}.url").unlink()
  assert cli.main([*words, str(tmp_path / "third")]) == 0
  assert cache.record_of(tmp_path / "third")["url"] == (folder / TINY.file).as_uri()


def cut(whole):
  return whole[:-20]


def zeros(whole):
  return bytes(len(whole))


def of_another_version(whole):
  return whole.replace(b'"version": "', b'"version": "0.')


@pytest.mark.parametrize("damaged", [cut, slow(zeros), slow(of_another_version)])
def test_a_damaged_run_is_converted_again(server, folder, damaged):
  run = run_of(server)
  content = {path.name: path.read_bytes() for path in run.iterdir()}
  assert {"config.json", "model.safetensors", cache.RECORD, cache.CHECKSUMS} <= content.keys()
  for name, whole in content.items():
    if damaged(whole) != whole:
      (run / name).write_bytes(damaged(whole))
      with pytest.warns(UserWarning, match="mn01: is damaged or of another version; the weights"):
        run_of(server, offline=True)
      assert {path.name: path.read_bytes() for path in run.iterdir()} == content
  (run / cache.CHECKSUMS).unlink()  # as after a conversion that was interrupted
  run_of(server, offline=True)
  assert {path.name: path.read_bytes() for path in run.iterdir()} == content
  assert len(server.asked) == 1


@pytest.mark.slow
def test_a_cached_run_is_loaded_without_tracing_or_orbax(server, monkeypatch):
  run = run_of(server)
  script = (
    "import sys\n"
    "from atgcn_jax.serving.many_files import tag_files\n"
    "from atgcn_jax.pretrained.cache import pretrained_run\n"
    "from atgcn_jax.runs import run\n"
    "from atgcn_jax.runs.safetensors_folder import load_either\n"
    "run.Run.model = None\n"  # tracing would call it
    "loaded = load_either(pretrained_run('mn01', offline=True), 'latest', None)\n"
    "assert len(loaded.run.vocabulary) == 527\n"
    "print(*{'orbax', 'tensorflow', 'sklearn'} & sys.modules.keys())"
  )
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
  # Other files than those that were written are compared with the system.
  config = json.loads((run / "config.json").read_text())
  config["run"]["config"]["model"]["width"] = 0.2
  (run / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="does not match config"):
    read_export(run)


def test_a_run_directory_is_written(server, folder, weights, tmp_path, capsys, monkeypatch):
  known(monkeypatch, f"md5:{hashlib.md5(weights).hexdigest()}")
  words = ["models", "get", "mn01", "--out", tmp_path / "run", "--mirror", address(server)]
  assert cli.main([*map(str, words), "--json"]) == 0
  captured = capsys.readouterr()
  assert "(as published)" in captured.err
  assert json.loads(captured.out)["url"] == TINY.url(address(server))
  assert load_run(tmp_path / "run", "latest", data_mesh()).step == 0
  assert entries(folder) == {"mn01.lock", *FETCHED}
  assert f"--out {tmp_path / 'run'}: holds a run" in error_of(capsys, 2, *words)
  assert len(server.asked) == 1


@pytest.mark.slow
def test_tagging_by_name(server, tmp_path, capsys):
  soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16_000)
  words = ["tag", "--top", "2", "--json", "--mirror", address(server), str(tmp_path / "a.wav")]
  assert cli.main([*words, "--model", "mn01"]) == 0
  said = capsys.readouterr().out
  assert cli.main([*words, "--model", "mn01", "--offline"]) == 0
  assert capsys.readouterr().out == said
  first = json.loads(said)["tags"][0]
  best = Tagger.load("mn01", offline=True).tag(tmp_path / "a.wav")[0]
  assert (first["name"], first["score"]) == (best.name, pytest.approx(best.score, abs=1e-6))


def test_serving_by_name(server, monkeypatch, capsys):
  web_server = pytest.importorskip("atgcn_jax.serving.web.server", reason="needs the extra serve")
  from starlette.testclient import TestClient

  random, body, answers = np.random.default_rng(0), io.BytesIO(), []
  soundfile.write(body, random.uniform(-0.5, 0.5, 16_000), 16_000, format="WAV")

  def served(app, listening):
    headers = {"Content-Type": "application/octet-stream"}
    with TestClient(app, "http://localhost") as client:
      answers.append(client.get("/api/model").json())
      answers.append(client.post("/api/sounds", content=body.getvalue(), headers=headers).json())

  monkeypatch.setattr(web_server, "serve", served)
  words = ["serve", "--model", "mn01", "--port", "0"]
  assert cli.main([*words, "--mirror", address(server)]) == 0
  assert capsys.readouterr().out.startswith("mn01, 527 labels: open http://127.0.0.1:")
  model, result = answers
  assert (model["title"], model["labels"]) == ("mn01", 527)
  assert result["seconds"] == pytest.approx(1)
  best, *others = (label["highest"] for label in result["timeline"]["labels"])
  assert 1 >= best >= max(others) > 0
  assert cli.main([*words[:2], "mn02", "--offline", "--port", "0"]) == 2
  assert "mn02: is not in the cache" in capsys.readouterr().err
  assert server.asked == [(TINY.file, None)]


def test_the_default_is_named(server, tmp_path, capsys):
  assert cli.main(["tag", "--offline", str(tmp_path / "a.wav")]) == 2
  first, last = capsys.readouterr().err.splitlines()
  assert first.startswith("atgcn tag: pretrained model mn04; give another --model")
  assert "mn04: is not in the cache" in last
  assert "without --offline" in last


@pytest.mark.parametrize(
  ("name", "hint"),
  [
    ("mn11", "did you mean mn10 or mn01 or "),
    ("CNN14", "did you mean cnn14"),
    ("whisper", "choose one of mn01, mn02"),
  ],
)
def test_an_unknown_name(server, capsys, tmp_path, name, hint):
  error = error_of(capsys, 2, "tag", "--model", name, tmp_path / "a.wav")
  assert f"{name}: no pretrained model has this name; {hint}" in error
  assert server.asked == []


def test_an_interrupted_download_resumes(server, folder):
  server.faults = {TINY.file: [cut_off]}
  run_of(server)
  assert server.asked == [(TINY.file, None), (TINY.file, "bytes=1000-")]
  assert entries(folder) == {"mn01", "mn01.lock", *FETCHED}


def test_a_download_that_stays_cut_short(server, folder, capsys, tmp_path):
  server.ranges = False
  server.faults = {TINY.file: [cut_off] * 9}
  words = ["models", "get", "mn01", "--out", tmp_path / "run", "--mirror", address(server)]
  assert "cut off after 1000 of" in error_of(capsys, 2, *words)
  assert entries(folder) == {"mn01.lock", f"{TINY.file}.part"}
  assert not (tmp_path / "run").exists()
  server.faults, server.ranges = {}, True
  assert cli.main([*map(str, words)]) == 0
  assert server.asked[-1] == (TINY.file, "bytes=1000-")


def test_no_network(server, folder, tmp_path, capsys):
  with Server({}) as gone:
    nowhere = address(gone)
  words = ["tag", "--model", "mn01", "--mirror", nowhere, str(tmp_path / "a.wav")]
  assert cli.main(words) == 2
  (error,) = capsys.readouterr().err.splitlines()  # without a retry
  assert f"{nowhere}/{TINY.file}: " in error
  assert "refused" in error
  assert (
    f"--mirror also takes a folder with {TINY.file}, and `atgcn import-torch` any file" in error
  )
  assert entries(folder) == {"mn01.lock"}
  error = error_of(capsys, 2, "tag", "--model", "mn01", "--mirror", "host", tmp_path / "a.wav")
  assert "--mirror host: not a web address and no folder" in error


@pytest.mark.parametrize("as_address", [False, True])
def test_a_folder_on_disk_as_mirror(
  server, folder, weights, monkeypatch, capsys, tmp_path, as_address
):
  known(monkeypatch, f"sha256:{hashlib.sha256(weights).hexdigest()}")
  place = tmp_path / "a stick"
  place.mkdir()
  words = ["models", "get", "mn01", "--out", tmp_path / "run"]
  words += ["--mirror", place.as_uri() if as_address else place]
  assert f"has no file {TINY.file}; put it there" in error_of(capsys, 2, *words)
  (place / TINY.file).write_bytes(weights[::-1])
  assert "has the SHA-256" in error_of(capsys, 2, *words)
  assert (place / TINY.file).read_bytes() == weights[::-1]
  assert entries(folder) == {"mn01.lock"}
  (place / TINY.file).write_bytes(weights)
  assert cli.main([*map(str, words)]) == 0
  assert cache.record_of(tmp_path / "run")["sha256"] == hashlib.sha256(weights).hexdigest()
  assert server.asked == []


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_checksum(server, folder, weights, monkeypatch, capsys, tmp_path, algorithm):
  known(monkeypatch, f"{algorithm}:{hashlib.new(algorithm, weights).hexdigest()}")
  server.faults = {TINY.file: [sends_other_bytes]}
  words = ["tag", "--model", "mn01", "--mirror", address(server), tmp_path / "a.wav"]
  error = error_of(capsys, 2, *words)
  name = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
  assert f"has the {name} {hashlib.new(algorithm, weights[::-1]).hexdigest()}, not " in error
  assert entries(folder) == {"mn01.lock"}


@pytest.mark.parametrize(
  ("state", "message"),
  [
    (None, "contains os.system, which is not a tensor"),
    (b"<html>", "is not a file of PyTorch"),
    ({"width": 0.2}, "does not contain the weights of mn01 (state dict does not fit"),
    ({"short": "classifier.5.bias"}, "does not contain the weights of mn01 (['params']['head']"),
    ({"missing": "classifier.2.bias"}, "missing ['classifier.2.bias']"),
    ({"nan": "classifier.2.bias"}, "hold NaN or infinity"),
  ],
)
def test_a_file_of_something_else(server, folder, tmp_path, capsys, state, message):
  path = tmp_path / "other.pt"
  if state is None:
    saved(path, b"cos\nsystem\n(X\x04\x00\x00\x00truetR")
  elif isinstance(state, bytes):
    path.write_bytes(state)
  else:
    tensors = dict(state_of(state.get("width", 0.1)))
    tensors.pop(state.get("missing"), None)
    if "short" in state:
      tensors[state["short"]] = tensors[state["short"]][:-1]
    if "nan" in state:
      tensors[state["nan"]] = np.full_like(tensors[state["nan"]], np.nan)
    weights_file(path, tensors)
  server.contents[TINY.file] = path.read_bytes()
  words = ["tag", "--model", "mn01", "--mirror", address(server), tmp_path / "a.wav"]
  assert cli.main([*map(str, words)]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith(f"atgcn tag: {address(server)}/{TINY.file}: ")
  assert message in error
  assert entries(folder) == {"mn01.lock"}


def test_a_full_disk(server, folder, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(cache, "write_whole", full)
    with pytest.raises(UserError, match=r"mn01: pretrained.json cannot be written \(No space left"):
      run_of(server)
  assert entries(folder) == {"mn01.lock", *FETCHED}  # no run that is not whole
  opened = open

  def cannot_write(path, mode="r", **options):
    if str(path).endswith(".part"):
      raise OSError(28, "No space left on device")
    return opened(path, mode, **options)

  for name in FETCHED:
    (folder / name).unlink()
  monkeypatch.setattr("builtins.open", cannot_write)
  with pytest.raises(UserError, match=r"No space left on device.*set XDG_CACHE_HOME"):
    run_of(server)
  assert entries(folder) == {"mn01.lock"}


def test_a_full_disk_of_a_run_directory(server, monkeypatch, capsys, tmp_path):
  def full(*_):
    raise WorkFailed(f"{tmp_path / 'run'}: could not be written: No space left on device")

  monkeypatch.setattr(cache, "_import", full)
  words = ["models", "get", "mn01", "--out", tmp_path / "run", "--mirror", address(server)]
  assert cli.main([*map(str, words)]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert f"--out {tmp_path / 'run'}: could not be written" in error


def test_a_cache_that_cannot_be_written(server, folder, capsys, tmp_path):
  folder.parent.mkdir(parents=True)
  folder.write_text("a file")
  words = ["tag", "--model", "mn01", "--mirror", address(server), tmp_path / "a.wav"]
  error = error_of(capsys, 2, *words)
  assert f"{folder}: cannot be written" in error
  assert "XDG_CACHE_HOME" in error


@pytest.mark.skipif(os.getuid() == 0, reason="root can write to any folder")
def test_a_read_only_cache_is_used(server, folder):
  run = run_of(server)
  for path in (folder, *folder.rglob("*")):
    path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
  assert run_of(server, offline=True) == run


def test_the_list(server, capsys):
  run = run_of(server)
  capsys.readouterr()
  assert cli.main(["models"]) == 0
  table = capsys.readouterr().out
  lines = {line.split()[0]: line for line in table.splitlines() if line}
  assert lines.keys() >= MODELS.keys()
  assert "unknown  MIT        yes     content" in lines["mn01"]
  assert "0.432     983,599    4.1 MB  MIT        no      file" in lines["mn04"]
  assert "0.431  80,753,615  327.4 MB  CC BY 4.0  no      checksum" in lines["cnn14"]
  assert cli.main(["models", "--json"]) == 0
  facts = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
  assert facts["mn01"]["cached"] == str(run)
  assert facts["mn01"]["cached_sha256"] == cache.record_of(run)["sha256"]
  assert facts["cnn10"]["cached"] is None
  assert [name for name, model in facts.items() if model["verified"]] == ["mn04"]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("models get", "NAME: missing"),
    ("models get mn01", "--out: missing"),
    ("models --out DIR", "--out: DIR; give it with `atgcn models get`"),
    ("models list mn01", "NAME: mn01"),
  ],
)
def test_arguments_of_models(capsys, words, message):
  assert message in error_of(capsys, 2, *words.split())


def test_addresses():
  release = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
  assert MODELS["mn04"].url() == release + "mn04_as_mAP_432.pt"
  assert MODELS["mn40_ext"].url() == release + "mn40_as_ext_mAP_487.pt"
  assert MODELS["cnn10"].url() == ("https://zenodo.org/records/3987831/files/Cnn10_mAP%3D0.380.pth")
  assert MODELS["cnn14"].url("http://host/") == "http://host/Cnn14_mAP%3D0.431.pth"
  assert find_model("mn10").width == 1.0
  assert catalogue.DEFAULT in MODELS


@pytest.mark.parametrize("name", [n if n in ("mn04", "cnn14") else slow(n) for n in MODELS])
def test_parameters(name):
  model = MODELS[name]
  module = model_of(config_of(model).model, read_vocabulary("audioset"), None, None)
  bands = 128 if model.frontend == "efficientat" else 64
  variables = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 100, bands), "f"))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == model.parameters


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mn")])
def test_the_settings_are_those_of_the_config_file(name):
  path = REPOSITORY / "configs/pretrained/mn.py"
  settings = plain_config(config_of(MODELS[name]))
  assert settings == plain_config(load_config(f"{path}:{name}"))
  if name == "mn04":
    assert settings == plain_config(load_config(path.with_name("mn04.py")))


@pytest.mark.slow
def test_the_published_file(shared, tmp_path, monkeypatch):
  content = (shared / "data/weights/mn04_as_mAP_432.pt").read_bytes()
  assert len(content) == MODELS["mn04"].size
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("no_proxy", "*")
  golden = np.load(shared / "golden/mn04.npz")
  with serving({MODELS["mn04"].file: content}) as server:
    tagger = Tagger.load(mirror=address(server))
  tags = tagger.tag((golden["waveform"][0] / 32768).astype("f"), rate=32_000)
  assert {"Animal", "Dog", "Bark"} < {tag.name for tag in tags}
