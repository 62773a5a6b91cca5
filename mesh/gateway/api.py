"""The paths under `/api`: the views of a gateway as JSON, for tools that speak no mesh.

One kept trace is also there as text, for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from mesh.errors import CallError, Code, InvalidArgument, NotFound
from mesh.gateway.filters import ChangeFilters, TapFilters, TraceFilters
from mesh.gateway.tapping import Taps
from mesh.http import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from mesh.gateway.core import Core
    from mesh.gateway.kept import TraceViews
    from mesh.gateway.views import GatewayView, Views

    Endpoint = Callable[[Request], Awaitable[Response]]

_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 503,
}
"""What HTTP calls a failure; the others mean that there is nothing: 404."""
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def api_routes(
    core: Core, views: Views, traces: TraceViews, status: Callable[[], GatewayView]
) -> list[Route]:
    """The routes of `/api`, for the application behind the admin address. They only read."""
    taps = Taps(core)

    async def services(request: Request) -> Response:
        _query(request, ())
        return _json(views.services())

    async def service(request: Request) -> Response:
        _query(request, ())
        name = request.path_params["name"]
        found = views.service(name)
        if found is None:
            raise NotFound(views.explain_missing(name))
        return _json(found)

    async def edges(request: Request) -> Response:
        _query(request, ())
        return _json(await views.all_edges())

    async def show_status(request: Request) -> Response:
        _query(request, ())
        return _json(status())

    async def sample(request: Request) -> Response:
        _query(request, ())
        return _json(await views.sample(status))

    async def changes(request: Request) -> Response:
        return _json(views.changes(ChangeFilters.read(_query(request))))

    async def tap(request: Request) -> Response:
        return _json(await taps.page(TapFilters.read(_query(request))))

    async def list_traces(request: Request) -> Response:
        wanted = TraceFilters.read(_query(request))
        return _json({"traces": await traces.search(wanted)})

    async def trace(request: Request) -> Response:
        asked = _query(request, ("format", "width"))
        wants_text = _prefers_text(request.headers.get("accept", ""))
        form = asked.get("format", "text" if wants_text else "otlp")
        told = await traces.tell(request.path_params["id"], form, asked.get("width"))
        return _text(told) if isinstance(told, str) else _json(told)

    endpoints = {
        "/api/services": services,
        "/api/services/{name}": service,
        "/api/edges": edges,
        "/api/status": show_status,
        "/api/sample": sample,
        "/api/changes": changes,
        "/api/tap": tap,
        "/api/traces": list_traces,
        "/api/traces/{id:path}": trace,  # an activity id may have slashes
    }
    return [Route(path, _telling_faults(endpoint)) for path, endpoint in endpoints.items()]


def _telling_faults(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except CallError as failure:
            status = _STATUS.get(failure.code, 404)
            return refusal(request.url.path, status, failure.message)

    return answer


def _query(request: Request, known: tuple[str, ...] | None = None) -> dict[str, str]:
    """What stands behind the question mark; other names than the known ones are refused."""
    asked: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if known is not None and name not in known:
            there = f"there are {', '.join(known)}" if known else "there is none here"
            raise InvalidArgument(f"no parameter {name!r:.60}; {there}")
        if name in asked:
            raise InvalidArgument(f"{name} is given twice")
        asked[name] = value
    return asked


def _prefers_text(accept: str) -> bool:
    """Whether an ``Accept`` header ranks text above JSON, which those get who take anything."""
    weights: dict[str, float] = {}
    for one in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[kind] = float(weight)
        except ValueError:
            weights[kind] = 0.0
    text, json = (
        next((weights[kind] for kind in (exact, group, "*/*") if kind in weights), 0.0)
        for exact, group in (("text/plain", "text/*"), ("application/json", "application/*"))
    )
    return text > json


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), 200, _HEADERS, "application/json")


def _text(text: str) -> Response:
    return Response(text, headers=_HEADERS, media_type="text/plain")
