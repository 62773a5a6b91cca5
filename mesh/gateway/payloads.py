"""What calls carry, held for a moment while somebody taps it.

Nothing of this is there until a tap asks for payloads. From then on each frame that a peer sends is
looked at on its way; of calls that fit such a tap, and whose contract allows it, the bytes are kept
as they came. They are decoded, and their secrets left out, only when the tap asks for them. With
the last such tap, all of it goes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.gateway.permits import Contract
from mesh.gateway.previews import NOTHING, preview
from mesh.payload import decode
from mesh.units import KIB, MIB
from mesh.wire import codec
from mesh.wire.codec import JSON, MSGPACK, RAW
from mesh.wire.frames import CONTINUED, MORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh.gateway.calls import InFlight
    from mesh.gateway.core import Core
    from mesh.gateway.filters import TapFilters
    from mesh.gateway.redacting import Kinds
    from mesh.gateway.registry import Registration
    from mesh.gateway.session import Session
    from mesh.wire.connection import Frame
    from mesh_telemetry import Record

MOST_HELD = 10_000
"""Calls whose payloads are held: as many as are recorded."""
MOST_BYTES = 16 * MIB
"""What these may take."""
MOST_A_SECOND = 500
"""Calls that are held in a second, shared by the taps: to tell one costs ten times its way."""
OVERHEAD = 600
"""Bytes that holding a call costs beside its payloads."""
LONGEST = 64 * KIB
"""Bytes of a payload that is held, since decoding a longer one would hold up the gateway."""
PAGE = 1 * MIB
"""Characters that one answer to a tap may have of payloads."""
_MOST_CONTRACTS = 100
_ENCODINGS = {MSGPACK: "msgpack", JSON: "json", RAW: "raw"}

NOT_ALLOWED, NOT_HELD, REFUSED, TOO_MUCH = "NOT_ALLOWED", "NOT_HELD", "REFUSED", "TOO_MUCH"
"""Why the payloads of a call are not told."""


class TappedValue(msgspec.Struct, frozen=True, kw_only=True):
    """What a call carried, one way."""

    text: str
    """Compact JSON without its secrets; empty where it is none of ``whole`` and ``cut``."""
    state: str
    """``whole``; ``cut`` after 2,048 characters, or where too much would have to be looked at; or
    why it is not told: ``chunked``, as it came in several frames, ``long``, ``raw`` or
    ``undecodable``."""
    encoding: str
    """``msgpack``, ``json`` or ``raw``."""
    size: int
    """Bytes as they travelled."""


class TappedPayloads(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call carried; what there was none of is left out."""

    withheld: str = ""
    """Why nothing of it is told: ``NOT_ALLOWED`` by the method's contract; ``NOT_HELD``, as it came
    before the tap, does not fit its filters, made way, or was one of too many in a second;
    ``REFUSED``, or over before any instance had it; ``TOO_MUCH`` for one answer."""
    params: TappedValue | None = None
    metadata: str = ""
    """What the caller sent beside the parameters, as they are told."""
    answer: TappedValue | None = None
    """The result; of a failure, the details that the instance gave."""
    answer_metadata: str = ""


class _Message(msgspec.Struct):
    """One way of a call, as it came."""

    encoding: int
    size: int
    payload: bytes | None
    """None where it came in several frames, or is too long to be decoded."""
    metadata: dict[str, str] | None
    chunked: bool


