"""A local fake of Google Cloud Storage with the calls that a run needs, for one set of credentials.

The file system of TensorFlow has fixed addresses of the service. So the fake is an HTTPS proxy that
answers requests for any host itself. The usual environment variables tell the clients the address
and the certificate of the proxy. The clients are not changed otherwise.
"""

from __future__ import annotations

import base64
import datetime
import email.parser
import hashlib
import json
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "a-token-of-the-fake"
HOSTS = ("storage.googleapis.com", "www.googleapis.com", "oauth2.googleapis.com")
READ_ONLY = "frozen"
PAGE = 50  # objects per listing, small enough that clients request further pages


class FakeGcs:
  """The service in its own process, because some calls of TensorFlow hold the GIL of this one."""

  def __init__(self, folder: pathlib.Path, *buckets: str):
    """Start the service, and write certificate and credentials to the folder.

    The bucket READ_ONLY always exists.
    """
    self.folder = folder
    command = [sys.executable, __file__, str(folder), *buckets, READ_ONLY]
    self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    self.address = self._process.stdout.readline().strip()

  def stop(self) -> None:
    self._process.kill()
    self._process.wait()

  def objects(self, bucket: str) -> dict[str, bytes]:
    """Return all objects in a bucket, by name."""
    with urllib.request.urlopen(f"{self.address}/objects?{bucket}") as answer:
      return {name: base64.b64decode(content) for name, content in json.load(answer).items()}

  def fail(self, failing: bool) -> None:
    """Answer 503 to everything from now on, or no longer."""
    urllib.request.urlopen(f"{self.address}/failing?{int(failing)}").close()

  def environment(self) -> dict[str, str]:
    """Return the environment variables with which a process uses the fake."""
    certificate = str(self.folder / "certificate.pem")
    return {
      "https_proxy": self.address,
      "HTTPS_PROXY": self.address,
      "no_proxy": "",
      "NO_PROXY": "",
      "CURL_CA_BUNDLE": certificate,  # TensorFlow's
      "TENSORSTORE_CA_BUNDLE": certificate,
      "REQUESTS_CA_BUNDLE": certificate,  # google.cloud.storage's
      "GOOGLE_APPLICATION_CREDENTIALS": str(self.folder / "credentials.json"),
      "NO_GCE_CHECK": "true",
    }


class _Server(ThreadingHTTPServer):
  """A server of `buckets`, {bucket: {object name: content}}."""

  daemon_threads = True

  def __init__(self, folder: pathlib.Path, *buckets: str):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.address = f"http://127.0.0.1:{self.server_port}"
    self.buckets: dict[str, dict[str, bytes]] = {name: {} for name in buckets}
    self.generations: dict[tuple[str, str], int] = {}
    self.uploads: dict[str, Any] = {}
    self.failing = False
    self.lock = threading.RLock()
    self.clock = 0
    _write_identity(folder, self.address)
    self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    self.context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")

  def put(self, bucket: str, name: str, content: bytes) -> dict[str, Any]:
    with self.lock:
      self.clock += 1
      self.buckets[bucket][name] = content
      self.generations[bucket, name] = self.clock
      return self.described(bucket, name)

  def described(self, bucket: str, name: str) -> dict[str, Any]:
    content, generation = self.buckets[bucket][name], self.generations[bucket, name]
    time = datetime.datetime.fromtimestamp(1.7e9 + generation, datetime.UTC)
    return {
      "kind": "storage#object",
      "id": f"{bucket}/{name}/{generation}",
      "name": name,
      "bucket": bucket,
      "generation": str(generation),
      "metageneration": "1",
      "size": str(len(content)),
      "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
      "updated": time.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
      "timeCreated": time.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
      "storageClass": "STANDARD",
    }


