"""`mesh gateway` with certificates, as a process: whom the command trusts, and SIGHUP."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from mesh import CertificateFiles
    from tests.cli.conftest import Mesh


@pytest.fixture(name="authority")
def make_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def tls_options(files: CertificateFiles) -> tuple[str, ...]:
    return (
        "--listen",
        "tls:127.0.0.1:0",
        "--tls-cert",
        str(files.cert),
        "--tls-key",
        str(files.key),
    )


def shown_by(address: str, authority: Authority) -> str:
    """The name in the certificate that a gateway shows to whoever comes now."""
    _, host, port = address.split(":")
    der = ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.file), timeout=20)
    from cryptography import x509

    names = (
        x509.load_pem_x509_certificate(der.encode())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    return str(next(iter(names)).value)


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """The next line of the error output that holds a text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended without saying {text!r}")


def test_sighup_reloads_certificates_while_a_call_is_in_flight(
    shell: Mesh, authority: Authority, next_line: Callable[[subprocess.Popen[str]], str]
) -> None:
    """Connections and calls stay; who comes later sees the new certificate."""
    files = authority.issue("127.0.0.1", "first.example", to="gateway")
    shell.env["MESH_TLS_CA"] = str(authority.file)
    with shell.gateway(*tls_options(files)) as (process, ready):
        address = shell.env["MESH_GATEWAY"] = ready["addresses"][0]
        with (
            shell.service(address) as users,
            shell.start("call", "users", "wait", "--timeout", "60") as caller,
        ):
            assert next_line(users) == "waiting\n"
            assert shown_by(address, authority) == "127.0.0.1"

            authority.issue("second.example", "127.0.0.1", to="gateway")
            process.send_signal(signal.SIGHUP)
            wait_for_line(process, "certificates reloaded from")
            assert shown_by(address, authority) == "second.example"
            assert caller.poll() is None
            assert shell("call", "users", "get", '"ada"').returncode == 0

            Path(files.cert).write_text("broken")
            process.send_signal(signal.SIGHUP)
            line = wait_for_line(process, "certificates not reloaded")
            assert "gateway.pem holds no certificate in PEM form" in line
            assert shown_by(address, authority) == "second.example"
            assert shell("call", "users", "get", '"ada"').returncode == 0
            assert caller.poll() is None

            caller.send_signal(signal.SIGINT)
            assert caller.wait(20) == 130
        process.terminate()
        assert process.wait(30) == 0


def test_mutual_tls_lets_the_command_in_by_its_certificate(
    shell: Mesh, authority: Authority
) -> None:
    """And says what is missing where there is none."""
    files, mine = authority.issue("127.0.0.1"), authority.issue("operator")
    shell.env["MESH_TLS_CA"] = str(authority.file)
    with shell.gateway(*tls_options(files), "--tls-client-ca", str(authority.file)) as (_, ready):
        shell.env["MESH_GATEWAY"] = ready["addresses"][0]
        refused = shell("list")
        assert refused.returncode == 1
        assert "the gateway requires a client certificate; MESH_TLS_CERT" in refused.stderr
        shell.env |= {"MESH_TLS_CERT": str(mine.cert), "MESH_TLS_KEY": str(mine.key)}
        assert shell("list").returncode == 0
        shell.env["MESH_TLS_CERT"] = "/no/such.pem"
        wrong = shell("list")
        assert wrong.returncode == 2
        assert "/no/such.pem cannot be read: No such file" in wrong.stderr
        assert "Traceback" not in wrong.stderr
