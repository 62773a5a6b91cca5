"""One call, as its caller sees it: noted before it is sent, and noted again when it has ended."""

from __future__ import annotations

import time
import types
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

import mesh
from tests.soak.journal import Begun, Connected, Ended, Executed, Holds, Journal
from tests.soak.mix import KINDS, answer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from pathlib import Path

TICK = 0.05
"""Seconds between two looks at the loop's own lag."""
REMEMBERED = 100
"""Such looks that a lag is remembered for."""


HOLDS_EVERY = 20
"""Such looks between two notes of what the process holds."""


class Journey:
    """Follows one call, to know whether it was sent, and where.

    A client counts its calls as it hands them to a connection, within one step of the calling task.
    So a step in which that count rose has sent this call and no other.

    Attributes:
        gateway: The gateway to whose connection it was handed; empty before.
    """

    def __init__(self, client: mesh.Client) -> None:
        self.gateway = ""
        self._uplink = client._uplink

    @types.coroutine
    def follow(self, call: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Await the call; returns and raises what it does."""
        step: Callable[[], Any] = partial(call.send, None)
        while True:
            before = self._uplink.outgoing.last_id
            try:
                trap = step()
            except StopIteration as end:
                return end.value
            finally:
                if self._uplink.outgoing.last_id > before:
                    self.gateway = self._uplink.gateway
            try:
                step = partial(call.send, (yield trap))
            except BaseException as error:  # noqa: BLE001 - it is the call's
                step = partial(call.throw, error)


class Caller:
    """Makes the calls of one process and keeps its journal.

    Attributes:
        calls: How many have begun.
    """

    def __init__(self, client: mesh.Client, folder: Path, life: str) -> None:
        self.client = client
        self.journal = Journal(folder, life)
        self.calls = 0
        self._lags = [0.0] * REMEMBERED

    async def watch(self) -> None:
        """Measure the loop's lag, and note every further gateway and what the process holds."""
        gateway, index = "", 0
        due = trio.current_time()
        while True:
            due = max(due + TICK, trio.current_time())
            await trio.sleep_until(due)
            index = (index + 1) % REMEMBERED
            self._lags[index] = trio.current_time() - due
            uplink = self.client._uplink
            if uplink.link is not None and uplink.gateway != gateway:
                gateway = uplink.gateway
                self.journal.write(Connected(gateway))
            if index % HOLDS_EVERY == 0:
                self.journal.write(self._holds())

    def _holds(self) -> Holds:
        uplink = self.client._uplink
        outgoing, older = uplink.outgoing, uplink.records._older
        return Holds(
            time.monotonic(),
            len(outgoing.pending) + len(outgoing._late_word),
            len(uplink.dispatcher.serving),
            outgoing.assembler.held,
            older[0].age if older else 0.0,
        )

    async def call(self, target: str, params: dict[str, Any], timeout: float) -> Any:
        """Make a call of the mix, and return what came; fails as the call does.

        Args:
            target: The service and the method.
            params: What :func:`tests.soak.mix.request` made; the id is added here.
            timeout: Seconds; the deadline of the call being served may come first.
        """
        self.calls += 1
        number = self.calls
        params = {**params, "id": f"{self.journal.life}:{number}"}
        expected = zlib.crc32(answer_of(params))
        parent = mesh.current_call()
        is_detached = params.get("detached", False)
        allowed = timeout if parent is None or is_detached else min(timeout, parent.remaining)
        begun = time.monotonic()
        self.journal.write(
            Begun(number, params["kind"], begun, begun + allowed, expected,
                  len(params["payload"]), parent is not None, target)
        )  # fmt: skip
        how, maybe, code, reason, answer, checksum, size = "broken", True, "-", "-", "-", 0, 0
        service, method = target.split(".")
        journey = Journey(self.client)
        try:
            if KINDS[params["kind"]].by_scope and parent is None:
                with trio.fail_after(timeout):
                    result = await journey.follow(self.client.call(service, method, params))
            else:
                result = await journey.follow(
                    self.client.call(service, method, params, timeout=timeout)
                )
            how, answer = "ok", result["id"]
            checksum, size = zlib.crc32(result["payload"]), len(result["payload"])
        except mesh.CallError as error:
            how, maybe = "error", error.maybe_executed
            code, reason, answer = str(error.code), error.reason, error.details.get("id", "-")
            raise
        except trio.TooSlowError:
            how = "scope"
            raise
        except trio.Cancelled:
            how = "cancelled"
            raise
        except BaseException as error:
            reason = repr(error)[:300]
            raise
        finally:
            self.journal.write(
                Ended(number, how, maybe, code, reason, answer, checksum, time.monotonic(),
                      max(self._lags), size, journey.gateway)
            )  # fmt: skip
        return result

    async def serve(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer a call, after it has been noted and after the calls that it is to make."""
        self.journal.write(Executed(params["id"]))
        if params["then"]:
            target, *then = params["then"]
            inner = {**params, "then": then, "reply": 0}
            await self.call(target, inner, KINDS[params["kind"]].timeout[1])
        elif params["pause"]:
            await trio.sleep(params["pause"])
        return answered(params)


def answered(params: dict[str, Any]) -> dict[str, Any]:
    """A handler's result."""
    return {"id": params["id"], "payload": answer_of(params)}
