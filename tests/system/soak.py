"""Orders for ten minutes while everything they need is restarted in turn, and then the books are audited.

    ./dev soak [--minutes 10] [--rate 5] [--report DIR]

Orders are placed through the ingress at a steady rate, each with an idempotency key; a client that gets no answer, or
a 5xx, asks again with the same key, as a browser or a gateway would. Ends with 1 when an acknowledged order was lost,
one was doubled anywhere, or the books of the services do not agree. DIR (.dev/soak) gets `soak.html` and `soak.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.https import HttpsTransport
from tests.system.books import Books, audit
from tests.system.harness import ROOT, System, listeners, until

NAMESPACE = "shop"
STORES = ("orders-db", "users-db", "inventory-db", "payments-db", "catalogue-cache", "messaging")
SERVICES = ("users", "inventory", "payments", "orders", "storefront")
_PATIENCE_SECONDS = 90.0  # of a client with one order
_ATTEMPT_SECONDS = 5.0


@dataclass(frozen=True)
class Attempt:
    """One request. `at` is in seconds from the start of the load, when it was sent; `status` 0: no answer."""

    at: float
    seconds: float
    status: int
    problem: str = ""


@dataclass
class Order:
    """What the client knows: every id it was given, the time from the first attempt to the promise."""

    key: str
    at: float
    ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    attempts: int = 0
    problem: str = ""


@dataclass
class Restart:
    what: str
    how: str
    at: float = 0.0
    ready: float = 0.0  # when everything was Ready again
    problem: str = ""


class Load:
    """Places `rate` orders a second until told to stop, then waits for those under way."""

    def __init__(self, url: str, rate: float) -> None:
        self.url, self.rate = url, rate
        self.attempts: list[Attempt] = []
        self.orders: list[Order] = []
        self.started = time.monotonic()
        self._stop = asyncio.Event()

    def now(self) -> float:
        return time.monotonic() - self.started

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        self.started = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=_ATTEMPT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            number = 0
            while not self._stop.is_set():
                tasks.create_task(self._place(session))
                number += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, number / self.rate - self.now())):
                        await self._stop.wait()

    async def _place(self, session: aiohttp.ClientSession) -> None:
        order = Order(uuid.uuid4().hex, self.now())
        self.orders.append(order)
        began, pause = self.now(), 0.1
        while self.now() - began < _PATIENCE_SECONDS:
            status, text = await self._attempt(session, order)
            if status == 201:
                order.seconds = self.now() - began
                return
            order.problem = f"{status} {text[:200]}"
            if 400 <= status < 500 and status != 429:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _attempt(self, session: aiohttp.ClientSession, order: Order) -> tuple[int, str]:
        body = {"user_id": 1, "lines": [{"product_id": 1, "quantity": 1}]}
        at, status, text = self.now(), 0, ""
        order.attempts += 1
        try:
            headers = {"idempotency-key": order.key}
            async with session.post(f"{self.url}/api/orders", json=body, headers=headers) as reply:
                text = await reply.text()
                if reply.status == 201:
                    order.ids.append((await reply.json())["id"])
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            text = repr(problem)
        wrong = "" if status == 201 else f"{status} {text[:120]}"
        self.attempts.append(Attempt(at, self.now() - at, status, wrong))
        return status, text


class Disturber:
    """Restarts one thing after the other, and sees each come back."""

    def __init__(self, system: System) -> None:
        self.system = system

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = Client(HttpsTransport.from_kubeconfig(self.system.directory / ".sampan/kubeconfig"))
        try:
            yield client
        finally:
            await client.close()

    async def pods(self, name: str) -> list[Any]:
        async with self.client() as client:
            found = await client.list(kinds.POD, NAMESPACE, labels=f"app.kubernetes.io/name={name}")
        return list(found.items)

    async def _processes(self, name: str) -> set[int]:
        addresses = [pod["status"].get("podIP") for pod in await self.pods(name)]
        return {pid for address in addresses if address for pid in listeners(address)}

    async def kill(self, name: str) -> None:
        """kill -9 to every process of every pod of `name`, at once."""
        for _ in range(100):  # its pod may be starting just now
            if victims := await self._processes(name):
                break
            await asyncio.sleep(0.1)
        else:
            raise LookupError(f"no process of {name}")
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def delete(self, name: str) -> None:
        """As a drained node does: SIGTERM, and another pod."""
        async with self.client() as client:
            for pod in await self.pods(name):
                await client.delete(kinds.POD, pod["metadata"]["name"], NAMESPACE)

    async def roll(self, name: str) -> None:
        """kubectl rollout restart."""
        stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time())}
        patch = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
        async with self.client() as client:
            await client.patch(kinds.DEPLOYMENT, name, NAMESPACE, patch)

    async def proxy(self, name: str) -> None:
        victims = [pid for pid in children(self.system.info["pid"]) if b"envoy" in command(pid)]
        if not victims:
            raise LookupError("no process of the proxy")
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    async def cluster(self, name: str) -> None:
        """kill -9 to the cluster, with which every process in it ends; then it is started again."""
        self.system.kill_cluster()
        await asyncio.to_thread(until, lambda: not self.system.processes(), 30, "nothing outlives the cluster")
        await asyncio.to_thread(self.system.sampan, "up", str(ROOT / "examples/shop"), "--detach")

    async def ready(self) -> bool:
        """Whether every pod of the shop that is to stay is Ready, and the ingress answers."""
        try:
            async with self.client() as client:
                pods = (await client.list(kinds.POD, NAMESPACE)).items
            async with aiohttp.ClientSession() as session, session.get(f"{self.system.url}/api/products") as reply:
                answered = reply.status == 200
        except (OSError, TimeoutError, aiohttp.ClientError):
            return False
        wanted = {*STORES, *SERVICES}
        standing = [pod for pod in pods if pod["status"].get("phase") != "Succeeded"]
        for pod in standing:
            if pod["metadata"].get("deletionTimestamp"):
                return False
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions") or ()}
            if conditions.get("Ready") == "True":
                wanted.discard(pod["metadata"]["labels"].get("app.kubernetes.io/name", ""))
            else:
                return False
        return answered and not wanted

    async def restart(self, restart: Restart, now: Callable[[], float]) -> None:
        """Do it, and note when it was and when all was Ready again; 60 s is too long."""
        ways: dict[str, Callable[[str], Awaitable[None]]] = {
            "kill -9": self.kill,
            "SIGTERM": self.delete,
            "rollout": self.roll,
            "proxy": self.proxy,
            "cluster": self.cluster,
        }
        way = ways.get(restart.what) or ways[restart.how]
        restart.at = now()
        try:
            await way(restart.what)
            await asyncio.sleep(1.0)  # until it is seen
            async with asyncio.timeout(60):
                while not await self.ready():  # noqa: ASYNC110  # a state of another process
                    await asyncio.sleep(0.2)
        except TimeoutError:
            restart.problem = "not Ready within 60 s"
        except Exception as error:  # told in the report; the load goes on
            restart.problem = f"{type(error).__name__}: {error}"
        restart.ready = now()


def children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in listed.split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def everything() -> list[Restart]:
    """Every store and service, killed and stopped in order; the proxy; at the end the whole cluster."""
    killed = [Restart(what, "kill -9") for what in (*STORES, *SERVICES)]
    stopped = [Restart(what, "SIGTERM") for what in STORES] + [Restart(what, "rollout") for what in SERVICES]
    return [*killed, *stopped, Restart("proxy", "kill -9"), Restart("cluster", "kill -9")]


@dataclass
class Result:
    seconds: float
    rate: float
    attempts: list[Attempt]
    orders: list[Order]
    restarts: list[Restart]
    books: Books

    @property
    def problems(self) -> list[str]:
        return [*self.books.problems, *(f"{r.what} {r.how}: {r.problem}" for r in self.restarts if r.problem)]


async def soak(
    system: System, seconds: float, rate: float, restarts: Sequence[Restart], say: Callable[[str], None]
) -> Result:
    """Load for `seconds`, the restarts spread evenly over it (one begins when the one before is over), the audit."""
    load, disturber = Load(system.url, rate), Disturber(system)
    before = await Books.read(disturber.pods, system)
    running = asyncio.create_task(load.run())
    step = seconds / (len(restarts) + 1)
    for number, restart in enumerate(restarts, 1):
        await asyncio.sleep(max(0.0, number * step - load.now()))
        await disturber.restart(restart, load.now)
        took = restart.ready - restart.at
        say(f"{restart.at:6.1f} s  {restart.what} {restart.how}: {restart.problem or f'all Ready after {took:.1f} s'}")
    await asyncio.sleep(max(0.0, seconds - load.now()))
    load.stop()
    await running
    say("auditing the books")
    promised = {order.key: order.ids for order in load.orders}
    books = await audit(lambda: Books.read(disturber.pods, system), before, promised)
    return Result(seconds, rate, load.attempts, load.orders, list(restarts), books)


async def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./dev soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=5.0, help="orders a second")
    parser.add_argument("--report", type=Path, default=Path(".dev/soak"), help="a directory")
    chosen = parser.parse_args(arguments)
    from tests.system.soak_report import figures, write

    with tempfile.TemporaryDirectory() as made:
        system = System(Path(made))
        await asyncio.to_thread(system.sampan, "up", str(ROOT / "examples/shop"), "--detach")
        try:
            result = await soak(system, chosen.minutes * 60, chosen.rate, everything(), print)
        finally:
            await asyncio.to_thread(system.sampan, "down", check=False)
    page = write(result, chosen.report)
    for name, value in figures(result)["orders"].items():
        print(f"{name:>34}: {value}")
    for problem in result.problems:
        print(f"PROBLEM: {problem}")
    print(f"report: {page}")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
