"""The paths under `/api`: the views of a gateway as JSON, for tools that speak no mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from mesh.gateway.views import GatewayView, Views


def api_routes(views: Views, status: Callable[[], GatewayView]) -> list[Route]:
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

    return [
        Route("/api/services", services),
        Route("/api/services/{name}", service),
        Route("/api/edges", edges),
        Route("/api/status", show_status),
    ]


def _json(value: Any, status: int = 200) -> Response:
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(msgspec.json.encode(value), status, headers, "application/json")
