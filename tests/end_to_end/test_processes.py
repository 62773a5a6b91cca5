"""Real processes: killed at any moment, drained by SIGTERM, two for one address."""

from __future__ import annotations

import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio

import mesh
from mesh.errors import Reason
from tests.end_to_end.processes import Running, world

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 4.0
"""Of each call, in seconds."""
SLACK = 4.0
"""What a loaded machine may take beyond it."""


class Load:
    """Calls without end from this process, and what became of each."""

    def __init__(self, client: mesh.Client) -> None:
        self.client = client
        self.outcomes: dict[str, Any] = {}
        self.slowest = 0.0
        self.progress = trio.Event()
        self._stop = False

    async def loop(self, number: int) -> None:
        """One call after the other."""
        count = 0
        while not self._stop:
            count += 1
            await self.one(f"test-{number}-{count}", count)
            await trio.lowlevel.checkpoint()  # a refusal may come without one

    async def one(self, id_: str, count: int) -> None:
        """One call; it must end once, in time, with a CallError or its own result."""
        service, method, size = (
            ("work", "do", 0), ("front", "through", 0), ("work", "big", 200_000),
            ("work", "in_thread", 0),
        )[count % 4]  # fmt: skip
        params = {"id": id_, "pause": 0.003, "size": size}
        before = trio.current_time()
        outcome: Any
        try:
            outcome = await self.client.call(service, method, params, timeout=TIMEOUT)
            assert outcome == (bytes(size) if size else f"done {id_}")
        except mesh.CallError as error:
            outcome = error
        assert id_ not in self.outcomes
        self.outcomes[id_] = outcome
        self.slowest = max(self.slowest, trio.current_time() - before)
        self.progress.set()

    async def until(self, further: int) -> None:
        """Return once this many further calls have ended."""
        target = len(self.outcomes) + further
        with trio.fail_after(60):
            while len(self.outcomes) < target:
                self.progress = trio.Event()
                await self.progress.wait()

    def stop(self) -> None:
        """Begin no further calls."""
        self._stop = True

    def check(self, executed: list[str]) -> None:
        """Judge every outcome by what the services noted."""
        runs = Counter(executed)
        assert set(runs.values()) <= {1}, "no handler ran twice for one id"
        for id_, outcome in self.outcomes.items():
            ran = runs[f"work {id_}"] + runs[f"front {id_}"]
            if not isinstance(outcome, mesh.CallError):
                assert ran >= 1, f"{id_} was answered and never ran"
            elif not outcome.maybe_executed:
                assert ran == 0, f"{id_} ran, and its caller was told that it did not: {outcome}"
        assert self.slowest < TIMEOUT + SLACK


@pytest.mark.parametrize("seed", [1, 2])
async def test_sigkill_of_any_process_at_any_moment(tmp_path: Path, seed: int) -> None:
    """Under load, again and again: no caller hangs, no handler runs twice, all of it recovers.

    Each call ends once, within its time, with a true outcome: what was answered was executed, and
    what is said never to have been executed was not.
    """
    randomness = random.Random(seed)
    async with world(tmp_path) as it:
        processes: dict[str, Running] = {"gateway": await it.gateway()}
        for key in ("work", "work 2", "front"):
            processes[key] = await it.service(key.split()[0])
        processes["caller"] = await it.caller("busy-0")
        async with (
            mesh.connect("test", gateway=it.address) as client,
            trio.open_nursery() as nursery,
        ):
            load = Load(client)
            for number in range(12):
                nursery.start_soon(load.loop, number)
            await load.until(50)
            victims = ["gateway", "work", "front", "caller", "gateway", "work 2"]
            randomness.shuffle(victims)
            for round_, victim in enumerate(victims):
                await load.until(randomness.randrange(1, 150))
                assert await processes[victim].end(signal.SIGKILL) == -signal.SIGKILL
                processes[victim] = await (
                    it.gateway()
                    if victim == "gateway"
                    else it.caller(f"busy-{round_ + 1}")
                    if victim == "caller"
                    else it.service(victim.split()[0])
                )
                await load.until(30)
            load.stop()
        async with mesh.connect("after", gateway=it.address) as after:
            calm = Load(after)
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(calm.one, f"after-{number}", number)
            assert not [e for e in calm.outcomes.values() if isinstance(e, mesh.CallError)]
            await processes["caller"].end(signal.SIGKILL)
            await _recovered(after)
        executed = it.executed
    load.check(executed)
    calm.check(executed)
    codes = Counter(type(e).__name__ for e in load.outcomes.values())
    assert set(codes) <= {
        "str", "bytes", "Unavailable", "DeadlineExceeded", "NotFound", "Cancelled",
    }, codes  # fmt: skip


