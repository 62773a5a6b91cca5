"""One connection's protocol: bytes in, checked frames out; which frames are legal when.

All legality is in one table. An illegal frame raises with the frame, the role and the state named.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.wire import codec
from mesh.wire.frames import CONTINUED, MAX_HEADER, MORE, Kind, Splitter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.limits import Limits


class Role(Enum):
    """Which end of the connection this is."""

    PEER = "peer"
    GATEWAY = "gateway"


class State(Enum):
    """Where the connection is in its life."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


_BOTH_WAYS = {
    Kind.CALL,
    Kind.RESULT,
    Kind.ERROR,
    Kind.CANCEL,
    Kind.HEARTBEAT,
    Kind.GOAWAY,
    Kind.ITEM,
    Kind.END,
    Kind.CREDIT,
}

_LEGAL: dict[tuple[Role, State], frozenset[Kind]] = {
    # What each role may RECEIVE in each state.
    (Role.GATEWAY, State.HANDSHAKE): frozenset({Kind.HELLO}),
    (Role.GATEWAY, State.OPEN): frozenset(
        _BOTH_WAYS | {Kind.REGISTER, Kind.UNREGISTER, Kind.SPANS}
    ),
    (Role.GATEWAY, State.CLOSED): frozenset(),
    (Role.PEER, State.HANDSHAKE): frozenset({Kind.WELCOME, Kind.GOAWAY}),
    (Role.PEER, State.OPEN): frozenset(_BOTH_WAYS | {Kind.KEEP, Kind.EVENT}),
    (Role.PEER, State.CLOSED): frozenset(),
}

_KNOWN = frozenset(int(kind) for kind in Kind)

Frame = tuple[int, int, Any, bytes]
"""kind, flags, header (of the kind's class in `codec`), payload."""


class Connection:
    """The receiving half of one connection, and the state that both halves share.

    Args:
        role: Which end this is.
        limits: Bounds of headers and chunks.
    """

    def __init__(self, role: Role, limits: Limits) -> None:
        self.role = role
        # A gateway adds chain and activity to the headers that it passes on, so that a peer takes
        # whatever a frame can carry: one peer's long header must not cost another its connection.
        max_header = limits.max_header if role is Role.GATEWAY else MAX_HEADER
        self._splitter = Splitter(max_header=max_header, max_payload=limits.max_chunk)
        self._enter(State.HANDSHAKE)

    @property
    def state(self) -> State:
        """Where the connection is in its life."""
        return self._state

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that has not arrived whole."""
        return self._splitter.buffered

    def open(self, *, max_chunk: int | None = None) -> None:
        """The handshake is done.

        Args:
            max_chunk: What WELCOME says a frame's payload may have from now on, in bytes.

        Raises:
            LocalProtocolError: It was done before.
        """
        if self._state is not State.HANDSHAKE:
            raise LocalProtocolError(
                f"{self.role.value} cannot open a connection in state {self._state.value}"
            )
        if max_chunk is not None:
            self._splitter.accept(max_chunk)
        self._enter(State.OPEN)

    def close(self) -> None:
        """Nothing is legal any more."""
        self._enter(State.CLOSED)

    def _enter(self, state: State) -> None:
        self._state = state
        self._legal = frozenset(int(kind) for kind in _LEGAL[self.role, state])

    def receive(self, data: bytes) -> Iterator[Frame]:
        """Yield each whole frame in what arrived, checked; then raise if what follows is malformed.

        Frames of unknown kinds are skipped. The state may be changed between two frames.

        Raises:
            RemoteProtocolError: The bytes break the protocol. The connection is closed and of no
                more use: whatever it receives later raises the same again.
        """
        decoders, faults = codec.decoders, codec.DECODE_FAULTS
        splitter = self._splitter
        try:
            for kind, flags, packed, payload in splitter.feed(data):
                if kind not in self._legal:
                    self._check_unknown(kind)
                    continue
                if flags:
                    self._check_flags(kind, flags, payload)
                    yield kind, flags, codec.decode(kind, flags, packed), payload
                    continue
                try:
                    header = decoders[kind](packed)
                except faults as fault:
                    raise codec.malformed(kind, fault) from fault
                yield kind, flags, header, payload
        except RemoteProtocolError as fault:
            splitter.fail(fault)
        if splitter.fault is not None:
            self.close()
            raise splitter.fault

    def _check_unknown(self, kind: int) -> None:
        if kind in _KNOWN:
            accepted = sorted(legal.name for legal in _LEGAL[self.role, self._state])
            raise RemoteProtocolError(
                f"{Kind(kind).name} is not allowed: {self.role.value} in state "
                f"{self._state.value} accepts {', '.join(accepted) or 'nothing'}"
            )

    def _check_flags(self, kind: int, flags: int, payload: bytes) -> None:
        if not flags & (MORE | CONTINUED):
            return  # a flag of a later version
        if kind not in codec.CHUNKED_KINDS:
            raise RemoteProtocolError(f"{Kind(kind).name} cannot be continued over several frames")
        if flags & MORE and not payload:
            # Else a message could go on for ever without growing.
            raise RemoteProtocolError(
                f"{Kind(kind).name} announces more and carries nothing: an empty chunk must be last"
            )
