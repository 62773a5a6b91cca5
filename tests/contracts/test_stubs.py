"""Calls through stubs: a contract's methods, typed on both sides."""

from __future__ import annotations

import gc
import inspect
import math
import warnings
import weakref
from abc import abstractmethod
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import trio

import mesh
from tests.contracts.shop import Line, Orders, OutOfStock, Receipt, Unheard, shop

if TYPE_CHECKING:
    from mesh.payload import Encoding

ENCODINGS: list[Encoding] = ["msgpack", "json"]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_call_is_typed_on_both_sides(encoding: Encoding) -> None:
    """Lines arrive as lines, and a receipt comes back."""
    async with shop(encoding=encoding) as it:
        placed = await it.orders.place([Line("mug", 2), Line("lamp", 3)], by="cash")
        assert placed == Receipt(5, "cash")
        assert it.service.ran == [[Line("mug", 2), Line("lamp", 3)]]
        assert await it.orders.place(lines=[]) == Receipt(0, "card")
        assert await it.orders.clear() is None  # type: ignore[func-returns-value]  # that is the test
        assert await it.orders.anything({"a": [1, None]}) == {"a": [1, None]}


async def test_defaults_are_the_contract_s_and_do_not_travel() -> None:
    seen: list[Any] = []

    async def count(params: Any) -> int:
        seen.append(params)
        return 0

    async with mesh.Gateway() as gateway, mesh.connect("orders", gateway=gateway) as client:
        client.register("count", count)
        orders = client.stub(Orders)
        await orders.count(5)
        await orders.count(0)
        await orders.count()
        assert seen == [{"since": 5}, {}, {}]
    async with shop() as it:
        assert await it.orders.count() == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_declared_error_is_raised_as_its_own_class(encoding: Encoding) -> None:
    """With its fields as they were, and all that the mesh says of any error."""
    async with shop(encoding=encoding) as it:
        with pytest.raises(OutOfStock, match="Only 0 of typewriter are left") as raised:
            await it.orders.place([Line("typewriter", 1)])
        error = raised.value
        assert (error.sku, error.left, error.price) == ("typewriter", 0, Decimal("12.50"))
        assert (error.code, error.reason) == (mesh.Code.FAILED_PRECONDITION, "OUT_OF_STOCK")
        assert error.chain == ("orders.place",)
        assert error.maybe_executed
        assert error.remote_traceback is None
        assert error.__context__ is None
        assert error.__cause__ is None


async def test_other_errors_are_of_their_code_s_class() -> None:
    async with shop() as it:
        with pytest.raises(mesh.NotFound) as raised:
            await it.orders.place([Line("unheard", 1)])
        assert not isinstance(raised.value, Unheard)
        assert (raised.value.reason, raised.value.details) == ("UNHEARD", {"sku": "unheard"})


async def test_the_method_s_timeout_holds_where_the_stub_has_none() -> None:
    allowed: dict[str, float] = {}

    async def note(name: str) -> None:
        call = mesh.current_call()
        assert call is not None
        allowed[name] = call.deadline - trio.current_time()

    async with mesh.Gateway() as gateway, mesh.connect("orders", gateway=gateway) as client:

        @client.method
        async def place(params: Any) -> Receipt:
            await note("place")
            return Receipt(0, "")

        @client.method
        async def count(params: Any) -> int:
            await note("count")
            return 0

        await client.stub(Orders).place([])
        await client.stub(Orders).count()
        assert allowed == {"place": pytest.approx(2, abs=0.5), "count": pytest.approx(30, abs=0.5)}
        await client.stub(Orders, timeout=9).place([])
        await client.stub(Orders, timeout=math.inf).count()
        assert allowed["place"] == pytest.approx(9, abs=0.5)
        assert allowed["count"] > 1000
        with pytest.raises(mesh.DeadlineExceeded):
            await client.stub(Orders, timeout=0).place([])


