"""The process that holds a cluster's network: the router's namespace, in which Services live and pods are joined, and,
for an ordinary user, the user namespace that owns all of them.

Forked from the zygote; single-threaded; answers one request at a time and ends with its channel. A pod's namespace
lives as long as somebody holds its descriptor or runs in it; its link goes with it.

Inside, a pod has the address 10.N.x.y and everything else by way of the router at 10.N.0.1. Cluster IPs are the same
127.N.x.y as on the machine, so that an address means one Service wherever it is used; pods keep 127.0.0.0/16 of their
own, and `route_localnet` lets the rest of 127.0.0.0/8 leave them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

from sampan.cluster.kubelet import linux, wire
from sampan.cluster.network import netlink, nftables
from sampan.cluster.network.netlink import Netlink

LOOPBACK = 1  # the index of `lo` in every namespace
MTU = 65000  # nothing but memory lies between pods
GATEWAY_PORT = 15001
DNS_PORT = 53
BASE = "sampan"


def serve(channel: socket.socket, number: int) -> None:
    """Make the cluster's namespaces and answer until the channel ends. Never returns."""
    linux.set_name("sampan-router")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        router = _Router(number)
    except OSError as error:
        wire.send(channel, {"error": str(error)})
        os._exit(0)
    user = [os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)] if os.getuid() else []
    wire.send(channel, {"ok": True}, [router.namespace, router.rules.socket.fileno(), *user])
    while (received := _next(channel)) is not None:
        message, fds = received
        try:
            made = getattr(router, f"do_{message['op']}")(message, fds)
            wire.send(channel, {"ok": True}, [made] if made >= 0 else [])
        except OSError as error:
            made = -1
            wire.send(channel, {"error": str(error)})
        for fd in (*fds, made):
            if fd >= 0:
                os.close(fd)
    os._exit(0)


def _next(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    try:
        return wire.receive(channel)
    except (OSError, EOFError):
        return None


class _Router:
    def __init__(self, number: int) -> None:
        self.pods = f"10.{number}"
        self.slice = f"127.{number}"
        self.address = f"{self.pods}.0.1"
        if os.getuid():
            linux.enter_user_namespace()
        linux.unshare(linux.CLONE_NEWNET)
        self.namespace = _own_namespace()
        _free_ports()
        self.route = Netlink(netlink.ROUTE)
        netlink.set_up(self.route, LOOPBACK)
        netlink.add_address(self.route, LOOPBACK, self.address, 32)
        self.rules = Netlink(netlink.NETFILTER)
        _outward(self.slice, self.pods, self.address).commit(self.rules)
        os.close(self.do_attach({"ip": f"{self.pods}.0.2"}, []))  # whatever the kernel lacks shows now

    def do_attach(self, message: dict[str, Any], _fds: list[int]) -> int:
        """A namespace for a pod with this address; its descriptor."""
        ip = message["ip"]
        outside = "p" + socket.inet_aton(ip).hex()
        made = -1
        try:
            linux.unshare(linux.CLONE_NEWNET)
            made = _own_namespace()
            _free_ports()
            route = Netlink(netlink.ROUTE)
            try:
                netlink.set_up(route, LOOPBACK)
                netlink.delete_address(route, LOOPBACK, "127.0.0.1", 8)  # the rest of it leads to Services
                netlink.add_address(route, LOOPBACK, "127.0.0.1", 16)
                netlink.add_veth(route, "eth0", outside, self.namespace, MTU)
                eth0 = socket.if_nametoindex("eth0")
                netlink.set_up(route, eth0, {netlink.ROUTE_LOCALNET: 1})
                netlink.add_address(route, eth0, ip, 32)
                netlink.add_route(route, eth0, "0.0.0.0", 0, self.address)  # noqa: S104
            finally:
                route.close()
                linux.set_namespace(self.namespace, linux.CLONE_NEWNET)
            index = socket.if_nametoindex(outside)
            # rp_filter: what comes from a pod bears its own address.
            settings = {netlink.FORWARDING: 1, netlink.RP_FILTER: 1, netlink.ROUTE_LOCALNET: 1}
            netlink.set_up(self.route, index, settings)
            netlink.add_route(self.route, index, ip, 32)
        except BaseException:
            linux.set_namespace(self.namespace, linux.CLONE_NEWNET)
            if made >= 0:
                os.close(made)  # and the link with it
            raise
        return made

    def do_detach(self, message: dict[str, Any], _fds: list[int]) -> int:
        """Take a pod off the network, though something may still run in its namespace."""
        netlink.delete_link(self.route, "p" + socket.inet_aton(message["ip"]).hex())
        return -1

    def do_socket(self, message: dict[str, Any], fds: list[int]) -> int:
        """A socket here, or in the pod whose namespace came along; `listen` = [address, port] makes it a listener."""
        if fds:
            linux.set_namespace(fds[0], linux.CLONE_NEWNET)
        try:
            made = socket.socket(socket.AF_INET, message.get("kind") or socket.SOCK_STREAM)
        finally:
            if fds:
                linux.set_namespace(self.namespace, linux.CLONE_NEWNET)
        if where := message.get("listen"):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((where[0], where[1]))
            if made.type == socket.SOCK_STREAM:
                made.listen(1024)
        return made.detach()


def _free_ports() -> None:
    """Ports below 1024 are for everybody in here, as container runtimes have it: nobody else's are at stake."""
    with contextlib.suppress(OSError):  # /proc/sys read-only, in a container: then they are root's
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def _own_namespace() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _outward(slice_: str, pods: str, router: str) -> nftables.Batch:
    """What is neither a pod nor a Service goes to the gateway: connections of pods, and Envoy's to the machine."""
    batch = nftables.Batch()
    table = f"{BASE}-gateway"
    batch.replace_table(table)
    tcp = nftables.protocol(socket.IPPROTO_TCP)

    def destination(how: int, address: str, length: int) -> bytes:
        return nftables.load(1, 16, length) + nftables.compare(how, socket.inet_aton(address)[:length])

    ours = [(pods, 2), ("127.0", 2), (slice_, 2)]
    elsewhere = [destination(nftables.NOT_EQUAL, f"{address}.0.0", length) for address, length in ours]
    there = nftables.rewrite_destination(router, GATEWAY_PORT)
    for chain, hook in (("from-pods", nftables.PREROUTING), ("from-router", nftables.OUTPUT)):
        batch.chain(table, chain, kind="nat", hook=hook, priority=-100)
        for machine in (f"{slice_}.0.1", router):
            batch.rule(table, chain, tcp, destination(nftables.EQUAL, machine, 4), there)
        batch.rule(table, chain, tcp, *elsewhere, there)
    return batch
