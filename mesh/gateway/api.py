"""The paths under `/api`: the views of a gateway as JSON, for tools that speak no mesh.

One kept trace is also there as text, for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from mesh.errors import CallError, Code, InvalidArgument
from mesh.gateway.filters import TraceFilters

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from mesh.gateway.kept import TraceViews
    from mesh.gateway.views import GatewayView, Views

_STATUS = {Code.INVALID_ARGUMENT: 400}
"""What HTTP calls a failure; the others mean that there is nothing: 404."""
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def api_routes(views: Views, traces: TraceViews, status: Callable[[], GatewayView]) -> list[Route]:
    """The routes of `/api`, for the application behind the admin address. They only read."""

    async def services(_request: Request) -> Response:
        return _json(views.services())

    async def service(request: Request) -> Response:
        name = request.path_params["name"]
        found = views.service(name)
        if found is None:
            return _json({"error": views.explain_missing(name)}, 404)
        return _json(found)

    async def edges(_request: Request) -> Response:
        return _json(await views.all_edges())

    async def show_status(_request: Request) -> Response:
        return _json(status())

    async def list_traces(request: Request) -> Response:
        try:
            wanted = TraceFilters.read(_query(request))
            return _json({"traces": await traces.search(wanted)})
        except CallError as failure:
            return _fault(failure)

    async def trace(request: Request) -> Response:
        try:
            asked = _query(request)
            wants_text = _prefers_text(request.headers.get("accept", ""))
            form = asked.pop("format", "text" if wants_text else "otlp")
            width = asked.pop("width", None)
            for name in asked:
                raise InvalidArgument(f"no parameter {name!r}; there are format, width")
            told = await traces.tell(request.path_params["id"], form, width)
            return _text(told) if isinstance(told, str) else _json(told)
        except CallError as failure:
            return _fault(failure)

    return [
        Route("/api/services", services),
        Route("/api/services/{name}", service),
        Route("/api/edges", edges),
        Route("/api/status", show_status),
        Route("/api/traces", list_traces),
        Route("/api/traces/{id:path}", trace),  # an activity id may have slashes
    ]


def _query(request: Request) -> dict[str, str]:
    asked: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
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


def _fault(failure: CallError) -> Response:
    return _json({"error": failure.message}, _STATUS.get(failure.code, 404))


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, _HEADERS, "application/json")


def _text(text: str) -> Response:
    return Response(text, headers=_HEADERS, media_type="text/plain")
