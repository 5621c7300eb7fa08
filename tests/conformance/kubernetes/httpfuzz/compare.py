"""The same request to the real control plane and to ours: do the codes agree? Nothing is written (`dryRun`)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.conformance.kubernetes.httpfuzz.client import Address, Broken, Peer
from tests.conformance.kubernetes.httpfuzz.generate import Generator, Request
from tests.conformance.kubernetes.httpfuzz.routes import routes
from tests.conformance.kubernetes.httpfuzz.run import set_up
from tests.conformance.kubernetes.targets import start_api_alone, start_real
from tests.conformance.kubernetes.wire import Wire

NO_ANSWER = 0


def compare(directory: Path, seed: int, operations: int) -> tuple[list[tuple[str, str]], int]:
    """((shape, request) of each request with another code, how many were sent). Raises Missing."""
    (directory / "real").mkdir()
    (directory / "ours").mkdir()
    real = start_real(directory / "real", controllers=False)
    try:
        ours = start_api_alone(directory / "ours")
        try:
            wires = [Wire(target.kubeconfig) for target in (real, ours)]
            set_up(wires[1])
            found = routes(wires[1])
            for wire in wires:
                set_up(wire)
                set_up(wire, found)
            addresses = [Address(target.kubeconfig) for target in (real, ours)]
            return asyncio.run(_compare(addresses, Generator(found, seed, writes=False), operations))
        finally:
            ours.stop()
    finally:
        real.stop()


async def _compare(addresses: list[Address], requests: Generator, operations: int) -> tuple[list[tuple[str, str]], int]:
    peers = [Peer(address) for address in addresses]
    different, sent = [], 0
    for request in requests:
        if request.endless:
            continue
        if sent >= operations:
            break
        sent += 1
        theirs, ours = await asyncio.gather(*(_ask(peer, request) for peer in peers))
        if theirs[0] != ours[0] and theirs[0]:
            path = re.sub(r"/(a|b|missing|fuzz|n\d+)(?=/|$)", "/_", request.path.decode("latin-1"))[:80]
            shape = f"{theirs[0]} there, {ours[0]} here: {request.method[:10].decode('latin-1')} {path}"
            different.append((shape, f"{request.told()}\n    {theirs[1][:250]!r}\n    {ours[1][:250]!r}"))
    for peer in peers:
        peer.close()
    return different, sent


async def _ask(peer: Peer, request: Request) -> tuple[int, bytes]:
    try:
        answer = await peer.ask(request.encode(peer.address.headers), head=request.method == b"HEAD", endless=True)
    except (
        Broken,
        TimeoutError,
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
        OSError,
        KeyError,
        ValueError,
    ):
        peer.close()
        return NO_ANSWER, b""
    return answer.code, answer.body
