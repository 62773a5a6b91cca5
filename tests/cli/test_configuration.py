"""The gateway's settings: four sources, one order, and faults told by key path, file and line."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mesh.cli import main
from mesh.cli.configuration import FILE_VARIABLE, Configuration
from mesh.cli.lines import find_lines
from mesh.cli.settings import SETTINGS, WrongValueError, switch
from mesh.environment import PEERS_VARIABLES, VARIABLES
from mesh.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Mesh

NOWHERE = {"XDG_RUNTIME_DIR": "/run/user/0"}


def read(
    file: str | None = None,
    *limits: str,
    arguments: dict[str, Any] | None = None,
    handed_in: tuple[str, ...] = (),
    **environment: str,
) -> Configuration:
    return Configuration(arguments or {}, limits, file, {**NOWHERE, **environment}, handed_in)


def write(folder: Path, text: str) -> str:
    path = folder / "mesh.toml"
    path.write_text(text)
    return str(path)


def test_every_limit_is_a_setting() -> None:
    assert [path for path, setting in SETTINGS.items() if setting.is_limit] == [
        f"limits.{field.name}" for field in fields(Limits)
    ]
    assert read(MESH_GATEWAY="unix:/x").limits == Limits()


def test_names_are_derived_from_the_path() -> None:
    setting = SETTINGS["limits.call_timeout"]
    assert setting.variable == "MESH_LIMITS_CALL_TIMEOUT"
    assert SETTINGS["log.level"].argument == "--log-level"


def test_arguments_come_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [log]
        level = "debug"
        [limits]
        call_timeout = 1
        heartbeat = "2s"
        drain = "3s"
        """,
    )
    made = read(
        file,
        "call_timeout=250ms",
        arguments={"log.level": "error"},
        MESH_LIMITS_CALL_TIMEOUT="5s",
        MESH_LIMITS_HEARTBEAT="6",
        MESH_GATEWAY="unix:/x",
    )
    assert made.faults == []
    assert made.limits == Limits(call_timeout=0.25, heartbeat=6.0, drain=3.0)
    origins = {
        path: str(made.values[path].origin)
        for path in ("log.level", "limits.call_timeout", "limits.heartbeat", "limits.drain",
                     "limits.max_depth", "listen")
    }  # fmt: skip
    assert origins == {
        "log.level": "argument --log-level",
        "limits.call_timeout": "argument --limit call_timeout=250ms",
        "limits.heartbeat": "variable MESH_LIMITS_HEARTBEAT",
        "limits.drain": f"{file}, line 7",
        "limits.max_depth": "default",
        "listen": "default, MESH_GATEWAY",
    }


def test_the_file_can_be_named_by_a_variable_and_an_empty_one_counts_as_none(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, "admin = 'none'")
    assert read(MESH_CONFIG=file)["admin"] == "none"
    assert read(MESH_CONFIG=file, MESH_ADMIN="127.0.0.1:1")["admin"] == "127.0.0.1:1"
    assert read(MESH_CONFIG="", MESH_ADMIN="").values["admin"].origin.kind == "default"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('listen = "unix:/a, tcp:127.0.0.1:7"', ["unix:/a", "tcp:127.0.0.1:7"]),
        ('listen = ["unix:/a"]', ["unix:/a"]),
        ("limits.max_message = '4MiB'", 4 * 1024 * 1024),
        ("limits = {max_message = 4096}", 4096),
        ("limits.drain = 0", 0.0),
        ("limits.drain = 1.5", 1.5),
        ("limits.max_depth = '7'", 7),
    ],
)
def test_a_file_says_things_in_several_ways(tmp_path: Path, text: str, value: object) -> None:
    file = write(tmp_path, text)
    made = read(file)
    assert made.faults == []
    [found] = [one.value for one in made.values.values() if one.origin.kind == "file"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[limits]\nmax_depth = 0", "limits.max_depth: must be 1 or more, not 0 (FILE, line 2)"),
        ("limits.heartbeat = true",
         "limits.heartbeat: must be a number of seconds, not True (FILE, line 1)"),
        ("limits.max_depth = 1.5",
         "limits.max_depth: must be a whole number, not 1.5 (FILE, line 1)"),
        ("limits.drain = '5 parsecs'",
         "limits.drain: must be a duration: seconds, or text like '250ms', '5s', '2m', '1h', not "),
        ("limits.max_chunk = '16MB of it'",
         "limits.max_chunk: must be a size: bytes, or text like '512KiB', '16MiB', not '16MB of"),
        ("\n\nadmn = 'none'", "admn: unknown key; did you mean admin? (FILE, line 3)"),
        ("[limits]\nmax_mesage = 1",
         "limits.max_mesage: unknown key; did you mean limits.max_message? (FILE, line 2)"),
        ("call_timeout = 1",
         "call_timeout: unknown key; did you mean limits.call_timeout? (FILE, line 1)"),
        ("[limit]\nmax_depth = 1", "limit: unknown key; did you mean limits? (FILE, line 1)"),
        ("log = 'info'", "log: must be a table, not 'info' (FILE, line 1)"),
        ("log.level = 'loud'",
         "log.level: must be one of debug, info, warning, error, not 'loud' (FILE, line 1)"),
        ("log.format = 1", "log.format: must be one of people, json, not 1 (FILE, line 1)"),
        ("listen = 'nowhere'",
         "listen: must hold addresses: address 'nowhere' is not understood; "),
        ("listen = 5", "listen: must be a list of addresses, not 5 (FILE, line 1)"),
        ("admin = 'x'", "admin: must be HOST:PORT or 'none': admin address 'x' is not HOST:PORT"),
        ("socket_mode = 0o660",
         'socket_mode: must be permissions in octal digits, such as "0660", not 432 (FILE'),
        ("socket_mode = '0680'", "socket_mode: must be permissions in octal digits, such as "),
        ("admin = ''", "admin: must be text, not '' (FILE, line 1)"),
        ("[limits]\nlate_after = 9",
         "limits.late_after: late_after 9 must be less than unresponsive_after 6 (FILE, line 2)"),
        ("x = = 1", "is no TOML: Invalid value (at line 1, column 5) (FILE)"),
    ],
)  # fmt: skip
def test_a_fault_of_the_file_is_told_by_path_and_line(
    tmp_path: Path, text: str, fault: str
) -> None:
    file = write(tmp_path, text)
    [found] = read(file).faults
    assert str(found).startswith(fault.replace("FILE", file))


