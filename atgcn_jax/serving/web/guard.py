"""The check of the header Host, and the headers of every answer."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
  (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "media-src blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  )
)
HEADERS = {
  "Content-Security-Policy": POLICY,
  "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "Cache-Control": "no-store",
}


class Guard:
  """An ASGI middleware that refuses requests for other hosts, and adds HEADERS to answers.

  A page of another origin can reach a local server under a name of its own, which it lets point to
  this machine after the page has loaded (DNS rebinding). The header Host then has that name.
  """

  def __init__(self, app: ASGIApp, names: Collection[str]):
    """Wrap an application.

    Args:
      app: The application.
      names: The names of this server. Addresses and `localhost` are always accepted.
    """
    self._app = app
    self._names = {"localhost", *(name.lower() for name in names)}

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return

    async def send_with_headers(message: Message) -> None:
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
          headers[name] = value
      await send(message)

    if self._accepts(Headers(scope=scope).get("host", "")):
      await self._app(scope, receive, send_with_headers)
    else:
      sentence = "This server has another name; use its address, or start it with --host NAME."
      await JSONResponse({"error": sentence}, 400)(scope, receive, send_with_headers)

  def _accepts(self, host: str) -> bool:
    try:
      name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
      return False
    return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
  try:
    ipaddress.ip_address(name)
  except ValueError:
    return False
  return True
