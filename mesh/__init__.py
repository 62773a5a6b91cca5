"""spanmesh: an observability-first RPC mesh on trio.

Services in separate processes call each other through a gateway; every call is measured and
explained with no instrumentation written by the user. Start with :func:`connect` and :func:`run`.
"""

from mesh import events, logs
from mesh._version import __version__
from mesh.client import Client
from mesh.connecting import connect
from mesh.context import Call, activity, current_call, detached, traced
from mesh.contracts.contract import Contract
from mesh.contracts.declaring import method
from mesh.contracts.objectives import slo
from mesh.errors import (
    Aborted,
    AddressError,
    AddressInUse,
    AlreadyExists,
    CallError,
    Cancelled,
    CertificateError,
    Code,
    ContractError,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LocalProtocolError,
    MeshError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ProtocolError,
    Reason,
    RemoteProtocolError,
    ResourceExhausted,
    SettingError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
    UsageError,
)
from mesh.gateway import (
    ContractView,
    EdgeView,
    Gateway,
    GatewayView,
    GoneView,
    InstanceView,
    ServiceDetails,
    ServiceView,
    TraceView,
)
from mesh.handlers import in_thread
from mesh.limits import Limits
from mesh.running import run
from mesh.serving import serve
from mesh.streams import EventStream
from mesh.tracing import install_tracer_provider
from mesh.transport import CertificateFiles
from mesh.watching import PeerView

__all__ = [
    "Aborted",
    "AddressError",
    "AddressInUse",
    "AlreadyExists",
    "Call",
    "CallError",
    "Cancelled",
    "CertificateError",
    "CertificateFiles",
    "Client",
    "Code",
    "Contract",
    "ContractError",
    "ContractView",
    "DataLoss",
    "DeadlineExceeded",
    "EdgeView",
    "EventStream",
    "FailedPrecondition",
    "Gateway",
    "GatewayView",
    "GoneView",
    "InstanceView",
    "Internal",
    "InvalidArgument",
    "Limits",
    "LocalProtocolError",
    "MeshError",
    "NotFound",
    "OutOfRange",
    "PeerView",
    "PermissionDenied",
    "ProtocolError",
    "Reason",
    "RemoteProtocolError",
    "ResourceExhausted",
    "ServiceDetails",
    "ServiceView",
    "SettingError",
    "TraceView",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "UsageError",
    "__version__",
    "activity",
    "connect",
    "current_call",
    "detached",
    "events",
    "in_thread",
    "install_tracer_provider",
    "logs",
    "method",
    "run",
    "serve",
    "slo",
    "traced",
]
