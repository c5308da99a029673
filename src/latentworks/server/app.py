"""The HTTP API of the server: its addresses, headers, limits of bodies, and errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from latentworks.errors import InputError
from latentworks.server import encoding, invocations, page
from latentworks.server.budget import MEMORY, Budget, Overloaded, Share, Sharing
from latentworks.server.hosts import Hosts
from latentworks.server.metrics import Measures
from latentworks.server.schema import VERBS, describe
from latentworks.server.service import NotReady, Service, aside

MAX_BODY = 16_000_000  # bytes of one body
BODY_TIMEOUT = 10.0  # seconds in which a body must arrive
RETRY = {"Retry-After": "1"}  # seconds
HEADERS = {"X-Content-Type-Options": "nosniff"}  # of every answer, also of a refused connection
VERSION = "X-Model-Version"  # header of an answer that a version made
SHOWN = {
    "sample": ("num", "seed", "label", "guidance", "temperature"),
    "decode": ("z", "label"),
}  # the verbs that answer a GET, and their params in the query

Answer = Callable[[Request], Awaitable[Response]]


class TooLarge(InputError):
    """A body is larger than MAX_BODY."""


class TooSlow(InputError):
    """A body did not arrive in time."""


STATUS: dict[type[Exception], int] = {
    encoding.NotJSON: 400,
    ClientDisconnect: 400,  # the client has gone and reads no answer
    TooSlow: 408,
    TooLarge: 413,
    encoding.Unsupported: 415,
    InputError: 422,
    NotReady: 503,
    Overloaded: 503,
}


async def read_body(request: Request) -> bytes:
    """Read a body, at most MAX_BODY bytes. Raises TooLarge, TooSlow and Overloaded."""
    body, share = bytearray(), share_of(request)
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                twice = 2 * len(chunk)  # also for the copy that is returned
                await share.in_turn(aside, False, share.claim, twice)
                body += chunk
                if len(body) > MAX_BODY:
                    raise TooLarge(f"The body is too large. Expected at most {MAX_BODY:,} bytes.")
    except TimeoutError:
        raise TooSlow(
            f"The body did not arrive within {BODY_TIMEOUT:.0f} seconds. Send it again."
        ) from None
    return bytes(body)


def share_of(request: Request) -> Share:
    share: Share = request.state.share
    return share


def create(
    service: Service,
    *,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    memory: int = MEMORY,
) -> FastAPI:
    """Make the application that serves the version of `service`.

    It answers for the names `hosts` and for IP addresses. Pages of `origins`, such as
    `https://example.org`, may read its answers. Its requests take at most `memory` bytes together.
    """
    app = FastAPI(title="latentworks", docs_url=None, redoc_url=None, redirect_slashes=False)
    budget = Budget(memory)
    measures = Measures(service, budget)

    def answering(verb: str) -> Answer:
        async def answer(request: Request) -> Response:
            large, share = False, share_of(request)
            if request.method in ("GET", "HEAD"):
                call = read_address(verb, request)
            else:
                body = await read_body(request)
                large = encoding.is_large(body)
                call = await share.in_turn(
                    aside, large, encoding.read, body, request.headers, share.claim
                )
            model = request.state.model = service.served_model
            outputs = await service.call(
                model, verb, call.inputs, call.params, large=large, share=share
            )
            content, media_type = await aside(
                np.asarray(outputs).size >= encoding.LARGE,
                encoding.write,
                call,
                str(model.version),
                outputs,
            )
            return Response(content, media_type=media_type, headers={VERSION: str(model.version)})

        return answer

    for verb in VERBS:
        methods = ["GET", "POST"] if verb in SHOWN else ["POST"]
        app.add_route(f"/{verb}", measures.timed(verb, answering(verb)), methods=methods)

    async def invoked(request: Request) -> Response:
        body, share = await read_body(request), share_of(request)
        large = encoding.is_large(body)
        verb, inputs, params = await share.in_turn(
            aside, large, invocations.read, body, request.headers, share.claim
        )
        model = request.state.model = service.served_model
        outputs = await service.call(model, verb, inputs, params, large=large, share=share)
        large = np.asarray(outputs).size >= encoding.LARGE
        content = await aside(large, invocations.write, outputs)
        return Response(content, media_type=encoding.JSON, headers={VERSION: str(model.version)})

    app.add_route("/invocations", measures.timed("invocations", invoked), methods=["POST"])
    _add_probes(app, service, measures.registry)
    _add_errors(app, service)
    page.add_pages(app)
    app.openapi = lambda: describe(service)  # type: ignore[method-assign]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Content-Type",),
            expose_headers=(VERSION,),
        )
    app.add_middleware(Sharing, budget=budget)
    app.add_middleware(Hosts, names=hosts)  # the last is asked first
    return app


def _add_probes(app: FastAPI, service: Service, measures: CollectorRegistry) -> None:
    async def live() -> Response:
        return encoding.response(200, {"live": True})

    async def ready() -> Response:
        return encoding.response(200 if service.model else 503, service.state())

    async def version() -> Response:
        model = service.served_model
        interface = model.interface
        named = model.version
        return encoding.response(
            200,
            {
                "model": named.name,
                "version": named.number,
                "sha256": named.sha256,
                "image_shape": interface.image_shape,
                "background": interface.background,
                "latent_dim": interface.latent_dim,
                "labels": interface.labels,
                "conditional": model.conditional,
                "has_density": model.has_density,
                "value_range": model.value_range,
                "settings": model.settings,
            },
        )

    async def metrics() -> Response:
        return Response(generate_latest(measures), media_type=CONTENT_TYPE_LATEST)

    async def ping() -> Response:
        """Answer as MLflow's server does: 200 if a version can answer, else 503."""
        return Response("\n", 200 if service.model else 503, media_type="text/plain")

    for path, answer in {
        "/live": live, "/ready": ready, "/version": version, "/metrics": metrics, "/ping": ping,
        "/health": ping,
    }.items():  # fmt: skip
        app.add_api_route(path, answer, methods=["GET", "HEAD"])


