"""Mocks of services, held to their contract on both sides."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import mesh
from mesh.testing import local_mesh, mock, mocked
from tests.testing.shop import (
    Orders,
    OrderService,
    Unheard,
    User,
    UserNotFound,
    Users,
    UserService,
)


async def test_a_mock_is_an_implementation_that_a_mesh_serves() -> None:
    users = mock(Users)
    mocked(users.get).returns(User("7", ["vip"]))
    async with local_mesh(users, OrderService) as it:
        assert await it.stub(Orders).place("ada") == "for 7"
        assert await it.stub(Users).get("bob", deep=True) == User("7", ["vip"])
    assert mocked(users.get).calls == [
        {"user_id": "ada", "deep": False},
        {"user_id": "bob", "deep": True},
    ]
    assert mocked(users.count).calls == []


async def test_a_mock_stands_for_a_stub() -> None:
    users = mock(Users)
    mocked(users.count).returns(3)
    assert isinstance(users, Users)
    assert repr(users) == "<mock of users 1.0.0>"
    assert await users.count() == 3


async def test_it_answers_by_value_by_error_one_by_one_and_by_function() -> None:
    users = mock(Users)
    get = mocked(users.get)
    get.returns(User("1"))
    assert await users.get("a") == await users.get("b") == User("1")
    get.raises(UserNotFound("c"))
    for _ in range(2):
        with pytest.raises(UserNotFound, match="There is no user 'c'"):
            await users.get("c")
    get.answers(User("2"), UserNotFound("d"), mesh.Unavailable("down"))
    assert await users.get("d") == User("2")
    with pytest.raises(UserNotFound):
        await users.get("d")
    with pytest.raises(mesh.Unavailable):
        await users.get("d")
    with pytest.raises(mesh.UsageError, match=r"Users.get was called once more .* answers, 3"):
        await users.get("d")
    get.does(lambda user_id, *, deep=False: User(user_id, [str(deep)]))
    assert await users.get("e", deep=True) == User("e", ["True"])

    async def later(user_id: str, *, deep: bool = False) -> User:
        await trio.lowlevel.checkpoint()
        if user_id == "g":
            raise UserNotFound(user_id)
        return User(user_id)

    get.does(later)
    assert await users.get("f") == User("f")
    with pytest.raises(UserNotFound):
        await users.get("g")


async def test_unittest_s_own_assertions_hold_however_parameters_were_given() -> None:
    users = mock(Users)
    mocked(users.get).returns(User("7"))
    await users.get(user_id="7")
    mocked(users.get).mock.assert_awaited_once_with("7", deep=False)
    mocked(users.get).mock.assert_awaited_once_with(user_id="7", deep=False)
    with pytest.raises(AssertionError):
        mocked(users.get).mock.assert_awaited_once_with("8", deep=False)


async def test_what_is_not_set_up_says_how_to() -> None:
    users = mock(Users)
    with pytest.raises(mesh.UsageError, match=r"mocked\(users\.get\)\.returns\(\.\.\.\), \.raises"):
        await users.get("7")

    async def served() -> None:
        async with local_mesh(users) as it:
            with pytest.raises(mesh.Unknown, match="before it was said what it does"):
                await it.stub(Users).get("7")

    with pytest.raises(mesh.UsageError, match=r"^Users\.get is mocked, and was called before"):
        await served()


async def test_what_comes_back_is_a_copy() -> None:
    """As from another process: what the caller does to it is not seen by anybody."""
    users, user = mock(Users), User("7")
    mocked(users.get).returns(user)
    found = await users.get("7")
    found.tags.append("changed")
    assert await users.get("7") == user == User("7")


@pytest.mark.parametrize(
    ("arguments", "named", "kind", "told"),
    [
        (
            (7,),
            {},
            mesh.ContractError,
            r"parameters of Users\.get: Expected `str`, got `int` - at ",
        ),
        (("7",), {"deep": 1}, mesh.ContractError, r"Expected `bool`, got `int` - at `\$\.deep`"),
        ((object(),), {}, mesh.ContractError, r"parameters of Users\.get: .*user_id.*object"),
        ((), {}, TypeError, "missing a required argument: 'user_id'"),
        (("7", True), {}, TypeError, "too many positional arguments"),
        (("7",), {"shallow": True}, TypeError, "unexpected keyword argument 'shallow'"),
    ],
)
async def test_wrong_parameters_are_told_at_once(
    arguments: tuple[Any, ...], named: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """Code that expects calls to fail does not take that for such a failure."""
    users: Any = mock(Users)
    mocked(users.get).returns(User("7"))
    with pytest.raises(kind, match=told) as raised:
        await users.get(*arguments, **named)
    assert not isinstance(raised.value, mesh.CallError)


async def test_wrong_results_are_told_at_once() -> None:
    users: Any = mock(Users)
    wrong: Any = User("7", [8])  # type: ignore[list-item]  # that is the fault
    told = r"result of Users\.get: Expected `str`, got `int` - at `\$\.tags\[0\]`"
    with pytest.raises(mesh.ContractError, match=told):
        mocked(users.get).returns(wrong)
    with pytest.raises(mesh.ContractError, match=told):
        mocked(users.get).answers(User("7"), wrong)
    mocked(users.get).does(lambda *_, **__: wrong)
    with pytest.raises(mesh.ContractError, match=told):
        await users.get("7")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unheard("x"), r"Users\.get does not declare to raise Unheard; raises= has UserNotFound"),
        (UserNotFound(7), r"UserNotFound, raised by Users\.get: .* at `\$\.user_id`"),  # type: ignore[arg-type]
    ],
)
async def test_errors_that_the_contract_does_not_know_are_told_at_once(
    error: mesh.CallError, told: str
) -> None:
    users = mock(Users)
    with pytest.raises(mesh.ContractError, match=told):
        mocked(users.get).raises(error)
    with pytest.raises(mesh.ContractError, match=told):
        mocked(users.get).answers(error)

    def fail(user_id: str, *, deep: bool = False) -> User:
        raise error

    mocked(users.get).does(fail)
    with pytest.raises(mesh.ContractError, match=told):
        await users.get("7")


class Careless(Orders):
    """Takes every failure for one that may happen."""

    def __init__(self, users: Users) -> None:
        self.users = users

    async def place(self, user_id: str) -> str:
        try:
            await self.users.get(user_id)
        except mesh.CallError:
            return "for nobody"
        return "for somebody"


async def test_what_a_served_mock_finds_wrong_is_raised_at_the_end_of_the_mesh() -> None:
    """As its caller is told of a failed handler, which the tested code may hide."""
    users: Any = mock(Users)
    mocked(users.get).does(lambda *_, **__: User("7", [8]))  # type: ignore[list-item]

    async def served() -> None:
        async with local_mesh(users) as it:
            await it.serve(Careless(it.stub(Users)))
            assert await it.stub(Orders).place("7") == "for nobody"

    with pytest.raises(mesh.ContractError, match=r"^result of Users\.get: Expected `str`"):
        await served()
    async with local_mesh(users):
        with pytest.raises(mesh.ContractError):
            await users.get("7")  # which the test sees itself


async def test_so_is_what_a_mock_within_a_service_finds_wrong() -> None:
    """Also where the handler had a nursery around it."""

    class Hurried(Careless):
        async def place(self, user_id: str) -> str:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.users.get, user_id)
            return "for somebody"

    users = mock(Users)

    async def served() -> None:
        async with local_mesh(Hurried(users)) as it:
            mocked(users.get).returns(User("7"))
            assert await it.stub(Orders).place("7") == "for somebody"
            mocked(users.get).does(lambda *_, **__: User("7", [8]))  # type: ignore[list-item]
            with pytest.raises(mesh.Unknown):
                await it.stub(Orders).place("7")

    with pytest.raises(mesh.ContractError, match=r"^result of Users\.get: Expected `str`"):
        await served()


async def test_the_test_s_own_failure_comes_first() -> None:
    async def failing() -> None:
        async with local_mesh(mock(Users)) as it:
            with pytest.raises(mesh.Unknown):
                await it.stub(Users).count()
            raise KeyError("of the test")

    with pytest.raises(KeyError):
        await failing()


async def test_each_failed_call_has_an_error_of_its_own() -> None:
    """Chains of the one must not show in the other."""
    users = mock(Users)
    mocked(users.get).raises(UserNotFound("7"))
    async with local_mesh(users) as it, it.connect("other") as other:
        for client in (it.client, other):
            with pytest.raises(UserNotFound) as raised:
                await client.stub(Users).get("7")
            assert raised.value.chain == ("users.get",)
    with pytest.raises(UserNotFound) as first:
        await users.get("7")
    with pytest.raises(UserNotFound) as second:
        await users.get("7")
    assert first.value is not second.value


def test_only_contracts_are_mocked_and_only_mocks_are_set_up() -> None:
    with pytest.raises(mesh.ContractError, match="is no contract"):
        mock(UserService)
    with pytest.raises(mesh.UsageError, match=r"is no method of a mesh\.testing\.mock"):
        mocked(UserService().get)


def test_two_mocks_of_a_contract_know_nothing_of_each_other() -> None:
    one, other = mock(Users), mock(Users)
    assert mocked(one.get) is mocked(one.get)
    assert mocked(one.get) is not mocked(other.get)
