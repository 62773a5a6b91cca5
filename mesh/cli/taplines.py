"""How a tapped call is written: in columns that a terminal has room for, whole in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.cli.output import tell_outcome
from mesh_telemetry.logs import clean_line
from mesh_telemetry.texts import Look, Part, cells, cut, fit, milliseconds, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_telemetry.texts import Line, Signs

TIME, ID, TOOK, DEPTH = 12, 8, 8, 2
"""Characters of the columns on a terminal that are always as wide."""
PIPED_TIME, PIPED_ID = 27, 32
"""In a pipe: a moment, and a trace's id, as a whole."""
OUTCOME = 17, 38
"""What a code takes, and one with its reason."""
CALL = 32
"""What most calls take; in a pipe, columns line up as long as they do."""
SHORTEST_CALL = 15
"""What of a call is worth more than other columns."""
WIDTHS = {"depth": 2 + DEPTH, "time": TIME + 1, "id": ID + 2, "took": 1 + TOOK}
"""Columns with the spaces beside them; those that a narrow terminal does without, the first one
first."""
WITHHELD = {
    "NOT_ALLOWED": "the contract of this method does not say tap=True",
    "NOT_HELD": "not held: one of too many a second, or it came before this tap, does not fit its "
    "filters, or made way",
    "REFUSED": "no instance had this call",
    "TOO_MUCH": "too much at once; filters or a lower --rate leave less",
}
"""Why what a call carried is not shown."""
UNTOLD = {
    "chunked": "in several frames",
    "long": "too long to be shown",
    "raw": "not shown",
    "undecodable": "which cannot be decoded",
}
"""Why one way of it is not, behind its encoding and size."""


