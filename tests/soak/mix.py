"""The mix: which kinds of calls there are, how often each is made, and how each may end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mesh.errors import Reason

if TYPE_CHECKING:
    import random

KIB = 1024
PLANNED = "PLANNED"
"""The reason that handlers give which fail on purpose."""

INSTANCES = {"front": 2, "middle": 1, "work": 2}
"""The services, and how many processes serve each."""
TLS_PEERS = frozenset({"work-2", "caller-2"})
"""The processes that reach their gateway over TLS; the others use its Unix socket."""

DISTURBED = frozenset(
    {
        Reason.CONNECTION_LOST,
        Reason.GATEWAY_UNREACHABLE,
        Reason.GATEWAY_DRAINING,
        Reason.NO_INSTANCE,
        Reason.SERVICE_NOT_FOUND,
        Reason.METHOD_NOT_FOUND,
        Reason.PARENT_ENDED,
        Reason.HANDLER_CANCELLED,
    }
)
"""What calls may fail with while something is killed or stopped, and until it is back.

A passed deadline is none of it: the timeouts of those kinds that are not to expire are longer than
anything that is done to them, and an answer that was lost shows as nothing else."""


class Kind(NamedTuple):
    """One kind of call.

    Attributes:
        weight: How often it is drawn, beside the others.
        path: The services and methods of the chain, the entry call's first.
        timeout: Seconds, from the least to the most.
        request: Bytes of payload that are sent, from the least to the most.
        reply: Bytes that are asked for, likewise; 0 is an echo of what was sent.
        pause: Seconds that the last handler takes.
        ends: How it may end where nothing is disturbed: ``ok``, ``scope``, ``cancelled`` or the
            reason of its error.
        give_up: Seconds after which the caller cancels it.
        by_scope: Whether its deadline is a trio cancel scope of the caller.
    """

    weight: float
    path: tuple[str, ...] = ("work.echo",)
    timeout: tuple[float, float] = (12.0, 15.0)
    request: tuple[int, int] = (16, 400)
    reply: tuple[int, int] = (0, 0)
    pause: float = 0.0
    ends: frozenset[str] = frozenset({"ok"})
    give_up: float = 0.0
    by_scope: bool = False


_EXPIRES = frozenset({Reason.DEADLINE_EXCEEDED, Reason.PARENT_ENDED, "cancelled", "scope", "ok"})
_SHORT = (0.03, 0.3)
_NESTED = ("front.through", "middle.through")

KINDS: dict[str, Kind] = {
    "short": Kind(40),
    "slow": Kind(8, pause=0.05),
    "thread": Kind(8, ("work.thread",), pause=0.003),
    "long": Kind(2, request=(64 * KIB, 512 * KIB)),
    "longest": Kind(0.3, request=(900 * KIB, 1024 * KIB)),
    "reply": Kind(2, reply=(64 * KIB, 1024 * KIB)),
    "nested": Kind(20, (*_NESTED, "work.echo")),
    "nested-long": Kind(0.5, (*_NESTED, "work.echo"), request=(64 * KIB, 256 * KIB)),
    "expires": Kind(3, timeout=_SHORT, pause=1.5, ends=_EXPIRES),
    "expires-nested": Kind(2, (*_NESTED, "work.echo"), _SHORT, pause=1.5, ends=_EXPIRES),
    "scope": Kind(2, timeout=_SHORT, pause=1.5, ends=_EXPIRES, by_scope=True),
    "cancelled": Kind(3, pause=1.5, ends=frozenset({"cancelled", "ok"}), give_up=0.1),
    "cancelled-nested": Kind(
        2, (*_NESTED, "work.thread"), pause=0.2, give_up=0.05,
        ends=frozenset({"cancelled", "ok", Reason.PARENT_ENDED}),
    ),
    "cancelled-long": Kind(
        0.5, request=(256 * KIB, 1024 * KIB), give_up=0.005, ends=frozenset({"cancelled", "ok"})
    ),
    "fails": Kind(3, ("work.fail",), ends=frozenset({PLANNED})),
    "fails-nested": Kind(1, (*_NESTED, "work.fail"), ends=frozenset({PLANNED})),
    "crashes": Kind(1, ("work.crash",), ends=frozenset({Reason.HANDLER_FAILED})),
    "missing": Kind(1, ("nobody.echo",), ends=frozenset({Reason.SERVICE_NOT_FOUND})),
    # Its second call is made after its first has been answered; a drain stops such work.
    "detached": Kind(4, ("front.later", "work.echo")),
    # Made by nobody's caller, but by the flood; its ends are not told.
    "flood": Kind(0),
}  # fmt: skip

_NAMES = [name for name, kind in KINDS.items() if kind.weight]
_WEIGHTS = [KINDS[name].weight for name in _NAMES]


def draw(randomness: random.Random) -> str:
    """The kind of the next call."""
    return randomness.choices(_NAMES, _WEIGHTS)[0]


def request(kind: Kind, name: str, randomness: random.Random) -> dict[str, Any]:
    """The parameters of an entry call of this kind, its id apart."""
    return {
        "kind": name,
        "payload": randomness.randbytes(randomness.randint(*kind.request)),
        "reply": randomness.randint(*kind.reply),
        "pause": kind.pause,
        "then": list(kind.path[1:]),
    }


def answer_of(params: dict[str, Any]) -> bytes:
    """The payload that a call must be answered with: its own, or one that only its id makes."""
    size: int = params["reply"]
    if not size:
        payload: bytes = params["payload"]
        return payload
    seed = params["id"].encode() + b"/"
    made: bytes = (seed * (size // len(seed) + 1))[:size]
    return made
