"""A gateway at a `tls:` address: whom it lets in, and what it says of whom it does not."""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import mesh
from mesh.transport import Address, TlsDialer
from mesh.wire.connection import Connection, Role
from tests.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LOOPBACK = "tls:127.0.0.1:0"


class Log(logging.Handler):
    """What the mesh logs, for a test to wait for, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.levelname} {record.getMessage()}")
        self._more.set()

    async def wait_for(self, text: str) -> str:
        """Take the first line that holds a text and was not taken before."""
        with trio.move_on_after(20):
            while True:
                for line in self._lines:
                    if text in line:
                        self._lines.remove(line)
                        return line
                self._more = trio.Event()
                await self._more.wait()
        raise AssertionError(f"{text!r} was not logged; there was {self._lines}")


@pytest.fixture(name="log")
def make_log() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("mesh")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log)
    logger.setLevel(logging.NOTSET)


@pytest.fixture(name="authority")
def make_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture(autouse=True)
def without_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MESH_TLS_CA", "MESH_TLS_CERT", "MESH_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)


def mutual(authority: Authority) -> mesh.CertificateFiles:
    """The files of a gateway that lets only those in whom its authority knows."""
    files = authority.issue("127.0.0.1")
    return mesh.CertificateFiles(files.cert, files.key, client_ca=authority.file)


def failed(gateway: mesh.Gateway) -> dict[str, int]:
    return gateway.core.counters.tls_handshakes_failed


@asynccontextmanager
async def tcp_stream(gateway: mesh.Gateway) -> AsyncIterator[trio.SocketStream]:
    """A connection to the gateway's port, without TLS."""
    address = Address.parse(gateway.addresses[0])
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        yield stream


async def refusal(log: Log, address: str, context: ssl.SSLContext | None) -> str:
    """What a peer says that does not get in."""
    async with mesh.connect("x", gateway=address, tls=context, connect_timeout=0):
        return await log.wait_for("ERROR x: ")


async def still_serves(gateway: mesh.Gateway, context: ssl.SSLContext) -> None:
    """Whatever somebody did, others are served."""
    async with mesh.connect("other", gateway=gateway.addresses[0], tls=context) as client:
        assert (await client.call("mesh", "status"))["gateway"] == gateway.instance


async def test_calls_pass_both_ways_with_long_payloads(authority: Authority) -> None:
    """Service and caller by TLS; what was sent comes back."""
    payload = bytes(range(256)) * 20_000
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        address, context = gateway.addresses[0], authority.trusting()
        assert address.startswith("tls:127.0.0.1:")
        async with (
            mesh.connect("echo", gateway=address, tls=context) as service,
            mesh.connect("caller", gateway=address, tls=context) as caller,
        ):

            @service.method()
            async def same(data: bytes) -> bytes:
                return data

            assert await caller.call("echo", "same", payload) == payload
            assert await caller.call("echo", "same", b"short") == b"short"


async def test_cancelling_a_call_reaches_the_handler(authority: Authority) -> None:
    """As on any other transport, and the connection goes on."""
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        address, context = gateway.addresses[0], authority.trusting()
        async with (
            mesh.connect("slow", gateway=address, tls=context) as service,
            mesh.connect("caller", gateway=address, tls=context) as caller,
        ):
            began, stopped = trio.Event(), trio.Event()

            @service.method()
            async def wait() -> None:
                began.set()
                try:
                    await trio.sleep_forever()
                finally:
                    stopped.set()

            @service.method()
            async def quick() -> str:
                return "done"

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(caller.call, "slow", "wait")
                    await began.wait()
                    nursery.cancel_scope.cancel()
                await stopped.wait()
                assert await caller.call("slow", "quick") == "done"


