"""What a person reads when a command fails: what happened, whose fault it is, what to do.

Exit statuses: 1 for a call or a start that failed, 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import errno
from typing import IO, Any

import click

from mesh.errors import (
    AddressError,
    AddressInUse,
    CallError,
    CertificateError,
    MeshError,
    Reason,
    UsageError,
)
from mesh_telemetry.logs import clean

INTERRUPTED = 130
"""The exit status of a command ended by Ctrl-C, 128 and the signal's number, as shells expect."""

_HINTS = {
    Reason.SERVICE_NOT_FOUND: "`mesh list` shows the services that are registered.",
    Reason.METHOD_NOT_FOUND: "`mesh list` shows the methods of every service.",
    Reason.NO_INSTANCE: "Start the service, or look into its log to see why it left.",
    Reason.UNDECODABLE: "The fault is in the parameters: mend them and call again.",
    Reason.UNENCODABLE: "The fault is in the service: its result cannot be sent.",
    Reason.INVALID_RESULT: "The fault is in the service: its result is not what its contract says.",
    Reason.HANDLER_FAILED: "The fault is in the service; its log has the traceback.",
    Reason.LOOP_DETECTED: "The fault is in the services along the chain, which call in a circle.",
    Reason.DEPTH_EXCEEDED: "The fault is in the services along the chain, or the limit is too low.",
    Reason.DEADLINE_EXCEEDED: (
        "See where the time was spent, or allow more where the limit is set (here: --timeout)."
    ),
    Reason.OVERLOADED: "Try again later, or start another instance.",
    Reason.GATEWAY_DRAINING: "Try again when the gateway has been restarted.",
    "TRACE_NOT_FOUND": (
        "To have one kept: `mesh trace --call SERVICE METHOD`, or in code `with mesh.traced():`."
    ),
}


def hint(error: CallError) -> str:
    """What to do about a failed call; empty where its message says all there is to say."""
    if error.reason == Reason.CONNECTION_LOST:
        return (
            "It may have run before the connection was lost: look before you call it again."
            if error.maybe_executed
            else "It certainly did not run: call it again."
        )
    advice = next((text for reason, text in _HINTS.items() if reason == error.reason), "")
    if error.reason == "TRACE_NOT_FOUND":
        told = (error.details.get(name, "") for name in ("kept", "ids"))
        advice = "\n      ".join([advice, *(clean(str(line)) for line in told if line)])
    return advice


class Failure(click.ClickException):
    """A command that failed: its lines on stderr, its exit status."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.advice = advice

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the failure in one line, and what to do about it in a second one."""
        click.secho("mesh: ", fg="red", bold=True, nl=False, err=True, file=file)
        click.echo(clean(self.message), err=True, file=file)
        if self.advice:
            click.echo(f"      {self.advice}", err=True, file=file)


class WrongUsage(Failure):
    """A command whose arguments cannot work."""

    exit_code = 2


def explain(fault: MeshError | OSError) -> Failure | None:
    """Put a failure into words for people; None for a closed pipe, which is nobody's business."""
    if isinstance(fault, CallError):
        return Failure(f"{fault.code} {fault}", hint(fault))
    if isinstance(fault, AddressInUse):
        return Failure(str(fault))
    if isinstance(fault, (AddressError, CertificateError, UsageError)):
        return WrongUsage(str(fault))
    if isinstance(fault, OSError):
        if fault.errno == errno.EPIPE:
            return None
        where = f"{fault.filename}: " if fault.filename else ""
        return Failure(f"the system refuses: {where}{fault.strerror or fault}")
    return None
