"""Kept traces on their way to a backend, where `OTEL_EXPORTER_OTLP_ENDPOINT` names one."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import trio

from mesh.errors import SettingError
from mesh_telemetry.export import Exporter
from mesh_telemetry.export_settings import settings_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger("mesh.gateway")

LAST_SPANS = 1.0
"""Seconds that the backend has for what is left when the gateway ends. Until it has ended, its
successor may not start, and calls wait for that."""


@contextlib.asynccontextmanager
async def exporting() -> AsyncIterator[Exporter | None]:
    """The exporter that the environment asks for, as long as the block runs.

    Raises:
        SettingError: An ``OTEL_*`` variable cannot be used.
    """
    exporter: Exporter | None = None
    try:
        if settings_from(os.environ) is not None:
            exporter = await trio.to_thread.run_sync(Exporter.from_environment)
    except ValueError as fault:
        raise SettingError(str(fault)) from fault
    if exporter is None:
        yield None
        return
    log.info("kept traces are exported to %s", exporter.place)
    try:
        yield exporter
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(exporter.close, LAST_SPANS)
