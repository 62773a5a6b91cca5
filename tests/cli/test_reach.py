"""What `--check-config` says of addresses: all that the gateway would refuse, before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh.cli import main
from mesh.cli.configuration import Configuration
from tests.certificates import Authority


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


@pytest.mark.parametrize(
    ("broken", "content", "path", "complaint"),
    [
        ("cert.pem", "junk", "tls.cert", "holds no certificate in PEM form"),
        ("cert.key", "another", "tls.cert", "does not belong to the certificate in"),
        ("ca.pem", "junk", "tls.client_ca", "holds no certificates of authorities"),
        ("token", "", "admin_token_file", "holds no token"),
        ("token", "\udcff", "admin_token_file", "cannot be read: 'utf-8' codec"),
    ],
)
def test_files_that_the_start_refuses_are_faults(
    tmp_path: Path, broken: str, content: str, path: str, complaint: str
) -> None:
    """They are read as the gateway reads them, and not only looked for."""
    authority = Authority(tmp_path)
    files, other = authority.issue("localhost", to="cert"), authority.issue("localhost", to="other")
    token = tmp_path / "token"
    token.write_text("secret")
    given = {
        "listen": ["tls:127.0.0.1:0"],
        "tls.cert": str(files.cert),
        "tls.key": str(files.key),
        "tls.client_ca": str(authority.file),
        "admin_token_file": str(token),
    }
    fine = Configuration(given, (), None, {})
    assert (fine.faults, fine.admin_token) == ([], "secret")
    text = Path(str(other.key)).read_text() if content == "another" else content
    (tmp_path / broken).write_text(text, errors="surrogateescape")
    (fault,) = Configuration(given, (), None, {}).faults
    assert (fault.path, complaint in fault.message) == (path, True)


def test_a_check_refuses_what_the_export_of_traces_refuses() -> None:
    """In the words of the start; without telemetry nothing is exported."""
    check = ["gateway", "--check-config"]
    wrong = {"OTEL_TRACES_EXPORTER": "console"}
    result = CliRunner().invoke(main, check, env=wrong)
    said = "OTEL_TRACES_EXPORTER must be otlp or none here, not 'console'"
    assert (result.exit_code, result.stderr) == (2, f"mesh: {said}\n")
    started = CliRunner().invoke(main, ["gateway", "--admin", "none"], env=wrong)
    assert (started.exit_code, started.stderr) == (2, f"mesh: {said}\n")
    result = CliRunner().invoke(main, [*check, "--json"], env=wrong)
    (fault,) = json.loads(result.stdout)["faults"]
    assert (result.exit_code, fault["path"]) == (2, "OTEL_TRACES_EXPORTER")
    for fine in (["--telemetry", "off"], []):
        env = wrong if fine else {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
        assert CliRunner().invoke(main, [*check, *fine], env=env).exit_code == 0


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
