"""Every kind the server serves, built-in and custom alike, by its path."""

from __future__ import annotations

from collections.abc import Iterator

from sampan.cluster.apiserver.kind import Kind
from sampan.kube import kinds
from sampan.kube.kinds import Resource

WHO_AM_I_BETA = Resource(
    "authentication.k8s.io", "v1beta1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", False,
    verbs=kinds.CREATE,
)  # fmt: skip
"""What kubectl 1.27 asks for `auth whoami`."""


class Catalog:
    """Lookup by path. Custom kinds come and go with `set_custom`."""

    def __init__(self) -> None:
        self._kinds = {(r.group, r.version, r.plural): Kind(r) for r in (*kinds.BUILTIN, WHO_AM_I_BETA)}
        self._custom: dict[str, list[Kind]] = {}
        self.generation = 0
        """Changes when the catalog does; discovery and OpenAPI are remade then."""

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def of(self, resource: Resource) -> Kind:
        return self._kinds.get((resource.group, resource.version, resource.plural)) or Kind(resource)

    def by_kind(self, api_version: str, name: str) -> Kind | None:
        group, _, version = api_version.rpartition("/")
        for kind in self._kinds.values():
            resource = kind.resource
            if resource.kind == name and resource.group == group and resource.version == version:
                return kind
        return None

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._kinds.values()))

    def set_custom(self, name: str, served: list[Kind]) -> None:
        """Serve these versions of the CRD called `name`, and no others of it."""
        for kind in self._custom.pop(name, []):
            self._kinds.pop((kind.resource.group, kind.resource.version, kind.resource.plural), None)
        if served:
            self._custom[name] = served
        for kind in served:
            self._kinds[kind.resource.group, kind.resource.version, kind.resource.plural] = kind
        self.generation += 1
