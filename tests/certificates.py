"""Certificates for tests, made on the spot."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trustme

import mesh

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO, LESS_LONG_AGO = datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)


class Authority:
    """An authority, and the files of what it has issued."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, expired: bool = False, to: str = "") -> mesh.CertificateFiles:
        """A certificate for these names in files called ``to`` or like the first name."""
        made = self.ca.issue_cert(
            *names,
            not_before=LONG_AGO if expired else None,
            not_after=LESS_LONG_AGO if expired else None,
        )
        cert = self.folder / f"{to or names[0]}.pem"
        key = cert.with_suffix(".key")
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return mesh.CertificateFiles(cert, key)

    def trusting(self, shown: mesh.CertificateFiles | None = None) -> ssl.SSLContext:
        """A peer's context that trusts this authority, and shows a certificate if given one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.file)
        if shown is not None:
            context.load_cert_chain(shown.cert, shown.key)
        return context
