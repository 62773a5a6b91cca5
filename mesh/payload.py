"""Payloads: the user's values to bytes and back. The gateway never looks inside.

Values are whatever `msgspec` encodes: plain data, dataclasses, `msgspec.Struct`, TypedDict, enums,
datetime, UUID, and so on. When encoding fails, and only then, the value is walked to name the path
of what is at fault.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import msgspec

from mesh.defaults import completing
from mesh.errors import CallError, Internal, InvalidArgument, Reason
from mesh.wire.codec import JSON, MSGPACK, RAW

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

Encoding = Literal["msgpack", "json", "raw"]
"""How a peer's parameters travel: as MessagePack, as JSON, or as the bytes that they are."""

_NUMBERS: dict[str, int] = dict(zip(get_args(Encoding), (MSGPACK, JSON, RAW), strict=True))

MAX_DEPTH = 200
"""How deep a value is searched for what is at fault."""

ENCODING_FAULTS = (RecursionError, TypeError, ValueError, OverflowError, UnicodeError)
"""What encoders raise of a value that cannot travel."""

_encode_msgpack = msgspec.msgpack.Encoder().encode
_ENCODERS = {MSGPACK: _encode_msgpack, JSON: msgspec.json.Encoder().encode}
_DECODERS: dict[int, Any] = {MSGPACK: msgspec.msgpack.Decoder, JSON: msgspec.json.Decoder}
_decode_any = msgspec.msgpack.Decoder().decode
_decode_any_json = msgspec.json.Decoder().decode


class EncodingFault(ValueError):  # noqa: N818 - a fault of the user's value, see errors.py
    """A value that cannot travel; the message names its path."""


def encoding_number(name: str) -> int:
    """The number of an encoding in headers.

    Raises:
        ValueError: There is none of this name.
    """
    try:
        return _NUMBERS[name]
    except (KeyError, TypeError):
        raise ValueError(f"encoding {name!r} is none of {', '.join(_NUMBERS)}") from None


def encode(value: Any, encoding: int = MSGPACK) -> bytes:
    """Turn a value into bytes.

    Raises:
        EncodingFault: It cannot be done; the message names the path and the type.
    """
    if encoding == MSGPACK:  # nearly always: no look-up
        try:
            return _encode_msgpack(value)
        except ENCODING_FAULTS:
            pass  # told below
    if encoding == RAW:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if value is None:  # a call without parameters, a handler without a result
            return b""
        raise EncodingFault(
            f"a raw payload must be bytes, not {type(value).__name__}; a caller with "
            "encoding='msgpack' or 'json' sends and gets values"
        )
    try:
        encoder = _ENCODERS[encoding]
    except KeyError:
        raise EncodingFault(f"payload encoding {encoding} is unknown") from None
    try:
        return encoder(value)
    except RecursionError as fault:
        raise EncodingFault("value is nested too deeply, or in a circle") from fault
    except (TypeError, ValueError, OverflowError, UnicodeError) as fault:
        raise EncodingFault(_locate(value, encoder, "$") or str(fault)) from fault


def decode(payload: bytes, encoding: int, result: Any = Any) -> Any:
    """Turn bytes into a value of a type.

    Args:
        payload: The bytes.
        encoding: What the header says they are.
        result: The type wanted; ``Any`` gives plain data.

    Raises:
        msgspec.ValidationError: The value is not of that type; the message names the path.
        msgspec.DecodeError: The bytes are malformed.
    """
    if encoding == RAW:
        return payload if result is Any else msgspec.convert(payload, result)
    if result is Any and encoding == MSGPACK:  # nearly always: no look-up
        return _decode_any(payload)
    if result is Any and encoding == JSON:
        return _decode_any_json(payload)
    if (read := reader_of(result, encoding)) is not None:
        return read(payload)
    raise msgspec.DecodeError(f"payload encoding {encoding} is unknown")


def tell_misfit(fault: Exception) -> str:
    """Why bytes are not of a type: what `msgspec` says, or what the type itself raised."""
    if isinstance(fault, (msgspec.MsgspecError, RecursionError, ValueError)):
        return str(fault)
    return f"{type(fault).__name__}: {fault}"


def readers_of(result: Any) -> dict[int, Callable[[bytes], Any]]:
    """What decodes into a type, by the number of the encoding; of raw bytes there is none.

    Who only checks, as these do, needs no fields at their defaults.
    """
    return {encoding: kind(result).decode for encoding, kind in _DECODERS.items()}


