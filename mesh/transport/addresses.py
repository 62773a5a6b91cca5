"""Addresses: how they are written, dialled and listened on.

unix:PATH    tcp:HOST:PORT    tls:HOST:PORT
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import trio

from mesh.errors import AddressError, AddressInUse, UsageError
from mesh.transport.links import Link, SocketLink

BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway is. Dialling it opens a link."""

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0

    @staticmethod
    def parse(text: str) -> Address:
        """Read ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT`` (IPv6 hosts in brackets).

        Raises:
            AddressError: The text is none of them; the message shows all forms.
        """
        scheme, _, rest = text.partition(":")
        if scheme == "unix" and rest:
            return Address("unix", path=rest)
        host, colon, port = rest.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        plain = host and not set(host) & set("/@ ")
        is_port = port.isascii() and port.isdecimal() and int(port) < 65536
        if scheme in {"tcp", "tls"} and colon and plain and is_port:
            return Address(scheme, host=host, port=int(port))
        raise AddressError(
            f"address {text!r} is not understood; write unix:PATH (unix:/run/mesh.sock), "
            "tcp:HOST:PORT (tcp:127.0.0.1:7000) or tls:HOST:PORT (tls:mesh.example:7443)"
        )

    @staticmethod
    def of(sock: socket.socket) -> Address:
        """Where a Unix or TCP socket listens. Names without a file are shown as ``@NAME``."""
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            path = f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else name
            return Address("unix", path=path)
        return Address("tcp", host=name[0], port=name[1])

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}:{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; of names, only ``localhost`` is known."""
        return self.scheme == "unix" or self.host == "localhost" or is_loopback(self.host)

    async def dial(self, limit: int) -> Link:
        """Open a link to it; see :class:`~mesh.transport.links.Dialer`.

        Raises:
            UsageError: A ``tls:`` address is dialled by a :class:`~mesh.transport.TlsDialer`.
        """
        if self.scheme == "tls":
            raise UsageError(f"{self} needs a TlsDialer, as an address alone trusts nobody")
        return SocketLink(await self.open_socket(), limit, str(self))

    async def open_socket(self) -> socket.socket:
        """Connect to it, without TLS."""
        if self.scheme == "unix":
            return await _connect(socket.socket(socket.AF_UNIX), self.path)
        fault: OSError = OSError(f"no address found for {self.host}")
        found = await trio.socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, where in found:
            try:
                return await _connect(socket.socket(family, kind, protocol), where)
            except OSError as this:
                fault = this
        raise fault


async def _connect(sock: socket.socket, where: Any) -> socket.socket:
    """Connect without blocking. A full backlog is an OSError (EAGAIN), as no other way shows it."""
    sock.setblocking(False)
    try:
        code = sock.connect_ex(where)  # a path, or a host and port
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code), str(where))  # noqa: TRY301 - closes the socket
    except BaseException:
        sock.close()
        raise
    return sock


def is_loopback(host: str) -> bool:
    """Whether a numeric address means this machine only."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def default_address() -> str:
    """``MESH_GATEWAY`` if set, else a socket in the user's runtime directory.

    That is ``$XDG_RUNTIME_DIR/mesh/gateway.sock``, and where there is no such directory, one under
    the temporary directory that only this user can enter.

    Raises:
        AddressError: That directory belongs to another user.
    """
    return os.environ.get("MESH_GATEWAY") or _own_address()


def _own_folder() -> Path:
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "mesh"
    return Path(tempfile.gettempdir()) / f"mesh-{os.getuid()}"


def _own_address() -> str:
    folder = _own_folder()
    # Not followed: a link of another user's, even to a folder of this one's, is no better.
    if os.path.lexists(folder) and folder.lstat().st_uid != os.getuid():
        raise AddressError(
            f"{folder} belongs to another user, who could pose as your gateway; remove it, or set "
            "XDG_RUNTIME_DIR or MESH_GATEWAY"
        )
    return f"unix:{folder / 'gateway.sock'}"


class Listener:
    """A socket that accepts connections for a gateway. A Unix socket also holds a lock file."""

    def __init__(self, sock: socket.socket, address: Address, lock: int | None = None) -> None:
        self._socket = sock
        self._lock = lock
        self._inode = _inode(address.path) if lock is not None else None
        self.address = address

    @staticmethod
    async def bind(
        address: Address, *, allow_plain_tcp: bool = False, mode: int | None = None
    ) -> Listener:
        """Listen there. Port 0 takes a free one; :attr:`address` tells which.

        A socket file that no process listens on any more is replaced.

        Args:
            address: Where to listen.
            allow_plain_tcp: Whether TCP without TLS may be reachable from other machines.
            mode: The permissions of a Unix socket's file; None leaves them to the umask.

        Raises:
            UsageError: It would be, and may not.
            AddressInUse: A live process listens there; the message says which.
            OSError: The system refuses, for example because a directory is not writable.
        """
        if address.scheme == "unix":
            return await _bind_unix(address, mode)
        found = await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        if not allow_plain_tcp:
            refuse_open(address, str(where[0]))
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError as fault:
            sock.close()
            if fault.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"{address} is taken by another process; stop it, or listen elsewhere "
                    "(mesh gateway --listen)"
                ) from fault
            raise
        sock.setblocking(False)
        host, port = sock.getsockname()[:2]
        return Listener(sock, Address(address.scheme, host=host, port=port))

    @staticmethod
    def adopt(sock: socket.socket) -> Listener:
        """Accept at a socket that listens already, for example one that systemd handed in.

        It belongs to the listener from now on. A Unix socket's file stays when it is closed, as it
        is whoever's who made it.

        Raises:
            AddressError: It is no Unix or TCP socket that listens.
        """
        if (
            sock.type != socket.SOCK_STREAM
            or sock.family not in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}
            or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            raise AddressError(f"{sock!r} was handed in to listen at, and does not listen")
        sock.setblocking(False)
        return Listener(sock, Address.of(sock))

    async def accept(self) -> socket.socket:
        """The next connection.

        Raises:
            OSError: The system has no more room for connections now.
            trio.ClosedResourceError: The listener was closed.
        """
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this listener is closed")
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.accept()[0]
            except BlockingIOError:
                continue
            except OSError as fault:
                if fault.errno in {errno.ECONNABORTED, errno.EPROTO}:
                    continue
                raise

    def close(self) -> None:
        """Stop listening; a Unix socket's file is removed if it is still ours."""
        if self._socket.fileno() < 0:
            return
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        if self._lock is not None:
            if _inode(self.address.path) == self._inode:
                _remove(self.address.path)
            Path(f"{self.address.path}.lock").unlink(missing_ok=True)
            os.close(self._lock)


