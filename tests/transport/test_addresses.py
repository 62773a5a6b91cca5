"""Addresses: how they are written, and what listening at one gives and refuses."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing

import mesh
from mesh.transport import Address, Listener, default_address


@pytest.mark.parametrize(
    ("text", "scheme", "where"),
    [
        ("unix:/run/mesh.sock", "unix", "/run/mesh.sock"),
        ("unix:here.sock", "unix", "here.sock"),
        ("unix:/odd:name", "unix", "/odd:name"),
        ("tcp:127.0.0.1:7000", "tcp", ("127.0.0.1", 7000)),
        ("tcp:localhost:0", "tcp", ("localhost", 0)),
        ("tcp:[::1]:65535", "tcp", ("::1", 65535)),
        ("tls:mesh.example:7443", "tls", ("mesh.example", 7443)),
        ("tls:[2001:db8::1]:7443", "tls", ("2001:db8::1", 7443)),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, scheme: str, where: object) -> None:
    """What was read is written again as it was."""
    address = Address.parse(text)
    assert address.scheme == scheme
    assert where == (address.path if scheme == "unix" else (address.host, address.port))
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "unix", "unix:", "tcp", "tcp:", "tcp:7000", "tcp::7000", "tcp:host", "tcp:host:",
        "tcp:host:port", "tcp:host:-1", "tcp:host:65536", "http://host:80", "/run/mesh.sock",
        "tcp:[]:80", "UNIX:/x", "tls:", "tls:host", "tls::7443", "tls:host:65536",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_both_forms(text: str) -> None:
    """The message repeats what was given and shows how to write it."""
    with pytest.raises(mesh.AddressError, match=r"unix:PATH .*tcp:HOST:PORT .* or tls:") as refused:
        Address.parse(text)
    assert repr(text) in str(refused.value)


async def test_a_tls_address_alone_is_not_dialled() -> None:
    """Nothing would say whom to trust there; above all, it is never dialled without TLS."""
    with pytest.raises(mesh.UsageError, match="trusts nobody"):
        await Address.parse("tls:127.0.0.1:7443").dial(100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/mesh.sock", True),
        ("tcp:127.0.0.1:1", True),
        ("tls:127.8.9.1:1", True),
        ("tls:[::1]:1", True),
        ("tcp:[::ffff:127.0.0.1]:1", True),
        ("tcp:localhost:1", True),
        ("tcp:127.0.0.1.example.com:1", False),
        ("tls:0.0.0.0:1", False),
        ("tls:[::]:1", False),
        ("tls:mesh.example:1", False),
    ],
)
def test_what_only_this_machine_can_reach_is_known(text: str, *, expected: bool) -> None:
    """What only looks like it is not taken for it."""
    assert Address.parse(text).is_loopback is expected


async def test_plain_tcp_is_not_opened_to_other_machines_unless_asked_for() -> None:
    """The error says why, and what to do; nothing was listening meanwhile."""
    address = Address.parse("tcp:0.0.0.0:0")
    with pytest.raises(mesh.UsageError) as refused:
        await Listener.bind(address)
    text = str(refused.value)
    assert text.startswith("tcp:0.0.0.0:0 can be reached from other machines")
    assert "listen at tls:0.0.0.0:0 with a certificate" in text
    assert "--allow-plain-tcp" in text
    (await Listener.bind(address, allow_plain_tcp=True)).close()
    (await Listener.bind(Address.parse("tls:0.0.0.0:0"))).close()


async def test_a_free_port_is_taken_for_port_zero() -> None:
    """The listener tells which one it got."""
    listener = await Listener.bind(Address.parse("tcp:127.0.0.1:0"))
    assert listener.address.port > 0
    listener.close()
    listener.close()


async def test_a_taken_port_is_refused_with_what_to_do() -> None:
    """The error is the mesh's own, and an OSError too."""
    listener = await Listener.bind(Address.parse("tcp:127.0.0.1:0"))
    with pytest.raises(mesh.AddressInUse, match="taken by another process; stop it, or listen"):
        await Listener.bind(listener.address)
    listener.close()


