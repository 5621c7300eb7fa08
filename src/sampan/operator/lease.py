"""Leader election over a `coordination.k8s.io/v1` Lease: of several replicas of an operator, one acts.

Guarantees: every change of the lease carries its resourceVersion, so two candidates cannot both win one round. A
holder that cannot renew for `deadline` seconds stops acting before `duration` lets another take over. A change is
dated by when we *saw* it, so clocks need not agree. Caveat: a paused process may act after losing; guard outside
effects with the lease's `leaseTransitions`. Times are in seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random

from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, now_micro

log = logging.getLogger(__name__)


class LeaderElection:
    """`await acquired()`, act while `leading`, give up when `lost()` returns; `release()` on the way out."""

    def __init__(
        self,
        client: Client,
        name: str,
        namespace: str,
        identity: str,
        *,
        duration: float = 15.0,
        deadline: float = 10.0,
        retry: float = 2.0,
    ) -> None:
        if not duration > deadline > retry:
            raise ValueError("need duration > deadline > retry")
        self.client, self.name, self.namespace, self.identity = client, name, namespace, identity
        self.duration, self.deadline, self.retry = duration, deadline, retry
        self.leading = False
        self._won, self._lost = asyncio.Event(), asyncio.Event()
        self._seen: tuple[str, float] = ("", 0.0)  # what the lease last said, and when we first saw it
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"lease {self.name}")

    async def acquired(self) -> None:
        await self._won.wait()

    async def lost(self) -> None:
        """Returns once leadership, having been won, is lost."""
        await self._lost.wait()

    async def release(self) -> None:
        """Stop, and hand the lease over at once when it is ours."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self.leading:
            self._lose("released")
            try:
                lease = await self.client.get(kinds.LEASE, self.name, self.namespace)
                if lease["spec"].get("holderIdentity") == self.identity:
                    spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now_micro()}
                    await self.client.update(kinds.LEASE, {**lease, "spec": spec})
            except (ApiError, OSError, TimeoutError) as error:
                log.info("lease %s not released: %s", self.name, error)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            try:
                async with asyncio.timeout(self.deadline):
                    held = await self._try()
            except (ApiError, OSError, TimeoutError) as error:
                log.debug("lease %s: %s", self.name, error)
                held = None  # unknown
            if held:
                renewed = loop.time()
                if not self.leading:
                    self.leading = True
                    self._won.set()
                    log.info("%s leads %s", self.identity, self.name)
            elif self.leading and (held is False or loop.time() - renewed >= self.deadline):
                self._lose("taken by another" if held is False else "could not renew")
                return
            wait = self.retry if not self.leading else min(self.retry, max(0.0, renewed + self.deadline - loop.time()))
            await asyncio.sleep(wait * random.uniform(0.8, 1.0))

    def _lose(self, why: str) -> None:
        log.info("%s no longer leads %s: %s", self.identity, self.name, why)
        self.leading = False
        self._lost.set()

    async def _try(self) -> bool:
        """Take or renew the lease; whether we hold it now."""
        try:
            lease = await self.client.get(kinds.LEASE, self.name, self.namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            spec = self._spec({}, 0)
            metadata = {"name": self.name, "namespace": self.namespace}
            body: Object = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            await self.client.create(kinds.LEASE, body)
            return True
        spec = lease.get("spec") or {}
        holder, clock = spec.get("holderIdentity") or "", asyncio.get_running_loop().time()
        said = f"{holder} {spec.get('renewTime')} {spec.get('leaseTransitions')}"
        if said != self._seen[0]:
            self._seen = (said, clock)
        if holder and holder != self.identity:
            lasts = float(spec.get("leaseDurationSeconds") or self.duration)
            if clock - self._seen[1] < lasts:
                return False
        transitions = int(spec.get("leaseTransitions") or 0) + (0 if holder == self.identity else 1)
        await self.client.update(kinds.LEASE, {**lease, "spec": self._spec(spec, transitions)})
        return True

    def _spec(self, old: Object, transitions: int) -> Object:
        when = now_micro()
        ours = old.get("holderIdentity") == self.identity
        return {
            **old,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self.duration)),
            "acquireTime": old["acquireTime"] if ours and old.get("acquireTime") else when,
            "renewTime": when,
            "leaseTransitions": transitions,
        }
