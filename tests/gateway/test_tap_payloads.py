"""What taps are told of what calls carry: nothing, unless method and gateway allow it."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from abc import abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.contracts.contract import info_of
from mesh.contracts.schema import describe
from mesh.gateway.filters import TapFilters
from mesh.gateway.payloads import MOST_A_SECOND, PAGE, HeldPayloads
from mesh.gateway.permits import OVERFLOW_USER
from mesh.gateway.tapping import HELD
from mesh.transport import Link, SocketLink
from tests.gateway.raw_peer import raw_peer, register_header, result_header
from tests.gateway.test_kept import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Marked = Annotated[str, msgspec.Meta(extra_json_schema={"writeOnly": True})]


@dataclass
class NoAccount(mesh.NotFound):
    """No account {user}."""

    user: str
    hint: Marked


class Accounts(mesh.Contract, name="accounts", version="1.0.0"):
    @mesh.method(tap=True, raises=[NoAccount])
    @abstractmethod
    async def open(self, user: str, password: str, note: Marked = "") -> dict[str, str]: ...

    @mesh.method(tap=True)
    @abstractmethod
    async def echo(self, data: bytes) -> bytes: ...

    @mesh.method
    @abstractmethod
    async def close(self, user: str) -> str: ...


class AccountService(Accounts):
    async def open(self, user: str, password: str, note: Marked = "") -> dict[str, str]:
        if user == "nobody":
            raise NoAccount(user, hint=password)
        return {"user": user, "session-token": password + note}

    async def echo(self, data: bytes) -> bytes:
        return data

    async def close(self, user: str) -> str:
        return user


class Bank:
    """A gateway with the service `accounts`, a caller, and one who taps."""

    def __init__(self, gateway: mesh.Gateway, caller: mesh.Client, tapper: mesh.Client) -> None:
        self.gateway, self.caller, self.tapper = gateway, caller, tapper
        self.cursor = ""

    async def begin(self, **filters: Any) -> None:
        """Tap what ends from now on, with payloads."""
        asked = {"wait": 0, "payloads": True, **filters}
        self.cursor = (await self.tapper.call("mesh", "tap", asked))["cursor"]

    async def told(self, **filters: Any) -> list[dict[str, Any]]:
        """The payloads of the calls since."""
        asked = {"wait": 0, "payloads": True, "cursor": self.cursor, "limit": 1000, **filters}
        page = await self.tapper.call("mesh", "tap", asked)
        self.cursor = page["cursor"]
        return [one["payloads"] for one in page["calls"]]

    def held(self) -> int | None:
        """Of how many calls payloads are held; None where nobody asks for any."""
        payloads = self.gateway.core.payloads
        return None if payloads is None else len(payloads)

    async def open(self, user: str = "ada") -> None:
        """Make a call with secrets, which fails for nobody."""
        params = {"user": user, "password": "5up3r", "note": "5up3r"}
        try:
            await self.caller.call("accounts", "open", params)
        except mesh.NotFound:
            assert user == "nobody"


@asynccontextmanager
async def bank(*, allowed: bool = True, **settings: Any) -> AsyncIterator[Bank]:
    async with (
        mesh.Gateway(
            admin="127.0.0.1:0", allow_tap_payloads=allowed, listen=["tcp:127.0.0.1:0"], **settings
        ) as gateway,
        mesh.connect("bank", gateway=gateway) as server,
        mesh.connect("shop", gateway=gateway) as caller,
        mesh.connect("tapper", gateway=gateway) as tapper,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, server, AccountService())
        await server.call("mesh", "status")
        yield Bank(gateway, caller, tapper)
        nursery.cancel_scope.cancel()


def value(told: dict[str, Any]) -> Any:
    """What a call carried one way, which is told as a whole."""
    assert told["state"] == "whole"
    return json.loads(told["text"])


async def test_payloads_are_shown_where_method_and_gateway_allow_it() -> None:
    """Without their secrets, by name and by the contract's marks; also those of errors."""
    async with bank() as it:
        await it.begin()
        await it.open()
        await it.open("nobody")
        ok, failed = await it.told()
    for one in (ok, failed):
        told = value(one["params"])
        assert (told["password"], told["note"]) == ("[redacted]", "[redacted]")
    assert value(ok["params"])["user"] == "ada"
    assert value(ok["answer"]) == {"user": "ada", "session-token": "[redacted]"}
    assert value(failed["answer"]) == {"user": "nobody", "hint": "[redacted]"}
    assert (ok["params"]["encoding"], ok["params"]["size"] > 30) == ("msgpack", True)
    assert "5up3r" not in str([ok, failed])


