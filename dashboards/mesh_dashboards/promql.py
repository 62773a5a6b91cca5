"""What recording rules and alerts are made of: the scope that they share, and pieces of PromQL."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Mapping

Rule: TypeAlias = dict[str, Any]
"""One rule, as in Prometheus' file of rules."""
Group: TypeAlias = dict[str, Any]
"""A group of rules, likewise."""

FAULTS: Final = "|".join(names.SERVER_FAULTS)
"""The codes that are failures of a service, as a regular expression."""
OWN_SERVICE: Final = "mesh"
"""The gateway's own service, whose calls are those of the command and of peers' start."""
NOT_KEPT: Final = "not_kept"
"""The reason of spans that belong to no kept trace, and so are not lost."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+)([smhd])")


class Scope(NamedTuple):
    """What all rules of a file have in common.

    The gateways of one job are taken as one mesh: every rule is about all of them together.
    """

    job: str = "mesh-gateway"
    """Prometheus' job that scrapes the gateways."""
    runbooks: str = ""
    """The address of the folder of runbooks; empty where they are nowhere but in the package."""
    faster: float = 1.0
    """How many times shorter every window and wait is, for those who try alerts out; names stay."""

    def span(self, text: str) -> str:
        """A duration such as ``5m``, in PromQL, as much shorter as the scope says."""
        return text if self.faster == 1 else f"{max(1, round(self.seconds(text) * 1000))}ms"

    def seconds(self, text: str) -> float:
        """The same as a number of seconds."""
        found = _DURATION.fullmatch(text)
        assert found is not None, text  # noqa: S101 - all of them are written here
        return int(found[1]) * _SECONDS[found[2]] / self.faster

    def select(self, name: str, *more: str) -> str:
        """The gateways' series of this name that fit these further matchers."""
        return f"{name}{{{', '.join([f'job={quoted(self.job)}', *more])}}}"

    def grown(self, series: str, window: str) -> str:
        """By how much counters have grown within a window.

        Counters with labels of their own come with the first event, which ``increase`` does not
        see. So one that was not there a window ago has grown by its whole value, if its gateway was
        scraped already or had not yet begun.
        """
        span, seconds = self.span(window), f"{self.seconds(window):g}"
        return (
            f"(\n"
            f"  ({series} unless {series} offset {span})\n"
            f"    and on (job, instance)\n"
            f"    (up offset {span} == 1 or time() - process_start_time_seconds < {seconds})\n"
            f"  or increase({series}[{span}])\n"
            f")"
        )

    def rate(self, series: str, window: str, by: str) -> str:
        """By how much they have grown per second, summed by these labels."""
        return f"sum by ({by}) {self.grown(series, window)} / {self.seconds(window):g}"

    def alert(
        self,
        name: str,
        expression: str,
        *,
        severity: str,
        summary: str,
        description: str,
        wait: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Rule:
        """An alert.

        Args:
            name: Its name, and that of its runbook.
            expression: It fires where this has series.
            severity: ``page`` where somebody has to look at once, else ``ticket``.
            summary: What is wrong, in a line.
            description: The same with the numbers.
            wait: For how long the expression must have had them.
            labels: Further labels.
        """
        rule: Rule = {"alert": name, "expr": expression}
        if wait:
            rule["for"] = self.span(wait)
        rule["labels"] = {"severity": severity, **(labels or {})}
        rule["annotations"] = {
            "summary": summary,
            "description": description,
            "runbook": f"mesh dashboards runbook {name}",
        }
        if self.runbooks:
            rule["annotations"]["runbook_url"] = f"{self.runbooks.rstrip('/')}/{name}.md"
        return rule


DEFAULT: Final = Scope()


def quoted(value: str) -> str:
    """A text as PromQL writes it."""
    return json.dumps(value, ensure_ascii=False)


def record(name: str, expression: str, **labels: str) -> Rule:
    """A recording rule, which adds these labels."""
    rule: Rule = {"record": name, "expr": expression}
    if labels:
        rule["labels"] = labels
    return rule