@pytest.mark.parametrize(
    ("limits", "environment", "fault"),
    [
        (["max_depth=0"], {},
         "limits.max_depth: must be 1 or more, not 0 (argument --limit max_depth=0)"),
        (["depth=1"], {}, "limits.depth: unknown limit; did you mean limits.max_depth?"),
        (["max_depth"], {}, "--limit max_depth: must be NAME=VALUE, such as call_timeout=10s"),
        ([], {"MESH_LIMITS_DRAIN": "x"}, "limits.drain: must be a duration"),
        ([], {"MESH_LIMITS_DRIAN": "1s"},
         "MESH_LIMITS_DRIAN: unknown variable; did you mean MESH_LIMITS_DRAIN?"),
        ([], {"MESH_TLS_CERTT": "x"},
         "MESH_TLS_CERTT: unknown variable; did you mean MESH_TLS_CERT?"),
        ([], {"MESH_LISTEM": "x"}, "MESH_LISTEM: unknown variable; did you mean MESH_LISTEN?"),
        ([], {"MESH_GATEWAY": "x"}, "listen: must hold addresses: address 'x' is not understood"),
        ([], {"MESH_CONFIG": "/no/such"}, "cannot be read: No such file or directory (/no/such)"),
    ],
)  # fmt: skip
def test_a_fault_elsewhere_is_told_by_its_source(
    limits: list[str], environment: dict[str, str], fault: str
) -> None:
    [found] = Configuration({}, limits, None, {**NOWHERE, **environment}).faults
    assert str(found).startswith(fault)


def test_one_list_holds_every_variable() -> None:
    """Those of a gateway derive from its settings; a peer looks at the same list."""
    gateways = {setting.variable for setting in SETTINGS.values()} | {FILE_VARIABLE, "MESH_GATEWAY"}
    assert gateways | set(PEERS_VARIABLES) == set(VARIABLES)
    assert len(VARIABLES) == len(set(VARIABLES))


def test_a_peers_variables_are_no_fault_of_a_gateway() -> None:
    environment = {**NOWHERE, **dict.fromkeys(PEERS_VARIABLES, "x")}
    assert Configuration({}, [], None, environment).faults == []


def test_of_two_limits_that_disagree_the_one_set_last_is_blamed(tmp_path: Path) -> None:
    file = write(tmp_path, "[limits]\nunresponsive_after = 10")
    [found] = read(file, MESH_LIMITS_LATE_AFTER="11").faults
    assert found.path == "limits.late_after"
    assert found.origin.name == "MESH_LIMITS_LATE_AFTER"


def test_sockets_that_were_handed_in_stand_for_listen() -> None:
    assert read(handed_in=("peers",)).values["listen"].value == []
    assert str(read(handed_in=("peers",)).values["listen"].origin) == "handed in, peers"
    assert read(handed_in=("peers",), MESH_LISTEN="unix:/a")["listen"] == ["unix:/a"]


