"""What the mesh tells those outside of whether it samples a trace.

Inside, everything is recorded, and whether a trace is kept is decided when its entry call ends.
The flag that goes out with a request to a third party cannot wait for that: a trace that came in
goes on with the flag that it came with, and for a trace that began here a ratio is asked, which
depends on nothing but the trace's id, so that all processes say the same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("mesh.telemetry")

SAMPLED = 0x01
"""https://www.w3.org/TR/trace-context-2/#sampled-flag"""
RANDOM = 0x02
"""The trace's id is random: https://www.w3.org/TR/trace-context-2/#random-trace-id-flag"""

_LIMIT = 1 << 64
_FIXED = {
    "always_on": 1.0,
    "always_off": 0.0,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
}
_RATIOS = ("traceidratio", "parentbased_traceidratio")


class Ratio:
    """Which traces that begin here are told as sampled to the outside.

    Args:
        rate: From 0 to 1.

    Raises:
        ValueError: The rate is not.
    """

    __slots__ = ("_bound", "rate")

    def __init__(self, rate: float = 1.0) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"ratio of sampled traces must be from 0 to 1, not {rate}")
        self.rate = rate
        self._bound = round(rate * _LIMIT)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Ratio:
        """As ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` say; 1 where they do not.

        A parent's flag is always kept, so ``traceidratio`` is ``parentbased_traceidratio``. As
        OpenTelemetry asks, values that mean nothing are logged and count as not set:
        https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
        """
        sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
        if sampler in _FIXED:
            return cls(_FIXED[sampler])
        if sampler in _RATIOS:
            rate = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
            try:
                return cls(float(rate or 1.0))
            except ValueError:
                log.warning("OTEL_TRACES_SAMPLER_ARG=%s is no ratio from 0 to 1: ignored", rate)
        elif sampler:
            log.warning("OTEL_TRACES_SAMPLER=%s is not known to the mesh: ignored", sampler)
        return cls()

    def flags(self, trace_id: bytes) -> int:
        """The W3C flags of a trace that begins here.

        The same traces are sampled as by the SDK's ``TraceIdRatioBased``.

        Args:
            trace_id: 16 random bytes.
        """
        return SAMPLED | RANDOM if int.from_bytes(trace_id[8:]) < self._bound else RANDOM
