"""Who made a span."""

from __future__ import annotations

import socket

from mesh_telemetry import names
from mesh_telemetry.resource import describe


def test_a_resource_names_the_peer_its_process_its_host_and_what_made_the_spans() -> None:
    assert describe("users", "host-7", "1.2.3", {}) == {
        names.SERVICE_NAME: "users",
        names.SERVICE_INSTANCE_ID: "host-7",
        "host.name": socket.gethostname(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "spanmesh",
        "telemetry.sdk.version": "1.2.3",
    }


def test_variables_come_before_what_the_process_knows_and_the_name_before_the_list() -> None:
    variables = {
        "OTEL_SERVICE_NAME": "people",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=no,team=a%2Cb, service.instance.id = 2",
    }
    made = describe("users", "host-7", "1.2.3", variables)
    assert made[names.SERVICE_NAME] == "people"
    assert made[names.SERVICE_INSTANCE_ID] == "2"
    assert made["team"] == "a,b"


def test_what_is_no_pair_is_left_out() -> None:
    """As the SDK does: telemetry never stops a program."""
    made = describe("users", "1", "1", {"OTEL_RESOURCE_ATTRIBUTES": "team,=x,,a=b=c"})
    assert made["a"] == "b=c"
    assert not {"team", ""} & set(made)
