"""What each declaration becomes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from sampan import Application, Environment, Job, ModelError, Scale, Service
from sampan.compile import Backing, compile_application, local_secrets, namespace_of, writer
from sampan.kube.objects import Object

ROOT = Path(__file__).parents[2]
ASGI = "fastapi:FastAPI"


def container(obj: Object) -> Object:
    found: Object = obj["spec"]["template"]["spec"]["containers"][0]
    return found


def environment_of(obj: Object) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(obj)["env"]}


def test_a_service_finds_its_resources_by_the_contract(make: Any) -> None:
    deployment = make("market", "prod").one("Deployment", "orders")
    found = environment_of(deployment)
    assert container(deployment)["command"] == ["sampan", "serve", "orders"]
    assert found["SAMPAN_APP"] == "system:app"
    assert (found["SAMPAN_ENVIRONMENT"], found["SAMPAN_VERSION"], found["PORT"]) == ("prod", "1.2.3", "8080")
    assert (found["LANG"], found["EMPTY"]) == ("en_GB.UTF-8", "")
    assert found["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(deployment)["volumeMounts"]}
    assert mounts == {
        "/bindings/database-orders": "binding-database-orders",
        "/bindings/messaging": "binding-messaging",
        "/bindings/secret-stripe": "binding-secret-stripe",
        "/config/checkout": "config-checkout",
        "/tmp": "tmp",
    }
    assert container(deployment)["image"] == "registry.example.com/team/market/orders:1.2.3"


def test_those_who_write_a_database_migrate_it_first(make: Any) -> None:
    case = make("market", "prod")
    for kind, name in (("Deployment", "orders"), ("Deployment", "stock"), ("Deployment", "mailer")):
        initial = case.one(kind, name)["spec"]["template"]["spec"].get("initContainers", [])
        expected = [["sampan", "migrate", "orders"]] if name == "orders" else []
        assert [one["command"] for one in initial] == expected


def test_an_autoscaler_owns_the_count_except_at_a_quick_start(make: Any) -> None:
    prod, dev = make("market", "prod"), make("market", "dev")
    assert "replicas" not in prod.one("Deployment", "orders")["spec"]
    assert dev.one("Deployment", "orders")["spec"]["replicas"] == 2
    assert prod.one("Deployment", "stock")["spec"]["replicas"] == 2
    scaler = prod.one("HorizontalPodAutoscaler", "orders")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 30)
    assert [m["resource"]["target"]["averageUtilization"] for m in scaler["metrics"]] == [80]
    assert {o["metadata"]["name"] for o in prod.objects if o["kind"] == "PodDisruptionBudget"} == {"orders", "stock"}


def test_configuration_is_a_text_per_field(make: Any) -> None:
    assert make("market", "dev").one("ConfigMap", "config-checkout")["data"] == {
        "currency": "EUR",
        "limit": "500",
        "regions": '["eu", "us"]',
    }
    prod = make("market", "prod").one("ConfigMap", "config-checkout")["data"]
    assert (prod["limit"], prod["note"]) == ("900", "two\nlines")


def test_public_paths_become_an_ingress(make: Any) -> None:
    ingress = make("market", "prod").one("Ingress", "orders")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [
        {"hosts": ["market.example.com", "partners.example.com"], "secretName": "market-tls"}
    ]
    paths = {rule["host"]: [p["path"] for p in rule["http"]["paths"]] for rule in ingress["spec"]["rules"]}
    assert paths == {
        "market.example.com": ["/api/orders(/|$)(.*)"],
        "partners.example.com": ["/orders(/|$)(.*)"],
    }
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/rewrite-target"] == "/$2"
    plain = make("hello", "dev").one("Ingress", "web")["spec"]["rules"]
    assert plain[0]["http"]["paths"][0]["pathType"] == "Prefix"
    assert "host" not in plain[0]


def test_jobs_run_once_a_release_or_by_the_clock(make: Any) -> None:
    case = make("market", "prod")
    cron = case.one("CronJob", "report")["spec"]
    assert (cron["schedule"], cron["timeZone"], cron["concurrencyPolicy"]) == ("0 3 * * *", "Europe/Berlin", "Forbid")
    names = [obj["metadata"]["name"] for obj in case.objects if obj["kind"] == "Job"]
    assert len(names) == 1
    assert names[0].startswith("seed-")
    other = compile_application(case.app, "prod", images=lambda name: f"{name}:next")
    renamed = [obj["metadata"]["name"] for obj in other if obj["kind"] == "Job"]
    assert renamed != names


def test_without_the_server_a_database_is_a_file_on_a_shared_volume(make: Any) -> None:
    case = make("market", "dev-sqlite")
    kinds = {(obj["kind"], obj["metadata"]["name"]) for obj in case.objects}
    assert ("PersistentVolumeClaim", "data") in kinds
    assert not {("StatefulSet", "orders-db"), ("StatefulSet", "stock-db")} & kinds
    assert {("StatefulSet", "messaging"), ("StatefulSet", "prices-cache")} <= kinds
    for name, shares in (("orders", True), ("stock", True), ("mailer", True)):
        mounts = container(case.one("Deployment", name))["volumeMounts"]
        assert any(mount["mountPath"] == "/data" for mount in mounts) is shares


def test_local_secrets_hold_passwords_made_once(make: Any) -> None:
    case = make("market", "dev")
    made = {obj["metadata"]["name"]: obj for obj in local_secrets(case.app, backing=Backing())}
    plain = {name: {key: b64decode(value).decode() for key, value in obj["data"].items()} for name, obj in made.items()}
    orders = plain["binding-database-orders"]
    assert orders["uri"] == f"mysql://orders:{orders['password']}@orders-db:3306/orders"
    assert orders["type"] == "mysql"
    assert "root-password" not in orders  # which a service could read
    assert plain["server-orders-db"].keys() == {"root-password"}
    assert plain["binding-cache-prices"]["uri"] == "redis://prices-cache:6379/0"
    assert plain["binding-messaging"]["uri"] == "nats://messaging:4222"
    assert plain["binding-bucket-photos"] == {"type": "file", "provider": "sampan", "uri": "file:///data/photos"}
    assert len(plain["binding-secret-stripe"]["api-key"]) > 20
    again = local_secrets(case.app, backing=Backing(), existing={"binding-database-orders"})
    assert {obj["metadata"]["name"] for obj in again} == made.keys() - {"binding-database-orders"}
    files = local_secrets(case.app, backing=Backing(frozenset()))
    uris = [b64decode(obj["data"]["uri"]).decode() for obj in files if "database" in obj["metadata"]["name"]]
    assert uris == ["sqlite:////data/orders.db", "sqlite:////data/stock.db"]


# Who may open a connection to whom, by the policies alone: (from, to, port).
MARKET_ALLOWS = {
    ("orders", "stock", 8080),
    ("report", "orders", 8080),
    ("seed", "orders-db", 3306),
    ("orders", "orders-db", 3306),
    ("stock", "stock-db", 5432),
    ("stock", "prices-cache", 6379),
    ("orders", "messaging", 4222),
    ("mailer", "messaging", 4222),
}


def allowed(objects: list[Object]) -> set[tuple[str, str, int]]:
    """The pairs that both an egress and an ingress rule let pass."""
    policies = [obj for obj in objects if obj["kind"] == "NetworkPolicy" and obj["spec"]["podSelector"]]
    labels = {
        obj["metadata"]["name"]: obj["spec"]["podSelector"]["matchLabels"] | {"_": obj["metadata"]["name"]}
        for obj in policies
    }
    out: set[tuple[str, str, int]] = set()
    into: set[tuple[str, str, int]] = set()
    for policy in policies:
        me = policy["metadata"]["name"]
        for direction, key, found in (("egress", "to", out), ("ingress", "from", into)):
            for rule in policy["spec"].get(direction, []):
                for other, mine in labels.items():
                    for port in rule["ports"]:
                        peers = rule.get(key)
                        if peers is None or any(_chooses(peer, mine) for peer in peers):
                            pair = (me, other) if direction == "egress" else (other, me)
                            found.add((*pair, port["port"]))
    return out & into


def _chooses(peer: Object, labels: dict[str, str]) -> bool:
    chosen = peer.get("podSelector", {}).get("matchLabels")
    return "namespaceSelector" not in peer and chosen is not None and chosen.items() <= labels.items()


def test_only_what_is_declared_may_speak(make: Any) -> None:
    objects = make("market", "dev").objects
    assert allowed(objects) == MARKET_ALLOWS
    deny = next(obj for obj in objects if obj["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    orders = next(o for o in objects if (o["kind"], o["metadata"]["name"]) == ("NetworkPolicy", "orders"))
    assert {"ipBlock": {"cidr": "203.0.113.0/24"}} in [peer for r in orders["spec"]["egress"] for peer in r["to"]]


def web(**more: Any) -> tuple[Service, Application]:
    service = Service("web", asgi=ASGI, **more)
    return service, Application("shop", services=[service], environments=[Environment("prod")])


def test_a_patch_changes_only_its_target() -> None:
    a, b = Service("a", asgi=ASGI), Service("b", asgi=ASGI)
    app = Application("shop", services=[a, b])
    app.patch(a, "Deployment")(lambda obj: obj["metadata"]["labels"].update(patched="yes"))
    app.patch(app, "Namespace")(lambda obj: {**obj, "metadata": {**obj["metadata"], "annotations": {"x": "y"}}})
    objects = compile_application(app, reference="m:a")
    patched = [obj for obj in objects if obj["metadata"]["labels"].get("patched")]
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in patched] == [("Deployment", "a")]
    assert objects[0]["metadata"]["annotations"] == {"x": "y"}


def test_a_patch_that_matches_nothing_fails_and_says_what_there_is() -> None:
    service, app = web()
    app.patch(service, "StatefulSet")(lambda obj: None)
    app.patch(service, "Deployment", name="wbe")(lambda obj: None)
    with pytest.raises(ModelError) as caught:
        compile_application(app, reference="m:a")
    assert len(caught.value.problems) == 2
    text = str(caught.value)
    assert "matches nothing" in text
    assert "Deployment, NetworkPolicy, Service, ServiceAccount" in text
    assert 'app.patch(service, "StatefulSet")' in text


def test_a_patch_must_leave_an_object() -> None:
    service, app = web()
    app.patch(service, "Deployment")(lambda obj: {"kind": "Deployment"})
    with pytest.raises(ModelError, match="no Kubernetes object"):
        compile_application(app, reference="m:a")


def test_a_patch_for_another_environment_waits() -> None:
    service, app = web()
    app.patch(service, "Deployment", environment="prod")(lambda obj: obj["metadata"].update(annotations={"x": "y"}))
    for environment, expected in (("dev", None), ("prod", {"x": "y"})):
        objects = compile_application(app, environment, reference="m:a")
        deployment = next(obj for obj in objects if obj["kind"] == "Deployment")
        assert deployment["metadata"].get("annotations") == expected


def test_mistakes_stop_the_compiler() -> None:
    app = Application("shop", services=[Service("web", asgi=ASGI, scale=Scale(0))])
    with pytest.raises(ModelError, match="at least 0 instances"):
        compile_application(app)
    with pytest.raises(ModelError, match="no environment 'staging'"):
        compile_application(web()[1], "staging")


def test_namespaces() -> None:
    app = Application("shop", environments=[Environment("prod"), Environment("test", namespace="t")], jobs=[])
    assert [namespace_of(app, name) for name in ("dev", "prod", "test")] == ["shop", "shop-prod", "t"]


def test_a_job_alone_is_an_application() -> None:
    objects = compile_application(Application("one", jobs=[Job("j", "json:dumps")]), reference="m:a")
    assert "Job" in {obj["kind"] for obj in objects}


def test_directories(tmp_path: Path, make: Any) -> None:
    case = make("market", "dev")
    first = writer.write(case.objects, tmp_path)
    assert {path.name for path in first} >= {
        "application.yaml",
        "service-orders.yaml",
        "messaging.yaml",
        "job-seed.yaml",
    }
    assert writer.check(case.objects, tmp_path) == []
    assert writer.write(case.objects, tmp_path) == []

    (tmp_path / "mine.yaml").write_text("kind: Mine\n")
    orders = tmp_path / "service-orders.yaml"
    orders.write_text(orders.read_text().replace("replicas: 2", "replicas: 9"))
    (tmp_path / "application.yaml").unlink()
    fewer = [obj for obj in case.objects if obj["metadata"]["labels"]["app.kubernetes.io/name"] != "mailer"]
    drifts = {drift.path.name: drift for drift in writer.check(fewer, tmp_path)}
    assert {name: drift.kind for name, drift in drifts.items()} == {
        "application.yaml": "missing",
        "service-orders.yaml": "changed",
        "service-mailer.yaml": "stale",
    }
    assert "-  replicas: 9\n+  replicas: 2" in drifts["service-orders.yaml"].diff
    writer.write(fewer, tmp_path)
    assert writer.check(fewer, tmp_path) == []
    assert (tmp_path / "mine.yaml").exists()
    assert not (tmp_path / "service-mailer.yaml").exists()


WHOLE = """
import sys
sys.path.insert(0, "examples/shop")
from shop.system import shop
from sampan.compile import Backing, compile_application, writer
for environment, backing in (("dev", Backing()), ("prod", None)):
    sys.stdout.write(writer.dump(compile_application(shop, environment, backing=backing)))
heavy = {"aiohttp", "sqlalchemy", "fastapi", "starlette", "asyncio"} & sys.modules.keys()
sys.exit(f"loaded {heavy}" if heavy else 0)
"""


def test_a_whole_process_is_quick_and_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    digests, times = set(), []
    for seed in ("0", "1", "2"):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", WHOLE],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=60,
            check=False,
        )
        after = os.times()
        used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        times.append(used)
        assert done.returncode == 0, done.stderr.decode()
        assert b"SAMPAN_APP\n          value: shop.system:shop" in done.stdout
        digests.add(hashlib.sha256(done.stdout).hexdigest())
    assert len(digests) == 1
    assert min(times) < 0.5  # processor seconds: what else the machine does must not decide
