"""A version that Kubernetes has removed is answered with what to use instead."""

from __future__ import annotations

import pytest

from sampan.cluster.apiserver.registry import removal_message, removed_error
from sampan.cluster.apiserver.registry.removed import REMOVED
from sampan.kube import kinds


@pytest.mark.parametrize(
    ("api_version", "kind", "text"),
    [
        (
            "autoscaling/v2beta2",
            "HorizontalPodAutoscaler",
            "autoscaling/v2beta2 HorizontalPodAutoscaler was removed in Kubernetes 1.26; use autoscaling/v2",
        ),
        (
            "extensions/v1beta1",
            "Ingress",
            "extensions/v1beta1 Ingress was removed in Kubernetes 1.22; use networking.k8s.io/v1",
        ),
        (
            "policy/v1beta1",
            "PodSecurityPolicy",
            "policy/v1beta1 PodSecurityPolicy was removed in Kubernetes 1.25; use Pod Security Admission",
        ),
        ("autoscaling/v2", "HorizontalPodAutoscaler", None),
    ],
)
def test_message(api_version: str, kind: str, text: str | None) -> None:
    assert removal_message(api_version, kind) == text


def test_error_for_a_path() -> None:
    error = removed_error("batch", "v1beta1", "cronjobs")
    assert error is not None
    assert (error.code, error.reason) == (404, "NotFound")
    assert error.message == "batch/v1beta1 CronJob was removed in Kubernetes 1.25; use batch/v1"
    assert removed_error("batch", "v1beta1", "jobs") is None
    assert removed_error("batch", "v1beta1") is not None
    assert removed_error("batch", "v1", "jobs") is None


def test_nothing_that_is_served_is_called_removed() -> None:
    served = {(resource.api_version, resource.kind) for resource in kinds.BUILTIN}
    assert not served & REMOVED.keys()