async def _recovered(client: mesh.Client) -> None:
    """Return once every instance is back, and the gateway holds no call but the one that asks."""
    with trio.fail_after(10):
        while True:
            rows = await client.call("mesh", "services")
            instances = {row["name"]: len(row["instances"]) for row in rows}
            in_flight = (await client.call("mesh", "status"))["in_flight"]
            if (instances["work"], instances["front"], in_flight) == (2, 1, 1):
                return


async def test_sigterm_of_a_service_lets_it_finish(tmp_path: Path) -> None:
    """The call under way is answered, the process ends well, and the service is expected back."""
    async with world(tmp_path) as it:
        await it.gateway()
        service = await it.service("work")
        async with mesh.connect("caller", gateway=it.address) as caller:
            load = Load(caller)
            results: list[Any] = []

            async def slow(method: str) -> None:
                results.append(
                    await caller.call("work", method, {"id": method, "pause": 0.5}, timeout=10)
                )

            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow, "do")
                nursery.start_soon(slow, "in_thread")
                while len(it.executed) < 2:
                    await caller.call("mesh", "status")
                assert await service.end(signal.SIGTERM) == 0
            assert sorted(results) == ["done do", "done in_thread"]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.one, "waits", 0)
                await it.service("work")
            assert load.outcomes == {"waits": "done waits"}


async def test_sigterm_of_the_gateway_drains(tmp_path: Path) -> None:
    """Calls under way end as they would have, it ends well, and its peers find the next one."""
    async with world(tmp_path) as it:
        gateway = await it.gateway()
        await it.service("work")
        await it.service("front")
        async with mesh.connect("caller", gateway=it.address) as caller:
            results: list[Any] = []

            async def slow() -> None:
                params = {"id": "slow", "pause": 0.5}
                results.append(await caller.call("front", "through", params, timeout=10))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow)
                while len(it.executed) < 2:
                    await caller.call("mesh", "status")
                gateway.process.send_signal(signal.SIGTERM)
                assert await gateway.wait() == 0
            assert results == ["done slow"]
            assert not (tmp_path / "gateway.sock").exists()
            await it.gateway()
            assert await caller.call("work", "do", {"id": "next"}, timeout=20) == "done next"


async def test_of_two_gateways_on_one_socket_the_second_says_who_holds_it(
    tmp_path: Path,
) -> None:
    """With the process and its command, and a status that scripts see; the first is undisturbed."""
    async with world(tmp_path) as it:
        first = await it.gateway()
        second = await it.start(
            "-m", "mesh.cli", "gateway", "--listen", it.address, "--admin", "none"
        )
        assert await second.wait() != 0
        told = " ".join(second.errors.read_text().split())
        assert f"{it.address} is held by process {first.process.pid}" in told
        assert "mesh.cli gateway" in told
        async with mesh.connect("peer", gateway=it.address) as peer:
            assert await peer.call("mesh", "status")
        # And once the first was killed, its socket file is no obstacle.
        await first.end(signal.SIGKILL)
        assert (tmp_path / "gateway.sock").exists()
        await it.gateway()


async def test_a_killed_gateway_leaves_no_caller_hanging(tmp_path: Path) -> None:
    """Each call under way ends at once, and says that it may have been executed."""
    async with world(tmp_path) as it:
        gateway = await it.gateway()
        await it.service("work")
        async with mesh.connect("caller", gateway=it.address, reconnect=False) as caller:
            errors: list[mesh.CallError] = []

            async def call(number: int) -> None:
                params = {"id": number, "pause": 30}
                with pytest.raises(mesh.Unavailable) as raised:
                    await caller.call("work", "do", params, timeout=60)
                errors.append(raised.value)

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(call, number)
                while len(it.executed) < 50:
                    await caller.call("mesh", "status")
                with trio.fail_after(10):
                    await gateway.end(signal.SIGKILL)
                    nursery.cancel_scope.deadline = trio.current_time() + 10
            assert len(errors) == 50
            assert {error.reason for error in errors} == {Reason.CONNECTION_LOST}
            assert all(error.maybe_executed for error in errors)


async def test_a_killed_service_is_told_at_once_with_its_name(tmp_path: Path) -> None:
    """To each of its callers; another instance takes the calls that come next."""
    async with world(tmp_path) as it:
        await it.gateway()
        service = await it.service("work")
        async with mesh.connect("caller", gateway=it.address) as caller:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def call() -> None:
                    with pytest.raises(mesh.Unavailable, match="the connection to work ") as raised:
                        await caller.call("work", "do", {"id": 1, "pause": 30}, timeout=60)
                    assert raised.value.maybe_executed

                while not it.executed:
                    await caller.call("mesh", "status")
                with trio.fail_after(10):
                    await service.end(signal.SIGKILL)
            await it.service("work")
            assert await caller.call("work", "do", {"id": 2}) == "done 2"
