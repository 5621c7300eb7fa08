"""What `up` shows while pods come up: a live table on a terminal, a line per change otherwise, JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from sampan.kube.objects import Object, is_deleting, name_of, namespace_of

if TYPE_CHECKING:
    from rich.live import Live


def reason_of(pod: Object) -> str:
    """The one word kubectl shows under STATUS, except that a Running pod that is not ready says so."""
    if is_deleting(pod):
        return "Terminating"
    status = pod.get("status") or {}
    if status.get("reason"):
        return str(status["reason"])
    for number, container in enumerate(status.get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        ended = state.get("terminated")
        if ended and ended.get("exitCode") == 0:
            continue
        waiting = (state.get("waiting") or ended or {}).get("reason")
        total = len(pod["spec"].get("initContainers") or ())
        return f"Init:{waiting}" if waiting and waiting != "PodInitializing" else f"Init:{number}/{total}"
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        found = (state.get("waiting") or state.get("terminated") or {}).get("reason")
        if found:
            return str(found)
    if status.get("phase") == "Running":
        return "Ready" if is_ready(pod) else "Starting"
    return str(status.get("phase") or "Pending")


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


class View(Protocol):
    def say(self, text: str, **fields: Any) -> None:
        """A line about the whole; `fields` is what --json prints."""

    def pods(self, pods: list[Object]) -> None:
        """The pods as they now are."""

    def close(self) -> None: ...


def make(*, as_json: bool) -> View:
    if as_json:
        return JsonView()
    return LiveView() if sys.stdout.isatty() else PlainView()


class PlainView:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown: dict[str, str] = {}

    def say(self, text: str, **fields: Any) -> None:
        print(text, flush=True)

    def pods(self, pods: list[Object]) -> None:
        for pod in sorted(pods, key=name_of):
            key, reason = f"{namespace_of(pod)}/{name_of(pod)}", reason_of(pod)
            if self._shown.get(key) != reason:
                self._shown[key] = reason
                self.changed(pod, reason)

    def changed(self, pod: Object, reason: str) -> None:
        ip = (pod.get("status") or {}).get("podIP", "")
        print(f"{time.monotonic() - self._began:6.2f}s  {name_of(pod):40} {reason:20} {ip}".rstrip(), flush=True)

    def close(self) -> None: ...


class JsonView(PlainView):
    def say(self, text: str, **fields: Any) -> None:
        print(json.dumps({"seconds": round(time.monotonic() - self._began, 3), "message": text, **fields}), flush=True)

    def changed(self, pod: Object, reason: str) -> None:
        where = {"namespace": namespace_of(pod), "pod": name_of(pod), "ip": (pod.get("status") or {}).get("podIP", "")}
        self.say(f"{name_of(pod)} {reason}", event="pod", state=reason, **where)


class LiveView(PlainView):
    """A table redrawn in place while pods come up; it stands as text afterwards."""

    _COLOURS = {"Ready": "green", "Completed": "green", "Succeeded": "green", "Terminating": "dim"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None

    def pods(self, pods: list[Object]) -> None:
        from rich.live import Live
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("POD", "STATE", "ADDRESS"):
            table.add_column(heading, header_style="dim")
        for pod in sorted(pods, key=name_of):
            reason = reason_of(pod)
            bad = "Err" in reason or "Back" in reason
            colour = self._COLOURS.get(reason, "red" if bad else "yellow")
            table.add_row(name_of(pod), f"[{colour}]{reason}[/]", (pod.get("status") or {}).get("podIP", ""))
        if self._live is None:
            self._live = Live(table, refresh_per_second=12)
            self._live.start()
        self._live.update(table)

    def say(self, text: str, **fields: Any) -> None:
        self.close()
        super().say(text, **fields)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
