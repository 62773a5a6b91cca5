"""Events that others call decisions: what is believed of them, and that they break nothing."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from opentelemetry.trace import get_current_span

from mesh.wire import Kind, codec
from mesh_telemetry import Decision, DecisionKind, Explanation, explanation_lines
from mesh_telemetry.decision_forms import BY_CALLER
from mesh_telemetry.spans import CLIENT, SERVER, CallFacts, SpanEvent, build
from mesh_telemetry.texts import to_text
from tests.gateway.raw_peer import raw_peer, register_header, result_header, settled
from tests.gateway.test_decisions import explained, failing
from tests.gateway.traces import running
from tests.telemetry.test_decisions import TABLE

if TYPE_CHECKING:
    from trio.testing import MockClock

FORGED: dict[str, tuple[str, dict[str, Any]]] = {
    "endless": ("kept_slow", {"method": "m", "took_ms": 1.0, "value": inf}),
    "text": ("cancelled", {"by": "me", "setting": "timeout", "value": "abc"}),
    "number": ("cancelled", {"by": "me", "setting": 5, "value": 1.0}),
    "control": ("cancelled", {"by": "me", "setting": "\x1b[31mred\n", "value": 1.0}),
    "honest": ("cancelled", {"by": "the gateway's operator"}),
}


@pytest.mark.parametrize("forged", FORGED)
async def test_what_a_handler_calls_a_decision_is_an_event_as_any_other(
    autojump_clock: MockClock, forged: str
) -> None:
    """It neither hides why the call failed nor which instance it went to."""
    kind, facts = FORGED[forged]

    async def fail() -> None:
        told = {f"mesh.decision.{name}": value for name, value in facts.items()}
        get_current_span().add_event(f"mesh.decision.{kind}", told)
        raise ValueError("the real fault")

    async with running() as it, it.peer("a") as a, it.peer("web") as web:
        a.register("fail", fail)
        await settled(a)
        await failing(web, "a", "fail")
        steps = await explained(it)
        assert [step.decision for step in steps] == ["only_instance", "failed"]
        assert steps[1].sentence == "failed: ValueError: the real fault (from a (a-1))"
        told = await web.call(
            "mesh", "trace", {"id": it.kept[0].trace_id.hex(), "format": "explain"}
        )
        assert msgspec.convert(told, Explanation).steps[:2] == steps
        drawn = await it.gateway.traces.text(it.kept[0].trace_id.hex())
        assert f"• mesh.decision.{kind} at " in drawn


@pytest.mark.parametrize("kind", DecisionKind)
async def test_what_a_peer_makes_up_breaks_nothing(
    autojump_clock: MockClock, kind: DecisionKind
) -> None:
    """Also where it says to be a gateway: at most it lies about its own call, in clean text."""
    async with (
        running() as it,
        raw_peer(it.gateway, features=(codec.SPANS_FEATURE,)) as raw,
        it.peer("web") as web,
    ):
        await raw.send(register_header("raw", "do"))
        span_id, trace_id = b"caller-1", b"t" * 16
        await raw.call("raw", "do", trace_id=trace_id, span_id=span_id)
        _, _, call, _ = await raw.receive(Kind.CALL)
        await raw.send(result_header(call.call_id))
        value, facts, _ = TABLE[kind]
        honest = Decision(kind, 0.0, value, facts).event(1)
        odd: list[Any] = [inf, nan, -inf, 2**63, "\x1b[31m\n\x9b", ["\x1b"], True, -1.0]
        events = [honest] + [
            SpanEvent(honest.name, time, honest.attributes | {f"mesh.decision.{name}": one})
            for name in ("setting", "value", *facts)
            for one in odd
            for time in (0, -(2**63), 2**63 - 1)
        ]
        spans = []
        for own_id, above, side in ((span_id, b"", CLIENT), (b"callee-1", call.span_id, SERVER)):
            of_call = CallFacts(
                trace_id=trace_id, span_id=own_id, parent_id=above, kind=side, method="raw.do",
                start=1, end=2, code=0,
            )  # fmt: skip
            spans.append(build(of_call))
            spans[-1].events = tuple(events)
        resource = {"service.name": "raw", "mesh.role": "gateway"}
        await raw.send(
            codec.Spans([trace_id], 2), payload=msgspec.msgpack.encode((resource, spans, 0))
        )
        await it.settled()
        steps = await explained(it)
        believed = {kind} if kind in BY_CALLER else set()
        assert {step.decision for step in steps} == {DecisionKind.ONLY} | believed
        told = await web.call("mesh", "trace", {"id": trace_id.hex(), "format": "explain"})
        for line in explanation_lines(msgspec.convert(told, Explanation), 80):
            assert to_text(line).isprintable()
        drawn = await it.gateway.traces.text(trace_id.hex())
        assert all(line.isprintable() for line in drawn.splitlines())
