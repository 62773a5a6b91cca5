"""One batch of spans to an OTLP backend, and what became of it.

The SDK's exporters do the work: encoding, compression, TLS, retries with backoff within the
timeout. They tell success or failure and log the rest. Here is found out which failure it was, how
long the backend wants to be left alone, and how many spans it took less than it was sent; and their
log lines stay away, since a backend that is down would fill a log with them.

This room takes a quarter of a second to import; the exporter does so when there is something to
export.
"""

from __future__ import annotations

import contextlib
import email.utils
import logging
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from mesh_telemetry.export import Sent
from mesh_telemetry.export_settings import GRPC, ExportSettings
from mesh_telemetry.readable import Resources, convert

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh_telemetry.export import Sender
    from mesh_telemetry.spans import Attributes, Span

# https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes, and #failures for gRPC
_RETRIED = frozenset({429, 502, 503, 504})
_LONGEST_ANSWER = 65_536
"""Bytes of an answer that are read: a backend that says more than that is none."""
_PIECE = 64
_REFUSALS = frozenset(
    {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
        "UNAUTHENTICATED",
    }
)


class _Sender(ABC):
    """What both protocols share."""

    _exporter: SpanExporter

    def __init__(self) -> None:
        self._resources = Resources()

    def send(self, batch: list[tuple[Attributes, Span]]) -> Sent:
        """Send a batch; blocks for the timeout at most and does not raise."""
        # An instrumented HTTP client is not to make spans of the export of spans.
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            with _silence():
                spans, invalid = convert(batch, self._resources)
            sent = self._send(spans) if spans else Sent()
        finally:
            detach(token)
        if not invalid:
            return sent
        return sent._replace(invalid=invalid, why=sent.why or "OTLP cannot express them")

    def stop(self) -> None:
        """Give up what is under way, from another thread."""
        with _silence():
            self._exporter.shutdown()

    @abstractmethod
    def _send(self, spans: Sequence[ReadableSpan]) -> Sent: ...


class HttpSender(_Sender):
    """OTLP over HTTP, in protobuf.

    Args:
        settings: Where and how; nothing is opened yet.
    """

    def __init__(self, settings: ExportSettings) -> None:
        super().__init__()
        self._session = _Session()
        self._session.timeout = settings.timeout
        with _silence():
            self._exporter = OTLPSpanExporter(
                endpoint=settings.endpoint,
                certificate_file=settings.certificate,
                client_key_file=settings.client_key,
                client_certificate_file=settings.client_certificate,
                headers=settings.headers,
                timeout=settings.timeout,  # type: ignore[arg-type, unused-ignore]  # int until 1.34
                compression={
                    "none": Compression.NoCompression,
                    "gzip": Compression.Gzip,
                    "deflate": Compression.Deflate,
                }[settings.compression],
                session=self._session,
            )

    def _send(self, spans: Sequence[ReadableSpan]) -> Sent:
        self._session.forget()
        try:
            result, said = _export(self._exporter, spans)
        except requests.RequestException as error:  # some versions of the SDK pass it on
            return Sent(failed=len(spans), why=_cause(error))
        answer = self._session.answer
        if answer is None:
            fault = self._session.fault
            return Sent(failed=len(spans), why=said if fault is None else _cause(fault))
        status = f"{answer.status_code} {answer.reason}".strip()
        if answer.status_code in _RETRIED:
            return Sent(failed=len(spans), why=status, wait=_retry_after(answer))
        if result is SpanExportResult.SUCCESS and 200 <= answer.status_code < 300:
            return _partial(len(spans), answer.content)
        return Sent(rejected=len(spans), why=status)


