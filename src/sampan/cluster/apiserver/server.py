"""The API server: finds out what a request is about, asks whether it may, and sends it to the verb that answers.

HTTP is `web.py`; here everything is values, so that the in-process transport and HTTP share one pipeline.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sampan.cluster.apiserver import decode, writeoptions
from sampan.cluster.apiserver.access.authentication import ADMIN, Authenticator
from sampan.cluster.apiserver.access.authorization import Attributes, Authorizer
from sampan.cluster.apiserver.access.pki import Pki, write_private
from sampan.cluster.apiserver.access.reviews import Reviews, metrics
from sampan.cluster.apiserver.admission.gate import Gate
from sampan.cluster.apiserver.bootstrap import bootstrap
from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.catalog import Catalog
from sampan.cluster.apiserver.crds import TABLE as DEFINITIONS
from sampan.cluster.apiserver.crds import Definitions
from sampan.cluster.apiserver.delete import Deleter
from sampan.cluster.apiserver.discovery import Discovery
from sampan.cluster.apiserver.local import LocalTransport
from sampan.cluster.apiserver.read import Reader
from sampan.cluster.apiserver.strategy import User
from sampan.cluster.apiserver.subresources import Subresources
from sampan.cluster.apiserver.write import Writer
from sampan.cluster.authorization.escalation import Escalation
from sampan.cluster.authorization.rbac import Rbac, refusal
from sampan.cluster.runtime import NodeRuntime
from sampan.cluster.store import Store
from sampan.kube import kinds
from sampan.kube.errors import ApiError, bad_request, method_not_allowed, path_not_found
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object
from sampan.kube.transport import APPLY_PATCH

log = logging.getLogger("sampan.apiserver")

# method -> verb on (a collection, an object)
VERBS = {
    "GET": ("list", "get"),
    "HEAD": ("list", "get"),
    "POST": ("create", "create"),
    "PUT": ("", "update"),
    "PATCH": ("", "patch"),
    "DELETE": ("deletecollection", "delete"),
}
HEALTH = {"/healthz", "/livez", "/readyz"}
RBAC_TABLES = ("roles", "clusterroles", "rolebindings", "clusterrolebindings")
NAMESPACE_PARTS = {"status", "finalize"}


DEPRECATED = {kinds.ENDPOINTS: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
"""What is said of every call for these kinds."""


class ApiServer:
    """All verbs over one store. `runtime` is set by the kubelet; without it pods have no logs, exec or metrics.

    `settings` reach the strategies: `service_cidr`, `node_name`, `node_ip`, and the like.
    """

    def __init__(
        self, store: Store, pki: Pki, settings: dict[str, Any] | None = None, tokens_file: Path | None = None
    ) -> None:
        self.store = store
        self.pki = pki
        self.settings = settings or {}
        self.runtime: NodeRuntime | None = None
        self.checks: dict[str, Callable[[], Awaitable[bool]]] = {}  # of parts beside this one, as /readyz/NAME
        self.stopping = False
        self.admin = ADMIN
        self.catalog = Catalog()
        self.discovery = Discovery(self.catalog)
        self.reader = Reader(self)
        self.writer = Writer(self)
        self.deleter = Deleter(self)
        self.subresources = Subresources(self)
        self.reviews = Reviews(self)
        self.definitions = Definitions(self)
        self.gate = Gate(self)
        self.authenticator = Authenticator(pki.path("sa.key"), tokens_file, self._find)
        self.authorizer: Authorizer = Rbac(self._stored, self._rbac_version)
        escalation = Escalation(self.authorizer, self._stored)
        self.writer.admission += [escalation.check, self.definitions.admit]
        self._web: Any = None

    async def start(self) -> None:
        """Serve the stored CRDs and make sure of what every cluster has. Must be called before anything else."""
        self.definitions.sync()
        await bootstrap(self)

    def transport(self, user: User = ADMIN) -> LocalTransport:
        """A `kube.transport.Transport` into this server, acting as `user`."""
        return LocalTransport(self, user)

    async def serve(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen with `tls`, or with the cluster's own certificate; the port taken. Raises OSError."""
        from sampan.cluster.apiserver.web import Web

        self._web = Web(self)
        taken: int = await self._web.start(host, port, tls or self.pki.server_context())
        return taken

    def write_kubeconfig(self, path: Path, server: str) -> None:
        """Write the administrator's kubeconfig (mode 0600)."""
        write_private(path, self.pki.kubeconfig(server))

    async def stop(self, grace: float = 5.0) -> None:
        """Stop listening, end watches, finish writes. The store stays open; close it afterwards."""
        self.stopping = True
        for table in self.store.tables():
            table.notify()
        if self._web is not None:
            await self._web.stop(grace)
        await self.definitions.stop()
        await self.gate.stop()

    # -- a view of what is stored, writes under way included

    def peek(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        table = self.catalog.of(resource).table
        key = f"{namespace}/{name}" if namespace and resource.namespaced else name
        pending = self.store.pending(table)
        if key in pending:
            return pending[key]
        entry = self.store.table(table).get(key)
        return entry.object if entry else None

    def peek_all(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        table = self.catalog.of(resource).table
        prefix = f"{namespace}/" if namespace else ""
        pending = self.store.pending(table)
        found = [entry.object for entry in self.store.table(table).scan(prefix) if entry.key not in pending]
        found += [obj for key, obj in pending.items() if obj is not None and key.startswith(prefix)]
        return found

    def _stored(self, resource: Resource, namespace: str | None) -> list[Object]:
        prefix = f"{namespace}/" if namespace else ""
        return [entry.object for entry in self.store.table(self.catalog.of(resource).table).scan(prefix)]

    def _rbac_version(self) -> tuple[int, ...]:
        return tuple(self.store.table(f"rbac.authorization.k8s.io/{plural}").last for plural in RBAC_TABLES)

    def _find(self, kind: str, namespace: str, name: str) -> Object | None:
        resource = kinds.find("v1", kind)
        return self.peek(resource, name, namespace) if resource else None

    # -- the pipeline

    async def handle(self, call: Call) -> Answer:
        """Answer a call. Raises ApiError, which is the answer too."""
        if call.path in HEALTH or call.path.startswith(("/livez/", "/readyz/")):
            await self._check(call)
            return Answer(encoded=b"ok", content_type="text/plain; charset=utf-8")
        self.route(call)
        if call.kind is None:
            self.authorize(call, self.attributes(call))
            if call.method not in {"GET", "HEAD"}:
                raise ApiError(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )
            answer = self.discovery.answer(call)
            if answer is None:
                raise path_not_found()
            return answer
        self.authorize(call, self.attributes(call))
        try:
            answer = await self._dispatch(call)
            if call.kind.converter is not None:
                answer = await call.kind.converter.answer(call.kind, answer)
        except (UnicodeEncodeError, OverflowError) as error:
            raise bad_request(f"the body holds a value that cannot be stored: {error}") from None
        except RecursionError:
            raise bad_request("the body is nested too deeply") from None
        if call.kind.table == DEFINITIONS and call.method not in {"GET", "HEAD"}:
            self.definitions.sync()
        return answer

    async def _check(self, call: Call) -> None:
        """What a part of the cluster says that is asked for by its name. Raises ApiError 503 when it is not ready."""
        check = self.checks.get(name := call.path.removeprefix("/readyz/"))
        if check is not None:
            self.authorize(call, self.attributes(call))
            if not await check():
                raise ApiError(503, "ServiceUnavailable", f"the {name} has not applied all it knows yet")

    @staticmethod
    def attributes(call: Call) -> Attributes:
        """What is asked for, of a call that `route` has understood."""
        if call.kind is None:
            return Attributes(call.method.lower().replace("head", "get"), path=call.path)
        resource = call.kind.resource
        return Attributes(
            verb=call.verb,
            group=resource.group,
            resource=resource.plural,
            subresource=call.subresource or "",
            namespace=call.namespace or "",
            name=call.name,
        )

    def authorize(self, call: Call, what: Attributes) -> None:
        if self.authorizer.allowed(call.user, what) is not None:
            return
        raise refusal(call.user, what)

    def route(self, call: Call) -> None:
        """Fill in kind, namespace, name, subresource and verb from the path. Raises ApiError 404."""
        parts = call.path.strip("/").split("/")
        if parts[0] == "api" and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return
        old_watch = len(rest) > 1 and rest[0] == "watch" and call.method == "GET"
        rest = rest[1:] if old_watch else rest  # `/api/v1/watch/...`, which came before `?watch=true`
        if len(rest) > 2 and rest[0] == "namespaces" and not (len(rest) == 3 and rest[2] in NAMESPACE_PARTS):
            call.namespace, rest = rest[1], rest[2:]
        kind = self.catalog.find(group, version, rest[0])
        if kind is None or len(rest) > 3 or not all(rest):
            # Who may not ask does not learn whether there is such a kind.
            name, part = [*rest[1:3], "", ""][:2]
            verb = VERBS.get(call.method, ("", ""))[1 if name else 0] or call.method.lower()
            self.authorize(call, Attributes(verb, group, rest[0], part, call.namespace or "", name))
            raise self._unknown(group, version, rest[0])
        if call.namespace and not kind.resource.namespaced:
            raise path_not_found()
        call.kind = kind
        call.name = rest[1] if len(rest) > 1 else ""
        call.subresource = rest[2] if len(rest) > 2 else None
        if call.subresource and call.subresource not in kind.resource.subresources:
            raise path_not_found()
        if kind.resource.namespaced and call.name and not call.namespace:
            raise path_not_found()
        verbs = VERBS.get(call.method)
        verb = verbs[1 if call.name else 0] if verbs else ""
        if verb == "create" and call.name and not call.subresource:
            verb = ""
        if not verb:
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if old_watch or (verb == "list" and not call.subresource and call.flag("watch")):
            if call.name:  # by its old path, which alone can name one object
                selector = call.query.get("fieldSelector")
                named = f"metadata.name={call.name}"
                call.query = {**call.query, "fieldSelector": f"{selector},{named}" if selector else named}
                call.name = ""
            verb = "watch"
        call.verb = verb

    @staticmethod
    def _unknown(group: str, version: str, plural: str) -> ApiError:
        from sampan.cluster.apiserver.registry.removed import removed_error

        return removed_error(group, version, plural) or path_not_found()

    async def _dispatch(self, call: Call) -> Answer:
        kind = call.served
        if kind.resource in DEPRECATED:
            call.warnings.append(DEPRECATED[kind.resource])
        if call.verb in writeoptions.OPTIONS:
            writeoptions.check(call, applies=decode.media_type(call.content_type) == APPLY_PATCH)
        if call.subresource:
            return await self.subresources.handle(call)
        if call.verb not in kind.resource.verbs:
            raise method_not_allowed(call.verb, kind.resource.plural)
        if kind.virtual:
            if call.verb == "create" and kind.resource.kind == "Binding":
                return await self._bind(call)
            return self.reviews.create(call) if call.verb == "create" else metrics(self, call)
        if call.verb in {"create", "update", "patch"} and kind.resource.namespaced and not call.namespace:
            raise bad_request("an object of this kind must be written in a namespace")
        match call.verb:
            case "get":
                return self.reader.get(call)
            case "list":
                return self.reader.list(call)
            case "watch":
                return Answer(frames=self.reader.watch(call))
            case "create":
                return await self.writer.create(call)
            case "update":
                return await self.writer.update(call)
            case "patch":
                return await self.writer.patch(call)
            case "delete":
                return await self.deleter.delete(call)
            case _:
                return await self.deleter.delete_collection(call)

    async def _bind(self, call: Call) -> Answer:
        from sampan.cluster.apiserver.decode import check_object, read_body

        body, _ = read_body(call)
        call.name = str(check_object(body)["metadata"].get("name") or "")
        call.kind, call.subresource = self.catalog.of(kinds.POD), "binding"
        return await self.subresources.handle(call)