class _Refused(Exception):  # noqa: N818 (an answer)
  def __init__(self, status: int, reason: str):
    self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  server: _Server
  host = ""

  def log_message(self, *_):
    pass

  def do_CONNECT(self):
    self.host = self.path.partition(":")[0]
    self.send_response(200, "Connection established")
    self.end_headers()
    self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
    self.rfile = self.connection.makefile("rb")
    self.wfile = self.connection.makefile("wb")
    self.close_connection = False

  def do_GET(self):
    url = urllib.parse.urlsplit(self.path)
    asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    body = self._body()
    status, headers, answer = 200, {}, b""
    try:
      if not self.host and url.path in ("/objects", "/failing"):
        status, headers, answer = self._told(url.path, url.query)
      elif self.server.failing:
        raise _Refused(503, "the service is out of order")
      else:
        with self.server.lock:
          status, headers, answer = self._answered(url.path, asked, body)
    except _Refused as refused:
      status = refused.status
      fault = {"code": status, "message": refused.reason, "errors": [{"message": refused.reason}]}
      answer = json.dumps({"error": fault}).encode()
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(answer)))
    self.end_headers()
    self.wfile.write(answer if self.command != "HEAD" else b"")
    self.wfile.flush()

  do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET  # noqa: N815

  def _body(self) -> bytes:
    if "chunked" not in self.headers.get("Transfer-Encoding", ""):
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    parts = []
    while size := int(self.rfile.readline().split(b";")[0], 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b"".join(parts)

  def _told(self, path: str, query: str):
    """Answer a request of the tests."""
    if path == "/failing":
      self.server.failing = query == "1"
      return _json({})
    with self.server.lock:
      objects = self.server.buckets[query].items()
      return _json({name: base64.b64encode(content).decode() for name, content in objects})

  def _answered(self, path: str, asked: dict[str, str], body: bytes):
    """Return status, headers and body of the answer to a request of a client."""
    if path.endswith("/token"):
      return _json({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
      raise _Refused(401, "Anonymous caller does not have access to the bucket.")
    if upload := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
      return self._uploaded(self._writable(upload[1]), asked, body)
    if copy := re.fullmatch(
      r"/storage/v1/b/([^/]+)/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", path
    ):
      source, name, target, new = map(urllib.parse.unquote, copy.groups())
      content = self._content(source, name)
      found = self.server.put(self._writable(target), new, content)
      return _json({"done": True, "resource": found, "objectSize": str(len(content))})
    if compose := re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)/compose", path):
      bucket, name = map(urllib.parse.unquote, compose.groups())
      sources = [source["name"] for source in json.loads(body)["sourceObjects"]]
      content = b"".join(self._content(bucket, source) for source in sources)
      return _json(self.server.put(self._writable(bucket), name, content))
    if one := re.fullmatch(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)", path):
      return self._object(*map(urllib.parse.unquote, one.groups()), asked)
    if many := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
      return self._listed(self._bucket(many[1]), asked)
    if layout := re.fullmatch(r"/storage/v1/b/([^/]+)/storageLayout", path):
      return _json({"bucket": self._bucket(layout[1]), "hierarchicalNamespace": {"enabled": False}})
    if bucket := re.fullmatch(r"/storage/v1/b/([^/]+)", path):
      return _json({"kind": "storage#bucket", "name": self._bucket(bucket[1]), "location": "US"})
    if plain := re.fullmatch(r"/([^/]+)/(.+)", path):  # the XML API, which TensorFlow reads with
      return self._object(*map(urllib.parse.unquote, plain.groups()), {"alt": "media"})
    raise _Refused(501, f"not in the fake: {self.command} {path}")

  def _bucket(self, name: str) -> str:
    if name not in self.server.buckets:
      raise _Refused(404, "The specified bucket does not exist.")
    return name

  def _writable(self, name: str) -> str:
    if self._bucket(name) == READ_ONLY:
      raise _Refused(403, "the caller does not have storage.objects.create access")
    return name

  def _content(self, bucket: str, name: str) -> bytes:
    try:
      return self.server.buckets[self._bucket(bucket)][name]
    except KeyError:
      raise _Refused(404, f"No such object: {bucket}/{name}") from None

  def _object(self, bucket: str, name: str, asked: dict[str, str]):
    if self.command == "DELETE":
      self._content(self._writable(bucket), name)
      self._check_generation(bucket, name, asked)
      del self.server.buckets[bucket][name]
      return 204, {}, b""
    content = self._content(bucket, name)
    self._check_generation(bucket, name, asked)
    if asked.get("alt") != "media":
      return _json(self.server.described(bucket, name))
    headers = {
      "x-goog-generation": str(self.server.generations[bucket, name]),
      "x-goog-stored-content-length": str(len(content)),
      "Content-Type": "application/octet-stream",
    }
    if found := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
      first = int(found[1]) if found[1] else max(0, len(content) - int(found[2]))
      last = min(int(found[2]), len(content) - 1) if found[1] and found[2] else len(content) - 1
      if first >= len(content):
        raise _Refused(416, "The requested range cannot be satisfied.")
      headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
      return 206, headers, content[first : last + 1]
    return 200, headers, content

  def _check_generation(self, bucket: str, name: str, asked: dict[str, str]) -> None:
    there = self.server.generations[bucket, name] if name in self.server.buckets[bucket] else 0
    if "ifGenerationMatch" in asked and int(asked["ifGenerationMatch"]) != there:
      raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")
    if "ifGenerationNotMatch" in asked and int(asked["ifGenerationNotMatch"]) == there:
      raise _Refused(304, "not modified")

  def _listed(self, bucket: str, asked: dict[str, str]):
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    first, beyond = asked.get("startOffset", ""), asked.get("endOffset")
    entries: dict[str, bool] = {}  # name → whether it is a prefix of others
    for name in sorted(self.server.buckets[bucket]):
      if not name.startswith(prefix) or name < first or (beyond and name >= beyond):
        continue
      cut = name.find(delimiter, len(prefix)) if delimiter else -1
      entries[name if cut < 0 else name[: cut + len(delimiter)]] = cut >= 0
    names = [name for name in sorted(entries) if name > asked.get("pageToken", "")]
    page = names[: min(PAGE, int(asked.get("maxResults", PAGE)))]
    answer: dict[str, Any] = {"kind": "storage#objects"}
    if items := [self.server.described(bucket, name) for name in page if not entries[name]]:
      answer["items"] = items
    if prefixes := [name for name in page if entries[name]]:
      answer["prefixes"] = prefixes
    if len(page) < len(names):
      answer["nextPageToken"] = page[-1]
    return _json(answer)

  def _uploaded(self, bucket: str, asked: dict[str, str], body: bytes):
    if self.command == "DELETE":
      del self.server.uploads[asked["upload_id"]]
      return 499, {}, b""
    if self.command == "PUT":
      return self._continued(asked["upload_id"], body)
    if asked["uploadType"] == "multipart":
      head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
      described, content = email.parser.BytesParser().parsebytes(head + body).get_payload()
      name = asked.get("name") or json.loads(described.get_payload())["name"]
      self._check_generation(bucket, name, asked)
      return _json(self.server.put(bucket, name, content.get_payload(decode=True)))
    name = asked.get("name") or json.loads(body)["name"]
    self._check_generation(bucket, name, asked)
    if asked["uploadType"] == "media":
      return _json(self.server.put(bucket, name, body))
    session = f"session-{len(self.server.uploads)}"
    self.server.uploads[session] = [bucket, name, b""]
    query = urllib.parse.urlencode({"uploadType": "resumable", "upload_id": session})
    return 200, {"Location": f"https://{self.host}{self.path.partition('?')[0]}?{query}"}, b""

  def _continued(self, session: str, body: bytes):
    """Add the next bytes to a resumable upload."""
    upload = self.server.uploads[session]
    reported = re.fullmatch(
      r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)",
      self.headers.get("Content-Range", f"bytes */{len(body)}"),
    )
    if reported is None:
      raise _Refused(400, "Content-Range")
    if reported[1]:
      upload[2] = upload[2][: int(reported[1])] + body
    elif "Content-Range" not in self.headers:
      upload[2] = body
    if reported[3] != "*" and len(upload[2]) == int(reported[3]):
      return _json(self.server.put(*upload))
    return 308, {"Range": f"bytes=0-{len(upload[2]) - 1}"} if upload[2] else {}, b""


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
  return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _write_identity(folder: pathlib.Path, address: str) -> None:
  """Write a certificate with its key, and the key of a service account, valid for a day."""
  from cryptography import x509
  from cryptography.hazmat.primitives import hashes, serialization
  from cryptography.hazmat.primitives.asymmetric import ec, rsa

  def written(key):
    return key.private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )

  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a storage service for tests")])
  now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
  certificate = (
    x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    .not_valid_before(now - day)
    .not_valid_after(now + day)
    .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), False)
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    .sign(key, hashes.SHA256())
  )
  (folder / "key.pem").write_bytes(written(key))
  (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
  credentials = {
    "type": "service_account",
    "project_id": "tests",
    "private_key_id": "1",
    "private_key": written(rsa.generate_private_key(public_exponent=65537, key_size=2048)).decode(),
    "client_email": "tests@tests.iam.gserviceaccount.com",
    "client_id": "1",
    "token_uri": f"{address}/token",
  }
  (folder / "credentials.json").write_text(json.dumps(credentials))


if __name__ == "__main__":
  server = _Server(pathlib.Path(sys.argv[1]), *sys.argv[2:])
  print(server.address, flush=True)
  server.serve_forever()
