"""The server of `atgcn serve`: its socket, and its life until a signal ends it."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from typing import cast

import uvicorn
from starlette.applications import Starlette

from atgcn_jax.errors import UserError

ENDING_SECONDS = 3  # running requests are ended after this time


def listen(host: str, port: int) -> socket.socket:
  """Return a socket that listens, so that a port in use is reported before the model is loaded.

  Args:
    host: A name or an address.
    port: The port; 0 for a free one.

  Raises:
    UserError: The socket cannot be made.
  """
  if not 0 <= port <= 65_535:
    raise UserError(f"--port {port}: must be 0 to 65535; 0 takes a free one")
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
  except (OSError, UnicodeError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"--host {host}: is not known ({reason}); use 127.0.0.1") from None
  family, *_, address = found[0]
  try:
    return socket.create_server(address[:2], family=family)
  except OSError as error:
    raise UserError(
      f"--port {port}: cannot be opened at {host} ({error.strerror}); choose another --port"
    ) from None


def names_of(host: str) -> list[str]:
  """Return the names by which a server that is bound to `host` may be called."""
  return [host, socket.gethostname(), socket.getfqdn()] if is_open(host) else [host]


def is_open(host: str) -> bool:
  """Return whether other machines can reach a server that is bound to `host`."""
  try:
    return not ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host != "localhost"


def address_of(listening: socket.socket, host: str) -> str:
  """Return the address of the page."""
  port = listening.getsockname()[1]
  return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class _Server(uvicorn.Server):
  """A server that does not wait for sounds that are being scored when it ends."""

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    """End the requests."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # connections that are cut
    cast(Starlette, self.config.app).state.worker.stop()
    await super().shutdown(sockets)


def serve(app: Starlette, listening: socket.socket) -> None:
  """Serve an application until a signal ends the command.

  Uvicorn catches SIGINT and SIGTERM, closes, and then raises the signal again for the handler of
  the command.
  """
  config = uvicorn.Config(
    app,
    http="h11",
    ws="none",
    loop="asyncio",
    lifespan="on",
    log_config=None,  # errors go to stderr, requests nowhere
    log_level="error",
    access_log=False,
    server_header=False,
    timeout_graceful_shutdown=ENDING_SECONDS,
  )
  _Server(config).run(sockets=[listening])


def announce(title: str, labels: int, address: str, host: str) -> None:
  """Print where the page is, and a warning if other machines can reach it."""
  if is_open(host):
    print(
      f"atgcn serve: --host {host}: anyone who can reach this machine can use the page; it has no "
      "password",
      file=sys.stderr,
    )
  print(f"{title}, {labels} labels: open {address} (Ctrl-C ends)", flush=True)
