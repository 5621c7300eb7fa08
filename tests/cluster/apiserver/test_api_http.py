"""HTTP over TLS by hand: discovery, shapes, authentication, and input of every bad kind, never answered by 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sampan.cluster.apiserver import http
from sampan.cluster.apiserver.server import ApiServer

MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def body(name: str = "a", **rest: Any) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **rest}).encode()


async def test_nobody_gets_in_without_credentials(raw: Any) -> None:
    code, _, answer = await raw.call("GET", MAPS, admin=False)
    assert (code, json.loads(answer)["reason"]) == (403, "Forbidden")
    assert 'User "system:anonymous" cannot list resource' in json.loads(answer)["message"]
    assert (await raw.call("GET", "/api", admin=False))[0] == 403
    assert (await raw.call("GET", "/version", admin=False))[0] == 200
    code, _, answer = await raw.call("GET", MAPS, admin=False, authorization="Bearer wrong")
    assert (code, json.loads(answer)["reason"]) == (401, "Unauthorized")


async def test_token_user_is_known_but_may_do_little(raw: Any) -> None:
    headers = {"authorization": "Bearer secret-of-ann"}
    assert (await raw.call("GET", "/version", admin=False, **headers))[0] == 200
    code, _, answer = await raw.call("GET", MAPS, admin=False, **headers)
    assert code == 403
    assert 'User "ann" cannot list resource "configmaps"' in json.loads(answer)["message"]


async def test_service_account_token_comes_and_dies_with_its_account(raw: Any) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bob"}}
    await raw.call("POST", accounts, json.dumps(account).encode())
    code, _, answer = await raw.call("POST", f"{accounts}/bob/token", b'{"spec":{}}')
    assert code == 201
    token = {"authorization": f"Bearer {json.loads(answer)['status']['token']}"}
    who = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    code, _, answer = await raw.call("POST", who, b"{}", admin=False, **token)
    assert json.loads(answer)["status"]["userInfo"]["username"] == "system:serviceaccount:default:bob"
    await raw.call("DELETE", f"{accounts}/bob")
    assert (await raw.call("POST", who, b"{}", admin=False, **token))[0] == 401


async def test_discovery_in_every_form(raw: Any) -> None:
    for version in ("v2", "v2beta1"):
        accept = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json"
        for path in ("/api", "/apis"):
            code, headers, answer = await raw.call("GET", path, accept=accept)
            assert code == 200
            assert headers["content-type"] == accept.partition(",")[0]
            assert json.loads(answer)["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    assert json.loads((await raw.call("GET", "/apis"))[2])["kind"] == "APIGroupList"
    resources = json.loads((await raw.call("GET", "/api/v1"))[2])["resources"]
    assert {"pods", "pods/log", "services"} <= {row["name"] for row in resources}


async def test_openapi_has_hashes_and_tags(raw: Any) -> None:
    paths = json.loads((await raw.call("GET", "/openapi/v3"))[2])["paths"]
    url = paths["apis/apps/v1"]["serverRelativeURL"]
    code, headers, answer = await raw.call("GET", url)
    assert code == 200
    patch = json.loads(answer)["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert "fieldValidation" in {row.get("name") for row in patch["parameters"]}
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
    assert (await raw.call("GET", url, if_none_match=headers["etag"]))[0] == 304
    assert (await raw.call("GET", "/openapi/v2"))[0] == 404


async def test_tables_and_partial_metadata(raw: Any) -> None:
    await raw.call("POST", MAPS, body())
    listed = json.loads((await raw.call("GET", MAPS, accept=TABLE))[2])
    assert listed["kind"] == "Table"
    assert listed["rows"][0]["cells"][0] == "a"
    one = json.loads((await raw.call("GET", f"{MAPS}/a", accept=TABLE))[2])
    assert one["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert (await raw.call("GET", MAPS, accept="application/xml"))[0] == 406


async def test_field_validation_strict_warn_ignore(raw: Any) -> None:
    doubled = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1","k":"2"},"dat":{}}'
    code, _, answer = await raw.call("POST", f"{MAPS}?fieldValidation=Strict", doubled)
    message = json.loads(answer)["message"]
    assert code == 400
    assert 'duplicate field "data.k"' in message
    assert 'unknown field "dat"' in message
    code, headers, _ = await raw.call("POST", f"{MAPS}?fieldValidation=Warn&dryRun=All", doubled)
    assert code == 201
    assert headers["warning"].startswith("299 - ")
    code, headers, _ = await raw.call("POST", f"{MAPS}?fieldValidation=Ignore&dryRun=All", doubled)
    assert code == 201
    assert "warning" not in headers


BAD_BODIES = [
    b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b'{"metadata":[]}', b'{"metadata":{"name":7}}',
    b'{"kind":"Pod"}', b'{"apiVersion":"v2"}', b'{"apiVersion":[],"kind":{}}', b'{"metadata":{"name":"a"},"data":[]}',
    b'{"metadata":{"name":"a"},"data":{"k":7}}', b'{"metadata":{"name":"a","labels":["x"]}}',
    b'{"metadata":{"name":"a","labels":{"x":7}}}', b'{"metadata":{"name":"a","ownerReferences":{}}}',
    b'{"metadata":{"name":"a","ownerReferences":[7]}}', b'{"metadata":{"name":"a","finalizers":"x"}}',
    b'{"metadata":{"name":"a","managedFields":7}}',
    b'{"metadata":{"name":"a","annotations":{"k":' + b'"\\ud800"' + b"}}}", b"[" * 100_000, b'{"a":' * 50_000,
    b'{"metadata":{"name":"a","generation":1e400}}', b'{"metadata":{"name":"a","generation":99999999999999999999999}}',
    b'{"metadata":{"name":"a/b"}}', b'{"metadata":{"name":"' + b"x" * 300 + b'"}}', b'{"metadata":{"name":null}}',
    b'{"metadata":{"name":"a","creationTimestamp":7}}', b'{"metadata":{"generateName":"_"}}',
]  # fmt: skip


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]
)
async def test_bad_bodies_are_the_clients_fault(raw: Any, api: ApiServer, content_type: str) -> None:
    before = api.store.revision
    for bad in BAD_BODIES:
        code, _, answer = await raw.call("POST", MAPS, bad, content_type=content_type)
        if b'generation":' in bad and code == 201:
            before = api.store.revision
            await raw.call("DELETE", f"{MAPS}/a")
            before = api.store.revision
            continue
        assert 400 <= code < 500, (bad[:80], code, answer)
        assert json.loads(answer)["kind"] == "Status"
    assert api.store.revision == before


BAD_SPECS: list[Any] = [None, 7, "x", [], {"containers": None}, {"containers": {}}, {"containers": [None]},
             {"containers": [7]},
             {"containers": [{"name": 1}]}, {"containers": [{"name": "c", "ports": [{"containerPort": "x"}]}]},
             {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": {}}}}]},
             {"containers": [{"name": "c", "image": "i", "env": {"a": "b"}}]},
             {"containers": [{"name": "c", "image": "i", "livenessProbe": []}]},
             {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "configMap": 7}]}]  # fmt: skip


async def test_wrong_types_in_specs(raw: Any) -> None:
    for spec in BAD_SPECS:
        pod = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}).encode()
        code, _, answer = await raw.call("POST", "/api/v1/namespaces/default/pods", pod)
        assert code in {400, 422}, (spec, answer)
        template = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
        for outer in ({"selector": {"matchLabels": {"a": "b"}}, "template": template}, spec):
            made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": outer}
            code, _, answer = await raw.call(
                "POST", "/apis/apps/v1/namespaces/default/deployments", json.dumps(made).encode()
            )
            assert code in {400, 422}, (outer, answer)


async def test_bad_patches(raw: Any) -> None:
    await raw.call("POST", MAPS, body(data={"k": "v"}))
    patches = [b"", b"{", b"7", b"[]", b"[7]",
        b"{}x", b'[{"op":"nope"}]', b'[{"op":"add"}]', b'[{"op":"remove","path":"/x/y"}]',
               b'[{"op":"replace","path":"/metadata","value":7}]', b'[{"op":"replace","path":"","value":null}]',
               b'{"metadata":7}', b'{"data":7}', b'{"metadata":{"name":"b"}}', b'{"$patch":"nope"}', b'{"kind":"Pod"}',
               b'{"metadata":{"finalizers":7}}', b"a: &a [*a, *a]", b"\xff", b'{"metadata":null}']  # fmt: skip
    for content_type in (
        "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
        "application/apply-patch+yaml", "text/plain",
    ):  # fmt: skip
        for patch in patches:
            path = f"{MAPS}/a?fieldManager=m&fieldValidation=Strict"
            code, _, answer = await raw.call("PATCH", path, patch, content_type=content_type)
            assert code == 200 or 400 <= code < 500, (content_type, patch, code, answer)


async def test_alias_bomb_is_refused_at_once(raw: Any) -> None:
    rows = ["a: &a0 [x,x,x,x,x,x,x,x,x]"]
    rows += [f"b{i}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]" for i in range(9)]
    code, _, answer = await raw.call("POST", MAPS, "\n".join(rows).encode(), content_type="application/yaml")
    assert code == 400
    assert b"expands to too much" in answer


@pytest.mark.parametrize(
    "query",
    ["limit=x", "limit=1.5", "resourceVersion=x", "continue=%21", "labelSelector=a%3D%3D%3Db", "fieldSelector=%3D",
     "timeoutSeconds=x&watch=1", "resourceVersionMatch=Nope&resourceVersion=1", "resourceVersionMatch=Exact",
     "limit=99999999999999999999999", "labelSelector=%00", "continue=WzEyMyxd"],
)  # fmt: skip
async def test_bad_queries(raw: Any, query: str) -> None:
    code, _, answer = await raw.call("GET", f"{MAPS}?{query}")
    assert 400 <= code < 500, answer


@pytest.mark.parametrize(
    "data",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", b"NOPE / HTTP/1.1\r\n\r\n",
     b"GET /%ff HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n",
     b"GET // HTTP/1.1\r\nhost: x\r\n\r\n",
     b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
     b"POST / HTTP/1.1\r\nhost: sampan\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
     b"GET /?" + b"a=b&" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
     b"PUT /api/v1/nodes HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
     b"GET /api/v1/namespaces/default/pods/x/exec HTTP/1.1\r\nhost: x\r\n\r\n",
     b"GET /apis/x HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nhost: x\r\n\r\n"],
)  # fmt: skip
async def test_malformed_requests_are_answered_or_dropped(
    raw: Any, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 0.3)
    monkeypatch.setattr(http, "BODY_TIMEOUT", 0.3)
    reader, writer = await raw.open()
    writer.write(data)
    if writer.can_write_eof():
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(65536), 5)
    assert not answer or (answer.startswith(b"HTTP/1.1 ") and answer[9:10] != b"5"), answer
    writer.close()


async def test_limits_of_headers_and_body(raw: Any) -> None:
    assert (await raw.call("GET", "/version", x=("y" * 70_000)))[0] == 431
    code, _, answer = await raw.send(
        f"POST {MAPS} HTTP/1.1\r\nhost: sampan\r\ncontent-length: 4000000\r\n\r\n".encode()
    )
    assert code == 413
    assert json.loads(answer)["reason"] == "RequestEntityTooLarge"
    head = f"POST {MAPS} HTTP/1.1\r\nhost: sampan\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert (await raw.send(head + chunk * 60))[0] in {0, 413}


async def test_expect_continue_chunked_and_keep_alive(raw: Any) -> None:
    reader, writer = await raw.open()
    for name in ("a", "b"):
        writer.write(
            f"POST {MAPS} HTTP/1.1\r\nhost: sampan\r\n".encode()
            + b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        data = body(name)
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 201 ")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


async def test_slow_client_is_timed_out_and_others_are_served(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 0.3)
    reader, writer = await raw.open()
    writer.write(b"GET /version HTTP/1.1\r\nhost")
    assert (await raw.call("GET", "/version"))[0] == 200
    assert (await asyncio.wait_for(reader.read(100), 5)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_client_that_leaves_a_watch_leaves_nothing_behind(raw: Any, api: ApiServer) -> None:
    reader, writer = await raw.open()
    writer.write(f"GET {MAPS}?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert len(api._web.http.streams) == 1
    writer.close()
    for _ in range(100):
        if not api._web.http.streams:
            break
        await asyncio.sleep(0.02)
    assert not api._web.http.streams


async def test_ten_thousand_objects_in_one_list(raw: Any, api: ApiServer) -> None:
    def made(name: str) -> dict[str, Any]:
        return {**json.loads(body(name)), "metadata": {"name": name, "namespace": "default", "uid": name}}

    await asyncio.gather(
        *(
            api.store.write("/configmaps", f"default/m{index:05}", lambda _, index=index: made(f"m{index:05}"))  # type: ignore[misc]
            for index in range(10_000)
        )
    )
    code, _, answer = await raw.call("GET", MAPS)
    assert code == 200
    assert len(json.loads(answer)["items"]) == 10_000