def reader_of(result: Any, encoding: int) -> Callable[[bytes], Any] | None:
    """What decodes into a type, prepared before anything is sent for it; None for raw bytes.

    Raises:
        TypeError: `msgspec` cannot decode into it.
    """
    try:
        return _reader(result, encoding)
    except TypeError:  # not hashable, hence not remembered; or no type at all, which raises again
        return _reader.__wrapped__(result, encoding)


@functools.lru_cache(1024)
def _reader(result: Any, encoding: int) -> Callable[[bytes], Any] | None:
    read: Callable[[bytes], Any] = _DECODERS.get(encoding, msgspec.msgpack.Decoder)(result).decode
    return completing(read, result) if encoding in _DECODERS else None


def reader_of_params(params: Any) -> Callable[[bytes], Any]:
    """What decodes the parameters of a method from MessagePack, prepared before its first call.

    Where `msgspec` cannot decode into their type, it says so when it is called.
    """
    try:
        return completing(msgspec.msgpack.Decoder(params).decode, params)
    except Exception:  # noqa: BLE001 - told to the caller, as whatever else is wrong with it
        return lambda payload: decode(payload, MSGPACK, params)


def _locate(value: Any, encode_one: Any, path: str, depth: int = 0) -> str | None:
    """The path of the first part that does not encode, with why; None where no part is at fault."""
    if depth > MAX_DEPTH:
        return f"{path[:60]}...: nested too deeply"
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, item in value.items():
            try:
                encode_one({key: None})
            except (TypeError, ValueError, OverflowError) as fault:
                return f"{path}: key {key!r} of type {type(key).__name__}: {fault}"
            children.append((f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]", item))
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif fields := getattr(value, "__struct_fields__", None) or getattr(
        value, "__dataclass_fields__", None
    ):
        children = [(f"{path}.{name}", getattr(value, name, None)) for name in fields]
    for where, item in children:
        try:
            encode_one(item)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return _locate(item, encode_one, where, depth + 1)
    try:
        encode_one(value)
    except (TypeError, ValueError, OverflowError) as fault:
        return f"{path}: {type(value).__name__}: {fault}"
    return None


def encode_params(value: Any, target: str, encoding: int = MSGPACK) -> bytes:
    """Encode a call's parameters.

    Raises:
        InvalidArgument: They cannot travel (`UNENCODABLE`); the call has not been sent.
    """
    if encoding == MSGPACK:  # nearly always: one Python frame less than by `encode`
        try:
            return _encode_msgpack(value)
        except ENCODING_FAULTS:
            pass  # told below
    try:
        return encode(value, encoding)
    except EncodingFault as fault:
        raise InvalidArgument(
            f"parameters of {target} cannot be encoded: {fault}",
            reason=Reason.UNENCODABLE,
            maybe_executed=False,
        ) from fault


def decode_result(
    payload: bytes,
    encoding: int,
    result: Any,
    target: str,
    read: Callable[[bytes], Any] | None = None,
) -> Any:
    """Decode a call's result.

    Args:
        payload: The bytes.
        encoding: What the header says they are.
        result: The type wanted; ``Any`` gives plain data.
        target: The method, for people.
        read: What :func:`reader_of` has prepared of type and encoding, if that has been asked.

    Raises:
        Internal: It is not of the type that the caller asked for (`UNDECODABLE`).
    """
    try:
        if read is not None:
            return read(payload)
        if result is Any and encoding == MSGPACK:
            return _decode_any(payload)
        return decode(payload, encoding, result)
    except Exception as fault:
        wanted = "" if result is Any else f" as {getattr(result, '__name__', result)}"
        raise Internal(
            f"result of {target} cannot be decoded{wanted}: {tell_misfit(fault)}",
            reason=Reason.UNDECODABLE,
        ) from fault


def decode_details(payload: bytes, encoding: int) -> dict[str, Any]:
    """An error's details; what cannot be read is left out, as the error itself matters more."""
    if not payload:
        return {}
    try:
        details = decode(payload, encoding)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return {}
    return details if isinstance(details, dict) else {"value": details}


def encode_details(error: CallError) -> bytes:
    """An error's details for the wire; what cannot travel is replaced by why."""
    if not error.details:
        return b""
    try:
        return encode(error.details)
    except EncodingFault as fault:
        return encode({"details": f"lost: {fault}"})
