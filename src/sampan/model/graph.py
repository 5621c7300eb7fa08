"""Questions about who depends on what."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.model.handles import Grant, Topic

if TYPE_CHECKING:
    from sampan.model.application import Application, Service, Workload
    from sampan.model.handles import Handle


class Edge(NamedTuple):
    """`source` (a workload) calls, reads, writes, publishes to or subscribes to `target` (a service or resource)."""

    source: Workload
    relation: str
    target: Service | Handle


def edges(app: Application) -> list[Edge]:
    """Every dependency of the application, in the order declared. Calls to what is not declared are left out."""
    services = {service.name: service for service in app.services}
    result: list[Edge] = []
    for workload in app.workloads:
        result += [Edge(workload, "calls", services[name]) for name in workload.call_names if name in services]
        for use in workload.uses:
            if isinstance(use, Grant):
                result.append(Edge(workload, use.access, use.handle))
            else:
                result.append(Edge(workload, "reads", use))
    return result


def callers(app: Application, service: Service) -> list[Workload]:
    """The workloads that name `service` in their `calls`."""
    return [workload for workload in app.workloads if service.name in workload.call_names]


def users(app: Application, handle: Handle) -> list[Workload]:
    """The workloads whose `uses` name `handle`."""
    return [workload for workload in app.workloads if any(used is handle for used in workload.handles)]


def publishers(app: Application, topic: Topic[object]) -> list[Workload]:
    return [edge.source for edge in edges(app) if edge.target is topic and edge.relation == "publish"]


def subscribers(app: Application, topic: Topic[object]) -> list[Workload]:
    return [edge.source for edge in edges(app) if edge.target is topic and edge.relation == "subscribe"]


def cycles(app: Application) -> list[list[str]]:
    """Every elementary knot of `calls`, as names with the first repeated at the end."""
    calls = {service.name: service.call_names for service in app.services}
    found: dict[frozenset[str], list[str]] = {}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            cycle = path[path.index(name) :]
            found.setdefault(frozenset(cycle), [*cycle, name])
            return
        if name in done:
            return
        for callee in calls.get(name, ()):
            visit(callee, [*path, name])
        done.add(name)

    for name in calls:
        visit(name, [])
    return list(found.values())
