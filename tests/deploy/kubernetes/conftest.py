"""What the manifests build, and a node to run it on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.kubernetes.built import COMPOSITIONS, compose
from tests.deploy.kubernetes.running import Node, make_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.kubernetes.built import Object


@pytest.fixture(name="built", scope="session")
def build_all(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    folder = tmp_path_factory.mktemp("compositions")
    return {name: compose(name, folder) for name in COMPOSITIONS}


@pytest.fixture(name="secrets", scope="module")
def make_all_secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_secrets(tmp_path_factory.mktemp("secrets") / "made")


@pytest.fixture(name="node")
def make_node(secrets: dict[str, Path]) -> Iterator[Node]:
    """In a folder that every user may enter, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-node-"))
    folder.chmod(0o755)
    yield Node(folder, secrets)
    shutil.rmtree(folder)
