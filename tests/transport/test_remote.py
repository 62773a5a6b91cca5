"""Who is at the other end of a connection, as the gateway tells it to people."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import closing
from typing import Any

import pytest

from mesh.transport import remote_of


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")],
)
def test_over_tcp_it_is_the_address_of_the_other_end(
    family: socket.AddressFamily, host: str, shown: str
) -> None:
    with closing(socket.socket(family)) as listener, closing(socket.socket(family)) as caller:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        listener.listen()
        caller.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with closing(accepted):
            assert remote_of(accepted) == f"{shown}:{caller.getsockname()[1]}"


def test_on_a_unix_socket_it_is_the_process() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        assert remote_of(ours) == f"pid {os.getpid()}"


def test_a_process_that_cannot_be_seen_is_told_by_its_user() -> None:
    class FromAContainer(socket.socket):
        def getsockopt(self, *_: Any) -> Any:
            return struct.pack("3i", 0, 1000, 1000)

    with closing(FromAContainer(socket.AF_UNIX)) as sock:
        assert remote_of(sock) == "uid 1000"


def test_one_that_has_gone_is_nobody() -> None:
    sock = socket.socket()
    sock.close()
    assert remote_of(sock) == ""
