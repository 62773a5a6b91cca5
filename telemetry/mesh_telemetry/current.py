"""The OpenTelemetry context of a served call, and what a call made in it continues.

Few calls ask for their span, and the asking is done by libraries that know nothing of the mesh. So
a served call gets a :class:`CallContext`, which costs a third of a microsecond and makes its span
when it is first looked for. Only the OpenTelemetry API is needed for that, no SDK.

Where it is attached, everything that follows contextvars sees it: the handler, its tasks, and the
threads that it sends work to.
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, create_key, detach, get_current

from mesh_telemetry.callspan import CallSpan

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
    from contextvars import ContextVar

__all__ = [
    "BAGGAGE",
    "TRACESTATE",
    "CallContext",
    "CallSpan",
    "Outgoing",
    "innermost",
    "outgoing",
    "serving",
]

BAGGAGE = "baggage"
"""Where a call's metadata carries W3C baggage, as text (https://www.w3.org/TR/baggage/)."""
TRACESTATE = "tracestate"
"""Where it carries W3C trace state (https://www.w3.org/TR/trace-context/#tracestate-header)."""

MAX_TRACESTATE = 8192
"""Characters of a trace state that is continued; a longer one is forgotten, as the SDK does."""

# The API has functions for both, but does not tell under which keys they keep things.
_SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
_BAGGAGE_KEY = next(iter(baggage.set_baggage("name", "value", Context())))
_CALL_KEY = create_key("mesh-call")
_KEYS = frozenset((_SPAN_KEY, _BAGGAGE_KEY, _CALL_KEY))

_baggage = W3CBaggagePropagator()
_making = threading.RLock()
"""Reentrant: a destructor that runs meanwhile may log, and handlers of logs look for the span."""


class CallContext(Context):
    """The OpenTelemetry context that a served call begins with.

    Attach one to each call's own :class:`contextvars.Context`, and :meth:`finish` it with the call.

    Args:
        trace_id: 16 bytes.
        span_id: The span of the handler, 64 bits.
        flags: W3C trace flags, as they came in. The span records whatever they say; they are for
            those outside, and for the samplers of users' own providers.
        metadata: The call's; W3C text under :data:`BAGGAGE` and :data:`TRACESTATE` counts.

    Attributes:
        span: The call's span, if somebody has looked for it.
    """

    __slots__ = ("_finished", "_flags", "_metadata", "_span_id", "_trace_id", "span")

    def __init__(
        self, trace_id: bytes, span_id: int, flags: int, metadata: Mapping[str, str]
    ) -> None:
        # Once per served call: nothing is parsed or looked up here.
        self._trace_id = trace_id
        self._span_id = span_id
        self._flags = flags
        self._metadata = metadata
        self._finished = False
        self.span: CallSpan | None = None

    def finish(self) -> CallSpan | None:
        """The call has ended: its span, if there is one, records no more. Returns it."""
        self._finished = True
        span = self.span
        if span is not None:
            span.finish()
        return span

    def _fill(self) -> None:
        """Make the span, and read the baggage."""
        metadata = self._metadata
        state = metadata.get(TRACESTATE, "") if metadata else ""
        if len(state) > MAX_TRACESTATE:
            state = ""
        carried: Mapping[str, object] = {}
        # What cannot be read is logged, and handlers of logs may look for the current span, which
        # is being made: let them find none.
        token = attach(Context()) if metadata else None
        try:
            trace_id = int.from_bytes(self._trace_id)
            span = CallSpan(trace_id, self._span_id, self._flags, state)
            if metadata and BAGGAGE in metadata:
                carried = baggage.get_all(_baggage.extract(metadata, Context()))
        finally:
            if token is not None:
                detach(token)
        with _making:
            if self.span is not None:
                return  # another thread was faster
            if carried:
                dict.__setitem__(self, _BAGGAGE_KEY, dict(carried))
            dict.__setitem__(self, _CALL_KEY, span)
            dict.__setitem__(self, _SPAN_KEY, span)
            self.span = span
        if self._finished:
            span.finish()

    # Reading. Contexts are never changed: the API copies them.

    def get(self, key: str, default: Any = None) -> Any:
        """A value; the way that the API takes."""
        if self.span is None and key in _KEYS:
            self._fill()
        return dict.get(self, key, default)

    def copy(self) -> dict[str, object]:
        """All values, as a plain map; the way that the API takes to set another."""
        if self.span is None:
            self._fill()
        return dict.copy(self)

    def __getitem__(self, key: str) -> object:
        if self.span is None:
            self._fill()
        return dict.__getitem__(self, key)

    def __contains__(self, key: object) -> bool:
        if self.span is None:
            self._fill()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        if self.span is None:
            self._fill()
        return dict.__iter__(self)

    def __len__(self) -> int:
        if self.span is None:
            self._fill()
        return dict.__len__(self)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> KeysView[str]:  # type: ignore[override] # dict has a type of its own for it
        """The keys of all values."""
        if self.span is None:
            self._fill()
        return dict.keys(self)

    def items(self) -> ItemsView[str, object]:  # type: ignore[override]
        """All keys and values."""
        if self.span is None:
            self._fill()
        return dict.items(self)

    def values(self) -> ValuesView[object]:  # type: ignore[override]
        """All values."""
        if self.span is None:
            self._fill()
        return dict.values(self)

    def __repr__(self) -> str:
        return f"CallContext({self._trace_id.hex()}, {self._span_id:016x}, {self._flags:02x})"


