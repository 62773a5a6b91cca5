"""A kit to test with: a whole mesh within a test, mocks of services, faults, what was recorded.

Start with :func:`local_mesh` and :func:`mock`. With pytest and pytest-trio, the fixture
``local_mesh`` is there once spanmesh is installed.
"""

from mesh.testing.faults import Fault
from mesh.testing.local import LocalMesh, local_mesh
from mesh.testing.mocks import Mocked, mock, mocked
from mesh.testing.recorded import RecordedCall, RecordedSpan
from mesh_telemetry import TraceSummary
from mesh_telemetry.spans import SpanEvent

__all__ = [
    "Fault",
    "LocalMesh",
    "Mocked",
    "RecordedCall",
    "RecordedSpan",
    "SpanEvent",
    "TraceSummary",
    "local_mesh",
    "mock",
    "mocked",
]
