"""The registry, and the choice among its instances; on real sessions that nobody speaks to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio.testing

import mesh
from mesh.errors import RemoteProtocolError
from mesh.gateway.balancing import pick
from mesh.gateway.core import Core
from mesh.gateway.departures import MEMORY
from mesh.gateway.endings import Endings
from mesh.gateway.life import HEALTHY, LATE, UNRESPONSIVE
from mesh.gateway.missing import explain_call
from mesh.gateway.routing import Router
from mesh.gateway.session import Session
from mesh.gateway.telling import GatewayFeed
from mesh.process import Process
from mesh.transport import StreamLink
from mesh.wire import codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Room:
    """A registry of its own, and sessions to put into it."""

    def __init__(self, **limits: Any) -> None:
        self.limits = mesh.Limits(**limits)
        process = Process()
        self.core = Core(self.limits, process, GatewayFeed(process))
        self.registry = self.core.registry
        endings = Endings(self.core)
        self._rooms = self.core, Router(self.core, endings), endings

    def session(self, *, internal: bool = False) -> Session:
        """A session that is not served."""
        ours, _ = trio.testing.memory_stream_pair()
        core, router, endings = self._rooms
        link = StreamLink(ours, 1000, "memory")
        return Session(core, router, endings, link, 1, internal=internal)

    def add(self, session: Session, service: str, *methods: str) -> None:
        """Register methods without options."""
        self.register(session, service, "", *methods)

    def register(self, session: Session, service: str, version: str, *methods: str) -> None:
        """Register methods of a contract's version."""
        header = codec.Register(service, version, {name: {} for name in methods}, {})
        self.registry.add(session, header)

    def instances(self, service: str, method: str) -> list[Session]:
        """Who serves a method."""
        found = self.registry.methods.get((service, method))
        return found.instances if found is not None else []


async def test_methods_of_several_instances() -> None:
    """Each method knows its own instances; registering again changes nothing but adds methods."""
    room = Room()
    one, two = room.session(), room.session()
    room.add(one, "users", "get", "put")
    room.add(two, "users", "get")
    room.add(two, "users", "get", "list")
    assert room.instances("users", "get") == [one, two]
    assert room.instances("users", "put") == [one]
    assert room.instances("users", "list") == [two]
    assert set(room.registry.services["users"].instances) == {one, two}


async def test_a_method_taken_away_is_gone_at_once() -> None:
    """It is not expected back, as its peer said so, but remembered; another's is not touched."""
    room = Room()
    one, two = room.session(), room.session()
    room.add(one, "users", "get", "put")
    room.add(two, "users", "get")
    room.registry.remove(one, "users", ["get", "never"], 0.0)
    assert room.instances("users", "get") == [two]
    room.registry.remove(two, "users", [], 0.0)
    get = room.registry.methods["users", "get"]
    assert not get.instances
    assert not room.registry.is_expected("users", get, 0.0)
    assert room.instances("users", "put") == [one]
    for service in ("users", "users", "nothing"):
        room.registry.remove(one, service, [], 1.0)
    assert not room.registry.services["users"].instances
    assert not room.registry.is_expected("users", None, 1.0)
    assert not one.services
    room.registry.sweep(1.1 + MEMORY)
    assert not room.registry.services
    assert not room.registry.methods


async def test_a_peer_that_left_is_expected_back_for_a_while() -> None:
    """For ``service_memory``; its name is remembered for longer, and then forgotten."""
    room = Room(service_memory=30.0)
    one = room.session()
    room.add(one, "users", "get")
    room.registry.withdraw(one, now=100.0)
    method = room.registry.methods["users", "get"]
    assert method.instances == []
    assert room.registry.is_expected("users", method, 130.0)
    assert not room.registry.is_expected("users", method, 130.1)
    assert room.registry.is_expected("users", None, 130.0), "the service has no instance either"
    room.registry.sweep(130.0)
    assert room.registry.methods
    room.registry.sweep(130.1)
    assert room.registry.methods
    assert not room.registry.is_expected("users", None, 130.2)
    room.registry.sweep(100.0 + MEMORY)
    assert list(room.registry.services) == ["users"]
    room.registry.sweep(100.1 + MEMORY)
    assert not room.registry.methods
    assert not room.registry.services


async def test_one_that_came_back_is_not_forgotten() -> None:
    """The memory of its absence ends with it."""
    room = Room()
    one, again = room.session(), room.session()
    room.add(one, "users", "get")
    room.registry.withdraw(one, now=0.0)
    room.add(again, "users", "get")
    room.registry.sweep(1000.0 + MEMORY)
    assert room.instances("users", "get") == [again]
    assert not room.registry.is_expected("users", room.registry.methods["users", "get"], 1.0)


