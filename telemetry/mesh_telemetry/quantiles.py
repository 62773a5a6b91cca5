"""Quantiles of what was counted in buckets, as far as counts and sums can tell."""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from mesh_telemetry.names import DURATION_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(
    buckets: Sequence[int],
    q: float,
    bounds: Sequence[float] = DURATION_BOUNDS,
    *,
    total: float | None = None,
) -> float | None:
    """Estimate a quantile from a histogram.

    As Prometheus' ``histogram_quantile`` does it: linear interpolation inside the bucket that holds
    the rank, the first bucket starting at 0, and the highest bound for what lies beyond it
    (https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile). Where
    the sum of all values is known, it is never one that this sum rules out.

    Args:
        buckets: Counts per bucket, not cumulated, the last one for values above all bounds.
        q: Which quantile, from 0 to 1.
        bounds: The buckets' upper bounds, ascending.
        total: The sum of the values, which are none below 0.

    Returns:
        The estimate in the unit of ``bounds``, or None for an empty histogram.

    Raises:
        ValueError: ``q`` is not between 0 and 1, or the two lengths do not fit.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"quantile {q} is not between 0 and 1")
    if len(buckets) != len(bounds) + 1:
        raise ValueError(f"{len(buckets)} buckets do not fit {len(bounds)} bounds and one beyond")
    calls = sum(buckets)
    if calls == 0:
        return None
    rank = q * calls
    below = 0
    for index, count in enumerate(buckets[:-1]):
        if count and below + count >= rank:
            start = bounds[index - 1] if index else 0.0
            estimate = start + (bounds[index] - start) * ((rank - below) / count)
            if total is not None:
                place = max(1, ceil(rank - below))
                least, most = _possible(buckets, bounds, total, index, place)
                estimate = min(max(estimate, start, least), bounds[index], most)
            return estimate
        below += count
    return float(bounds[-1])


def _possible(
    buckets: Sequence[int], bounds: Sequence[float], total: float, index: int, place: int
) -> tuple[float, float]:
    """Between which values one of a bucket lies, where all values come to a sum.

    All others are at least where their bucket begins, and at most where it ends; those above the
    one in its bucket are no less than it is, and those below it no more.

    Args:
        buckets: As of :func:`quantile`, as are ``bounds`` and ``total``.
        bounds: See there.
        total: See there.
        index: The bucket.
        place: Which of its values, from 1.
    """
    starts, ends = (0.0, *bounds), (*bounds, inf)
    spare = total - sum(count * start for count, start in zip(buckets, starts, strict=True))
    lack = sum(count * end for count, end in zip(buckets, ends, strict=True) if count) - total
    least, most = bounds[index] - lack / place, spare / (buckets[index] - place + 1)
    return least, starts[index] + max(0.0, most)
