"""Where a cluster is and who we are there: kubeconfig files and a pod's service account.

Credentials are held in memory only and never printed. Documented at
https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeconfigError(Exception):
    """A kubeconfig that cannot be used; the message names the file and what is missing."""


class Access(Struct, frozen=True, repr_omit_defaults=True):
    """Everything needed to call one cluster as one user. Certificates and keys are PEM bytes."""

    server: str
    namespace: str = "default"
    ca: bytes | None = None
    insecure: bool = False
    server_name: str | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None
    token_file: Path | None = None
    basic: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"Access({self.server!r}, namespace={self.namespace!r})"

    def authorization(self) -> str | None:
        """The Authorization header. A token file is read anew each time, since it is rotated."""
        if self.token_file is not None:
            return f"Bearer {self.token_file.read_text().strip()}"
        if self.token:
            return f"Bearer {self.token}"
        if self.basic:
            return "Basic " + base64.b64encode(":".join(self.basic).encode()).decode()
        return None


def load(path: str | Path | None = None, context: str | None = None) -> Access:
    """Read the kubeconfig at `path`, else the files of $KUBECONFIG merged (first wins), else ~/.kube/config.
    Raises KubeconfigError."""
    if path is not None:
        paths = [Path(path)]
    elif os.environ.get("KUBECONFIG"):
        paths = [Path(p) for p in os.environ["KUBECONFIG"].split(os.pathsep) if p and Path(p).exists()]
    else:
        paths = [Path.home() / ".kube" / "config"]
    if not paths:
        raise KubeconfigError(f"no file of KUBECONFIG={os.environ.get('KUBECONFIG')!r} exists")
    clusters: dict[str, Mapping[str, Any]] = {}
    users: dict[str, Mapping[str, Any]] = {}
    contexts: dict[str, Mapping[str, Any]] = {}
    current = context or ""
    for file in paths:
        document = _read(file)
        base = file.resolve().parent
        for table, plural, singular in ((clusters, "clusters", "cluster"), (users, "users", "user")):
            for entry in document.get(plural) or ():
                table.setdefault(entry["name"], {**(entry.get(singular) or {}), "_base": base})
        for entry in document.get("contexts") or ():
            contexts.setdefault(entry["name"], entry.get("context") or {})
        current = current or document.get("current-context") or ""
    where = ", ".join(map(str, paths))
    if current not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise KubeconfigError(f"{where}: context {current!r} does not exist (contexts: {known})")
    chosen = contexts[current]
    cluster = clusters.get(chosen.get("cluster", ""))
    if cluster is None or not cluster.get("server"):
        raise KubeconfigError(
            f"{where}: context {current!r} names cluster {chosen.get('cluster')!r}, which has no server"
        )
    return _access(cluster, users.get(chosen.get("user", ""), {}), chosen.get("namespace") or "default")


def in_cluster(directory: Path = SERVICE_ACCOUNT) -> Access:
    """The access every pod has through its service account. Raises KubeconfigError outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = directory / "token"
    if not host or not token.exists():
        raise KubeconfigError(f"not in a pod: KUBERNETES_SERVICE_HOST or {token} is missing")
    namespace = directory / "namespace"
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        ca=(directory / "ca.crt").read_bytes(),
        token_file=token,
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except OSError as error:
        raise KubeconfigError(f"cannot read kubeconfig {path}: {error.strerror}") from None
    except yaml.YAMLError:
        raise KubeconfigError(f"kubeconfig {path} is not YAML") from None
    if not isinstance(document, dict):
        raise KubeconfigError(f"kubeconfig {path} is not a mapping")
    return document


def _access(cluster: Mapping[str, Any], user: Mapping[str, Any], namespace: str) -> Access:
    certificate, key, token = _pem(user, "client-certificate"), _pem(user, "client-key"), user.get("token")
    if user.get("exec"):
        status = _exec_credential(user["exec"])
        token = status.get("token") or token
        certificate = _text(status, "clientCertificateData") or certificate
        key = _text(status, "clientKeyData") or key
    basic = (user["username"], user.get("password", "")) if user.get("username") else None
    return Access(
        server=str(cluster["server"]).rstrip("/"),
        namespace=namespace,
        ca=_pem(cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name"),
        certificate=certificate,
        key=key,
        token=token,
        token_file=user["_base"] / user["tokenFile"] if user.get("tokenFile") else None,
        basic=basic,
    )


def _pem(table: Mapping[str, Any], field: str) -> bytes | None:
    """`field-data` (base64) wins over `field` (a path, relative to the kubeconfig)."""
    if table.get(f"{field}-data"):
        return base64.b64decode(table[f"{field}-data"])
    if table.get(field):
        path: Path = table["_base"] / table[field]
        try:
            return path.read_bytes()
        except OSError as error:
            raise KubeconfigError(f"cannot read {field} {path}: {error.strerror}") from None
    return None


def _text(table: Mapping[str, Any], field: str) -> bytes | None:
    return str(table[field]).encode() if table.get(field) else None


def _exec_credential(plugin: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run a client-go credential plugin (`user.exec`) and give its `status`."""
    info = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = os.environ | {entry["name"]: entry["value"] for entry in plugin.get("env") or ()}
    command = [plugin["command"], *(plugin.get("args") or ())]
    try:
        done = subprocess.run(
            command,
            env={**environment, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            capture_output=True,
            timeout=30,
            check=True,
        )
        status = json.loads(done.stdout).get("status")
    except (OSError, subprocess.SubprocessError, ValueError):
        raise KubeconfigError(f"credential plugin {plugin['command']!r} failed") from None
    return status if isinstance(status, dict) else {}
