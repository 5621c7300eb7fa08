"""Where a coordination store is, how to authenticate, and one pool of connections to it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import aiohttp

from sampan.service.bindings import Binding, BindingError
from sampan.service.coordination.away import Away

_ANSWER_SECONDS: Final = 5.0
_LARGEST: Final = 64 * 1024 * 1024


class Address:
    """What "etcd://user:password@one:2379,two:2379/config/checkout?tls=true" says, and the binding around it.

    Entries of the binding: `username` and `password`, or `token`; `ca.crt`, `tls.crt` and `tls.key` in PEM. TLS is used
    with `?tls=true`, a scheme that ends in "s", or a `ca.crt`.
    """

    def __init__(self, binding: Binding, port: int) -> None:
        scheme, _, rest = binding.uri.partition("://")
        rest, _, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        user, _, hosts = authority.rpartition("@")
        name, _, password = user.partition(":")
        values = binding.values
        self.options = dict(parse_qsl(query))
        self.path = slash + path.rstrip("/")
        self.user = values.get("username") or unquote(name)
        self.password = values.get("password") or unquote(password)
        self.token = values.get("token", "") or self.options.pop("token", "")
        if not hosts:
            raise BindingError(f"{binding.name}: the uri names no host; write it as {scheme}://HOST:{port}/PATH")
        self.tls = (
            scheme.endswith(("s", "+https"))
            or "ca.crt" in values
            or self.options.get("tls", "").lower() in ("true", "1", "yes")
        )
        self.hosts = [host if host.rpartition("]")[2].count(":") else f"{host}:{port}" for host in hosts.split(",")]
        self.urls = [f"{'https' if self.tls else 'http'}://{host}" for host in self.hosts]
        self.place = f"{scheme}://{','.join(self.hosts)}{self.path}"  # for messages
        self._pem = {key: values[key] for key in ("ca.crt", "tls.crt", "tls.key") if key in values}

    def ssl(self) -> ssl.SSLContext | bool:
        if not self._pem:
            return True
        context = ssl.create_default_context(cadata=self._pem.get("ca.crt"))
        if "tls.crt" in self._pem:
            _load_pair(context, self._pem["tls.crt"], self._pem["tls.key"])
        return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """The context reads files only, so the pair takes the way through one that nobody else can read."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 0600
        file.write(f"{certificate}\n{key}\n")
        file.flush()
        context.load_cert_chain(file.name)


class Connection:
    """Requests to any of the endpoints of one store: the one that last answered is asked first."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None
        self._first = 0

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15, ssl=self.address.ssl())
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def open(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        silence: float = _ANSWER_SECONDS,
    ) -> aiohttp.ClientResponse:
        """The response, its body yet to be read. `silence`: seconds without a byte that mean it is gone. Away."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=silence)
        failure: Exception | None = None
        for attempt in range(len(self.address.urls)):
            number = (self._first + attempt) % len(self.address.urls)
            url = self.address.urls[number] + path
            try:
                response = await self.session().request(
                    method, url, data=body, headers=headers, params=params, timeout=timeout, allow_redirects=False
                )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                failure = error
                continue
            self._first = number
            if response.status >= 500 and attempt + 1 < len(self.address.urls):
                response.release()
                continue
            return response
        assert failure is not None
        raise Away(f"{self.address.place}: {short(failure)}") from failure

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def short(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a body without end, of any length."""
    kept = b""
    async for chunk in response.content.iter_any():
        kept += chunk
        while (end := kept.find(b"\n")) >= 0:
            yield kept[:end]
            kept = kept[end + 1 :]
        if len(kept) > _LARGEST:
            raise aiohttp.ClientPayloadError("a line of more than 64 MiB")
    if kept.strip():
        yield kept
