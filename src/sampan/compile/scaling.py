"""HorizontalPodAutoscaler and PodDisruptionBudget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.compile.context import Item, selector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.context import Context
    from sampan.model import Service

DEFAULT_CPU = 80
CALM_SECONDS = {True: 30, False: 300}
"""How long the load must have fallen before instances are taken away: on a laptop, elsewhere."""


def scaling(context: Context, declared: Service) -> Iterator[Item]:
    scale, labels = declared.scale, context.labels("service", declared.name)
    if scale.most > scale.minimum:
        targets = {"cpu": scale.cpu, "memory": scale.memory}
        if not any(targets.values()):
            targets["cpu"] = DEFAULT_CPU
        spec = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": declared.name},
            "minReplicas": scale.minimum,
            "maxReplicas": scale.most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": target}},
                }
                for name, target in targets.items()
                if target
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM_SECONDS[context.local]}},
        }
        yield Item(
            declared,
            context.object("autoscaling/v2", "HorizontalPodAutoscaler", declared.name, labels, spec=spec),
        )
    if scale.minimum > 1:
        budget = {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(labels)},
        }
        yield Item(declared, context.object("policy/v1", "PodDisruptionBudget", declared.name, labels, spec=budget))
