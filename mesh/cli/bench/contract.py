"""What `mesh bench --stub` calls: the echo of the other runs as a contract, checked both ways."""

from __future__ import annotations

from abc import abstractmethod

import msgspec

from mesh.contracts.contract import Contract
from mesh.contracts.declaring import method


class User(msgspec.Struct, omit_defaults=True):
    """What comes back: the parameters."""

    userId: str = ""  # noqa: N815 - the same bytes as without a contract
    data: str = ""


class Directory(Contract, name="directory", version="1.0.0"):
    """A directory of users who are whatever is asked for."""

    @method
    @abstractmethod
    async def get(self, userId: str = "", data: str = "") -> User:  # noqa: N803 - likewise
        """Look a user up."""


class DirectoryService(Directory):
    """Sends back what it gets."""

    async def get(self, userId: str = "", data: str = "") -> User:  # noqa: N803 - likewise
        """Look a user up."""
        return User(userId, data)
