"""The gateway's settings: one table, from which its file, variables and arguments are derived.

A setting ``log.level`` is ``level`` in the file's table ``[log]``, ``MESH_LOG_LEVEL`` in the
environment and ``--log-level`` among the arguments; a limit is ``--limit NAME=VALUE``, so that the
help stays short. To add a setting, add a line to :data:`SETTINGS`.
"""

from __future__ import annotations

import re
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import msgspec

from mesh.errors import MeshError
from mesh.limits import BOUNDS, Bound, Limits
from mesh.logs import Format, Level
from mesh.transport import Address, default_address
from mesh.units import MIB
from mesh_telemetry import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ADMIN = "127.0.0.1:9464"
"""The port that OpenTelemetry gives Prometheus exporters by default."""


class WrongValueError(ValueError):
    """A value that a setting cannot have. The message begins with ``must``."""


class Setting(NamedTuple):
    """One setting of the gateway."""

    path: str
    """Its place in the file: ``log.level``."""
    default: Callable[[], Any]
    """Makes the default; None stands for a setting that is not made."""
    convert: Callable[[Any], Any]
    """From what the file holds, or from text, to the value; raises :class:`WrongValueError`."""
    help: str
    metavar: str = ""
    many: bool = False
    """Whether the argument may be repeated."""
    flag: bool = False
    """Whether the argument stands alone, for true."""
    default_from: str = ""
    """A variable of wider use that rules the default."""
    named: str = ""
    """Its variable, where the one that its path gives means something else to peers."""
    show: Callable[[Any], Any] = lambda value: value
    """From the value to what :attr:`convert` takes, and TOML can hold."""

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return self.named or "MESH_" + self.path.upper().replace(".", "_")

    @property
    def argument(self) -> str:
        """Its command line option."""
        return "--" + self.path.replace(".", "-").replace("_", "-")

    @property
    def parameter(self) -> str:
        """The option's name where Python wants an identifier."""
        return self.path.replace(".", "_")

    @property
    def is_limit(self) -> bool:
        """Whether it is a field of `Limits`, by its last name."""
        return self.path.startswith("limits.")


def choice(known: tuple[str, ...]) -> Callable[[Any], str]:
    """A conversion to one of several words."""
    one_of = Literal[known]  # type: ignore[valid-type] # known only here

    def convert(value: Any) -> str:
        try:
            return str(msgspec.convert(value, one_of))
        except msgspec.ValidationError:
            raise WrongValueError(f"must be one of {', '.join(known)}, not {value!r}") from None

    return convert


def switch(value: Any) -> bool:
    """A conversion to true or false."""
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    found = words.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise WrongValueError(f"must be true or false, not {value!r}")
    return found


