"""Serving contracts: what is refused, and what is checked at a service's edge."""

from __future__ import annotations

import functools
import threading
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import mesh
from mesh.contracts.implementations import implemented
from mesh.handlers import is_async
from mesh.implementing import MOST_TOLD
from tests.contracts.shop import Line, Orders, OrderService, Receipt, shop
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.payload import Encoding


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("params", "told"),
    [
        (
            {"lines": [{"sku": "a", "quantity": 1}, {"sku": "b", "quantity": "x"}]},
            "Expected `int`, got `str` - at `$.lines[1].quantity`",
        ),
        ({"lines": [{"sku": "a"}]}, "missing required field `quantity` - at `$.lines[0]`"),
        ({"lines": [], "lins": []}, "Object contains unknown field `lins`"),
        ({}, "Object missing required field `lines`"),
        (None, "Expected `object`, got `"),
        ([[]], "Expected `object`, got `array`"),
        ({"lines": [], "by": 3}, "Expected `str`, got `int` - at `$.by`"),
    ],
)
async def test_wrong_parameters_are_told_by_their_path(
    params: Any, told: str, encoding: Encoding
) -> None:
    """Before the implementation sees anything of them."""
    async with shop(encoding=encoding) as it:
        with pytest.raises(mesh.InvalidArgument, match=r"parameters of orders\.place: ") as raised:
            await it.caller.call("orders", "place", params)
        assert told in raised.value.message
        assert raised.value.reason == mesh.Reason.UNDECODABLE
        assert not raised.value.maybe_executed
        assert it.service.ran == []


async def test_nothing_will_do_where_no_parameter_is_needed() -> None:
    async with shop() as it:
        nothing: Any
        for nothing in (None, {}):
            assert await it.caller.call("orders", "count", nothing) == 0
            assert await it.caller.call("orders", "number", nothing) == 1
        with pytest.raises(mesh.InvalidArgument, match="unknown field `since`"):
            await it.caller.call("orders", "number", {"since": 1})


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"cents": "many", "by": ""}, "Expected `int`, got `str` - at `$.cents`"),
        (Receipt(1, by=None), "Expected `str`, got `"),  # type: ignore[arg-type]
        ([1], "Expected `object`, got `array`"),
    ],
)
async def test_a_result_that_breaks_its_contract_is_the_callee_s_fault(
    result: Any, told: str, encoding: Encoding, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop(result, encoding) as it:
        for call in (it.orders.place([]), it.caller.call("orders", "place", {"lines": []})):
            # Said once where it is to be mended, too.
            with pytest.raises(mesh.Internal) as raised:
                await call
            assert raised.value.reason == mesh.Reason.INVALID_RESULT
            assert raised.value.message.startswith(
                "result of orders.place breaks the contract orders 1.2.0: "
            )
            assert told in raised.value.message
            assert raised.value.maybe_executed
            assert caplog.messages.count(raised.value.message) == 1


async def test_so_does_a_result_where_there_must_be_none() -> None:
    async with shop("text") as it:
        with pytest.raises(mesh.Internal, match="Expected `null`, got `str`"):
            await it.orders.clear()


async def test_what_is_shaped_as_the_contract_says_may_be_of_another_class() -> None:
    async with shop({"cents": 1, "by": "card"}) as it:
        assert await it.orders.place([]) == Receipt(1, "card")


async def test_a_raw_caller_is_told_what_is_wanted() -> None:
    async with (
        shop() as it,
        mesh.connect("raw", gateway=it.gateway, encoding="raw") as raw,
    ):
        with pytest.raises(mesh.InvalidArgument, match="got `bytes`"):
            await raw.call("orders", "count", b"{}")


class Small(mesh.Contract, name="small", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def get(self, key: str, size: int = 1, *, deep: bool = False) -> str: ...


def _of(function: Callable[..., Any]) -> type[Small]:
    return type("SmallService", (Small,), {"get": function})


async def _renamed(self: Any, name: str, size: int = 1, *, deep: bool = False) -> None: ...
async def _swapped(self: Any, size: int, key: str, *, deep: bool = False) -> None: ...
async def _short(self: Any, key: str, *, deep: bool = False) -> None: ...
async def _no_keyword(self: Any, key: str, size: int = 1) -> None: ...
async def _keyword(self: Any, key: str, *, size: int = 1, deep: bool = False) -> None: ...
async def _positional(self: Any, key: str, /, size: int = 1, *, deep: bool = False) -> None: ...
async def _more(self: Any, key: str, size: int, other: int, *, deep: bool = False) -> None: ...
def _plain(self: Any, key: str, size: int = 1, *, deep: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_renamed, "parameter 1 is 'key' in the contract, 'name' here"),
        (_swapped, "parameter 1 is 'key' in the contract, 'size' here"),
        (_short, "the contract has parameter 'size', this does not"),
        (_no_keyword, "the contract has parameter 'deep', by name alone; this does not"),
        (_keyword, "the contract has parameter 'size', this takes it by name alone"),
        (_positional, "parameter 'key' is positional only here; callers may name it"),
        (_more, "it needs 'other', which the contract does not have"),
        (_plain, "must be `async def`, as its contract Small says; put @mesh.in_thread above"),
        (3, "SmallService.get is 3, and no method"),
    ],
)
def test_a_wrong_signature_is_named(function: Any, told: str) -> None:
    with pytest.raises(mesh.ContractError, match=r"^SmallService\.get") as raised:
        list(implemented(_of(function)(), is_async))
    assert told in str(raised.value)


