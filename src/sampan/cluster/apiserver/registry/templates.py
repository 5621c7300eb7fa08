"""Warnings of templates of pods: those in `advice.py`, and of annotations and of how files and addresses are given."""

from __future__ import annotations

from typing import Any

from sampan.cluster.apiserver.registry.advice import pod_spec_advice
from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.cluster.apiserver.registry.overlaps import overlaps
from sampan.cluster.apiserver.registry.spellings import address
from sampan.kube.objects import Object


def template_advice(template: Any, path: str) -> list[str]:
    """What to tell of the template of a pod, or of a pod itself, at `path`: of its annotations, too."""
    if not isinstance(template, dict):
        return []
    at, notes = f"{path}." if path else "", sub(template, "metadata").get("annotations") or {}
    spec, where = sub(template, "spec"), f"{at}metadata.annotations"
    found = [f"{where}[{key}]: {said}" for key, said in _OLD_NOTES.items() if key in notes]
    profile = 'non-functional in v1.27+; use the "seccompProfile" field instead'
    if sub(spec, "securityContext").get("seccompProfile") is None and _SECCOMP in notes:
        found.append(f"{where}[{_SECCOMP}]: {profile}")
    for group in ("initContainers", "containers"):
        for container in maps(spec.get(group)):
            key = f"container.{_SECCOMP.replace('pod', container.get('name') or '')}"
            if sub(container, "securityContext").get("seccompProfile") is None and key in notes:
                found.append(f"{where}[{key}]: {profile}")
            key = f"container.apparmor.security.beta.kubernetes.io/{container.get('name') or ''}"
            own, whole = (sub(part, "securityContext").get("appArmorProfile") for part in (container, spec))
            if path and key in notes and own is None and whole != _apparmor(str(notes[key])):  # a pod has it copied
                found.append(f'{where}[{key}]: deprecated since v1.30; use the "appArmorProfile" field instead')
    return (
        found + pod_spec_advice(spec, f"{at}spec") + _spellings(spec, f"{at}spec") + overlaps(maps(spec.get("volumes")))
    )


def _spellings(spec: Object, path: str) -> list[str]:
    found: list[str] = []
    for index, server in enumerate(sub(spec, "dnsConfig").get("nameservers") or ()):
        found += address(f"{path}.dnsConfig.nameservers[{index}]", server)
    for index, alias in enumerate(maps(spec.get("hostAliases"))):
        found += address(f"{path}.hostAliases[{index}].ip", alias.get("ip"))
    return found


def _apparmor(note: str) -> Object:
    """The profile that an annotation names."""
    if note.startswith("localhost/"):
        return {"type": "Localhost", "localhostProfile": note.removeprefix("localhost/")}
    return {"type": {"runtime/default": "RuntimeDefault", "unconfined": "Unconfined"}.get(note, "")}


_SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
_OLD_NOTES = {
    "scheduler.alpha.kubernetes.io/critical-pod": (
        'non-functional in v1.16+; use the "priorityClassName" field instead'
    ),
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
