"""Where the system forbids namespaces, pods still run; their volumes lie elsewhere and their environment says where."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cluster.kubelet.zygote import Capabilities, Zygote
from sampan.kube import kinds


@pytest.fixture
def zygote() -> Any:
    """A zygote that has found namespaces to be forbidden."""
    warm = Zygote.start(("asyncio",))
    warm._capabilities = Capabilities("forbidden here", "")
    yield warm
    warm.stop()


@pytest.fixture
async def plain(node: Any) -> AsyncIterator[Any]:
    assert node.kubelet.capabilities.namespaces
    yield node


async def test_volumes_are_found_through_the_environment(plain: Any) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "data": {"uri": "c2Vj"}}
    await plain.add(kinds.SECRET, secret)
    container = {
        "command": ["sh", "-c", "cat $SERVICE_BINDING_ROOT/db/uri; echo; sleep 100"],
        "env": [{"name": "SERVICE_BINDING_ROOT", "value": "/bindings"}],
        "volumeMounts": [{"name": "v", "mountPath": "/bindings/db"}],
    }
    await plain.pod("web", container, volumes=[{"name": "v", "secret": {"secretName": "s"}}])
    await plain.says("web", "sec")


async def test_both_bind_every_address(plain: Any) -> None:
    program = (
        "import socket, time; s = socket.socket(); s.bind(('', 8080))\n"
        "print(s.getsockname()[0], flush=True); time.sleep(99)"
    )
    for name in ("a", "b"):
        await plain.pod(name, {"image": "python", "command": ["python", "-c", program]})
    for name in ("a", "b"):
        await plain.until(lambda name=name: plain.ready(name))
        await plain.says(name, plain.get(name)["status"]["podIP"])


async def test_every_process_of_a_pod_ends_with_it(plain: Any) -> None:
    await plain.pod("bg", {"command": ["sh", "-c", "setsid sleep 54321 & setsid sleep 54321 & echo up; wait"]})
    await plain.says("bg", "up")
    await plain.client.delete(kinds.POD, "bg", "default")
    await plain.until(lambda: not plain.get("bg"))
    left = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            left.append(entry.read_bytes())
    assert not any(b"54321" in command for command in left)