async def test_a_peer_that_does_not_trust_the_gateway_is_logged_and_counted(
    authority: Authority, tmp_path: Path, log: Log
) -> None:
    """The peer is told what is wrong, and not to start a gateway: one is there."""
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("other.example")) as gateway:
        address = gateway.addresses[0]
        with pytest.raises(mesh.Unavailable) as refused:
            async with mesh.connect(
                "x", gateway=address, tls=authority.trusting(), connect_timeout=2
            ):
                pass
        text = str(refused.value)
        assert f"certificate of {address} is for other.example, not 127.0.0.1" in text
        assert "mesh gateway" not in text
        assert f"certificate of {address} is for" in await log.wait_for("ERROR x: ")
        line = await log.wait_for("refuses this gateway's certificate")
        assert line.startswith(f"WARNING closed a peer at {gateway.addresses[0]} from 127.0.0.1:")
        assert "bad certificate" in line
        other = Authority(tmp_path / "other").trusting()
        assert "authority that is not trusted here" in await refusal(log, address, other)
        assert "unknown ca" in await log.wait_for("unknown ca")
        assert set(failed(gateway)) == {"refused_by_peer"}
        assert gateway.core.counters.connections_refused == sum(failed(gateway).values())
        _, slices = gateway._figures.exposition.render(None)
        assert 'mesh_tls_handshakes_failed_total{reason="refused_by_peer"} ' in "".join(slices)


async def test_mutual_tls_lets_those_in_whom_the_authority_knows(authority: Authority) -> None:
    async with mesh.Gateway(listen=[LOOPBACK], tls=mutual(authority)) as gateway:
        await still_serves(gateway, authority.trusting(authority.issue("orders")))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("shown", "told", "logged", "reason"),
    [
        ("nothing", "require", "it shows no certificate, and one is required", "no_certificate"),
        (
            "a stranger's",
            "it does not trust its authority",
            "its certificate is from an authority that the client CA file does not hold",
            "unknown_authority",
        ),
        ("an old one", "it has expired", "its certificate has expired", "expired_certificate"),
    ],
)
async def test_mutual_tls_refuses_others_with_the_reason_on_both_sides(
    authority: Authority,
    tmp_path: Path,
    log: Log,
    version: ssl.TLSVersion,
    shown: str,
    told: str,
    logged: str,
    reason: str,
) -> None:
    """By TLS 1.3 the peer learns of it after its own handshake; it is told all the same."""
    files = {
        "nothing": None,
        "a stranger's": Authority(tmp_path / "strange").issue("orders"),
        "an old one": authority.issue("orders", expired=True),
    }[shown]
    context = authority.trusting(files)
    context.maximum_version = version
    async with mesh.Gateway(listen=[LOOPBACK], tls=mutual(authority)) as gateway:
        assert told in await refusal(log, gateway.addresses[0], context)
        await log.wait_for(logged)
        assert set(failed(gateway)) == {reason}
        assert not gateway.core.counters.connections_opened
        await still_serves(gateway, authority.trusting(authority.issue("known")))


async def test_a_peer_without_tls_is_told_what_to_write(authority: Authority, log: Log) -> None:
    """In the protocol's own words, which are all that it understands."""
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        plain = gateway.addresses[0].replace("tls:", "tcp:")
        assert "this port takes TLS only; write its address" in await refusal(log, plain, None)
        line = await log.wait_for("speaks no TLS")
        assert line.startswith(f"WARNING closed a peer at {gateway.addresses[0]} from 127.0.0.1:")
        assert set(failed(gateway)) == {"plain_text"}
        await still_serves(gateway, authority.trusting())


async def test_tls_to_an_address_without_is_refused_by_name_on_both_sides(
    authority: Authority, log: Log
) -> None:
    async with mesh.Gateway(listen=["tcp:127.0.0.1:0"]) as gateway:
        address = gateway.addresses[0].replace("tcp:", "tls:")
        told = await refusal(log, address, authority.trusting())
        assert "speaks no TLS; if it is a plain address" in told
        line = await log.wait_for("it speaks TLS to an address without")
        assert line.startswith(f"WARNING closed a peer at {gateway.addresses[0]} from 127.0.0.1:")
        assert line.endswith("it must write tcp:HOST:PORT")
        assert gateway.core.counters.protocol_errors


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_hangs_costs_only_its_own_connection(
    authority: Authority, log: Log, begun: bytes
) -> None:
    """Whether it begins or not, it is closed at the limit; meanwhile others are served."""
    limits = mesh.Limits(handshake=0.5)
    files = authority.issue("127.0.0.1")
    async with (
        mesh.Gateway(listen=[LOOPBACK], tls=files, limits=limits) as gateway,
        tcp_stream(gateway) as stream,
    ):
        if begun:
            await stream.send_all(begun)
        await still_serves(gateway, authority.trusting())
        await log.wait_for("no TLS handshake within 0.5 s")
        assert await stream.receive_some() == b""
        assert failed(gateway) == {"timeout": 1}
        assert gateway._entrance.inside == 1  # the gateway's own service


