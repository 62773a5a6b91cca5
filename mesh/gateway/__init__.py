"""The gateway: the hub process that routes every call and owns the truth about calls."""

from mesh.gateway.filters import TraceFilters
from mesh.gateway.kept import TraceView, TraceViews
from mesh.gateway.server import Gateway
from mesh.gateway.views import (
    ContractView,
    EdgeView,
    GatewayView,
    GoneView,
    InstanceView,
    ServiceDetails,
    ServiceView,
)

__all__ = [
    "ContractView",
    "EdgeView",
    "Gateway",
    "GatewayView",
    "GoneView",
    "InstanceView",
    "ServiceDetails",
    "ServiceView",
    "TraceFilters",
    "TraceView",
    "TraceViews",
]
