"""What tells a process and others who it is: its certificate, its issuer, its leave to read who runs where."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sampan.compile.context import GRPC_PORT, HTTPS_PORT, Item
from sampan.model import Service
from sampan.model.security import DEV_ISSUER, Oidc, present

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

    from sampan.compile.context import Context
    from sampan.kube.objects import Object
    from sampan.model.application import Workload

TLS_PATH = "/tls"
AUTHORITY = "development-ca"
"""The Secret of the authority that signs for local services."""
RBAC = "rbac.authorization.k8s.io/v1"
API_PORTS = (443, 6443)  # of the Service `kubernetes`, and of what is behind it
_VALID = timedelta(days=3650)


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
    context: Context, existing: Container[str] | Mapping[str, Object], workloads: list[Workload]
) -> Iterator[Object]:
    """For local services: a Secret with a certificate for each name, of an authority made once. With the objects in
    `existing` that authority signs for those who come later; without it is made anew when somebody comes."""
    wanted = {secret_name(workload): workload for workload in workloads if workload.tls is not None}
    missing = {name: workload for name, workload in wanted.items() if name not in existing}
    if not missing:
        return
    authority = _Authority()
    kept = existing.get(AUTHORITY, {}).get("data") if isinstance(existing, Mapping) else None
    if kept:
        authority.load(b64decode(kept["tls.crt"]), b64decode(kept["tls.key"]))
    else:
        crt, key = authority.make()
        yield _secret(context, AUTHORITY, context.labels("application", context.app.name), (crt, key, crt))
    for name, workload in sorted(missing.items()):
        host = f"{workload.name}.{context.namespace}"
        names = [workload.name, host, f"{host}.svc", f"{host}.svc.cluster.local", "localhost"]
        crt, key = authority.sign(workload.name, names)
        yield _secret(context, name, context.labels(workload.kind, workload.name), (crt, key, authority.pem))


def _secret(context: Context, name: str, labels: dict[str, str], pems: tuple[bytes, bytes, bytes]) -> Object:
    data = dict(zip(("tls.crt", "tls.key", "ca.crt"), pems, strict=True))
    encoded = {file: b64encode(content).decode() for file, content in data.items()}
    return context.object("v1", "Secret", name, labels, type="kubernetes.io/tls", data=encoded)


class _Authority:
    """Signs certificates for local work. `cryptography` is imported when one is made."""

    certificate: Certificate
    key: EllipticCurvePrivateKey
    pem: bytes

    def load(self, crt: bytes, key: bytes) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        found = load_pem_private_key(key, None)
        assert isinstance(found, EllipticCurvePrivateKey)
        self.certificate, self.key, self.pem = x509.load_pem_x509_certificate(crt), found, crt

    def make(self) -> tuple[bytes, bytes]:
        crt, key = self.sign("sampan-development-ca", [], authority=True)
        self.load(crt, key)
        return crt, key

    def sign(self, name: str, hosts: list[str], *, authority: bool = False) -> tuple[bytes, bytes]:
        """Certificate and key (PEM) for `name` at `hosts` and on loopback."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if authority else self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + _VALID)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if not authority:
            alternatives: list[Any] = [x509.DNSName(host) for host in hosts]
            alternatives.append(x509.IPAddress(ip_address("127.0.0.1")))
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            builder = builder.add_extension(signer, critical=False)
        signed = builder.sign(key if authority else self.key, hashes.SHA256())
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return signed.public_bytes(serialization.Encoding.PEM), plain