class Outgoing(NamedTuple):
    """What a call that is made here continues."""

    trace_id: bytes
    """16 bytes; none where there is baggage to carry but no span to continue."""
    span_id: int
    """The span that is the parent of the call's; 0 if that is recorded nowhere."""
    flags: int
    """W3C trace flags."""
    metadata: dict[str, str] | None
    """What to send as metadata instead of what came in: ``baggage`` and ``tracestate``."""


def _context_variable() -> ContextVar[Context] | None:
    """Where OpenTelemetry keeps its current context, if that is in :mod:`contextvars`."""
    probe = Context()
    token = attach(probe)
    try:
        for variable, value in copy_context().items():
            if value is probe:
                return variable
    finally:
        detach(token)
    return None  # `OTEL_PYTHON_CONTEXT` names another way


_variable = _context_variable()
enter: Callable[[CallContext], object] = attach if _variable is None else _variable.set
"""Makes a call's context the current one: once in each context of :mod:`contextvars`, as there is
no way back. A third of what `attach` costs."""


def innermost(trace_id: bytes, span_id: int) -> int:
    """The span that the current code of a served call is in.

    Args:
        trace_id: The call's, 16 bytes.
        span_id: The call's own span.

    Returns:
        The span that users' code made around this, if it is in the same trace and recorded; else
        the call's own, which is not made for the asking.
    """
    context = get_current() if _variable is None else _variable.get(None)
    if type(context) is CallContext or not context:
        return span_id
    span = trace.get_current_span(context)
    told = span.get_span_context()
    if type(span) is trace.NonRecordingSpan or told.trace_id != int.from_bytes(trace_id):
        return span_id
    return told.span_id


def serving() -> CallSpan | None:
    """The own span of the served call that the current code belongs to, made if need be.

    Returns:
        None outside of a call, or where code of the user's has attached a context that it did not
        derive from the current one.
    """
    context = get_current() if _variable is None else _variable.get(None)
    span = context.get(_CALL_KEY) if context is not None else None
    return span if isinstance(span, CallSpan) else None


def outgoing() -> Outgoing | None:
    """What a call made in the current OpenTelemetry context continues.

    Returns:
        None where only the mesh's own context counts: nothing is attached, or it is what the call
        being served began with, whose ``baggage`` and ``tracestate`` then travel on as they came.
        Otherwise the current span, which may be one of the user's, one that came in from elsewhere
        (whatever its flags), or the served call's own with other baggage around it.
    """
    context = get_current() if _variable is None else _variable.get(None)
    if type(context) is CallContext or not context:
        return None
    return _continued(context)


def _continued(context: Context) -> Outgoing:
    span = trace.get_current_span(context)
    told = span.get_span_context()
    carried: dict[str, str] = {}
    _baggage.inject(carried, context)
    if not told.is_valid:
        return Outgoing(b"", 0, 0, carried or None)
    if told.trace_state:
        carried[TRACESTATE] = told.trace_state.to_header()
    trace_id, span_id = told.trace_id.to_bytes(16), told.span_id
    if type(span) is trace.NonRecordingSpan and not told.is_remote:
        # A sampler in this process has dropped it. What it would have been a child of is there.
        call = context.get(_CALL_KEY)
        own = call.get_span_context() if isinstance(call, CallSpan) else None
        span_id = own.span_id if own is not None and own.trace_id == told.trace_id else 0
    return Outgoing(trace_id, span_id, int(told.trace_flags), carried or None)
