"""What tells a process and others who it is: its certificate, its issuer, its leave to read who runs where."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sampan.compile.context import GRPC_PORT, HTTPS_PORT, Item
from sampan.model import Service
from sampan.model.security import DEV_ISSUER, Oidc, present

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.compile.context import Context
    from sampan.kube.authority import Authority, Pair
    from sampan.kube.objects import Object
    from sampan.model.application import Workload

TLS_PATH = "/tls"
AUTHORITY = "development-ca"
"""The Secret of the authority that signs for local services."""
RBAC = "rbac.authorization.k8s.io/v1"
API_PORTS = (443, 6443)  # of the Service `kubernetes`, and of what is behind it


def secret_name(workload: Workload) -> str:
    return (workload.tls.secret if workload.tls else "") or f"{workload.name}-tls"


def variables(context: Context, workload: Workload) -> dict[str, str]:
    """The environment by which a process finds its certificate, those it calls by TLS, and the development issuer."""
    found = {}
    if workload.tls is not None:
        found["SAMPAN_TLS_DIRECTORY"] = TLS_PATH
        if workload.tls.clients != "none":
            found["SAMPAN_TLS_CLIENTS"] = workload.tls.clients
    for name in workload.call_names if not reads_endpoints(workload) else ():  # slices say by themselves what is TLS
        base = context.app.service(name)
        callee: Service = base.overridden(context.overrides(base))
        if callee.tls is not None:
            found[callee.variable] = f"https://{name}:{HTTPS_PORT}"
            if callee.grpc is not None:
                found[callee.rpc_variable] = f"https://{name}:{GRPC_PORT}"
    issuer = context.backing.issuer if context.backing is not None else ""
    if issuer and trusts_developers(workload, context.environment.is_local):
        found["SAMPAN_DEV_ISSUER"] = issuer
    return found


def trusts_developers(workload: Workload, local: bool) -> bool:
    """Whether it believes the development issuer in an environment, `local` or not."""
    security = workload.security if isinstance(workload, Service) else None
    return security is not None and any(
        isinstance(one, Oidc) and present(one, local).issuer == DEV_ISSUER for one in security.authenticate
    )


def reads_endpoints(workload: Workload) -> bool:
    """Whether it finds those it calls by the EndpointSlices of its own namespace."""
    return workload.env.get("SAMPAN_DISCOVERY", "").partition("?")[0] in ("kubernetes", "kubernetes:") and bool(
        workload.calls
    )


def access(context: Context, workload: Workload) -> Iterator[Item]:
    """Leave to list and watch EndpointSlices, for those who do, and for nothing else."""
    if not reads_endpoints(workload):
        return
    labels, name = context.labels(workload.kind, workload.name), f"{workload.name}-discovery"
    rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    yield Item(workload, context.object(RBAC, "Role", name, labels, rules=[rule]))
    binding: dict[str, Any] = {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": workload.name, "namespace": context.namespace}],
    }
    yield Item(workload, context.object(RBAC, "RoleBinding", name, labels, **binding))


def certificates(
    context: Context, existing: Mapping[str, Object], workloads: list[Workload], authority: type[Authority]
) -> Iterator[Object]:
    """For local services: a Secret with a certificate for each name, of an authority made once and kept in `existing`,
    where it signs for those who come later too."""
    wanted = {secret_name(workload): workload for workload in workloads if workload.tls is not None}
    missing = {name: workload for name, workload in wanted.items() if name not in existing}
    if not missing:
        return
    if kept := existing.get(AUTHORITY, {}).get("data"):
        signer = authority(b64decode(kept["tls.crt"]), b64decode(kept["tls.key"]))
    else:
        signer = authority.make("sampan-development-ca")
        yield _secret(context, AUTHORITY, context.labels("application", context.app.name), signer.pair, signer)
    for name, workload in sorted(missing.items()):
        host = f"{workload.name}.{context.namespace}"
        names = [workload.name, host, f"{host}.svc", f"{host}.svc.cluster.local", "localhost"]
        pair = signer.sign(workload.name, hosts=names, addresses=["127.0.0.1"])
        yield _secret(context, name, context.labels(workload.kind, workload.name), pair, signer)


def _secret(context: Context, name: str, labels: dict[str, str], pair: Pair, signer: Authority) -> Object:
    pems = {"tls.crt": pair.crt, "tls.key": pair.key, "ca.crt": signer.pair.crt}
    encoded = {file: b64encode(content).decode() for file, content in pems.items()}
    return context.object("v1", "Secret", name, labels, type="kubernetes.io/tls", data=encoded)
