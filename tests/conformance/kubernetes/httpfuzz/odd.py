"""What clients should not send, as data: verbs, types, headers, parameters, pieces of paths, bodies, values."""

from __future__ import annotations

import gzip
import json

from tests.kube.test_protobuf import body as protobuf_body
from tests.kube.test_protobuf import part

VERBS = (
    *(b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE") * 3,
    *(b"OPTIONS", b"TRACE", b"CONNECT", b"PURGE", b"PROPFIND", b"LOCK", b"QUERY", b"get", b"FOO", b"A" * 300, b"G(T"),
)
CONTENT_TYPES = (
    *(b"application/json", b"application/yaml", b"application/vnd.kubernetes.protobuf", b"application/cbor"),
    *(b"application/merge-patch+json", b"application/json-patch+json", b"application/strategic-merge-patch+json"),
    *(b"application/apply-patch+yaml", b"application/apply-patch+cbor", b"text/plain", b"text/html", b"*/*", b""),
    *(b"application/json; charset=utf-16", b"APPLICATION/JSON", b"application/json;;;", b";", b"/", b"\xff\xfe"),
    *(b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded", b"application/" + b"x" * 5000),
    b"application/json;stream=watch",
)
ACCEPTS = (
    *(b"", b"*/*", b"text/html", b"application/yaml", b"application/vnd.kubernetes.protobuf", b"application/cbor"),
    *(b"application/json;as=Table;v=v1;g=meta.k8s.io", b"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
    *(b"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", b"application/json;as=Nothing;v=v9;g=x"),
    *(b"application/json;as=Table;v=v7;g=meta.k8s.io", b"application/json;as", b";;;,,,", b"application/json;q=0"),
    *(b"application/json;q=x", b"\xff", b"a" * 4000, b",".join([b"text/x"] * 500), b"application/json;as=Table"),
    *(b"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", b"application/json;pretty=1"),
    b"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    b"application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
)
HEADERS = (
    *((b"Accept-Encoding", b"gzip"), (b"Accept-Encoding", b"br;q=1.0, *;q=0"), (b"Accept-Encoding", b"\xff")),
    *((b"Content-Encoding", b"gzip"), (b"Content-Encoding", b"deflate"), (b"Content-Encoding", b"zstd, gzip, x")),
    *((b"Host", b""), (b"Host", b"evil.example.com:99999"), (b"Host", b"[::1"), (b"Range", b"bytes=0-1")),
    *((b"Expect", b"100-continue"), (b"Expect", b"202-perhaps"), (b"If-None-Match", b"*"), (b"If-Match", b'"x"')),
    *((b"If-Modified-Since", b"yesterday"), (b"User-Agent", b""), (b"User-Agent", b"x" * 300), (b"TE", b"trailers")),
    *((b"User-Agent", b"\xff\xfe/1"), (b"User-Agent", b"a\tb\x7f"), (b"Cookie", b"a=b; " * 200)),
    *((b"Authorization", b"Bearer nobody"), (b"Authorization", b"Bearer a.b.c"), (b"Authorization", b"Basic !!!")),
    *((b"Authorization", b"Bearer eyJhbGciOiJub25lIn0.e30."), (b"Authorization", b"Bearer"), (b"Authorization", b"")),
    *((b"Authorization", b"Bearer " + b"\xe9" * 30), (b"Authorization", b"Negotiate AAAA")),
    *((b"Impersonate-User", b"someone"), (b"Impersonate-User", b"system:serviceaccount:a:b:c:d"), (b"X" * 300, b"1")),
    *((b"Impersonate-User", b"system:serviceaccount::"), (b"Impersonate-Group", b"system:masters")),
    *((b"Impersonate-User", b"\xff" * 40), (b"Impersonate-Uid", b"1"), (b"Impersonate-Extra-%ZZ", b"x")),
    *((b"Connection", b"close"), (b"Connection", b"upgrade"), (b"Upgrade", b"websocket"), (b"Upgrade", b"h2c")),
    *((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"SPDY/3.1"), (b"HTTP2-Settings", b"AAMAAABkAAQ")),
    *((b"Sec-WebSocket-Key", b"short"), (b"Sec-WebSocket-Protocol", b"v4.channel.k8s.io"), (b"Origin", b"null")),
    *((b"X-Stream-Protocol-Version", b"v4.channel.k8s.io"), (b"X-Forwarded-For", b"1" * 5000)),
    *((b"Transfer-Encoding", b"identity"), (b"Transfer-Encoding", b"gzip"), (b"Content-Length", b"0")),
    *((b"Content-Length", b"-1"), (b"Content-Length", b"99999999999999999999999"), (b"Content-Length", b"1e3")),
    *((b"Audit-Id", b"x"), (b"traceparent", b"00-zz"), (b"Kubectl-Command", b"\x01"), (b"", b"nameless")),
    *((b"Bad Name", b"1"), (b"A\xffB", b"1"), (b"A", b"1\x00"), (b"A", b"1\r\n folded"), (b"A", b"b\nC: d")),
)
NUMBERS = ("-1", "0", "1", "1e99", "1.5", "NaN", "abc", "", "99999999999999999999999", "0x10", "+1", " 1", "\u0663")
TEXTS = ("", "x", "\x00", "\ud7ff", "a" * 5000, "../..", "'\"", "%", "\n", "=", ",", "a=b=c", "é", "null", "{}", "*")
SELECTORS = (
    *("", "a=b", "a!=b", "a in (b,c)", "a notin (", "!a", "a,b,c", "a=", "=b", "a in ()", "a in", "(", ")", "!", "!!a"),
    *("a>1", "a<x", "a=b,", ",", "a==b", "a===b", "A/B/C=d", "x" * 300 + "=y", "a=" + "y" * 300, "a=\x00", "é=ü"),
    *("a in (" + "b," * 3000 + "c)", ",".join(f"k{n}=v" for n in range(900)), "a = b", "\ta=b\n", "-a=b", "a in (b))"),
)
FIELD_SELECTORS = (
    *(
        "",
        "metadata.name=a",
        "metadata.name!=a",
        "spec.nodeName=x",
        "status.phase=Running",
        "nothing=x",
        "metadata.name",
    ),
    *(
        "metadata.name=a,metadata.name=b",
        "metadata.name=\\",
        "metadata.name=\\,",
        "=",
        "==",
        "a=b=c",
        "metadata.name in (a)",
    ),
    *("involvedObject.uid=" + "9" * 3000, "\x00=\x00", "metadata.namespace=", "spec.unschedulable=true"),
)
TOKENS = (
    *(
        "garbage",
        "",
        "W10",
        "eyJ9",
        "WzEsInkiXQ",
        "WzkwMDAwMDAwMDAwMDAwMDAwLCJ4Il0",
        "Wy0xLCIiXQ",
        "!!!!",
        "=" * 9,
        "A" * 9000,
    ),
    *("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIifQ", "WzEuNSwieCJd", "WzEsIlx1MDAwMCJd"),
)
VERSIONS = (*NUMBERS, "2", "100", "999999999999999999", "18446744073709551616")
FLAGS = ("true", "false", "1", "0", "yes", "TRUE", "", "2", "truetrue")
PARAMETERS: dict[str, tuple[str, ...]] = {
    "limit": NUMBERS,
    "timeoutSeconds": NUMBERS,
    "timeout": ("5s", "-1s", "abc", "1e99", "", "99999h"),
    "continue": TOKENS,
    "resourceVersion": VERSIONS,
    "resourceVersionMatch": ("Exact", "NotOlderThan", "exact", "", "x" * 300),
    "labelSelector": SELECTORS,
    "fieldSelector": FIELD_SELECTORS,
    "watch": FLAGS,
    "allowWatchBookmarks": FLAGS,
    "sendInitialEvents": FLAGS,
    "pretty": FLAGS,
    "dryRun": ("All", "None", "all", "", "All,All"),
    "fieldManager": ("me", "", "x" * 129, "\x00", "é" * 70, "a\nb"),
    "fieldValidation": ("Strict", "Warn", "Ignore", "Other", ""),
    "force": FLAGS,
    "gracePeriodSeconds": NUMBERS,
    "propagationPolicy": ("Background", "Foreground", "Orphan", "Other", ""),
    "orphanDependents": FLAGS,
    "includeObject": ("Object", "None", "Metadata", "x"),
    "container": TEXTS,
    "follow": ("false", "0", "x", ""),
    "tailLines": NUMBERS,
    "sinceSeconds": NUMBERS,
    "sinceTime": ("2020-01-01T00:00:00Z", "now", "", "9999-99-99T99:99:99Z", "-"),
    "limitBytes": NUMBERS,
    "command": TEXTS,
    "ports": NUMBERS,
    "hash": TEXTS,
    "path": TEXTS,
    "": TEXTS,
    "unknown": TEXTS,
}
QUERIES = (
    *(b"?", b"&&&&", b"=", b"a=%", b"a=%zz", b"a=%ff", b"%00=%00", b"limit=1&limit=x", b"a" * 60_000, b";", b"a=b;c=d"),
    *(b"&".join(b"a=%d" % n for n in range(1500)), b"watch=1&watch=0", b"#x", b"labelSelector=%25%25", b"a=\x01"),
)
SEGMENTS = (
    *(
        b"%2e%2e",
        b"..",
        b".",
        b"",
        b"%00",
        b"%2f",
        b"%",
        b"%zz",
        b"%ff",
        b"%c3%a9",
        b"a" * 300,
        b"a" * 70_000,
        b"A",
        b"-",
    ),
    *(
        b"a%20b",
        b"a+b",
        b"a;b",
        b"a:b",
        b"~",
        b"*",
        b"\\",
        b"%5c",
        b"%0d%0aX: y",
        b"%e2%80%ae",
        b"%f0%9f%98%80",
        b"status",
    ),
    *(
        b"scale",
        b"log",
        b"exec",
        b"proxy",
        b"namespaces",
        b"api",
        b"v1",
        b"\xc3\xa9",
        b"a%2fb",
        b"{name}",
        b"%2E",
        b"0",
    ),
)
TARGETS = (
    *(
        b"*",
        b"/",
        b"//",
        b"///",
        b"",
        b"api",
        b"http://x/api",
        b"https://x",
        b"ftp://x/api",
        b"/api/../apis",
        b"/./api",
    ),
    *(b"/" * 5000, b"/%", b"/\x7f", b"/a b", b"?", b"/?", b"/#", b"http://", b"//evil.example.com/api/v1", b"x:443"),
)
BOMB = b"[" * 10_000
ALIASES = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(12)
)
COPIES = json.dumps(
    [{"op": "add", "path": "/data/a", "value": "x" * 10_000}, {"op": "add", "path": "/data/z", "value": {}}]
    + [{"op": "copy", "from": "/data", "path": f"/data/c{n}"} for n in range(60)]
).encode()
CONFIG_MAP = protobuf_body(
    "v1", "ConfigMap", part(1, part(1, "a") + part(3, "fuzz")) + part(2, part(1, "k") + part(2, "v"))
)
BODIES = (
    *(b"", b" ", b"null", b"true", b"0", b"[]", b"{}", b'""', b"{", b"}", b'{"a"', b'{"a":}', b"{,}", b"[,]", b"nul"),
    *(BOMB, BOMB + b"]" * 10_000, b'{"a":' * 10_000, b'{"metadata":' * 3000 + b"{}" + b"}" * 3000, b"- " * 10_000),
    *(
        b"NaN",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1.' + b"0" * 9000 + b"1}",
    ),
    *(
        b'{"metadata":{"name":"\\ud800"}}',
        b'{"metadata":{"name":"\xff"}}',
        b'{"metadata":{"name":"a\x00"}}',
        b"\xef\xbb\xbf{}",
    ),
    *(
        '{"a":1}'.encode("utf-16"),
        b"\x00" * 100,
        b"\xff" * 100,
        b'{"metadata":{"name":"\\u0000"}}',
        b'{"":{"":{"":[]}}}',
    ),
    *(b'{"kind":1,"apiVersion":[],"metadata":"x"}', b'{"metadata":{"labels":[]}}', b'{"metadata":{"annotations":1}}'),
    *(b'{"metadata":{"name":"a","name":"b"}}', b'{"kind":"Status"}', b'{"kind":"List","apiVersion":"v1","items":[]}'),
    *(b'{"metadata":{"managedFields":[{"manager":1}]}}', b'{"metadata":{"ownerReferences":[null,{},1]}}', b"[1,2,3]"),
    *(
        b'{"metadata":{"finalizers":[""]},"spec":[]}',
        b'{"metadata":{"creationTimestamp":"x"}}',
        b'{"spec":null,"status":null}',
    ),
    *(
        ALIASES,
        b"a: &a\n  b: *a\n",
        b"--- {}\n--- {}\n",
        b"!!python/object:os.system x",
        b"!!binary x",
        b"? {a: b}\n: c",
        b"a: *b",
    ),
    *(
        b"%YAML 9.9\n---\n{}",
        b"{a: .inf, b: .nan}",
        b"metadata: {name: 2020-01-01}",
        b"metadata: {name: !!set {a}}",
        b"<<: {a: b}",
    ),
    *(
        b"metadata: {labels: {1: 2, null: x, [a]: b}}",
        b"\t",
        b"a: b: c",
        b"x: " + b"'" * 999,
        b"a: 0o7777777777777777777777777",
    ),
    *(
        b"k8s\0",
        b"k8s\0\xff\xff\xff",
        b"k8s",
        CONFIG_MAP,
        CONFIG_MAP[:20],
        b"k8s\0" + b"\x0a" * 3000,
        b"k8s\0\x12\xff\xff\xff\xff\x7f",
    ),
    *(
        b'[{"op":"test","path":"/kind","value":"x"}]',
        b'[{"op":"remove","path":""}]',
        b'[{"op":"add","path":"/-/-/-","value":1}]',
    ),
    *(
        b'[{"op":"move","from":"/metadata","path":"/metadata/x"}]',
        b'[{"op":"replace","path":"","value":null}]',
        b"[{}]",
        b"[null]",
    ),
    *(
        b'[{"op":"add","path":"/metadata/labels/~2","value":[]}]',
        b'[{"op":"add","path":"/data/99999999999","value":0}]',
        COPIES,
    ),
    *(
        b"[" + b'{"op":"test","path":"/kind","value":"ConfigMap"},' * 11_000 + b"{}]",
        b'[{"op":"copy","from":"","path":"/data/x"}]',
    ),
    *(
        b'{"$patch":"delete"}',
        b'{"$patch":"x","spec":{"$retainKeys":1}}',
        b'{"spec":{"$setElementOrder/containers":[1]}}',
    ),
    *(
        b'{"metadata":{"$deleteFromPrimitiveList/finalizers":{}}}',
        b'{"$patch":{}}',
        b'{"spec":{"containers":[{"$patch":"replace"}]}}',
    ),
    *(
        gzip.compress(b"{}"),
        gzip.compress(b"\0" * 8_000_000),
        gzip.compress(b'{"kind":"Pod"}')[:-4],
        b"\x1f\x8b\x08garbage",
    ),
    *(
        b'{"gracePeriodSeconds":"x"}',
        b'{"propagationPolicy":1}',
        b'{"preconditions":{"uid":1}}',
        b'{"orphanDependents":true,"propagationPolicy":"Orphan"}',
    ),
)
VALUES: tuple[object, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        1e308,
        -1e308,
        2**31,
        2**63,
        -(2**63),
        10**30,
        "",
        "x",
        "\x00",
        "é\u2028",
        [],
        {},
    ),
    *(
        "a" * 300,
        "../../etc",
        [None],
        [[]],
        [{}],
        {"": None},
        {"a": {}},
        {"$patch": "delete"},
        ["x", "x"],
        "1e999",
        "-1",
        "0",
    ),
    *(
        "99999999999999999999Gi",
        "1m",
        "-5%",
        "101%",
        "2020-13-45T99:99:99Z",
        "0.0.0.0/99",
        "::",
        "a,b",
        "=",
        "{{}}",
        "\ud7ff\ue000",
    ),
)