async def test_the_handshake_limit_covers_tls_and_hello_together(
    authority: Authority, log: Log, autojump_clock: trio.testing.MockClock
) -> None:
    """Who shakes hands and then says nothing is closed as well; both together take 5 s."""
    autojump_clock.autojump_threshold = 0.2
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        address = Address.parse(gateway.addresses[0])
        sock = await address.open_socket()
        began = trio.current_time()
        await trio.sleep(3)
        stream = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
            authority.trusting(),
            server_hostname=address.host,
            https_compatible=True,
        )
        connection = Connection(Role.PEER, mesh.Limits())
        frames = [frame async for data in stream for frame in connection.receive(bytes(data))]
        assert "no HELLO within 5 s" in frames[0][2].reason
        assert trio.current_time() - began < 6
        await stream.aclose()
        await log.wait_for("no HELLO within 5 s")


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"])
async def test_rubbish_is_refused(authority: Authority, log: Log, rubbish: bytes) -> None:
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        async with tcp_stream(gateway) as stream:
            await stream.send_all(rubbish)
            while await stream.receive_some():
                pass
        await log.wait_for("WARNING closed a peer at tls:127.0.0.1:")
        await still_serves(gateway, authority.trusting())


async def test_who_only_looks_whether_the_port_is_open_fills_no_log(
    authority: Authority, log: Log
) -> None:
    """Load balancers do so every few seconds. It is counted."""
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        async with tcp_stream(gateway):
            pass
        async with tcp_stream(gateway) as stream:
            await stream.send_all(b"plain")
            while await stream.receive_some():
                pass
        assert "speaks no TLS" in await log.wait_for("closed")
        with trio.fail_after(20):
            while "disconnected" not in failed(gateway):
                await trio.lowlevel.checkpoint()
        assert failed(gateway) == {"disconnected": 1, "plain_text": 1}


async def test_handshakes_count_as_connections(authority: Authority) -> None:
    """Those that hang cannot take more than the limit leaves; one over it is closed at once."""
    limits = mesh.Limits(max_connections=2)
    files = authority.issue("127.0.0.1")
    async with (
        mesh.Gateway(listen=[LOOPBACK], tls=files, limits=limits) as gateway,
        tcp_stream(gateway) as first,
    ):
        await first.send_all(b"\x16")
        async with tcp_stream(gateway) as second:
            with trio.fail_after(3):  # less than the handshake limit
                while await second.receive_some():
                    pass
        assert not failed(gateway)


async def test_new_handshakes_get_reloaded_certificates_and_connections_stay(
    authority: Authority, log: Log
) -> None:
    files = authority.issue("127.0.0.1", to="gateway")
    async with mesh.Gateway(listen=[LOOPBACK], tls=files) as gateway:
        address, context = gateway.addresses[0], authority.trusting()
        async with mesh.connect("early", gateway=address, tls=context) as early:
            authority.issue("other.example", to="gateway")
            assert gateway.reload_certificates()
            await log.wait_for("INFO certificates reloaded from")
            assert "is for other.example, not 127" in await refusal(log, address, context)
            assert await early.call("mesh", "status")

            authority.folder.joinpath("gateway.pem").write_text("broken")
            assert not gateway.reload_certificates()
            line = await log.wait_for("certificates not reloaded")
            assert line.startswith("ERROR")
            assert "gateway.pem holds no certificate" in line
            assert "is for other.example, not 127" in await refusal(log, address, context)

            authority.issue("127.0.0.1", to="gateway")
            assert gateway.reload_certificates()
            await still_serves(gateway, context)
            assert await early.call("mesh", "status")


