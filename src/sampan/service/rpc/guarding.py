"""A call as the guards of HTTP see it: the same authenticators, rules and limits decide about both.

A call is the request POST /package.Service/Method that it is on the wire; its metadata are the headers.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final
from urllib.parse import unquote

import grpc

from sampan.service.http import proxies
from sampan.service.http.refusal import Refusal, Scope
from sampan.service.rpc import codes, credentials

Metadata = tuple[tuple[str, str | bytes], ...]
_PASSED_ON: Final = frozenset({"www-authenticate", "retry-after", "ratelimit", "ratelimit-policy"})


@functools.lru_cache(maxsize=1024)
def peer_address(peer: str) -> tuple[str, int] | None:
    """Host and port of `ipv4:127.0.0.1:60840` or `ipv6:%5B::1%5D:60840`; None for anything else."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    host, _, port = unquote(rest).rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def scope_of(method: str, rpc: Any, metadata: Metadata, secure: bool) -> Scope:
    """An ASGI scope of type http, as HTTP's server makes it: also with `sampan.peer`, the client that a trusted proxy
    names, and, where the connection is `secure`, a client's certificate in ASGI's TLS extension."""
    headers = [
        (name.encode("latin-1"), value.encode("utf-8") if isinstance(value, str) else value)
        for name, value in metadata
        if not name.startswith(":")
    ]
    peer = peer_address(rpc.peer())
    client = peer
    forwarded = [str(value) for name, value in metadata if name == "x-forwarded-for"]
    if forwarded and peer is not None and _proxies().trusts(peer[0]):
        client = _proxies().client(",".join(forwarded)) or peer
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "2",
        "method": "POST",
        "scheme": "https" if secure else "http",
        "path": method,
        "raw_path": method.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": None,
        "extensions": {},
        "state": {},
        "sampan.peer": peer[0] if peer else "",
        "sampan.rpc": True,
    }
    if secure:
        auth: dict[str, list[bytes]] = rpc.auth_context()
        pem = next(iter(auth.get("x509_pem_cert") or ()), None)
        certificate = credentials.described(pem) if pem else None
        scope["extensions"]["tls"] = {
            "server_cert": None,
            "client_cert_chain": [pem.decode("ascii")] if pem and certificate else [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": None,
            "cipher_suite": None,
            "client_certificate": certificate,
        }
    return scope


_proxies = functools.cache(proxies.from_environment)


def refused(refusal: Refusal) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, message and trailing metadata of a guard's answer.

    `Retry-After` becomes `grpc-retry-pushback-ms`, by which gRPC clients wait before they repeat a call.
    """
    try:
        body = json.loads(refusal.body)
        message = str(next(body[key] for key in ("error", "detail", "title", "message") if body.get(key)))
    except (ValueError, TypeError, AttributeError, StopIteration):
        message = "refused"
    trailing: list[tuple[str, str | bytes]] = []
    for raw, value in refusal.headers:
        name = raw.decode("latin-1").lower()
        if name in _PASSED_ON:
            trailing.append((name, value.decode("latin-1")))
        if name == "retry-after" and value.isdigit():
            trailing.append(("grpc-retry-pushback-ms", str(int(value) * 1000)))
    return codes.from_http(refusal.status), message, tuple(trailing)
