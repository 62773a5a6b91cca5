"""The gateway: the hub process that routes every call and owns the truth about calls."""

from mesh.gateway.server import Gateway

__all__ = ["Gateway"]
