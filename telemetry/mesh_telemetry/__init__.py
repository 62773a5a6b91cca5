"""Telemetry of the mesh: names, counts, records, and how they are shown to the outside.

A library that is handed plain values (names, ids, durations in seconds, code numbers). It knows
nothing of frames, sockets or trio, and imports nothing of ``mesh``.
"""

from __future__ import annotations

from mesh_telemetry.budget import Share, spent
from mesh_telemetry.decision_forms import DecisionKind
from mesh_telemetry.decisions import Decision
from mesh_telemetry.drawing import Drawing
from mesh_telemetry.exemplars import Exemplar, Exemplars
from mesh_telemetry.explaining import Explanation, Step, explain, explanation_lines
from mesh_telemetry.exposition import Exposition
from mesh_telemetry.hops import Hop, fold
from mesh_telemetry.kept_trace import KeptTrace, Party
from mesh_telemetry.metrics import (
    CallMetrics,
    CallSeries,
    GatewayCounters,
    MethodSeries,
    MethodSummary,
)
from mesh_telemetry.names import CODE_NAMES, DEPTH_BOUNDS, DURATION_BOUNDS, FAMILIES, OTHER, Family
from mesh_telemetry.otlp import otlp_steps
from mesh_telemetry.peers import OutcomeSeries, PeerExposition, SideMetrics
from mesh_telemetry.quantiles import quantile
from mesh_telemetry.recorder import Record, Recorder, own_span_ids
from mesh_telemetry.rendering import OPENMETRICS, TEXT, Row, RowSource, escape_label, negotiate
from mesh_telemetry.sampling import Reason, Sampler, TraceSettings
from mesh_telemetry.slowness import SlowMethods
from mesh_telemetry.store import TraceStore
from mesh_telemetry.waterfall import (
    RowEvent,
    TraceSummary,
    WaterfallRow,
    summary,
    waterfall,
    waterfall_rows,
)

__all__ = [
    "CODE_NAMES",
    "DEPTH_BOUNDS",
    "DURATION_BOUNDS",
    "FAMILIES",
    "OPENMETRICS",
    "OTHER",
    "TEXT",
    "CallMetrics",
    "CallSeries",
    "Decision",
    "DecisionKind",
    "Drawing",
    "Exemplar",
    "Exemplars",
    "Explanation",
    "Exposition",
    "Family",
    "GatewayCounters",
    "Hop",
    "KeptTrace",
    "MethodSeries",
    "MethodSummary",
    "OutcomeSeries",
    "Party",
    "PeerExposition",
    "Reason",
    "Record",
    "Recorder",
    "Row",
    "RowEvent",
    "RowSource",
    "Sampler",
    "Share",
    "SideMetrics",
    "SlowMethods",
    "Step",
    "TraceSettings",
    "TraceStore",
    "TraceSummary",
    "WaterfallRow",
    "escape_label",
    "explain",
    "explanation_lines",
    "fold",
    "negotiate",
    "otlp_steps",
    "own_span_ids",
    "quantile",
    "spent",
    "summary",
    "waterfall",
    "waterfall_rows",
]
