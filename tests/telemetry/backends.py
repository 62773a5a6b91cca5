"""OTLP backends that fail, by hand: they refuse, hang, reject, throttle and take their time."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.telemetry.receivers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class Backend:
    """One at a free port. It takes what it gets, until it is told to behave otherwise."""

    def __init__(self) -> None:
        self.port = free_port()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.requests: list[ExportTraceServiceRequest] = []
        self.seen: list[dict[str, str]] = []
        """Their headers, names in lower case."""
        self.answering = threading.Event()
        """While it is not set, it hangs."""
        self.answering.set()
        self.pace = threading.Semaphore(0)
        self.is_paced = False
        """Whether each answer waits for the pace."""
        self._server: http.server.ThreadingHTTPServer | None = None

    @property
    def endpoint(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        """The names of all spans that came."""
        return [
            span.name
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def reject(self, rejected: int, message: str) -> None:
        """Take all but so many spans of each request."""
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = rejected
        answer.partial_success.error_message = message
        self.body = answer.SerializeToString()

    def start(self) -> None:
        """Listen."""
        backend = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                backend.seen.append({name.lower(): text for name, text in self.headers.items()})
                backend.answering.wait()
                if backend.is_paced:
                    backend.pace.acquire()
                if backend.status == 200:
                    backend.requests.append(ExportTraceServiceRequest.FromString(raw))
                with contextlib.suppress(OSError):  # the client may have given up
                    self.send_response(backend.status)
                    for name, text in backend.headers.items():
                        self.send_header(name, text)
                    self.send_header("Content-Length", str(len(backend.body)))
                    self.end_headers()
                    self.wfile.write(backend.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        self.answering.set()
        self.is_paced = False
        self.pace.release(1000)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@contextlib.contextmanager
def running() -> Iterator[Backend]:
    """A backend that listens."""
    backend = Backend()
    backend.start()
    try:
        yield backend
    finally:
        backend.stop()
