"""The cluster process: assembles store, API server, controllers, kubelet and proxy over one directory, in this order.

The API answers first; what only serves it follows while clients already talk. Every phase's time goes to the log.
A kill -9 loses nothing that was acknowledged: locks are the kernel's, children die with us, the next start continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cluster.address import Slice, keep_port
from sampan.cluster.start import AUTO, LOOPBACK, MODES, PODS, Certificates, Phases
from sampan.imports import courteous, without

with without("typing_extensions"):  # msgspec takes nothing from it that typing has not
    import msgspec

if TYPE_CHECKING:
    from sampan.cluster.kubelet.zygote import Zygote
    from sampan.cluster.network.pods import PodNetwork
    from sampan.kube.objects import Object

log = logging.getLogger("sampan.cluster")

API_PORT = 6443
STOP_SECONDS = 30.0
CANNOT = {
    PODS: [
        "pods' addresses are not reached from this machine, except by port-forward; Services are",
        "of what leaves the cluster, TCP and DNS are carried, other UDP and ICMP are not",
        "127.0.0.1 is the pod's own; this machine's is reached at the node's address (10.N.0.1)",
    ],
    LOOPBACK: [
        "NetworkPolicies are stored, not enforced",
        "pods share this machine's network and its 127.0.0.1",
    ],
}
"""What each mode cannot do, for `sampan status`."""
NODE = ("sampan.cluster.controllers", "sampan.cluster.kubelet.kubelet", "sampan.cluster.proxy.proxy")
"""What is imported while the API answers already."""


class NetworkRefused(Exception):
    """Pods were to have a network of their own, and this system gives them none."""


class Cluster:
    """One cluster in `directory`. `run` serves until a signal."""

    def __init__(
        self,
        directory: Path,
        phases: Phases,
        lock: int,
        owned: Slice,
        certificates: Certificates,
        *,
        network: str = AUTO,
        warm: bool = False,
    ) -> None:
        self._mode = network
        self._warm = warm
        self._refusal = ""  # why pods do not have what they had before
        self._lock = lock
        self.directory = directory
        self.phases = phases
        self._zygote: Zygote | None = None
        self._stops: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
        self._slice = owned
        self._certificates = certificates
        self._held: list[socket.socket] = []
        self.info: dict[str, Any] = {}

    async def run(self) -> None:
        """Raises what prevented the start; everything started is stopped again."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        gone = asyncio.create_task(self._directory_gone(ended))
        try:
            start = asyncio.create_task(self._start())
            waiting = asyncio.create_task(ended.wait())
            await asyncio.wait({start, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                await waiting
            else:
                start.cancel()
                await asyncio.gather(start, return_exceptions=True)
        finally:
            gone.cancel()
            await self._stop()

    async def _directory_gone(self, ended: asyncio.Event) -> None:
        """A cluster whose directory was deleted under it ends: nobody could stop it any more."""
        while os.fstat(self._lock).st_nlink:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(2)
        log.warning("the directory is gone")
        ended.set()

    async def _start(self) -> None:
        phases, owned = self.phases, self._slice
        from sampan.cluster.apiserver.server import ApiServer
        from sampan.cluster.store.store import Store

        phases.done("imports")
        mode = self._network_mode()
        router = self._nursery().router(owned.number) if mode == PODS else None
        store = Store.open(self.directory / "cluster.db")
        self._stops.append(("store", store.close))
        phases.done("store")
        settings = {"service_cidr": owned.service_cidr, "node_name": "sampan", "node_ip": owned.node}
        api = ApiServer(store, self._certificates.pki, settings)
        self._stops.append(("API server", api.stop))
        starting = asyncio.create_task(api.start())
        await asyncio.sleep(0)
        importlib.import_module("sampan.cluster.apiserver.web")  # while the disk is waited for
        await starting
        phases.done("objects")
        await asyncio.to_thread(self._certificates.wait)
        phases.done("certificates")
        port = await api.serve("127.0.0.1", self._reserve("port", API_PORT))
        server = f"https://127.0.0.1:{port}"
        api.write_kubeconfig(self.directory / "kubeconfig", server)
        # The ingress port is known before Envoy listens, so that cluster.json is complete from its first version.
        ingress = self._reserve("proxy/ingress-port", 8080)
        tls = self._reserve("proxy/ingress-tls-port", 8443)
        network = await self._network(router, owned)
        self.info = {
            "pid": os.getpid(),
            "server": server,
            "ingress": f"http://127.0.0.1:{ingress}",
            "slice": owned.number,
            "version": "v1.36.0",
            "started": time.time(),
        }
        self._write("cluster.json", json.dumps(self.info) + "\n")
        phases.done("API server")
        phases.report("API ready")
        gc.enable()
        await _imported("sampan.cluster.kubelet.zygote")
        nursery = self._nursery()
        if self._warm:
            nursery.warm()
        await _imported(*NODE)
        await self._start_node(api, port, owned, (ingress, tls), network)

    def _nursery(self) -> Zygote:
        if self._zygote is None:
            from sampan.cluster.kubelet.zygote import Zygote

            self._zygote = Zygote.start()
        return self._zygote

    def _network_mode(self) -> str:
        """What was asked for, else what the cluster of this directory had, else loopback."""
        if self._mode != AUTO:
            self._write("network", self._mode + "\n")
            return self._mode
        with contextlib.suppress(OSError):
            if (kept := (self.directory / "network").read_text().strip()) in MODES:
                return kept
        return LOOPBACK

    async def _network(self, router: socket.socket | None, owned: Slice) -> PodNetwork | None:
        """The network of the pods, in force; None when they share the machine's. Raises NetworkRefused where it was
        asked for and cannot be had."""
        if router is None:
            return None
        from sampan.cluster.network.gateway import Gateway
        from sampan.cluster.network.pods import PodNetwork, Refused

        try:
            if reason := (await self._nursery().capabilities()).namespaces:
                raise Refused(reason)
            network = await asyncio.to_thread(PodNetwork, owned.number, router)
        except Refused as error:
            if self._mode == PODS:
                raise NetworkRefused(
                    f"--network pods: this system gives pods no network of their own ({error}); it takes root, or user "
                    "namespaces for ordinary users, and nf_tables in the kernel. Start it with --network loopback"
                ) from error
            self._refusal = str(error)
            return None
        gateway = Gateway(network)
        await gateway.start()

        async def stop() -> None:
            await gateway.stop()
            network.close()

        self._stops.append(("network", stop))
        return network

    async def _start_node(
        self, api: Any, port: int, owned: Slice, ingress: tuple[int, int], network: PodNetwork | None
    ) -> None:
        from sampan.cluster import controllers
        from sampan.cluster.kubelet.kubelet import Kubelet
        from sampan.cluster.proxy.proxy import Proxy
        from sampan.kube.client import Client

        phases = self.phases
        client = Client(api.transport())
        address = f"127.0.0.1:{port}"
        proxy: Proxy | None = None

        async def drained(pod: Object) -> None:
            if proxy is not None:
                await proxy.drained(pod)

        kubelet = Kubelet(
            client,
            self.directory,
            f"127.{owned.number}",
            self._nursery(),
            drained=drained,
            api_address=address,
            network=network,
        )
        api.runtime = kubelet
        ca = (self.directory / "pki" / "ca.crt").read_text()
        manager = controllers.manager(client, usage=kubelet.usage, volumes=self.directory / "volumes", ca=ca)
        server = ("127.0.0.1" if network is None else network.router, port)
        proxy = Proxy(
            manager.cache, owned, self.directory / "proxy", api=server, ports=ingress, network=network,
            lazily=network is None and not self._warm,
        )  # fmt: skip
        if network is not None:
            from sampan.cluster.network.enforcement import Enforcement

            kubelet.enforcement = enforcement = Enforcement(network, manager.cache)
            enforcement.start()
            self._stops.append(("network policies", enforcement.stop))
        phases.done("node imports")
        self._stops.append(("proxy", proxy.stop))
        await proxy.start()
        api.checks["proxy"] = functools.partial(proxy.settled, 1.0)
        phases.done("proxy")
        self._stops.append(("kubelet", kubelet.stop))
        self._stops.append(("controllers", manager.stop))
        await asyncio.gather(kubelet.start(), manager.start())
        missing = msgspec.structs.asdict(kubelet.capabilities)
        used = LOOPBACK if network is None else PODS
        self.info["network"] = {"mode": used, "why": self._refusal, "cannot": CANNOT[used]}
        self.info["limits"] = kubelet.limits
        self.info["isolation"] = {name: reason or "in force" for name, reason in missing.items()}
        self._write("cluster.json", json.dumps(self.info) + "\n")
        phases.done("kubelet and controllers")
        phases.report("all running")
        # What was made while starting lives as long as we do; collecting it over and over costs 10 ms each time.
        gc.collect()
        gc.freeze()

    async def _stop(self) -> None:
        """In reverse order: controllers first, so that nothing replaces the pods that the kubelet then stops."""
        (self.directory / "cluster.json").unlink(missing_ok=True)
        log.info("stopping")
        for name, stop in reversed(self._stops):
            began = time.monotonic()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await stop()
            except Exception:
                log.exception("stopping: %s failed", name)
            log.info("stopped: %s (%.0f ms)", name, 1000 * (time.monotonic() - began))
        if self._zygote is not None:
            await asyncio.to_thread(self._zygote.stop)
        for holder in self._held:
            holder.close()
        self._slice.close()

    def _reserve(self, name: str, preferred: int) -> int:
        """A port of 127.0.0.1, the kept one if it is free (a copied kubeconfig stays good); held against other clusters
        until this one ends."""
        port, holder = keep_port(self.directory / name, preferred)
        self._held.append(holder)
        return port

    def _write(self, name: str, text: str) -> None:
        target = self.directory / name
        beside = target.with_name(f".{target.name}.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        beside.replace(target)


async def _imported(*names: str) -> None:
    """Import on another thread, so that whoever asks is answered meanwhile."""
    with courteous():
        for name in names:
            await asyncio.to_thread(importlib.import_module, name)


def run(cluster: Cluster) -> int:
    """Serve until a signal, on uvloop where there is one: 0; 1 when what was asked for cannot be had, which is said.
    Raises what else prevented the start."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(cluster.run())
    except NetworkRefused as error:
        log.error("%s", error)
        return 1
    return 0
