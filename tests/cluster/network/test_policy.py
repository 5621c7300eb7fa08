"""NetworkPolicies mean what the API says they mean; no kernel takes part."""

from __future__ import annotations

from typing import Any

from sampan.cluster.network.policy import Isolation, Pod, isolate, may
from sampan.cluster.network.rules import Service, refused_sources

NAMESPACES = {"shop": {"kubernetes.io/metadata.name": "shop"}, "other": {"team": "other"}}
WEB, DB, BATCH, GUEST = (
    Pod("10.64.1.1", "shop", {"app": "web"}, {(6, "http"): 8080}),
    Pod("10.64.1.2", "shop", {"app": "db"}, {(6, "sql"): 3306}),
    Pod("10.64.1.3", "shop", {"app": "batch"}, {(6, "http"): 9090}),
    Pod("10.64.2.1", "other", {"app": "web"}, {(6, "http"): 7070}),
)
PODS = (WEB, DB, BATCH, GUEST)
TCP, UDP = 6, 17


def policy(spec: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": spec}


def isolated(*policies: dict[str, Any]) -> Isolation:
    return isolate(policies, NAMESPACES, PODS)


def reaches(found: Isolation, source: Pod, target: Pod, port: int = 8080, protocol: int = TCP) -> bool:
    return may(found, source.ip, target.ip, protocol, port)


def app(name: str) -> dict[str, Any]:
    return {"matchLabels": {"app": name}}


def test_without_a_policy_everything_is_allowed() -> None:
    assert all(reaches(isolated(), a, b) for a in PODS for b in PODS)


def test_default_deny_isolates_its_namespace_alone() -> None:
    found = isolated(policy({"podSelector": {}, "policyTypes": ["Ingress"]}))
    assert not reaches(found, GUEST, WEB)
    assert not reaches(found, WEB, DB)
    assert reaches(found, WEB, GUEST)


def test_policies_add_up_and_both_ends_must_allow() -> None:
    deny = policy({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
    into_db = policy({"podSelector": app("db"), "ingress": [{"from": [{"podSelector": app("web")}]}]})
    out_of_web = policy(
        {"podSelector": app("web"), "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": app("db")}]}]}
    )
    assert not reaches(isolated(deny, into_db), WEB, DB)
    assert not reaches(isolated(deny, out_of_web), WEB, DB)
    assert reaches(isolated(deny, into_db, out_of_web), WEB, DB)
    assert not reaches(isolated(deny, into_db, out_of_web), BATCH, DB)


def test_a_pod_selector_alone_means_the_own_namespace() -> None:
    rule = {"podSelector": app("db"), "ingress": [{"from": [{"podSelector": app("web")}]}]}
    found = isolated(policy(rule))
    assert (reaches(found, WEB, DB), reaches(found, GUEST, DB)) == (True, False)
    rule["ingress"] = [{"from": [{"namespaceSelector": {}, "podSelector": app("web")}]}]
    assert reaches(isolated(policy(rule)), GUEST, DB)
    rule["ingress"] = [{"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}]}]
    found = isolated(policy(rule))
    assert (reaches(found, WEB, DB), reaches(found, GUEST, DB)) == (False, True)


def test_an_empty_rule_allows_all_and_no_rule_nothing() -> None:
    assert reaches(isolated(policy({"podSelector": {}, "ingress": [{}]})), GUEST, WEB)
    assert not reaches(isolated(policy({"podSelector": {}, "ingress": []})), GUEST, WEB)


def test_a_named_port_is_each_pods_own() -> None:
    into = {"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}
    found = isolated(policy(into))
    assert (reaches(found, DB, WEB, 8080), reaches(found, DB, BATCH, 9090)) == (True, True)
    assert (reaches(found, DB, WEB, 9090), reaches(found, WEB, DB, 3306)) == (False, False)
    out = {"podSelector": app("db"), "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]}
    found = isolated(policy(out))
    assert (reaches(found, DB, WEB, 8080), reaches(found, DB, WEB, 9090)) == (True, False)
    assert (reaches(found, DB, GUEST, 7070), reaches(found, DB, GUEST, 8080)) == (True, False)


def test_protocols_and_ranges() -> None:
    ports = [{"port": 8000, "endPort": 8010}, {"protocol": "UDP", "port": 53}, {"protocol": "UDP", "port": 5353}]
    found = isolated(policy({"podSelector": app("web"), "ingress": [{"ports": ports}]}))
    said = [reaches(found, DB, WEB, port) for port in (7999, 8000, 8010, 8011, 53)]
    assert said == [False, True, True, False, False]
    assert (reaches(found, DB, WEB, 53, UDP), reaches(found, DB, WEB, 8000, UDP)) == (True, False)
    only = isolated(policy({"podSelector": app("web"), "ingress": [{"ports": [{"protocol": "UDP"}]}]}))
    assert (reaches(only, DB, WEB, 1, UDP), reaches(only, DB, WEB, 1)) == (True, False)


def test_blocks_and_their_exceptions() -> None:
    block = {"ipBlock": {"cidr": "10.64.0.0/16", "except": ["10.64.2.0/24"]}}
    found = isolated(policy({"podSelector": app("db"), "ingress": [{"from": [block]}]}))
    assert (reaches(found, WEB, DB), reaches(found, GUEST, DB)) == (True, False)
    out = {
        "podSelector": app("db"),
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "1.2.3.0/24"}}]}],
    }
    found = isolated(policy(out))
    assert (may(found, DB.ip, "1.2.3.4", TCP, 443), may(found, DB.ip, "1.2.4.4", TCP, 443)) == (True, False)


def test_a_service_is_refused_to_who_may_not_reach_every_pod_behind_it() -> None:
    found = isolated(policy({"podSelector": app("db"), "ingress": [{"from": [{"podSelector": app("web")}]}]}))
    addresses = frozenset(pod.ip for pod in PODS)
    mixed = Service(("127.64.128.1",), 80, ((WEB.ip, 8080), (DB.ip, 8080)))
    assert refused_sources(found, addresses, mixed) == {DB.ip, BATCH.ip, GUEST.ip}
    assert not refused_sources(found, addresses, Service(("127.64.128.1",), 80, ((WEB.ip, 8080),)))
    closed = isolated(policy({"podSelector": app("web"), "policyTypes": ["Egress"], "egress": []}))
    assert refused_sources(closed, addresses, mixed) == {WEB.ip}
