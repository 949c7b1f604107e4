"""Downloads from a local server that interrupts, refuses, stalls or sends wrong content."""

import base64
import gzip
import hashlib
import os
import shutil
import signal
import time

import pytest
from file_server import Server, address, busy, cut_off, sends_other_bytes, serving, stalls

from atgcn_jax import cli
from atgcn_jax.data import audioset_files, download
from atgcn_jax.data.audioset_files import File, fetch_metadata

LIST = b"# num_ytids=2, num_segs=2\n" + b"".join(b'%d, 0, 10, "/m/a"\n' % i for i in range(2))
CONTENTS = {
  "labels.csv": b"index,mid,display_name\n"
  + b"".join(b"%d,/m/%d,N\n" % (i, i) for i in range(900)),
  "list.csv": LIST,
  "qa_true_counts.csv": b"label_id,num_rated,num_true\n/m/a,10,9\n",
}
FILES = (
  File("labels.csv", "", sha256=hashlib.sha256(CONTENTS["labels.csv"]).hexdigest()),
  File("list.csv", "", rows=2),
  File("qa_true_counts.csv", ""),
)


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setattr(audioset_files, "FILES", FILES)
  monkeypatch.setattr(download, "PAUSES", (0.01, 0.02, 0.03))
  monkeypatch.setenv("no_proxy", "*")
  with serving(CONTENTS) as running:
    yield running


def fetched(server, out):
  return {file.path.name: file for file in fetch_metadata(out, address(server))}


def present(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_files_are_downloaded_once(server, tmp_path):
  out = tmp_path / "new" / "folder"
  found = fetched(server, out)
  assert present(out) == CONTENTS
  for name, content in CONTENTS.items():
    assert found[name].new
    assert found[name].size == len(content)
    assert found[name].sha256 == hashlib.sha256(content).hexdigest()
    assert found[name].failure == ""
  assert server.asked == [(name, None) for name in CONTENTS]
  again = fetched(server, out)
  assert not any(file.new for file in again.values())
  assert len(server.asked) == len(CONTENTS), "existing valid files are not downloaded again"


def test_an_existing_invalid_file_is_replaced(server, tmp_path):
  (tmp_path / "labels.csv").write_bytes(b"old")
  (tmp_path / "list.csv").write_bytes(LIST[:-5] + b"\n2, 0")
  (tmp_path / "qa_true_counts.csv").write_bytes(CONTENTS["qa_true_counts.csv"])
  found = fetched(server, tmp_path)
  assert [file.new for file in found.values()] == [True, True, False]
  assert present(tmp_path) == CONTENTS


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_resumes(server, tmp_path, capsys, ranges):
  server.faults = {"labels.csv": [cut_off, cut_off]}
  server.ranges = ranges
  found = fetched(server, tmp_path)
  assert present(tmp_path) == CONTENTS
  assert found["labels.csv"].new
  asked = [asked for name, asked in server.asked if name == "labels.csv"]
  assert asked == [None, "bytes=1000-", "bytes=2000-" if ranges else "bytes=1000-"]
  error = capsys.readouterr().err
  size = len(CONTENTS["labels.csv"])
  assert f"/labels.csv: cut off after 1000 of {size} bytes; retrying in 0.01 s" in error


def test_a_part_of_an_earlier_call_is_used(server, tmp_path):
  content = CONTENTS["labels.csv"]
  (tmp_path / "labels.csv.part").write_bytes(content[:500])
  (tmp_path / "list.csv.part").write_bytes(LIST)  # complete, but not renamed
  fetched(server, tmp_path)
  assert present(tmp_path) == CONTENTS
  assert server.asked == [("labels.csv", "bytes=500-"), ("qa_true_counts.csv", None)]


@pytest.mark.parametrize("part", [b"something else", b"longer" * 10_000])
def test_a_part_of_another_file_is_discarded(server, tmp_path, part):
  (tmp_path / "labels.csv.part").write_bytes(part)
  fetched(server, tmp_path)
  assert present(tmp_path) == CONTENTS
  assert [asked for name, asked in server.asked if name == "labels.csv"][1:] == [None]


def test_a_wrong_part_is_discarded(server, tmp_path):
  def sends_the_wrong_part(handler, content):
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)

  (tmp_path / "labels.csv.part").write_bytes(b"half")
  server.faults = {"labels.csv": [sends_the_wrong_part]}
  fetched(server, tmp_path)
  assert present(tmp_path) == CONTENTS


def test_a_busy_server_is_retried(server, tmp_path):
  server.faults = {"labels.csv": [busy, busy]}
  fetched(server, tmp_path)
  assert present(tmp_path) == CONTENTS
  assert len(server.asked) == len(CONTENTS) + 2