async def test_trees_are_shown_with_them() -> None:
    async with bank() as it:
        await it.begin(tree=True)
        await it.open()
        (told,) = await it.told(tree=True)
    assert value(told["answer"])["session-token"] == "[redacted]"


async def test_by_default_a_gateway_shows_none() -> None:
    async with bank(allowed=False) as it:
        with pytest.raises(mesh.PermissionDenied, match="--allow-tap-payloads") as refused:
            await it.begin()
        assert refused.value.reason == "TAP_PAYLOADS_OFF"
        assert it.held() is None
        assert not it.gateway.core.taps


async def test_over_tcp_and_http_none_are_shown() -> None:
    async with bank() as it:
        (address,) = it.gateway.addresses
        async with mesh.connect("far", gateway=address) as far:
            with pytest.raises(mesh.PermissionDenied, match="no user that the system") as refused:
                await far.call("mesh", "tap", {"payloads": True})
            assert refused.value.reason == "TAP_NOT_TRUSTED"
            assert "from 127.0.0.1:" in refused.value.message
            page = await far.call("mesh", "tap", {"wait": 0})
            assert page["calls"] == []
        status, told = await ask(it.gateway, "/api/tap", payloads="true")
        assert status == 403
        assert "not shown over HTTP" in str(told)
        assert it.held() is None


class _As:
    """A way to a Unix socket as another user."""

    def __init__(self, path: Path, user: int) -> None:
        path.parent.chmod(0o755)
        path.chmod(0o777)
        self._path, self._user = path, user

    async def dial(self, limit: int) -> Link:
        """See :class:`mesh.transport.Dialer`."""
        await trio.lowlevel.checkpoint()
        sock = socket.socket(socket.AF_UNIX)
        own = os.geteuid()
        os.seteuid(self._user)
        try:
            sock.connect(str(self._path))
        finally:
            os.seteuid(own)
        return SocketLink(sock, limit, f"unix:{self._path}")


async def test_at_a_unix_socket_the_system_says_who_asks() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mesh.sock")
        address = f"unix:{path}"
        async with mesh.Gateway(listen=[address], allow_tap_payloads=True):
            async with mesh.connect("tapper", gateway=address) as tapper:
                page = await tapper.call("mesh", "tap", {"payloads": True, "wait": 0})
                assert page["calls"] == []
            if os.geteuid() != 0:
                pytest.skip("only root can be somebody else")
            async with mesh.connect("other", gateway=_As(path, 65534)) as other:
                with pytest.raises(mesh.PermissionDenied, match="is user 65534"):
                    await other.call("mesh", "tap", {"payloads": True})


async def test_a_gateway_of_the_overflow_user_knows_nobody_but_root() -> None:
    """All users without a number in a namespace have this one."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mesh.sock")
        address = f"unix:{path}"
        async with (
            mesh.Gateway(listen=[address], allow_tap_payloads=True),
            mesh.connect("root", gateway=address) as root,
            mesh.connect("other", gateway=_As(path, OVERFLOW_USER)) as other,
        ):
            await root.call("mesh", "status")
            await other.call("mesh", "status")
            os.seteuid(OVERFLOW_USER)
            try:
                with pytest.raises(mesh.PermissionDenied, match="root alone") as refused:
                    await other.call("mesh", "tap", {"payloads": True, "wait": 0})
                await root.call("mesh", "tap", {"payloads": True, "wait": 0})
            finally:
                os.seteuid(0)
    assert refused.value.reason == "TAP_NOT_TRUSTED"


async def test_no_value_ends_a_tap() -> None:
    async with bank() as it, mesh.connect("by-json", gateway=it.gateway, encoding="json") as caller:
        await it.begin()
        with pytest.raises(mesh.CallError):
            await caller.call("accounts", "open", {"user": 10**400, "password": 1})
        await it.open()
        odd, plain = await it.told()
    assert value(odd["params"])["user"] == "<integer of 1,329 bits>"
    assert value(plain["params"])["user"] == "ada"


async def test_methods_that_do_not_say_so_show_none() -> None:
    """Nor methods without a contract; and only the instance's own word counts."""
    async with bank() as it:

        @it.caller.method("plain", service="extra")
        async def plain(user: str) -> str:
            return user

        await it.caller.call("mesh", "status")
        await it.begin()
        await it.caller.call("accounts", "close", {"user": "5up3r"})
        await it.caller.call("extra", "plain", "5up3r")
        with pytest.raises(mesh.Unimplemented):
            await it.caller.call("accounts", "opne", {"password": "5up3r"})
        assert await it.told() == [
            {"withheld": "NOT_ALLOWED"},
            {"withheld": "NOT_ALLOWED"},
            {"withheld": "REFUSED"},
        ]
        assert it.held() == 0, "what is not allowed is not even held"


