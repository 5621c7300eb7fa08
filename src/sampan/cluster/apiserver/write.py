"""Create, update, patch: from a decoded body to a stored object. Deletion is in `delete.py`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sampan.cluster.apiserver import carry, decode, patched, patching
from sampan.cluster.apiserver.admission.gate import NeedsReview
from sampan.cluster.apiserver.call import Answer, Call
from sampan.cluster.apiserver.crds import TABLE as DEFINITIONS
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.metadata import (
    causes_of,
    check_unborn,
)
from sampan.cluster.apiserver.refusal import all_causes, without
from sampan.cluster.apiserver.strategy import Context
from sampan.cluster.apiserver.update import Change, Update, check_versions
from sampan.cluster.apiserver.versions.conversion import NeedsConversion
from sampan.cluster.store import Entry, Remove, Store
from sampan.kube import schema, zeros
from sampan.kube.errors import ApiError, Cause, already_exists, bad_request, forbidden, invalid, not_found
from sampan.kube.objects import Object, new_uid, now
from sampan.kube.patch import last_applied
from sampan.kube.plain import is_plain
from sampan.kube.transport import APPLY_PATCH

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def generated_name(base: str) -> str:
    return base[:58] + "".join(secrets.choice(ALPHABET) for _ in range(5))


class Writer:
    """The write half of the pipeline. `admit` hooks may refuse or change an object: (call, new, old or None)."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.store: Store = server.store
        self.admission: list[Callable[[Call, Object, Object | None], None]] = []

    def context(self, call: Call, name: str) -> Context:
        kind = call.served
        return Context(
            resource=kind.storage,
            namespace=call.namespace,
            name=name,
            user=call.user,
            get=self.server.peek,
            list=self.server.peek_all,
            subresource=call.subresource,
            dry_run=call.dry_run,
            settings=self.server.settings,
        )

    # -- verbs

    async def create(self, call: Call) -> Answer:
        obj = self.read_object(call)
        entry = await self.create_object(call, obj)
        return self.answer(call, entry, 201)

    async def update(self, call: Call) -> Answer:
        wanted = self.read_object(call)
        decode.check_name(call, wanted)
        decode.check_owners(call, wanted)
        kind = call.served
        present = self.store.table(kind.table).get(call.key)
        if present is None and kind.created_by_update:  # by way of its status, too
            check_unborn(call, wanted["metadata"])
            wanted["metadata"].setdefault("name", call.name)
            return self.answer(call, await self.create_object(call, wanted), 201)
        if kind.only_conditional and present is not None and not wanted["metadata"].get("resourceVersion"):
            check_versions(call, wanted, present.object)
            cause = Cause("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
            raise invalid(kind.resource.plural, call.name, [cause], kind.resource.group)
        return self.answer(call, await self.change(call, lambda _: wanted))

    async def patch(self, call: Call) -> Answer:
        content = decode.media_type(call.content_type)
        if content not in call.served.patch_types:
            raise ApiError(
                415, "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: "
                + ", ".join(call.served.patch_types),
            )  # fmt: skip
        body, repeated = decode.read_body(call)
        call.earlier = None  # of a patch, the last value counts
        if content == APPLY_PATCH:
            return await self._apply(call, body, repeated)

        def change(current: Object) -> Object:
            made = patching.patch(content, current, body, call.served.schema)
            return patched.checked(call, content, body, made, repeated)

        return self.answer(call, await self.change(call, change))

    async def _apply(self, call: Call, body: Any, repeated: list[str]) -> Answer:
        kind = call.served
        absent = self.store.table(kind.table).get(call.key) is None
        unborn = absent and (not call.subresource or kind.created_by_status)
        if absent and not unborn:
            raise not_found(kind.resource.plural, call.name, kind.resource.group)
        if isinstance(body, dict):
            decode.check_applied_kind(kind, body)
            decode.check_applied(call, kind, body)
        applied = decode.check_object(body)
        if applied["metadata"].get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        note = last_applied.note_of(applied) if call.field_manager == last_applied.MANAGER else ""
        if not absent:
            applied["metadata"].setdefault("name", call.name)
        named = {"metadata": dict(applied["metadata"])}
        if call.namespace:
            applied["metadata"]["namespace"] = call.namespace
        wanted_version = applied["metadata"].get("resourceVersion")

        def change(current: Object | None) -> Object:
            made = patching.server_side(
                current, applied, kind, manager=call.field_manager, force=call.flag("force"),
                subresource=call.subresource,
            )  # fmt: skip
            decode.read_applied(kind, made)
            decode.check_fields(call, kind, applied, repeated)
            decode.check_name(call, named)
            return made

        if unborn:
            try:
                made = change(None)
                if wanted_version:
                    raise not_found(kind.resource.plural, call.name, kind.resource.group)
                if note:
                    last_applied.renew(made, note)
                return self.answer(call, await self.create_object(call, made, tracked=True), 201)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        return self.answer(call, await self.change(call, change, tracked=True, note=note))

    # -- what the verbs share

    def read_object(self, call: Call) -> Object:
        kind = call.served
        value, repeated = decode.read_body(call)
        obj = decode.check_object(value)
        if kind.crd is not None and call.encoded:
            decode.check_named(kind, obj)
        decode.check_kind(kind, obj, call.earlier)
        decode.check_types(call, kind, obj)
        decode.check_fields(call, kind, obj, repeated)
        namespace = obj["metadata"].get("namespace")
        if kind.resource.namespaced:
            if namespace and namespace != call.namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            obj["metadata"]["namespace"] = call.namespace
        else:
            obj["metadata"].pop("namespace", None)
        return obj

    def answer(self, call: Call, entry: Entry, code: int = 200) -> Answer:
        outward = call.served.outward(entry.object)
        if outward is entry.object and entry.revision:
            return Answer(code, obj=outward, encoded=entry.encoded)
        return Answer(code, obj=outward)

    async def create_object(self, call: Call, obj: Object, *, tracked: bool = False) -> Entry:
        """Store a new object. Raises ApiError 409 AlreadyExists, 422, 403."""
        kind, metadata = call.served, obj["metadata"]
        decode.check_owners(call, obj)
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        base = metadata.get("generateName")
        if kind.builtin == "LimitRange" and not base and not metadata.get("name"):
            metadata["name"] = new_uid()  # the one kind that may go without a name
        generated = bool(base) and not metadata.get("name")
        for attempt in range(8):
            if generated:
                metadata["name"] = generated_name(base)
            try:
                return await self._create_once(call, kind, json_copy(obj), tracked=tracked)
            except ApiError as error:
                if not (generated and error.reason == "AlreadyExists") or attempt == 7:
                    raise
        raise AssertionError("unreachable")

    async def _create_once(self, call: Call, kind: Kind, obj: Object, *, tracked: bool) -> Entry:
        metadata = obj["metadata"]
        name = str(metadata.get("name") or "")
        resource = kind.resource
        key = f"{call.namespace}/{name}" if call.namespace else name

        def mutate(current: Entry | None) -> Object:
            self._check_namespace(call, name)
            self._check_definition(kind, name)
            for field in (*carry.SERVER_METADATA, "selfLink"):
                if field != "generation":  # a kind that does not count keeps what was given
                    metadata.pop(field, None)
            status = obj.get("status")
            if kind.has_status and kind.builtin != "Node" and "status" in obj:
                del obj["status"]
            metadata["uid"] = new_uid()
            metadata["creationTimestamp"] = now()
            if kind.counts_generation:
                metadata["generation"] = 1
            new = self.settle(kind, obj, applied=tracked)
            if not tracked:  # before admission and strategy: what the server decides is nobody's
                sent = new
                if call.subresource == "status":
                    sent = carry.without_spec(self.settle(kind, carry.without_spec(json_copy(obj), status)), None)
                patching.track(None, sent, kind.written_schema, call.field_manager, call.subresource, kind)
                carry.own(new, sent, readable=patching.is_readable(kind, {"status": status}))
            zeros.close(kind.written_schema, new)
            self.server.gate.mutate(call, new, None)
            kind.strategy.prepare_create(new, self.context(call, name))
            for admit in self.admission:
                admit(call, new, None)
            metadata_causes = causes_of(kind, new, name)
            causes = self.schema_causes(kind, new, None) + patching.scale_causes(kind, new)
            own = lambda: kind.strategy.validate_create(new)  # noqa: E731
            self.refuse(kind, name, all_causes(kind, metadata_causes, causes, own, fresh=True))
            self.server.gate.validate(call, new, None)
            call.warnings.extend(kind.warnings(new, None))
            if current is not None:  # last, as upstream: what is wrong with the object is said first
                error = already_exists(resource.plural, name, resource.group)
                if current.object["metadata"].get("deletionTimestamp"):
                    error.message = f"object is being deleted: {error.message}"
                raise error
            return kind.kept(new)

        return await self._store(call, kind, key, mutate)

    async def change(self, call: Call, change: Change, *, tracked: bool = False, note: str = "") -> Entry:
        """Replace the present object by `change(copy of it)`, and the note of `kubectl apply` in it, if any, by `note`.
        Raises ApiError 404, 409, 422."""
        kind = call.served
        update = Update(self, call, change, tracked=tracked, note=note)
        entry = await self._store(call, kind, call.key, update)
        if update.gone is None:
            return entry
        if not call.dry_run:
            await self.server.deleter.removed(call, kind, call.key)
        return Entry(entry.key, 0, b"", {**update.gone, "metadata": carry.versioned(update.gone, entry)})

    async def _store(
        self, call: Call, kind: Kind, key: str, mutate: Callable[[Entry | None], Object | Remove | None]
    ) -> Entry:
        review: NeedsReview | None = None
        while True:
            try:
                if review is not None:
                    await self.server.gate.review(review)
                review = None
                entry = await self._store_once(call, kind, key, mutate)
                if call.charged:
                    await self.server.gate.settle(call)
                return entry
            except NeedsReview as need:
                review = need
            except NeedsConversion as need:
                await need.satisfy()

    async def _store_once(
        self, call: Call, kind: Kind, key: str, mutate: Callable[[Entry | None], Object | Remove | None]
    ) -> Entry:
        if call.dry_run:
            current = self.store.table(kind.table).get(key)
            made = mutate(current)
            obj = made.object if isinstance(made, Remove) else made
            if obj is not None and current is not None:
                obj["metadata"]["resourceVersion"] = current.object["metadata"]["resourceVersion"]
            return Entry(key, 0, b"", obj)
        entry = await self.store.write(kind.table, key, mutate)
        assert entry is not None
        return entry

    def schema_causes(self, kind: Kind, new: Object, old: Object | None) -> list[Cause]:
        causes = without(kind.strategy.optional, schema.validate(kind.written_schema, new))
        if kind.rules is not None:
            from sampan.cluster.apiserver.cel.rules import rule_causes

            causes += rule_causes(kind.rules, new, old, causes)
        return causes

    def settle(self, kind: Kind, obj: Object, *, applied: bool = False) -> Object:
        """Defaults, canonical forms, and only known fields, in the stored version."""
        obj = kind.working(obj)
        node, plain = kind.written_schema, False
        spec = node.properties.get("spec")
        if kind.crd is None and obj.get("spec") is None and spec is not None and spec.default == {}:
            obj["spec"] = {}  # a structure is there even if nothing is said of it: it has defaults
        if kind.crd is not None:
            obj = schema.apply_defaults(node, schema.prune(node, obj))
        elif plain := is_plain(node, obj):
            obj = json_copy(obj)
        else:
            obj = schema.prune(node, obj)
        try:
            obj = obj if plain else schema.canonical(node, obj, applied=applied)
            kind.strategy.default(obj)
            zeros.settle(node, obj)
        except ApiError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # Only an object whose types are wrong trips a default; the schema says it better.
            causes = schema.validate(node, obj)
            name = str(obj["metadata"].get("name", ""))
            raise invalid(kind.resource.kind, name, causes or [Cause("", str(error))], kind.resource.group) from error
        return obj

    def _check_namespace(self, call: Call, name: str) -> None:
        kind = call.served
        if not kind.resource.namespaced or call.namespace is None:
            return
        entry = self.store.table("/namespaces").get(call.namespace)
        if entry is None:
            raise not_found("namespaces", call.namespace)
        if entry.object["metadata"].get("deletionTimestamp"):
            error = forbidden(
                f'{kind.resource.group_plural} "{name}" is forbidden: unable to create new content in namespace'
                f" {call.namespace} because it is being terminated"
            )
            error.details = {
                "name": name,
                "kind": kind.resource.plural,
                "causes": [
                    {
                        "reason": "NamespaceTerminating",
                        "message": f"namespace {call.namespace} is being terminated",
                        "field": "metadata.namespace",
                    }
                ],
            }
            raise error

    def _check_definition(self, kind: Kind, name: str) -> None:
        """403 for a new object of a custom kind whose definition is going away."""
        if kind.crd is None:
            return
        crd = self.store.table(DEFINITIONS).get(kind.crd["metadata"]["name"])
        if crd is not None and crd.object["metadata"].get("deletionTimestamp"):
            raise forbidden(
                f'{kind.resource.group_plural} "{name}" is forbidden: create not allowed while custom resource'
                " definition is terminating"
            )

    @staticmethod
    def refuse(kind: Kind, name: str, causes: list[Cause]) -> None:
        if causes:
            raise invalid(kind.resource.kind, name, causes, kind.storage.group)
