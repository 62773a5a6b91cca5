"""The oracle notices: each test breaks one thing on purpose, and a seed must tell of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mesh.gateway.answers import Answers
from mesh.gateway.endings import Endings
from mesh.gateway.tracing import Tracing
from mesh.service import Dispatcher
from mesh.timers import Timers
from mesh.wire.frames import PREFIX, Kind
from mesh_telemetry import KeptTrace
from mesh_telemetry.peer_records import PeerRecords
from tests.simulation.run import run_seed

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from mesh.gateway.calls import InFlight
    from tests.simulation.network import Wire
    from tests.simulation.world import World

SEEDS = range(40)


def _complaints(prepare: Callable[[World], None] | None = None) -> str:
    """What the oracle says of the first seed that it finds at fault."""
    for seed in SEEDS:
        verdict = run_seed(seed, prepare)
        if verdict.complaints:
            return "\n".join(verdict.complaints)
    return ""


def _frames(data: bytes) -> list[bytes]:
    """The frames in one send; a send of the mesh holds whole frames only."""
    frames: list[bytes] = []
    at = 0
    while at < len(data):
        length = PREFIX.unpack_from(data, at)[0]
        frames.append(data[at : at + 4 + length])
        at += 4 + length
    return frames


def _spoil(kind: Kind, times: int, *, down: bool, every: int = 10) -> Callable[[World], None]:
    """A network that sends some frames of a kind so many times; 0 drops them silently."""

    def prepare(world: World) -> None:
        passed = 0

        def tamper(data: bytes) -> bytes:
            nonlocal passed
            frames: list[bytes] = []
            for frame in _frames(data):
                spoiled = False
                if frame[4] == kind and not frame[5]:
                    passed += 1
                    spoiled = passed % every == 0
                frames += [frame] * (times if spoiled else 1)
            return b"".join(frames)

        def on(wire: Wire) -> None:
            (wire.down if down else wire.up).tamper = tamper

        world.tamper = on

    return prepare


def test_it_has_nothing_to_say_of_a_sound_mesh() -> None:
    assert _complaints() == ""


def test_it_notices_a_network_that_drops_a_result() -> None:
    assert "after its handler returned" in _complaints(_spoil(Kind.RESULT, 0, down=True))


def test_it_notices_a_network_that_drops_a_cancel() -> None:
    assert "its handler ran on" in _complaints(_spoil(Kind.CANCEL, 0, down=True, every=1))


def test_it_notices_a_network_that_delivers_a_call_twice() -> None:
    assert "ran 2 times" in _complaints(_spoil(Kind.CALL, 2, down=True))


def test_it_notices_a_network_that_repeats_a_call_to_the_gateway() -> None:
    assert "does not rise" in _complaints(_spoil(Kind.CALL, 2, down=False))


def test_it_notices_a_gateway_that_loses_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, count = Answers.result, 0

    def losing(self: Answers, *answer: Any) -> None:
        nonlocal count
        count += 1
        if count % 20:
            whole(self, *answer)

    monkeypatch.setattr(Answers, "result", losing)
    assert re.search(r"is left with \d+ abandoned calls", _complaints())


def test_it_notices_a_gateway_that_mixes_answers_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Answers.result
    last = b""

    def mixing(self: Answers, callee: Any, header: Any, flags: int, payload: bytes) -> None:
        nonlocal last
        if not flags and not callee.internal:
            payload, last = last or payload, payload
        whole(self, callee, header, flags, payload)

    monkeypatch.setattr(Answers, "result", mixing)
    assert "returned {" in _complaints()


def test_it_notices_a_gateway_that_forgets_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, count = Endings.end, 0

    def leaking(self: Endings, entry: InFlight, *how: Any, **more: Any) -> str | None:
        nonlocal count
        count += 1
        if count % 30 == 0:
            entry.series.method.in_flight += 1
        return whole(self, entry, *how, **more)

    monkeypatch.setattr(Endings, "end", leaking)
    assert "in-flight on the gauges" in _complaints()


def test_it_notices_a_promise_that_nothing_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Endings.fail

    def denying(self: Endings, *what: Any, **rest: Any) -> None:
        whole(self, *what, **{**rest, "maybe_executed": False})

    monkeypatch.setattr(Endings, "fail", denying)
    assert "claims not to have run" in _complaints()


def test_it_notices_deadlines_that_come_early(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Timers.add

    def hasty(self: Timers, deadline: float, key: int) -> None:
        whole(self, deadline - 0.3, key)

    monkeypatch.setattr(Timers, "add", hasty)
    assert "failed untruly" in _complaints()


def test_it_notices_handlers_that_nobody_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "cancel", lambda *_: None)
    assert "handler" in _complaints()


def test_it_notices_a_crash_in_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(*_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Endings, "cancelled", crashing)
    assert "KeyError: 'a bug'" in _complaints()


def test_it_notices_a_trace_that_is_wrongly_called_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, count = PeerRecords.add, 0

    def forgetful(self: PeerRecords, row: Any) -> None:
        nonlocal count
        count += 1
        if count % 5:
            whole(self, row)

    monkeypatch.setattr(PeerRecords, "add", forgetful)
    monkeypatch.setattr(KeptTrace, "missed", lambda *_: None)
    assert "called complete" in _complaints()


def test_it_notices_a_trace_that_is_never_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, count = Tracing.close, 0

    def leaking(self: Tracing, trace: Any, *what: Any) -> str | None:
        nonlocal count
        count += 1
        if count % 10 == 0:
            trace.open += 1
        return whole(self, trace, *what)

    monkeypatch.setattr(Tracing, "close", leaking)
    assert "calls in flight in its traces" in _complaints()
