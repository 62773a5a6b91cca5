"""Names of calls: what is one, and how it is told."""

from __future__ import annotations

import enum
from typing import Any

import pytest

import mesh
from mesh.calling import name_of


class Named(str, enum.Enum):  # noqa: UP042 - text that is formatted as something else
    USERS = "users"
    GET = "get"


@pytest.mark.parametrize("first", [("users", "get"), (Named.USERS, Named.GET)])
def test_equal_names_are_told_alike_whichever_came_first(first: tuple[str, str]) -> None:
    """They are remembered once."""
    name_of.cache_clear()
    name_of(*first)
    for service in ("users", Named.USERS):
        for method in ("get", Named.GET):
            assert name_of(service, method) == "users.get"


@pytest.mark.parametrize("metrics", [None, "127.0.0.1:0"])
@pytest.mark.parametrize("wrong", [None, 1, b"users", [], {}, ["users"]], ids=repr)
async def test_what_is_no_text_is_refused(metrics: str | None, wrong: Any) -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("peer", gateway=gateway, metrics=metrics) as peer,
    ):
        for service, method in ((wrong, "get"), ("users", wrong)):
            with pytest.raises(TypeError, match="must be text"):
                await peer.call(service, method)
