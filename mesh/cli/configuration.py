"""The gateway's configuration: what is in force, where each value came from, and what is wrong.

Arguments come before variables, variables before the file, the file before the defaults.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mesh.cli.lines import find_lines, line_of
from mesh.cli.settings import SETTINGS, WrongValueError
from mesh.environment import unknown_variables
from mesh.errors import CertificateError, MeshError
from mesh.limits import Limits, disagreements
from mesh.systemd import TLS
from mesh.transport import Address, CertificateFiles
from mesh_telemetry import TraceSettings
from mesh_telemetry.export import Exporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FILE_VARIABLE = "MESH_CONFIG"
LIMIT_ARGUMENT = "--limit"
_RANK = ("default", "handed in", "file", "variable", "argument")


class Origin(NamedTuple):
    """Where a value came from."""

    kind: Literal["default", "handed in", "file", "variable", "argument"] = "default"
    name: str = ""
    """The file, variable or argument; the variable that a default was read from."""
    line: int = 0
    """The line of a file, where it is known."""

    def __str__(self) -> str:
        if self.kind in {"default", "handed in"}:
            return f"{self.kind}, {self.name}" if self.name else self.kind
        if self.kind == "file":
            return f"{self.name}, line {self.line}" if self.line else self.name
        return f"{self.kind} {self.name}"


class Value(NamedTuple):
    """A setting's value that is in force."""

    value: Any
    origin: Origin


class Fault(NamedTuple):
    """What is wrong with a configuration, by key path."""

    path: str
    """Of a variable or an argument that stands for no key, its own name."""
    message: str
    origin: Origin

    def __str__(self) -> str:
        where = f" ({self.origin})" if self.origin.name != self.path else ""
        path = "" if not self.path or self.message.startswith(self.path) else f"{self.path}: "
        return f"{path}{self.message}{where}"


