"""What a peer serves, as its gateways are told: methods, the contract's version, its schema."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.versions import check_version
from mesh.wire import codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger("mesh.client")

METHODS_PER_FRAME = 64
METHODS_SIZE = 8192
"""Bytes of methods with their options in one frame, unless one alone has more."""


class Served(msgspec.Struct):
    """A service as it is registered."""

    methods: dict[str, dict[str, Any]] = {}
    """The options of each."""
    version: str = ""
    schema: bytes = b""


class Registrations:
    """The services of one peer, which every new connection tells again.

    Args:
        metadata: Text for operators that goes with each.
        requires: What each of them requires, as text; told with it alone.
    """

    def __init__(self, metadata: dict[str, str], requires: dict[str, str]) -> None:
        self.services: dict[str, Served] = {}
        self._requires = requires
        self._metadata = metadata

    def add(
        self,
        service: str,
        methods: Mapping[str, dict[str, Any]],
        version: str,
        schema: Mapping[str, Any] | None,
    ) -> Served:
        """Methods are served from now on; returns what there is to tell of it.

        Args:
            service: Whose they are.
            methods: What the gateway shall know of each.
            version: Of the service's contract; empty where these methods belong to none.
            schema: That contract, as :func:`~mesh.contracts.schema.describe` tells it.

        Raises:
            ValueError: The version is none, or the service is served by another one.
        """
        if version:
            check_version(version)
        served = self.services.setdefault(service, Served())
        if version and served.version not in {"", version}:
            raise ValueError(
                f"{service} {version} cannot be served beside {service} {served.version} by one "
                "peer; serve it in another process"
            )
        served.methods.update(methods)
        served.version = version or served.version
        if schema is not None:
            served.schema = msgspec.json.encode(schema)
        return Served(dict(methods), served.version, b"" if schema is None else served.schema)

    def remove(self, service: str, methods: list[str]) -> None:
        """Methods are served no longer."""
        served = self.services.get(service)
        if served is None:
            return
        for method in methods:
            served.methods.pop(method, None)
        if not served.methods:
            del self.services[service]

    def frames(
        self, service: str, served: Served, max_chunk: int, max_schema: int, max_requires: int
    ) -> Iterator[bytes]:
        """REGISTERs, each well below the longest header, with the schema in pieces.

        Args:
            service: Whose they are.
            served: What to tell of it.
            max_chunk: Bytes of a piece.
            max_schema: Bytes of all schemas that a gateway takes of this peer.
            max_requires: Characters of what the service requires that it takes beside metadata.
        """
        methods, schema = list(served.methods.items()), served.schema
        if schema and not self._fits(service, max_schema):
            log.warning(
                "the schema of %s, %s bytes, is not told: with those of other services it exceeds "
                "max_schema of %s",
                *(service, f"{len(schema):,}", f"{max_schema:,}"),
            )
            schema = b""
        size, metadata = len(schema), self._told_with(service, served.version, max_requires)
        while methods or schema:
            count = _most(methods)
            some, methods = dict(methods[:count]), methods[count:]
            piece, schema = schema[:max_chunk], schema[max_chunk:]
            header = codec.Register(service, served.version, some, metadata, size)
            yield codec.encode_header(header, piece)

    def _told_with(self, service: str, version: str, max_requires: int) -> dict[str, str]:
        """The metadata of a service's REGISTERs, with what it requires if the gateway takes that.

        An older one knows no such entry, and counts it as metadata.
        """
        required = self._requires.get(service, "")
        if not required:
            return self._metadata
        metadata = {**self._metadata, codec.REQUIRES + service: required}
        size = len(version) + sum(len(key) + len(value) for key, value in metadata.items())
        if len(required) <= max_requires or size <= codec.MAX_TEXT:
            return metadata
        log.warning(
            "what %s requires, %s characters, is not told: with its metadata it exceeds the %s "
            "that this gateway, an older one, takes",
            *(service, f"{len(required):,}", f"{codec.MAX_TEXT:,}"),
        )
        return self._metadata

    def _fits(self, service: str, max_schema: int) -> bool:
        """Whether a schema is told: those of the services that came first are."""
        room = max_schema
        for name, served in self.services.items():
            fits = len(served.schema) <= room
            if name == service:
                return fits
            room -= len(served.schema) if fits else 0
        return False


def _most(methods: list[tuple[str, dict[str, Any]]]) -> int:
    """How many of these, from the first, one frame tells."""
    size = 0
    for count, method in enumerate(methods[:METHODS_PER_FRAME]):
        size += len(msgspec.msgpack.encode(method))
        if count and size > METHODS_SIZE:
            return count
    return METHODS_PER_FRAME
