"""The rules of the built-in kinds, one file per family. `strategy_for` finds those of a kind."""

from __future__ import annotations

from sampan.cluster.apiserver.registry import (
    access,
    batch,
    bounds,
    cluster,
    config,
    definitions,
    events,
    extension,
    networking,
    pods,
    scaling,
    services,
    volumes,
    workloads,
)
from sampan.cluster.apiserver.registry.removed import removal_message, removed_error
from sampan.cluster.apiserver.strategy import Strategy
from sampan.kube.kinds import Resource

__all__ = ["STRATEGIES", "removal_message", "removed_error", "strategy_for"]

STRATEGIES: dict[tuple[str, str], Strategy] = {
    **pods.STRATEGIES,
    **workloads.STRATEGIES,
    **batch.STRATEGIES,
    **bounds.STRATEGIES,
    **services.STRATEGIES,
    **config.STRATEGIES,
    **networking.STRATEGIES,
    **scaling.STRATEGIES,
    **cluster.STRATEGIES,
    **events.STRATEGIES,
    **volumes.STRATEGIES,
    **access.STRATEGIES,
    **definitions.STRATEGIES,
    **extension.STRATEGIES,
}
"""(group, kind) -> rules, whatever the version."""

_NO_RULES = Strategy()


def strategy_for(resource: Resource) -> Strategy:
    """The rules of a kind; none beyond the schema for a custom resource."""
    return STRATEGIES.get((resource.group, resource.kind), _NO_RULES)