async def test_a_context_of_ones_own_is_reloaded_by_its_owner(authority: Authority) -> None:
    context = authority.issue("127.0.0.1").context()
    async with mesh.Gateway(listen=[LOOPBACK], tls=context) as gateway:
        await still_serves(gateway, authority.trusting())
        with pytest.raises(mesh.UsageError, match=r"given an ssl\.SSLContext, which it cannot"):
            gateway.reload_certificates()
    with pytest.raises(mesh.UsageError, match="has no certificates"):
        mesh.Gateway().reload_certificates()


async def test_tls_needs_a_certificate() -> None:
    with pytest.raises(mesh.AddressError, match=r"tls:127\.0\.0\.1:0 needs a certificate"):
        mesh.Gateway(listen=[LOOPBACK])


async def test_plain_tcp_for_other_machines_has_to_be_asked_for() -> None:
    with pytest.raises(
        mesh.UsageError, match=r"tcp:0\.0\.0\.0:0 can be reached from other machines"
    ):
        async with mesh.Gateway(listen=["tcp:0.0.0.0:0"]):
            pass
    async with mesh.Gateway(listen=["tcp:0.0.0.0:0"], allow_plain_tcp=True) as gateway:
        assert gateway.addresses[0].startswith("tcp:0.0.0.0:")


async def test_a_context_for_an_address_without_tls_is_a_mistake(authority: Authority) -> None:
    """It is not ignored: nothing is sent in plain that was meant to be encrypted."""
    with pytest.raises(
        mesh.UsageError, match=r"an ssl context is given, and tcp:127\.0\.0\.1:1 is"
    ):
        async with mesh.connect("x", gateway="tcp:127.0.0.1:1", tls=authority.trusting()):
            pass


@pytest.mark.parametrize(("listen", "travels"), [("127.0.0.1", True), ("0.0.0.0", False)])
async def test_tracebacks_stay_on_this_machine(
    authority: Authority, listen: str, *, travels: bool
) -> None:
    """Also by TLS: those who may call a service need not see its insides."""
    files = authority.issue("127.0.0.1")
    async with mesh.Gateway(listen=[f"tls:{listen}:0"], tls=files) as gateway:
        address = gateway.addresses[0].replace(listen, "127.0.0.1")
        context = authority.trusting()
        async with (
            mesh.connect("buggy", gateway=address, tls=context) as service,
            mesh.connect("caller", gateway=address, tls=context) as caller,
        ):

            @service.method()
            async def bug() -> None:
                raise ZeroDivisionError

            with pytest.raises(mesh.Unknown) as raised:
                await caller.call("buggy", "bug")
            assert bool(raised.value.remote_traceback) is travels


async def test_a_peer_by_tls_comes_back_after_the_gateway_does(authority: Authority) -> None:
    """It shakes hands anew, and registers again."""
    files, context = authority.issue("127.0.0.1"), authority.trusting()

    async def serve(address: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with mesh.connect("echo", gateway=address, tls=context) as service:

            @service.method()
            async def same(data: str) -> str:
                return data

            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with mesh.Gateway(listen=[LOOPBACK], tls=files) as gateway:
            address = gateway.addresses[0]
            await nursery.start(serve, address)
        async with (
            mesh.Gateway(listen=[address], tls=files),
            mesh.connect("caller", gateway=address, tls=context) as caller,
        ):
            assert await caller.call("echo", "same", "again") == "again"
            nursery.cancel_scope.cancel()


async def test_a_dialer_can_be_handed_in(authority: Authority) -> None:
    """As any dialer can."""
    async with mesh.Gateway(listen=[LOOPBACK], tls=authority.issue("127.0.0.1")) as gateway:
        dialer = TlsDialer(Address.parse(gateway.addresses[0]), authority.trusting())
        async with mesh.connect("x", gateway=dialer) as client:
            assert client.is_connected
