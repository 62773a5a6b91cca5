"""A real Prometheus for tests: Debian's package, on a free port, with its files in a test's folder.

Where it is missing, the tests that need it are skipped and say so; under CI they fail.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import time
import urllib.parse
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tests.programs import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

INTERVAL = "200ms"


def tool(name: str) -> str:
    """The path of a program of the package `prometheus`."""
    return program(name, "prometheus")


async def check_by_promtool(promtool: str, text: str) -> None:
    """Prometheus's own checker must find nothing to complain of in these metrics."""
    checked = await trio.run_process(
        [promtool, "check", "metrics"],
        stdin=text.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def get(address: str, path: str, accept: str = "*/*") -> str:
    """What an HTTP server answers."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, body
        return body


class Prometheus:
    """A running one."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """An instant vector's values, by the values of its labels in the order of their names."""
        answer = await self._ask("query", query=expression)
        return {
            tuple(row["metric"][name] for name in sorted(row["metric"]) if name != "__name__"): (
                float(row["value"][1])
            )
            for row in answer["result"]
        }

    async def vector(
        self, expression: str, *, at: float | None = None
    ) -> list[tuple[dict[str, str], float]]:
        """An instant vector, of now or another Unix time: each series' labels, and its value."""
        moment = {} if at is None else {"time": str(at)}
        answer = await self._ask("query", query=expression, **moment)
        return [(row["metric"], float(row["value"][1])) for row in answer["result"]]

    async def matrix(
        self, expression: str, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], dict[float, float]]]:
        """The labels of each series, and its values from one Unix time to another by their time."""
        answer = await self._ask(
            "query_range", query=expression, start=str(start), end=str(end), step=str(step)
        )
        return [
            (row["metric"], {at: float(value) for at, value in row["values"]})
            for row in answer["result"]
        ]

    async def label_values(self, label: str, selector: str = "") -> list[str]:
        """The values of a label, of the series that fit or of all."""
        wanted = {"match[]": selector} if selector else {}
        found: list[str] = await self._ask(f"label/{label}/values", **wanted)
        return found

    async def exemplars(
        self, expression: str, *, since: float | None = None
    ) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """Every exemplar of the last minute, or since a Unix time, with its series' labels."""
        now = time.time()
        start = now - 60 if since is None else since
        answer = await self._ask(
            "query_exemplars", query=expression, start=str(start), end=str(now + 1)
        )
        return [(row["seriesLabels"], one) for row in answer for one in row["exemplars"]]

    async def firing(self) -> list[dict[str, Any]]:
        """The alerts that fire, with labels and annotations."""
        answer = await self._ask("alerts")
        return [alert for alert in answer["alerts"] if alert["state"] == "firing"]

    async def _ask(self, what: str, **parameters: str) -> Any:
        path = f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        text = await trio.to_thread.run_sync(get, self.address, path, abandon_on_cancel=True)
        return json.loads(text)["data"]

    async def scraped_since(self, moment: float) -> None:
        """Return once it has read the gateway after this moment, in Unix time."""
        with trio.fail_after(30):
            while True:
                # Of `up` alone: of an expression it is the moment of the question.
                stamps = await self.query("timestamp(up) and up == 1")
                if stamps and min(stamps.values()) > moment:
                    return
                await trio.sleep(0.05)  # there is nothing else to wait for: it tells nobody


@contextlib.asynccontextmanager
async def prometheus(
    folder: Path,
    target: str,
    *,
    peers: Sequence[str] = (),
    rules: str = "",
    interval: str = INTERVAL,
) -> AsyncIterator[Prometheus]:
    """Run one that scrapes this gateway.

    Args:
        folder: Where its files are.
        target: The gateway's admin address.
        peers: Where peers serve metrics of their own.
        rules: The text of a file of rules.
        interval: Between two scrapes, and two evaluations of the rules.
    """
    (folder / "rules.yml").write_text(rules)
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {interval}, evaluation_interval: {interval}}}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: mesh-gateway, static_configs: [{{targets: ['{target}']}}]}}\n"
        f"  - {{job_name: mesh-peers, static_configs: [{{targets: {json.dumps([*peers])}}}]}}\n"
    )
    async with configured(config, folder) as server:
        yield server


@contextlib.asynccontextmanager
async def configured(config: Path, folder: Path) -> AsyncIterator[Prometheus]:
    """Run one with this configuration, and its data in this folder."""
    command = [
        tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
    ]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stderr=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(run)
        log = ""
        try:
            assert process.stderr is not None
            with trio.fail_after(30):
                while "ready to receive web requests" not in log:
                    some = await process.stderr.receive_some()
                    assert some, log
                    log += some.decode()
            address = re.search(r'"Listening on" address=(\S+)', log)
            assert address is not None, log
            nursery.start_soon(_drain, process.stderr)
            yield Prometheus(address[1])
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def _drain(pipe: trio.abc.ReceiveStream) -> None:
    """Read on, so that it is never held up by its own log."""
    while await pipe.receive_some():
        pass
