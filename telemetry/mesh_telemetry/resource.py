"""Who made a span: the resource of a process, by OpenTelemetry's conventions and variables.

https://opentelemetry.io/docs/specs/semconv/resource/ and
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mesh_telemetry import names
from mesh_telemetry.attributes import clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh_telemetry.spans import Attributes


def describe(
    name: str, instance: str, version: str, environment: Mapping[str, str] = os.environ
) -> Attributes:
    """The resource of one peer, or of a gateway.

    Args:
        name: What it is called, unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` says
            otherwise.
        instance: Its process id in the mesh.
        version: The mesh's version.
        environment: Where the variables are looked for.
    """
    found: Attributes = {
        names.SERVICE_NAME: name,
        names.SERVICE_INSTANCE_ID: instance,
        "host.name": socket.gethostname(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "spanmesh",
        "telemetry.sdk.version": version,
    }
    for pair in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, sign, value = pair.partition("=")
        if sign and key.strip():
            found[key.strip()] = unquote(value.strip())
    called = environment.get("OTEL_SERVICE_NAME", "").strip()
    if called:
        found[names.SERVICE_NAME] = called
    # A variable may hold bytes that are no text, which can neither be sent nor shown.
    return {clean_text(key): clean_text(str(value)) for key, value in found.items()}
