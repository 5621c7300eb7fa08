"""Who is asking: client certificates, static tokens, service account tokens (ES256 JWTs signed with our key)."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.cluster.apiserver.strategy import User
from sampan.kube.errors import ApiError
from sampan.kube.objects import Object, parse_time

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = ISSUER
MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
LEEWAY = 60.0
"""Seconds after which what a token is bound to, deleted but not gone, lets nobody in."""
ADMIN = User("system:admin", (MASTERS, AUTHENTICATED))
ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


class TokenFault(ApiError):
    """401. `why` is what a TokenReview says of a token that was good once; clients are not told."""

    def __init__(self, why: str = "") -> None:
        super().__init__(401, "Unauthorized", "Unauthorized")
        self.why = why


def service_account_user(namespace: str, name: str, uid: str = "") -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return User(f"system:serviceaccount:{namespace}:{name}", groups, uid)


class Authenticator:
    """Turns a certificate or a bearer token into a `User`.

    `find` looks up what a token is bound to: (kind, namespace, name) -> object or None; a token dies with its service
    account and with its pod.
    """

    def __init__(
        self, key_file: Path, tokens_file: Path | None, find: Callable[[str, str, str], Object | None]
    ) -> None:
        self._key_file = key_file
        self._key: EllipticCurvePrivateKey | None = None
        self._find = find
        self._static = _read_tokens(tokens_file) if tokens_file else {}
        self._verified: dict[str, dict[str, Any]] = {}

    def authenticate(self, certificate: dict[str, Any], authorization: str) -> User:
        """Who shows nothing is anonymous. Raises ApiError 401 for what is shown and no good. A bearer token goes before
        a certificate, as it says more."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self.token_user(token.strip())[0]
        fields = [pair for part in certificate.get("subject", ()) for pair in part]
        names = [value for key, value in fields if key == "commonName"]
        if names:
            groups = tuple(value for key, value in fields if key == "organizationName")
            return User(names[0], (*groups, AUTHENTICATED))
        return ANONYMOUS

    def token_user(self, token: str, audiences: tuple[str, ...] = (AUDIENCE,)) -> tuple[User, tuple[str, ...]]:
        """The token's user and the audiences it is good for. Raises ApiError 401."""
        for known, user in self._static.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return user, audiences
        claims = self._claims(token)
        given = claims.get("aud", ())
        common = tuple(one for one in given if one in audiences)
        if claims.get("iss") != ISSUER:
            raise TokenFault()
        if claims.get("exp", 0) < time.time():
            raise TokenFault("service account token has expired")
        if not common:
            have, want = (" ".join(f'"{one}"' for one in row) for row in (given, audiences))
            raise TokenFault(f"token audiences [{have}] is invalid for the target audiences [{want}]")
        bound = claims.get("kubernetes.io") or {}
        namespace = str(bound.get("namespace"))
        account = bound.get("serviceaccount") or {}
        extra: dict[str, list[str]] = {}
        if claims.get("jti"):
            extra["authentication.kubernetes.io/credential-id"] = [f"JTI={claims['jti']}"]
        for kind, reference in (
            ("ServiceAccount", account),
            ("Pod", bound.get("pod")),
            ("Secret", bound.get("secret")),
            ("Node", bound.get("node")),
        ):
            if reference is None:
                continue
            found = self._find(kind, namespace, str(reference.get("name")))
            if found is None or found["metadata"].get("uid") != reference.get("uid") or _gone(found):
                raise TokenFault("service account token has been invalidated")
            if kind == "Pod":
                extra |= {
                    "authentication.kubernetes.io/pod-name": [reference["name"]],
                    "authentication.kubernetes.io/pod-uid": [reference["uid"]],
                }
        user = service_account_user(namespace, str(account.get("name")), str(account.get("uid", "")))
        return msgspec.structs.replace(user, extra=extra), common

    def _claims(self, token: str) -> dict[str, Any]:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        known = self._verified.get(token)
        if known is not None:
            return known
        try:
            head, body, signature = token.split(".")
            header = msgspec.json.decode(_unbase64(head))
            raw = _unbase64(signature)
            if header.get("alg") != "ES256" or len(raw) != 64:
                raise TokenFault()
            encoded = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
            self._signing_key().public_key().verify(encoded, f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
            claims = msgspec.json.decode(_unbase64(body), type=dict[str, Any])
        except (ValueError, AttributeError, msgspec.MsgspecError, binascii.Error, InvalidSignature):
            raise TokenFault() from None
        if len(self._verified) > 1000:
            self._verified.clear()
        self._verified[token] = claims
        return claims

    def issue(
        self, account: Object, audiences: tuple[str, ...], seconds: int, bound: dict[str, Any] | None = None
    ) -> tuple[str, float]:
        """A token for a service account, bound to `bound` (such as {"pod": {"name", "uid"}}); (token, expiry)."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        metadata = account["metadata"]
        now = int(time.time())
        claims = {
            "aud": list(audiences or (AUDIENCE,)),
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": metadata["namespace"],
                "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
                **(bound or {}),
            },
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        head = _base64(msgspec.json.encode({"alg": "ES256", "typ": "JWT"}))
        text = f"{head}.{_base64(msgspec.json.encode(claims))}"
        r, s = decode_dss_signature(self._signing_key().sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32) + s.to_bytes(32))}", float(now + seconds)

    def _signing_key(self) -> EllipticCurvePrivateKey:
        if self._key is None:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

            key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
            assert isinstance(key, EllipticCurvePrivateKey)
            self._key = key
        return self._key


def _read_tokens(path: Path) -> dict[str, User]:
    """A static token file: lines `token,user,uid,"group,group"`."""
    import csv

    users = {}
    with path.open(newline="") as file:
        for row in csv.reader(file):
            if len(row) >= 3 and row[0]:
                groups = tuple(filter(None, row[3].split(","))) if len(row) > 3 else ()
                users[row[0]] = User(row[1], (*groups, AUTHENTICATED), row[2])
    return users


def _gone(obj: Object) -> bool:
    """Whether it has been deleted, though something keeps it from going, for longer than its programs may still need
    their tokens."""
    deleted = obj["metadata"].get("deletionTimestamp")
    return bool(deleted) and time.time() - parse_time(deleted).timestamp() > LEEWAY


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
