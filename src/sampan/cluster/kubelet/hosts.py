"""The hosts file of a pod: cluster names resolve in any program, since every resolver looks there first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sampan.kube.objects import Object

DOMAIN = "svc.cluster.local"


def service_lines(services: Iterable[Object], pods: Iterable[Object], namespace: str) -> list[str]:
    """Lines for every service as seen from `namespace`: short names for its own, longer ones for all."""
    lines = []
    by_namespace: dict[str, list[Object]] = {}
    for pod in pods:
        if (pod.get("status") or {}).get("podIP") and not pod["metadata"].get("deletionTimestamp"):
            by_namespace.setdefault(pod["metadata"]["namespace"], []).append(pod)
    for service in sorted(services, key=lambda s: (s["metadata"]["namespace"], s["metadata"]["name"])):
        name, home = service["metadata"]["name"], service["metadata"]["namespace"]
        spec = service.get("spec") or {}
        address = spec.get("clusterIP")
        if address and address != "None":
            lines.append(_line(address, _names(name, home, namespace)))
            continue
        selector = spec.get("selector") or {}
        if not selector:
            continue
        for pod in by_namespace.get(home, ()):
            labels = pod["metadata"].get("labels") or {}
            if any(labels.get(key) != value for key, value in selector.items()):
                continue
            names = []
            host = pod["spec"].get("hostname")
            if host and pod["spec"].get("subdomain") == name:
                names = _names(f"{host}.{name}", home, namespace)
            if _ready(pod) or spec.get("publishNotReadyAddresses"):
                names += _names(name, home, namespace)
            if names:
                lines.append(_line(pod["status"]["podIP"], names))
    return lines


def render(pod: Object, ip: str, lines: list[str]) -> str:
    """The whole file for one pod."""
    spec = pod["spec"]
    host = spec.get("hostname") or pod["metadata"]["name"]
    own = [host]
    if spec.get("subdomain"):
        own.insert(0, f"{host}.{spec['subdomain']}.{pod['metadata']['namespace']}.{DOMAIN}")
    out = ["# Kept by the cluster.", _line("127.0.0.1", ["localhost"]), _line("::1", ["localhost", "ip6-localhost"])]
    out.append(_line(ip, own))
    out += [_line(alias["ip"], alias.get("hostnames") or []) for alias in spec.get("hostAliases") or ()]
    return "\n".join([*out, *lines]) + "\n"


def resolver(pod: Object, server: str) -> str:
    """The resolv.conf of a pod with a network of its own: `server`, and what the pod says (dnsPolicy, dnsConfig)."""
    config = pod["spec"].get("dnsConfig") or {}
    servers = [] if pod["spec"].get("dnsPolicy") == "None" else [server]
    search = config.get("searches") or []  # names of the cluster are in the hosts file
    lines = [f"nameserver {address}" for address in [*servers, *(config.get("nameservers") or [])]]
    lines += [f"search {' '.join(search)}"] if search else []
    options = [f"{o['name']}:{o['value']}" if o.get("value") else o["name"] for o in config.get("options") or ()]
    return "\n".join([*lines, *([f"options {' '.join(options)}"] if options else [])]) + "\n"


def write_in_place(path: Path, text: str) -> None:
    """The file is bound into containers, so it keeps its inode."""
    with path.open("r+" if path.exists() else "w") as file:
        file.write(text)
        file.truncate()
    path.chmod(0o644)


def _names(name: str, home: str, seen_from: str) -> list[str]:
    short = [name] if home == seen_from else []
    return [*short, f"{name}.{home}", f"{name}.{home}.svc", f"{name}.{home}.{DOMAIN}"]


def _line(address: str, names: list[str]) -> str:
    return f"{address}\t{' '.join(names)}"


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
