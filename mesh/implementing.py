"""What runs a contract's methods: parameters checked on the way in, results on the way out."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.failures import breach
from mesh.contracts.implementations import implemented
from mesh.contracts.objectives import within_of
from mesh.contracts.schema import describe
from mesh.errors import ContractError, Internal, Reason
from mesh.handlers import Handler, is_async, plain_of
from mesh.payload import encode, reader_of_params, readers_of, tell_misfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import Client
    from mesh.contracts.contract import Contract, ContractInfo, ContractMethod
    from mesh.contracts.signatures import Signature
    from mesh.errors import CallError

log = logging.getLogger("mesh.service")

MOST_TOLD = 50
"""Reasons that are logged of one method: a program may make one up for each call."""


def implement(client: Client, implementation: Contract) -> None:
    """Serve what an object implements by a client, from now on.

    Raises:
        ContractError: It does not do what its contracts say, or its service is served by another
            contract.
        ValueError: One of the methods is served by this client already, or its service by another
            version.
    """
    found = list(implemented(implementation, is_async))
    _check_names(client, type(implementation), [info for info, _ in found])
    for info, functions in found:
        handlers: dict[str, Handler] = {
            name: ContractHandler(info, info.methods[name], function)
            for name, function in functions.items()
        }
        options = {name: _options(info.methods[name]) for name in functions}
        client.register_all(info.name, handlers, options, str(info.version), describe(info))


def _check_names(client: Client, kind: type, infos: list[ContractInfo]) -> None:
    """Refuse two contracts of one name by one peer: it has one schema to tell for each service."""
    served = {
        service: handler.info
        for (service, _), handler in client._uplink.dispatcher.handlers.items()
        if isinstance(handler, ContractHandler)
    }
    for info in infos:
        other = served.setdefault(info.name, info)
        if other is not info:
            raise ContractError(
                f"{kind.__qualname__} implements {_title(info)} beside {_title(other)}: two "
                "contracts of one name in one program; rename one, let one extend the other, "
                "or run each in a program of its own"
            )


def _title(info: ContractInfo) -> str:
    """A contract by its class, which says which one of two of one name it is."""
    declared = info.declared
    return f"{declared.__module__}.{declared.__qualname__} ({info.name} {info.version})"


def _options(method: ContractMethod) -> dict[str, Any]:
    """What the gateway shall know of a method."""
    options = method.options
    told = {"slo": within_of(options.slo), "deprecated": options.deprecated}
    return {name: value for name, value in told.items() if value is not None}


class ContractHandler(Handler):
    """A contract's method, which an implementation runs.

    Args:
        info: The contract.
        method: The method.
        function: The implementation's, bound.

    Attributes:
        info: The contract.
        method: The method.
    """

    __slots__ = ("_name", "_told", "info", "method")

    def __init__(
        self, info: ContractInfo, method: ContractMethod, function: Callable[..., Any]
    ) -> None:
        self.info = info
        signature = method.signature
        plain = plain_of(function)
        self.in_thread = plain is not None
        self.function = functools.update_wrapper(_spread(signature, plain or function), function)
        self.takes_params = True
        self.params_type = signature.params
        if not signature.needs_any:
            self.params_type = signature.params | None
        self.read = reader_of_params(self.params_type)
        self.encode = encode if signature.result is Any else _checked(info, method)
        self._name, self.method = f"{info.name}.{method.name}", method
        self._told: set[str] = set()

    def raised(self, error: CallError) -> None:
        """Log what breaks the contract, once for each reason: callers do not get what they expect.

        That is a result that it forbids, or an error, which they get, but not as its class.
        """
        reason = error.reason
        if error.chain:  # one that a callee raised is not this method's
            return
        if reason in self._told or len(self._told) >= MOST_TOLD:
            return
        if reason == Reason.INVALID_RESULT:
            told = error.message
        elif told := breach(error, self.method.errors):
            told = f"{self._name} {told}"
        if told:
            self._told.add(reason)
            log.warning("%s", told)


def _spread(signature: Signature, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of a structure. What it returns is awaited as it is."""
    blank, values = signature.params, msgspec.structs.astuple
    if not signature.keywords:
        # None is what comes where nothing was sent, which will do if all have defaults.
        return lambda params: function(*values(blank() if params is None else params))

    def spread(params: msgspec.Struct | None) -> Any:
        by_position, by_name = signature.arguments(blank() if params is None else params)
        return function(*by_position, **by_name)

    return spread


def _checked(info: ContractInfo, method: ContractMethod) -> Callable[[Any, int], bytes]:
    """What encodes a result, and reads it as callers will: a wrong one is this side's fault."""
    readers = readers_of(method.signature.result)

    def encode_checked(value: Any, encoding: int) -> bytes:
        answer = encode(value, encoding)
        read = readers.get(encoding)
        if read is not None:  # else bytes, which have no type
            try:
                read(answer)
            except Exception as fault:
                raise Internal(
                    f"result of {info.name}.{method.name} breaks the contract {info.name} "
                    f"{info.version}: {tell_misfit(fault)}",
                    reason=Reason.INVALID_RESULT,
                ) from fault
        return answer

    return encode_checked
