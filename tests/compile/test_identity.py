"""Services that speak TLS, find each other by EndpointSlices, and believe an issuer: what is compiled for them."""

from __future__ import annotations

import ssl
from base64 import b64decode
from typing import Any

import pytest

from sampan import Application, Environment, Grpc, Job, Service
from sampan.compile import Backing, compile_application, local_certificates
from sampan.kube.authority import Authority
from sampan.kube.objects import Object
from sampan.model import Oidc, Security, Tls
from sampan.model.problems import ModelError

ASGI = "json:loads"


def system(**more: Any) -> Application:
    users = Service("users", asgi=ASGI, grpc=Grpc("json:loads"), public="/users", tls=Tls(clients="optional"))
    stock = Service("stock", asgi=ASGI, tls=Tls(secret="stock-certificate"))
    shop = Service("shop", asgi=ASGI, calls=[users, stock], tls=Tls())
    finder = Service("finder", asgi=ASGI, calls=[users], tls=Tls(), env={"SAMPAN_DISCOVERY": "kubernetes"})
    nightly = Job("nightly", run="json:loads", calls=[users], tls=Tls(), env={"SAMPAN_DISCOVERY": "kubernetes"})
    return Application(
        "t", services=[users, stock, shop, finder], jobs=[nightly], environments=[Environment("prod")], **more
    )


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], Object]:
    found = compile_application(system(), "prod", reference="system:app")
    return {(each["kind"], _name(each)): each for each in found}


def _name(obj: Object) -> str:
    """Without the digest of a Job's."""
    name = str(obj["metadata"]["name"])
    return name.rpartition("-")[0] if obj["kind"] == "Job" else name


def pod(objects: dict[tuple[str, str], Object], kind: str, name: str) -> Any:
    return objects[kind, name]["spec"]["template"]["spec"]


def told(spec: Any) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}


def test_the_secret_is_where_the_process_looks(objects: dict[tuple[str, str], Object]) -> None:
    for kind, name, secret in (
        ("Deployment", "users", "users-tls"),
        ("Deployment", "stock", "stock-certificate"),
        ("Job", "nightly", "nightly-tls"),
    ):
        spec = pod(objects, kind, name)
        assert {"name": "tls", "secret": {"secretName": secret}} in spec["volumes"]
        mount = next(each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "tls")
        assert mount == {"name": "tls", "mountPath": told(spec)["SAMPAN_TLS_DIRECTORY"], "readOnly": True}
    assert told(pod(objects, "Deployment", "users"))["SAMPAN_TLS_CLIENTS"] == "optional"
    assert "SAMPAN_TLS_CLIENTS" not in told(pod(objects, "Deployment", "stock"))


def test_probes_ports_metrics_and_routes_speak_tls(objects: dict[tuple[str, str], Object]) -> None:
    (container,) = pod(objects, "Deployment", "users")["containers"]
    for name in ("startup", "readiness", "liveness"):
        asked = container[f"{name}Probe"]["httpGet"]
        assert (asked["scheme"], asked["port"]) == ("HTTPS", "https")
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"https": 8080, "grpcs": 9090}
    ports = objects["Service", "users"]["spec"]["ports"]
    assert [(p["name"], p["port"], p["targetPort"], p["appProtocol"]) for p in ports] == [
        ("https", 8443, "https", "https"),
        ("grpcs", 9090, "grpcs", "tls"),
    ]
    template = objects["Deployment", "users"]["spec"]["template"]["metadata"]
    assert template["annotations"]["prometheus.io/scheme"] == "https"
    ingress = objects["Ingress", "users"]
    assert ingress["metadata"]["annotations"] == {"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS"}
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["port"] == {"name": "https"}


def test_callers_are_told_where_and_how(objects: dict[tuple[str, str], Object]) -> None:
    variables = told(pod(objects, "Deployment", "shop"))
    assert variables["SAMPAN_SERVICE_USERS_URL"] == "https://users:8443"
    assert variables["SAMPAN_SERVICE_USERS_GRPC"] == "https://users:9090"
    assert variables["SAMPAN_SERVICE_STOCK_URL"] == "https://stock:8443"
    assert "SAMPAN_SERVICE_USERS_URL" not in told(pod(objects, "Deployment", "finder"))


