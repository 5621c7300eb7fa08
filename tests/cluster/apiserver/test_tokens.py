"""Tokens of service accounts: whom they let in, and from when on no more."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sampan.cluster.apiserver.access.authentication import AUDIENCE, Authenticator, TokenFault
from sampan.kube.objects import Object

ACCOUNT: Object = {"metadata": {"name": "jane", "namespace": "a", "uid": "1"}}
POD: Object = {"metadata": {"name": "p", "namespace": "a", "uid": "2"}}
BOUND = {"pod": {"name": "p", "uid": "2"}}


def key(path: Path) -> Path:
    made = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


class World:
    """What tokens are bound to, and who judges them."""

    def __init__(self, directory: Path) -> None:
        self.objects = {"ServiceAccount": ACCOUNT, "Pod": POD}
        self.door = Authenticator(key(directory / "sa.key"), None, lambda kind, _namespace, _name: self.objects[kind])
        self.stranger = Authenticator(key(directory / "other.key"), None, lambda *_: None)

    def refused(self, token: str) -> str:
        with pytest.raises(TokenFault) as caught:
            self.door.token_user(token)
        assert (caught.value.code, caught.value.message) == (401, "Unauthorized"), "a client is told no more"
        return caught.value.why

    def replace(self, kind: str, **metadata: Any) -> None:
        self.objects[kind] = {"metadata": {**self.objects[kind]["metadata"], **metadata}}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_good_one_says_who_asks(world: World) -> None:
    token, _ = world.door.issue(ACCOUNT, (), 600, BOUND)
    user, audiences = world.door.token_user(token)
    assert (user.name, audiences) == ("system:serviceaccount:a:jane", (AUDIENCE,))
    assert user.extra["authentication.kubernetes.io/pod-name"] == ["p"]


def test_one_that_was_good_a_moment_ago_runs_out(world: World) -> None:
    token, expiry = world.door.issue(ACCOUNT, (), 600)
    world.door.token_user(token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sampan.cluster.apiserver.access.authentication.time.time", lambda: expiry + 1)
        assert world.refused(token) == "service account token has expired"


def test_one_for_others_opens_nothing_here(world: World) -> None:
    assert "audiences" in world.refused(world.door.issue(ACCOUNT, ("vault",), 600)[0])


@pytest.mark.parametrize("kind", ["ServiceAccount", "Pod"])
def test_it_ends_with_what_it_is_bound_to(world: World, kind: str) -> None:
    token, _ = world.door.issue(ACCOUNT, (), 600, BOUND)
    world.replace(kind, deletionTimestamp=_ago(30))
    world.door.token_user(token)  # what is being deleted may still finish its work
    world.replace(kind, deletionTimestamp=_ago(90))
    assert "invalidated" in world.refused(token)
    world.objects[kind] = {"metadata": {**world.objects[kind]["metadata"], "uid": "another"}}
    assert "invalidated" in world.refused(token)


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_what_we_did_not_sign_is_nothing(world: World) -> None:
    mine, theirs = (door.issue(ACCOUNT, (), 600)[0] for door in (world.door, world.stranger))
    head, body, signature = mine.split(".")
    unsigned = _part({"alg": "none", "typ": "JWT"})
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    for token in (
        theirs,
        f"{unsigned}.{body}.",
        f"{unsigned}.{body}.{signature}",
        f"{_part({'alg': 'HS256'})}.{body}.{signature}",
        f"{head}.{_part({**claims, 'sub': 'system:admin'})}.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}",
        "..",
        "\u00e9",
    ):
        assert world.refused(token) == ""


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