def _wrapped(function: Any) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


async def _right(self: Any, key: str, size: int = 1, *, deep: bool = False) -> str:
    return f"{key} {size} {deep}"


async def _lenient(self: Any, key: str, size: int = 1, more: int = 2, deep: bool = True) -> str:  # noqa: FBT002
    return f"{key} {size} {deep}"


@pytest.mark.parametrize(
    "function",
    [_right, _lenient, _wrapped(_right), functools.wraps(_right)(_wrapped(_right))],
)
async def test_what_takes_the_contract_s_calls_is_served(function: Any) -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("small", gateway=gateway) as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, client, _of(function)())
        small = client.stub(Small)
        assert await small.get("a") == "a 1 False"
        assert await small.get("a", 3, deep=True) == "a 3 True"
        nursery.cancel_scope.cancel()


async def test_plain_functions_run_in_the_peer_s_threads() -> None:
    seen: list[Any] = []

    class Threads(Small):
        @mesh.in_thread
        def get(self, key: str, size: int = 1, *, deep: bool = False) -> str:
            call = mesh.current_call()
            seen.append((threading.current_thread() is threading.main_thread(), call is None))
            if call is not None:
                seen.append(client._uplink.dispatcher.limiter.borrowed_tokens)
            return f"{key} {size} {deep}"

    async with (
        mesh.Gateway() as gateway,
        mesh.connect("small", gateway=gateway) as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, client, Threads())
        assert await client.stub(Small).get("a", deep=True) == "a 1 True"
        assert seen == [(False, False), 1]
        seen.clear()
        assert await Threads().get("a") == "a 1 False"  # from the program itself
        assert seen == [(False, True)]
        nursery.cancel_scope.cancel()


async def test_in_thread_is_for_any_handler() -> None:
    @mesh.in_thread
    def double(number: int) -> int:
        return number * 2

    async with mesh.Gateway() as gateway, mesh.connect("a", gateway=gateway) as client:
        client.register("double", double)
        assert await client.call("a", "double", 4) == 8
        with pytest.raises(mesh.InvalidArgument):
            await client.call("a", "double", "x")


async def test_a_decorator_above_in_thread_is_not_passed_by() -> None:
    @mesh.in_thread
    def double(number: int) -> int:
        return number * 2

    @functools.wraps(double)
    async def negative(number: int) -> int:
        return -await double(number)

    async with mesh.Gateway() as gateway, mesh.connect("a", gateway=gateway) as client:
        client.register("negative", negative)
        assert await client.call("a", "negative", 4) == -8