async def test_of_two_instances_each_allows_its_own_calls() -> None:
    schema = describe(info_of(Accounts))
    schema["methods"]["open"]["tap"] = False
    packed = msgspec.json.encode(schema)
    async with bank() as it, raw_peer(it.gateway, "second") as second:
        register = register_header("accounts", "open", version="1.0.0", schema_size=len(packed))
        await second.send(register, payload=packed)
        await it.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.open)
            nursery.start_soon(it.open)
            _, _, header, _ = await second.receive(mesh.wire.frames.Kind.CALL)
            await second.send(result_header(header.call_id), payload=b"\xa55up3r")
        told = await it.told()
    assert sorted(one.get("withheld", "") for one in told) == ["", "NOT_ALLOWED"]


async def test_only_calls_that_fit_the_filters_are_held() -> None:
    async with bank() as it:
        await it.begin(service="accounts", method="echo")
        await it.open()
        await it.caller.call("accounts", "echo", {"data": b"x"})
        assert it.held() == 1
        first, second = await it.told(service="accounts")
        assert first == {"withheld": "NOT_HELD"}
        assert value(second["params"]) == {"data": "<1 bytes>"}


async def test_a_tap_takes_nothing_from_another() -> None:
    async with bank() as it:
        await it.begin(method="open")
        other = Bank(it.gateway, it.caller, it.caller)
        await other.begin(method="echo")
        await it.open()
        await it.caller.call("accounts", "echo", {"data": b"x"})
        for one in (it, other):
            first, second = await one.told()
            assert "withheld" not in {*first, *second}


async def test_other_taps_are_as_ever() -> None:
    async with bank() as it:
        before = (await it.caller.call("mesh", "tap", {"wait": 0}))["cursor"]
        await it.begin()
        await it.open()
        page = await it.caller.call("mesh", "tap", {"wait": 0, "cursor": before})
        (call,) = page["calls"]
        assert "payloads" not in call
        _, page = await ask(it.gateway, "/api/tap", cursor=before, wait="0")
        assert "payloads" not in page["calls"][0]
        assert len(await it.told()) == 1


async def test_with_the_last_tap_all_of_it_goes(autojump_clock: trio.testing.MockClock) -> None:
    """Without another call, too."""
    async with bank() as it:
        await it.begin()
        await it.open()
        assert it.held() == 1
        await trio.sleep(HELD + it.gateway.limits.heartbeat + 0.1)
        assert it.held() is None
        await it.begin()
        assert it.held() == 0
        await trio.sleep(HELD - 0.1)
        with trio.move_on_after(0.5):
            await it.told(service="none", wait=1)
        await it.tapper.call("mesh", "status")  # which comes after the news of that
        assert it.held() is None


async def test_a_call_that_waits_for_its_service_is_shown_once_it_is_served() -> None:
    async with bank() as it, trio.open_nursery() as nursery:
        core = it.gateway.core
        async with mesh.connect("later", gateway=it.gateway) as later, trio.open_nursery() as inner:
            await inner.start(mesh.serve, later, LaterService())
            await later.call("mesh", "status")
            inner.cancel_scope.cancel()
        while core.registry.services["later"].instances:
            await trio.testing.wait_all_tasks_blocked()
        await it.begin()
        nursery.start_soon(it.caller.call, "later", "get", {"a": 1})
        while not core.held.entries:
            await trio.testing.wait_all_tasks_blocked()
        async with mesh.connect("later", gateway=it.gateway) as later, trio.open_nursery() as inner:
            await inner.start(mesh.serve, later, LaterService())
            while core.held.entries or len(core.table):
                await trio.testing.wait_all_tasks_blocked()
            (told,) = await it.told(service="later")
            inner.cancel_scope.cancel()
        assert (value(told["params"]), value(told["answer"])) == ({"a": 1}, 2)


