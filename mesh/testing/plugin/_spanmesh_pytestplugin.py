"""The pytest plugin: fixtures for whoever has spanmesh installed.

pytest imports it for every user. It belongs to no package, as that of the mesh would import trio
and all else for those who use no fixture of it.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mesh.testing import LocalMesh


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let each test, with its fixtures, see what the mesh tells once in a process."""
    for room in ("mesh.stubs", "mesh.environment"):
        if room in sys.modules:  # else nothing was told
            sys.modules[room].warned.clear()


@pytest.fixture
def _run_by_trio(request: pytest.FixtureRequest) -> None:
    """Say what a test lacks: pytest's own word, without a plugin for it, helps nobody further."""
    test = request.node
    if test.get_closest_marker("trio") is not None or "anyio_backend" in request.fixturenames:
        return
    if not inspect.iscoroutinefunction(test.obj):
        how = "make it `async def`, and mark it by @pytest.mark.trio or set trio_mode = true"
    else:
        how = "mark it by @pytest.mark.trio, or set trio_mode = true in pytest's settings"
    if not request.config.pluginmanager.hasplugin("trio"):
        how = f"install pytest-trio, and {how}"
    what = f"local_mesh needs a test that trio runs, and {test.name} is none"
    pytest.fail(f"{what}: {how}", pytrace=False)


@pytest.fixture
async def local_mesh(_run_by_trio: None) -> AsyncGenerator[LocalMesh, None]:
    """A mesh within the test, as of :func:`mesh.testing.local_mesh`, without services yet.

    For tests that trio runs, by pytest-trio or anyio.

    Example:
        >>> async def test_users(local_mesh, autojump_clock):
        ...     await local_mesh.serve(UserService())
        ...     assert await local_mesh.stub(Users).get("7") == User("7")
    """
    from mesh import testing  # noqa: PLC0415 - slow, and for those alone who ask for it

    async with testing.local_mesh() as it:
        yield it
