"""What annotations of implementations name, where a name of their module means something else."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import pytest

import mesh
from mesh.contracts.implementations import implemented
from mesh.handlers import is_async


@dataclass
class Receipt:
    """Not the one that is meant below."""

    number: int


class Till(mesh.Contract, name="till", version="1.0.0"):
    @dataclass
    class Receipt:
        """What all others here extend."""

        cents: int

    @mesh.method
    @abstractmethod
    async def sell(self) -> Receipt: ...


class InItsBody(Till):
    @dataclass
    class Receipt(Till.Receipt):
        """Of the class' own body."""

    async def sell(self) -> Receipt:
        return self.Receipt(1)


def in_a_function() -> Till:
    @dataclass
    class Receipt(Till.Receipt):
        pass

    class Local(Till):
        async def sell(self) -> Receipt:
            return Receipt(1)

    return Local()


def in_a_thread() -> Till:
    @dataclass
    class Receipt(Till.Receipt):
        pass

    class Local(Till):
        @mesh.in_thread
        def sell(self) -> Receipt:
            return Receipt(1)

    return Local()


def mixed_in() -> Till:
    """By a class that implements no contract, whose names nobody has looked at in time."""

    @dataclass
    class Receipt(Till.Receipt):
        pass

    class Sells:
        async def sell(self) -> Receipt:
            return Receipt(1)

    class Local(Sells, Till):
        pass

    return Local()


@pytest.mark.parametrize("make", [InItsBody, in_a_function, in_a_thread, mixed_in])
def test_names_around_an_implementation_come_before_its_module_s(make: type[Till]) -> None:
    [(info, functions)] = implemented(make(), is_async)
    assert (info.name, list(functions)) == ("till", ["sell"])


def test_what_is_wrong_within_a_function_is_still_refused() -> None:
    @dataclass
    class Bill:
        tables: int

    class Local(Till):
        async def sell(self) -> Bill:  # type: ignore[override]
            return Bill(1)

    with pytest.raises(mesh.ContractError, match=r"its result is Till\.Receipt .*Bill here"):
        list(implemented(Local(), is_async))
