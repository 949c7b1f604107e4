"""The application: the routes of the page and of the JSON API."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import importlib.resources
import json
import mimetypes
import urllib.parse
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atgcn_jax import __version__
from atgcn_jax.runtime.process_setup import return_freed_memory
from atgcn_jax.serving.detections import FORMATS, Rules, rules_of
from atgcn_jax.serving.web import uploads
from atgcn_jax.serving.web.guard import Guard
from atgcn_jax.serving.web.limits import RETRY_SECONDS, Refused
from atgcn_jax.serving.web.results import Analysis, Results

T = TypeVar("T")
PAGES = {"/": "index.html", "/api": "api.html"}


class OneAtATime:
  """One thread that works, and a limited number of uploads that wait for it."""

  def __init__(self, waiting: int):
    self._most, self._admitted = waiting + 1, 0
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "inference")
    self._stopping = asyncio.Event()

  @contextlib.contextmanager
  def admitted(self) -> Iterator[None]:
    """Hold one of the places, from the start of an upload to its answer.

    Raises:
      Refused: All places are taken.
    """
    if self._admitted >= self._most:
      raise Refused(503, "The server is busy with other sounds; try again in a few seconds.")
    self._admitted += 1
    try:
      yield
    finally:
      self._admitted -= 1

  async def run(self, work: Callable[[], T]) -> T:
    """Return the result of a function, which is called in the thread.

    Raises:
      Refused: `stop` was called.
    """
    stopping = asyncio.create_task(self._stopping.wait())
    result = asyncio.get_running_loop().run_in_executor(self._thread, work)
    await asyncio.wait((result, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if self._stopping.is_set():
      raise Refused(503, "The server is stopping.")
    return await result

  def stop(self) -> None:
    """Start nothing more, and wait for nothing more."""
    self._stopping.set()
    self._thread.shutdown(wait=False, cancel_futures=True)


def make_app(analysis: Analysis, title: str, names: Collection[str] = ()) -> Starlette:
  """Return the application.

  Args:
    analysis: The tagger and the limits.
    title: What the page calls the model.
    names: The names of this server, besides `localhost` and addresses.
  """
  limits, results = analysis.limits, Results()
  worker = OneAtATime(limits.waiting)
  description = _description(analysis)

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    worker.stop()

  async def model(request: Request) -> Response:
    run = analysis.tagger.run
    return JSONResponse(
      {
        "title": title,
        "version": __version__,
        "step": analysis.tagger.step,
        "labels": len(analysis.tagger.vocabulary),
        "has_thresholds": analysis.tagger.thresholds is not None,
        "has_graph": run.propagation is not None,
        "window_seconds": run.frontend.seconds,
        "highest_hz": run.frontend.fmax,
        "max_bytes": limits.upload_bytes,
        "max_seconds": limits.seconds,
      }
    )

  async def add_sound(request: Request) -> Response:
    async with uploads.reading_refused(request):
      uploads.check_type(request)
      rules, name = _rules(request, analysis), uploads.name_in(request)
      with worker.admitted():
        body = await uploads.body_of(request, limits)

        def work() -> bytes:
          try:
            result, spectrogram = analysis.result_of(name, body)
            own = {"id": results.add(result), "spectrogram": spectrogram}
            return json.dumps(own | analysis.result_json(result, rules)).encode()
          finally:
            return_freed_memory()

        return Response(await worker.run(work), 201, media_type="application/json")

  def detections(request: Request) -> Response:
    result = results.get(request.path_params["id"])
    return JSONResponse(analysis.detections_json(result, _rules(request, analysis)))

  def table(request: Request) -> Response:
    kind = request.path_params["format"]
    if kind not in FORMATS:
      raise Refused(404, f"There is no format {kind}; choose one of {', '.join(FORMATS)}.")
    result = results.get(request.path_params["id"])
    ending, media_type = FORMATS[kind]
    file = urllib.parse.quote(result.name + ending, safe="")
    return Response(
      analysis.table(result, _rules(request, analysis), kind),
      media_type=media_type,
      headers={"Content-Disposition": f"attachment; filename*=UTF-8''{file}"},
    )

  async def openapi(request: Request) -> Response:
    return JSONResponse(description)

  app = Starlette(
    routes=[
      *_pages(),
      Route("/api/openapi.json", openapi),
      Route("/api/model", model),
      Route("/api/sounds", add_sound, methods=["POST"]),
      Route("/api/sounds/{id}/detections", detections),
      Route("/api/sounds/{id}/tables/{format}", table),
    ],
    middleware=[Middleware(Guard, names=names)],
    exception_handlers={Refused: _refused, HTTPException: _no_such_page, Exception: _failed},
    lifespan=lifespan,
  )
  app.state.worker = worker
  return app


def _pages() -> list[Route]:
  """Return the routes of the files of the page, which are read here and never again."""
  folder = importlib.resources.files("atgcn_jax.serving.web") / "static"
  files = [file for file in folder.iterdir() if not file.name.endswith(".json")]
  contents = {file.name: file.read_bytes() for file in files}
  paths = PAGES | {f"/static/{name}": name for name in contents if name not in PAGES.values()}

  async def answer(request: Request, content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type)

  return [
    Route(
      path,
      _endpoint(answer, contents[name], mimetypes.guess_type(name)[0] or "text/plain"),
      name=name,
    )
    for path, name in paths.items()
  ]


def _endpoint(answer: Callable, content: bytes, media_type: str) -> Callable:
  return functools.partial(answer, content=content, media_type=media_type)


def _description(analysis: Analysis) -> dict[str, Any]:
  """Return the OpenAPI description, with the version and the limits of this server."""
  file = importlib.resources.files("atgcn_jax.serving.web") / "static" / "openapi.json"
  description = json.loads(file.read_text(encoding="utf-8"))
  description["info"]["version"] = __version__
  limits = analysis.limits
  description["info"]["description"] += (
    f" This server accepts files up to {limits.megabytes:g} MB and {limits.seconds:g} s."
  )
  return description


def _number(request: Request, name: str, default: float, least: float, most: float) -> float:
  """Return a number of the query.

  Raises:
    Refused: It is no number, or out of its range.
  """
  text = request.query_params.get(name)
  if text is None:
    return default
  try:
    value = float(text)
  except ValueError:
    value = float("nan")
  if not least <= value <= most:
    raise Refused(400, f"{name} must be a number from {least:g} to {most:g}, not {text[:20]!r}.")
  return value


def _rules(request: Request, analysis: Analysis) -> Rules:
  """Return the rules of detections in the query."""
  own = "min_score" in request.query_params
  return rules_of(
    analysis.tagger,
    _number(request, "min_score", 0.5, 0.001, 1) if own else None,
    _number(request, "release", 0.5, 0.001, 1),
    _number(request, "min_seconds", 0, 0, 86_400),
  )


def _refused(request: Request, error: Exception) -> Response:
  status = error.status if isinstance(error, Refused) else 500
  headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
  return JSONResponse({"error": str(error)}, status, headers)


def _no_such_page(request: Request, error: Exception) -> Response:
  status = error.status_code if isinstance(error, HTTPException) else 404
  headers = error.headers if isinstance(error, HTTPException) else None
  sentence = {404: "There is nothing at this address.", 405: "This address takes another method."}
  return JSONResponse({"error": sentence.get(status, f"{error.detail}.")}, status, headers)  # type: ignore[attr-defined]


def _failed(request: Request, error: Exception) -> Response:
  return JSONResponse(
    {"error": "The server failed on this request; its terminal has the reason."}, 500
  )
