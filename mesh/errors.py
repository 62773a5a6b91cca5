"""What can go wrong, in one vocabulary.

The outside world's failures are :class:`CallError`, one subclass per status code. The codes are the
sixteen that gRPC and Connect share (https://grpc.io/docs/guides/status-codes/), spelled in lower
case; their wire numbers are gRPC's. Mistakes of the program itself are :class:`UsageError`, and
bytes that break the protocol are :class:`ProtocolError`: neither is a :class:`CallError`, so
``except mesh.CallError`` never hides a bug.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Code(StrEnum):
    """The status codes; ``Code.NOT_FOUND == "not_found"``. ``OK`` is never raised."""

    OK = "ok"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    INVALID_ARGUMENT = "invalid_argument"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DATA_LOSS = "data_loss"
    UNAUTHENTICATED = "unauthenticated"

    @property
    def number(self) -> int:
        """The code's number on the wire, as in gRPC."""
        return _NUMBERS[self]

    @classmethod
    def from_number(cls, number: int) -> Code:
        """The code of a wire number; a number from the future is ``UNKNOWN``."""
        return CODES[number] if 0 <= number < len(CODES) else cls.UNKNOWN


CODES: tuple[Code, ...] = tuple(Code)
_NUMBERS = {code: number for number, code in enumerate(CODES)}


class Reason(StrEnum):
    """Why the mesh itself refused or ended a call: stable, upper case, fit for ``if``."""

    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"
    METHOD_NOT_FOUND = "METHOD_NOT_FOUND"
    INCOMPATIBLE_VERSION = "INCOMPATIBLE_VERSION"
    NO_INSTANCE = "NO_INSTANCE"
    DEPTH_EXCEEDED = "DEPTH_EXCEEDED"
    LOOP_DETECTED = "LOOP_DETECTED"
    PARENT_ENDED = "PARENT_ENDED"
    PARENT_FOREIGN = "PARENT_FOREIGN"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CALLER_CANCELLED = "CALLER_CANCELLED"
    CALLER_DISCONNECTED = "CALLER_DISCONNECTED"
    HANDLER_CANCELLED = "HANDLER_CANCELLED"
    OVERLOADED = "OVERLOADED"
    OUTBOX_FULL = "OUTBOX_FULL"
    WAITING_FULL = "WAITING_FULL"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    CONNECTION_LOST = "CONNECTION_LOST"
    GATEWAY_UNREACHABLE = "GATEWAY_UNREACHABLE"
    GATEWAY_DRAINING = "GATEWAY_DRAINING"
    HANDLER_FAILED = "HANDLER_FAILED"
    UNENCODABLE = "UNENCODABLE"
    UNDECODABLE = "UNDECODABLE"
    INVALID_RESULT = "INVALID_RESULT"
    UNSUPPORTED = "UNSUPPORTED"


