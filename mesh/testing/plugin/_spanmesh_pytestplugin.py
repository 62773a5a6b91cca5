"""The pytest plugin: fixtures for whoever has spanmesh installed.

pytest imports it for every user. It belongs to no package, as that of the mesh would import trio
and all else for those who use no fixture of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mesh.testing import LocalMesh


@pytest.fixture
async def local_mesh() -> AsyncGenerator[LocalMesh, None]:
    """A mesh within the test, as of :func:`mesh.testing.local_mesh`, without services yet.

    For tests that trio runs, by pytest-trio or another plugin.

    Example:
        >>> async def test_users(local_mesh, autojump_clock):
        ...     await local_mesh.serve(UserService())
        ...     assert await local_mesh.stub(Users).get("7") == User("7")
    """
    from mesh import testing  # noqa: PLC0415 - slow, and for those alone who ask for it

    async with testing.local_mesh() as it:
        yield it
