"""What a peer takes from `MESH_*` variables where its program says nothing.

``MESH_GATEWAY`` (see :func:`mesh.transport.default_address`), ``MESH_METADATA`` and the limits that
concern a peer, each as ``MESH_LIMITS_`` and its name; for ``tls:`` addresses those of
:mod:`mesh.transport.certificates`. An empty variable counts as none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mesh.errors import SettingError
from mesh.limits import BOUNDS, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS_PREFIX = "MESH_LIMITS_"
METADATA = "MESH_METADATA"


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
