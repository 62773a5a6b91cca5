"""What a peer takes from variables, and what its program's own arguments say instead."""

from __future__ import annotations

import logging

import pytest

import mesh
from mesh.environment import limits_from, metadata_from, unknown_variables


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


def test_what_nobody_knows_is_found_with_what_was_meant() -> None:
    assert unknown_variables({"MESH_TLS_CERTT": "x", "MESH_LOG_LEVLE": "x", "HOME": "/"}) == {
        "MESH_TLS_CERTT": "did you mean MESH_TLS_CERT?",
        "MESH_LOG_LEVLE": "did you mean MESH_LOG_LEVEL?",
    }
    assert unknown_variables({"MESH_LISTENN": "", "MESH_GATEWAY": "x", "MESH_ADMIN": "none"}) == {}
    [hint] = unknown_variables({"MESH_QQ": "x"}).values()
    assert hint.startswith("there are MESH_GATEWAY, MESH_LOG_LEVEL, ")
    assert "MESH_LIMITS" not in hint


def test_what_kubernetes_adds_for_a_service_named_mesh_is_no_slip() -> None:
    added = {
        "MESH_SERVICE_HOST": "10.0.0.11",
        "MESH_SERVICE_PORT": "7443",
        "MESH_SERVICE_PORT_PEERS": "7443",
        "MESH_PORT": "tcp://10.0.0.11:7443",
        "MESH_GATEWAY_PORT_7443_TCP": "tcp://10.0.0.11:7443",
        "MESH_GATEWAY_PORT_7443_TCP_ADDR": "10.0.0.11",
    }
    assert unknown_variables(added) == {}
    assert list(unknown_variables({"MESH_ADMIN_PORT": "9464"})) == ["MESH_ADMIN_PORT"]


async def test_a_peer_warns_of_an_unknown_variable_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on: the program around it may have its own reasons."""
    monkeypatch.setenv("MESH_TLS_CAA", "ca.pem")
    monkeypatch.setenv("MESH_LISTEN", "unix:/a")  # a gateway's, and none of its business
    caplog.set_level(logging.WARNING, "mesh.client")
    async with mesh.Gateway() as gateway:
        for _ in range(2):
            async with mesh.connect("users", gateway=gateway) as client:
                assert client.is_connected
    told = [record.getMessage() for record in caplog.records if "variable" in record.getMessage()]
    assert told == ["MESH_TLS_CAA: unknown variable; did you mean MESH_TLS_CA?"]
