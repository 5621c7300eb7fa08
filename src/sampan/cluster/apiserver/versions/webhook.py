"""Custom kinds whose versions a webhook converts (apiextensions.k8s.io/v1 ConversionReview).

A write is decided in one synchronous step, in the version of its request. Where the step needs an object in another
version it is broken off with `NeedsConversion`, the webhook is asked with nothing held, and the step is made again.
What goes out (an object, a list, the frames of a watch) is converted on its way, a list at once.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.cluster.apiserver.admission.webhooks import CallFault
from sampan.cluster.apiserver.call import Answer, Frame
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.versions.conversion import NeedsConversion
from sampan.kube import schema
from sampan.kube.errors import ApiError
from sampan.kube.kinds import Resource
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

REMEMBERED = 512
"""Conversions kept for steps that are made again."""
SECONDS = 30
CHUNK = 500
"""Objects sent in one review."""


class Converter:
    """Of one definition, as it was when its kinds began to be served."""

    def __init__(self, server: ApiServer, crd: Object) -> None:
        self._server = server
        self._config: Object = ((crd["spec"].get("conversion") or {}).get("webhook") or {}).get("clientConfig") or {}
        self._kind = crd["spec"]["names"]["kind"]
        self._known: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()
        self._failed: dict[tuple[str, bytes], str] = {}
        self._schemas = {
            f"{crd['spec']['group']}/{version['name']}": schema.Schema.from_crd(
                (version.get("schema") or {}).get("openAPIV3Schema")
            )
            for version in crd["spec"]["versions"]
        }

    def known(self, obj: Object, to: str) -> Object:
        """A fresh copy of `obj` in the version `to`. Raises NeedsConversion."""
        found = self._known.get((to, _identity(obj)))
        if found is None:
            raise NeedsConversion(self, obj, to)
        made: Object = msgspec.json.decode(found)
        return _with_server_metadata(made, obj)

    def viewed(self, obj: Object, to: str) -> Object:
        from sampan.kube.patch.managed_fields import Unconvertible

        if obj.get("apiVersion") == to:
            return obj
        if fault := self._failed.pop((to, _identity(obj)), ""):
            raise Unconvertible(fault)
        try:
            return self.known(obj, to)
        except NeedsConversion:
            raise NeedsConversion(self, obj, to, to_view=True) from None

    async def attempt(self, obj: Object, to: str) -> None:
        try:
            await self.learn(obj, to)
        except ApiError as error:
            if len(self._failed) >= REMEMBERED:
                self._failed.clear()
            self._failed[to, _identity(obj)] = error.message

    async def learn(self, obj: Object, to: str) -> None:
        (made,) = await self.convert([obj], to)
        self._known[to, _identity(obj)] = msgspec.json.encode(made)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def convert(self, objects: Sequence[Object], to: str) -> list[Object]:
        """Those objects in the version `to`; what is in it already is passed on. Raises ApiError 500."""
        foreign = [obj for obj in objects if obj.get("apiVersion") != to]
        made: list[Object] = []
        for start in range(0, len(foreign), CHUNK):
            made += await self._ask(foreign[start : start + CHUNK], to)
        converted = iter(made)
        return [obj if obj.get("apiVersion") == to else next(converted) for obj in objects]

    async def _ask(self, objects: Sequence[Object], to: str) -> list[Object]:
        asked = str(uuid.uuid4())
        review = {
            "kind": "ConversionReview",
            "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": asked, "desiredAPIVersion": to, "objects": objects},
            "response": {"uid": "", "convertedObjects": None, "result": {"metadata": {}}},
        }
        source = f"{objects[0].get('apiVersion')}, Kind={self._kind}"
        try:
            try:
                answer = await self._server.gate.webhooks.post(self._config, SECONDS, review)
            except CallFault as fault:
                raise CallFault(f"failed: {fault}") from None
            found = _checked(answer, asked, len(objects), to)
            return [self._settled(before, after, to) for before, after in zip(objects, found, strict=True)]
        except CallFault as fault:
            raise ApiError(500, "", f"conversion webhook for {source} {fault}") from None

    def _settled(self, before: Object, after: Any, to: str) -> Object:
        """The converted object, pruned, with the metadata that conversion may not touch. Defaults come before it."""
        if not isinstance(after, dict) or after.get("apiVersion") != to or after.get("kind") != before["kind"]:
            raise CallFault(f"failed: invalid converted object: must be of {to}, Kind={before['kind']}")
        metadata, given = before["metadata"], after.get("metadata")
        if not isinstance(given, dict):
            raise CallFault("failed: invalid metadata in converted object: must be an object")
        for field in ("name", "namespace", "uid"):
            if given.get(field) != metadata.get(field):
                raise CallFault(f"failed: must have the same {field}: {given.get(field)} != {metadata.get(field)}")
        kept = {key: value for key, value in metadata.items() if key not in ("labels", "annotations")}
        kept |= {key: given[key] for key in ("labels", "annotations") if given.get(key)}
        node = self._schemas.get(to)
        made = {**after, "metadata": kept}
        if node is not None:
            made = schema.prune(node, made)
        return made

    # -- what goes out

    async def answer(self, kind: Kind, answer: Answer) -> Answer:
        """An answer whose objects, still as they are stored, are made to be of the version asked for."""
        resource = kind.resource
        if answer.frames is not None:
            answer.frames = self._frames(resource, answer.frames)
            return answer
        value = answer.value()
        if not isinstance(value, dict):
            return answer
        if "items" in value:
            named = [{"kind": resource.kind, **item} for item in value["items"]]
            answer.obj = {**value, "items": await self.convert(named, resource.api_version)}
        elif value.get("kind") == resource.kind:
            (answer.obj,) = await self.convert([value], resource.api_version)
        else:
            return answer
        answer.encoded = None
        return answer

    async def _frames(self, resource: Resource, frames: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
        try:
            async for frame in frames:
                if frame.type in {"BOOKMARK", "ERROR"}:
                    yield frame
                    continue
                (obj,) = await self.convert([frame.object], resource.api_version)
                yield Frame(frame.type, obj=obj)
        finally:
            await frames.aclose()  # type: ignore[attr-defined]


_VOLATILE = ("resourceVersion", "managedFields", "uid", "creationTimestamp", "generation")


def _identity(obj: Object) -> bytes:
    """What of an object decides its conversion; the server's own metadata is carried over."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _VOLATILE}
    return msgspec.json.encode({**obj, "metadata": metadata})


def _with_server_metadata(made: Object, obj: Object) -> Object:
    for field in _VOLATILE:
        made["metadata"].pop(field, None)
        if field in obj["metadata"]:
            made["metadata"][field] = obj["metadata"][field]
    return made


def _checked(answer: Any, asked: str, count: int, to: str) -> list[Any]:
    response = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(response, dict):
        raise CallFault("failed: no response provided")
    if response.get("uid") != asked:
        raise CallFault(f'failed: expected response.uid="{asked}", got "{response.get("uid", "")}"')
    result = response.get("result") or {}
    if result.get("status") != "Success":
        raise CallFault(f"failed: {result.get('message') or 'no message provided'}")
    found = response.get("convertedObjects")
    found = found if isinstance(found, list) else []
    if len(found) != count:
        raise CallFault(f"returned {len(found)} objects, expected {count}")
    return found
