"""TLS handshakes that fail: what is wrong, in words for the side that reads them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.transport.addresses import Address

EXPIRED, NOT_YET_VALID = 10, 9
UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
WRONG_NAME = frozenset({62, 64})
"""OpenSSL's verification results: https://docs.openssl.org/3.0/man1/openssl-verification-options/"""


class HandshakeFailed(ConnectionError):  # noqa: N818 - named like the event
    """There is no TLS connection; the message says what is wrong.

    Attributes:
        reason: A short word for it, for counters.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def explain_to_gateway(fault: BaseException) -> HandshakeFailed:
    """What a peer did wrong, in a gateway's words."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        if fault.verify_code == EXPIRED:
            return HandshakeFailed("its certificate has expired", "expired_certificate")
        if fault.verify_code in UNKNOWN_AUTHORITY:
            return HandshakeFailed(
                "its certificate is from an authority that the client CA file does not hold",
                "unknown_authority",
            )
        return HandshakeFailed(f"its certificate: {fault.verify_message}", "bad_certificate")
    reason = str(getattr(fault, "reason", None) or "")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return HandshakeFailed(
            "it shows no certificate, and one is required (MESH_TLS_CERT)", "no_certificate"
        )
    if "ALERT" in reason:
        return HandshakeFailed(
            f"it refuses this gateway's certificate or its ways: {_words(fault)}", "refused_by_peer"
        )
    if isinstance(fault, ssl.SSLError) and reason and "EOF" not in reason:
        return HandshakeFailed(_words(fault), "protocol")
    return HandshakeFailed("it closed the connection during the handshake", "disconnected")


def explain_to_peer(fault: BaseException, tls: ssl.SSLObject, address: Address) -> HandshakeFailed:
    """What is wrong at a gateway, in its peer's words."""
    reason = str(getattr(fault, "reason", None) or "")
    if isinstance(fault, ssl.SSLCertVerificationError):
        shown = _certificate(tls)
        code = fault.verify_code
        text = f"certificate of {address} "
        if code in WRONG_NAME:
            names = [str(name) for _, name in shown.get("subjectAltName", ())]
            text += f"is for {', '.join(names[:10]) or 'another name'}, not {address.host}"
        elif code == EXPIRED:
            text += f"has expired{_when(shown, 'notAfter')}"
        elif code == NOT_YET_VALID:
            text += f"is not valid yet{_when(shown, 'notBefore')}"
        elif code in UNKNOWN_AUTHORITY:
            issuer = ", ".join(str(value) for part in shown.get("issuer", ()) for _, value in part)
            text += "is from an authority that is not trusted here"
            text += f" ({issuer})" if issuer else ""
            text += "; MESH_TLS_CA can name its file"
        else:
            text += f"is not accepted: {fault.verify_message}"
        return HandshakeFailed(text, "bad_certificate")
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
        text = f"{address}: the other end speaks no TLS; if it is a plain address, write tcp:"
        return HandshakeFailed(text, "plain_text")
    if "ALERT" in reason and isinstance(fault, ssl.SSLError):
        return HandshakeFailed(f"{address}: {explain_alert(fault)}", "refused_by_gateway")
    if isinstance(fault, ssl.SSLError) and reason and "EOF" not in reason:
        return HandshakeFailed(f"{address}: TLS failed: {_words(fault)}", "protocol")
    text = f"{address}: the other end closed the connection during the TLS handshake"
    return HandshakeFailed(text, "disconnected")


def explain_alert(fault: ssl.SSLError) -> str:
    """What the other end's alert means to a peer."""
    reason = str(fault.reason or "")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            "the gateway requires a client certificate; MESH_TLS_CERT and MESH_TLS_KEY can name one"
            if "REQUIRED" in reason
            else "the gateway refused the TLS handshake; it may require a client certificate"
        )
    if "EXPIRED" in reason:
        return "the gateway refused this peer's certificate: it has expired"
    if "UNKNOWN_CA" in reason:
        return "the gateway refused this peer's certificate: it does not trust its authority"
    return f"TLS failed: {_words(fault)}"


def _certificate(tls: ssl.SSLObject) -> dict[str, Any]:
    """The certificate that was shown and not accepted.

    Python tells of accepted ones only, so that this looks inside; elsewhere than in CPython an
    error says less, and nothing else changes.
    """
    try:
        chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined] # CPython's inside
        shown: dict[str, Any] = chain[0].get_info()
    except (AttributeError, IndexError, TypeError, ssl.SSLError):
        return {}
    return shown


def _when(certificate: dict[str, Any], field: str) -> str:
    return f" ({certificate[field]})" if field in certificate else ""


def _words(fault: BaseException) -> str:
    """OpenSSL's reason, without its decoration."""
    reason = getattr(fault, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(fault)
