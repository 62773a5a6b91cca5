"""What a peer takes from variables, and what its program's own arguments say instead."""

from __future__ import annotations

import pytest

import mesh
from mesh.environment import limits_from, metadata_from


def test_limits_are_the_defaults_and_what_variables_name() -> None:
    assert limits_from({}) == mesh.Limits()
    variables = {"MESH_LIMITS_MAX_THREADS": "8", "MESH_LIMITS_DRAIN": "2m", "MESH_LIMITS_X": "1"}
    assert limits_from(variables) == mesh.Limits(max_threads=8, drain=120)
    assert limits_from({"MESH_LIMITS_DRAIN": ""}) == mesh.Limits()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MAX_THREADS", "0", "MESH_LIMITS_MAX_THREADS must be 1 or more, not 0"),
        ("MAX_THREADS", "x", "MESH_LIMITS_MAX_THREADS must be a whole number, not 'x'"),
        ("DRAIN", "x", "MESH_LIMITS_DRAIN must be a duration: "),
        ("LATE_AFTER", "9", "late_after 9 must be less than unresponsive_after 6"),
    ],
)
def test_a_wrong_limit_is_told_by_its_variable(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        limits_from({f"MESH_LIMITS_{name}": text})
    assert str(caught.value).startswith(message)


def test_metadata_is_names_and_values() -> None:
    assert metadata_from({}) == {}
    assert metadata_from({"MESH_METADATA": " zone=a, v = 3 ,"}) == {"zone": "a", "v": "3"}
    with pytest.raises(ValueError, match="must be NAME=VALUE, with commas between, not 'zone'"):
        metadata_from({"MESH_METADATA": "zone"})


async def test_a_peer_lives_by_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_METADATA", "zone=a,rack=7")
    monkeypatch.setenv("MESH_LIMITS_MAX_THREADS", "3")
    async with mesh.Gateway() as gateway:
        async with mesh.connect("users", gateway=gateway, metadata={"zone": "b"}) as client:
            assert client._uplink.limits.max_threads == 3
            assert client._uplink.metadata == {"zone": "b", "rack": "7"}
        own = mesh.Limits(max_threads=5)
        async with mesh.connect("users", gateway=gateway, limits=own) as client:
            assert client._uplink.limits == own


async def test_a_wrong_variable_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_LIMITS_HEARTBEAT", "often")
    with pytest.raises(ValueError, match="MESH_LIMITS_HEARTBEAT must be a duration"):
        async with mesh.connect("users", gateway="unix:/none"):
            pytest.fail("it connected")
