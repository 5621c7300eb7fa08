"""Admission webhooks (admissionregistration.k8s.io/v1): who is asked, how, and what the answer does."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sampan.cluster.apiserver import patching
from sampan.cluster.apiserver.admission.attributes import Attributes, matched
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.kube import kinds
from sampan.kube.errors import ApiError, forbidden
from sampan.kube.objects import Object

if TYPE_CHECKING:
    import aiohttp

    from sampan.cluster.apiserver.server import ApiServer

REVIEW = "admission.k8s.io/v1"
JSON_PATCH = "application/json-patch+json"
MAX_ANSWER = 16 * 1024 * 1024


class CallFault(Exception):
    """A webhook that could not be asked or did not answer as it must; the message is upstream's."""


class Hook(Struct):
    """One webhook that is to be asked, with the kind in the version it wants."""

    row: Object
    kind: Kind

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def lenient(self) -> bool:
        return self.row.get("failurePolicy") == "Ignore"


def failure(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


class Webhooks:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._session: aiohttp.ClientSession | None = None

    def matching(self, table: str, attributes: Attributes) -> list[Hook]:
        """The webhooks to ask, in order of their configurations' names. Raises ApiError for a broken condition."""
        found = []
        for entry in self.server.store.table(table).scan():
            for row in entry.object.get("webhooks") or ():
                wide = row.get("matchPolicy") != "Exact"
                kind = matched(attributes, row, row.get("rules") or [], wide=wide)
                if kind is not None and self._conditions(row, attributes, kind):
                    found.append(Hook(row, kind))
        return found

    @staticmethod
    def _conditions(row: Object, attributes: Attributes, kind: Kind) -> bool:
        conditions = row.get("matchConditions")
        if not conditions:
            return True
        from sampan.cluster.apiserver.admission import expressions
        from sampan.cluster.apiserver.cel import EvaluationFault, SyntaxFault

        values, fault = expressions.bindings(attributes, kind), ""
        for condition in conditions:
            text = condition["expression"]
            try:
                if expressions.program(text, expressions.BASE).evaluate(values) is not True:
                    return False
            except (EvaluationFault, SyntaxFault) as error:
                fault = fault or f"expression '{text}' resulted in error: {error}"
        if fault and row.get("failurePolicy") != "Ignore":
            raise refusal(attributes, fault)
        return not fault

    # -- the two phases

    async def mutate(self, attributes: Attributes, hooks: list[Hook]) -> Object:
        """The object after every webhook; those that ask for it see again what later ones changed. Raises ApiError."""
        assert attributes.new is not None
        last = -1
        for index, hook in enumerate(hooks):
            if await self._mutate_once(attributes, hook):
                last = index
        for index, hook in enumerate(hooks):
            if hook.row.get("reinvocationPolicy") == "IfNeeded" and index < last:
                await self._mutate_once(attributes, hook)
        return attributes.new

    async def _mutate_once(self, attributes: Attributes, hook: Hook) -> bool:
        response = await self._ask(attributes, hook)
        patch = (response or {}).get("patch")
        if not patch or attributes.new is None:
            return False
        before = attributes.shown(attributes.new, hook.kind)
        assert before is not None
        try:
            operations = msgspec.json.decode(base64.b64decode(patch))
            after = patching.patch(JSON_PATCH, json_copy(before), operations, hook.kind.schema)
        except ApiError as error:
            raise failure(error.message) from None
        except (msgspec.DecodeError, binascii.Error) as error:
            raise failure(str(error)) from None
        if after == before:
            return False
        attributes.new = self.server.writer.settle(hook.kind, after)
        return True

    async def validate(self, attributes: Attributes, hooks: list[Hook]) -> None:
        """Ask all at once. Raises ApiError with the first refusal in their order."""
        for result in await asyncio.gather(*(self._ask(attributes, hook) for hook in hooks), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _ask(self, attributes: Attributes, hook: Hook) -> Object | None:
        """The response of a webhook that allows; None where it failed and may. Raises ApiError."""
        uid = str(uuid.uuid4())
        kind = hook.kind
        review = {
            "kind": "AdmissionReview",
            "apiVersion": REVIEW,
            "request": {
                **attributes.request(kind, uid),
                "object": attributes.shown(attributes.new, kind),
                "oldObject": attributes.shown(attributes.old, kind),
            },
        }
        try:
            response = checked(await self._call(hook.row, review), uid)
        except CallFault as fault:
            if hook.lenient:
                return None
            raise failure(f'failed calling webhook "{hook.name}": {fault}') from None
        attributes.call.warnings.extend(str(text) for text in response.get("warnings") or ())
        if response.get("allowed") is not True:
            raise denial(hook.name, response.get("status") or {})
        return response

    # -- over HTTPS

    async def _call(self, row: Object, review: Object) -> Any:
        try:
            return await self.post(row["clientConfig"], int(row.get("timeoutSeconds") or 10), review)
        except CallFault as fault:
            raise CallFault(f"failed to call webhook: {fault}") from None

    async def post(self, config: Object, seconds: int, review: Object) -> Any:
        """The decoded answer of the server that a `clientConfig` names. Raises CallFault."""
        import aiohttp

        shown, address, host = self._address(config)
        before = f'Post "{shown}?timeout={seconds}s": '
        if not address:
            raise CallFault(f'{before}service "{config["service"]["name"]}" not found')
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        try:
            async with self._session.post(
                f"{address}?timeout={seconds}s",
                data=msgspec.json.encode(review),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                ssl=trust(config.get("caBundle") or ""),
                server_hostname=host,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as answer:
                data = await answer.content.read(MAX_ANSWER)
                if answer.status != 200:
                    text = data[:400].decode(errors="replace")
                    raise CallFault(f'an error on the server ("{text}") has prevented the request from succeeding')
                return msgspec.json.decode(data)
        except TimeoutError:
            raise CallFault(f"{before}context deadline exceeded") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise CallFault(f"{before}tls: failed to verify certificate: x509: {error.certificate_error}") from None
        except aiohttp.ClientConnectorError as error:
            words = "connection refused" if isinstance(error.os_error, ConnectionRefusedError) else str(error.os_error)
            raise CallFault(f"{before}dial tcp {error.host}:{error.port}: connect: {words}") from None
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:
            raise CallFault(f"{before}{error}") from None

    def _address(self, config: Object) -> tuple[str, str, str | None]:
        """(URL as it is told, URL as it is called or "", name the certificate must have or None for the URL's)."""
        url = config.get("url")
        if url:
            return url, url, None
        service = config["service"]
        name, namespace, port = service["name"], service["namespace"], service.get("port") or 443
        path = "/" + (service.get("path") or "").lstrip("/")
        host = f"{name}.{namespace}.svc"
        shown = f"https://{host}:{port}{path}"
        found = self.server.peek(kinds.SERVICE, name, namespace)
        address = ((found or {}).get("spec") or {}).get("clusterIP")
        if not address or address == "None":
            return shown, "", host
        return shown, f"https://{address}:{port}{path}", host

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()


def checked(answer: Any, uid: str) -> Object:
    """The `response` of an AdmissionReview. Raises CallFault."""
    before = "received invalid webhook response: "
    response = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(response, dict):
        raise CallFault(f"{before}webhook response was absent")
    if response.get("uid") != uid:
        raise CallFault(f'{before}expected response.uid="{uid}", got "{response.get("uid", "")}"')
    if answer.get("apiVersion") != REVIEW or answer.get("kind") != "AdmissionReview":
        found = f"{answer.get('apiVersion')}, Kind={answer.get('kind')}"
        raise CallFault(f"{before}expected webhook response of {REVIEW}, Kind=AdmissionReview, got {found}")
    if response.get("patch") and not response.get("patchType"):
        raise CallFault(f"{before}webhook returned response.patch but not response.patchType")
    if response.get("patch") and response["patchType"] != "JSONPatch":
        raise CallFault(f'{before}invalid value of response.patchType="{response["patchType"]}"')
    return response


def denial(name: str, status: Object) -> ApiError:
    message, reason = status.get("message") or "", status.get("reason") or ""
    code = status.get("code")
    code = code if isinstance(code, int) and code >= 400 else 400
    text = f'admission webhook "{name}" denied the request'
    text += f": {message or reason}" if message or reason else " without explanation"
    return ApiError(code, reason, text, status.get("details"))


def refusal(attributes: Attributes, message: str) -> ApiError:
    """403 as the server's own admission says it: `pods "a" is forbidden: ...`."""
    resource = attributes.kind.resource
    error = forbidden(
        f'{resource.group_plural} "{attributes.name}" is forbidden: {message}', resource.plural, attributes.name
    )
    if resource.group:
        error.details["group"] = resource.group
    return error


@lru_cache(maxsize=64)
def trust(bundle: str) -> ssl.SSLContext:
    """A context that trusts the certificates of a `caBundle` only, or the system's without one. Raises CallFault."""
    try:
        return ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)
    except (ssl.SSLError, ValueError) as error:
        raise CallFault(f"unable to load root certificates: {error}") from None
