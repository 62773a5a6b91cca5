"""Log lines that a peer keeps with the traces of its calls."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import nullcontext
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import get_tracer

import mesh
from mesh.errors import SettingError
from mesh.loglines import choose_level
from mesh_telemetry import TraceSettings, call_lines
from mesh_telemetry.call_lines import LEFT_OUT, LOG, MESSAGE, SEVERITY
from mesh_telemetry.peer_records import MAX_AGE
from mesh_telemetry.spans import SERVER
from tests.gateway.raw_peer import settled
from tests.gateway.traces import QUIET, Mesh, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

ALL = TraceSettings(baseline=10_000, max_spans_per_second=1e9)
log = logging.getLogger("shop")


@pytest.fixture(autouse=True)
def _every_level() -> Iterator[None]:
    log.setLevel(logging.DEBUG)
    yield
    log.setLevel(logging.NOTSET)


def lines(it: Mesh) -> dict[str, list[str]]:
    """What is told of the only kept trace: the lines of each method, with their levels."""
    (trace,) = it.kept
    assert trace.complete
    return {
        span.name: [
            f"{event.attributes[SEVERITY]} {event.attributes[MESSAGE]}"
            for event in span.events
            if event.name == LOG
        ]
        for resource, span in trace.spans()
        if span.kind == SERVER and resource["service.name"] != "mesh-gateway"
    }


async def test_lines_are_told_with_the_call_that_made_them(autojump_clock: MockClock) -> None:
    """From the level on that was asked for, in the handler and its tasks."""
    async with running(ALL) as it, it.peer("users", keep_logs="INFO") as users:

        async def get() -> None:
            log.info("getting %s", "ada", extra={"password": "hunter2"})
            log.debug("details")

            async def child() -> None:
                log.warning("in a task")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            await users.call("users", "region")
            log.error("at the end", exc_info=ValueError("of an exception only the text is kept"))

        async def region() -> None:
            log.critical("nested")

        users.register("get", get)
        users.register("region", region)
        await settled(users)
        log.error("outside of any call")
        await users.call("users", "get")
        await it.settled()
        assert lines(it) == {
            "users.get": ["INFO getting ada", "WARNING in a task", "ERROR at the end"],
            "users.region": ["CRITICAL nested"],
        }


async def test_a_peer_that_does_not_ask_keeps_nothing(autojump_clock: MockClock) -> None:
    """Also beside one that does, in the same process."""
    async with (
        running(ALL) as it,
        it.peer("users") as users,
        it.peer("web", keep_logs="error") as web,
    ):

        async def get() -> None:
            log.error("not to be kept")
            await users.call("web", "ask")

        async def ask() -> None:
            log.warning("too low")
            log.error("to be kept")

        users.register("get", get)
        web.register("ask", ask)
        await settled(users)
        await settled(web)
        await web.call("users", "get")
        await it.settled()
        assert lines(it) == {"users.get": [], "web.ask": ["ERROR to be kept"]}


async def test_a_call_that_does_not_log_has_no_span_made(autojump_clock: MockClock) -> None:
    async with running(QUIET) as it, it.peer("users", keep_logs="debug") as users:
        users.register("get", lambda: None)
        await settled(users)
        await users.call("users", "get")
        assert len(users._uplink.records) > 0
        assert users._uplink.records.size == 0


async def test_a_trace_that_is_dropped_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """Neither in the gateway nor, after a while, in the peer."""
    before = call_lines._running._left
    async with running(QUIET) as it, it.peer("users", keep_logs="debug") as users:

        async def get() -> None:
            log.info("x" * 1_000)
            assert call_lines._running._left < before

        users.register("get", get)
        await settled(users)
        await users.call("users", "get")
        assert call_lines._running._left == before
        records = users._uplink.records
        assert records.size > 1_000
        await it.settled()
        assert it.kept == []
        it.check_nothing_left()
        await trio.sleep(2 * MAX_AGE)
        assert (len(records), records.size) == (0, 0)


async def test_more_lines_than_there_is_room_for_are_counted(autojump_clock: MockClock) -> None:
    async with running(ALL) as it, it.peer("users", keep_logs="debug") as users:

        async def get() -> None:
            for number in range(112):
                log.info("line %d", number)

        users.register("get", get)
        await settled(users)
        await users.call("users", "get")
        await it.settled()
        told = lines(it)["users.get"]
        assert (told[0], told[-1], len(told)) == ("INFO line 12", "INFO line 111", 100)
        (counted,) = [span.attributes.get(LEFT_OUT) for _, span in it.kept[0].spans()
                      if LEFT_OUT in span.attributes]  # fmt: skip
        assert counted == 12


NO_EVENTS = (
    '{"a": "event"}',
    '{"event": {"a": 1}}',
    '{"event": "one", and more}',
    '["event"]',
    'about {"event": "one"}',
)
"""Lines that no renderer of structlog has made: they are kept as they are."""


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError


async def test_no_record_breaks_a_call_and_none_tells_more_than_its_text(
    autojump_clock: MockClock,
) -> None:
    """Broken arguments, structlog's events, contexts of the user's own, the mesh's records."""
    handler = logging.NullHandler()  # which formats nothing
    log.addHandler(handler)
    log.propagate = False  # as its arguments are broken
    wrapped = structlog.wrap_logger(
        log, processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    ).bind(password="hunter2")
    rendered = structlog.wrap_logger(log, processors=[structlog.stdlib.render_to_log_kwargs])
    as_json = structlog.wrap_logger(
        log, processors=[mesh.logs.structlog_processor, structlog.processors.JSONRenderer()]
    )
    try:
        async with running(ALL) as it, it.peer("users", keep_logs="debug") as users:

            async def get() -> None:
                log.info("%d", "no number")
                log.info(Broken())
                log.info({"a": 1})
                wrapped.info("wrapped")
                rendered.info("rendered", password="hunter2")
                as_json.info('as "JSON"', password="hunter2")
                for line in NO_EVENTS:
                    log.info(line)
                logging.getLogger("mesh.service").info("the mesh's own")
                token = attach(Context())
                log.info("nowhere")
                detach(token)
                by_hand = {"levelno": 20, "levelname": "INFO", "msg": "made by hand"}
                log.handle(logging.makeLogRecord(by_hand))
                log.handle(logging.makeLogRecord({**by_hand, "created": None}))

            users.register("get", get)
            await settled(users)
            await users.call("users", "get")
            await it.settled()
            told = [line.partition(" ")[2] for line in lines(it)["users.get"]]
            assert told == [
                "<its text raised TypeError>",
                "<its text raised ZeroDivisionError>",
                "{'a': 1}",
                "wrapped",
                "rendered",
                'as "JSON"',
                *NO_EVENTS,
                "made by hand",
            ]
    finally:
        log.propagate = True
        log.removeHandler(handler)


