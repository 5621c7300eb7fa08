"""Tokens that must not be believed, over HTTP against a real service and a real issuer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from sampan.model import Oidc, Security
from tests.service.security.conftest import Dev, Securing, whoami


def b64(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def es256(key: ECKey, header: dict[str, Any], payload: bytes) -> str:
    """Signed with any header, whatever a library thinks of it."""
    signed = jws.serialize_compact({"alg": "ES256"}, b"x", key)
    assert signed
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    text = f"{b64(header)}.{b64(payload)}"
    r, s = decode_dss_signature(key.private_key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))  # type: ignore[union-attr]
    return f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def claims(dev: Dev, **changed: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": dev.url, "aud": "orders", "sub": "ada", "iat": now, "exp": now + 60, **changed}


def body(dev: Dev, **changed: Any) -> bytes:
    return json.dumps(claims(dev, **changed)).encode()


def header(dev: Dev, **changed: Any) -> dict[str, Any]:
    return {"alg": "ES256", "typ": "at+jwt", "kid": dev.keys.keys[0].kid, **changed}


def tampered(dev: Dev) -> str:
    head, _, signature = dev.sign("ada").split(".")
    return f"{head}.{b64(body(dev, sub='root'))}.{signature}"


def hs256(dev: Dev, secret: bytes) -> str:
    text = f"{b64(header(dev, alg='HS256'))}.{b64(body(dev))}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def other_key() -> ECKey:
    return ECKey.generate_key("P-256")


def embedded(dev: Dev) -> str:
    key = other_key()
    return es256(key, header(dev, jwk=key.as_dict(private=False)), body(dev))


now = time.time
FORGED: dict[str, Any] = {
    "another key under a known id": lambda dev: es256(other_key(), header(dev), body(dev)),
    "claims changed after signing": tampered,
    "no signature": lambda dev: f"{b64(header(dev))}.{b64(body(dev))}.",
    "signature of zeros (CVE-2022-21449)": lambda dev: f"{b64(header(dev))}.{b64(body(dev))}.{b64(bytes(64))}",
    "alg none": lambda dev: f"{b64({'alg': 'none'})}.{b64(body(dev))}.",
    "alg none with a signature": lambda dev: f"{b64(header(dev, alg='none'))}.{b64(body(dev))}.{b64(b'x')}",
    "alg nOnE": lambda dev: f"{b64(header(dev, alg='nOnE'))}.{b64(body(dev))}.{b64(b'x')}",
    "alg missing": lambda dev: es256(dev.keys.keys[0], {"kid": dev.keys.keys[0].kid}, body(dev)),
    "alg a list": lambda dev: es256(dev.keys.keys[0], header(dev, alg=["ES256"]), body(dev)),
    "HMAC with the public key as PEM": lambda dev: hs256(dev, dev.keys.keys[0].as_pem(private=False)),
    "HMAC with the public key as JSON": lambda dev: hs256(dev, json.dumps(dev.keys.public()["keys"][0]).encode()),
    "HMAC with nothing": lambda dev: hs256(dev, b""),
    "an algorithm of another key type": lambda dev: es256(dev.keys.keys[0], header(dev, alg="RS256"), body(dev)),
    "a key id that is a path": lambda dev: es256(other_key(), header(dev, kid="../../../dev/null"), body(dev)),
    "a key id that is SQL": lambda dev: es256(other_key(), header(dev, kid="x' UNION SELECT 'k"), body(dev)),
    "a key id that is a number": lambda dev: es256(dev.keys.keys[0], header(dev, kid=1), body(dev)),
    "a key in the header": embedded,
    "a key set named in the header": lambda dev: es256(
        other_key(), header(dev, kid="new", jku=f"{dev.url}/jwks"), body(dev)
    ),
    "a certificate named in the header": lambda dev: es256(
        other_key(), header(dev, kid="new", x5u="http://127.0.0.1:1/x"), body(dev)
    ),
    "crit": lambda dev: es256(dev.keys.keys[0], header(dev, crit=["exp"]), body(dev)),
    "b64 false": lambda dev: es256(dev.keys.keys[0], header(dev, b64=False, crit=["b64"]), body(dev)),
    "a token of another type": lambda dev: es256(dev.keys.keys[0], header(dev, typ="logout+jwt"), body(dev)),
    "expired": lambda dev: dev.sign(exp=int(now()) - 31),
    "never expires": lambda dev: dev.sign(exp=None),
    "expires as text": lambda dev: dev.sign(exp="2999999999"),
    "expires as true": lambda dev: dev.sign(exp=True),
    "expires at infinity": lambda dev: es256(
        dev.keys.keys[0], header(dev), body(dev).replace(b'"exp": ', b'"exp": Infinity, "e": ')
    ),
    "not valid yet": lambda dev: dev.sign(nbf=int(now()) + 60),
    "issued tomorrow": lambda dev: dev.sign(iat=int(now()) + 86400, exp=int(now()) + 90000),
    "another audience": lambda dev: dev.sign(audience="billing"),
    "a longer audience": lambda dev: dev.sign(audience="orders.evil"),
    "no audience": lambda dev: dev.sign(aud=None),
    "an audience that is an object": lambda dev: dev.sign(aud={"orders": 1}),
    "another issuer": lambda dev: dev.sign(iss="https://evil.example"),
    "the issuer and more": lambda dev: dev.sign(iss=dev.url + "/"),
    "an issuer that is a list": lambda dev: dev.sign(iss=[dev.url]),
    "no subject": lambda dev: dev.sign(sub=None),
    "a subject that is an object": lambda dev: dev.sign(sub={"name": "ada"}),
    "a claim twice": lambda dev: es256(dev.keys.keys[0], header(dev), body(dev)[:-1] + b', "sub": "root"}'),
    "claims that are a list": lambda dev: es256(dev.keys.keys[0], header(dev), b'["ada"]'),
    "claims that are no JSON": lambda dev: es256(dev.keys.keys[0], header(dev), b"{sub: ada}"),
    "claims nested deep": lambda dev: es256(dev.keys.keys[0], header(dev), b"[" * 5000),
    "encrypted": lambda dev: ".".join([b64({"alg": "dir", "enc": "A256GCM"}), "", b64(b"i"), b64(b"c"), b64(b"t")]),
    "truncated": lambda dev: dev.sign()[:-10],
    "two parts": lambda dev: dev.sign().rpartition(".")[0],
    "four parts": lambda dev: dev.sign() + ".e30",
    "huge": lambda dev: dev.sign(scope="x" * 20_000),
    "padding": lambda dev: dev.sign() + "==",
    "spaces inside": lambda dev: dev.sign().replace(".", " .", 1),
    "nonsense": lambda dev: "nonsense",
    "dots": lambda dev: "..",
}


async def test_forged_tokens_are_refused(securing: Securing, dev: Dev) -> None:
    believed = []
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        status, answer, _ = await service.ask("/x", dev.sign("ada", scope="a b"))
        assert (status, answer["subject"], answer["scopes"]) == (200, "ada", ["a", "b"])
        for name, make in FORGED.items():
            status, answer, headers = await service.ask("/x", make(dev))
            if (
                status != 401
                or answer != {"error": "unauthorized"}
                or "invalid_token" not in headers["www-authenticate"]
            ):
                believed.append((name, status, answer))
        assert not believed
        status, answer, _ = await service.ask("/x", dev.sign("bob"))  # it is still well
        assert answer["subject"] == "bob"
        assert service.decisions("oidc", "rejected") == len(FORGED)


@pytest.mark.filterwarnings("ignore:Key size should be")
async def test_key_confusion_with_an_rsa_key_set(securing: Securing, dev: Dev) -> None:
    """HS256 signed with the RSA public key, in every form it is usually found in; and RSA keys too small."""
    key, small = RSAKey.generate_key(2048, {"kid": "r"}), RSAKey.generate_key(1024, {"kid": "s"})
    keys = {"keys": [key.as_dict(private=False), small.as_dict(private=False), OctKey.generate_key(256).as_dict()]}

    async def jwks(scope: Any, receive: Any, send: Any) -> None:
        data = json.dumps(keys).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(data))]})
        await send({"type": "http.response.body", "body": data})

    async with (
        securing(jwks) as keeper,
        securing(whoami, Security(authenticate=[Oidc(dev.url, "orders", f"{keeper.url}/jwks")])) as service,
    ):
        good = jwt.encode({"alg": "RS256", "kid": "r"}, claims(dev), key)
        assert (await service.ask("/", good))[1]["subject"] == "ada"
        good = jwt.encode({"alg": "PS256"}, claims(dev), key, algorithms=["PS256"])
        assert (await service.ask("/", good))[0] == 200, "without a key id there is one that fits"
        pem = key.as_pem(private=False)
        modulus = str(key.as_dict(private=False)["n"]).encode()
        for secret in (pem, pem.strip(), modulus, json.dumps(keys["keys"][0]).encode()):
            text = f"{b64({'alg': 'HS256', 'kid': 'r'})}.{b64(body(dev))}"
            forged = f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"
            assert (await service.ask("/", forged))[0] == 401
        weak = jwt.encode({"alg": "RS256", "kid": "s"}, claims(dev), small)
        assert (await service.ask("/", weak))[0] == 401


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/x", 401),
        ({}, "/x?access_token={token}", 401),
        ({"authorization": "Bearer"}, "/x", 401),
        ({"authorization": "Bearer "}, "/x", 401),
        ({"authorization": "Basic {token}"}, "/x", 401),
        ({"authorization": "bearer {token}"}, "/x", 200),
        ({"authorization": "{token}"}, "/x", 401),
        ({"authorization": "Digest username=ada"}, "/x", 401),
    ],
)
async def test_where_a_token_may_stand(
    securing: Securing, dev: Dev, headers: dict[str, str], path: str, status: int
) -> None:
    token = dev.sign()
    filled = {name: text.format(token=token) for name, text in headers.items()}
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        got = await service.ask(path.format(token=token), headers=filled)
        assert got[0] == status
        if status == 401:
            assert got[2]["www-authenticate"].startswith("Bearer")


async def test_two_authorization_headers_are_refused(securing: Securing, dev: Dev) -> None:
    async with securing(whoami, Security(authenticate=[Oidc(dev.url, "orders")])) as service:
        headers = [("authorization", f"Bearer {dev.sign()}"), ("authorization", "Bearer x")]
        async with service.session.get(service.url, headers=headers) as reply:
            assert reply.status == 400


async def test_a_remembered_token_ends_when_it_expires(securing: Securing, dev: Dev) -> None:
    declared = Security(authenticate=[Oidc(dev.url, "orders", leeway=0)])
    async with securing(whoami, declared) as service:
        token = dev.sign(exp=int(now()) + 3)
        assert (await service.ask("/", token))[0] == 200
        key, (caller, until) = next(iter(service.guard._kept.items()))
        assert caller.subject == "ada"
        assert until <= time.monotonic() + 3
        service.guard._kept[key] = (caller, time.monotonic() - 1)  # as if it were later
        assert (await service.ask("/", token))[0] == 200, "it is verified anew"
        assert service.guard._kept[key][1] > time.monotonic()
        assert token.encode() not in b"".join(k for k in service.guard._kept if isinstance(k, bytes))
