"""Grafana's HTTP API as its documentation tells of it, as far as dashboards are pushed to it.

https://grafana.com/docs/grafana/latest/developers/http_api/folder/ and .../dashboard/
"""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh import CertificateFiles

TOKEN = "glsa_test"


class Grafana:
    """One at a free port, under a path of its own as behind a proxy; with TLS, given files."""

    def __init__(self, files: CertificateFiles | None = None) -> None:
        self.folders: dict[str, str] = {}
        """Titles by uid."""
        self.inside: dict[str, str] = {}
        """Folders within others: these by their uid."""
        self.dashboards: dict[str, dict[str, Any]] = {}
        """What was stored last, by uid: the whole request."""
        self.versions: dict[str, int] = {}
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        """What it answers everything with, where that is not what it would."""
        grafana = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                self._answer(json.loads(raw))

            def _answer(self, body: Any) -> None:
                status, headers, told = grafana.answer or (200, {}, b"")
                if grafana.answer is None:
                    if self.headers["Authorization"] != f"Bearer {TOKEN}":
                        status, value = 401, {"message": "Invalid API key"}
                    else:
                        status, value = grafana.handle(self.command, self.path, body)
                    told = json.dumps(value).encode()
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if files:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.cert, files.key)
            # Without a handshake at once, a peer that does not trust it would end the server.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if files else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/grafana"

    def handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """What it does when it is asked; its status and answer."""
        match method, path.removeprefix("/grafana").partition("?")[0]:
            case "GET", "/api/search":
                return 200, self._search(dict(parse_qsl(path.partition("?")[2])))
            case "POST", "/api/folders":
                uid = f"folder-{len(self.folders)}"
                self.folders[uid] = body["title"]
                return 200, {"uid": uid, "title": body["title"]}
            case "POST", "/api/dashboards/db":
                return self._store(body)
        return 404, {"message": "Not found"}

    def _search(self, wanted: dict[str, str]) -> list[dict[str, str]]:
        """Folders within others have the uid of these; titles fit in part."""
        assert wanted["type"] == "dash-folder"
        size, page = int(wanted["limit"]), int(wanted["page"])
        found = [
            {"uid": uid, "title": title, **({"folderUid": inside} if inside else {})}
            for uid, title in self.folders.items()
            for inside in [self.inside.get(uid)]
            if wanted["query"] in title
        ]
        return found[(page - 1) * size : page * size]

    def _store(self, body: dict[str, Any]) -> tuple[int, Any]:
        uid, title = body["dashboard"]["uid"], body["dashboard"]["title"]
        # An id is of one Grafana alone; null has it find the dashboard by its uid, or make it.
        assert body["dashboard"]["id"] is None
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        if uid in self.dashboards and not body["overwrite"]:
            message = "The dashboard has been changed by someone else"
            return 412, {"message": message, "status": "version-mismatch"}
        self.dashboards[uid] = body
        self.versions[uid] = self.versions.get(uid, 0) + 1
        slug = title.lower().replace(" ", "-")
        return 200, {
            "id": len(self.dashboards),
            "uid": uid,
            "url": f"/grafana/d/{uid}/{slug}",
            "status": "success",
            "version": self.versions[uid],
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Listen as long as the block runs."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
