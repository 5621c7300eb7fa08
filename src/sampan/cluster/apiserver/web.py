"""HTTP in front of the pipeline: requests into calls, answers into bytes, errors into `Status`."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.cluster.apiserver.access.authorization import Attributes
from sampan.cluster.apiserver.call import Answer, Call, Frame
from sampan.cluster.apiserver.http import HttpRequest, HttpServer, Response, StreamResponse
from sampan.cluster.apiserver.printing import table
from sampan.cluster.apiserver.strategy import User
from sampan.cluster.apiserver.turns import Turns
from sampan.kube.errors import ApiError, bad_request, internal
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.server import ApiServer

log = logging.getLogger("sampan.apiserver")

UPGRADES = {"exec", "attach", "portforward"}
REASONS = {400: "BadRequest", 408: "Timeout", 413: "RequestEntityTooLarge", 431: "BadRequest"}


def status_response(error: ApiError) -> Response:
    # Clients repeat what says when: not an eviction that a budget forbids.
    again = error.code in {503, 504} or (error.code == 429 and error.details.get("retryAfterSeconds"))
    headers = [("Retry-After", "1")] if again else []
    return Response(error.code, msgspec.json.encode(error.status()), headers=headers)


class Web:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.http = HttpServer(self._handle, self._refusal, self._failed)

    async def start(self, host: str, port: int, tls: ssl.SSLContext) -> int:
        return await self.http.start(host, port, tls)

    async def stop(self, grace: float) -> None:
        await self.http.stop(grace)

    @staticmethod
    def _refusal(code: int, message: str) -> Response:
        return status_response(ApiError(code, REASONS.get(code, "InternalError"), message))

    @staticmethod
    def _failed(error: BaseException) -> None:
        log.error("a request failed", exc_info=error)

    async def _handle(self, request: HttpRequest) -> Response | StreamResponse | None:
        call: Call | None = None
        try:
            call = self._call(request)
            if request.path.rpartition("/")[2] in UPGRADES and await self._upgrade(request, call):
                return None
            answer = await self.server.handle(call)
            return await self._respond(call, answer)
        except ApiError as error:
            if request.hijacked:
                raise
            response = status_response(error)
            if call is not None:
                response.headers += _warnings(call)
            return response

    def _call(self, request: HttpRequest) -> Call:
        headers = request.headers
        user = self.server.authenticator.authenticate(request.peer_certificate, headers.get("authorization", ""))
        if any(name.startswith("impersonate-") for name in headers):
            from sampan.cluster.apiserver.access.impersonation import acting_as

            user = acting_as(user, headers, self.server.authorizer, lambda: self._asked(request, user))
        return Call(
            request.method,
            request.path,
            dict(reversed(request.query)),
            user,
            request.body,
            headers.get("content-type", ""),
            headers.get("accept", ""),
            user_agent=headers.get("user-agent", ""),
            if_none_match=headers.get("if-none-match", ""),
            encoded=True,
        )

    def _asked(self, request: HttpRequest, user: User) -> Attributes:
        """What a request is for, as far as can be told before it is handled."""
        probe = Call(request.method, request.path, dict(reversed(request.query)), user)
        with contextlib.suppress(ApiError):
            self.server.route(probe)
        return self.server.attributes(probe)

    async def _upgrade(self, request: HttpRequest, call: Call) -> bool:
        """Hand an exec, attach or port-forward over; False when the path is something else."""
        self.server.route(call)
        if call.kind is None or call.kind.builtin != "Pod" or call.subresource not in UPGRADES:
            return False
        from sampan.cluster.streaming import serve_upgrade

        # Both verbs lead into the pod; upstream asks for `create`.
        what = Attributes("create", "", "pods", call.subresource, call.namespace or "", call.name)
        self.server.authorize(call, what)
        pod = self.server.reader.entry(call).object
        if call.subresource != "portforward":
            _check_container(pod, request.value("container"))
        if self.server.runtime is None:
            raise ApiError(503, "ServiceUnavailable", "no kubelet is running")
        if not request.is_upgrade:
            raise ApiError(400, "BadRequest", "Upgrade request required")
        await serve_upgrade(request, call.subresource, call.namespace or "", call.name, self.server.runtime)
        return True

    async def _respond(self, call: Call, answer: Answer) -> Response | StreamResponse:
        headers = answer.headers + _warnings(call)
        if answer.frames is not None:
            shape = table.shape_of(call)
            frames = table.reshape_frames(call, answer.frames) if shape else answer.frames
            return StreamResponse(_encoded(frames), headers=headers)
        if answer.chunks is not None:
            return await _begun(answer, headers)
        tag = next((value for name, value in headers if name == "ETag"), "")
        if answer.content_type == "application/json" and call.verb in {"get", "list", "create", "update", "patch"}:
            answer = table.reshape(call, answer)
        return (
            Response(answer.code, answer.body(), answer.content_type, headers)
            if not tag
            else self._tagged(call, answer, headers, tag)
        )

    @staticmethod
    def _tagged(call: Call, answer: Answer, headers: list[tuple[str, str]], tag: str) -> Response:
        if call.if_none_match and tag in call.if_none_match:
            return Response(304, b"", answer.content_type, headers)
        return Response(answer.code, answer.body(), answer.content_type, headers)


async def _encoded(frames: AsyncIterator[Frame]) -> AsyncIterator[bytes]:
    try:
        if isinstance(frames, Turns):
            async for turn in frames.turns:
                yield turn.encode()
        else:
            async for frame in frames:
                yield frame.encode()
    except ApiError as error:
        yield Frame("ERROR", obj=error.status()).encode()
    finally:
        await frames.aclose()  # type: ignore[attr-defined]


def _check_container(pod: Object, asked: str) -> None:
    """Raises ApiError 400, in upstream's words, for a container the pod lacks, and for none where it has several."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    parts = {part: [c["name"] for c in spec.get(part) or ()] for part in
             ("containers", "initContainers", "ephemeralContainers")}  # fmt: skip
    if asked:
        if not any(asked in names for names in parts.values()):
            raise bad_request(f"container {asked} is not valid for pod {name}")
    elif len(parts["containers"]) > 1:
        message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(parts['containers'])}]"
        if parts["initContainers"]:
            message += f" or one of the init containers: [{' '.join(parts['initContainers'])}]"
        raise bad_request(message)


async def _begun(answer: Answer, headers: list[tuple[str, str]]) -> StreamResponse:
    """A byte stream whose first chunk has been asked for, so that what is wrong is answered as an error."""
    chunks: Any = answer.chunks
    try:
        first = await anext(chunks)
    except StopAsyncIteration:
        first = b""
    except ApiError:
        raise
    except OSError as error:
        raise internal(str(error)) from None

    async def all_of_it() -> AsyncIterator[bytes]:
        try:
            yield first
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()

    return StreamResponse(all_of_it(), answer.content_type, headers)


def _warnings(call: Call) -> list[tuple[str, str]]:
    rows = []
    for text in dict.fromkeys(call.warnings):
        plain = "".join(mark if " " <= mark <= "~" else "?" for mark in text)[:1000]
        quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
        rows.append(("Warning", f'299 - "{quoted}"'))
        if len(rows) == 50:
            break
    return rows
