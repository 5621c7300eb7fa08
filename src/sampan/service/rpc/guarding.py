"""A call as the guards of HTTP see it: the same authenticators, rules and limits decide about both.

A call is the request POST /package.Service/Method that it is on the wire; its metadata are the headers.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import unquote

import grpc

from sampan.service.http.middleware import Refusal, Scope
from sampan.service.rpc import codes

Metadata = tuple[tuple[str, str | bytes], ...]
_PASSED_ON: Final = frozenset({"www-authenticate", "retry-after", "ratelimit", "ratelimit-policy"})


def peer_address(peer: str) -> tuple[str, int] | None:
    """Host and port of `ipv4:127.0.0.1:60840` or `ipv6:%5B::1%5D:60840`; None for anything else."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    host, _, port = unquote(rest).rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def scope_of(method: str, rpc: Any, metadata: Metadata) -> Scope:
    """An ASGI scope of type http. A client's certificate is where ASGI's TLS extension puts it."""
    headers = [
        (name.encode("latin-1"), value.encode("utf-8") if isinstance(value, str) else value)
        for name, value in metadata
        if not name.startswith(":")
    ]
    auth: dict[str, list[bytes]] = rpc.auth_context()
    secure = auth.get("transport_security_type") == [b"ssl"]
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
        "client": peer_address(rpc.peer()),
        "server": None,
        "extensions": {},
        "state": {},
        "sampan.rpc": True,
    }
    if secure:
        chain = [pem.decode("ascii") for pem in auth.get("x509_pem_cert", ())]
        names = auth.get("x509_subject") or ()
        scope["extensions"]["tls"] = {
            "server_cert": None,
            "client_cert_chain": chain,
            "client_cert_name": names[0].decode("utf-8", "replace") if names else None,
            "client_cert_error": None,
            "tls_version": None,
            "cipher_suite": None,
        }
    return scope


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
