"""The spans of a trace as a tree.

Spans come from many machines whose clocks may disagree, and some may never come. So a span whose
parent is not there is hung under the root and marked, unless that parent is one of another program,
in which entry calls were made: each of these is a root. One that by its clock ran wholly outside
its parent is moved into its middle, as Jaeger does it, and says by how much
(https://github.com/jaegertracing/jaeger, ``clock_skew.go``).
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from mesh_telemetry import names
from mesh_telemetry.spans import CLIENT, SERVER

if TYPE_CHECKING:
    from mesh_telemetry.kept_trace import KeptTrace
    from mesh_telemetry.spans import Attributes, Span

HOST_NAME = "host.name"
"""Of a resource; processes on one host have one clock."""
ORDER = attrgetter("order")
"""What siblings are sorted by."""


class Node:
    """A span on its way into the tree. Times are nanoseconds, moved by ``shift``."""

    __slots__ = ("children", "clock", "orphan", "orphans", "process", "resource", "shift", "span")

    def __init__(self, process: str, resource: Attributes, span: Span) -> None:
        self.process = process
        self.resource = resource
        self.span = span
        self.clock = resource.get(HOST_NAME) or process
        self.children: list[Node] = []
        self.orphans: list[Node] = []
        self.orphan = False
        self.shift = 0

    @property
    def start(self) -> int:
        """When it began."""
        return self.span.start + self.shift

    @property
    def end(self) -> int:
        """When it ended."""
        return max(self.start, self.span.end + self.shift)

    @property
    def order(self) -> tuple[int, int]:
        """By start; of those that start together, the longest first."""
        return self.start, -self.end

    @property
    def self_time(self) -> int:
        """Nanoseconds in which none of its children ran."""
        busy, until = 0, self.start
        for child in sorted(self.children, key=ORDER):
            start, end = max(child.start, until), min(child.end, self.end)
            if end > start:
                busy += end - start
                until = end
        return self.end - self.start - busy


def tree(trace: KeptTrace) -> list[Node]:
    """The roots, with everything else below them and moved into its parent where it must be."""
    nodes = {
        span.span_id: Node(process, resource, span)
        for (process, _), (resource, spans) in trace.batches.items()
        for span in spans
    }
    roots: list[Node] = []
    orphans: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id)
        if parent is not None:
            parent.children.append(node)
        else:
            (orphans if node.span.parent_id else roots).append(node)
    orphans += _cut_circles(nodes, roots + orphans)
    orphans.sort(key=ORDER)
    # What came from outside has a parent that is not ours, and so has all that is beside it.
    outside = {node.span.parent_id for node in orphans if _enters(node)} - nodes.keys()
    roots += [node for node in orphans if node.span.parent_id in outside]
    orphans = [node for node in orphans if node.span.parent_id not in outside]
    if not roots and orphans:
        roots.append(orphans.pop(0))
    roots.sort(key=ORDER)
    for node in orphans:
        node.orphan = True
    if orphans:
        roots[0].orphans = orphans
    _adjust_clocks(roots)
    return roots


def _enters(top: Node) -> bool:
    """Whether an entry call was made in this span, or it is one."""
    stack = [top]
    while stack:
        node = stack.pop()
        depth = node.span.attributes.get(names.CALL_DEPTH_LINKS)
        if depth is None:
            stack.extend(node.children)
        elif depth == 1:
            # The call begins with its caller's span, or with the gateway's where that is missing.
            at_gateway = node.resource.get(names.ROLE) == names.GATEWAY_ROLE
            if node.span.kind == (SERVER if at_gateway else CLIENT):
                return True
    return False


def _cut_circles(nodes: dict[bytes, Node], tops: list[Node]) -> list[Node]:
    """Spans that say to be below each other: the earliest of each circle becomes an orphan."""
    reached: set[Node] = set()
    _reach(tops, reached)
    cut: list[Node] = []
    if len(reached) < len(nodes):
        for node in sorted(set(nodes.values()) - reached, key=ORDER):
            if node not in reached:
                nodes[node.span.parent_id].children.remove(node)
                cut.append(node)
                _reach([node], reached)
    return cut


def _reach(tops: list[Node], reached: set[Node]) -> None:
    stack = tops.copy()
    while stack:
        node = stack.pop()
        reached.add(node)
        stack.extend(node.children)


def _adjust_clocks(roots: list[Node]) -> None:
    """Move what ran wholly outside its parent into it, and all of the same clock below it along."""
    known: dict[object, int] = {}
    stack = roots[::-1]
    while stack:
        parent = stack.pop()
        for node in parent.children + parent.orphans:
            if node.clock == parent.clock:
                node.shift = parent.shift
            else:
                node.shift = _shift(node, parent, known.get(node.clock, 0))
                known.setdefault(node.clock, node.shift)
            stack.append(node)


def _shift(node: Node, parent: Node, known: int) -> int:
    """By how many nanoseconds to move a span whose clock is not its parent's.

    Args:
        node: The span, not yet moved.
        parent: Its parent, where it now is.
        known: By how much another span of the same clock has been moved.
    """
    start, end = node.start, node.end
    for shift in (known, 0):
        if start + shift <= parent.end and end + shift >= parent.start:
            return shift
    # The way there and the way back are taken to have been equally long.
    spare = max(0, (parent.end - parent.start) - (end - start))
    return parent.start + spare // 2 - start
