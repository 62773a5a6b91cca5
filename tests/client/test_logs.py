"""Log records know the call that they were made in, in every task and thread of a handler."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio
from opentelemetry import trace as otel

import mesh
from mesh.logs import CallFilter, configure, structlog_processor

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("shop")


@pytest.fixture(name="output")
def configured_output() -> Iterator[io.StringIO]:
    """What is logged as JSON; the root logger is as before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure("debug", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(output: io.StringIO, logger: str = "shop") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in output.getvalue().splitlines()]
    return [one for one in found if one["logger"] == logger]


async def test_records_of_a_handler_carry_its_call(output: io.StringIO) -> None:
    async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway) as client:

        @client.method()
        async def get() -> list[str]:
            log.info("in the handler")

            async def child() -> None:
                await trio.lowlevel.checkpoint()
                log.info("in a task")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            await trio.to_thread.run_sync(log.info, "in a thread")
            await client.call("users", "plain")
            own = otel.get_current_span().get_span_context()
            log.info("after the span was looked for")
            return [f"{own.trace_id:032x}", f"{own.span_id:016x}"]

        @client.method()
        def plain() -> None:
            log.info("in a thread, nested")

        with mesh.activity("order-42"):
            log.info("before")
            trace_id, span_id = await client.call("users", "get")
        log.info("after")

    of_call = {
        "activity_id": "order-42",
        "chain": ["users.get"],
        "service": "users",
        "method": "get",
        "trace_id": trace_id,
        "span_id": span_id,
    }
    [inner] = [line["span_id"] for line in lines(output) if line["message"].endswith("nested")]
    assert re.fullmatch("[0-9a-f]{16}", inner)
    assert inner != span_id
    nested = {
        **of_call, "chain": ["users.get", "users.plain"], "method": "plain", "span_id": inner,
    }  # fmt: skip
    found = {
        line["message"]: {name: line[name] for name in of_call if name in line}
        for line in lines(output)
    }
    assert found == {
        "before": {"activity_id": "order-42"},
        "in the handler": of_call,
        "in a task": of_call,
        "in a thread": of_call,
        "after the span was looked for": of_call,
        "in a thread, nested": nested,
        "after": {},
    }


async def test_a_handler_that_fails_is_logged_with_its_call_and_traceback(
    output: io.StringIO,
) -> None:
    async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway) as client:

        @client.method()
        async def get() -> None:
            raise ZeroDivisionError("by zero")

        with mesh.activity("order-43"), pytest.raises(mesh.Unknown):
            await client.call("users", "get")

    [line] = lines(output, "mesh.service")
    assert line["level"] == "error"
    assert line["message"].startswith("handler of users.get raised ZeroDivisionError [users.get; ")
    assert line["exception"].endswith("ZeroDivisionError: by zero")
    assert (line["activity_id"], line["chain"]) == ("order-43", ["users.get"])


def test_a_format_string_may_name_every_field_at_any_time() -> None:
    record = logging.makeLogRecord({"msg": "outside of any call", "activity_id": "mine"})
    assert CallFilter().filter(record)
    text = "%(activity_id)s %(chain)s %(service)s %(method)s %(trace_id)s %(span_id)s %(message)s"
    told = "mine None None None None None outside of any call"
    assert logging.Formatter(text).format(record) == told


async def test_structlog_events_carry_the_call_and_keep_what_they_say_themselves() -> None:
    seen: list[str] = []
    logger = structlog.wrap_logger(
        None,
        processors=[structlog_processor, structlog.processors.JSONRenderer(), _into(seen)],
    )
    async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway) as client:

        @client.method()
        async def get() -> None:
            logger.info("looked up", service="a name of its own")

        with mesh.activity("order-44"):
            await client.call("users", "get")
    event = json.loads(seen[0])
    assert event["event"] == "looked up"
    assert event["activity_id"] == "order-44"
    assert event["chain"] == ["users.get"]
    assert event["service"] == "a name of its own"
    assert re.fullmatch("[0-9a-f]{32}", event["trace_id"])
    assert re.fullmatch("[0-9a-f]{16}", event["span_id"])


def _into(seen: list[str]) -> Any:
    def processor(_logger: object, _method: str, text: str) -> str:
        seen.append(text)
        raise structlog.DropEvent

    return processor


PROGRAM = """
import logging, mesh.logs
logging.getLogger().addHandler(logging.NullHandler())
mesh.logs.configure({arguments})
mesh.logs.configure({arguments})
print([type(one).__name__ for one in logging.getLogger().handlers])
logging.getLogger("shop").info("hello")
logging.getLogger("shop").debug("details")
"""


def run(arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_arguments_come_before_variables_and_other_handlers_stay() -> None:
    result = run("level='debug'", MESH_LOG_LEVEL="error", MESH_LOG_FORMAT="json")
    assert result.stdout == "['NullHandler', '_Handler']\n"
    assert [json.loads(line)["message"] for line in result.stderr.splitlines()] == [
        "hello",
        "details",
    ]


def test_the_default_is_for_people_and_without_details() -> None:
    result = run("")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} info    hello\n", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ("'loud'", {}, "log level must be one of debug, info, warning, error, not 'loud'"),
        ("", {"MESH_LOG_FORMAT": "xml"},
         "log format must be one of people, json, not 'xml' (MESH_LOG_FORMAT)"),
    ],
)  # fmt: skip
def test_a_wrong_choice_is_told(arguments: str, environment: dict[str, str], message: str) -> None:
    assert f"ValueError: {message}\n" in run(arguments, **environment).stderr


async def test_importing_and_connecting_leave_the_program_s_logging_alone() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway):
        pass
    assert (list(root.handlers), root.level) == before
