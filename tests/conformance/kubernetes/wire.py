"""HTTP as it goes over the wire: one kept connection, JSON in and out, watches as streams of events."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

JSON, MERGE, STRATEGIC, JSON_PATCH, APPLY = (
    "application/json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
)
Object = dict[str, Any]


class Reply:
    """`body` is decoded where it is JSON. Comparing with an int compares the code."""

    def __init__(self, code: int, headers: Mapping[str, str] | list[tuple[str, str]], raw: bytes) -> None:
        pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
        self.code, self.headers, self.raw = code, {k.lower(): v for k, v in pairs}, raw
        self.warnings = [text for name, text in pairs if name.lower() == "warning"]

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None

    def __getitem__(self, name: str) -> Any:
        return self.body[name]

    def __repr__(self) -> str:
        return f"<{self.code} {self.raw[:600].decode(errors='replace')}>"

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", ""))

    @property
    def causes(self) -> list[tuple[str, str, str]]:
        """(reason, field, message) of each cause, sorted."""
        found = (self.body.get("details") or {}).get("causes") or []
        return sorted((c.get("reason", ""), c.get("field", ""), c.get("message", "")) for c in found)


class Wire:
    """A client of one user. `token` replaces the kubeconfig's own credentials."""

    def __init__(self, kubeconfig: Path, token: str | None = None) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self.server = urlsplit(cluster["server"])
        self.context = ssl.create_default_context()
        if "certificate-authority-data" in cluster:
            self.context.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        else:
            self.context.load_verify_locations(cluster["certificate-authority"])
        self.headers = {"Accept": JSON, "User-Agent": "conformance/1"}
        token = user.get("token") if token is None else token
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        elif "client-certificate-data" in user and token is None:
            with tempfile.NamedTemporaryFile("wb", suffix=".pem") as file:
                file.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
                file.write(base64.b64decode(user["client-key-data"]))
                file.flush()
                self.context.load_cert_chain(file.name)
        self._connection: http.client.HTTPSConnection | None = None

    def connect(self, timeout: float = 60) -> http.client.HTTPSConnection:
        host = self.server.hostname or "127.0.0.1"
        return http.client.HTTPSConnection(host, self.server.port, context=self.context, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Reply:
        """One request; a `body` that is not bytes or text is sent as JSON. A dropped kept connection is made anew."""
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        sent = {**self.headers, **({"Content-Type": content_type} if body is not None else {}), **(headers or {})}
        target = f"{path}?{urlencode(query)}" if query else path
        for attempt in range(2):
            if self._connection is None:
                self._connection = self.connect()
            try:
                self._connection.request(method, target, data, sent)
                answer = self._connection.getresponse()
                return Reply(answer.status, answer.getheaders(), answer.read())
            except (http.client.HTTPException, ConnectionError):
                self.close()
                if attempt:
                    raise
        raise AssertionError("unreachable")

    def get(self, path: str, **query: Any) -> Reply:
        return self.request("GET", path, **query)

    def post(self, path: str, body: Any, **query: Any) -> Reply:
        return self.request("POST", path, body, **query)

    def put(self, path: str, body: Any, **query: Any) -> Reply:
        return self.request("PUT", path, body, **query)

    def patch(self, path: str, body: Any, content_type: str = MERGE, **query: Any) -> Reply:
        return self.request("PATCH", path, body, content_type=content_type, **query)

    def apply(self, path: str, body: Any, manager: str = "conformance", **query: Any) -> Reply:
        return self.patch(path, body, APPLY, fieldManager=manager, **query)

    def delete(self, path: str, body: Any = None, **query: Any) -> Reply:
        return self.request("DELETE", path, body, **query)

    def watch(self, path: str, seconds: int = 5, quiet: float = 0, **query: Any) -> Iterator[Object]:
        """The events of a watch of at most `seconds`, as they come, ended sooner by `quiet` seconds without any.

        Raises AssertionError when it is refused.
        """
        connection = self.connect(seconds + 30)
        try:
            parameters = urlencode({"watch": "true", "timeoutSeconds": seconds, **query})
            connection.request("GET", f"{path}?{parameters}", headers=self.headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise AssertionError(Reply(answer.status, dict(answer.getheaders()), answer.read()))
            if quiet and connection.sock is not None:
                connection.sock.settimeout(quiet)
            with contextlib.suppress(TimeoutError):
                while line := answer.readline():
                    yield json.loads(line)
        finally:
            connection.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
