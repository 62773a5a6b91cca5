"""`mesh dashboards push`: the dashboards into a Grafana, by its HTTP API."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import click

from mesh._version import __version__
from mesh.cli.commands import example
from mesh.cli.dashboards.export import admin_option
from mesh.cli.failures import Failure, WrongUsage
from mesh.cli.output import print_json
from mesh.cli.peer import json_option
from mesh_dashboards import shipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

TOKEN = "GRAFANA_TOKEN"  # noqa: S105 - the variable's name, not what is in it
PATIENCE = 30.0
"""Seconds for each answer of Grafana."""

_ADVICE = {
    401: f"Make a service account's token in Grafana, and give it in {TOKEN} or --token-file.",
    403: "The token's service account needs the role Editor, or may not write to that folder.",
    404: "Is it the address of a Grafana, with its path where it has one?",
    409: "Something else has this name there; push into another --folder, or rename that.",
    412: "Another dashboard stands there that may not be replaced; push into another --folder.",
}
_PROVISIONED = (
    "It comes from files, which `mesh dashboards export` writes: change those, or take them away."
)
_CERTIFICATE = "Name the file with your authority's certificates in REQUESTS_CA_BUNDLE."
_NO_GRAFANA = "the answer is not as Grafana's, so this may be none"
PAGE = 1000
"""How many folders are asked for at once."""


@click.command(
    epilog=example(
        "GRAFANA_TOKEN=... mesh dashboards push https://grafana.example",
        "mesh dashboards push http://127.0.0.1:3000 --token-file token --folder 'Mesh, staging'",
    )
)
@click.argument("url", metavar="URL")
@click.option(
    "--folder", default="Mesh", show_default=True, help="Grafana's folder, made where it is not."
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The file with a service account's token. [default: the variable {TOKEN}]",
)
@click.option(
    "--tempo",
    metavar="UID",
    help="The uid of the Tempo data source in Grafana, if there is one: methods lead there, too.",
)
@admin_option
@json_option
def push(
    *,
    url: str,
    folder: str,
    token_file: Path | None,
    tempo: str | None,
    admin: str,
    as_json: bool,
) -> None:
    """Push the dashboards to the Grafana at URL, over those that it has of them."""
    if not url.startswith(("http://", "https://")):
        raise WrongUsage(f"{url!r} is no address of a Grafana; it begins with https:// or http://")
    try:
        token = token_file.read_text("utf-8") if token_file else os.environ.get(TOKEN, "")
    except (OSError, UnicodeDecodeError) as fault:
        raise WrongUsage(f"{token_file} cannot be read: {fault}", _ADVICE[401]) from fault
    token = token.strip()
    if not token:
        raise WrongUsage(
            f"{token_file} is empty" if token_file else f"{TOKEN} is not set", _ADVICE[401]
        )
    if not (token.isascii() and token.isprintable()):
        raise WrongUsage("the token has characters that no token has", _ADVICE[401])
    with _Grafana(url.rstrip("/"), token) as grafana:
        into = grafana.folder(folder)
        pushed = [grafana.push(board, into) for board in shipped.boards(admin, tempo).values()]
    if as_json:
        print_json({"folder": {"title": folder, "uid": into}, "dashboards": pushed})
        return
    for one in pushed:
        click.echo(one["url"])


class _Grafana:
    """Grafana's HTTP API (https://grafana.com/docs/grafana/latest/developers/http_api/)."""

    def __init__(self, url: str, token: str) -> None:
        import requests

        self._url = url

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["authorization"] = f"Bearer {token}"
            return request

        self._session = requests.Session()
        self._session.auth = sign  # a plain header would give way to a password of ~/.netrc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def folder(self, title: str) -> str:
        """The uid of the folder with this title, which is made where it is not there."""
        found = [one for one in self._folders(title) if one.get("title") == title]
        # One at the root goes before those within others.
        known = [one for one in found if not one.get("folderUid")] or found
        if len(known) > 1:
            raise Failure(
                f"Grafana has {len(known)} folders {title!r} within others",
                "Push into another --folder, or rename one of them.",
            )
        made = known[0] if known else self._ask("POST", "/api/folders", {"title": title})
        return str(_told(made, "uid", "POST /api/folders"))

    def _folders(self, title: str) -> Iterator[dict[str, Any]]:
        """All folders with such a title, wherever they are."""
        for number in itertools.count(1):
            wanted = {"type": "dash-folder", "query": title, "limit": PAGE, "page": number}
            found = self._ask("GET", f"/api/search?{urlencode(wanted)}")
            if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
                raise Failure(f"GET /api/search: {_NO_GRAFANA}")
            yield from found
            if len(found) < PAGE:
                return

    def push(self, board: dict[str, Any], folder: str) -> dict[str, Any]:
        """Store a dashboard; returns its uid, version and address."""
        stored = self._ask(
            "POST",
            "/api/dashboards/db",
            {
                "dashboard": {**board, "id": None},
                "folderUid": folder,
                "message": f"mesh {__version__}",
                "overwrite": True,
            },
        )
        # Its own path, where Grafana has one, is in the address it answers with.
        root = "/".join(self._url.split("/")[:3])
        uid, version, path = (
            _told(stored, name, "POST /api/dashboards/db") for name in ("uid", "version", "url")
        )
        return {"uid": uid, "version": version, "url": f"{root}{path}"}

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        import requests

        try:
            answer = self._session.request(
                method, f"{self._url}{path}", json=body, timeout=PATIENCE, allow_redirects=False
            )
        except requests.RequestException as fault:
            raise Failure(
                f"no answer from Grafana at {self._url}: {_reason(fault)}",
                _CERTIFICATE if isinstance(fault, requests.exceptions.SSLError) else "",
            ) from fault
        what = f"{method} {path.partition('?')[0]}"
        try:
            told = answer.json()
        except requests.JSONDecodeError:
            told = None
        if not answer.ok or answer.is_redirect or told is None:
            complaint = _complaint(answer, what, told)
            advice = _ADVICE.get(answer.status_code, "")
            raise Failure(complaint, _PROVISIONED if "provisioned" in complaint else advice)
        return told


def _told(answer: Any, name: str, what: str) -> Any:
    """What an answer must have under this name."""
    if not isinstance(answer, dict) or name not in answer:
        raise Failure(f"{what}: {_NO_GRAFANA}")
    return answer[name]


def _complaint(answer: requests.Response, what: str, told: Any) -> str:
    """What Grafana said, in its own words where it had some."""
    if answer.is_redirect:
        return f"{what}: moved to {answer.headers['location']}; give that address"
    if answer.ok:
        return f"{what}: the answer is no JSON, so this is no Grafana"
    message = told.get("message") if isinstance(told, dict) else None
    return f"Grafana answers {what} with {answer.status_code}: {message or answer.reason}"


def _reason(fault: requests.RequestException) -> str:
    """The innermost cause, which is what says something."""
    cause: BaseException = fault
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(cause) or type(cause).__name__
