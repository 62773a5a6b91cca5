"""What a seed draws: the mesh, its limits and weather, the trees of calls, the faults."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mesh.limits import Limits

if TYPE_CHECKING:
    import random

Finish = Literal[
    "value", "large", "huge", "error", "deadline", "exception", "group", "unencodable", "hang",
    "stubborn", "rethrow",
]  # fmt: skip
Mode = Literal["timeout", "default", "scope", "both", "cancel"]
Target = Literal[
    "served", "no_service", "no_method", "typed", "bad_params", "huge_params", "fickle"
]

FAULTS = (
    "cut", "kill", "leave", "gateway_kill", "gateway_drain", "stall", "silence", "register",
)  # fmt: skip
METHODS = ("m0", "m1", "m2")
FICKLE = "fickle"
"""A method that is registered and unregistered while the mesh runs."""
TYPED = "typed"
"""A method that takes an int and is sent something else."""


@dataclass(slots=True, eq=False)
class Node:
    """One planned call: where it goes, how it is placed, and what its handler does."""

    tag: int
    service: str
    method: str
    target: Target
    mode: Mode
    timeout: float
    scope: float
    pad: int
    steps: list[Step] = field(default_factory=list)
    finish: Finish = "value"
    reply_pad: int = 0
    wants_int: bool = False
    idempotent: bool = False
    activity: str | None = None
    stubborn_for: float = 0.0

    @property
    def name(self) -> str:
        """The fully qualified method."""
        return f"{self.service}.{self.method}"


@dataclass(slots=True, eq=False)
class Step:
    """One thing that a handler does."""

    kind: Literal["sleep", "calls", "together", "detached", "orphan"]
    seconds: float = 0.0
    nodes: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """All of one seed's world that is known ahead."""

    seed: int
    limits: Limits
    services: dict[str, int]
    callers: int
    latency: tuple[float, float]
    capacity: int
    fragments: bool
    faults: list[tuple[float, str]]
    entries: list[tuple[float, Node]]
    early: bool
    is_tcp: bool

    @property
    def kinds(self) -> set[str]:
        """The kinds of faults that will happen."""
        return {kind for _, kind in self.faults}


def draw(seed: int, rng: random.Random) -> Plan:
    """Everything that the seed says about its world before it runs."""
    services = {f"s{index}": rng.randint(1, 3) for index in range(rng.randint(2, 4))}
    limits = _draw_limits(rng)
    duration = rng.uniform(2.0, 6.0)
    calm = rng.random() < 0.3
    kinds = [] if calm else rng.sample(FAULTS, rng.randint(1, 4))
    faults = sorted(
        (rng.uniform(0.2, duration), kind) for kind in kinds for _ in range(rng.randint(1, 3))
    )
    trees = _Trees(rng, list(services), limits)
    entries = [(rng.uniform(0.0, duration), trees.entry()) for _ in range(rng.randint(8, 24))]
    if rng.random() < 0.25:  # a burst, so that limits of number are hit
        at = rng.uniform(0.2, duration)
        entries += [(at, trees.entry()) for _ in range(rng.randint(5, 15))]
    slow = rng.choice((0.0005, 0.005, 0.03))
    return Plan(
        seed=seed,
        limits=limits,
        services=services,
        callers=rng.randint(1, 2),
        latency=(slow / 3, slow),
        capacity=rng.choice((64, 256, 1024)) * 1024,
        fragments=rng.random() < 0.4,
        faults=faults,
        entries=sorted(entries, key=lambda entry: (entry[0], entry[1].tag)),
        early=rng.random() < 0.3,
        is_tcp="silence" in kinds or rng.random() < 0.3,
    )


def _draw_limits(rng: random.Random) -> Limits:
    small = {kind for kind in ("message", "outbox", "load", "waiting", "assembly", "depth")
             if rng.random() < 0.15}  # fmt: skip
    chunk = rng.choice((512, 2048, 64 * 1024))
    return Limits(
        call_timeout=rng.uniform(1.5, 4.0),
        max_depth=rng.randint(2, 4) if "depth" in small else 16,
        max_visits=rng.choice((1, 2, 3, 3, 3, 3)),
        max_message=rng.randint(2, 8) * chunk if "message" in small else 16 * 1024 * 1024,
        max_chunk=chunk,
        max_outbox=rng.randint(4, 40) * 1024 if "outbox" in small else 32 * 1024 * 1024,
        max_in_flight=rng.randint(1, 3) if "load" in small else 1000,
        max_waiting=rng.randint(1, 2) if "waiting" in small else 1000,
        max_assembly=rng.randint(2, 4) * chunk if "assembly" in small else 256 * 1024 * 1024,
        handshake=rng.uniform(1.0, 3.0),
        heartbeat=rng.uniform(0.4, 2.0),
        reconnect_first=rng.uniform(0.02, 0.1),
        reconnect_longest=rng.uniform(0.2, 1.0),
        service_wait=rng.uniform(0.3, 2.0),
        service_memory=rng.uniform(0.5, 5.0),
        drain=rng.uniform(0.3, 2.0),
    )


