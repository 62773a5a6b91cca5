"""What `OTEL_*` variables say about the export: read as documented, or refused by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from mesh_telemetry.export import Exporter
from mesh_telemetry.export_settings import ExportSettings, settings_from

if TYPE_CHECKING:
    from pathlib import Path

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def settings(**variables: str) -> ExportSettings:
    found = settings_from(BASE | variables)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        BASE | {"OTEL_SDK_DISABLED": "True"},
        BASE | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "nonsense"},
    ],
)
def test_nothing_is_exported_unless_asked_for(variables: dict[str, str]) -> None:
    assert settings_from(variables) is None
    assert Exporter.from_environment(variables) is None


def test_an_endpoint_is_enough() -> None:
    assert settings() == ExportSettings(endpoint="http://collector:4318/v1/traces")
    named = {"OTEL_TRACES_EXPORTER": "console, otlp"}
    assert settings_from(named) == ExportSettings(endpoint="http://localhost:4318/v1/traces")


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/base/"}, "https://c/base/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/here"}, "http://c:1/here"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://collector:4318"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"},
            "c:4317",
        ),
    ],
)
def test_endpoints(variables: dict[str, str], endpoint: str) -> None:
    assert settings(**variables).endpoint == endpoint


def test_all_of_them(tmp_path: Path) -> None:
    for name in ("ca", "key", "certificate"):
        (tmp_path / name).touch()
    assert settings(
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Basic%20abc%3D, x-team = a",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TIMEOUT="2.5",
        OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "ca"),
        OTEL_EXPORTER_OTLP_CLIENT_KEY=str(tmp_path / "key"),
        OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(tmp_path / "certificate"),
        OTEL_EXPORTER_OTLP_INSECURE="true",
        OTEL_BSP_SCHEDULE_DELAY="1000",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
    ) == ExportSettings(
        endpoint="http://collector:4318/v1/traces",
        headers={"authorization": "Basic abc=", "x-team": "a"},
        compression="gzip",
        timeout=2.5,
        certificate=str(tmp_path / "ca"),
        client_key=str(tmp_path / "key"),
        client_certificate=str(tmp_path / "certificate"),
        insecure=True,
        delay=1.0,
        max_queue_size=100,
        max_batch_size=10,
    )


def test_a_small_queue_makes_small_batches() -> None:
    assert settings(OTEL_BSP_MAX_QUEUE_SIZE="100").max_batch_size == 100


def test_a_timeout_is_in_seconds_or_where_that_makes_no_sense_in_milliseconds() -> None:
    assert settings(OTEL_EXPORTER_OTLP_TIMEOUT="10").timeout == 10.0
    assert settings(OTEL_EXPORTER_OTLP_TIMEOUT="10000").timeout == 10.0
    assert settings(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="3").timeout == 3.0


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "console", "must be otlp or none here, not 'console'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf or grpc, not 'http/json'"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must be a URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "must be a URL"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:port", "must be a URL"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "seconds above 0, not '0'"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "seconds above 0, not 'soon'"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan", "seconds above 0, not 'nan'"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "none or gzip or deflate, not 'zstd'"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file", "cannot be read: '/no/such/file'"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes", "true or false, not 'yes'"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "a whole number above 0, 999999999 at most, not '0'"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5", "a whole number above 0, 999999999 at most, not '-5'"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "9" * 5000, "a whole number above 0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "9" * 30, "a whole number above 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1e30", "seconds above 0, not '1e30'"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9000", "9,000 exceeds OTEL_BSP_MAX_QUEUE_SIZE"),
    ],
)
def test_a_wrong_value_is_refused_by_name(variable: str, value: str, message: str) -> None:
    more = {"OTEL_BSP_MAX_QUEUE_SIZE": "100"} if "9,000" in message else {}
    with pytest.raises(ValueError, match=message) as caught:
        Exporter.from_environment(BASE | more | {variable: value})
    assert variable in str(caught.value)


@pytest.mark.parametrize("value", ["console", "zipkin", "console,jaeger"])
def test_an_exporter_that_is_not_known_is_refused_also_without_an_endpoint(value: str) -> None:
    """Whoever asks for it would wait for spans that never come."""
    with pytest.raises(ValueError, match=f"must be otlp or none here, not '{value}'"):
        Exporter.from_environment({"OTEL_TRACES_EXPORTER": value})


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("htp://user:secret@c:4318/v1", "not 'htp://c:4318/v1'"),
        ("user:secret@c:4318", "not 'c:4318'"),
        ("http://user:secret@c:port", "not 'http://c:port'"),
        ("http://user:sec/ret@c:4318", "not 'http://c:4318'"),
        ("http://user:secret?secret@c:4318", "not 'http://...'"),
        ("http://c:port?key=secret@secret", "not 'http://...'"),
        ("http://c:port/v1?key=secret", "not 'http://c:port/v1'"),
    ],
)
def test_an_endpoint_that_is_none_is_told_without_its_secrets(endpoint: str, told: str) -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_ENDPOINT must be a URL") as caught:
        settings(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert str(caught.value).endswith(told)
    assert "sec" not in str(caught.value)


def test_a_wrong_header_is_not_told() -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        settings(OTEL_EXPORTER_OTLP_HEADERS="a=b,secret")
    assert "part 2" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["Bearer%20secret%0A", "secret%E2%82%AC"])
def test_a_header_that_cannot_be_sent_is_not_told(value: str) -> None:
    with pytest.raises(ValueError, match="header 2 has characters") as caught:
        settings(OTEL_EXPORTER_OTLP_HEADERS=f"a=b,authorization={value}")
    assert "secret" not in str(caught.value)


def test_a_place_is_told_without_its_secrets() -> None:
    endpoint = "https://user:secret@c:4318/v1/traces?key=secret"
    assert settings(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint).place == "https://c:4318/v1/traces"
    of_grpc = settings(
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_ENDPOINT="user:secret@c:4317"
    )
    assert of_grpc.place == "c:4317"


def test_grpc_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[grpc\]' in a clone"):
        Exporter.from_environment(BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