def test_leave_to_read_slices_for_those_who_do_and_for_nothing_else(objects: dict[tuple[str, str], Object]) -> None:
    assert {name for kind, name in objects if kind == "Role"} == {"finder-discovery", "nightly-discovery"}
    assert objects["Role", "finder-discovery"]["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    ]
    binding = objects["RoleBinding", "finder-discovery"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "finder", "namespace": "t-prod"}]
    assert binding["roleRef"]["name"] == "finder-discovery"
    for name, mounted in (("finder", True), ("shop", False)):
        spec = pod(objects, "Deployment", name)
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (name, mounted)
        egress = objects["NetworkPolicy", name]["spec"]["egress"]
        assert any([p["port"] for p in rule["ports"]] == [443, 6443] for rule in egress) is mounted


def test_one_word_gives_all_of_them_a_certificate_and_an_environment_takes_it_back() -> None:
    web, own = Service("web", asgi=ASGI), Service("own", asgi=ASGI, tls=Tls("mine"))
    plain = Environment("dev", values={web: {"tls": None}})
    app = Application("t", services=[web, own], jobs=[Job("j", run=ASGI)], environments=[plain], tls=Tls())
    assert [w.tls for w in app.workloads] == [Tls(), Tls("mine"), Tls()]
    found = {o["metadata"]["name"]: o for o in compile_application(app, "dev") if o["kind"] == "Service"}
    assert [p["name"] for o in found.values() for p in o["spec"]["ports"]] == ["http", "https"]


def test_local_certificates_are_of_one_authority_made_once() -> None:
    def made(existing: dict[str, Object]) -> dict[str, Object]:
        found = local_certificates(system(), "dev", authority=Authority, existing=existing)
        return {one["metadata"]["name"]: one for one in found}

    first = made({})
    assert set(first) == {"development-ca", "users-tls", "stock-certificate", "shop-tls", "finder-tls", "nightly-tls"}
    assert made(first) == {}
    later = made({name: one for name, one in first.items() if name != "shop-tls"})
    assert set(later) == {"shop-tls"}
    assert later["shop-tls"]["data"]["ca.crt"] == first["development-ca"]["data"]["tls.crt"]
    certificate = later["shop-tls"]["data"]
    context = ssl.create_default_context(cadata=b64decode(certificate["ca.crt"]).decode())
    assert context.get_ca_certs()[0]["subject"][0][0][1] == "sampan-development-ca"
    assert first["users-tls"]["type"] == "kubernetes.io/tls"


def test_the_development_issuer_is_told_to_those_who_believe_it() -> None:
    def service(name: str, issuer: str, **more: Any) -> Service:
        return Service(name, asgi=ASGI, security=Security(authenticate=[Oidc(issuer, audience=name, **more)]))

    theirs = "https://id.example.com"
    services = [service("a", "dev"), service("b", theirs, local="dev"), service("c", theirs)]
    app = Application("t", services=services, environments=[Environment("prod")])
    backing = Backing(issuer="http://127.0.0.1:9400")
    found = {o["metadata"]["name"]: o for o in compile_application(app, backing=backing) if o["kind"] == "Deployment"}
    who = {n for n, o in found.items() if "SAMPAN_DEV_ISSUER" in told(o["spec"]["template"]["spec"])}
    assert who == {"a", "b"}


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (Service("a", asgi=ASGI, tls=Tls(clients="required")), "clients='required'"),  # type: ignore[arg-type]
        (Service("a", asgi=ASGI, tls=Tls(secret="No Name")), "names the Secret 'No Name'"),
        (Service("a", asgi=ASGI, tls=Tls(), env={"SAMPAN_TLS_DIRECTORY": "/x"}), "sets SAMPAN_TLS_DIRECTORY"),
    ],
)
def test_mistakes_are_shown(service: Service, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Application("t", services=[service]).validate()


def test_who_calls_by_tls_needs_an_authority() -> None:
    users = Service("users", asgi=ASGI, tls=Tls())
    app = Application("t", services=[users, Service("web", asgi=ASGI, calls=[users])])
    assert any("has no authority to know it by" in str(problem) for problem in app.validate())