class _Held(msgspec.Struct):
    """What is held of a call."""

    instance: str
    """The process whose contract it is; empty while it waits for one."""
    contract: Contract | None
    params: _Message
    answer: _Message | None = None
    told: TappedPayloads | None = None
    """What the first tap was told of it, for the others."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        size = OVERHEAD + _size_of(self.params)
        if self.answer is not None:
            size += _size_of(self.answer)
        return size + (length_of(self.told) if self.told is not None else 0)


class _Wanted(msgspec.Struct):
    """What one tap is told payloads of."""

    filters: TapFilters
    room: float
    """Calls that may be held for it now."""


class HeldPayloads:
    """What calls carry that the taps of one gateway are told, bounded by number and by bytes.

    Args:
        core: The gateway.
        most: Calls.
        most_bytes: What these may take; the oldest make way.

    Attributes:
        size: Bytes held.
    """

    def __init__(self, core: Core, most: int = MOST_HELD, most_bytes: int = MOST_BYTES) -> None:
        self._core, self._most, self._most_bytes = core, most, most_bytes
        self._wanted: dict[str, _Wanted] = {}
        self._at = core.clock()
        self._held: dict[int, _Held] = {}
        self._read = functools.lru_cache(_MOST_CONTRACTS)(Contract)
        self.size = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._held

    def want(self, place: str, filters: TapFilters) -> None:
        """The tap with this place is told payloads, for as long as it has the place."""
        if (known := self._wanted.get(place)) is not None:
            known.filters = filters
        else:
            self._wanted[place] = _Wanted(filters, MOST_A_SECOND / (len(self._wanted) + 1))

    def prune(self) -> None:
        """Forget taps that have lost their places; without any, nothing is held or looked at."""
        now, taps = self._core.clock(), self._core.taps
        for place in [one for one in self._wanted if taps.get(one, 0.0) <= now]:
            del self._wanted[place]
        if not self._wanted:
            self._core.payloads = None
            return
        share = MOST_A_SECOND / len(self._wanted)
        for wanted in self._wanted.values():
            wanted.room = min(wanted.room + (now - self._at) * share, share)
        self._at = now

    # On the way of calls, as long as somebody taps.

    def watch(self, session: Session, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames that a peer has sent, unchanged.

        Calls are looked at once they are routed, answers while their calls are in the table.
        """
        self.prune()
        for frame in frames:
            kind, flags, header, payload = frame
            if kind == 5:  # CALL
                yield frame
                entry = session.calls.get(header.call_id)
                if entry is not None:
                    self._called(entry, header, flags, payload)
                continue
            if kind in {6, 7}:  # RESULT, ERROR
                entry = session.serving.get(header.call_id)
                if entry is not None and entry.id in self._held:
                    self._answered(session, entry, header, flags, payload)
            yield frame

    def _called(self, entry: InFlight, header: codec.Header, flags: int, payload: bytes) -> None:
        if flags & CONTINUED:
            if (held := self._held.get(entry.id)) is not None:
                held.params.size += len(payload)
            return
        concerned = [
            wanted
            for wanted in self._wanted.values()
            if wanted.room >= 1 and _concerns(wanted.filters, entry)
        ]
        if not concerned:
            return
        callee, contract = entry.callee, None
        if callee is not None:
            contract = self._contract(callee, entry.service)
            if contract is None or not contract.allows(entry.method):
                return
        for wanted in concerned:
            wanted.room -= 1
        instance = callee.process_id if callee is not None else ""
        held = _Held(instance, contract, _message(header, flags, payload))
        self._held[entry.id] = held
        self.size += held.size
        self._make_room()

    def _answered(
        self, callee: Session, entry: InFlight, header: codec.Header, flags: int, payload: bytes
    ) -> None:
        held = self._held[entry.id]
        if flags & CONTINUED:
            if held.answer is not None:
                held.answer.size += len(payload)
            return
        contract = self._contract(callee, entry.service)
        if contract is None or not contract.allows(entry.method):
            self.size -= self._held.pop(entry.id).size
            return
        self.size -= held.size
        held.instance, held.contract = callee.process_id, contract
        held.answer = _message(header, flags, payload)
        self.size += held.size
        self._make_room()

    def _make_room(self) -> None:
        while len(self._held) > self._most or self.size > self._most_bytes:
            self.size -= self._held.pop(next(iter(self._held))).size

    def _contract(self, callee: Session, service: str) -> Contract | None:
        """What an instance has registered of its contract for a service."""
        known = self._core.registry.services.get(service)
        if known is None:
            return None
        how: Registration | None = known.instances.get(callee) or known.draining.get(callee)
        schema = how.schema.whole if how is not None else b""
        return self._read(schema) if schema else None

    # For taps.

    def tell(self, row: Record, room: int) -> TappedPayloads:
        """What an ended call carried, without secrets.

        Args:
            row: The call.
            room: Characters that it may take; with none left, nothing is told.
        """
        if not row.instance:
            return TappedPayloads(withheld=REFUSED)
        held = self._held.get(row.call_id)
        if held is None or held.contract is None or held.instance != row.instance:
            return TappedPayloads(withheld=NOT_ALLOWED if self._is_forbidden(row) else NOT_HELD)
        if room <= 0:
            return TappedPayloads(withheld=TOO_MUCH)
        if held.told is None:
            self.size -= held.size
            held.told = _tell_all(held, held.contract, row)
            self.size += held.size
        return held.told

    def _is_forbidden(self, row: Record) -> bool:
        """Whether the instance that served a call does not allow it; unknown once it has gone."""
        known = self._core.registry.services.get(row.service)
        for session in (*known.instances, *known.draining) if known is not None else ():
            if session.process_id == row.instance:
                contract = self._contract(session, row.service)
                return contract is None or not contract.allows(row.method)
        return False