_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word begins in a name such as ``OutOfStock``."""


class MeshError(Exception):
    """The base of everything this package raises."""


class UsageError(MeshError, RuntimeError):
    """The program uses the mesh wrongly, for example calls on a client that is closed."""


class ContractError(UsageError, TypeError):
    """A contract, or what is served as one, cannot be; the message names class, method, parameter.

    Raised when the class of a contract is made, when an implementation is served, and by mocks and
    faults of the testing kit for what breaks a contract.
    """


class SettingError(UsageError, ValueError):
    """A ``MESH_*`` variable holds what cannot be; the message names it and what should be there."""


class AddressInUse(MeshError, OSError):
    """A live process already listens where this one should; the message says which."""


class AddressError(MeshError, ValueError):
    """An address is not of the form ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT``."""


class CertificateError(MeshError, ValueError):
    """A certificate, key or authority file cannot be used; the message says which and why."""


class ProtocolError(MeshError):
    """Bytes or frames that the wire protocol forbids. Catch this, raise one of its subclasses."""


class LocalProtocolError(ProtocolError):
    """Our own side tried to send what the protocol forbids here: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol forbids: the connection is of no more use."""


class CallError(MeshError):
    """A call that did not succeed. Handlers raise it (or a subclass) to choose what callers see.

    Args:
        message: For people; numbers and limits included.
        reason: Stable and upper case, for programs: ``"OUT_OF_STOCK"``.
        details: Plain data that helps the caller, encoded like any result.
        chain: The hops that led to the point of failure, filled in by the mesh.
        activity_id: The activity that the call belonged to, filled in by the mesh.
        maybe_executed: Whether the callee may have run the call. Only when this is false is a
            second try certain not to do the work twice.

    An error with fields of its own is a dataclass. The fields are its details, its name or
    ``reason`` its reason, the first line of its docstring its message; where a method's contract
    declares it, callers get it as what it is:

        >>> @dataclass
        ... class OutOfStock(mesh.FailedPrecondition):
        ...     '''Only {left} of {item} are left.'''
        ...     item: str
        ...     left: int
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init_subclass__(cls, **options: Any) -> None:
        """Let subclasses write ``code = "not_found"``; an unknown code is a ValueError here."""
        super().__init_subclass__(**options)
        cls.code = Code(cls.code)

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        chain: Sequence[str] = (),
        activity_id: str = "",
        maybe_executed: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = str(message)  # `raise NotFound(user_id)` is not worth a second failure
        self.reason = str(reason) or self.code.upper()
        self.details: dict[str, Any] = dict(details or {})
        self.chain = tuple(chain)
        self.activity_id = activity_id
        self.maybe_executed = maybe_executed
        self.remote_traceback: str | None = None

    def __str__(self) -> str:
        where = f" [{' > '.join(self.chain)}]" if self.chain else ""
        return f"{self.reason}: {self.message}{where}" if self.message else f"{self.reason}{where}"

    @classmethod
    def default_reason(cls) -> str:
        """The reason of a class of the user's own: ``OUT_OF_STOCK`` of ``OutOfStock``."""
        own = getattr(cls, "reason", None)
        return own if isinstance(own, str) else _WORD.sub("_", cls.__name__).upper()

    def __post_init__(self) -> None:
        """What a dataclass calls: its fields are the details, its docstring's first line tells."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # where it is called
        }
        template = template_of(type(self))
        try:
            message = template.format(**fields)
        except (LookupError, ValueError, AttributeError, TypeError):
            message = template
        CallError.__init__(self, message, reason=self.default_reason(), details=fields)
        self.args = tuple(fields.values())

    def __reduce__(self) -> tuple[Any, ...]:
        """Let errors be copied and pickled whatever their constructors take."""
        return _again, (type(self), self.args), vars(self)

    @staticmethod
    def of(code: Code, message: str = "", **rest: Any) -> CallError:
        """An error of the subclass that stands for ``code``; arguments as in the constructor."""
        return _CLASSES.get(code, Unknown)(message, **rest)


def template_of(kind: type[CallError]) -> str:
    """What a dataclass makes its messages of: the first line of its docstring."""
    first, *_ = (kind.__doc__ or "").strip().splitlines() or [""]
    # Else what the dataclass itself has written.
    return "" if first.startswith(f"{kind.__name__}(") else first


def _again(kind: type[CallError], args: tuple[Any, ...]) -> CallError:
    """An error of which the rest is set afterwards."""
    return kind.__new__(kind, *args)


# The names below are the codes' own, as `except mesh.NotFound` reads best.


class Cancelled(CallError):
    """The work was cancelled by its caller or by the service that ran it."""

    code = Code.CANCELLED


class Unknown(CallError):
    """The handler raised something that is no :class:`CallError`."""

    code = Code.UNKNOWN


class InvalidArgument(CallError):
    """The parameters can never be right, whatever the state of the system."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(CallError):
    """The time allowed for the call ran out; the message tells where it was spent."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(CallError):
    """The thing asked for, or the service asked, does not exist."""

    code = Code.NOT_FOUND


class AlreadyExists(CallError):
    """What should be created exists."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(CallError):
    """The caller is known and not allowed."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(CallError):
    """A limit is reached: calls in flight, bytes queued, a quota."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(CallError):
    """The system's state forbids it, and trying again without a change will not help."""

    code = Code.FAILED_PRECONDITION


class Aborted(CallError):
    """A conflict with other work; a retry at a higher level may help."""

    code = Code.ABORTED


class OutOfRange(CallError):
    """Past the end of something."""

    code = Code.OUT_OF_RANGE


class Unimplemented(CallError):
    """The service is there, the method or feature is not."""

    code = Code.UNIMPLEMENTED


class Internal(CallError):
    """An invariant of the callee is broken, for example a result that cannot be encoded."""

    code = Code.INTERNAL


class Unavailable(CallError):
    """Nobody could serve the call now; see ``maybe_executed`` before trying again."""

    code = Code.UNAVAILABLE


class DataLoss(CallError):
    """Data is lost or broken beyond repair."""

    code = Code.DATA_LOSS


class Unauthenticated(CallError):
    """The caller did not prove who it is."""

    code = Code.UNAUTHENTICATED


_CLASSES: dict[Code, type[CallError]] = {cls.code: cls for cls in CallError.__subclasses__()}
