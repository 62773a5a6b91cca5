"""What tests of the deployment share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.deploy.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(name="manager", params=["file", "abstract"])
def make_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = f"{tmp_path}/notify" if request.param == "file" else f"@mesh-test-{os.getpid()}"
    manager = Manager(path)
    yield manager
    manager.close()
