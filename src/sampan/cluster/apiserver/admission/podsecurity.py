"""Pod Security admission: the labels of a namespace say which of the standards its pods must keep.

Mode `enforce` refuses pods, `warn` warns of pods and of templates, `audit` notes in the audit log, which this server
does not keep. A namespace whose enforced level is raised is told of the pods that would not have been let in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sampan.cluster.apiserver.admission.pod_standards import LATEST, findings
from sampan.cluster.apiserver.admission.quota import refusal
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube import kinds
from sampan.kube.errors import Cause, invalid
from sampan.kube.objects import Object, controller_of

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
MODES = ("enforce", "audit", "warn")
POD_LIMIT = 3000
"""Existing pods that are looked at when a namespace's level is raised."""
TEMPLATES = {
    "/replicationcontrollers": ("spec", "template"),
    "/podtemplates": ("template",),
    "apps/replicasets": ("spec", "template"),
    "apps/deployments": ("spec", "template"),
    "apps/statefulsets": ("spec", "template"),
    "apps/daemonsets": ("spec", "template"),
    "batch/jobs": ("spec", "template"),
    "batch/cronjobs": ("spec", "jobTemplate", "spec", "template"),
}
"""Where the kinds that make pods keep the template."""
UNCONCERNED = {"binding", "eviction", "status"}
_VERSION = re.compile(r"v1\.([0-9]|[1-9][0-9]*)")


class Level(Struct, frozen=True):
    level: str = "privileged"
    version: int = LATEST

    def __str__(self) -> str:
        return f"{self.level}:{'latest' if self.version == LATEST else f'v1.{self.version}'}"


Policy = dict[str, Level]


def policy_of(labels: Any) -> tuple[Policy, list[Cause]]:
    """What the labels ask for, by mode, and what is wrong with them; wrong ones enforce the strictest."""
    labels = labels if isinstance(labels, dict) else {}
    found, causes = dict.fromkeys(MODES, Level()), list[Cause]()

    def fault(label: str, value: str, detail: str) -> None:
        causes.append(Cause(f"metadata.labels[{label}]", f'Invalid value: "{value}": {detail}'))

    for mode in MODES:
        label, version_label = f"{PREFIX}{mode}", f"{PREFIX}{mode}-version"
        level, version = labels.get(label), labels.get(version_label)
        chosen, number = "privileged", LATEST
        if level in LEVELS:
            chosen = level
        elif level is not None:
            chosen = "restricted" if mode == "enforce" else "privileged"
            fault(label, level, f"must be one of {', '.join(LEVELS)}")
        if version is not None and version != "latest":
            match = _VERSION.fullmatch(version)
            if match is None:
                fault(version_label, version, 'must be "latest" or "v1.x"')
            else:
                number = int(match[1])
        found[mode] = Level(chosen, number)
    enforced = found["enforce"]
    if f"{PREFIX}warn" not in labels and labels.get(f"{PREFIX}enforce") in LEVELS[1:]:
        version = found["warn"].version if f"{PREFIX}warn-version" in labels else enforced.version
        found["warn"] = Level(enforced.level, version)
    return found, causes


def said(level: Level, metadata: Object, spec: Object, *, short: bool = False) -> str:
    """`hostPort (container "a" uses hostPort 80), privileged`; nothing where the pod keeps the level."""
    found = findings(level.level, level.version, metadata, spec)
    return ", ".join(reason if short or not detail else f"{reason} ({detail})" for reason, detail in found)


class PodSecurity:
    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def check(self, call: Call, new: Object, old: Object | None) -> None:
        """Raises ApiError 403, or 422 for labels that are wrong; warnings go to the call."""
        table = call.served.table
        if table == "/namespaces":
            if call.subresource is None:
                self._namespace(call, new, old)
        elif table == "/pods":
            if call.subresource not in UNCONCERNED and (old is None or _differs(new, old)):
                self._pod(call, new["metadata"], sub(new, "spec"), enforce=True)
        elif table in TEMPLATES and call.subresource is None:
            template = sub(new, *TEMPLATES[table])
            if template:
                self._pod(call, sub(template, "metadata"), sub(template, "spec"), enforce=False, obj=new)

    def _pod(self, call: Call, metadata: Object, spec: Object, *, enforce: bool, obj: Object | None = None) -> None:
        namespace = self.server.peek(kinds.NAMESPACE, call.namespace or "")
        labels = (namespace or {"metadata": {}})["metadata"].get("labels") or {}
        if not any(label.startswith(PREFIX) for label in labels):
            return
        policy, _ = policy_of(labels)
        if enforce and (why := said(policy["enforce"], metadata, spec)):
            raise refusal(call, obj or {"metadata": metadata}, f'violates PodSecurity "{policy["enforce"]}": {why}')
        if why := said(policy["warn"], metadata, spec):
            call.warnings.append(f'would violate PodSecurity "{policy["warn"]}": {why}')

    def _namespace(self, call: Call, new: Object, old: Object | None) -> None:
        policy, causes = policy_of(new["metadata"].get("labels"))
        before, known = policy_of(old["metadata"].get("labels")) if old else ({}, [])
        if causes and causes != known:
            raise invalid("Namespace", new["metadata"].get("name") or "", causes)
        if old is None:
            return
        enforce, was = policy["enforce"], before["enforce"]
        relaxed = LEVELS.index(enforce.level) <= LEVELS.index(was.level) and enforce.version == was.version
        if enforce == was or enforce.level == "privileged" or relaxed:
            return
        call.warnings += self._existing(new["metadata"]["name"], enforce)

    def _existing(self, namespace: str, level: Level) -> Iterator[str]:
        pods = _one_per_owner(self.server.peek_all(kinds.POD, namespace))
        seen: dict[str, list[str]] = {}
        for pod in pods[:POD_LIMIT]:
            if why := said(level, pod["metadata"], sub(pod, "spec"), short=True):
                seen.setdefault(why, []).append(pod["metadata"]["name"])
        if len(pods) > POD_LIMIT:
            yield (
                f"new PodSecurity enforce level only checked against the first {POD_LIMIT} of {len(pods)} existing pods"
            )
        if seen:
            yield f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{level}"'
        lines = []
        for why, names in seen.items():
            others = len(names) - 1
            more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
            lines.append(f"{min(names)}{more}: {why}")
        yield from sorted(lines)


def _one_per_owner(pods: list[Object]) -> list[Object]:
    """Those that differ first: of each controller one, then the rest."""
    first, rest, owners = [], [], set()
    for pod in pods:
        owner = controller_of(pod)
        if owner is not None and owner["uid"] in owners:
            rest.append(pod)
            continue
        first.append(pod)
        if owner is not None:
            owners.add(owner["uid"])
    return first + rest


def _differs(new: Object, old: Object) -> bool:
    """Whether an update changes what the standards look at: images and containers."""

    def images(pod: Object, *groups: str) -> list[Any]:
        return [(c.get("name"), c.get("image")) for group in groups for c in maps(sub(pod, "spec").get(group))]

    if images(new, "containers", "initContainers") != images(old, "containers", "initContainers"):
        return True
    return bool(set(images(new, "ephemeralContainers")) - set(images(old, "ephemeralContainers")))
