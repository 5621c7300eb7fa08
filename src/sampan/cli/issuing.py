"""The development issuer beside a running system: `up` starts it where a service believes it, and it ends with the
cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sampan.cli.failure import Failure
from sampan.cli.security import DEFAULT_ISSUER, KEYS

if TYPE_CHECKING:
    from sampan.cli.process import ClusterProcess
    from sampan.model import Service

_START_SECONDS: Final = 15.0


class Issuing:
    """The issuer of the directory of `cluster`. Who sets SAMPAN_DEV_ISSUER runs one himself, and none is started."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.directory = cluster.directory
        self.url = ""
        self.believers: Sequence[Service] = ()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Its URL, the same at every start where the port is free. It answers a moment later: `wait`."""
        theirs = os.environ.get("SAMPAN_DEV_ISSUER", "").rstrip("/")
        if theirs:
            self.url = theirs
        elif not self.url:
            self.url = self._kept() or DEFAULT_ISSUER
            if not self._answers():
                self._spawn()
        return self.url

    def _kept(self) -> str:
        """Where it was last."""
        try:
            return str(json.loads((self.directory / KEYS).read_text()).get("url") or "")
        except (OSError, ValueError):
            return ""

    def _answers(self) -> bool:
        """Whether it is ours that answers there: it knows our key."""
        try:
            ours = {key["kid"] for key in json.loads((self.directory / KEYS).read_text())["keys"]}
            with urllib.request.urlopen(f"{self.url}/jwks", timeout=2) as reply:  # noqa: S310  # loopback
                theirs = {key["kid"] for key in json.load(reply)["keys"]}
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(ours & theirs)

    def _spawn(self) -> None:
        from sampan.cluster.address import reserve_port

        port, holder = reserve_port(urlsplit(self.url).port or 9400)
        holder.close()
        self.url = f"http://127.0.0.1:{port}"
        place = ["--directory", str(self.directory.resolve()), "--host", "127.0.0.1", "--port", str(port)]
        with (self.directory / "issuer.log").open("ab") as log:
            os.fchmod(log.fileno(), 0o600)
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sampan", "issuer", *place, "--with-cluster"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it answers. Failure when it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while self._child is not None and not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                words = (self.directory / "issuer.log").read_text(errors="replace").splitlines()[-3:]
                raise Failure("the development issuer did not start:\n" + "\n".join(f"  {line}" for line in words))
            time.sleep(0.02)

    def words(self) -> Iterator[str]:
        yield f"development issuer at {self.url}: it gives anybody any name"
        for service in self.believers:
            command = f"sampan token --subject ada --audience {_audience(service)}"
            scopes = sorted(set(_scopes(service)))
            yield f"  a token for {service.name}: {command}" + "".join(f" --scope {scope}" for scope in scopes)


def _audience(service: Service) -> str:
    from sampan.model.security import Oidc

    security: Any = service.security
    return next(one.audience[0] for one in security.authenticate if isinstance(one, Oidc))


def _scopes(service: Service) -> Iterator[str]:
    for scopes in (service.security.scopes if service.security else {}).values():
        yield from [scopes] if isinstance(scopes, str) else scopes