class GrpcSender(_Sender):
    """OTLP over gRPC.

    Args:
        settings: Where and how; the channel connects by itself.

    Raises:
        ValueError: The extra ``grpc`` is not installed.
    """

    def __init__(self, settings: ExportSettings) -> None:
        try:
            import grpc  # noqa: PLC0415 - an extra
            from opentelemetry.exporter.otlp.proto.grpc import (  # noqa: PLC0415 - likewise
                trace_exporter,
            )
        except ImportError as error:
            raise ValueError(
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs what is not installed:"
                " pip install '.[grpc]' in a clone of spanmesh"
            ) from error
        super().__init__()
        insecure = settings.endpoint.startswith("http://") or (
            "://" not in settings.endpoint and bool(settings.insecure)
        )
        credentials = None
        if settings.certificate and not insecure:
            credentials = grpc.ssl_channel_credentials(
                _read(settings.certificate),
                _read(settings.client_key),
                _read(settings.client_certificate),
            )
        with _silence():
            self._exporter = trace_exporter.OTLPSpanExporter(
                endpoint=settings.endpoint,
                insecure=insecure,
                credentials=credentials,
                headers=tuple(settings.headers.items()),
                timeout=settings.timeout,  # type: ignore[arg-type, unused-ignore]  # int until 1.34
                compression=(
                    grpc.Compression.Gzip
                    if settings.compression == "gzip"
                    else grpc.Compression.NoCompression
                ),
            )

    def _send(self, spans: Sequence[ReadableSpan]) -> Sent:
        result, said = _export(self._exporter, spans)
        if result is SpanExportResult.SUCCESS:
            return Sent(exported=len(spans))
        if any(code in said for code in _REFUSALS):
            return Sent(rejected=len(spans), why=said)
        return Sent(failed=len(spans), why=said)


def sender(settings: ExportSettings) -> Sender:
    """The sender of a protocol.

    Raises:
        ValueError: The protocol needs an extra that is not installed.
    """
    return GrpcSender(settings) if settings.protocol == GRPC else HttpSender(settings)


class _Session(requests.Session):
    """One that remembers how the last request ended."""

    answer: requests.Response | None = None
    fault: Exception | None = None
    timeout = 10.0
    """Seconds for the whole of an answer's body; the one of requests is for each piece."""

    def forget(self) -> None:
        self.answer = self.fault = None

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        self.forget()
        options["stream"] = True  # else all of it is read, however much there is
        try:
            answer = super().send(request, **options)
            answer._content = _beginning(answer, time.monotonic() + self.timeout)
        except Exception as error:
            self.fault = error
            raise
        self.answer = answer
        return answer


def _beginning(answer: requests.Response, until: float) -> bytes:
    """As much of an answer as could be of interest; one that goes on after that is cut off.

    Raises:
        Timeout: It drips.
    """
    found = b""
    for piece in answer.iter_content(_PIECE):
        found += piece
        if len(found) >= _LONGEST_ANSWER:
            answer.close()
            break
        if time.monotonic() >= until:
            answer.close()
            raise requests.Timeout
    return found


def _export(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> tuple[SpanExportResult, str]:
    """The exporter's result, and the last that it would have logged."""
    with _silence() as said:
        result = exporter.export(spans)
    return result, said[-1] if said else "the exporter does not say why"


def _cause(fault: Exception) -> str:
    """What went wrong at the bottom of it: requests wraps urllib3, which wraps the system."""
    if isinstance(fault, requests.Timeout):
        return "no answer in time"
    found: BaseException = fault
    while (deeper := found.__cause__ or found.__context__) is not None:
        found = deeper
    if isinstance(found, OSError) and found.strerror:
        return found.strerror.lower()
    return str(found) or type(found).__name__


def _retry_after(answer: requests.Response) -> float:
    """Seconds of the header ``Retry-After``: a number, or a date (RFC 9110, 10.2.3)."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _partial(sent: int, body: bytes) -> Sent:
    """A success may still leave spans out (opentelemetry.io/docs/specs/otlp/#partial-success-1)."""
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:  # some backends answer in JSON, or in words
        return Sent(exported=sent)
    rejected = max(0, min(sent, partial.rejected_spans))
    if not rejected:
        return Sent(exported=sent)
    why = partial.error_message or f"it took {sent - rejected} of {sent} spans"
    return Sent(exported=sent - rejected, rejected=rejected, why=why)


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    return Path(path).read_bytes()


# What the SDK logs while one of our threads is in it is for us; other threads may have an SDK of
# their own, whose lines pass.

_hearing = threading.local()


class _Ear(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        said: list[str] | None = getattr(_hearing, "said", None)
        if said is None:
            return True
        said.append(record.getMessage())
        return False


_ear = _Ear()
for _name in (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.common._internal",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.attributes",
    "opentelemetry.trace.span",
):
    logging.getLogger(_name).addFilter(_ear)


@contextlib.contextmanager
def _silence() -> Iterator[list[str]]:
    said: list[str] = []
    _hearing.said = said
    try:
        yield said
    finally:
        _hearing.said = None