class Later(mesh.Contract, name="later", version="1.0.0"):
    @mesh.method(tap=True)
    @abstractmethod
    async def get(self, a: int) -> int: ...


class LaterService(Later):
    async def get(self, a: int) -> int:
        return a + 1


async def test_long_payloads_are_told_by_their_size() -> None:
    """Those that are cut into several frames, and what is no value at all."""
    async with bank() as it, raw_peer(it.gateway, "by-hand") as peer:
        await it.begin()
        await it.caller.call("accounts", "echo", {"data": b"x" * 300_000})
        await it.caller.call("accounts", "echo", {"data": b"x" * 5000})
        for payload in (b"", b"\xc1"):
            await peer.call("accounts", "echo", payload, metadata={"tenant": "a", "Cookie": "5u"})
            await peer.receive()
        chunked, short, empty, broken = await it.told()
    assert chunked["params"]["state"] == chunked["answer"]["state"] == "chunked"
    assert 300_000 < chunked["params"]["size"] < 300_100
    assert short["params"]["size"] > 5000
    assert (broken["params"]["state"], broken["params"]["text"]) == ("undecodable", "")
    assert (empty["params"]["state"], empty["params"]["size"]) == ("whole", 0)
    assert json.loads(broken["metadata"]) == {"tenant": "a", "Cookie": "[redacted]"}


async def test_values_are_cut_and_say_their_size() -> None:
    async with bank() as it:
        await it.begin()
        await it.open("a" * 5000)
        (told,) = await it.told()
    assert (told["params"]["state"], len(told["params"]["text"])) == ("cut", 2048)
    assert told["params"]["size"] > 5000


@pytest.mark.parametrize(("most", "most_bytes"), [(10, 2**20), (1000, 10 * 2**10)])
async def test_what_is_held_is_bounded(most: int, most_bytes: int) -> None:
    """By number and by bytes: the oldest make way, and the tap says so."""
    async with bank() as it:
        await it.begin()
        held = it.gateway.core.payloads = HeldPayloads(it.gateway.core, most, most_bytes)
        held.want(it.cursor.partition("~")[2], TapFilters())
        for _ in range(30):
            await it.open("a" * 200)
        assert 5 <= len(held) <= 12
        assert held.size <= most_bytes
        assert [one.get("withheld", "") for one in await it.told()] == [
            *["NOT_HELD"] * (30 - len(held)),
            *[""] * len(held),
        ]


async def test_so_many_are_held_in_a_second(mock_clock: trio.testing.MockClock) -> None:
    """However many are made; and what is held is told before other calls."""
    async with bank() as it:
        await it.begin()
        for _ in range(MOST_A_SECOND + 50):
            await it.open()
        assert it.held() == MOST_A_SECOND
        mock_clock.jump(0.125)
        for _ in range(100):
            await it.open()
        assert it.held() == MOST_A_SECOND + MOST_A_SECOND // 8
        told = await it.told(limit=MOST_A_SECOND)
        assert len(told) == MOST_A_SECOND
        assert not any("withheld" in one for one in told)


async def test_taps_share_what_is_held(mock_clock: trio.testing.MockClock) -> None:
    """Each is told all of it, and what one is told is decoded once."""
    async with bank() as it:
        other = Bank(it.gateway, it.caller, it.caller)
        await it.begin()
        await other.begin()
        mock_clock.jump(1)
        for _ in range(MOST_A_SECOND):
            await it.open()
        assert it.held() == MOST_A_SECOND // 2
        mine, others = await it.told(), await other.told()
        assert mine == others
        assert [one for one in mine if one == {"withheld": "NOT_HELD"}] == mine[
            MOST_A_SECOND // 2 :
        ]


async def test_an_answer_tells_so_much_at_most() -> None:
    async with bank() as it:
        await it.begin()
        calls = PAGE // 4096 + 50
        for _ in range(calls):
            await it.open("a" * 3000)
        told = await it.told()
        assert len(told) == calls
        assert told[-1] == {"withheld": "TOO_MUCH"}
        assert PAGE <= sum(len(one["params"]["text"]) * 2 for one in told[:-50]) <= PAGE + 4096