def test_a_stalled_server_is_retried(server, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "TIMEOUT", 0.1)
  server.faults = {"labels.csv": [stalls]}
  fetched(server, tmp_path)
  assert present(tmp_path) == CONTENTS
  assert ("labels.csv", "bytes=1000-") in server.asked


def failing(server, out, capsys):
  """Return the single error line of `atgcn metadata`."""
  assert cli.main(["metadata", "--out", str(out), "--mirror", address(server) + "/"]) == 1
  lines = capsys.readouterr().err.splitlines()
  failures = [line for line in lines if line.startswith("atgcn metadata: ")]
  assert len(failures) == 1
  return failures[0]


def test_a_wrong_checksum(server, tmp_path, capsys):
  server.faults = {"labels.csv": [sends_other_bytes]}
  line = failing(server, tmp_path, capsys)
  assert f"{address(server)}/labels.csv: has the SHA-256" in line
  assert FILES[0].sha256 in line
  assert "--mirror" in line
  assert server.asked.count(("labels.csv", None)) == 1, "the same would come again"
  assert present(tmp_path).keys() == {"list.csv", "qa_true_counts.csv"}, "the rest is there"


@pytest.mark.parametrize(
  ("name", "content", "part"),
  [
    ("list.csv", LIST + b"3, 0, 10, /m/a\n", "has 3 segments and states 2, not 2"),
    ("list.csv", LIST[:-19], "has 1 segments"),
    ("list.csv", LIST.replace(b"num_segs=2", b"num_segs=3"), "states 3"),
    ("list.csv", b"<html>", "states None"),
    ("qa_true_counts.csv", b"<html>", "no column label_id"),
  ],
)
def test_a_file_without_a_known_checksum_is_checked_by_content(
  server, tmp_path, capsys, name, content, part
):
  server.contents[name] = content
  line = failing(server, tmp_path, capsys)
  assert f"/{name}: " in line
  assert part in line
  assert name not in present(tmp_path)


@pytest.mark.parametrize("right", [True, False])
def test_the_checksum_of_the_server_is_used(server, tmp_path, right):
  digest = base64.b64encode(hashlib.md5(LIST if right else b"").digest()).decode()
  server.contents = {"list.csv": LIST}
  server.headers = {
    "x-goog-hash": f"crc32c=AAAAAA==,md5={digest}",
    "x-goog-stored-content-encoding": "identity",
  }
  failure = fetched(server, tmp_path)["list.csv"].failure
  assert ("has the MD5" in failure) != right
  assert (tmp_path / "list.csv").exists() == right


def test_a_missing_file(server, tmp_path, capsys):
  del server.contents["list.csv"]
  line = failing(server, tmp_path, capsys)
  assert f"{address(server)}/list.csv: the server returned 404 Not Found; " in line
  assert len(server.asked) == len(CONTENTS), "missing files are not requested again"
  assert present(tmp_path).keys() == {"labels.csv", "qa_true_counts.csv"}


def test_a_server_that_stays_busy(server, tmp_path, capsys):
  server.faults = {"labels.csv": [busy] * 9}
  assert "the server returned 503" in failing(server, tmp_path, capsys)
  assert server.asked.count(("labels.csv", None)) == 4


def test_no_server(server, tmp_path, capsys):
  with Server({}) as gone:
    nowhere = address(gone)
  assert cli.main(["metadata", "--out", str(tmp_path), "--mirror", nowhere]) == 1
  captured = capsys.readouterr()
  failures = [line for line in captured.err.splitlines() if line.startswith("atgcn metadata: ")]
  assert len(failures) == len(FILES)
  assert "refused" in failures[0]
  assert captured.out == ""


def test_ctrl_c_keeps_the_part_and_the_next_call_resumes(server, tmp_path, capsys):
  def interrupts(handler, content):
    handler.answer(content, sent=1000)
    handler.wfile.flush()
    while not (tmp_path / "labels.csv.part").exists():
      time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

  server.faults = {"labels.csv": [interrupts]}
  command = ["metadata", "--out", str(tmp_path), "--mirror", address(server)]
  assert cli.main(command) == 130
  assert capsys.readouterr().err == "atgcn metadata: stopped by SIGINT\n"
  part = present(tmp_path)["labels.csv.part"]
  assert CONTENTS["labels.csv"].startswith(part)
  assert cli.main(command) == 0
  assert present(tmp_path) == CONTENTS
  assert server.asked[1] == ("labels.csv", f"bytes={len(part)}-" if part else None)
  assert f"labels.csv: downloaded, {len(CONTENTS['labels.csv'])} bytes" in capsys.readouterr().out


