"""The question put before every request, and the interface of who answers it: `cluster.authorization`."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from sampan.cluster.apiserver.strategy import User
from sampan.kube.objects import Object


class Attributes(Struct, frozen=True):
    """What is to be done: on a resource, or on a bare path when `path` is set."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Authorizer(Protocol):
    def allowed(self, user: User, what: Attributes) -> str | None:
        """Why it is allowed; None when it is not."""

    def rules(self, user: User, namespace: str) -> list[Object]:
        """The PolicyRules that hold for a user in a namespace."""