class Layout:
    """The columns of one output.

    Args:
        width: Of the terminal; None for a pipe, where nothing is cut.
        signs: What trees are drawn with.
    """

    def __init__(self, width: int | None, signs: Signs) -> None:
        self._width, self._signs = width, signs
        self._time, self._id = PIPED_TIME, PIPED_ID
        self._call, self._outcome = CALL, OUTCOME[0]
        self._shown = list(WIDTHS)
        if width is not None:
            self._time, self._id = TIME, ID
            self._share(width)

    def _share(self, width: int) -> None:
        """Give the columns of a terminal their widths: others give way until calls have theirs."""
        least, most = OUTCOME
        while True:
            room = width - sum(WIDTHS[name] for name in self._shown) - 2
            self._outcome = min(most, max(least, room * 4 // 10))
            self._call = room - self._outcome
            if self._call >= SHORTEST_CALL or not self._shown:
                break
            del self._shown[0]
        if self._call < SHORTEST_CALL:
            self._call = max(min(SHORTEST_CALL, room * 6 // 10), 1)
            self._outcome = max(room - self._call, 1)

    def heading(self) -> Line:
        """What stands above all calls."""
        first = self._first("ENDED", "ID")
        took = f" {'TOOK':>{TOOK}}" if "took" in self._shown else ""
        last = f"CODE{'DEPTH':>{self._outcome + DEPTH + 2 - len('CODE')}}"
        if "depth" not in self._shown:
            last = f"{'CODE':<{self._outcome}}"
        line = [Part(f"{first}{'CALL':<{self._call}}{took}  {last}", Look.STRONG)]
        return line if self._width is None else cut(line, self._width)

    def _first(self, ended: str, named: str) -> str:
        """What stands before a call."""
        time = f"{ended:<{self._time}} " if "time" in self._shown else ""
        return time + (f"{named:<{self._id}}  " if "id" in self._shown else "")

    def call(self, told: dict[str, Any]) -> Line:
        """A call on its own."""
        name = f"{told['caller']} > {_name(told)}"
        return self._row(told, self._moment(told), Part(clean_line(name)), self._call)

    def lines(self, told: dict[str, Any]) -> Iterator[Line]:
        """A call on its own, and what it carried below it, where that was asked for."""
        yield self.call(told)
        yield from self._payloads(told)

    def _payloads(self, told: dict[str, Any], prefix: str = "") -> Iterator[Line]:
        """What a call carried: whole, as this is what was asked for, however narrow it is here."""
        payloads = told.get("payloads")
        if payloads is None:
            return
        answer = "result" if told["code"] == "ok" else "details"
        rows = {
            "params": _value(payloads.get("params")),
            "metadata": payloads.get("metadata", ""),
            answer: _value(payloads.get("answer")),
            "answered metadata": payloads.get("answer_metadata", ""),
            "no payloads": (why := payloads.get("withheld", "")) and WITHHELD.get(why, why),
        }
        for label, text in rows.items():
            if text:
                start = f"{prefix}  {label:<8}  "
                yield [Part(start, Look.FAINT), Part(clean_line(text))]

    def tree(self, told: dict[str, Any]) -> Iterator[Line]:
        """The calls of an entry call, below it in the order in which they came."""
        calls = told["calls"]
        ids = {one["call_id"] for one in calls}
        below: dict[int, list[dict[str, Any]]] = {}
        for one in calls:
            above = one["parent_id"]
            below.setdefault(above if above in ids else 0, []).append(one)
        for top in below[0]:
            yield from self.lines(top)
            yield from self._below(top["call_id"], below)
        if told["partial"]:
            yield [Part("! some of its calls are missing: they ended too long ago, or are too many",
                        Look.ODD)]  # fmt: skip

    def _below(self, parent: int, below: dict[int, list[dict[str, Any]]]) -> Iterator[Line]:
        """What was called inside a call, depth first; not by recursion, as peers choose depths."""
        signs = self._signs
        waiting = [("", iter(below.get(parent, [])), len(below.get(parent, [])))]
        while waiting:
            prefix, some, left = waiting.pop()
            one = next(some, None)
            if one is None:
                continue
            waiting.append((prefix, some, left - 1))
            yield self._nested(one, prefix + (signs.between if left > 1 else signs.last))
            inner = below.get(one["call_id"], [])
            onwards = prefix + (signs.onwards if left > 1 else " " * len(signs.onwards))
            yield from self._payloads(one, onwards + (signs.onwards if inner else ""))
            waiting.append((onwards, iter(inner), len(inner)))

    def _nested(self, told: dict[str, Any], prefix: str) -> Line:
        """A call in a tree: its lines take the room of the time and the id as well."""
        room = len(self._first("", "")) + self._call
        if self._width is not None:
            prefix = prefix[-(room // 2) :]
        name = Part(clean_line(_name(told)))
        return self._row(told, [Part(prefix, Look.FAINT)], name, room - len(prefix))

    def _moment(self, told: dict[str, Any]) -> Line:
        ended, named = told["ended"], clean_line(told["activity_id"])
        if self._width is not None:
            ended = ended[11:23]
            if len(named) > self._id:
                named = told["trace_id"][: self._id]  # enough to ask for its trace by
        return [Part(self._first(ended, named), Look.FAINT)]

    def _row(self, told: dict[str, Any], first: Line, name: Part, room: int) -> Line:
        clips = self._width is not None
        code, reason = told["code"], told["reason"]
        outcome = tell_outcome(code, reason)
        if clips and len(outcome) > self._outcome:  # one of them whole says more than half of both
            outcome = clean_line(reason) if len(reason) <= self._outcome else code
        look = Look.GOOD if code == "ok" else Look.BAD
        line = [*first, *_fit([name], room, clips=clips)]
        if "took" in self._shown:
            line.append(Part(f" {milliseconds(told['duration_ms']):>{TOOK}}"))
        line += [Part("  "), *_fit([Part(outcome, look)], self._outcome, clips=clips)]
        if "depth" in self._shown:
            line.append(Part(f"  {told['depth']:>{DEPTH}}"))
        return line if self._width is None else cut(line, self._width)


def _value(told: dict[str, Any] | None) -> str:
    """What a call carried one way; nothing where nothing came."""
    if told is None or not told["size"]:
        return ""
    encoding, size = told["encoding"], f"{told['size']:,} bytes"
    if told["state"] == "whole":
        return str(told["text"])
    if told["state"] == "cut":
        return f"{told['text']}... of {size} of {encoding}"
    return f"{size} of {encoding}, {UNTOLD.get(told['state'], told['state'])}"


def _name(told: dict[str, Any]) -> str:
    return f"{told['service']}.{told['method']}"


def _fit(line: Line, width: int, *, clips: bool) -> Line:
    """The line padded to this width; where it clips, it is no wider."""
    if clips:
        return fit([Part(shorten(part.text, width), part.look) for part in line], width)
    return [*line, Part(" " * max(width - sum(cells(part.text) for part in line), 0))]