ARCHIVE = gzip.compress(os.urandom(200_000))
CHANGES = (lambda data: data[:99_999], lambda data: data[:-8] + bytes(8), lambda data: b"x")


@pytest.fixture
def features(server, monkeypatch):
  """Return the server with an archive of features, which counts as large."""
  server.contents["features.tar.gz"] = ARCHIVE
  monkeypatch.setattr(download, "LARGE_BYTES", 100_000)
  return server


def test_features_are_downloaded_on_request(features, tmp_path, capsys):
  command = ["metadata", "--out", str(tmp_path), "--mirror", address(features)]
  assert cli.main(command) == 0
  assert present(tmp_path) == CONTENTS
  features.faults = {"features.tar.gz": [cut_off]}
  assert cli.main([*command, "--features"]) == 0
  assert present(tmp_path) == CONTENTS | {"features.tar.gz": ARCHIVE}
  captured = capsys.readouterr()
  assert f"features.tar.gz: downloaded, {len(ARCHIVE)} bytes" in captured.out
  size = len(ARCHIVE)
  first, *_, last = captured.err.splitlines()
  assert first == f"features.tar.gz: downloading {size / 1e9:.3g} GB of {size / 1e9:.3g} GB"
  assert last == f"features.tar.gz: downloading {(size - 1000) / 1e9:.3g} GB of {size / 1e9:.3g} GB"
  assert features.asked[-2:] == [("features.tar.gz", None), ("features.tar.gz", "bytes=1000-")]
  assert cli.main([*command, "--features"]) == 0
  assert len(features.asked) == len(CONTENTS) + 2, "a complete archive is not downloaded again"


def test_features_that_do_not_fit_the_disk(features, tmp_path, capsys, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
  command = ["metadata", "--features", "--out", str(tmp_path), "--mirror", address(features)]
  assert cli.main(command) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert "features.tar.gz.part: 0.0002 GB of 0.0002 GB are missing, but only 1e-06 GB are" in error
  assert present(tmp_path) == CONTENTS


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_features(features, tmp_path, change):
  features.contents["features.tar.gz"] = change(ARCHIVE)
  *_, file = fetch_metadata(tmp_path, address(features), features=True)
  assert "is not a complete gzip file" in file.failure
  assert present(tmp_path) == CONTENTS


def test_the_checksum_of_features_on_the_server(features, tmp_path):
  features.headers = {
    "x-goog-hash": f"md5={base64.b64encode(bytes(16)).decode()}",
    "x-goog-stored-content-encoding": "identity",
  }
  *_, file = fetch_metadata(tmp_path, address(features), features=True)
  assert "has the MD5" in file.failure


@pytest.mark.parametrize(
  ("line", "part"),
  [
    ("", "--out"),
    ("--out {new} --mirror host/folder", "--mirror host/folder"),
    ("--out {new} --mirror ftp://host", "--mirror ftp://host"),
    ("--out {new} --mirror https://", "--mirror https://"),
    ("--out {new} --mirror http://[1", "--mirror http://[1"),
    ("--out {new} --mirror http://høst/", "--mirror http://høst/"),
    ("--out {file}", "--out"),
    ("--out {file}/below", "--out"),
  ],
)
def test_an_invalid_argument_prints_one_line(tmp_path, capsys, line, part):
  (tmp_path / "file").write_text("a regular file")
  names = {"new": tmp_path / "new", "file": tmp_path / "file"}
  try:
    status = cli.main(["metadata", *line.format(**names).split()])
  except SystemExit as end:
    status = end.code
  assert status == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert part in error
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written(server, tmp_path, capsys):
  (tmp_path / "labels.csv.part").mkdir()
  assert cli.main(["metadata", "--out", str(tmp_path), "--mirror", address(server)]) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert "labels.csv.part: cannot be written" in error


def test_the_checksums_are_those_of_the_lists(shared):
  for file in audioset_files.FILES:
    path = shared / "data" / "audioset" / file.name
    if file.sha256:
      assert audioset_files.wrong(file, path) == ""


def test_the_addresses():
  assert [
    f"{file.folder}/{file.name}" for file in audioset_files.FILES if "goog" in file.folder
  ] == [
    f"https://storage.googleapis.com/us_audioset/youtube_corpus/v1/{name}"
    for name in (
      "csv/class_labels_indices.csv",
      "csv/balanced_train_segments.csv",
      "csv/eval_segments.csv",
      "csv/unbalanced_train_segments.csv",
      "qa/qa_true_counts.csv",
    )
  ]
  assert all(file.sha256 or file.rows or "qa" in file.name for file in audioset_files.FILES)
  features = audioset_files.FEATURES
  assert f"{features.folder}/{features.name}" == (
    "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/features/features.tar.gz"
  )
