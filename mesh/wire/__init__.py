"""The wire protocol: sans-io, specified in PROTOCOL.md beside this file."""

from mesh.wire.connection import Connection, Frame, Role, State
from mesh.wire.frames import CONTINUED, MORE, Kind

__all__ = ["CONTINUED", "MORE", "Connection", "Frame", "Kind", "Role", "State"]
