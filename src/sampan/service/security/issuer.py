"""The development issuer: OpenID Connect on this machine, for local work and tests. It gives anybody any name.

That is what it is for, and why it refuses to listen anywhere but on loopback. Its keys are kept in a file (mode 0600),
so that tokens outlive it, and `sampan token` signs with them directly.

    /.well-known/openid-configuration   discovery
    /jwks                               public keys
    /token                              client_credentials (any client), password (any name, no password needed),
                                        authorization_code (of /authorize)
    /authorize                          a page on which to choose who one is
    /introspect                         RFC 7662, of its own tokens
    /rotate                             POST: sign with a new key from now on; ?forget=1 withdraws the old ones
"""

from __future__ import annotations

import base64
import html
import ipaddress
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

SECONDS: Final = 3600
ALGORITHM: Final = "ES256"
_CODE_SECONDS: Final = 60
_MAX_CODES: Final = 1000


class NotLoopback(Exception):
    """A development issuer was asked to be reachable from elsewhere."""


def check_loopback(host: str) -> None:
    """Raises NotLoopback."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise NotLoopback(f"the development issuer gives anybody any name: it listens on 127.0.0.1, not on {host}")


class KeyFile:
    """The signing keys, newest first, made when there is no file; and in `url` where the issuer was last."""

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, ""
        self.keys: list[ECKey] = []
        if path.exists():
            kept = json.loads(path.read_text())
            self.keys, self.url = [ECKey.import_key(one) for one in kept["keys"]], kept.get("url", "")
        if not self.keys:
            self.rotate()

    def rotate(self, forget: bool = False) -> None:
        """Sign with a new key; the old ones stay known unless `forget`."""
        key = ECKey.generate_key("P-256", {"use": "sig", "alg": ALGORITHM, "kid": secrets.token_hex(8)})
        self.keys = [key, *([] if forget else self.keys[:3])]
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"url": self.url, "keys": [one.as_dict(private=True) for one in self.keys]}, file)
        fresh.rename(self.path)

    def public(self) -> dict[str, Any]:
        return {"keys": [one.as_dict(private=False) for one in self.keys]}

    def sign(self, issuer: str, subject: str, audience: list[str], scope: str, **claims: Any) -> str:
        """A token; `claims` win over what it would say by itself. `seconds` it lives are taken from them (3600)."""
        now, seconds = int(time.time()), claims.pop("seconds", SECONDS)
        body = {
            "iss": issuer,
            "sub": subject,
            "aud": audience[0] if len(audience) == 1 else audience,
            "scope": scope,
            "iat": now,
            "exp": now + seconds,
            "jti": secrets.token_hex(8),
            **claims,
        }
        key = self.keys[0]
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": key.kid}
        return jwt.encode(header, {name: value for name, value in body.items() if value is not None}, key)


class Issuer:
    """An ASGI application. `url` is what it calls itself, without a slash at the end."""

    def __init__(self, keys: KeyFile, url: str = "") -> None:
        self.keys, self.url = keys, url
        self._codes: dict[str, tuple[dict[str, str], float]] = {}
        self.routes = {
            ("GET", "/.well-known/openid-configuration"): self._discovery,
            ("GET", "/jwks"): self._jwks,
            ("POST", "/token"): self._token,
            ("GET", "/authorize"): self._authorize,
            ("POST", "/authorize"): self._chosen,
            ("POST", "/introspect"): self._introspect,
            ("POST", "/rotate"): self._rotate,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        form = {name: values[0] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        if scope["method"] == "POST":
            body = await _body(receive)
            form |= {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
        headers = dict(scope["headers"])
        # a page of another site, or a name that points here (DNS rebinding), is not the developer
        host = headers.get(b"host", b"").decode("latin-1")
        route = self.routes.get((scope["method"], scope["path"]))
        if host != urlsplit(self.url).netloc or headers.get(b"origin", self.url.encode()) != self.url.encode():
            status, kind, answer = 403, "application/json", b'{"error":"forbidden"}'
        elif route is None:
            status, kind, answer = 404, "application/json", b'{"error":"not found"}'
        else:
            status, kind, answer = route(form, headers)
        fields = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
        if status == 302:
            fields, answer = [(b"location", answer), *fields], b""
        fields.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": answer})

    def _discovery(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        return _json(
            200,
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks",
                "token_endpoint": f"{self.url}/token",
                "authorization_endpoint": f"{self.url}/authorize",
                "introspection_endpoint": f"{self.url}/introspect",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [ALGORITHM],
                "grant_types_supported": ["client_credentials", "password", "authorization_code"],
            },
        )

    def _jwks(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        return _json(200, self.keys.public())

    def _token(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        grant = form.get("grant_type", "")
        client = form.get("client_id") or _client(headers)
        if grant == "authorization_code":
            kept, until = self._codes.pop(form.get("code", ""), ({}, 0.0))
            if until < time.monotonic() or kept.get("redirect_uri", "") != form.get("redirect_uri", ""):
                return _json(400, {"error": "invalid_grant"})
            form = kept
        subject = {"client_credentials": client}.get(grant, form.get("username", ""))
        if grant not in ("client_credentials", "password", "authorization_code"):
            return _json(400, {"error": "unsupported_grant_type"})
        if not subject:
            return _json(400, {"error": "invalid_request"})
        audience = (form.get("audience") or form.get("resource") or client or "sampan").split()
        scope = form.get("scope", "")
        token = self.keys.sign(self.url, subject, audience, scope, client_id=client or None)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": SECONDS, "scope": scope}
        if "openid" in scope.split():
            answer["id_token"] = self.keys.sign(self.url, subject, [client or "sampan"], "", nonce=form.get("nonce"))
        return _json(200, answer)

    def _authorize(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        kept = ("client_id", "redirect_uri", "state", "scope", "nonce", "audience")
        fields = "".join(
            f'<input type="hidden" name="{name}" value="{html.escape(form[name])}">' for name in kept if name in form
        )
        page = (
            "<!doctype html><title>Who are you?</title><form method=post><h1>Who are you today?</h1>"
            f"{fields}<input name=username autofocus placeholder=ada><button>Go on</button></form>"
        )
        return 200, "text/html; charset=utf-8", page.encode()

    def _chosen(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        target = form.get("redirect_uri", "")
        try:
            check_loopback(urlsplit(target).hostname or "")
        except (NotLoopback, ValueError):
            return _json(400, {"error": "invalid_request", "error_description": "redirect_uri is not on this machine"})
        if not form.get("username"):
            return self._authorize(form, headers)
        code = secrets.token_urlsafe(24)
        while len(self._codes) >= _MAX_CODES:
            del self._codes[next(iter(self._codes))]
        self._codes[code] = (form, time.monotonic() + _CODE_SECONDS)
        back = urlencode({"code": code, **({"state": form["state"]} if "state" in form else {})})
        return 302, "text/plain", f"{target}{'&' if '?' in target else '?'}{back}".encode()

    def _introspect(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        for key in self.keys.keys:
            try:
                claims = jwt.decode(form.get("token", ""), key, algorithms=[ALGORITHM]).claims
            except (JoseError, ValueError):
                continue
            if claims.get("iss") == self.url and claims.get("exp", 0) > time.time():
                return _json(200, {"active": True, **claims})
        return _json(200, {"active": False})

    def _rotate(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
        self.keys.rotate(forget=form.get("forget") == "1")
        return _json(200, self.keys.public())


def _json(status: int, value: Any) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode()


def _client(headers: dict[bytes, bytes]) -> str:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return ""
    try:
        return base64.b64decode(value).decode().partition(":")[0]
    except ValueError:
        return ""


async def _body(receive: Any) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def serve(host: str, port: int, keys: KeyFile) -> Any:
    """A started server; `server.port` is where. Raises NotLoopback, OSError."""
    from sampan.service.http.server import Server

    check_loopback(host)
    issuer = Issuer(keys)
    server: Any = Server(issuer, host, port)
    await server.start()
    server.port = server.servers[0].sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    issuer.url = server.url = keys.url = f"http://{name}:{server.port}"
    keys.save()
    return server
