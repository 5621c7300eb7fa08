"""What the suite runs against: the embedded cluster's API, a real control plane built here, or any cluster one names.

The real one is etcd, kube-apiserver and kube-controller-manager of one minor version, built from their Go modules by
`controlplane/go.mod` and kept outside the tree, in `~/.cache/sampan/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sampan.cluster.apiserver.access.pki import Pki

HERE = Path(__file__).parent
MODULE = HERE / "controlplane"
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}
TOKEN = "conformance-admin"


class Missing(Exception):
    """A target that cannot be had on this machine; the text says what is missing."""


@dataclass
class Target:
    """A running API. `kubeconfig` is the administrator's; `processes` those this module started."""

    name: str
    kubeconfig: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binaries() -> Path:
    """The directory of the control plane's programs, built on first use (some minutes). Raises Missing."""
    key = hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sampan"
    place = cache / f"controlplane-{key}"
    if all((place / name).exists() for name in PROGRAMS):
        return place
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise Missing("no Go here to build etcd and kube-apiserver with")
    place.mkdir(parents=True, exist_ok=True)
    sys.stderr.write("building etcd, kube-apiserver and kube-controller-manager (once, some minutes) ...\n")
    for name, package in PROGRAMS.items():
        beside = place / f".{name}.{os.getpid()}"
        done = subprocess.run(
            [go, "build", "-mod=readonly", "-buildvcs=false", "-ldflags", "-s -w", "-o", beside, package],
            cwd=MODULE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Missing(f"{name} could not be built: {done.stderr.strip().splitlines()[-1][:300]}")
        beside.rename(place / name)
    return place


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path, token: str = "", seconds: float = 90) -> None:
    context = ssl._create_unverified_context()
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"{log.name} ended with {process.returncode}: {log.read_text()[-2000:]}")
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        secure = context if url.startswith("https") else None
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(request, timeout=5, context=secure) as reply,
        ):
            if reply.status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{url} was not ready: {log.read_text()[-2000:]}")


def write_kubeconfig(path: Path, server: str, ca: Path, token: str) -> None:
    cluster = {"server": server, "certificate-authority": str(ca)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "target", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "target", "context": {"cluster": "target", "user": "admin"}}],
        "current-context": "target",
    }
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)


def start_real(directory: Path, *, controllers: bool = True, durable: bool = True) -> Target:
    """etcd, kube-apiserver and, if asked for, kube-controller-manager over `directory`. Raises Missing.

    Where it need not be `durable`, etcd does not wait for the disk.
    """
    programs = binaries()
    pki = Pki(directory / "pki")
    pki.ensure()
    etcd, peer, port, manager = (free_port() for _ in range(4))
    kubeconfig = directory / "kubeconfig"
    target = Target("real", kubeconfig)

    def start(name: str, *flags: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = directory / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen([programs / name, *flags], stdout=file, stderr=file, cwd=directory)
        target.processes.append(process)
        return process, log

    tokens = directory / "tokens.csv"
    tokens.write_text(f'{TOKEN},admin,1,"system:masters"\n')
    tokens.chmod(0o600)
    key = str(pki.path("sa.key"))
    public = directory / "sa.pub"
    public.write_bytes(
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout"], check=True, capture_output=True).stdout
    )
    try:
        client = f"http://127.0.0.1:{etcd}"
        process, log = start(
            "etcd",
            *(
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
            ),
            *(f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            *(f"--initial-cluster=default=http://127.0.0.1:{peer}", "--log-level=warn"),
            *(() if durable else ("--unsafe-no-fsync",)),
        )
        wait_ready(f"{client}/health", process, log)
        process, log = start(
            "kube-apiserver",
            *(f"--etcd-servers={client}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
            *(f"--tls-cert-file={pki.path('server.crt')}", f"--tls-private-key-file={pki.path('server.key')}"),
            *(f"--client-ca-file={pki.path('ca.crt')}", f"--token-auth-file={tokens}", "--authorization-mode=RBAC"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-signing-key-file={key}"),
            *(f"--service-account-key-file={public}", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--allow-privileged=true", "--profiling=false", "--endpoint-reconciler-type=none"),
        )
        server = f"https://127.0.0.1:{port}"
        write_kubeconfig(kubeconfig, server, pki.path("ca.crt"), TOKEN)
        wait_ready(f"{server}/readyz", process, log, TOKEN)
        if not controllers:
            return target
        start(
            "kube-controller-manager",
            *(f"--kubeconfig={kubeconfig}", f"--secure-port={manager}", "--bind-address=127.0.0.1"),
            *("--leader-elect=false", f"--service-account-private-key-file={key}", "--profiling=false"),
            *(
                f"--root-ca-file={pki.path('ca.crt')}",
                "--concurrent-gc-syncs=4",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ),
        )
    except BaseException:
        target.stop()
        raise
    return target


def start_embedded(directory: Path) -> Target:
    """The embedded cluster of this project, as a process of its own."""
    place = directory / "cluster"
    log = directory / "embedded.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "sampan.cluster", "--directory", str(place), "--with-parent"]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    target = Target("embedded", place / "kubeconfig", [process])
    give_up = time.monotonic() + 60
    while not (place / "cluster.json").exists():
        if process.poll() is not None or time.monotonic() > give_up:
            target.stop()
            raise RuntimeError(f"the embedded cluster did not start: {log.read_text()[-2000:]}")
        time.sleep(0.01)
    return target


API_ALONE = """
import asyncio, sys
from pathlib import Path
from sampan.cluster.apiserver.access.pki import Pki
from sampan.cluster.apiserver.server import ApiServer
from sampan.cluster.store import Store

async def main(directory):
    pki = Pki(directory / "pki")
    pki.ensure()
    api = ApiServer(Store.open(directory / "cluster.db"), pki, {"service_cidr": "10.96.0.0/16"})
    await api.start()
    api.write_kubeconfig(directory / "kubeconfig.new", f"https://127.0.0.1:{await api.serve()}")
    (directory / "kubeconfig.new").rename(directory / "kubeconfig")
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


def start_api_alone(directory: Path) -> Target:
    """Our API server without controllers, kubelet and proxy: nothing changes but by requests."""
    log = directory / "api.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", API_ALONE, str(directory)], stdout=file, stderr=file)
    target = Target("embedded", directory / "kubeconfig", [process])
    give_up = time.monotonic() + 60
    while not target.kubeconfig.exists():
        if process.poll() is not None or time.monotonic() > give_up:
            target.stop()
            raise RuntimeError(f"the API server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.01)
    return target


def start_given() -> Target:
    path = os.environ.get("SAMPAN_CONFORMANCE_KUBECONFIG", "")
    if not path:
        raise Missing("SAMPAN_CONFORMANCE_KUBECONFIG is not set")
    return Target("given", Path(path))


@contextlib.contextmanager
def running(name: str, directory: Path) -> Iterator[Target]:
    """The target `name` (embedded, real, given), stopped on leaving. Raises Missing."""
    start = {"embedded": start_embedded, "real": start_real}.get(name)
    target = start(directory) if start is not None else start_given()
    try:
        yield target
    finally:
        target.stop()