def _add_errors(app: FastAPI, service: Service) -> None:
    """Turn each error into a status and one line of text in JSON."""

    async def refuse(request: Request, error: Exception) -> Response:
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        headers = dict(RETRY) if status == 503 else {}
        if model := getattr(request.state, "model", service.model):
            headers[VERSION] = str(model.version)
        if request.url.path.endswith("/invocations"):  # in the format of MLflow's server
            code = "BAD_REQUEST" if status < 500 else "TEMPORARILY_UNAVAILABLE"
            status = 400 if status == 422 else status
            return encoding.response(status, {"error_code": code, "message": str(error)}, headers)
        return encoding.response(status, {"error": str(error)}, headers)

    async def refuse_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == 404 and path.endswith("/"):
            name = path[:-1].rpartition("/")[2]
            if any(route.path == f"/{name}" for route in app.routes if isinstance(route, Route)):
                return Response(status_code=307, headers={"Location": f"../{name}"})
        texts = {
            404: f"No page at {path[:50]!r}. See /docs.",
            405: f"{request.method} is not allowed at this address. See /docs.",
        }
        text = texts.get(error.status_code, str(error.detail))
        return encoding.response(error.status_code, {"error": text}, dict(error.headers or {}))

    async def refuse_shape(request: Request, error: Exception) -> Response:
        return encoding.response(422, {"error": "The request does not match the API. See /docs."})

    for kind in STATUS:
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(RequestValidationError, refuse_shape)


# --- GET requests --------------------------------------------------------------------------------


def read_address(verb: str, request: Request) -> encoding.Call:
    """Read the call of a GET request from its query. Raises InputError.

    The answer is a picture, for a person with a browser, unless the request accepts JSON.
    """
    given = request.query_params
    known = SHOWN[verb]
    for name in given:
        if name not in known or len(given.getlist(name)) > 1:
            raise InputError(
                f"Unknown or repeated param {name[:50]!r}. Expected each at most once: "
                f"{', '.join(known)}."
            )
    as_png = encoding.JSON not in request.headers.get("accept", "")
    params: dict[str, object] = {
        name: _READ.get(name, _whole_number)(name, text)
        for name, text in given.items()
        if name != "z"
    }
    inputs = [_numbers(given.get("z", ""))] if verb == "decode" else None
    return encoding.Call(inputs, params, as_png=as_png)


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InputError(f"{name} is a whole number. Received: {text[:50]!r}.")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} is a number. Received: {text[:50]!r}.") from None


# How a param is read from its text; others are whole numbers.
_READ: dict[str, Callable[[str, str], object]] = {
    "label": lambda _, text: text,
    "guidance": _number,
    "temperature": _number,
}


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"z is a list of numbers: z=0.5,-1. Received: {text[:50]!r}.") from None
