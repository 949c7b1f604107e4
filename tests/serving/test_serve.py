"""The web page and the JSON API of `atgcn serve`, in this process."""

import asyncio
import base64
import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import jsonschema
import numpy as np
import pytest
import soundfile
from runs_support import FRONTEND, REPOSITORY, VOCABULARY, start, trained, waveforms

from atgcn_jax import Tagger, cli
from atgcn_jax.errors import UserError

pytest.importorskip("starlette", reason="needs the extra serve")
from starlette.requests import Request
from starlette.testclient import TestClient

from atgcn_jax.serving.detections import FORMATS, Rules, rules_of
from atgcn_jax.serving.web import app as web_app
from atgcn_jax.serving.web import results, server, uploads
from atgcn_jax.serving.web.guard import HEADERS
from atgcn_jax.serving.web.limits import Limits, Refused
from atgcn_jax.serving.web.results import Analysis, Results
from atgcn_jax.serving.web.spectrogram import spectrogram_json

OCTETS = {"Content-Type": "application/octet-stream"}
LIMITS = Limits(megabytes=0.2, seconds=8, waiting=1)


def wav_bytes(samples, rate=FRONTEND.sample_rate, **options):
  target = io.BytesIO()
  soundfile.write(target, samples, rate, format="WAV", **options)
  return target.getvalue()


@pytest.fixture(scope="module")
def sound():
  return wav_bytes(np.concatenate(list(waveforms(3, 9)[0])))


@pytest.fixture(scope="module")
def analysis():
  return Analysis(Tagger.restore(trained()), LIMITS)


@pytest.fixture(scope="module")
def client(analysis):
  app = web_app.make_app(analysis, "tiny", ["sounds.example"])
  with TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=False) as client:
    yield client


def send(client, body, headers=OCTETS, **query):
  return client.post("/api/sounds", content=body, headers=headers, params=query)


@pytest.fixture(scope="module")
def result(client, sound):
  answer = send(client, sound, name="a.wav", min_score=0.2)
  assert answer.status_code == 201, answer.text
  return answer.json()


def test_a_sound_is_scored_as_by_the_tagger(client, analysis, sound, result):
  line = analysis.tagger.timeline(sound)
  assert result["name"] == "a.wav"
  assert result["seconds"] == pytest.approx(3)
  labels = result["timeline"]["labels"]
  highest = line.scores.max(axis=0)
  assert [label["highest"] for label in labels] == pytest.approx(sorted(highest)[::-1])
  for label in labels:
    column = line.scores[:, VOCABULARY.index[label["id"]]]
    assert label["scores"] == pytest.approx(column.tolist(), abs=1e-3)
  assert result["timeline"]["start_s"][0] == 0
  assert result["timeline"]["end_s"][-1] == pytest.approx(3)


def test_the_example_of_the_page_prints_the_labels(result, tmp_path, monkeypatch, capsys):
  page = (REPOSITORY / "docs/serve.md").read_text()
  code = re.search(r"python -c '(import json.*?)'\n", page, re.DOTALL)[1]
  monkeypatch.chdir(tmp_path)
  (tmp_path / "answer.json").write_text(json.dumps(result))
  exec(code)
  labels = result["timeline"]["labels"][:5]
  expected = [result["id"], *(f"{one['highest']:.3f} {one['name']}" for one in labels)]
  assert capsys.readouterr().out.splitlines() == expected


