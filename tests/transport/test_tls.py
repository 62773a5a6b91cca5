"""TLS links, what a peer trusts and shows, and what it is told when a handshake fails."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import mesh
from mesh.transport import Address, HandshakeFailed, Tls, TlsDialer, TlsLink
from mesh.transport.certificates import default_client_context
from tests.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LIMIT = 32 << 20


@pytest.fixture(name="authority")
def make_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture(autouse=True)
def without_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MESH_TLS_CA", "MESH_TLS_CERT", "MESH_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def serving(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[Address]:
    """A TCP server on the loopback; yields its address as one with TLS."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        yield Address("tls", host="localhost", port=port)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_tls(
    files: mesh.CertificateFiles, limit: int = LIMIT
) -> AsyncIterator[tuple[Address, trio.MemoryReceiveChannel[TlsLink]]]:
    """A TLS server; yields its address, and the links of those who came through."""
    context = files.context()
    arrived, links = trio.open_memory_channel[TlsLink](10)

    async def shake_hands(stream: trio.SocketStream) -> None:
        sock = socket.socket(fileno=stream.socket.detach())
        tls = Tls(sock, context)
        try:
            await tls.shake_hands()
        except OSError:
            sock.close()
            return
        except BaseException:  # cancelled at the test's end
            sock.close()
            raise
        await arrived.send(TlsLink(tls, limit, "tls:server"))  # the test closes it

    async with serving(shake_hands) as address:
        yield address, links


async def test_a_payload_of_5_mb_arrives_whole_both_ways(authority: Authority) -> None:
    """Far more than one TLS record or one read holds."""
    sent = bytes(range(256)) * 20_000
    async with serving_tls(authority.issue("localhost")) as (address, links):
        ours = await TlsDialer(address, authority.trusting()).dial(LIMIT)
        theirs = await links.receive()
        assert ours.is_tcp
        assert theirs.is_tcp
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.write_loop)
                for start in range(0, len(sent), 65_536):
                    sender.put_bulk(1, sent[start : start + 65_536])
                sender.flush()
                received = bytearray()
                while len(received) < len(sent):
                    piece = await receiver.receive()
                    assert piece
                    received += piece
                assert received == sent
                nursery.cancel_scope.cancel()
        await ours.aclose()
        assert await theirs.receive() == b""  # there is no farewell, and that is fine
        assert theirs.fault == ""
        await theirs.aclose()


async def test_tls_1_2_is_enough_and_less_is_not(authority: Authority) -> None:
    """What older machines speak at best is not talked down to."""
    async with serving_tls(authority.issue("localhost")) as (address, links):
        context = authority.trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        link = await TlsDialer(address, context).dial(LIMIT)
        await (await links.receive()).aclose()
        await link.aclose()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(HandshakeFailed):
            await TlsDialer(address, context).dial(LIMIT)


async def refusal(files: mesh.CertificateFiles, context: ssl.SSLContext | None) -> str:
    """What a peer is told that is not satisfied with the server."""
    async with serving_tls(files) as (address, _):
        with pytest.raises(HandshakeFailed) as failed:
            await TlsDialer(address, context).dial(LIMIT)
        text = str(failed.value)
        assert text.count(str(address)) == 1
        return text.replace(str(address), "ADDRESS")


async def test_a_certificate_for_another_host_is_refused_with_both_names(
    authority: Authority,
) -> None:
    files = authority.issue("other.example", "127.0.0.9")
    assert await refusal(files, authority.trusting()) == (
        "certificate of ADDRESS is for other.example, 127.0.0.9, not localhost"
    )


async def test_a_certificate_that_has_expired_is_refused_with_the_date(
    authority: Authority,
) -> None:
    files = authority.issue("localhost", expired=True)
    assert await refusal(files, authority.trusting()) == (
        "certificate of ADDRESS has expired (Jan  1 00:00:00 2020 GMT)"
    )


async def test_a_certificate_of_an_unknown_authority_is_refused_with_its_name(
    authority: Authority, tmp_path: Path
) -> None:
    text = await refusal(authority.issue("localhost"), Authority(tmp_path / "other").trusting())
    assert text.startswith(
        "certificate of ADDRESS is from an authority that is not trusted here (trustme"
    )
    assert text.endswith("MESH_TLS_CA can name its file")


async def test_by_default_only_the_systems_authorities_are_trusted(authority: Authority) -> None:
    text = await refusal(authority.issue("localhost"), None)
    assert "is from an authority that is not trusted here" in text


async def test_a_server_without_tls_is_told_from_one_with_a_bad_certificate(
    authority: Authority,
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"\0\0\0\x05plain")

    async with serving(answer) as address:
        with pytest.raises(HandshakeFailed, match="the other end speaks no TLS; if it is a plain"):
            await TlsDialer(address, authority.trusting()).dial(LIMIT)


