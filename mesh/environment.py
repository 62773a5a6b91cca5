"""Which `MESH_*` variables there are, and what a peer takes where its program says nothing.

``MESH_GATEWAY`` (see :func:`mesh.transport.default_address`), ``MESH_METADATA``, ``MESH_KEEP_LOGS``
(see :mod:`mesh.loglines`) and the limits that concern a peer, each as ``MESH_LIMITS_`` and its
name; for ``tls:`` addresses those of
:mod:`mesh.transport.certificates`. An empty variable counts as none. One that nobody knows is most
often a slip of the pen: it stops a gateway, and a peer warns of it.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from typing import TYPE_CHECKING, Any

from mesh.errors import SettingError
from mesh.limits import BOUNDS, Limits
from mesh_telemetry import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS_PREFIX = "MESH_LIMITS_"
METADATA = "MESH_METADATA"
KEEP_LOGS = "MESH_KEEP_LOGS"

GATEWAYS_VARIABLES = (
    "MESH_CONFIG",
    "MESH_LISTEN",
    "MESH_ADMIN",
    "MESH_ADMIN_TOKEN_FILE",
    "MESH_LISTEN_TLS_CERT",
    "MESH_LISTEN_TLS_KEY",
    "MESH_LISTEN_TLS_CLIENT_CA",
    "MESH_ALLOW_PLAIN_TCP",
    "MESH_SOCKET_MODE",
    "MESH_TELEMETRY",
)
"""Those of a gateway only."""
PEERS_VARIABLES = (METADATA, KEEP_LOGS, "MESH_TLS_CA", "MESH_TLS_CERT", "MESH_TLS_KEY")
"""Those of a peer only."""
TRACES_VARIABLES = tuple(
    "MESH_TRACES_" + field.upper() for field in TraceSettings.__struct_fields__
)
"""A gateway's."""
LIMITS_VARIABLES = tuple(LIMITS_PREFIX + name.upper() for name in BOUNDS)
"""A gateway's, and some of them a peer's."""
VARIABLES = (
    "MESH_GATEWAY",
    "MESH_LOG_LEVEL",
    "MESH_LOG_FORMAT",
    *GATEWAYS_VARIABLES,
    *PEERS_VARIABLES,
    *TRACES_VARIABLES,
    *LIMITS_VARIABLES,
)
"""All that there are. Gateways and peers often share an environment, and take no offence at each
other's."""

_OF_KUBERNETES = re.compile(
    r"MESH_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_[A-Z]+(_PROTO|_PORT|_ADDR)?=)"
)
"""What every pod is given where a Kubernetes service is called mesh, or mesh-something:
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""

log = logging.getLogger("mesh.client")
warned: set[str] = set()
"""What this process has been warned of already; the pytest plugin empties it for each test."""


def unknown_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The ``MESH_*`` variables that nobody knows, each with what it may have been meant to be."""
    return {
        name: _nearest(name)
        for name, value in environment.items()
        if name.startswith("MESH_")
        and value
        and name not in VARIABLES
        and not _OF_KUBERNETES.match(f"{name}={value}")
    }


def _nearest(name: str) -> str:
    ends = [known.removeprefix("MESH_") for known in VARIABLES]
    near = difflib.get_close_matches(name.removeprefix("MESH_"), ends, n=1)
    if near:
        return f"did you mean MESH_{near[0]}?"
    is_limit = name.startswith(LIMITS_PREFIX)
    family = [known for known in VARIABLES if known.startswith(LIMITS_PREFIX) == is_limit]
    return f"there are {', '.join(family)}"


def warn_of_unknown_variables(environment: Mapping[str, str] = os.environ) -> None:
    """Log each unknown variable, once in a process."""
    for name, hint in unknown_variables(environment).items():
        if name not in warned:
            warned.add(name)
            log.warning("%s: unknown variable; %s", name, hint)


def limits_from(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits that variables name, the others at their defaults.

    Raises:
        SettingError: A value cannot be; the message names the variable.
    """
    given: dict[str, Any] = {}
    for name, bound in BOUNDS.items():
        variable = LIMITS_PREFIX + name.upper()
        text = environment.get(variable)
        if not text:
            continue
        try:
            given[name] = bound.parse(text)
        except ValueError as fault:
            raise SettingError(f"{variable} must be {fault}, not {text!r}") from None
        wrong = bound.fault(given[name])
        if wrong is not None:
            raise SettingError(f"{variable} {wrong}")
    try:
        return Limits(**given)
    except ValueError as fault:
        raise SettingError(str(fault)) from None


def metadata_from(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The metadata of ``MESH_METADATA``: ``zone=a,version=3``.

    Raises:
        SettingError: A part is not ``NAME=VALUE``.
    """
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, environment.get(METADATA, "").split(","))):
        name, is_given, value = part.partition("=")
        if not is_given or not name.strip():
            raise SettingError(f"{METADATA} must be NAME=VALUE, with commas between, not {part!r}")
        found[name.strip()] = value.strip()
    return found


def forget_settings() -> None:
    """Remove every ``MESH_*`` variable: for programs that bring a mesh of their own."""
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        del os.environ[name]
