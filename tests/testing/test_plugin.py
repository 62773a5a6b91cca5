"""The pytest plugin, in processes of their own, as users have it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import LocalMesh

NO_TRIO = ("-p", "no:trio")
"""For users without pytest-trio, which is here."""


def run(folder: Path, test: str, *options: str) -> str:
    """What pytest says of a user's test file; its last line tells how it went."""
    (folder / "test_it.py").write_text(textwrap.dedent(test))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        [*command, *options, "test_it.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


def how_it_went(output: str) -> str:
    return output.strip().splitlines()[-1].partition(" in ")[0]


TRIO = """
import mesh
import pytest

@pytest.mark.trio
async def test_late(local_mesh, autojump_clock):
    def slow(client):
        @client.method
        async def get():
            return 7

    await local_mesh.serve(slow)
    with local_mesh.delay("slow", seconds=100), pytest.raises(mesh.DeadlineExceeded):
        await local_mesh.client.call("slow", "get", timeout=50)
    assert await local_mesh.client.call("slow", "get") == 7
    assert [call.code for call in await local_mesh.calls()] == ["deadline_exceeded", "ok"]
"""


async def test_the_fixture_is_there_without_an_import(local_mesh: LocalMesh) -> None:
    assert local_mesh.client.name == "test"
    assert await local_mesh.calls() == []


def test_it_works_in_a_user_s_test_with_pytest_trio(tmp_path: Path) -> None:
    assert how_it_went(run(tmp_path, TRIO)) == "1 passed"


def test_spans_of_the_user_s_own_code_are_there_once(tmp_path: Path) -> None:
    """In a process of its own, as the provider of spans is one for all of it."""
    test = """
        import mesh
        import pytest
        from opentelemetry import trace

        mesh.install_tracer_provider()

        @pytest.mark.trio
        async def test_price(local_mesh):
            def orders(client):
                @client.method
                def place():
                    with trace.get_tracer("orders").start_as_current_span("price"):
                        pass

            await local_mesh.serve(orders, orders)
            await local_mesh.client.call("orders", "place")
            [price] = await local_mesh.spans("price")
            spans = await local_mesh.spans("orders.place")
            assert len(spans) == 4
            assert price.parent_id in {span.span_id for span in spans}
    """
    assert how_it_went(run(tmp_path, test)) == "1 passed"


def test_a_contract_that_a_mock_breaks_unseen_is_an_error_of_the_test(tmp_path: Path) -> None:
    test = """
        from abc import abstractmethod

        import mesh
        import pytest
        from mesh.testing import mock, mocked

        class Users(mesh.Contract, name="users", version="1.0.0"):
            @mesh.method
            @abstractmethod
            async def count(self) -> int: ...

        @pytest.mark.trio
        async def test_it(local_mesh):
            users = mock(Users)
            mocked(users.count).does(lambda: "seven")
            await local_mesh.serve(users)
            try:
                await local_mesh.stub(Users).count()
            except mesh.CallError:
                pass
    """
    output = run(tmp_path, test)
    assert how_it_went(output) == "1 failed"
    assert "ContractError: result of Users.count: Expected `int`, got `str`" in output


def test_it_works_with_trio_run_by_anyio(tmp_path: Path) -> None:
    test = """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_it(local_mesh):
            assert local_mesh.gateway.is_connected("test")
    """
    assert how_it_went(run(tmp_path, test, *NO_TRIO)) == "1 passed"


def test_a_test_that_trio_does_not_run_is_told_what_it_needs(tmp_path: Path) -> None:
    test = """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(local_mesh):
            assert False, "it must not begin"
    """
    output = run(tmp_path, test, *NO_TRIO)
    assert how_it_went(output) == "1 error"
    assert "a local mesh needs a test that trio runs: with pytest, install pytest-trio" in output


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (
            "async def",
            (),
            "test_it is none: mark it by @pytest.mark.trio, or set trio_mode = true in pytest's",
        ),
        (
            "async def",
            NO_TRIO,
            "test_it is none: install pytest-trio, and mark it by @pytest.mark.trio, or set",
        ),
        ("def", (), "test_it is none: make it `async def`, and mark it by @pytest.mark.trio or"),
        (
            "def",
            ("-o", "trio_mode=true"),
            "test_it is none: make it `async def`, and mark it by @pytest.mark.trio or",
        ),
    ],
)
def test_a_test_without_a_mark_is_told_of_it(
    tmp_path: Path, kind: str, options: tuple[str, ...], told: str
) -> None:
    """And so is the next one, which pytest's own refusal of the fixture would break."""
    test = f"""
        {kind} test_it(local_mesh):
            pass

        {kind} test_next(local_mesh):
            pass
    """
    output = run(tmp_path, test, *options)
    assert how_it_went(output) == "2 errors"
    assert f"local_mesh needs a test that trio runs, and {told}" in output
    assert "and test_next is none" in output


def test_what_is_told_once_in_a_process_is_told_in_each_test(tmp_path: Path) -> None:
    test = """
        import logging
        from abc import abstractmethod

        import mesh
        import pytest

        class Users(mesh.Contract, name="users", version="1.0.0"):
            @mesh.method(deprecated="call find")
            @abstractmethod
            async def get(self) -> int: ...

        class UserService(Users):
            async def get(self) -> int:
                return 7

        @pytest.mark.trio
        @pytest.mark.parametrize("time", [1, 2])
        async def test_it(local_mesh, time):
            await local_mesh.serve(UserService())
            with pytest.warns(DeprecationWarning, match="users.get is deprecated: call find"):
                await local_mesh.stub(Users).get()
            await local_mesh.stub(Users).get()

        @pytest.mark.trio
        @pytest.mark.parametrize("time", [1, 2])
        async def test_variables(monkeypatch, caplog, time):
            monkeypatch.setenv("MESH_GATEWAI", "x")
            async with mesh.Gateway() as gateway, mesh.connect("a", gateway=gateway):
                pass
            assert caplog.text.count("MESH_GATEWAI: unknown variable") == 1
    """
    assert how_it_went(run(tmp_path, test)) == "4 passed"


def test_who_does_not_use_it_does_not_load_what_it_needs(tmp_path: Path) -> None:
    test = """
        import sys

        def test_it():
            assert "_spanmesh_pytestplugin" in sys.modules
            assert not {"mesh", "trio", "opentelemetry", "msgspec"} & set(sys.modules)
    """
    without = [*NO_TRIO, "-p", "no:anyio", "-p", "no:hypothesispytest"]  # these load trio
    assert how_it_went(run(tmp_path, test, *without)) == "1 passed"


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_who_does_not_use_it_is_not_disturbed(tmp_path: Path, loop: str) -> None:
    test = f"""
        import sys

        import pytest

        @pytest.fixture
        def anyio_backend():
            return {loop!r}

        @pytest.fixture
        async def seven():
            yield 7

        @pytest.mark.anyio
        async def test_it(seven):
            assert seven == 7
            assert "mesh" not in sys.modules
    """
    assert how_it_went(run(tmp_path, test, *NO_TRIO)) == "1 passed"
