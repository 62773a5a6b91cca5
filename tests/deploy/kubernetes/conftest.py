"""What both overlays build, and a node to run it on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.kubernetes.built import compose
from tests.deploy.kubernetes.running import KINDS, Node, make_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.kubernetes.built import Object


@pytest.fixture(name="overlays", scope="module")
def build_both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    folder = tmp_path_factory.mktemp("built")
    return {name: compose(name, folder) for name in KINDS}


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