def refuse_open(address: Address, host: str) -> None:
    """Refuse to listen without TLS where other machines could connect.

    Raises:
        UsageError: They could.
    """
    if address.scheme == "tcp" and not is_loopback(host):
        raise UsageError(
            f"{address} can be reached from other machines, and nothing there is encrypted or "
            f"checked: listen at tls:{str(address).removeprefix('tcp:')} with a certificate "
            "(--tls-cert, --tls-key), or, on a network that you trust, say --allow-plain-tcp "
            "(mesh.Gateway(allow_plain_tcp=True))"
        )


async def _bind_unix(address: Address, mode: int | None) -> Listener:
    path = Path(address.path)
    if len(os.fsencode(path)) > 107:
        raise AddressError(
            f"socket path of {len(os.fsencode(path))} bytes exceeds the system's limit of 107: "
            f"{path}"
        )
    if not path.parent.is_dir():
        # Only asked now: a container with a read-only root may have no temporary directory.
        if path.parent != _own_folder():
            raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(path.parent))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(address)
    try:
        await _replace_stale(address)
        return Listener(_open_unix(path, mode), address, lock)
    except BaseException:
        _remove(f"{address.path}.lock")
        os.close(lock)
        raise


def _open_unix(path: Path, mode: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
        if mode is not None:
            path.chmod(mode)  # before it listens: nobody comes in by the umask's
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _lock(address: Address) -> int:
    """Hold the lock beside the socket: the kernel lets go of it however this process ends."""
    path = f"{address.path}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise AddressInUse(_taken(address, holder)) from None
        if _inode(path) == os.fstat(descriptor).st_ino:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its last holder removed it between our open and our lock


async def _replace_stale(address: Address) -> None:
    path = address.path
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AddressInUse(
                f"{address.path} exists and is no socket; remove it or choose another"
            )
    except FileNotFoundError:
        return
    try:
        sock = await _connect(socket.socket(socket.AF_UNIX), address.path)
    except ConnectionRefusedError:
        _remove(path)
        return
    except BlockingIOError:  # a live listener with a full backlog
        raise AddressInUse(_taken(address, "")) from None
    with sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        raise AddressInUse(_taken(address, str(struct.unpack("3i", credentials)[0])))


def _taken(address: Address, holder: str) -> str:
    who = f"process {holder}" if holder else "another process"
    if holder:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            command = Path(f"/proc/{holder}/cmdline").read_bytes().replace(b"\0", b" ")
            who += f" ({command.decode().strip()})"
    return f"{address} is held by {who}; stop it, or listen elsewhere (mesh gateway --listen)"


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except FileNotFoundError:
        return None