async def test_several_contracts_of_several_kinds_in_one_process() -> None:
    """Instances, classes and functions that take the client, and plain registration."""

    class SmallService(Small):
        def __init__(self, client: mesh.Client) -> None:
            self.orders = client.stub(Orders)

        async def get(self, key: str, size: int = 1, *, deep: bool = False) -> str:  # noqa: ARG002
            return str(await self.orders.place([Line(key, size)]))

    async def make(client: mesh.Client) -> Small:
        await trio.lowlevel.checkpoint()
        return SmallService(client)

    def plain(client: mesh.Client) -> None:
        client.register("plain", _right_plain, service="plain")

    async def _right_plain() -> str:
        return "plain"

    for second in (SmallService, make):
        chosen: list[Any] = [OrderService(), second, plain]
        async with (
            mesh.Gateway() as gateway,
            mesh.connect("all", gateway=gateway) as client,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(mesh.serve, client, *chosen)
            assert await client.stub(Small).get("mug") == "Receipt(cents=1, by='card')"
            assert await client.call("plain", "plain") == "plain"
            assert len(client.registered_methods()) == 7
            nursery.cancel_scope.cancel()


class Both(Small, Orders):
    pass


class NeedsMore(OrderService):
    def __init__(self, client: mesh.Client, database: str) -> None: ...


class TakesTwo(OrderService):
    def __init__(self, client: mesh.Client, names: list[str]) -> None: ...


@pytest.mark.parametrize(
    ("service", "told"),
    [
        (Orders, "Orders is a contract; serve a class that implements it, class OrdersService"),
        (Both, "Both does not implement get of Small, place of Orders, count of Orders, number"),
        (NeedsMore, "NeedsMore cannot be made of the client alone: missing a required argument"),
        (TakesTwo, "TakesTwo cannot be made of the client alone: missing a required argument"),
        (lambda _: 3, "returned 3, which implements no contract"),
        (msgspec.Struct, "Struct implements no contract"),
    ],
)
async def test_what_cannot_be_served_is_refused(service: Any, told: str) -> None:
    async with mesh.Gateway() as gateway, mesh.connect("a", gateway=gateway) as client:
        with pytest.raises(mesh.ContractError) as raised:
            await mesh.serve(client, service)
        assert told in str(raised.value)
        assert client.registered_methods() == []


class OtherOrders(mesh.Contract, name="orders", version="1.2.0"):
    @mesh.method
    @abstractmethod
    async def archive(self) -> None: ...


class OtherOrderService(OtherOrders):
    async def archive(self) -> None: ...


async def test_two_contracts_of_one_name_are_not_served_by_one_peer() -> None:
    """Whether by two classes or by one: people would be told of one of them alone."""

    class OneForBoth(OrderService, OtherOrderService):
        pass

    both = f"{__name__}.OtherOrders (orders 1.2.0) beside {Orders.__module__}.Orders (orders 1.2.0)"
    async with mesh.Gateway() as gateway, mesh.connect("orders", gateway=gateway) as client:
        with pytest.raises(mesh.ContractError) as raised:
            await mesh.serve(client, OneForBoth())
        assert f"OneForBoth implements {both}: two contracts of one name" in str(raised.value)
        assert client.registered_methods() == []
        with pytest.raises(mesh.ContractError) as raised:
            await mesh.serve(client, OrderService(), OtherOrderService())
        assert f"OtherOrderService implements {both}: two contracts of one" in str(raised.value)


async def test_a_method_that_is_served_already_is_refused_with_all_others() -> None:
    async with mesh.Gateway() as gateway, mesh.connect("orders", gateway=gateway) as client:

        @client.method
        async def count() -> int:
            return 0

        with pytest.raises(
            mesh.ContractError, match=r"^OrderService serves orders\.count, and so does .*count in "
        ):
            await mesh.serve(client, OrderService())
        assert client.registered_methods() == ["orders.count"]


async def test_a_closed_client_serves_nothing_more() -> None:
    async with mesh.Gateway() as gateway:
        async with mesh.connect("orders", gateway=gateway) as client:
            pass
        with pytest.raises(mesh.UsageError, match="client 'orders' is closed"):
            await mesh.serve(client, OrderService())


async def test_an_implementation_is_called_by_an_earlier_caller_without_its_class() -> None:
    """Plain calls and `result=` do without a contract on their side."""
    async with shop() as it:
        params = {"lines": [{"sku": "mug", "quantity": 2}]}
        assert await it.caller.call("orders", "place", params) == {"cents": 2, "by": "card"}
        told = await it.caller.call("orders", "place", params, result=Receipt)
        assert told == Receipt(2, "card")
        await settled(it.caller)


@dataclass
class Picky:
    """A type that looks itself up, and raises what `msgspec` makes no fault of a value of."""

    number: int

    def __post_init__(self) -> None:
        {1: "one"}[self.number]


class Pickier(mesh.Contract, name="picky", version="1.0.0"):
    @mesh.method
    @abstractmethod
    async def take(self, it: Picky) -> None: ...

    @mesh.method
    @abstractmethod
    async def make(self, number: int) -> Picky: ...


class PickyService(Pickier):
    async def take(self, it: Picky) -> None:
        raise AssertionError(it)

    async def make(self, number: int) -> Picky:
        made = Picky(1)
        made.number = number
        return made


async def test_what_a_type_itself_raises_is_told_as_of_any_other_misfit() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("picky", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(mesh.serve, server, PickyService())

        @server.method("raw", service="plain")
        async def raw(params: Any) -> Any:
            return params

        await settled(server)
        with pytest.raises(mesh.InvalidArgument, match=r"parameters of picky\.take: KeyError: 9"):
            await caller.call("picky", "take", {"it": {"number": 9}})
        with pytest.raises(mesh.Internal, match=r"breaks the contract.*: KeyError: 5") as raised:
            await caller.stub(Pickier).make(5)
        assert raised.value.reason == mesh.Reason.INVALID_RESULT
        with pytest.raises(mesh.Internal, match="cannot be decoded as Picky: KeyError: 7") as told:
            await caller.call("plain", "raw", {"number": 7}, result=Picky)
        assert told.value.reason == mesh.Reason.UNDECODABLE
        assert await caller.stub(Pickier).make(1) == Picky(1)
        nursery.cancel_scope.cancel()


@dataclass
class Missing(mesh.NotFound):
    """No {key}."""

    key: str


@dataclass
class Strange(mesh.Aborted):
    """No contract declares it."""

    key: str


class Finder(mesh.Contract, name="finder", version="1.0.0"):
    @mesh.method(raises=[Missing, mesh.DataLoss])
    @abstractmethod
    async def find(self) -> None: ...

    @mesh.method
    @abstractmethod
    async def pass_on(self) -> None: ...


class FinderService(Finder):
    error: mesh.CallError

    def __init__(self, client: mesh.Client) -> None:
        self.client = client

    async def find(self) -> None:
        raise self.error

    async def pass_on(self) -> None:
        await self.client.stub(Finder).find()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Strange("a"), "raises STRANGE, which its contract does not declare"),
        (mesh.NotFound("a", reason="STRANGE"), "raises STRANGE, which its contract does not decl"),
        (
            Missing(key=5),  # type: ignore[arg-type]
            "raises MISSING, whose fields break its contract: Expected `str`, got `int`",
        ),
        (mesh.Aborted("a", reason="MISSING"), "raises MISSING as aborted; its contract says not_f"),
        (Missing("a"), ""),
        (mesh.NotFound("a"), ""),
        (mesh.DataLoss("a", details={"part": 5}), ""),
        (mesh.Unavailable("a", reason="OVERLOADED"), ""),
    ],
)
async def test_an_error_that_breaks_the_contract_is_logged_once_by_who_raises_it(
    error: mesh.CallError, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("finder", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):
        service = FinderService(server)
        service.error = error
        await nursery.start(mesh.serve, server, service)
        await settled(server)
        for call in (caller.stub(Finder).find, caller.stub(Finder).pass_on) * 2:
            with pytest.raises(mesh.CallError) as raised:
                await call()
            assert (raised.value.code, raised.value.reason) == (error.code, error.reason)
            assert raised.value.details == error.details
        nursery.cancel_scope.cancel()
    logged = [one for one in caplog.messages if "finder.find raises" in one]
    assert len(logged) == bool(told)
    assert not logged or logged[0].startswith(f"finder.find {told}")
    assert "pass_on raises" not in caplog.text


async def test_each_reason_is_logged_once_and_of_many_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("finder", gateway=gateway) as server,
        trio.open_nursery() as nursery,
    ):
        service = FinderService(server)
        await nursery.start(mesh.serve, server, service)
        await settled(server)
        errors = [mesh.Aborted("a", reason=f"R{number}") for number in range(MOST_TOLD + 5)]
        for service.error in (*errors, *errors[:2]):
            with pytest.raises(mesh.CallError):
                await server.stub(Finder).find()
        nursery.cancel_scope.cancel()
    logged = [one.split()[2] for one in caplog.messages if "finder.find raises" in one]
    assert logged == [f"R{number}," for number in range(MOST_TOLD)]
