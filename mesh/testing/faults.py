"""Faults that tests inject: in the peers of a local mesh, where a call meets its handler.

A peer of a local mesh looks its handlers up in a table of this room. What is not part of a local
mesh knows nothing of it.
"""

from __future__ import annotations

import copy
import difflib
from typing import TYPE_CHECKING, Any

import trio

from mesh.contracts.contract import Contract, contracts_of, info_of
from mesh.errors import CallError, Code, ContractError, UsageError
from mesh.groups import sole
from mesh.testing.mocks import NotSetUp, breach_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from mesh.contracts.contract import ContractMethod
    from mesh.handlers import Handler
    from mesh.service import Dispatcher

    Change = Callable[[Handler, trio.CapacityLimiter], Callable[..., Awaitable[Any]]]
    """What is called in place of a handler's function."""


class Fault:
    """What happens to calls of a service, or of one of its methods.

    Attributes:
        hits: How many calls it has met.
    """

    def __init__(
        self,
        service: str,
        method: str | None,
        times: int | None,
        change: Change,
        *,
        ends: bool,
    ) -> None:
        if times is not None and times < 1:
            raise UsageError(f"times={times} is less than 1; leave it out for every call")
        self.hits = 0
        self.ends = ends  # the calls that it meets: none of these gets any further
        self._service, self._method, self._times = service, method, times
        self._change = change

    def is_for(self, service: str, method: str) -> bool:
        """Whether it is for calls of this method, of however many."""
        return service == self._service and self._method in {None, method}

    def meets(self, service: str, method: str) -> bool:
        """Whether it meets the next call of this method."""
        return self.is_for(service, method) and self.hits != self._times

    def hit(self, handler: Handler, limiter: trio.CapacityLimiter) -> Handler:
        """What serves a call that it meets."""
        self.hits += 1
        return _changed(handler, self._change, limiter)


def _changed(handler: Handler, change: Change, limiter: trio.CapacityLimiter) -> Handler:
    changed = copy.copy(handler)
    changed.function, changed.in_thread = change(handler, limiter), False
    return changed


def delaying(seconds: float) -> Change:
    """Handlers that begin late."""

    def change(handler: Handler, limiter: trio.CapacityLimiter) -> Callable[..., Awaitable[Any]]:
        async def delayed(*arguments: Any) -> Any:
            await trio.sleep(seconds)
            return await _run(handler, limiter, arguments)

        return delayed

    return change


def telling(breaches: list[UsageError]) -> Change:
    """Handlers whose breaches of contracts are noted: their callers learn of a failure alone."""

    def change(handler: Handler, limiter: trio.CapacityLimiter) -> Callable[..., Awaitable[Any]]:
        async def told(*arguments: Any) -> Any:
            try:
                return await _run(handler, limiter, arguments)
            except BaseException as failure:
                fault = sole(failure) if isinstance(failure, BaseExceptionGroup) else failure
                if isinstance(fault, (ContractError, NotSetUp)):
                    breaches.append(fault)
                raise

        return told

    return change


async def _run(handler: Handler, limiter: trio.CapacityLimiter, arguments: tuple[Any, ...]) -> Any:
    """A handler's function, where it runs without a fault, too."""
    if handler.in_thread:
        return await trio.to_thread.run_sync(
            handler.function, *arguments, limiter=limiter, abandon_on_cancel=True
        )
    return await handler.function(*arguments)


def failing(error: CallError | Code | str, methods: Mapping[str, ContractMethod]) -> Change:
    """Handlers that fail.

    Args:
        error: By which, or its code.
        methods: Of contracts, those that shall fail, by their names for people. One at least has to
            know the error.

    Raises:
        ContractError: None of them does.
        UsageError: It is neither, there is no such code, or it is ``ok``.
    """
    if not isinstance(error, CallError):
        if not isinstance(error, str):
            raise UsageError(
                f"error={error!r} is no error of a call: give a subclass of mesh.CallError, or a "
                "code; what a handler fails by otherwise, callers get as 'unknown'"
            )
        try:
            code = Code(error)
        except ValueError:
            near = difflib.get_close_matches(error, list(Code), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(Code)}"
            raise UsageError(f"{error!r} is no code; {hint}") from None
        if code is Code.OK:
            raise UsageError("code 'ok' is no failure")
        error = CallError.of(code, "a test has this call fail")
    failure = error
    breaches = [breach for one in methods.items() if (breach := breach_of(*one, error)) is not None]
    if breaches and len(breaches) == len(methods):
        raise breaches[0]

    def change(*_: Any) -> Callable[..., Awaitable[Any]]:
        async def failed(*_: Any) -> Any:
            raise copy.copy(failure)  # each call's own chain is set in it

        return failed

    return change


def dropping() -> Change:
    """Handlers that never answer."""

    def change(*_: Any) -> Callable[..., Awaitable[Any]]:
        async def dropped(*_: Any) -> Any:
            await trio.sleep_forever()

        return dropped

    return change


class FaultyHandlers(dict[tuple[str, str], "Handler"]):
    """The handlers of one peer, by service and method, as faults leave them.

    Args:
        faults: Those that apply now; the first one meets a call first.
        breaches: Where breaches of contracts are noted.
        dispatcher: The peer's.
    """

    def __init__(
        self, faults: list[Fault], breaches: list[UsageError], dispatcher: Dispatcher
    ) -> None:
        super().__init__(dispatcher.handlers)
        self._faults = faults
        self._telling = telling(breaches)
        self._limiter = dispatcher.limiter

    def get(self, called: tuple[str, str], default: Any = None) -> Any:
        """What serves a call: looked up once for each."""
        handler = super().get(called, default)
        if handler is not None:
            met: list[Fault] = []
            for fault in self._faults:
                if fault.meets(*called):
                    met.append(fault)
                    if fault.ends:
                        break
            handler = _changed(handler, self._telling, self._limiter)
            for fault in reversed(met):
                handler = fault.hit(handler, self._limiter)
        return handler


def service_name(service: str | type[Contract]) -> str:
    """A service's name: of a contract, of the one that a class implements, or as it is.

    Raises:
        ContractError: The class is no contract, and implements none.
        UsageError: It implements several.
    """
    if isinstance(service, str):
        return service
    names = [info.name for info in contracts_of(service)]
    if len(names) > 1:
        raise UsageError(f"{service.__qualname__} implements {', '.join(names)}; name one of these")
    return names[0] if names else info_of(service).name


def check_target(service: str, method: str | None, served: Iterable[tuple[str, str]]) -> None:
    """Refuse a target that no peer serves: a fault that can meet no call proves nothing.

    Raises:
        UsageError: The message names what is served instead.
    """
    known = sorted(served)
    if any(service == one and method in {None, other} for one, other in known):
        return
    wanted = service if method is None else f"{service}.{method}"
    names = sorted({one if method is None else f"{one}.{other}" for one, other in known})
    near = difflib.get_close_matches(wanted, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
    raise UsageError(f"no peer of this local mesh serves {wanted}; {hint}")