async def test_a_method_that_a_living_service_never_had_is_not_expected() -> None:
    """Its caller is told at once that the service has no such method."""
    room = Room()
    room.add(room.session(), "users", "get")
    assert not room.registry.is_expected("users", None, 0.0)
    assert not room.registry.is_expected("nobody", None, 0.0)


async def test_the_gateways_own_name_is_reserved() -> None:
    """For the peer inside the gateway alone."""
    room = Room()
    with pytest.raises(RemoteProtocolError, match="'mesh' is the gateway's own; choose another"):
        room.add(room.session(), "mesh", "status")
    room.add(room.session(internal=True), "mesh", "status")


async def test_the_methods_of_a_mesh_are_bounded() -> None:
    """With both numbers; what is registered again, or by another instance, is not counted twice."""
    room = Room(max_methods=5)
    one, two = room.session(), room.session()
    room.add(one, "users", "a", "b", "c")
    room.add(one, "users", "a", "b", "c")
    room.add(two, "users", "a", "b", "c")
    room.add(one, "orders", "a", "b")
    with pytest.raises(RemoteProtocolError, match=r"6 methods .* exceed max_methods of 5"):
        room.add(one, "orders", "b", "c")
    assert room.instances("orders", "c") == []


async def test_a_service_without_methods_leaves_no_trace() -> None:
    """Else a peer could fill the gateway with names, each of them expected back for ever."""
    room = Room()
    one = room.session()
    room.add(one, "ghost")
    room.registry.withdraw(one, now=0.0)
    room.registry.sweep(1000.0)
    assert not room.registry.services
    assert not room.registry.is_expected("ghost", None, 0.0)


async def test_what_is_missing_is_explained_with_the_nearest_name() -> None:
    """A service and a method; without the gateway's own among the suggestions."""
    room = Room()
    room.add(room.session(internal=True), "mesh", "status")

    def explain(service: str, method: str) -> tuple[str, str]:
        _, reason, message = explain_call(room.core, service, method)
        return str(reason), message

    missing = "SERVICE_NOT_FOUND"
    assert explain("users", "get") == (missing, "no service 'users' is registered")
    room.add(room.session(), "users", "get", "put")
    assert explain("user", "get") == (
        missing,
        "no service 'user' is registered; did you mean 'users'?",
    )
    assert explain("zzz", "get") == (
        missing,
        "no service 'zzz' is registered; registered are users",
    )
    reason, message = explain("users", "gett")
    assert reason == "METHOD_NOT_FOUND"
    assert "service 'users' has no method 'gett'; did you mean 'get'?" in message
    assert explain("users", "x") == (reason, "service 'users' has no method 'x'; it has get, put")
    assert len(explain("x" * 10_000, "y")[1]) < 500
    assert len(explain("users", "y" * 10_000)[1]) < 500


# The choice among instances.


@asynccontextmanager
async def three() -> AsyncIterator[list[Session]]:
    room = Room()
    yield [room.session() for _ in range(3)]


def loaded(session: Session, serving: int, abandoned: int = 0) -> None:
    """Give a session calls that it works on."""
    one: Any = None  # they are only counted
    session.serving = dict.fromkeys(range(serving), one)
    session.abandoned = dict.fromkeys(range(abandoned), one)


async def test_the_instance_with_least_calls_in_flight_is_picked() -> None:
    """Calls that it was told to stop and has not yet stopped count too."""
    async with three() as (one, two, third):
        loaded(one, 2)
        loaded(two, 0, 3)
        loaded(third, 1)
        assert pick([one, two, third], 10) is third


async def test_among_equals_it_goes_round() -> None:
    """So that an idle mesh uses all of its instances alike."""
    async with three() as sessions:
        picked = [pick(sessions, 10) for _ in range(9)]
        assert picked == sessions * 3


async def test_health_comes_before_load() -> None:
    """A late instance gets calls only where no healthy one can take them."""
    async with three() as (one, two, third):
        one.health, two.health, third.health = LATE, HEALTHY, UNRESPONSIVE
        loaded(two, 9)
        assert pick([one, two, third], 10) is two
        loaded(two, 10)
        assert pick([one, two, third], 10) is one
        loaded(one, 10)
        assert pick([one, two, third], 10) is third
        loaded(third, 10)
        assert pick([one, two, third], 10) is None


async def test_an_only_instance_is_picked_whatever_its_health() -> None:
    """Unless it is full."""
    async with three() as (one, _, _):
        one.health = UNRESPONSIVE
        assert pick([one], 1) is one
        loaded(one, 1)
        assert pick([one], 1) is None
