"""How a peer is welcomed: whose gateway this is, and what rules the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import _version
from mesh.errors import AddressError
from mesh.transport import Address
from mesh.wire import codec
from mesh.wire.codec import PROTOCOL_VERSION

if TYPE_CHECKING:
    from mesh.gateway.core import Core
    from mesh.transport import Link


def make_welcome(core: Core, session_id: int, *, tracebacks: bool) -> codec.Welcome:
    """The answer to a HELLO."""
    limits = core.limits
    return codec.Welcome(
        protocol_version=PROTOCOL_VERSION,
        gateway=core.instance,
        session_id=session_id,
        metadata={},
        limits={
            "call_timeout_us": int(limits.call_timeout * 1e6),
            "drain_us": int(limits.drain * 1e6),
            "heartbeat_us": int(limits.heartbeat * 1e6),
            "max_chunk": limits.max_chunk,
            "max_header": limits.max_header,
            "max_in_flight": limits.max_in_flight,
            "max_message": limits.max_message,
            "max_requires": codec.MAX_REQUIRES,
            "max_schema": limits.max_schema,
            "service_wait_us": int(limits.service_wait * 1e6),
            "silent_after": limits.silent_after,
        },
        features=[
            *(["tracebacks"] if tracebacks else []),
            *([codec.TRACES_FEATURE] if core.tracing is not None else []),
        ],
        implementation=f"spanmesh/{_version.__version__}",
    )


def may_see_tracebacks(link: Link) -> bool:
    """Whether a peer is on this machine, and may be told where in its code a handler failed."""
    if not link.is_tcp:
        return True
    try:
        return Address.parse(link.address).is_loopback
    except AddressError:
        return False