class _Trees:
    """Draws calls and what their handlers do, down to the leaves."""

    def __init__(self, rng: random.Random, services: list[str], limits: Limits) -> None:
        self._rng = rng
        self._services = services
        self._limits = limits
        self._tags = itertools.count(1)
        self._room = 0

    def entry(self) -> Node:
        """One tree of nested calls."""
        rng = self._rng
        self._room = rng.randint(1, 9)
        if rng.random() < 0.08:
            return self._chain(rng.randint(3, 7))
        node = self._node(1)
        if rng.random() < 0.3:
            node.activity = f"activity-{node.tag}"
        return node

    def _chain(self, length: int) -> Node:
        """Calls straight down, by few methods: what meets the bounds of depth and visits."""
        rng = self._rng
        names = [
            (rng.choice(self._services), rng.choice(METHODS)) for _ in range(rng.randint(1, 2))
        ]
        top = last = self._plain(*rng.choice(names))
        for _ in range(length):
            below = self._plain(*rng.choice(names))
            last.steps.append(Step("calls", nodes=[below]))
            last.finish = "rethrow"
            last = below
        return top

    def _plain(self, service: str, method: str) -> Node:
        return Node(next(self._tags), service, method, "served", "timeout", 5.0, 5.0, 0)

    def _node(self, depth: int) -> Node:
        rng = self._rng
        self._room -= 1
        service, method = rng.choice(self._services), rng.choice(METHODS)
        target: Target = "served"
        if rng.random() < 0.16:
            target = rng.choice(
                ("no_service", "no_method", "typed", "bad_params", "huge_params", "fickle")
            )
        if target == "no_service":
            service = "nobody"
        elif target in {"no_method", "typed", "fickle"}:
            method = {"no_method": "nothing", "typed": TYPED, "fickle": FICKLE}[target]
        node = Node(
            tag=next(self._tags),
            service=service,
            method=method,
            target=target,
            mode=rng.choices(("timeout", "default", "scope", "both", "cancel"), (5, 2, 2, 1, 1))[0],
            timeout=rng.choice((rng.uniform(0.0, 0.2), rng.uniform(0.2, 3.0), rng.uniform(3, 5))),
            scope=rng.choice((rng.uniform(0.0, 0.2), rng.uniform(0.2, 4.0))),
            pad=self._size(),
            reply_pad=0,
            wants_int=rng.random() < 0.02,
            idempotent=rng.random() < 0.3,
        )
        if target == "huge_params":
            node.pad = self._limits.max_message + 1 if self._limits.max_message < 2**20 else 0
        self._script(node, depth)
        return node

    def _size(self) -> int:
        """Mostly nothing, at times a few chunks."""
        rng, chunk = self._rng, self._limits.max_chunk
        if rng.random() < 0.85:
            return rng.randint(0, 200)
        return rng.randint(chunk // 2, chunk * (4 if chunk < 10_000 else 2))

    def _script(self, node: Node, depth: int) -> None:
        rng = self._rng
        if rng.random() < 0.6:
            longest = rng.choice((0.01, 0.1, 0.1, 0.8))
            node.steps.append(Step("sleep", rng.uniform(0, longest)))
        while self._room > 0 and depth < 6 and rng.random() < 0.55:
            kind = rng.choices(("calls", "together", "detached", "orphan"), (6, 3, 1, 1))[0]
            count = 1 if kind in {"detached", "orphan"} else rng.randint(1, 3)
            nodes = [self._node(depth + 1) for _ in range(count)]
            node.steps.append(Step(kind, rng.uniform(0, 0.3), nodes))  # type: ignore[arg-type]
        if rng.random() < 0.2:
            node.steps.append(Step("sleep", rng.uniform(0, 0.2)))
        node.finish = rng.choices(
            ("value", "large", "huge", "error", "deadline", "exception", "group", "unencodable",
             "hang", "stubborn", "rethrow"),
            (50, 8, 2, 8, 3, 6, 3, 3, 5, 4, 8),
        )[0]  # fmt: skip
        chunk = self._limits.max_chunk
        if node.finish == "large":
            node.reply_pad = rng.randint(chunk, chunk * (6 if chunk < 10_000 else 2))
        elif node.finish == "huge":
            most = self._limits.max_message
            node.reply_pad = most + rng.randint(1, 1000) if most < 2**20 else 10
        elif node.finish == "stubborn":
            node.stubborn_for = rng.uniform(0.05, 1.0)