@pytest.mark.parametrize("created", [2e10, 5e30, -1e30, 0.0, inf, nan])
@pytest.mark.parametrize("inside", [False, True])
async def test_a_line_is_within_its_span_whenever_its_record_says_it_was_made(
    autojump_clock: MockClock, created: float, inside: bool
) -> None:
    """Nor does a moment that no span can hold cost the call its span."""
    mesh.install_tracer_provider()
    async with running(ALL) as it, it.peer("users", keep_logs="debug") as users:

        async def get() -> None:
            record = logging.makeLogRecord({"levelno": 20, "levelname": "INFO", "msg": "odd"})
            record.created = created
            with get_tracer("users").start_as_current_span("x") if inside else nullcontext():
                log.handle(record)

        users.register("get", get)
        await settled(users)
        await users.call("users", "get")
        await it.settled()
        (trace,) = it.kept
        assert trace.complete
        ((span, line),) = [
            (span, event) for _, span in trace.spans() for event in span.events if event.name == LOG
        ]
        assert span.name == ("x" if inside else "users.get")
        assert span.start <= line.time <= span.end


async def test_filters_and_levels_of_loggers_are_kept_to(autojump_clock: MockClock) -> None:
    def redact(record: logging.LogRecord) -> bool:
        record.msg = record.msg.replace("hunter2", "***")
        return "noise" not in record.msg

    log.addFilter(redact)
    log.setLevel(logging.WARNING)
    try:
        async with running(ALL) as it, it.peer("users", keep_logs="debug") as users:

            async def get() -> None:
                log.info("too low")
                log.warning("noise")
                log.warning("password hunter2")

            users.register("get", get)
            await settled(users)
            await users.call("users", "get")
            await it.settled()
            assert lines(it) == {"users.get": ["WARNING password ***"]}
    finally:
        log.removeFilter(redact)


@pytest.mark.parametrize(
    ("given", "variable", "level"),
    [
        (None, "", inf),
        (None, "info", 20),
        (None, "WARNING", 30),
        ("ERROR", "", 40),
        ("debug", "error", 10),
    ],
)
def test_the_argument_comes_before_the_variable(
    given: str | None, variable: str, level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_KEEP_LOGS", variable)
    assert choose_level(given) == level


async def test_a_level_that_there_is_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "must be one of debug, info, warning, error, not 'loud'"
    for given in ("loud", ""):
        with pytest.raises(ValueError, match="keep_logs must be one of") as wrong:
            choose_level(given)
        assert not isinstance(wrong.value, SettingError)
    monkeypatch.setenv("MESH_KEEP_LOGS", "loud")
    with pytest.raises(SettingError, match=f"MESH_KEEP_LOGS {message}"):
        async with mesh.connect("users", gateway="unix:/none"):
            pytest.fail("it connected")


PROGRAM = """
import logging, logging.config, trio, mesh
log = logging.getLogger("shop")

async def main():
    async with mesh.Gateway() as gateway, mesh.connect("a", gateway=gateway, keep_logs="info") as a:
        @a.method()
        async def get():
            log.warning("without any handler")
            logging.basicConfig(level="INFO", format="%(message)s of basicConfig")
            log.info("a line")
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
                                       "root": {"level": "INFO"}})
            log.info("and one")
        with mesh.activity("order-1"):
            await a.call("a", "get")
        text = ""
        while "and one" not in text:
            await trio.sleep(0.02)
            found = await gateway.traces.find()
            text = await gateway.traces.text("order-1") if found else ""
    print(*[line.split(" ", 1)[1].strip() for line in text.splitlines() if " info " in line
            or " warning " in line], sep="\\n")

trio.run(main)
"""


def test_the_programs_own_logging_works_as_without() -> None:
    """Where there is no handler, or one comes later, or all are taken away."""
    result: Any = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stderr.splitlines() == [
        "without any handler",
        "a line of basicConfig",
    ]
    assert [" ".join(line.split()[-3:]) for line in result.stdout.splitlines()] == [
        "without any handler",
        "info a line",
        "info and one",
    ]
