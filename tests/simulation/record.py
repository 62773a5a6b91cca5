"""What happened in one run, as the callers and the handlers themselves saw it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import trio

if TYPE_CHECKING:
    import mesh
    from tests.simulation.plan import Node

How = Literal["open", "ok", "error", "scope", "cancelled", "closed"]


@dataclass(slots=True, eq=False)
class Placed:
    """One call as its caller saw it.

    Attributes:
        due: The moment when it must have ended, the mesh's grace apart.
        earliest: The moment before which no deadline of it can have passed anywhere.
        how: How it ended; ``scope`` is the caller's own, ``cancelled`` one around it.
        disturbed_until: Until when, as known at its end, faults or the mesh's start excuse much.
        lossy_until: The same for faults that lose what is under way; a goodbye loses nothing.
    """

    node: Node
    host: Any
    parent: Execution | None
    detached: bool
    started: float
    due: float
    earliest: float
    by_scope: bool
    ended: float = 0.0
    how: How = "open"
    value: Any = None
    error: mesh.CallError | None = None
    disturbed_until: float = 0.0
    lossy_until: float = 0.0


@dataclass(slots=True, eq=False)
class Execution:
    """One run of a handler, as the handler itself saw it."""

    node: Node
    host: Any
    call: mesh.Call
    started: float
    ended: float = 0.0
    how: Literal["running", "returned", "raised", "cancelled"] = "running"
    value: Any = None
    error: BaseException | None = None
    shielded_until: float = 0.0


@dataclass(slots=True)
class Chronicle:
    """Everything seen in one run, in order.

    Attributes:
        events: When and what, for people and for the hash that two equal runs share.
        seen: How often each situation came up.
        complaints: What must not have happened.
    """

    events: list[tuple[float, str]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    placed: dict[int, Placed] = field(default_factory=dict)
    executions: dict[int, list[Execution]] = field(default_factory=dict)
    open_calls: int = 0
    open_executions: int = 0

    def note(self, what: str) -> None:
        """Something happened."""
        self.events.append((trio.current_time(), what))

    def complain(self, what: str) -> None:
        """Something happened that must not happen."""
        self.note(f"COMPLAINT {what}")
        self.complaints.append(what)

    def digest(self) -> str:
        """The same for equal runs, and practically only for these."""
        text = "\n".join(f"{at!r} {what}" for at, what in self.events)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def was_local(self, placed: Placed) -> bool:
        """Whether the call failed before it left its caller."""
        error, tag = placed.error, placed.node.tag
        if error is None or error.maybe_executed or tag in self.executions:
            return False
        if error.reason == "UNENCODABLE":
            return True
        if error.reason == "MESSAGE_TOO_LARGE":
            return error.message.startswith("parameters of")
        if error.reason == "DEADLINE_EXCEEDED":
            return "when the caller" in error.message
        return error.reason in {"GATEWAY_UNREACHABLE", "CONNECTION_LOST"}

    def was_undecodable(self, placed: Placed) -> bool:
        """Whether the caller could not read what its handler truly returned."""
        run = self.execution(placed.node.tag)
        undecodable = placed.error is not None and placed.error.reason == "UNDECODABLE"
        return undecodable and run is not None and run.how == "returned"

    # Calls, seen from both ends.

    def begins(self, placed: Placed) -> None:
        """A call is about to be made."""
        if placed.node.tag in self.placed:
            self.complain(f"call {placed.node.tag} was placed twice")
        self.placed[placed.node.tag] = placed
        self.open_calls += 1
        limits = placed.host.world.limits
        if limits.max_chunk < placed.node.pad <= limits.max_message:
            self.seen["chunked call"] += 1
        above = f" inside {placed.parent.node.tag}" if placed.parent else ""
        self.note(f"{placed.host.id} calls {placed.node.tag} {placed.node.name}{above}")

    def ends(self, placed: Placed, how: How) -> None:
        """A call has ended for its caller."""
        if placed.how != "open":
            self.complain(f"call {placed.node.tag} ended twice: {placed.how}, then {how}")
        placed.how, placed.ended = how, trio.current_time()
        placed.disturbed_until = placed.host.world.disturbed_until
        placed.lossy_until = placed.host.world.lossy_until
        self.open_calls -= 1
        if how == "ok" and placed.node.reply_pad > placed.host.world.limits.max_chunk:
            self.seen["chunked answer"] += 1
        error = placed.error
        what = f"{error.code}/{error.reason}" if error is not None else ""
        self.seen[f"outcome {how}"] += 1
        if error is not None:
            self.seen[f"code {error.code}"] += 1
            self.seen[f"reason {error.reason}"] += 1
        self.note(f"{placed.host.id} ended {placed.node.tag}: {how} {what}")

    def starts(self, execution: Execution) -> None:
        """A handler begins."""
        tag = execution.node.tag
        self.executions.setdefault(tag, []).append(execution)
        self.open_executions += 1
        self.note(f"{execution.host.id} runs {tag} as {execution.call.call_id}")

    def stops(self, execution: Execution, how: Literal["returned", "raised", "cancelled"]) -> None:
        """A handler has ended."""
        execution.how, execution.ended = how, trio.current_time()
        self.open_executions -= 1
        self.seen[f"handler {how}"] += 1
        self.note(f"{execution.host.id} ran {execution.node.tag}: {how}")

    def execution(self, tag: int) -> Execution | None:
        """The run of a call's handler, if there was one."""
        found = self.executions.get(tag)
        return found[0] if found else None
