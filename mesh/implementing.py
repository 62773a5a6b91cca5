"""What runs a contract's methods: parameters checked on the way in, results on the way out."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.contracts.failures import breach
from mesh.contracts.implementations import implemented
from mesh.contracts.schema import describe
from mesh.errors import Internal, Reason
from mesh.handlers import Handler, is_async, plain_of
from mesh.payload import encode, readers_of, tell_misfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.client import Client
    from mesh.contracts.contract import Contract, ContractInfo, ContractMethod
    from mesh.contracts.signatures import Signature
    from mesh.errors import CallError

log = logging.getLogger("mesh.service")


def implement(client: Client, implementation: Contract) -> None:
    """Serve what an object implements by a client, from now on.

    Raises:
        ContractError: It does not do what its contracts say.
        ValueError: One of the methods is served by this client already, or its service by another
            version.
    """
    for info, functions in list(implemented(implementation, is_async)):
        handlers: dict[str, Handler] = {
            name: ContractHandler(info, info.methods[name], function)
            for name, function in functions.items()
        }
        options = {name: _options(info.methods[name]) for name in functions}
        client.register_all(info.name, handlers, options, str(info.version), describe(info))


def _options(method: ContractMethod) -> dict[str, Any]:
    """What the gateway shall know of a method."""
    options = method.options
    told = {"slo": options.slo, "deprecated": options.deprecated}
    return {name: value for name, value in told.items() if value is not None}


class ContractHandler(Handler):
    """A contract's method, which an implementation runs.

    Args:
        info: The contract.
        method: The method.
        function: The implementation's, bound.
    """

    __slots__ = ("_name", "_told", "method")

    def __init__(
        self, info: ContractInfo, method: ContractMethod, function: Callable[..., Any]
    ) -> None:
        signature = method.signature
        plain = plain_of(function)
        self.in_thread = plain is not None
        self.function = functools.update_wrapper(_spread(signature, plain or function), function)
        self.takes_params = True
        self.params_type = signature.params
        if not signature.needs_any:
            self.params_type = signature.params | None
        self.encode = encode if signature.result is Any else _checked(info, method)
        self._name, self.method = f"{info.name}.{method.name}", method
        self._told = False

    def raised(self, error: CallError) -> None:
        """Log the first error that breaks the contract: callers get it, but not as its class."""
        if self._told or error.chain:  # one that a callee raised is not this method's
            return
        if told := breach(error, self.method.errors):
            self._told = True
            log.warning("%s %s", self._name, told)


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
