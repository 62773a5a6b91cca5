"""What is said of names that nobody has registered."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.cli.registered import tell_missing

SERVICES: list[dict[str, Any]] = [
    {"name": "users", "methods": ["get", "v1.list"]},
    {"name": "orders", "methods": ["place"]},
    {"name": "gone", "methods": []},
]


@pytest.mark.parametrize(
    ("service", "method", "told"),
    [
        ("", "", ""),
        ("users", "", ""),
        ("users", "get", ""),
        ("users", "users.get", ""),
        ("users", "v1.list", ""),
        ("", "orders.place", ""),
        ("gone", "get", ""),
        ("nosuch", "", "no service 'nosuch' is registered"),
        ("user", "get", "no service 'user' is registered (did you mean 'users'?)"),
        ("users", "gte", "service 'users' has no method 'gte' (did you mean 'get'?)"),
        ("users", "users.zzzzzz", "service 'users' has no method 'users.zzzzzz'"),
        # A name may have a point in it, and the method may come yet.
        ("users", "v2.list", "service 'users' has no method 'v2.list' (did you mean 'v1.list'?)"),
        ("users", "nosuch.get", "service 'users' has no method 'nosuch.get'"),
        (
            *("users", "orders.place"),
            "'orders.place' is a method of 'orders', and 'users' has none of this name",
        ),
        ("", "order.place", "there is no method 'order.place' (did you mean 'orders.place'?)"),
    ],
)
def test_what_is_not_registered_is_told(service: str, method: str, told: str) -> None:
    assert tell_missing(SERVICES, service, method) == told


def test_names_of_nobody_in_an_empty_mesh() -> None:
    assert tell_missing([], "", "get") == "there is no method 'get'"
