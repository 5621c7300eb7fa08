"""`sampan status`: pods, addresses, the cluster's health, and what isolation, limits and network are in force."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from sampan.cli.process import ClusterProcess
from sampan.cli.view import is_ready, reason_of
from sampan.kube import kinds
from sampan.kube.client import Client
from sampan.kube.https import HttpsTransport
from sampan.kube.objects import Object, key_of, name_of, namespace_of


def status(arguments: argparse.Namespace) -> int:
    process = ClusterProcess(Path(arguments.directory))
    pid, info = process.pid(), process.info()
    if pid is None or not info:
        found: dict[str, Any] = {"running": False, "directory": str(process.directory)}
        print(json.dumps(found) if arguments.json else f"no cluster runs in {process.directory}; start one: sampan up")
        return 1
    client = Client(HttpsTransport.from_kubeconfig(process.kubeconfig))
    found = {"running": True, "directory": str(process.directory), **info, **asyncio.run(_look(client))}
    found["kubeconfig"] = str(process.kubeconfig)
    print(json.dumps(found) if arguments.json else "\n".join(_text(found)))
    return 0


async def _look(client: Client) -> dict[str, Any]:
    try:
        pods, services, ingresses, nodes = [
            (await client.list(kind)).items for kind in (kinds.POD, kinds.SERVICE, kinds.INGRESS, kinds.NODE)
        ]
    finally:
        await client.transport.close()
    return {
        "pods": [_pod(pod) for pod in sorted(pods, key=key_of)],
        "services": [_service(service) for service in sorted(services, key=key_of)],
        "routes": sorted({route for ingress in ingresses for route in _routes(ingress)}),
        "healthy": bool(nodes) and all(is_ready(node) for node in nodes),
    }


def _pod(pod: Object) -> dict[str, Any]:
    status = pod.get("status") or {}
    restarts = sum(container.get("restartCount", 0) for container in status.get("containerStatuses") or ())
    return {
        "namespace": namespace_of(pod),
        "name": name_of(pod),
        "state": reason_of(pod),
        "ready": is_ready(pod),
        "restarts": restarts,
        "ip": status.get("podIP", ""),
    }


def _service(service: Object) -> dict[str, Any]:
    spec = service["spec"]
    return {
        "namespace": namespace_of(service),
        "name": name_of(service),
        "ip": spec.get("clusterIP", ""),
        "ports": [port["port"] for port in spec.get("ports") or ()],
    }


def _routes(ingress: Object) -> list[str]:
    return [
        f"{rule.get('host', '')}{path.get('path', '/')}"
        for rule in ingress["spec"].get("rules") or ()
        for path in (rule.get("http") or {}).get("paths") or ()
    ]


def _text(found: dict[str, Any]) -> list[str]:
    rows = [["NAMESPACE", "POD", "STATE", "RESTARTS", "ADDRESS"]]
    rows += [[pod["namespace"], pod["name"], pod["state"], str(pod["restarts"]), pod["ip"]] for pod in found["pods"]]
    rows += [[]]
    rows += [["NAMESPACE", "SERVICE", "", "PORTS", "ADDRESS"]]
    rows += [
        [service["namespace"], service["name"], "", ",".join(map(str, service["ports"])), service["ip"]]
        for service in found["services"]
    ]
    widths = [max((len(row[column]) for row in rows if row), default=0) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    lines += ["", f"ingress  {found.get('ingress', '')}   {' '.join(found['routes'])}".rstrip()]
    lines.append(f"API      {found.get('server', '')}   {'healthy' if found['healthy'] else 'the node is not Ready'}")
    lines += [f"{key}: {value}" for key, value in (found.get("isolation") or {}).items()]
    if limits := found.get("limits"):
        lines.append(f"limits: {limits}")
    if network := found.get("network"):
        why = f" (pods had one of their own before: {network['why']})" if network.get("why") else ""
        lines.append(f"network: {network['mode']}{why}")
        lines += [f"  {line}" for line in network["cannot"]]
    lines.append(f"export KUBECONFIG={found['kubeconfig']}")
    return lines