async def test_a_server_that_leaves_during_the_handshake_is_named(authority: Authority) -> None:
    async def leave(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()

    async with serving(leave) as address:
        with pytest.raises(HandshakeFailed, match="closed the connection during the TLS handsh"):
            await TlsDialer(address, authority.trusting()).dial(LIMIT)


async def test_dialling_can_be_cancelled_during_the_handshake(authority: Authority) -> None:
    """The server sees the end of the connection: nothing is left open."""
    began, ended = trio.Event(), trio.Event()

    async def hang(stream: trio.SocketStream) -> None:
        began.set()
        while await stream.receive_some():
            pass
        ended.set()

    async with serving(hang) as address:
        with trio.fail_after(10), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(TlsDialer(address, authority.trusting()).dial, LIMIT)
                await began.wait()
                scope.cancel()
        with trio.fail_after(10):
            await ended.wait()


async def test_the_environment_says_whom_to_trust_and_what_to_show(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three files together, against a server that requires a certificate."""
    shown = authority.issue("orders")
    monkeypatch.setenv("MESH_TLS_CA", str(authority.file))
    monkeypatch.setenv("MESH_TLS_CERT", str(shown.cert))
    monkeypatch.setenv("MESH_TLS_KEY", str(shown.key))
    server = authority.issue("localhost")
    files = mesh.CertificateFiles(server.cert, server.key, client_ca=authority.file)
    async with serving_tls(files) as (address, links):
        link = await TlsDialer(address).dial(LIMIT)
        with trio.fail_after(10):
            await (await links.receive()).aclose()
        await link.aclose()


async def test_files_of_the_environment_are_read_again_for_every_connection(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A peer that lives longer than its certificate reconnects with the new one."""
    monkeypatch.setenv("MESH_TLS_CA", str(tmp_path / "ca.pem"))
    Authority(tmp_path / "old").ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving_tls(authority.issue("localhost")) as (address, links):
        dialer = TlsDialer(address)
        with pytest.raises(HandshakeFailed, match="not trusted here"):
            await dialer.dial(LIMIT)
        (tmp_path / "ca.pem").write_bytes(authority.file.read_bytes())
        link = await dialer.dial(LIMIT)
        await (await links.receive()).aclose()
        await link.aclose()
        (tmp_path / "ca.pem").unlink()
        with pytest.raises(HandshakeFailed, match=r"ca\.pem cannot be read: No such file"):
            await dialer.dial(LIMIT)


def test_a_key_without_its_certificate_is_a_mistake(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_TLS_KEY", str(authority.issue("orders").key))
    with pytest.raises(mesh.CertificateError, match="MESH_TLS_KEY is set, and MESH_TLS_CERT is"):
        default_client_context()


def test_certificate_and_key_may_share_a_file(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("localhost")
    assert files.key is not None
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(Path(path).read_bytes() for path in (files.cert, files.key)))
    assert mesh.CertificateFiles(both).context().minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("broken", "content", "complaint"),
    [
        ("cert", None, "cert.pem cannot be read: No such file"),
        ("key", None, "cert.key cannot be read: No such file"),
        ("cert", "hello", "cert.pem holds no certificate in PEM form"),
        ("key", "", "cert.key holds no private key in PEM form"),
        ("key", "another", "does not belong to the certificate in"),
        ("client_ca", None, "ca.pem cannot be read"),
        ("client_ca", "hello", "ca.pem holds no certificates of authorities"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(
    authority: Authority, broken: str, content: str | None, complaint: str
) -> None:
    """OpenSSL would only say "PEM lib", and not of which file."""
    files = authority.issue("localhost", to="cert")
    other = authority.issue("localhost", to="other")
    assert files.key is not None
    assert other.key is not None
    path = Path({"cert": files.cert, "key": files.key, "client_ca": authority.file}[broken])
    path.unlink()
    if content is not None:
        path.write_text(Path(other.key).read_text() if content == "another" else content)
    with pytest.raises(mesh.CertificateError, match=complaint):
        mesh.CertificateFiles(files.cert, files.key, authority.file).context()


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    authority: Authority,
) -> None:
    """A gateway has no one at its terminal."""
    from cryptography.hazmat.primitives import serialization

    files = authority.issue("localhost")
    assert files.key is not None
    path = Path(files.key)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(mesh.CertificateError, match="the key has a passphrase; give one without"):
        files.context()


def test_contexts_of_the_wrong_side_are_refused(authority: Authority) -> None:
    """Before anything is dialled or served, and not with OpenSSL's words at the first handshake."""
    server = authority.issue("localhost").context()
    with pytest.raises(mesh.UsageError, match="is a server's"):
        TlsDialer(Address.parse("tls:localhost:1"), server)
    with pytest.raises(mesh.UsageError, match="is a client's"):
        mesh.Gateway(tls=authority.trusting())
