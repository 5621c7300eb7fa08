"""A pod joins the pods' network: a link and an address first, then the rules that hold for it.

Fails closed, as container runtimes do: none of the pod's programs starts before both are there. Until then it waits, is
tried again, and an event with upstream's reason says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.kubelet.node import Services
    from sampan.cluster.network.pods import PodNetwork

REASON = "FailedCreatePodSandBox"
LEAST, MOST = 0.5, 30.0
"""Seconds between attempts."""


async def join(
    services: Services, network: PodNetwork, pod: Callable[[], Object], ip: str, waiting: Callable[[], None]
) -> int:
    """The pod's network namespace, once it is joined; a descriptor, which the caller closes. Calls `waiting` when it
    has to wait."""
    delay = LEAST
    while True:
        try:
            return await _attempt(services, network, pod(), ip)
        except OSError as error:
            services.recorder.warning(pod(), REASON, f"Failed to create pod sandbox: {error}")
            waiting()
        await asyncio.sleep(delay)
        delay = min(2 * delay, MOST)


async def _attempt(services: Services, network: PodNetwork, pod: Object, ip: str) -> int:
    namespace = await network.attach(ip)
    try:
        if services.admit is not None:
            await services.admit(pod, ip)
    except BaseException:
        os.close(namespace)
        if services.forget is not None:
            services.forget(pod)
        with contextlib.suppress(OSError):
            await network.detach(ip)  # its link would go with the namespace, but not at once
        raise
    return namespace
