"""A peer that measures its own calls: the same peer, and every call counted on its way.

It is made of subclasses, and imported only where metrics are asked for: a peer without them runs
not one instruction more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from mesh import context
from mesh._version import __version__
from mesh.calling import name_of
from mesh.client import Client
from mesh.errors import CallError, Code, UsageError
from mesh.http import admin_app, serve_admin
from mesh.service import Dispatcher
from mesh.uplink import ROUNDING, Uplink
from mesh.wire.frames import Kind
from mesh_telemetry import OTHER, OutcomeSeries, PeerExposition, SideMetrics, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.wire import codec
    from mesh_telemetry import Row


class MeasuredUplink(Uplink):
    """Counts the calls served, from arrival to answer.

    Attributes:
        made: What is counted of the calls that the peer makes.
        served: What is counted of those that it serves.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made, self.served = SideMetrics(), SideMetrics()
        self._measured = MeasuredDispatcher(self, self.limits.max_threads)
        self.dispatcher = self._measured
        self.exposition = PeerExposition(self.made, self.served, [self._runtime])

    def register(
        self,
        service: str,
        methods: dict[str, dict[str, Any]],
        version: str = "",
        schema: dict[str, Any] | None = None,
    ) -> None:
        """Serve these methods, which shows them with zeros before the first call."""
        for method in methods:
            self.served.method(service, method)
        super().register(service, methods, version, schema)

    def answer(self, call_id: int, kind: Kind, header: tuple[Any, ...], payload: bytes) -> None:
        """Answer a call that this peer serves, which is its end."""
        super().answer(call_id, kind, header, payload)  # may raise; then another answer follows
        self._measured.ended(call_id, header[1] if kind == Kind.ERROR else 0)

    async def serve_metrics(
        self,
        address: str,
        token: str | None,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve ``/metrics``, ``/healthz`` and ``/readyz`` until cancelled."""
        app = admin_app(metrics=self.exposition.render, not_ready=self._not_ready)
        serve = partial(serve_admin, address, app, token=token, purpose="metrics")
        await serve(task_status=task_status)

    def _not_ready(self) -> str | None:
        if self.leaving:
            return "draining"
        if not self.ready:
            return "not connected to a gateway that takes calls"
        if self.missing:
            return f"nobody serves {', '.join(sorted(self.missing))} yet, which is required"
        return None

    def _runtime(self) -> Iterator[Row]:
        threads = self.dispatcher.limiter
        yield names.RUNTIME_LOOP_LAG.name, {}, self.loop_lag
        yield names.RUNTIME_THREADS.name, {}, threads.borrowed_tokens
        yield names.RUNTIME_THREADS_LIMIT.name, {}, threads.total_tokens
        yield names.RECORDS.name, {}, len(self.records)
        for reason, count in self.records.dropped.items():
            yield names.RECORDS_DROPPED.name, {names.REASON: reason}, count
        yield names.BUILD_INFO.name, {"version": __version__}, 1


class MeasuredDispatcher(Dispatcher):
    """Notes when each call came; names that nobody registered become ``_OTHER``."""

    def __init__(self, uplink: MeasuredUplink, max_threads: int) -> None:
        super().__init__(uplink, max_threads)
        self._served = uplink.served
        self._begun: dict[int, tuple[OutcomeSeries, float]] = {}

    def dispatch(self, header: codec.Call, payload: bytes) -> bool:
        """Hand a whole call to a worker; false if it was answered at once instead."""
        known = (header.service, header.method) in self.handlers
        target = (header.service, header.method) if known else (OTHER, OTHER)
        series = self._served.method(*target)
        series.in_flight += 1
        self._begun[header.call_id] = (series, trio.current_time())
        return super().dispatch(header, payload)

    def ended(self, call_id: int, code: int) -> None:
        """A call has been answered."""
        series, began = self._begun.pop(call_id)
        series.ended(code, trio.current_time() - began)

    def orphan(self) -> None:
        """The connection is lost: what is never answered ends here, as cancelled."""
        for call_id in list(self._begun):
            self.ended(call_id, Code.CANCELLED.number)
        super().orphan()


class MeasuredClient(Client):
    """Counts the calls made, from the program's asking to what it gets."""

    def __init__(self, uplink: MeasuredUplink) -> None:
        super().__init__(uplink)
        self._made = uplink.made

    async def call(
        self,
        service: str,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109 - as in the class above
        idempotent: bool = False,
        version: str | None = None,
    ) -> Any:
        """As :meth:`Client.call`; what raises for its arguments is no call, and not counted."""
        try:
            name_of(service, method)  # raises where there is nothing to name the series by
        except TypeError:  # what is not hashable is no text
            name_of.__wrapped__(service, method)
        series = self._made.method(service, method)
        series.in_flight += 1
        limit, began = trio.current_effective_deadline(), trio.current_time()
        parent = context.current.get()
        if parent is not None and not context.is_detached.get():
            limit = min(limit, parent.deadline - ROUNDING)
        code: Code | None = Code.UNKNOWN
        try:
            answer = await super().call(
                service,
                method,
                params,
                result=result,
                timeout=timeout,
                idempotent=idempotent,
                version=version,
            )
            code = Code.OK
        except CallError as failure:
            code = failure.code
            raise
        except trio.Cancelled:
            late = trio.current_time() >= limit
            code = Code.DEADLINE_EXCEEDED if late else Code.CANCELLED
            raise
        except (UsageError, ValueError, TypeError):
            code = None
            raise
        finally:
            if code is None:
                series.in_flight -= 1
            else:
                series.ended(code.number, trio.current_time() - began)
        return answer
