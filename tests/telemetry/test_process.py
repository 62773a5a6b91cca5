"""What a process shows of itself: as Prometheus' own client does, but at once."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from mesh_telemetry.process import ProcessFigures

if TYPE_CHECKING:
    from collections.abc import Iterator


tells_open_files = pytest.mark.skipif(
    not Path("/proc/self/fd").stat().st_size, reason="Linux tells open files since 6.2"
)


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """The values of all samples."""
    return {one.name: one.value for family in registry.collect() for one in family.samples}


@pytest.fixture
def many_files() -> Iterator[int]:
    """As many open files as the limit allows, 10,000 at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files: list[int] = []
    try:
        while len(files) < min(hard - 200, 10_000):
            files.append(os.dup(0))
        yield len(files)
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@tells_open_files
def test_its_figures_are_those_of_prometheus_own_client() -> None:
    own, its = CollectorRegistry(), CollectorRegistry()
    ProcessFigures(own)
    ProcessCollector(registry=its)
    expected, found = samples(its), samples(own)
    assert found.keys() == expected.keys()
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert found[name] == expected[name]
    assert abs(found["process_open_fds"] - expected["process_open_fds"]) < 5
    assert found["process_resident_memory_bytes"] == pytest.approx(
        expected["process_resident_memory_bytes"], rel=0.2
    )
    assert found["process_cpu_seconds_total"] == pytest.approx(
        expected["process_cpu_seconds_total"], abs=0.1
    )


@tells_open_files
def test_many_open_files_hold_no_scrape_up(many_files: int) -> None:
    registry = CollectorRegistry()
    ProcessFigures(registry)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        assert samples(registry)["process_open_fds"] >= many_files
        took.append(time.perf_counter() - began)
    assert min(took) < 0.002  # to list 10,000 takes 15 ms


def test_an_older_kernel_does_not_tell_open_files_and_another_system_nothing(
    tmp_path: Path,
) -> None:
    registry = CollectorRegistry()
    ProcessFigures(registry, tmp_path)
    assert samples(registry) == {}
    own = tmp_path / "self"
    own.mkdir()
    shutil.copy("/proc/self/stat", own)
    (own / "fd").symlink_to("/proc/sys/kernel")  # a directory without a size
    found = samples(registry)
    assert "process_open_fds" not in found
    assert found["process_virtual_memory_bytes"] > 1e6