async def test_wrong_arguments_are_told_at_the_call() -> None:
    """As of any function, before anything is sent."""
    async with shop() as it:
        orders: Any = it.orders
        with pytest.raises(TypeError, match=r"^orders.place\(\): Missing .* 'lines'"):
            orders.place()
        with pytest.raises(TypeError, match=r"^orders.place\(\): there is no parameter 'w'; it"):
            orders.place([], w=1)
        with pytest.raises(TypeError, match=r"no parameter 'line'; did you mean 'lines'\?"):
            orders.place(line=[])
        with pytest.raises(TypeError, match=r"place\(\): takes 1 arguments by position, not 2; by"):
            orders.place([], "cash")
        with pytest.raises(TypeError, match="two values for 'lines'"):
            orders.place([], lines=[])
        with pytest.raises(TypeError):
            orders.count(1, 2)
        assert it.service.ran == []


async def test_a_stub_is_of_its_contract_s_class() -> None:
    async with shop() as it:
        orders = it.orders
        assert isinstance(orders, Orders)
        assert type(orders) is type(it.caller.stub(Orders, timeout=1))  # made once
        assert repr(orders) == "<stub of orders 1.2.0>"
        assert orders.half(6) == 3
        assert inspect.getdoc(type(orders)) == "What customers talk to."


async def test_what_cannot_be_a_stub_is_refused() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("a", gateway=gateway) as client,
        mesh.connect("b", gateway=gateway, encoding="raw") as raw,
    ):
        with pytest.raises(mesh.ContractError, match="is no contract"):
            client.stub(dict)
        with pytest.raises(ValueError, match="timeout must be seconds, 0 or more, not -1"):
            client.stub(Orders, timeout=-1)
        with pytest.raises(mesh.UsageError, match="encoding='raw', which carries bytes alone"):
            raw.stub(Orders)


@pytest.mark.parametrize(("method", "params"), [("place", b"{}"), ("number", None)])
async def test_a_caller_of_bare_bytes_is_told_how_to_call_a_contract_s_method(
    method: str, params: bytes | None
) -> None:
    """Not only that something is no object; and the same for values that it sends or gets."""
    async with shop() as it, mesh.connect("raw", gateway=it.gateway, encoding="raw") as raw:
        told = r"came as bare bytes \(encoding='raw'\); call it with 'msgpack' or 'json': Expected"
        with pytest.raises(mesh.InvalidArgument, match=told):
            await raw.call("orders", method, params)
        values = "a raw payload must be bytes, not {}; a caller with encoding='msgpack' or 'json'"
        with pytest.raises(mesh.InvalidArgument, match=values.format("dict")):
            await raw.call("orders", method, {})
        it.server.register("seven", lambda: 7)
        await it.server.call("mesh", "status")
        with pytest.raises(mesh.InvalidArgument, match=values.format("int")):
            await raw.call("orders", "seven")


async def test_a_deprecated_method_warns_once_where_it_is_called() -> None:
    class Old(mesh.Contract, name="orders", version="1.0.0"):
        @mesh.method(deprecated="call `count`", raises=[OutOfStock])
        @abstractmethod
        async def number(self) -> int: ...

    async with shop() as it:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DeprecationWarning):
                await it.caller.stub(Old).number()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert await it.caller.stub(Old).number() == 1
            assert await it.caller.stub(Old).number() == 1
        assert [(str(warning.message), warning.filename) for warning in told] == [
            ("orders.number is deprecated: call `count`", __file__)
        ]


async def test_a_contract_can_be_forgotten_with_its_stubs() -> None:
    class Passing(mesh.Contract, name="passing", version="1.0.0"):
        @mesh.method
        @abstractmethod
        async def get(self) -> int: ...

    async with mesh.Gateway() as gateway, mesh.connect("a", gateway=gateway) as client:
        client.stub(Passing)
        alive = weakref.ref(Passing)
        del Passing
        gc.collect()
        assert alive() is None


async def test_a_remote_traceback_stays_with_a_declared_error() -> None:
    from mesh.contracts.contract import info_of
    from mesh.contracts.failures import restore

    error = mesh.FailedPrecondition(
        reason="OUT_OF_STOCK", details={"sku": "mug", "left": 1, "price": "1"}
    )
    error.add_note("in the handler: ...")
    typed = restore(error, info_of(Orders).methods["place"].errors)
    assert isinstance(typed, OutOfStock)
    assert typed.__notes__ == ["in the handler: ..."]
