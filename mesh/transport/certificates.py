"""Certificates and whom to trust: from files to the contexts of Python's `ssl`."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import CertificateError

CA, CERT, KEY = "MESH_TLS_CA", "MESH_TLS_CERT", "MESH_TLS_KEY"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The PEM files that a gateway shows who it is with, and what its peers must show.

    Args:
        cert: The gateway's certificate, followed by those of intermediate authorities.
        key: Its private key, without a passphrase; where None, it is in ``cert`` too.
        client_ca: Authorities of client certificates. Where given, every peer must show a
            certificate that one of them has issued (mutual TLS).
    """

    cert: str | Path
    key: str | Path | None = None
    client_ca: str | Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files now.

        Raises:
            CertificateError: One of them cannot be used; the message says which and why.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Connections are long: a resumed session saves nothing, and would go on after the
        # authority of its client certificate has been removed.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        _show(context, self.cert, self.key)
        if self.client_ca is not None:
            _trust(context, self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def names_files() -> bool:
    """Whether the environment names files of a peer's, which may change while it runs."""
    return any(os.environ.get(name) for name in (CA, CERT, KEY))


def default_client_context() -> ssl.SSLContext:
    """A peer's context, by the environment.

    ``MESH_TLS_CA`` names the authorities to trust in place of the system's, ``MESH_TLS_CERT`` and
    ``MESH_TLS_KEY`` the certificate to show.

    Raises:
        CertificateError: A file cannot be used; the message says which and why.
    """
    ca, cert, key = (os.environ.get(name) for name in (CA, CERT, KEY))
    if key and not cert:
        raise CertificateError(f"{KEY} is set, and {CERT} is not: name the key's certificate too")
    if ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
        _trust(context, ca)
    else:
        context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        _show(context, cert, key or None)
    return context


def _show(context: ssl.SSLContext, cert: str | Path, key: str | Path | None) -> None:
    for path in (cert, key or cert):
        _read(path)

    def no_passphrase() -> bytes:  # else OpenSSL would ask for it on the terminal
        raise CertificateError(f"{key or cert}: the key has a passphrase; give one without")

    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as fault:
        if fault.reason == "KEY_VALUES_MISMATCH":
            message = f"the key in {key or cert} does not belong to the certificate in {cert}"
        elif b"-----BEGIN CERTIFICATE-----" not in _read(cert):
            message = f"{cert} holds no certificate in PEM form"
        elif b"PRIVATE KEY-----" not in _read(key or cert):
            message = f"{key or cert} holds no private key in PEM form"
        else:
            message = f"the certificate in {cert}, or its key in {key or cert}, is broken: {fault}"
        raise CertificateError(message) from fault


def _trust(context: ssl.SSLContext, ca: str | Path) -> None:
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as fault:
        raise CertificateError(
            f"{ca} holds no certificates of authorities in PEM form: {fault}"
        ) from fault


def _read(path: str | Path) -> bytes:
    """A file's content; OpenSSL does not say which file it could not open."""
    try:
        return Path(path).read_bytes()
    except OSError as fault:
        raise CertificateError(f"{path} cannot be read: {fault.strerror or fault}") from fault
