"""Quantities, selectors, names, kinds."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import kinds, names, quantity, selectors


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"), ("1500m", "1500m"), ("1024Ki", "1Mi"), ("0.5", "500m"), ("1.5Gi", "1536Mi"), ("1e3", "1e3"),
        ("1E3", "1E3"), ("1023Ki", "1023Ki"), ("0.1Ki", "102400m"), ("1048576", "1048576"), ("2000", "2k"),
        ("0Mi", "0"),
        ("-500m", "-500m"), ("1.0", "1"), (2, "2"), (0.25, "250m"), ("0.0000000001", "1n"), ("1E", "1E"),
        (".5", "500m"),
        ("100M", "100M"), ("12e2", "1200"), ("+1", "+1"), ("1.500", "1.500"),
        ("1.000", "1"), ("1.", "1."), ("01Ki", "01Ki"), ("08Ki", "8Ki"), ("1e+3", "1e+3"),
        ("1e4", "10e3"), ("1e22", "10e21"),
        ("123456789012345678901", "123456789012345678901"), ("10E", "10E"), ("10Ei", "9223372036854775807"),
        ("12345678901234567890.5", "12345678901234567890500m"), (1e21, "1e+21"),
    ],
)  # fmt: skip
def test_canonical_quantities(text: str | float, canonical: str) -> None:
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize("text", ["", "a", "1 Gi", "1GiB", "1e", "--1", "1.2.3", "0x1", "1e999999999", "Infinity", "١"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(quantity.QuantityError):
        quantity.parse(text)


@given(st.decimals("0", "1000000", places=3), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi", "e2", "E-1"]))
def test_canonical_keeps_the_value_and_is_stable(number: Decimal, suffix: str) -> None:
    text = f"{number}{suffix}"
    canonical = quantity.canonical(text)
    assert quantity.canonical(canonical) == canonical
    assert quantity.parse(canonical) == quantity.parse(text)


@pytest.mark.parametrize(
    ("text", "rounded"),
    [("1.500", "1.500"), ("1n", "1m"), ("1.5000", "1500m"), ("0.0001", "1m"), ("1e-6", "1e-3"), ("2", "2")],
)
def test_amounts_in_lists_are_thousandths(text: str, rounded: str) -> None:
    assert quantity.in_list(text) == rounded


def test_units() -> None:
    assert (quantity.milli("1.5"), quantity.milli("1n"), quantity.to_bytes("1Ki"), quantity.to_bytes("100m")) == (
        1500, 1, 1024, 1,
    )  # fmt: skip
    total = quantity.parse("512Mi") + quantity.parse("512Mi")
    assert quantity.format_decimal(total, binary=True) == "1Gi"
    assert quantity.format_decimal(Decimal("0.3")) == "300m"


LABELS = {"app": "web", "tier": "front", "n": "5"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True), ("app=web", True), ("app==web", True), ("app!=web", False), ("other!=x", True), ("app", True),
        ("!app", False), ("!other", True), ("app in (web,db)", True), ("app notin (web, db)", False),
        ("other notin (a)", True), ("app=web,tier=back", False), ("n>4", True), ("n<5", False), ("app>4", False),
        ("x.io/app=web", False), ("app in (web),!x,tier", True), ("app=", False), (" app = web ", True),
    ],
)  # fmt: skip
def test_label_selectors(text: str, matches: bool) -> None:
    selector = selectors.parse_labels(text)
    assert selector.matches(LABELS) is matches
    assert selectors.parse_labels(str(selector)) == selector


@pytest.mark.parametrize(
    "text", ["=a", "a in b", "a in (b", "a=b c=d", ",", "a,,b", "a=-", "a=b,", "a>x", "/a", "a in (b c)"]
)
def test_bad_label_selectors(text: str) -> None:
    with pytest.raises(selectors.SelectorError):
        selectors.parse_labels(text)


def test_selector_objects() -> None:
    make = selectors.from_label_selector
    assert make(None) == selectors.NOTHING
    assert not make(None).matches(LABELS)
    assert make({}).matches({})
    rows = [{"key": "tier", "operator": "In", "values": ["front"]}, {"key": "x", "operator": "DoesNotExist"}]
    assert make({"matchLabels": {"app": "web"}, "matchExpressions": rows}).matches(LABELS)
    with pytest.raises(selectors.SelectorError, match="not a valid label selector operator"):
        make({"matchExpressions": [{"key": "a", "operator": "Near"}]})
    with pytest.raises(selectors.SelectorError, match="must be specified"):
        make({"matchExpressions": [{"key": "a", "operator": "In"}]})
    assert not selectors.from_labels(None).matches({})


def test_field_selectors() -> None:
    pod = {"metadata": {"name": "a"}, "spec": {"nodeName": ""}, "status": {"phase": "Running"}}
    selector = selectors.parse_fields("metadata.name=a,status.phase!=Failed,spec.nodeName=")
    assert selector.matches(pod)
    assert selector.exact("metadata.name") == "a"
    assert not selectors.parse_fields("metadata.namespace=x").matches(pod)
    assert selectors.parse_fields(r"a=x\,y\=z").terms[0].value == "x,y=z"
    with pytest.raises(selectors.SelectorError):
        selectors.parse_fields("metadata.name")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.dns1123_label, "a-1", "A"), (names.dns1123_label, "1a", "a" * 64), (names.dns1123_label, "a", "a.b"),
        (names.dns1123_subdomain, "a.b-c.1", "a..b"), (names.dns1123_subdomain, "a", "a_b"),
        (names.dns1035_label, "a1", "1a"), (names.qualified_name, "x.io/a_B.c", "x.io/"),
        (names.qualified_name, "a", "a/b/c"), (names.qualified_name, "A", "-a"), (names.label_value, "", "a b"),
        (names.label_value, "A.b_c-1", "x" * 64), (names.config_key, "a.b_C-1", "a/b"), (names.config_key, ".a", ".."),
        (names.port_name, "http-1", "1"), (names.path_segment, "system:x", "a/b"),
        (names.environment_name, "A b", "A=B"), (names.dns1123_label, "a", "a\n"),
    ],
)  # fmt: skip
def test_names(check: object, good: str, bad: str) -> None:
    assert callable(check)
    assert check(good) == []
    assert check(bad)


def test_names_say_it_as_upstream_does() -> None:
    assert names.dns1123_subdomain("Web_1") == [
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
        r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    ]
    cause = names.label_map({"a": "b c"})[0]
    assert cause.message.startswith('Invalid value: "b c": a valid label must be')


def test_kinds() -> None:
    assert kinds.DEPLOYMENT.path("shop", "web", "scale") == "/apis/apps/v1/namespaces/shop/deployments/web/scale"
    assert kinds.NODE.path("ignored", "n") == "/api/v1/nodes/n"
    assert kinds.DEPLOYMENT.group_plural == "deployments.apps"
    assert kinds.find("v1", "Pod") is kinds.POD
    assert kinds.find_plural("apps", "v1", "deployments") is kinds.DEPLOYMENT
    assert kinds.find("v1", "Nothing") is None
    assert len({(r.group, r.version, r.plural) for r in kinds.BUILTIN}) == len(kinds.BUILTIN) >= 50
