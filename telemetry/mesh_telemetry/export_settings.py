"""What `OTEL_*` variables say about the export of traces, checked before anything starts.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/ and
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. The SDK reads
most of them too, but takes its default for a wrong value and says so in its log. An empty variable
counts as none; of two that say the same, the one for traces alone holds.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


HTTP, GRPC = "http/protobuf", "grpc"
DEFAULT_ENDPOINTS = {HTTP: "http://localhost:4318", GRPC: "http://localhost:4317"}

_PREFIX = "OTEL_EXPORTER_OTLP_"
_MILLISECONDS_FROM = 1000.0
LONGEST_WHOLE = 9
"""Digits of a number: what the clocks of threads and sockets can wait for, and lists can hold."""


class ExportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where spans go, and how."""

    endpoint: str
    """For HTTP the whole URL, ``/v1/traces`` included."""
    protocol: str = HTTP
    headers: dict[str, str] = {}
    timeout: float = 10.0
    """Seconds for one batch, with all its retries."""
    compression: str = "none"
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    insecure: bool | None = None
    """Whether gRPC goes without TLS where the endpoint does not say."""
    max_queue_size: int = 8192
    """Spans that wait; what comes while so many wait is dropped."""
    max_batch_size: int = 512
    """Spans in one request, at most."""
    delay: float = 0.2
    """Seconds that a span waits for others."""

    @property
    def place(self) -> str:
        """The endpoint as logs may tell it: without a user and a password."""
        if "://" not in self.endpoint:
            return _without_secrets(self.endpoint)
        parts = urlsplit(self.endpoint)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def settings_from(environ: Mapping[str, str] = os.environ) -> ExportSettings | None:
    """The settings that variables name; none where nothing is to be exported.

    That is: no endpoint is named and ``OTEL_TRACES_EXPORTER`` asks for nothing,
    ``OTEL_TRACES_EXPORTER=none``, or ``OTEL_SDK_DISABLED=true``. What is named besides
    ``otlp`` is for others.

    Raises:
        ValueError: A value cannot be; the message names the variable.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporters = [name.strip() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    _, named = _otlp(environ, "ENDPOINT")
    if "none" in exporters or not (named or any(exporters)):
        return None
    if any(exporters) and "otlp" not in exporters:
        raise ValueError(
            f"OTEL_TRACES_EXPORTER must be otlp or none here, not {','.join(exporters)!r}"
        )
    protocol = _one_of(*_otlp(environ, "PROTOCOL"), (HTTP, GRPC)) or HTTP
    compressions = ("none", "gzip") if protocol == GRPC else ("none", "gzip", "deflate")
    queue = _whole(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 8192)
    batch = _whole(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(512, queue))
    if batch > queue:
        raise ValueError(
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE of {batch:,} exceeds"
            f" OTEL_BSP_MAX_QUEUE_SIZE of {queue:,}"
        )
    return ExportSettings(
        endpoint=_endpoint(environ, protocol),
        protocol=protocol,
        headers=_headers(*_otlp(environ, "HEADERS")),
        timeout=_timeout(*_otlp(environ, "TIMEOUT")),
        compression=_one_of(*_otlp(environ, "COMPRESSION"), compressions) or "none",
        certificate=_file(*_otlp(environ, "CERTIFICATE")),
        client_key=_file(*_otlp(environ, "CLIENT_KEY")),
        client_certificate=_file(*_otlp(environ, "CLIENT_CERTIFICATE")),
        insecure=_truth(*_otlp(environ, "INSECURE")),
        max_queue_size=queue,
        max_batch_size=batch,
        delay=_whole(environ, "OTEL_BSP_SCHEDULE_DELAY", 200) / 1000,
    )


def _otlp(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that says it and what it says; the general one and nothing where none does."""
    for variable in (f"{_PREFIX}TRACES_{name}", f"{_PREFIX}{name}"):
        text = environ.get(variable, "").strip()
        if text:
            return variable, text
    return variable, ""


def _endpoint(environ: Mapping[str, str], protocol: str) -> str:
    variable, text = _otlp(environ, "ENDPOINT")
    text = text or DEFAULT_ENDPOINTS[protocol]
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no number for a port, or half an IPv6 address
        is_url = False
    if protocol == GRPC and "://" not in text:
        return text  # gRPC has names of its own: host:port, dns:host, unix:path
    if not is_url:
        raise ValueError(
            f"{variable} must be a URL, http://HOST:PORT or https://..., "
            f"not {_without_secrets(text)!r:.200}"
        )
    if protocol == GRPC or variable == f"{_PREFIX}TRACES_ENDPOINT":
        return text
    return f"{text.removesuffix('/')}/v1/traces"


def _without_secrets(text: str) -> str:
    """What was meant to be an endpoint, without a user, a password and a query.

    Where there is no telling where these end, as either has what belongs into the other, without
    all of it.
    """
    scheme, slashes, rest = text.rpartition("://")
    place, *query = re.split(r"[?#]", rest, maxsplit=1)
    told = "..." if query and "@" in rest else place.rpartition("@")[2]
    return f"{scheme}{slashes}{told}"


def _timeout(variable: str, text: str) -> float:
    """Seconds, as every exporter of the SDK for Python reads it.

    The specification has milliseconds, and one machine's variables are set for all languages, so
    from 1,000 on it is these: nobody waits a quarter of an hour for a batch.
    """
    if not text:
        return 10.0
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10**LONGEST_WHOLE:
        raise ValueError(f"{variable} must be a number of seconds above 0, not {text!r}")
    return value if value < _MILLISECONDS_FROM else value / 1000


def _headers(variable: str, text: str) -> dict[str, str]:
    found = {name.lower(): value for name, value in _pairs(variable, text).items()}
    for place, (name, value) in enumerate(found.items(), start=1):
        # What cannot be sent is told by HTTP libraries with its value, which may be a secret.
        if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()):
            raise ValueError(f"{variable}: header {place} has characters that no header can have")
    return found


def _pairs(variable: str, text: str) -> dict[str, str]:
    """``name=value,name=value``, percent-encoded as in W3C baggage."""
    found = {}
    for place, part in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        name, is_given, value = part.partition("=")
        if not is_given or not name.strip():
            # A header may be a secret: only its place is told.
            raise ValueError(
                f"{variable} must be NAME=VALUE, with commas between; part {place} is not"
            )
        found[unquote(name.strip())] = unquote(value.strip())
    return found


def _one_of(variable: str, text: str, known: tuple[str, ...]) -> str:
    if text and text.lower() not in known:
        raise ValueError(f"{variable} must be {' or '.join(known)}, not {text!r}")
    return text.lower()


def _truth(variable: str, text: str) -> bool | None:
    said = _one_of(variable, text, ("true", "false"))
    return said == "true" if said else None


def _file(variable: str, text: str) -> str | None:
    if text and not os.access(text, os.R_OK):
        raise ValueError(f"{variable} names a file that cannot be read: {text!r}")
    return text or None


def _whole(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > LONGEST_WHOLE or not int(text):
        most = "9" * LONGEST_WHOLE
        raise ValueError(
            f"{variable} must be a whole number above 0, {most} at most, not {text!r:.60}"
        )
    return int(text)
