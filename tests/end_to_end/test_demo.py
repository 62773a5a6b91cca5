"""`mesh demo` as a person runs it: real processes, a pipe or a terminal, ended in all ways."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-m", "mesh.cli", "demo"]


@pytest.fixture(name="folder")
def make_folder() -> Iterator[Path]:
    """A temporary directory for the demo, short enough for the path of a socket."""
    folder = Path(tempfile.mkdtemp(prefix="d"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    unwanted = {"MESH_GATEWAY", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "TMPDIR": str(folder), "TERM": "xterm-256color", "PYTHONUTF8": "1"}


@contextlib.contextmanager
def start_demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """What the demo prints up to the line that has this text."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if wanted in line:
            return seen
    assert process.stderr is not None
    raise AssertionError(f"no {wanted!r} in:\n{seen}\n{process.stderr.read()}")


def watch(output: str) -> list[int]:
    """Handles that become readable when the demo's processes, named in its output, have ended."""
    handles = []
    for number in re.findall(r"process (\d+)", output):
        with contextlib.suppress(ProcessLookupError):  # the one that the demo itself killed
            handles.append(os.pidfd_open(int(number)))
    return handles


def ended(handle: int, within: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        return bool(poll.poll(within * 1000))
    finally:
        os.close(handle)


def test_every_order_ends_as_it_must(folder: Path) -> None:
    """All ways to fail, a process killed at work and its return, with nothing left behind."""
    result = subprocess.run(
        [*COMMAND, "--once", "--json"],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    document = json.loads(result.stdout)
    wrong = [order for order in document["orders"] if not order["as_expected"]]
    assert wrong == []
    assert (result.returncode, document["ok"], document["unexpected"]) == (0, True, [])
    assert result.stderr == ""
    assert len(document["orders"]) == 120

    killed = next(o for o in document["orders"] if o["outcome"]["reason"] == "CONNECTION_LOST")
    assert killed["outcome"]["maybe_executed"] is True
    after = document["orders"][document["orders"].index(killed) + 1]
    assert after["outcome"]["code"] == "ok"
    assert after["duration_s"] > 0.3  # it waited for the process to come back

    slow, failed = document["traces"].values()
    took = {order["order"]: order["duration_s"] for order in document["orders"]
            if order["outcome"]["code"] == "ok"}  # fmt: skip
    assert slow["summary"]["activity_id"] == max(took, key=lambda order: took[order])
    assert failed["summary"]["code"] == "deadline_exceeded"
    for shown in (slow, failed):
        assert shown["summary"]["complete"], shown["summary"]["missing"]
        assert len(shown["rows"]) == shown["summary"]["spans"] == 20

    places = next(row for row in document["methods"] if row["method"] == "place")
    assert places["calls"] == 120
    assert sum(places["errors"].values()) == sum(
        order["outcome"]["code"] != "ok" for order in document["orders"]
    )
    assert list(folder.iterdir()) == []


def test_in_a_pipe_it_prints_plain_lines(folder: Path) -> None:
    with start_demo(folder, "--once", "--orders", "45") as process:
        output, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in output
    assert "\r" not in output
    assert "20 of 45 orders played, 20 ended as expected" in output
    assert "order-041  failed_precondition LOOP_DETECTED" in output
    assert "All 45 orders ended as they must" in output
    end = output[output.index("All 45 orders ended as they must") :]
    assert re.search(r"The slowest order: order-\d+, .*\norders.place by customers  ok after", end)
    assert "An order that failed: order-034, 5 x lamp for barbara\n" in end
    assert re.search(r"payments.charge +2\d\d\.\d ms +\d\d%  █", end)
    assert "/metrics" in output


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_it_shows_a_bar_and_keeps_to_the_width(folder: Path, columns: int) -> None:
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        [*COMMAND, "--once"],
        env=environment(folder),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    ) as process:
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed: all has been read
            while chunk := os.read(leader, 65536):
                shown += chunk
        assert process.wait(30) == 0
    os.close(leader)
    text = shown.decode()
    assert re.search(r"orders .*━.*\d+/120", text)
    assert "\x1b[?25h" in text  # the cursor is back
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    too_wide = [line for line in plain.splitlines() if len(line) > columns]
    assert [line for line in too_wide if "cycle is" not in line] == []


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux to watch other processes")
@pytest.mark.parametrize(
    ("number", "wanted", "status"),
    [
        (signal.SIGINT, "order-013", 130),
        (signal.SIGTERM, "order-013", 143),
        (signal.SIGTERM, "payments died", 143),
        (signal.SIGINT, "Ctrl-C closes it", 0),
        (signal.SIGTERM, "Ctrl-C closes it", 0),
        (signal.SIGKILL, "order-013", -9),
    ],
)
def test_it_leaves_nothing_behind_however_it_ends(
    folder: Path, number: signal.Signals, wanted: str, status: int
) -> None:
    with start_demo(folder) as process:
        output = read_until(process, wanted)
        handles = watch(output)
        process.send_signal(number)
        assert process.wait(30) == status
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert len(handles) == (4 if wanted == "payments died" else 5)
    within = 10 if number == signal.SIGKILL else 0  # the orphans notice it a moment later
    assert all([ended(handle, within) for handle in handles])  # noqa: C419 - closes each
    assert list(folder.iterdir()) == []


def test_while_it_is_open_the_shop_can_be_looked_at(folder: Path) -> None:
    with start_demo(folder, "--orders", "10") as process:
        output = read_until(process, "Ctrl-C closes it")
        address = re.search(r"MESH_GATEWAY=(\S+)", output)
        order = re.search(r"mesh trace --call orders place '(.+)'", output)
        assert address is not None
        assert order is not None
        call = ["orders", "place", order[1]]
        for arguments in (["list"], ["trace"], ["call", *call], ["trace", "--call", *call]):
            result = subprocess.run(
                [*COMMAND[:-1], *arguments],
                env={**environment(folder), "MESH_GATEWAY": address[1]},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert (result.returncode, result.stderr) == (0, ""), arguments
        process.terminate()
        assert process.wait(30) == 0


def test_a_process_that_cannot_start_is_explained(folder: Path) -> None:
    """The log of the process is shown, as nobody would find it in the directory that is removed."""
    env = environment(folder) | {"PYTHONPATH": str(folder / "broken")}
    (folder / "broken").mkdir()
    (folder / "broken" / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'payments' in sys.orig_argv: sys.exit('the bank is closed today')\n"
    )  # fmt: skip
    result = subprocess.run(
        [*COMMAND, "--once"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "ended unexpectedly with status 1" in result.stderr
    assert "the bank is closed today" in result.stderr
    assert result.stderr.startswith("mesh: process payments ")
    assert [path.name for path in folder.iterdir()] == ["broken"]
