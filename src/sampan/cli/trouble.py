"""What is wrong with a pod that does not become ready: what its containers said, and what is said of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from sampan.cli.logs import tail
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, is_deleting, name_of, namespace_of, parse_time

_CANNOT_START = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
_LINES = 8  # of a log


class Failed(NamedTuple):
    """A container that ended badly or cannot start. `earlier`: it runs again, the log is that of the run before."""

    container: str
    words: str
    earlier: bool


def failed(pod: Object, since: float = 0.0) -> Iterator[Failed]:
    """The containers of a pod that should run and do not, or did not, `since` then (seconds since the epoch). What
    ended with the cluster before is none of them."""
    status = pod.get("status") or {}
    if is_deleting(pod):
        return
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        name, state = container["name"], container.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
        if waiting.get("reason") in _CANNOT_START:
            yield Failed(name, f"cannot start: {waiting.get('message') or waiting['reason']}", False)
        elif ended and (ended.get("exitCode") or waiting.get("reason") == "CrashLoopBackOff"):
            reason, moment = ended.get("reason") or "", ended.get("finishedAt")
            if reason == "ContainerStatusUnknown" or (moment and parse_time(moment).timestamp() < int(since)):
                continue
            words = f"ended with exit code {ended.get('exitCode', 0)}"
            words += "" if reason in ("", "Error", "Completed") else f" ({reason})"
            yield Failed(name, words, "running" in state)


async def said(client: Client, pod: Object, container: str, *, earlier: bool = False) -> list[str]:
    """The end of a container's log, for people."""
    lines = await tail(client, pod, container, _LINES, previous=earlier)
    if not lines:  # it has begun anew meanwhile
        lines = await tail(client, pod, container, _LINES, previous=not earlier)
    return [f"| {text}" for line in lines for text in readable(line)]


async def everything(client: Client, pod: Object) -> list[str]:
    """What there is to read about it: messages of its containers, warnings about it, the ends of its logs."""
    status = pod.get("status") or {}
    found = []
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            message = (state.get("waiting") or state.get("terminated") or {}).get("message")
            if message:
                found.append(f"{container['name']}: {message}")
    try:
        events = await client.list(kinds.EVENT, namespace_of(pod), fields=f"involvedObject.name={name_of(pod)}")
        warnings = [event for event in events.items if event.get("type") == "Warning"]
    except ApiError:
        warnings = []
    found += [f"{event['reason']}: {event['message']}" for event in warnings[-3:]]
    for container in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
        found += await said(client, pod, container["name"])
    return found


def readable(line: str) -> list[str]:
    """A log line for people, at most 240 characters a line: severity and message of a JSON line, and the last calls of
    its stack."""
    found = [line]
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and "message" in record:
            attributes = record.get("attributes") or {}
            kind, stack = attributes.get("exception.type", ""), str(attributes.get("exception.stacktrace", ""))
            message = str(record["message"])
            found = [f"{record.get('severity', '')} {message} {'' if kind in message else kind}".strip()]
            found += [text for text in stack.splitlines() if text.startswith(" ")][-6:]
    return [text if len(text) <= 240 else text[:237] + "..." for text in found]