def length_of(told: TappedPayloads) -> int:
    """Characters that payloads take in an answer."""
    values = (one.text for one in (told.params, told.answer) if one is not None)
    return sum(map(len, (*values, told.metadata, told.answer_metadata)))


def _concerns(wanted: TapFilters, entry: InFlight) -> bool:
    """Whether a call may fit a tap once it has ended; see :func:`mesh.gateway.sifting.fitting`."""
    return (
        (not wanted.service or wanted.service == entry.service)
        and (not wanted.method or wanted.method in {entry.method, entry.name})
        and (not wanted.caller or wanted.caller == entry.caller.name)
        and (not wanted.activity_id or wanted.activity_id == entry.activity_id)
    )


def _message(header: Any, flags: int, payload: bytes) -> _Message:
    """What one frame says of a message, as far as it is to be held."""
    chunked = bool(flags & MORE)
    kept = None if chunked or len(payload) > LONGEST else payload
    metadata = None if isinstance(header, codec.Error) else header.metadata
    return _Message(header.encoding, len(payload), kept, metadata, chunked)


def _size_of(message: _Message) -> int:
    size = len(message.payload or b"")
    if message.metadata:
        size += sum(len(key) + len(value) + 200 for key, value in message.metadata.items())
    return size


def _tell_all(held: _Held, contract: Contract, row: Record) -> TappedPayloads:
    params, answer, method = held.params, held.answer, row.method
    told = TappedPayloads(
        params=_tell(params, contract.params(method)), metadata=_tell_metadata(params)
    )
    if answer is None:
        return told
    kinds = contract.answer(method, row.code, row.reason)
    return msgspec.structs.replace(
        told,
        # A method that makes a token may answer with nothing else.
        answer=_tell(answer, kinds, "" if row.code else method),
        answer_metadata=_tell_metadata(answer),
    )


def _tell(message: _Message, kinds: Kinds, name: str = "") -> TappedValue:
    text, state = "", "whole"
    if message.payload is None:
        state = "chunked" if message.chunked else "long"
    elif message.encoding == RAW:
        state = "raw"
    elif message.payload:
        try:
            told = preview(decode(message.payload, message.encoding), kinds, name)
        except Exception:  # noqa: BLE001 - whatever a peer has sent, it ends no tap
            state = "undecodable"
        else:
            text, state = told.text, "whole" if told.whole else "cut"
    encoding = _ENCODINGS.get(message.encoding, str(message.encoding))
    return TappedValue(text=text, state=state, encoding=encoding, size=message.size)


def _tell_metadata(message: _Message) -> str:
    return preview(message.metadata, NOTHING).text if message.metadata else ""