class Configuration:
    """What is in force, once everything has been read.

    Args:
        arguments: Values given on the command line, by the settings' paths.
        limits: ``NAME=VALUE`` given on the command line.
        file: The file named there.
        environment: The variables.
        handed_in: The names of sockets that systemd handed in, which stand for ``listen``.

    Attributes:
        values: By path.
        faults: All that is wrong; what is in :attr:`values` is right all the same.
        file: The file that was read, if any.
        admin_token: What ``admin_token_file`` holds.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        limits: Sequence[str],
        file: str | None,
        environment: Mapping[str, str],
        handed_in: Sequence[str] = (),
    ) -> None:
        self.values: dict[str, Value] = {}
        self.faults: list[Fault] = []
        self.admin_token: str | None = None
        self.file = file or environment.get(FILE_VARIABLE) or None
        if handed_in:
            self.values["listen"] = Value([], Origin("handed in", ", ".join(handed_in)))
        if self.file is not None:
            self._read_file(self.file)
        self._read_variables(environment)
        self._read_arguments(arguments, limits)
        self._add_defaults(environment)
        self._check_limits()
        self._check_reach(handed_in)
        self._check_files()

    def __getitem__(self, path: str) -> Any:
        return self.values[path].value

    @property
    def traces(self) -> TraceSettings:
        """What rules the keeping of traces; ask only where there are no faults."""
        names = TraceSettings.__struct_fields__
        return TraceSettings(**{name: self[f"traces.{name}"] for name in names})

    @property
    def limits(self) -> Limits:
        """The limits in force; ask only where there are no faults."""
        return Limits(
            **{
                path.partition(".")[2]: self[path]
                for path, setting in SETTINGS.items()
                if setting.is_limit
            }
        )

    @property
    def certificates(self) -> CertificateFiles | None:
        """What `tls:` addresses show; ask only where there are no faults."""
        cert, key, client_ca = (self[f"tls.{name}"] for name in ("cert", "key", "client_ca"))
        return None if cert is None else CertificateFiles(cert, key, client_ca)

    @property
    def socket_mode(self) -> int | None:
        """The permissions of `unix:` sockets; None where the umask rules them."""
        mode = self["socket_mode"]
        return None if mode is None else int(mode, 8)

    def check_export(self, environment: Mapping[str, str]) -> None:
        """Whether kept traces can be exported as ``OTEL_*`` ask; the gateway's start says so too.

        Blocks for some 0.3 s where they ask for it.
        """
        if self.faults or not self["telemetry"]:
            return
        try:
            exporter = Exporter.from_environment(environment)
        except ValueError as fault:
            message = str(fault)
            name = _VARIABLE.match(message)
            variable = name[0] if name is not None else ""
            self.faults.append(Fault(variable, message, Origin("variable", variable)))
        else:
            if exporter is not None:
                exporter.close(0)

    # Reading.

    def _set(self, path: str, value: Any, origin: Origin) -> None:
        try:
            self.values[path] = Value(SETTINGS[path].convert(value), origin)
        except WrongValueError as fault:
            self.faults.append(Fault(path, str(fault), origin))

    def _read_file(self, name: str) -> None:
        try:
            text = Path(name).read_text(encoding="utf-8")
            table = tomllib.loads(text)
        except OSError as fault:
            reason = fault.strerror or str(fault)
            self.faults.append(Fault("", f"cannot be read: {reason}", Origin("file", name)))
            return
        except ValueError as fault:  # not TOML, or not UTF-8
            self.faults.append(Fault("", f"is no TOML: {fault}", Origin("file", name)))
            return
        lines = find_lines(text)
        for path, value in _flatten(table):
            origin = Origin("file", name, line_of(lines, path))
            if path in SETTINGS:
                self._set(path, value, origin)
            elif path in _TABLES:
                self.faults.append(Fault(path, f"must be a table, not {value!r}", origin))
            else:
                known = sorted(_TABLES) if isinstance(value, dict) else tuple(SETTINGS)
                self.faults.append(Fault(path, f"unknown key; {nearest(path, known)}", origin))

    def _read_variables(self, environment: Mapping[str, str]) -> None:
        known = {setting.variable: path for path, setting in SETTINGS.items()}
        for name, path in known.items():
            if environment.get(name):
                self._set(path, environment[name], Origin("variable", name))
        for name, hint in unknown_variables(environment).items():
            self.faults.append(Fault(name, f"unknown variable; {hint}", Origin("variable", name)))

    def _read_arguments(self, arguments: Mapping[str, Any], limits: Sequence[str]) -> None:
        for path, value in arguments.items():
            self._set(path, value, Origin("argument", SETTINGS[path].argument))
        for text in limits:
            name, is_given, value = text.partition("=")
            origin = Origin("argument", f"{LIMIT_ARGUMENT} {text}")
            path = f"limits.{name.strip()}"
            if not is_given:
                wanted = "must be NAME=VALUE, such as call_timeout=10s"
                self.faults.append(Fault(origin.name, wanted, origin))
            elif path not in SETTINGS:
                names = [known for known in SETTINGS if known.startswith("limits.")]
                self.faults.append(Fault(path, f"unknown limit; {nearest(path, names)}", origin))
            else:
                self._set(path, value, origin)

    def _add_defaults(self, environment: Mapping[str, str]) -> None:
        for path, setting in SETTINGS.items():
            if path in self.values:
                continue
            variable = setting.default_from
            named = variable if environment.get(variable) else ""
            origin = Origin("default", named)
            try:
                value = environment[named] if named else setting.default()
            except MeshError as fault:
                self.faults.append(Fault(path, str(fault), origin))
                continue
            if value is None:
                self.values[path] = Value(None, origin)
            else:
                self._set(path, value, origin)

    def _check_limits(self) -> None:
        limits = {
            path.partition(".")[2]: value.value
            for path, value in self.values.items()
            if SETTINGS[path].is_limit
        }
        for names, message in disagreements(limits):
            paths = [f"limits.{name}" for name in names]
            # Blame what was set last by hand: the others are defaults, or had been fine.
            blamed = max(paths, key=lambda path: _RANK.index(self.values[path].origin.kind))
            self.faults.append(Fault(blamed, message, self.values[blamed].origin))

    def _check_reach(self, handed_in: Sequence[str]) -> None:
        """What addresses need besides themselves: certificates, a token, or a word of consent."""
        if self.faults:
            return  # of what cannot be read, nothing more can be said
        listen, schemes = self["listen"], {address.partition(":")[0] for address in self["listen"]}
        cert = self["tls.cert"]
        if TLS in handed_in:
            schemes.add("tls")
        if "tls" in schemes and cert is None:
            self._blame("listen", "a tls: address needs a certificate, tls.cert (--tls-cert FILE)")
        for path in ("tls.key", "tls.client_ca"):
            if self[path] is not None and cert is None:
                self._blame(path, "needs tls.cert (--tls-cert FILE) too")
        if cert is not None and "tls" not in schemes:
            self._blame("tls.cert", "is given, but no tls: address to listen at")
        for address in map(Address.parse, listen):
            if address.scheme == "tcp" and not (address.is_loopback or self["allow_plain_tcp"]):
                self._blame(
                    "listen",
                    f"{address} can be reached from other machines, and nothing there is encrypted "
                    "or checked: use tls:, or say allow_plain_tcp (--allow-plain-tcp)",
                )
        host = self["admin"].rpartition(":")[0].strip("[]")
        is_open = self["admin"] != "none" and not Address("tcp", host=host).is_loopback
        if is_open and self["admin_token_file"] is None:
            self._blame(
                "admin",
                f"{self['admin']} can be reached from other machines: set admin_token_file "
                "(--admin-token-file FILE), or use 127.0.0.1",
            )

    def _check_files(self) -> None:
        """Read what the gateway lives by, as it does itself when it starts."""
        if self.faults:
            return
        for path in ("tls.cert", "tls.key", "tls.client_ca", "admin_token_file"):
            if self[path] is not None:
                try:
                    content = Path(self[path]).read_bytes()
                except OSError as fault:
                    self._blame(path, f"{self[path]} cannot be read: {fault.strerror}")
                    continue
                if path == "admin_token_file":
                    self._take_token(path, content)
        if self.faults or self.certificates is None:
            return
        cert_and_key = replace(self.certificates, client_ca=None)
        for path, files in (("tls.cert", cert_and_key), ("tls.client_ca", self.certificates)):
            try:
                files.context()
            except CertificateError as fault:
                self._blame(path, str(fault))
                return

    def _take_token(self, path: str, content: bytes) -> None:
        try:
            self.admin_token = content.decode().strip()
        except UnicodeError as fault:
            self._blame(path, f"{self[path]} cannot be read: {fault}")
        else:
            if not self.admin_token:
                self._blame(path, f"{self[path]} holds no token")

    def _blame(self, path: str, message: str) -> None:
        self.faults.append(Fault(path, message, self.values[path].origin))

    # Showing.

    def as_toml(self) -> str:
        """What is in force as a file, with comments that tell where each value came from."""
        tables: dict[str, list[tuple[str, str, str]]] = {"": []}
        for path, setting in SETTINGS.items():
            table, _, key = path.rpartition(".")
            value, origin = self.values[path]
            shown = f"# {key}" if value is None else f"{key} = {_to_toml(setting.show(value))}"
            tables.setdefault(table, []).append((key, shown, str(origin)))
        lines: list[str] = []
        for table, rows in tables.items():
            if table:
                lines += ["", f"[{table}]"]
            width = max((len(shown) for _, shown, _ in rows), default=0)
            lines += [f"{shown.ljust(width)}  # {origin}" for _, shown, origin in rows]
        return "\n".join(lines).strip() + "\n"

    def as_data(self) -> dict[str, dict[str, Any]]:
        """What is in force as plain data: durations in seconds, sizes in bytes."""
        return {
            path: {
                "value": self.values[path].value,
                "source": self.values[path].origin.kind,
                "name": self.values[path].origin.name or None,
                "line": self.values[path].origin.line or None,
            }
            for path in SETTINGS
        }

    def summary(self) -> str:
        """One line for a configuration that is fine."""
        counts = {
            kind: sum(value.origin.kind == kind for value in self.values.values())
            for kind in ("file", "variable", "argument")
        }
        told = [f"{counts['variable']} from variables", f"{counts['argument']} from arguments"]
        if self.file is not None:
            told.insert(0, f"{counts['file']} from {self.file}")
        return f"the configuration is fine: {', '.join(told)}, all else at its default"


_TABLES = frozenset(path.rpartition(".")[0] for path in SETTINGS if "." in path)


def nearest(path: str, known: Sequence[str] = tuple(SETTINGS)) -> str:
    """What an unknown name may have been meant to be."""
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:  # perhaps it stands in the wrong table
        key = path.rpartition(".")[2]
        ends = {one.rpartition(".")[2]: one for one in known}
        near = [ends[end] for end in difflib.get_close_matches(key, ends, n=1, cutoff=0.8)]
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _flatten(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and path in _TABLES:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _to_toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_to_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


_VARIABLE = re.compile(r"OTEL_\w+")
