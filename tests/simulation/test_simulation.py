"""Whole meshes, simulated: no seed breaks a promise, and every important situation comes up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.run import run_seed

BLOCK = 50

IMPORTANT = {
    "abandoned call",
    "chunked answer",
    "chunked call",
    "late result",
    "fault cut",
    "fault gateway_drain",
    "fault gateway_kill",
    "fault kill",
    "fault leave",
    "fault register",
    "fault silence",
    "fault stall",
    "handler cancelled",
    "handler raised",
    "handler returned",
    "outcome cancelled",
    "outcome error",
    "outcome ok",
    "outcome scope",
    "reason CONNECTION_LOST",
    "reason DEADLINE_EXCEEDED",
    "reason DEPTH_EXCEEDED",
    "reason GATEWAY_DRAINING",
    "reason GATEWAY_UNREACHABLE",
    "reason HANDLER_FAILED",
    "reason LOOP_DETECTED",
    "reason MESSAGE_TOO_LARGE",
    "reason METHOD_NOT_FOUND",
    "reason NO_INSTANCE",
    "reason OUTBOX_FULL",
    "reason OVERLOADED",
    "reason PARENT_ENDED",
    "reason SERVICE_NOT_FOUND",
    "reason UNDECODABLE",
    "reason UNENCODABLE",
    "record CALLER_CANCELLED",
    "record CALLER_DISCONNECTED",
}


@pytest.mark.parametrize("start", range(0, 1000, BLOCK))
def test_no_seed_breaks_a_promise(start: int) -> None:
    for seed in range(start, start + BLOCK):
        verdict = run_seed(seed)
        assert not verdict.complaints, verdict.explain()


@pytest.mark.timeout(400)  # the only one that looks at all seeds together: a minute alone
def test_every_important_situation_comes_up() -> None:
    """Else the simulator would silently have stopped to test something."""
    seen: Counter[str] = Counter()
    for seed in range(5000, 5250):
        verdict = run_seed(seed)
        assert not verdict.complaints, verdict.explain()
        seen.update(verdict.seen)
    assert {what for what in IMPORTANT if not seen[what]} == set()


def test_equal_seeds_give_equal_runs_in_any_process() -> None:
    """A failing seed must fail again, elsewhere and with other hashes and addresses."""

    def digests(hash_seed: str) -> list[str]:
        command = [sys.executable, "-m", "tests.simulation.run", "--digest", "--seeds", "12"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        return done.stdout.splitlines()

    first, second = digests("1"), digests("2")
    here = [f"{seed} {run_seed(seed).digest}" for seed in range(12)]
    assert first == second == here