def test_lines_are_found_in_every_spelling() -> None:
    text = '''# x = 1
a = 1
"b" = 2
text = """
c = 3
"""
list = [
  "d = 4",
]
[ one . two ]  # a comment
e = 5
f.g = 6
'''
    assert tomllib.loads(text)["one"]["two"]["f"]["g"] == 6
    assert find_lines(text) == {
        "a": 2, "b": 3, "text": 4, "list": 7, "one.two": 10, "one.two.e": 11, "one.two.f.g": 12,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "value"),
    [(True, True), (False, False), ("yes", True), ("TRUE", True), ("0", False), ("no", False)],
)
def test_switches_are_read(given: object, value: object) -> None:
    assert switch(given) is value


@pytest.mark.parametrize("given", [1, "on and off", None, ""])
def test_what_is_no_switch_is_refused(given: object) -> None:
    with pytest.raises(WrongValueError, match="must be true or false, not"):
        switch(given)


# The command.


@pytest.fixture(autouse=True)
def without_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        monkeypatch.delenv(name)


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    arguments = ["gateway", "--listen", "unix:/a", "--limit", "drain=1.5s", "--log-format", "json"]
    printed = CliRunner().invoke(main, [*arguments, "--print-config"])
    assert printed.exit_code == 0
    assert 'drain = "1.5s"            # argument --limit drain=1.5s\n' in printed.output
    assert 'listen = ["unix:/a"]        # argument --listen\n' in printed.output
    file = write(tmp_path, printed.output)
    again = CliRunner().invoke(main, ["gateway", "--config", file, "--print-config", "--json"])
    values = {path: one["value"] for path, one in json.loads(again.output).items()}
    assert set(values) == set(SETTINGS)
    assert values["listen"] == ["unix:/a"]
    assert values["limits.drain"] == 1.5
    assert values["log.format"] == "json"
    assert json.loads(again.output)["limits.drain"] == {
        "value": 1.5,
        "source": "file",
        "name": file,
        "line": printed.output.splitlines().index(
            'drain = "1.5s"            # argument --limit drain=1.5s'
        )
        + 1,
    }


def test_a_check_tells_every_fault_and_has_status_2(tmp_path: Path) -> None:
    file = write(tmp_path, "admn = 1\n[limits]\nmax_depth = 0\n")
    for arguments in (["--check-config"], ["--print-config"], []):
        result = CliRunner().invoke(main, ["gateway", "--config", file, *arguments])
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.splitlines() == [
            f"mesh: admn: unknown key; did you mean admin? ({file}, line 1)",
            f"mesh: limits.max_depth: must be 1 or more, not 0 ({file}, line 3)",
        ]


def test_a_check_for_programs(tmp_path: Path) -> None:
    file = write(tmp_path, "[limits]\nmax_depth = 0\n")
    check = ["gateway", "--json", "--check-config"]
    result = CliRunner().invoke(main, [*check, "--config", file])
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "ok": False,
        "faults": [
            {
                "path": "limits.max_depth",
                "message": "must be 1 or more, not 0",
                "source": f"{file}, line 2",
            }
        ],
    }
    result = CliRunner().invoke(main, check)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"ok": True, "faults": []})


def test_a_check_of_what_is_fine_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, "[limits]\nmax_depth = 8\n")
    arguments = ["gateway", "--check-config", "--config", file, "--limit", "drain=1"]
    result = CliRunner().invoke(main, arguments, env={"MESH_LOG_LEVEL": "debug"})
    assert result.exit_code == 0
    assert result.output == (
        f"the configuration is fine: 1 from {file}, 1 from variables, 1 from arguments, "
        "all else at its default\n"
    )


def test_a_gateway_lives_by_its_file_and_logs_json(shell: Mesh, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/a.sock"
    file = write(
        tmp_path,
        f"""
        listen = ["{address}"]
        admin = "none"
        log.format = "json"
        [limits]
        max_depth = 0x1
        drain = "100ms"
        """,
    )
    with shell.start("gateway", "--json", "--config", file) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["addresses"], ready["admin"]) == ([address], None)
        with shell.service(address):
            result = shell("call", "users", "nested", '"ada"', "--gateway", address)
        assert result.returncode == 1
        assert "depth 2 exceeds max_depth 1" in result.stderr
        process.terminate()
        log = [json.loads(line) for line in process.stderr.read().splitlines()]
    messages = [line["message"] for line in log]
    assert any(message.startswith("peer users") for message in messages)
    [drained] = [message for message in messages if message.startswith("drained after")]
    assert " calls routed, 2 ended with an error, 0 ended by the drain" in drained
    assert {line["logger"] for line in log} == {"mesh.gateway"}
