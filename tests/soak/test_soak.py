"""A short soak: everything that `make soak` does, once, within seconds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.soak import mayhem
from tests.soak.run import soak

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(name="short_folder")
def make_short_folder() -> Iterator[Path]:
    """A folder with a path that leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-soak-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_soak_of_some_seconds_finds_nothing(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each disturbance comes once at least, and every call keeps its promises all the same.

    The rate is low, as other tests run beside this one.
    """
    monkeypatch.setattr(mayhem, "HOLD", (0.3, 0.6))
    outcome = await soak(short_folder, 6.0, 7, rate=150, pause=0.05)
    assert not outcome.violations, "\n".join([*outcome.violations[:10], outcome.table])
    assert set(outcome.done) == set(mayhem.KINDS)
    assert outcome.calls > 500
