"""What `--check-config` says of addresses: all that the gateway would refuse, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh.cli.configuration import Configuration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arguments", "path", "message"),
    [
        ({"listen": ["tls:127.0.0.1:7443"]}, "listen", "needs a certificate"),
        ({"tls.key": "x"}, "tls.key", "needs tls.cert"),
        ({"tls.client_ca": "x"}, "tls.client_ca", "needs tls.cert"),
        ({"listen": ["tcp:0.0.0.0:7000"]}, "listen", "reached from other machines"),
        ({"admin": "0.0.0.0:9464"}, "admin", "set admin_token_file"),
        ({"admin_token_file": "/no/such"}, "admin_token_file", "No such file"),
    ],
)
def test_what_an_address_lacks_is_a_fault(
    arguments: dict[str, object], path: str, message: str
) -> None:
    """By its key path, with what to do."""
    configuration = Configuration({"listen": ["unix:/x"]} | arguments, (), None, {})
    assert any(one.path == path and message in one.message for one in configuration.faults)


def test_what_has_all_it_needs_is_fine(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    given = {
        "listen": ["tcp:0.0.0.0:7000", "unix:/x"],
        "allow_plain_tcp": True,
        "admin": "0.0.0.0:9464",
        "admin_token_file": str(token),
    }
    assert Configuration(given, (), None, {}).faults == []


def test_a_peers_own_certificate_is_not_the_gateways() -> None:
    """`MESH_TLS_CERT` is whom a peer is; what a gateway shows has a variable of its own."""
    environment = {"MESH_TLS_CERT": "/mine.pem", "MESH_TLS_KEY": "/mine.key"}
    configuration = Configuration({"listen": ["unix:/x"]}, (), None, environment)
    assert configuration.faults == []
    assert configuration["tls.cert"] is None