async def test_the_users_own_folder_is_made_and_only_this_user_can_enter_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing leaves nothing behind in it."""
    monkeypatch.delenv("MESH_GATEWAY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    listener = await Listener.bind(Address.parse(default_address()))
    folder = tmp_path / "mesh"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "gateway.sock").is_socket()
    listener.close()
    assert list(folder.iterdir()) == []


async def test_any_other_folder_must_be_there(tmp_path: Path) -> None:
    """A path mistyped makes no folders."""
    with pytest.raises(FileNotFoundError, match="there is no such directory"):
        await Listener.bind(Address("unix", path=str(tmp_path / "new" / "mesh.sock")))
    assert not (tmp_path / "new").exists()


async def test_a_folder_of_another_users_matters_only_where_it_would_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes it first cannot keep a gateway from listening elsewhere."""
    monkeypatch.delenv("MESH_GATEWAY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    (tmp_path / f"mesh-{another}").mkdir()
    listener = await Listener.bind(Address("unix", path=str(tmp_path / "mesh.sock")))
    listener.close()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    """A file that a killed process left behind is no obstacle."""
    path = tmp_path / "mesh.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    listener = await Listener.bind(Address("unix", path=str(path)))
    link = await listener.address.dial(100)
    await link.aclose()
    listener.close()


async def test_a_listener_elsewhere_needs_no_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with a read-only root has none."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    listener = await Listener.bind(Address("unix", path=str(tmp_path / "mesh.sock")))
    listener.close()


async def test_a_sockets_permissions_are_those_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sock"
    before = os.umask(0o077)
    try:
        listener = await Listener.bind(Address("unix", path=str(path)), mode=0o660)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    listener.close()


async def test_a_live_gateways_socket_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    """The second gateway says which process holds the address, by number and command."""
    address = Address("unix", path=str(tmp_path / "mesh.sock"))
    listener = await Listener.bind(address)
    with pytest.raises(mesh.AddressInUse) as refused:
        await Listener.bind(address)
    assert f"is held by process {os.getpid()} (" in str(refused.value)
    assert Path(sys.executable).name in str(refused.value)
    listener.close()


async def test_a_live_socket_of_something_else_is_refused_too(tmp_path: Path) -> None:
    """A listener that holds no lock file is recognised by asking the kernel who answers."""
    path = tmp_path / "mesh.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(mesh.AddressInUse, match=f"held by process {os.getpid()} "):
            await Listener.bind(Address("unix", path=str(path)))
    assert path.exists()


async def test_a_live_socket_with_a_full_backlog_is_not_taken_for_a_stale_one(
    tmp_path: Path,
) -> None:
    """Nobody can connect to it now, and it is alive all the same."""
    path = tmp_path / "mesh.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as first:
        other.bind(str(path))
        other.listen(0)
        first.setblocking(False)
        first.connect(str(path))
        with pytest.raises(mesh.AddressInUse, match="held by another process"):
            await Listener.bind(Address("unix", path=str(path)))
        with pytest.raises(BlockingIOError):
            await Address("unix", path=str(path)).dial(100)
    assert path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A path mistyped does not cost the user a file."""
    path = tmp_path / "data.txt"
    path.write_text("precious")
    with pytest.raises(mesh.AddressInUse, match="exists and is no socket"):
        await Listener.bind(Address("unix", path=str(path)))
    assert path.read_text() == "precious"


async def test_a_lock_that_a_dead_process_left_is_no_obstacle(tmp_path: Path) -> None:
    """The kernel lets go of a lock when its holder ends; the file alone means nothing."""
    path = tmp_path / "mesh.sock"
    (tmp_path / "mesh.sock.lock").write_text("999999")
    listener = await Listener.bind(Address("unix", path=str(path)))
    assert (tmp_path / "mesh.sock.lock").read_text() == str(os.getpid())
    listener.close()


async def test_a_lock_that_is_held_is_respected_before_there_is_a_socket(tmp_path: Path) -> None:
    """Of two that start at once, the one that comes second to the lock is refused."""
    lock = tmp_path / "mesh.sock.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(mesh.AddressInUse, match="held by another process"):
            await Listener.bind(Address("unix", path=str(tmp_path / "mesh.sock")))


RACER = """
import sys, trio
from mesh.errors import AddressInUse
from mesh.transport import Address, Listener

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        listener = await Listener.bind(Address("unix", path=sys.argv[1]))
    except AddressInUse:
        print("refused", flush=True)
    else:
        print("bound", listener.address.scheme, flush=True)
        sys.stdin.readline()

trio.run(main)
"""


def start_racer(path: Path) -> subprocess.Popen[str]:
    """A process that binds once it is told to."""
    return subprocess.Popen(
        [sys.executable, "-c", RACER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_of_processes_that_race_for_one_path_exactly_one_wins(tmp_path: Path) -> None:
    """Also over a stale file, which all of them want to replace; and it is reachable afterwards."""
    path = tmp_path / "mesh.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    racers = [start_racer(path) for _ in range(4)]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = sorted(
            racer.stdout.readline().strip() for racer in racers if racer.stdout is not None
        )
        assert answers == ["bound unix", "refused", "refused", "refused"]
        link = await Address("unix", path=str(path)).dial(100)
        await link.aclose()
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


async def test_a_path_that_the_system_cannot_take_is_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    """The kernel would only say that it is too long."""
    path = str(tmp_path / ("x" * 200))
    with pytest.raises(mesh.AddressError, match=rf"of {len(path)} bytes exceeds .* limit of 107"):
        await Listener.bind(Address("unix", path=path))


async def test_dialling_where_nobody_listens_is_an_error_of_the_system(tmp_path: Path) -> None:
    """It can be tried again later; no descriptor is left open."""
    listener = await Listener.bind(Address.parse("tcp:127.0.0.1:0"))
    listener.close()
    with pytest.raises(OSError, match="refused"):
        await listener.address.dial(100)
    with pytest.raises(FileNotFoundError):
        await Address("unix", path=str(tmp_path / "none.sock")).dial(100)


async def test_accepting_ends_when_the_listener_closes(tmp_path: Path) -> None:
    """The accepting task is told, and does not wait on a closed descriptor."""
    listener = await Listener.bind(Address("unix", path=str(tmp_path / "mesh.sock")))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        await trio.testing.wait_all_tasks_blocked()
        listener.close()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


def test_the_default_address_is_the_one_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``MESH_GATEWAY`` wins over all else."""
    monkeypatch.setenv("MESH_GATEWAY", "tcp:127.0.0.1:7000")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_address() == "tcp:127.0.0.1:7000"


def test_the_default_address_is_in_the_users_runtime_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the system gives the user one."""
    monkeypatch.delenv("MESH_GATEWAY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_address() == "unix:/run/user/1/mesh/gateway.sock"


def test_else_it_is_in_a_folder_of_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under the temporary directory, with the user's number in its name."""
    monkeypatch.delenv("MESH_GATEWAY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert default_address() == f"unix:{tmp_path}/mesh-{os.getuid()}/gateway.sock"


@pytest.mark.parametrize("as_link", [False, True])
def test_a_folder_that_another_user_made_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    as_link: bool,
) -> None:
    """Its owner could pose as the user's gateway; a link to the user's own folder is no better."""
    monkeypatch.delenv("MESH_GATEWAY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    me = os.getuid()
    another = me + 1
    if as_link:
        if me != 0:
            pytest.skip("only root can give a link to another user")
        (tmp_path / "mine").mkdir()
        folder = tmp_path / f"mesh-{me}"
        folder.symlink_to(tmp_path / "mine")
        os.chown(folder, another, -1, follow_symlinks=False)
    else:
        # To this folder's owner, the test, the user of the number above is another one.
        monkeypatch.setattr(os, "getuid", lambda: another)
        (tmp_path / f"mesh-{another}").mkdir()
    with pytest.raises(mesh.AddressError, match="belongs to another user, who could pose as"):
        default_address()
