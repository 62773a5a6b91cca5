"""Whether what a call carries may be shown: by the method's contract, and to whom.

The gateway goes by what instances have registered, never by what a caller says of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.errors import PermissionDenied
from mesh.gateway.redacting import Kinds

if TYPE_CHECKING:
    from mesh.gateway.session import Session


OVERFLOW_USER = 65534
"""By whom Linux names all users that a namespace has none for; see user_namespaces(7)."""


class Contract:
    """What an instance has registered of a service, as far as payloads are concerned."""

    __slots__ = ("_definitions", "_methods")

    def __init__(self, schema: bytes) -> None:
        told = msgspec.json.decode(schema)  # an object, which was checked when it came
        self._definitions = _map(told.get("$defs"))
        self._methods = _map(told.get("methods"))

    def allows(self, method: str) -> bool:
        """Whether what calls of a method carry may be shown."""
        return _map(self._methods.get(method)).get("tap") is True

    def params(self, method: str) -> Kinds:
        """What it says of a method's parameters."""
        return self._kinds(_map(self._methods.get(method)).get("params"))

    def answer(self, method: str, code: int, reason: str) -> Kinds:
        """What it says of a method's result, or of the details of an error that it declares."""
        declared = _map(self._methods.get(method))
        if not code:
            return self._kinds(declared.get("result"))
        error = _map(_map(declared.get("errors")).get(reason))
        return self._kinds(error.get("details"))

    def _kinds(self, schema: object) -> Kinds:
        return Kinds((schema,), self._definitions)


def check_asker(asker: Session | None, *, allowed: bool) -> None:
    """Refuse payloads to whom they may not be shown.

    There are no identities of peers yet. Until then, the system vouches for who is at the other
    end of a Unix socket, and for nobody else.

    Args:
        asker: Who asks over the mesh; None for HTTP.
        allowed: Whether the gateway's operator allows payloads to be shown at all.

    Raises:
        PermissionDenied: They are not shown; the message says what is missing, and whose that is.
    """
    if asker is None:
        raise PermissionDenied(
            "payloads are not shown over HTTP, where nobody has an identity: use `mesh tap "
            "--payloads` at the gateway's Unix socket",
            reason="TAP_NOT_TRUSTED",
        )
    if not allowed:
        raise PermissionDenied(
            "this gateway shows no payloads to taps; whoever operates it can start it with "
            "`--allow-tap-payloads` (allow_tap_payloads in its file, MESH_ALLOW_TAP_PAYLOADS, "
            "Gateway(allow_tap_payloads=True))",
            reason="TAP_PAYLOADS_OFF",
        )
    user, own = asker.link.user, os.geteuid()
    if user == own == OVERFLOW_USER:
        raise PermissionDenied(
            f"payloads are shown to root alone by a gateway of user {own}: so the system calls all "
            "users whom it does not know; start the gateway as another one",
            reason="TAP_NOT_TRUSTED",
        )
    if user not in {own, 0}:
        who = f"is user {user}" if user is not None else "has no user that the system vouches for"
        raise PermissionDenied(
            f"payloads are shown to the gateway's own user ({own}) and to root, at its Unix socket;"
            f" this peer, {asker.where}, {who}",
            reason="TAP_NOT_TRUSTED",
        )


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