def text(value: Any) -> str:
    """A conversion to text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise WrongValueError(f"must be text, not {value!r}")
    return value.strip()


def addresses(value: Any) -> list[str]:
    """A conversion to addresses: a list, or text with commas between them."""
    listed = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        found = msgspec.convert(listed, list[str])
    except msgspec.ValidationError:
        raise WrongValueError(f"must be a list of addresses, not {value!r}") from None
    for one in found:
        try:
            Address.parse(one)
        except MeshError as fault:
            raise WrongValueError(f"must hold addresses: {fault}") from None
    return found


def admin(value: Any) -> str:
    """A conversion to the admin address, or ``none``."""
    from mesh.http import parse_address  # slow: an HTTP server comes along

    address = text(value)
    if address != "none":
        try:
            parse_address(address)
        except MeshError as fault:
            raise WrongValueError(f"must be HOST:PORT or 'none': {fault}") from None
    return address


def permissions(value: Any) -> str:
    """A conversion to the permissions of a file, in octal digits as chmod takes them."""
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value.strip()):
        raise WrongValueError(f'must be permissions in octal digits, such as "0660", not {value!r}')
    return value.strip()


def bounded(number: Any, bound: Bound) -> Callable[[Any], Any]:
    """A conversion to a number of a type, within its bound."""

    def convert(value: Any) -> Any:
        try:
            given = bound.parse(value) if isinstance(value, str) else value
            found: float = msgspec.convert(given, number)
        except msgspec.ValidationError:
            wanted = "a number of seconds" if bound.unit == "s" else "a whole number"
            raise WrongValueError(f"must be {wanted}, not {value!r}") from None
        except ValueError as fault:
            raise WrongValueError(f"must be {fault}, not {value!r}") from None
        wrong = bound.fault(found)
        if wrong is not None:
            raise WrongValueError(wrong)
        return found

    return convert


def _show_bounded(bound: Bound) -> Callable[[Any], Any]:
    return bound.format if bound.unit in {"s", "B"} else lambda value: value


_TRACES = TraceSettings()
_TRACE_SETTINGS = (
    (
        "baseline",
        Bound("/s", 0, 10**6),
        "N",
        "Traces kept per second for each method of entry calls, whatever they are. [default: 10]",
    ),
    (
        "quota",
        Bound("/s", 0, 10**6),
        "N",
        "Traces kept per second for each reason, such as an error, and method. [default: 10]",
    ),
    (
        "max_spans_per_second",
        Bound("/s", 1, 10**7),
        "N",
        "Spans of kept traces per second, over all. [default: 2000]",
    ),
    (
        "slow_after",
        Bound("s", 0.001, 86_400),
        "DURATION",
        "A call that takes longer is slow, whatever its method usually takes. [default: 1s]",
    ),
    (
        "store_spans",
        Bound("", 100, 10**7),
        "N",
        "Spans that the gateway holds, of the newest kept traces. [default: 20000]",
    ),
    (
        "store_bytes",
        Bound("B", MIB, 2**40),
        "SIZE",
        "Memory that these may take. [default: 128MiB]",
    ),
)
"""The fields of `TraceSettings`, with their bounds and help."""


SETTINGS: dict[str, Setting] = {
    setting.path: setting
    for setting in (
        Setting(
            "listen",
            lambda: [default_address()],
            addresses,
            "Accept peers at unix:PATH, tcp:HOST:PORT or tls:HOST:PORT; port 0 takes a free one. "
            "May be repeated. [default: the sockets that systemd hands in, else MESH_GATEWAY, else "
            "your own socket]",
            "ADDRESS",
            many=True,
            default_from="MESH_GATEWAY",
        ),
        Setting(
            "admin",
            lambda: ADMIN,
            admin,
            "Serve /metrics, /healthz, /readyz and /api there; `none` for no such server. "
            f"[default: {ADMIN}]",
            "HOST:PORT",
        ),
        Setting(
            "admin_token_file",
            lambda: None,
            text,
            "What `Authorization: Bearer` must hold there; needed where other machines reach it.",
            "FILE",
        ),
        Setting(
            "tls.cert",
            lambda: None,
            text,
            "The certificate for tls: addresses, with intermediate ones, in PEM form. SIGHUP reads "
            "it and the next two again; connections stay.",
            "FILE",
            named="MESH_LISTEN_TLS_CERT",
        ),
        Setting(
            "tls.key",
            lambda: None,
            text,
            "Its private key. [default: in the same file]",
            "FILE",
            named="MESH_LISTEN_TLS_KEY",
        ),
        Setting(
            "tls.client_ca",
            lambda: None,
            text,
            "Let only peers in that show a certificate of one of these authorities (mutual TLS).",
            "FILE",
            named="MESH_LISTEN_TLS_CLIENT_CA",
        ),
        Setting(
            "allow_plain_tcp",
            lambda: False,
            switch,
            "Let tcp: addresses be reachable from other machines, unencrypted and unchecked.",
            flag=True,
        ),
        Setting(
            "socket_mode",
            lambda: None,
            permissions,
            "The permissions of unix: sockets that the gateway makes: 0660 lets its group in. "
            "[default: by the umask]",
            "MODE",
        ),
        Setting(
            "telemetry",
            lambda: True,
            switch,
            "Whether calls are counted and recorded. [default: on]",
            "[on|off]",
        ),
        Setting(
            "allow_tap_payloads",
            lambda: False,
            switch,
            "Let your own user and root see what calls carry by `mesh tap --payloads`, of methods "
            "whose contracts say tap=True.",
            flag=True,
        ),
        Setting(
            "log.level",
            lambda: "info",
            choice(get_args(Level)),
            "What to log on stderr. [default: info]",
            f"[{'|'.join(get_args(Level))}]",
        ),
        Setting(
            "log.format",
            lambda: "people",
            choice(get_args(Format)),
            "How to log: lines for people, or JSON lines. [default: people]",
            f"[{'|'.join(get_args(Format))}]",
        ),
        *(
            Setting(
                f"traces.{name}",
                partial(getattr, _TRACES, name),
                bounded(type(getattr(_TRACES, name)), bound),
                text,
                metavar,
                show=_show_bounded(bound),
            )
            for name, bound, metavar, text in _TRACE_SETTINGS
        ),
        *(
            Setting(
                f"limits.{field.name}",
                partial(getattr, field, "default"),
                bounded(type(field.default), BOUNDS[field.name]),
                "",
                show=_show_bounded(BOUNDS[field.name]),
            )
            for field in fields(Limits)
        ),
    )
}
"""All settings, by their place in the file."""
