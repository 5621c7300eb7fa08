"""Addresses and families of Services: what may be asked for, what goes together, what an update keeps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.kubernetes.test_details import core
from tests.conformance.kubernetes.wire import MERGE, Reply, Wire

Object = dict[str, Any]
NO_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
OUTSIDE = "the provided network does not match the current range"


def create(wire: Wire, ns: str, **spec: Any) -> Reply:
    return wire.post(core(ns, "services"), {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], **spec}})


def said(reply: Reply) -> set[tuple[str, str]]:
    """(field, what is wrong with it)."""
    assert reply.code == 422, reply
    return {(field, message.partition(": ")[2].partition(": ")[2]) for _, field, message in reply.causes}


@pytest.mark.parametrize(
    ("spec", "causes"),
    [
        ({"clusterIP": "1"}, {("spec.clusterIPs[0]", NO_ADDRESS)}),
        ({"clusterIP": "010.9.8.7"}, {("spec.clusterIPs[0]", "must not have leading 0s")}),
        ({"clusterIP": "192.0.2.1"}, {("spec.clusterIPs", f"failed to allocate IP 192.0.2.1: {OUTSIDE}")}),
        (
            {"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.2"]},
            {("spec.clusterIPs", "first value must match `clusterIP`")},
        ),
        ({"clusterIPs": ["192.0.2.1"]}, {("spec.clusterIPs", "must be empty when `clusterIP` is not specified")}),
        (
            {"clusterIP": "None", "clusterIPs": ["None", "fd00::1"]},
            {("spec.clusterIPs", "'None' must be the first and only value")},
        ),
        (
            {"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1", "192.0.2.2"]},
            {("spec.clusterIPs", "may specify no more than one IP for each IP family")},
        ),
        ({"clusterIP": "fd00::1"}, {("spec.clusterIPs[0]", "IPv6 is not configured on this cluster")}),
        (
            {"clusterIP": "fd00::1", "ipFamilies": ["IPv4"]},
            {("spec.clusterIPs[0]", "expected an IPv4 value as indicated by `ipFamilies[0]`")},
        ),
        (
            {"ipFamilies": ["IPv4", "IPv6"]},
            {
                (
                    "spec.ipFamilyPolicy",
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
                )
            },
        ),
        (
            {"ipFamilies": ["x"], "ipFamilyPolicy": "y"},
            {
                ("spec.ipFamilies[0]", 'supported values: "IPv4", "IPv6"'),
                (
                    "spec.ipFamilyPolicy",
                    'supported values: "PreferDualStack", "RequireDualStack", "SingleStack"',
                ),
            },
        ),
    ],
)
def test_addresses_and_families_that_are_refused(
    wire: Wire, ns: str, spec: Object, causes: set[tuple[str, str]]
) -> None:
    assert said(create(wire, ns, **spec)) == causes


@pytest.mark.parametrize(
    ("spec", "families", "policy"),
    [
        ({"ipFamilyPolicy": "PreferDualStack"}, ["IPv4"], "PreferDualStack"),
        ({"clusterIP": "None", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"], "RequireDualStack"),
        ({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}, ["IPv4"], "SingleStack"),
    ],
)
def test_families_that_a_service_has(wire: Wire, ns: str, spec: Object, families: list[str], policy: str) -> None:
    made = create(wire, ns, **spec)
    assert (made.code, made["spec"]["ipFamilies"], made["spec"]["ipFamilyPolicy"]) == (201, families, policy)


def test_an_external_name_has_no_families(wire: Wire, ns: str) -> None:
    refused = create(wire, ns, type="ExternalName", externalName="x.example.com", ipFamilies=["IPv4"])
    assert {(field, message) for _, field, message in refused.causes} == {
        ("spec.ipFamilies", "Forbidden: may not be set for ExternalName services")
    }


def test_the_first_address_stays(wire: Wire, ns: str) -> None:
    path, address = f"{core(ns, 'services')}/s", create(wire, ns)["spec"]["clusterIP"]
    for spec, field, fault in (
        ({"clusterIP": "192.0.2.1"}, "spec.clusterIPs[0]", "may not change once set"),
        ({"clusterIP": "None"}, "spec.clusterIPs[0]", "may not change once set"),
        ({"clusterIPs": ["192.0.2.1"]}, "spec.clusterIPs", "first value must match `clusterIP`"),
        ({"clusterIP": "1"}, "spec.clusterIPs[0]", NO_ADDRESS),
    ):
        assert said(wire.patch(path, {"spec": spec}, MERGE)) == {(field, fault)}
    for left in ({"clusterIP": None}, {"clusterIPs": None}, {"clusterIP": None, "clusterIPs": None}):
        kept = wire.patch(path, {"spec": left}, MERGE)
        assert (kept.code, kept["spec"]["clusterIPs"]) == (200, [address])


@pytest.mark.parametrize(
    ("cidr", "fault"),
    [
        ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
        ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
        ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
    ],
)
def test_networks_are_written_in_one_way(wire: Wire, ns: str, cidr: str, fault: str) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"
    spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}
    refused = wire.post(path, {"metadata": {"name": "p"}, "spec": spec})
    assert said(refused) == {("spec.ingress[0].from[0].ipBlock.cidr", fault)}
    refused = create(wire, ns, type="LoadBalancer", loadBalancerSourceRanges=[f" {cidr} "])
    assert said(refused) == {("spec.LoadBalancerSourceRanges[0]", fault)}


@pytest.mark.parametrize(
    ("family", "address", "field", "fault"),
    [
        ("IPv4", "fd00::1", "endpoints[0].addresses", "must be an IPv4 address"),
        ("IPv6", "192.0.2.1", "endpoints[0].addresses", "must be an IPv6 address"),
        ("IPv6", "FD00::1", "endpoints[0].addresses[0]", 'must be in canonical form ("fd00::1")'),
        ("IPv4", "192.0.2.01", "endpoints[0].addresses[0]", "must not have leading 0s"),
        (
            "IPv4", "224.0.0.1", "endpoints[0].addresses[0]",
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ],
)  # fmt: skip
def test_addresses_of_a_slice(wire: Wire, ns: str, family: str, address: str, field: str, fault: str) -> None:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices"
    body = {"metadata": {"name": "s"}, "addressType": family, "endpoints": [{"addresses": [address]}]}
    assert said(wire.post(path, body)) == {(field, fault)}
