"""A local web server of files that interrupts, refuses, stalls or sends wrong content."""

import contextlib
import http.server
import threading
import time
import urllib.parse


class Server(http.server.ThreadingHTTPServer):
  """Server of `contents`. `faults` are functions of a handler and a content, each used once.

  `asked` lists (name, Range header) of all requests.
  """

  daemon_threads = True

  def __init__(self, contents):
    super().__init__(("127.0.0.1", 0), Handler)
    self.contents = dict(contents)
    self.faults = {}
    self.asked = []
    self.ranges = True
    self.headers = {}

  def handle_error(self, request, client_address):
    """Ignore disconnected clients."""


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    name = urllib.parse.unquote(self.path.rpartition("/")[2])
    asked = self.headers.get("Range")
    self.server.asked.append((name, asked))
    content = self.server.contents.get(name)
    if content is None:
      self.send_error(404)
    elif self.server.faults.get(name):
      self.server.faults[name].pop(0)(self, content)
    else:
      self.answer(content)

  def answer(self, content, sent=None):
    """Send `sent` bytes of the content or of the requested part."""
    asked, start = self.headers.get("Range"), 0
    if asked and self.server.ranges:
      start = int(asked.removeprefix("bytes=").rstrip("-"))
      if start >= len(content):
        self.send_error(416)
        return
      self.send_response(206)
      self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
      self.send_response(200)
    self.send_header("Content-Length", str(len(content) - start))
    for name, value in self.server.headers.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content[start : len(content) if sent is None else start + sent])

  def log_message(self, *_):
    pass


def cut_off(handler, content):
  handler.answer(content, sent=1000)


def busy(handler, content):
  handler.send_error(503)


def stalls(handler, content):
  handler.answer(content, sent=1000)
  handler.wfile.flush()
  time.sleep(1)


def sends_other_bytes(handler, content):
  handler.answer(content[::-1])


@contextlib.contextmanager
def serving(contents):
  """Yield a running server."""
  with Server(contents) as running:
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()


def address(server):
  return f"http://127.0.0.1:{server.server_port}/some/folder"