def test_tables_are_those_of_detect(client, result, sound, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.wav").write_bytes(sound)
  for kind in ("csv", "jsonl", "raven", "audacity"):
    out = "." if kind in ("raven", "audacity") else f"a.wav.{kind}"
    words = ["detect", "--workdir", str(trained()), "--min-score", "0.2", "--format", kind]
    assert cli.main([*words, "--out", out, "a.wav"]) == 0
    answer = client.get(f"/api/sounds/{result['id']}/tables/{kind}", params={"min_score": 0.2})
    file = "a.wav" + FORMATS[kind][0]
    assert answer.text == (tmp_path / file).read_text(), kind
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{file}"
  capsys.readouterr()


def test_rules_change_the_detections(client, result):
  address = f"/api/sounds/{result['id']}/detections"
  few = client.get(address, params={"min_score": 0.9, "min_seconds": 2}).json()["detections"]
  assert len(few) < len(result["detections"])
  again = client.get(address, params={"min_score": 0.2}).json()
  assert again["detections"] == result["detections"]
  assert again["graph"] == result["graph"]
  by_default = client.get(address).json()["detections"]
  assert {one["score"] >= 0.5 for one in by_default} <= {True}


def test_the_thresholds_of_a_run_are_the_default(analysis):
  rules = rules_of(analysis.tagger, None, 0.5, 0)
  assert rules.least.tolist() == [0.5] * 6
  assert rules_of(analysis.tagger, 0.3, 0.5, 1).least.tolist() == [0.3] * 6


def test_labels_with_a_detection_come_first(client, result, monkeypatch):
  last = result["timeline"]["labels"][-1]
  monkeypatch.setattr(results, "LABELS", 2)
  least = np.full(6, np.nan)
  least[VOCABULARY.index[last["id"]]] = last["highest"]
  monkeypatch.setattr(web_app, "rules_of", lambda *_: Rules(least))
  found = client.get(f"/api/sounds/{result['id']}/detections").json()
  assert {one["id"] for one in found["detections"]} == {last["id"]}
  assert found["timeline"]["labels"] == [last, result["timeline"]["labels"][0]]


def test_the_graph_has_the_labels_found_and_their_neighbours(analysis, result):
  graph, matrix = result["graph"], analysis.tagger.run.propagation
  found = {one["id"]: one["score"] for one in result["detections"]}
  scored = {node["id"] for node in graph["labels"] if node["score"] is not None}
  assert scored == set(found)
  assert graph["edges"]
  for edge in graph["edges"]:
    weight = matrix[VOCABULARY.index[edge["to"]], VOCABULARY.index[edge["from"]]]
    assert edge["weight"] == pytest.approx(float(weight), abs=1e-4)


def test_a_tone_is_bright_in_its_band():
  time = np.arange(8000) / 4000
  shown = spectrogram_json(np.sin(2 * np.pi * 900 * time).astype(np.float32), FRONTEND)
  levels = np.frombuffer(base64.b64decode(shown["data"]), np.uint8)
  levels = levels.reshape(shown["columns"], shown["bands"])
  assert abs(shown["hz"][levels.mean(axis=0).argmax()] - 900) < 100
  assert shown["columns"] * shown["seconds_per_column"] == pytest.approx(2, abs=0.1)
  silent = spectrogram_json(np.zeros(1, np.float32), FRONTEND)
  assert silent["columns"] <= 2


def test_long_timelines_and_spectrograms_are_pooled(analysis, monkeypatch):
  monkeypatch.setattr(results, "ROWS", 2)
  result, _ = analysis.result_of("a", wav_bytes(waveforms(5, 9)[0].ravel()))
  timeline = analysis.result_json(result, rules_of(analysis.tagger, None, 0.5, 0))["timeline"]
  assert len(timeline["start_s"]) == 2
  assert timeline["start_s"][1] == timeline["end_s"][0]
  assert timeline["end_s"][1] == pytest.approx(5)
  assert timeline["labels"][0]["scores"] == pytest.approx(
    [part.max() for part in np.split(result.line.scores[:, _best(result)], [3])], abs=1e-3
  )


def _best(result):
  return int(result.line.scores.max(axis=0).argmax())


@pytest.mark.parametrize(
  ("body", "headers", "query", "status", "sentence"),
  [
    (b"", OCTETS, {}, 400, "The body is empty"),
    (b"x" * 300_000, OCTETS, {}, 413, "larger than 0.2 MB"),
    (b"not sound", OCTETS, {"name": "b.wav"}, 422, "b.wav: cannot be read as sound"),
    (b"x", {"Content-Type": "multipart/form-data; boundary=x"}, {}, 415, "multipart/form-data"),
    (b"x", {"Content-Type": "text/plain"}, {}, 415, "application/octet-stream"),
    (b"x", {}, {}, 415, "without Content-Type"),
    (b"x", OCTETS, {"min_score": "nan"}, 400, "min_score must be a number from 0.001 to 1"),
    (b"x", OCTETS, {"release": "2"}, 400, "release must be"),
    (b"x", OCTETS, {"min_seconds": "-1"}, 400, "min_seconds must be"),
  ],
)
def test_mistakes_are_one_sentence(client, body, headers, query, status, sentence):
  answer = send(client, body, headers, **query)
  assert answer.status_code == status, answer.text
  assert sentence in answer.json()["error"]
  assert answer.json()["error"].count("\n") == 0
  assert answer.json()["error"].endswith(".")


def test_a_large_upload_without_a_length_is_refused(client):
  answer = send(client, iter([b"x" * 150_000] * 2))
  assert answer.status_code == 413


def test_long_sounds_are_refused_whatever_their_header_states(client):
  silence = io.BytesIO()
  soundfile.write(silence, np.zeros(9 * 4000), 4000, format="FLAC")
  unstated = bytearray(silence.getvalue())
  unstated[21] &= 0xF0  # the number of samples in a flac header
  unstated[22:26] = bytes(4)
  for body in (silence.getvalue(), bytes(unstated)):
    answer = send(client, body, name="long.flac")
    assert answer.status_code == 422, answer.text
    assert "long.flac is longer than 8 s" in answer.json()["error"]


def test_sounds_of_extreme_forms_are_refused(client):
  answer = send(client, wav_bytes(np.zeros((10, 65)), subtype="PCM_U8"))
  assert answer.status_code == 422
  assert "65 channels" in answer.json()["error"]
  answer = send(client, wav_bytes(np.zeros(10), 2_000_000))
  assert answer.status_code == 422
  assert "2000000 Hz" in answer.json()["error"]


def test_names_are_never_paths(client, sound, tmp_path):
  secret = tmp_path / "secret.wav"
  secret.write_bytes(sound)
  assert send(client, b"x", name=str(secret)).status_code == 422
  answer = send(client, sound, name="../../etc/a\x1b[0m\r\n.wav").json()
  assert answer["name"].isprintable()
  assert "/" not in answer["name"]
  for address in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/x"):
    assert client.get(address).status_code == 404
  assert client.get("/api/sounds/..%2f..%2fetc/detections").status_code == 404


@pytest.mark.parametrize(
  ("host", "status"),
  [
    ("127.0.0.1:8000", 200),
    ("localhost", 200),
    ("[::1]:8000", 200),
    ("sounds.example:80", 200),
    ("SOUNDS.example", 200),
    ("evil.example", 400),
    ("127.0.0.1.evil.example:8000", 400),
    ("", 400),
    ("[", 400),
  ],
)
def test_other_hosts_are_refused(client, host, status):
  answer = client.get("/api/model", headers={"Host": host})
  assert answer.status_code == status
  assert HEADERS.items() >= {k: answer.headers[k] for k in HEADERS}.items()


def test_pages_need_no_other_server(client):
  for address in ("/", "/api", "/static/page.js", "/static/style.css", "/static/icon.svg"):
    answer = client.get(address)
    assert answer.status_code == 200
    text = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in text
    assert "https://" not in text.replace("https:// addresses", "")
    for name in ("Content-Security-Policy", "X-Content-Type-Options"):
      assert answer.headers[name] == HEADERS[name]
  assert client.get("/static/page.js").headers["content-type"].startswith("text/javascript")
  assert client.post("/").status_code == 405


def test_answers_are_as_described(client, result):
  described = client.get("/api/openapi.json").json()
  assert described["openapi"] == "3.1.0"
  routes = {(r.path, next(iter(r.methods - {"HEAD"})).lower()) for r in client.app.routes}
  paths = {(path, method) for path, ways in described["paths"].items() for method in ways}
  assert paths == {(p, m) for p, m in routes if p.startswith("/api/") and "openapi" not in p}
  model = client.get("/api/model").json()
  error = client.get("/api/sounds/none/detections").json()
  found = client.get(f"/api/sounds/{result['id']}/detections").json()
  answers = {"Result": result, "Detections": found, "Model": model, "Error": error}
  for name, value in answers.items():
    schema = described["components"]["schemas"][name]
    jsonschema.validate(value, {**described, "$ref": f"#/components/schemas/{name}"})
    assert set(value) == set(schema["properties"])


def test_only_some_sounds_wait(analysis, sound, monkeypatch):
  entered, release = threading.Event(), threading.Event()

  def slow(name, body):
    entered.set()
    assert release.wait(300)
    return Analysis.result_of(analysis, name, body)

  monkeypatch.setattr(analysis, "result_of", slow)
  with TestClient(web_app.make_app(analysis, "tiny"), "http://localhost") as client:
    answers = []
    answered = threading.Event()

    def post():
      answers.append(send(client, sound))
      answered.set()

    threads = [threading.Thread(target=post) for _ in range(3)]  # one is scored, one waits
    for thread in threads:
      thread.start()
    assert entered.wait(300)
    assert answered.wait(300)
    release.set()
    for thread in threads:
      thread.join()
    busy, *others = answers
    assert busy.status_code == 503
    assert busy.headers["Retry-After"] == "5"
    assert "busy" in busy.json()["error"]
    assert [answer.status_code for answer in others] == [201, 201]
    assert send(client, sound).status_code == 201


def test_a_stop_ends_requests(analysis, sound, monkeypatch):
  entered, release = threading.Event(), threading.Event()

  def slow(name, body):
    entered.set()
    assert release.wait(300)

  monkeypatch.setattr(analysis, "result_of", slow)
  with TestClient(web_app.make_app(analysis, "tiny"), "http://localhost") as client:
    answers = []
    thread = threading.Thread(target=lambda: answers.append(send(client, sound)))
    thread.start()
    assert entered.wait(60)
    client.portal.call(client.app.state.worker.stop)
    thread.join()
    release.set()
  assert answers[0].status_code == 503
  assert answers[0].json()["error"] == "The server is stopping."


def test_an_upload_that_stops_is_ended(monkeypatch):
  monkeypatch.setattr(uploads, "PERIOD_SECONDS", 0.01)
  request = Request({"type": "http", "headers": []}, receive=asyncio.Event().wait)
  with pytest.raises(Refused, match="The upload is too slow") as refused:
    asyncio.run(uploads.body_of(request, LIMITS))
  assert refused.value.status == 408


def trickle(chunk, number, seconds):
  """Return a request whose body arrives in chunks with pauses between them."""
  chunks, pauses = iter([chunk] * number), iter([0])

  async def receive():
    await asyncio.sleep(next(pauses, seconds))
    body = next(chunks, b"")
    return {"type": "http.request", "body": body, "more_body": bool(body)}

  return Request({"type": "http", "headers": []}, receive=receive)


def test_an_upload_that_trickles_is_ended(monkeypatch):
  monkeypatch.setattr(uploads, "PERIOD_SECONDS", 0.5)
  monkeypatch.setattr(uploads, "LEAST_BYTES", 10)
  many, burst = trickle(b"x", 1000, 0.1), b"x" * 1000
  with pytest.raises(Refused, match=r"must send 0\.01 kB within each 0\.5 s"):
    asyncio.run(uploads.body_of(many, LIMITS))
  with pytest.raises(Refused, match="too slow"):  # what arrived before does not count
    asyncio.run(uploads.body_of(trickle(burst, 2, 0.6), LIMITS))
  slow = trickle(b"x" * 10, 4, 0.2)  # in more than one period
  assert asyncio.run(uploads.body_of(slow, LIMITS)) == b"x" * 40


def test_an_upload_that_trickles_frees_its_place(analysis, sound, monkeypatch):
  monkeypatch.setattr(uploads, "PERIOD_SECONDS", 0.2)
  monkeypatch.setattr(uploads, "LEAST_BYTES", 10**6)
  monkeypatch.setattr(uploads, "REFUSED_SECONDS", 0.1)
  app = web_app.make_app(analysis, "tiny")
  scope = {"type": "http", "method": "POST", "path": "/api/sounds", "query_string": b""}
  headers = [(b"host", b"localhost"), (b"content-type", b"application/octet-stream")]
  sent = []

  async def send_all():
    async def keep(message):
      sent.append(message)

    await asyncio.gather(
      *(app({**scope, "headers": headers}, trickle(b"x", 99, 0.05).receive, keep) for _ in "ab")
    )

  asyncio.run(send_all())
  assert [m["status"] for m in sent if m["type"] == "http.response.start"] == [408, 408]
  assert app.state.worker._admitted == 0


def test_programming_errors_are_one_sentence_too(client, analysis, sound, monkeypatch):
  monkeypatch.setattr(analysis, "result_of", lambda name, body: 1 / 0)
  answer = send(client, sound)
  assert answer.status_code == 500
  assert "Traceback" not in answer.text
  assert "terminal" in answer.json()["error"]


def test_freed_memory_is_returned_after_each_sound(client, sound, monkeypatch):
  returned = []
  monkeypatch.setattr(web_app, "return_freed_memory", lambda: returned.append(True))
  assert [send(client, body).status_code for body in (sound, b"no sound")] == [201, 422]
  assert len(returned) == 2


def test_old_results_are_dropped(analysis, sound):
  result, _ = analysis.result_of("a", sound)
  size = results.OVERHEAD + sum(array.nbytes for array in result.line)
  kept = Results(most_bytes=2 * size)
  first, second = kept.add(result), kept.add(result)
  kept.get(first)
  third = kept.add(result)
  assert kept.get(first) is kept.get(third) is result
  with pytest.raises(Exception, match="no result with this id any more"):
    kept.get(second)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--port", "70000"), "--port 70000: must be 0 to 65535"),
    (("--host", "no.such.host.invalid"), "--host no.such.host.invalid: is not known"),
    (("--max-megabytes", "0"), "--max-megabytes 0: must be 0.001 to 4096"),
    (("--max-seconds", "nan"), "--max-seconds nan: must be"),
    (("--max-waiting", "-1"), "--max-waiting -1: must be"),
    (("--hop-seconds", "5", "--port", "0"), "--hop-seconds 5: must be above 0 and at most 1"),
  ],
)
def test_invalid_options(capsys, arguments, message):
  assert cli.main(["serve", "--workdir", str(trained()), *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


@pytest.mark.filterwarnings("default")
def test_thresholds_of_another_step_are_reported_at_the_start(tmp_path, monkeypatch, capsys):
  run = shutil.copytree(trained(), tmp_path / "run")
  (run / "thresholds.json").write_text('{"step": 7, "labels": {"/m/0": {"threshold": 0.3}}}')
  monkeypatch.setattr(server, "serve", lambda app, listening: None)
  assert cli.main(["serve", "--workdir", str(run), "--port", "0"]) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert "the thresholds were tuned at step 7, but this is step 30" in line


def test_a_port_in_use_is_named():
  with server.listen("127.0.0.1", 0) as first:
    port = first.getsockname()[1]
    with pytest.raises(UserError, match=f"--port {port}: cannot be opened .*in use"):
      server.listen("127.0.0.1", port)


def test_a_missing_package_is_named(monkeypatch, capsys):
  monkeypatch.setattr(cli.serve.importlib.util, "find_spec", lambda name: None)
  assert cli.main(["serve", "--workdir", "RUN"]) == 2
  error = capsys.readouterr().err
  assert error == (
    'atgcn serve: starlette and uvicorn not installed; pip install "atgcn_jax[serve]"\n'
  )


def test_names_and_addresses():
  assert server.names_of("127.0.0.1") == ["127.0.0.1"]
  assert server.names_of("lab.example")[0] == "lab.example"
  assert len(server.names_of("0.0.0.0")) == 3
  assert [server.is_open(host) for host in ("localhost", "::1", "0.0.0.0", "lab")] == [
    False,
    False,
    True,
    True,
  ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_command(number, sound):
  process = start("serve", "--workdir", trained(), "--port", "0", "--max-megabytes", "0.2")
  try:
    address = process.stdout.readline().split("open ")[1].split()[0]
    request = urllib.request.Request(f"{address}api/sounds?name=a.wav", sound, OCTETS)
    with urllib.request.urlopen(request) as answer:
      assert json.load(answer)["seconds"] == pytest.approx(3)
    request.data = bytes(5_000_000)
    with pytest.raises(urllib.error.HTTPError) as refused:
      urllib.request.urlopen(request)
    assert "larger than 0.2 MB" in json.load(refused.value)["error"]
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 128 + number
  assert error == f"atgcn serve: stopped by {number.name}\n"


def test_serving_imports_nothing_heavy(sound, tmp_path):
  (tmp_path / "a.wav").write_bytes(sound)
  script = (
    "import sys, pathlib\n"
    "from atgcn_jax.cli import main\n"
    "from atgcn_jax.serving.web import server\n"
    "from starlette.testclient import TestClient\n"
    "def served(app, listening):\n"
    "  body = pathlib.Path(sys.argv[1]).read_bytes()\n"
    "  with TestClient(app, 'http://localhost') as client:\n"
    f"    assert client.post('/api/sounds', content=body, headers={OCTETS}).status_code == 201\n"
    "server.serve = served\n"
    "assert main(['serve', '--workdir', sys.argv[2], '--port', '0']) == 0\n"
    "print(*(n for n in ('tensorflow', 'matplotlib', 'sklearn', 'orbax.export') if n in "
    "sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, tmp_path / "a.wav", trained()],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == "", done.stdout


def test_csv_files_have_a_row_per_detection(client, result):
  text = client.get(f"/api/sounds/{result['id']}/tables/csv", params={"min_score": 0.2}).text
  rows = list(csv.DictReader(text.splitlines()))
  assert len(rows) == len(result["detections"])
