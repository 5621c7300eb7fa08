"""Rules in CEL of custom kinds: faults told when a definition is written, and what objects may be written by them."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

from tests.conformance.kubernetes.conftest import eventually
from tests.conformance.kubernetes.wire import Wire

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WHERE = "spec.validation.openAPIV3Schema.properties[spec]"
RULES = "x-kubernetes-validations"
_counter = itertools.count()
FIELDS: dict[str, Any] = {
    "a": {"type": "integer"},
    "n": {"type": "number"},
    "s": {"type": "string", "maxLength": 40},
    "l": {"type": "array", "maxItems": 5, "items": {"type": "integer"}},
    "t": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 9}},
    "m": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}},
    "q": {"x-kubernetes-int-or-string": True},
    "d": {"type": "string", "format": "date-time"},
    "x-y": {"type": "integer"},
    "namespace": {"type": "string", "maxLength": 9},
}


def definition(spec: dict[str, Any], group: str = "cel.example.com") -> dict[str, Any]:
    name = f"r{next(_counter)}x{os.getpid()}"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{name}s.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": f"{name}s", "kind": name.title()},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
                }
            ],
        },
    }


class Served:
    """A kind being served: its objects are written by the `spec` they are to have."""

    def __init__(self, wire: Wire, spec: dict[str, Any]) -> None:
        self.wire = wire
        self.crd = definition(spec)
        made = wire.post(DEFINITIONS, self.crd)
        assert made.code == 201, made
        names = self.crd["spec"]["names"]
        self.path, self.kind = f"/apis/cel.example.com/v1/{names['plural']}", names["kind"]
        eventually(lambda: wire.get(self.path).code == 200)

    def create(self, name: str = "a", **spec: Any) -> Any:
        body = {"apiVersion": "cel.example.com/v1", "kind": self.kind, "metadata": {"name": name}, "spec": spec}
        return eventually(lambda: (r := self.wire.post(self.path, body)).code != 404 and r)

    def patch(self, name: str = "a", **spec: Any) -> Any:
        return self.wire.patch(f"{self.path}/{name}", {"spec": spec})

    def remove(self) -> None:
        self.wire.delete(f"{DEFINITIONS}/{self.crd['metadata']['name']}")


def refused(wire: Wire, rule: dict[str, Any]) -> list[tuple[str, str, str]]:
    spec = {"type": "object", "properties": FIELDS, RULES: [rule]}
    reply = wire.post(DEFINITIONS, definition(spec))
    assert reply.code == 422, reply
    return reply.causes


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("self.zz > 1", "ERROR: <input>:1:5: undefined field 'zz'\n | self.zz > 1\n | ....^"),
        ("self.a > 's'", "ERROR: <input>:1:8: found no matching overload for '_>_' applied to '(int, string)'\n"),
        ("self.a == self.s", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.n == 1", "found no matching overload for '_==_' applied to '(double, int)'"),
        ("foo == 1", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')"),
        ("self.s.foo()", "ERROR: <input>:1:11: undeclared reference to 'foo' (in container '')"),
        ("self.a >", "ERROR: <input>:1:9: Syntax error: mismatched input '<EOF>'"),
        (
            "self.l.all(x, x > 'a')",
            "ERROR: <input>:1:17: found no matching overload for '_>_' applied to '(int, string)'",
        ),
        ("has(self.a.b)", "ERROR: <input>:1:4: type 'int' does not support field selection"),
        ("self.a && true", "ERROR: <input>:1:5: expected type 'bool' but found 'int'"),
        ("self.m['x'] == 'a'", "ERROR: <input>:1:13: found no matching overload for '_==_' applied to '(int, string)'"),
        ("size(self.a) == 1", "ERROR: <input>:1:5: found no matching overload for 'size' applied to '(int)'"),
        ("self.a in self.t", "found no matching overload for '@in' applied to '(int, list(string))'"),
        ("self.s.matches('(')", "ERROR: <input>:1:16: invalid matches argument"),
        ("duration('x') == duration('1s')", "ERROR: <input>:1:10: invalid duration argument"),
        ("quantity('x') == 1", "applied to '(kubernetes.Quantity, int)'"),
        ("self.a", "cel expression must evaluate to a bool"),
    ],
)
def test_a_rule_that_does_not_compile_is_refused(wire: Wire, rule: str, message: str) -> None:
    ((reason, field, text),) = refused(wire, {"rule": rule})
    assert (reason, field) == ("FieldValueInvalid", f"{WHERE}.{RULES}[0].rule")
    assert message in text
    assert text.startswith('Invalid value: {"Rule":')


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"rule": ""}, ("FieldValueRequired", "rule", "Required value: rule is not specified")),
        ({"message": "a\nb"}, ("FieldValueInvalid", "message", 'Invalid value: "a\\nb": must not contain line breaks')),
        ({"message": " "}, ("FieldValueInvalid", "message", 'Invalid value: " ": must be non-empty if specified')),
        ({"fieldPath": ".zz"}, ("FieldValueInvalid", "fieldPath", 'Invalid value: ".zz": must be a valid path')),
        (
            {"optionalOldSelf": True},
            (
                "FieldValueInvalid",
                "optionalOldSelf",
                "Invalid value: true: may not be set if oldSelf is not used in rule",
            ),
        ),
        (
            {"reason": "Nope"},
            (
                "FieldValueNotSupported",
                "reason",
                'Unsupported value: "Nope": supported values: "FieldValueDuplicate", "FieldValueForbidden",'
                ' "FieldValueInvalid", "FieldValueRequired"',
            ),
        ),
    ],
)
def test_the_words_of_a_rule_are_checked(wire: Wire, row: dict[str, Any], cause: tuple[str, str, str]) -> None:
    reason, field, message = cause
    assert refused(wire, {"rule": "self.a < 1", **row}) == [(reason, f"{WHERE}.{RULES}[0].{field}", message)]


def test_a_message_expression_is_checked(wire: Wire) -> None:
    for text, words in (("self.a", "messageExpression must evaluate to a string"), ("self.zz", "undefined field 'zz'")):
        ((_, field, message),) = refused(wire, {"rule": "self.a < 1", "messageExpression": text})
        assert field == f"{WHERE}.{RULES}[0].messageExpression"
        assert words in message


def test_a_transition_rule_needs_a_list_with_keys(wire: Wire) -> None:
    item: dict[str, Any] = {
        "type": "object",
        "properties": {"k": {"type": "string"}, "a": {"type": "integer"}},
        "required": ["k"],
    }
    item[RULES] = [{"rule": "self.a == oldSelf.a"}]
    atomic = {"type": "array", "maxItems": 3, "items": item}
    reply = wire.post(DEFINITIONS, definition({"type": "object", "properties": {"l": atomic}}))
    assert reply.causes == [
        (
            "FieldValueInvalid",
            f"{WHERE}.properties[l].items.{RULES}[0].rule",
            'Invalid value: "self.a == oldSelf.a": oldSelf cannot be used on the uncorrelatable portion of the schema'
            f" within {WHERE}.properties[l]",
        )
    ]
    keyed = {**atomic, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
    served = Served(wire, {"type": "object", "properties": {"l": keyed}})
    assert served.create(l=[{"k": "x", "a": 1}, {"k": "y", "a": 2}]).code == 201
    assert served.patch(l=[{"k": "z", "a": 5}, {"k": "y", "a": 2}]).code == 200, "a new element has no past"
    reply = served.patch(l=[{"k": "z", "a": 5}, {"k": "y", "a": 3}])
    assert reply.causes == [("FieldValueInvalid", "spec.l[1]", "Invalid value: failed rule: self.a == oldSelf.a")]
    served.remove()


def test_what_a_failed_rule_says(wire: Wire) -> None:
    small = {"rule": "self < 10"}
    served = Served(
        wire,
        {
            "type": "object",
            "properties": {
                **FIELDS,
                "a": {"type": "integer", RULES: [small]},
                "s": {
                    **FIELDS["s"],
                    RULES: [{"rule": "self != 'no'", "reason": "FieldValueForbidden", "message": "not no"}],
                },
                "t": {
                    **FIELDS["t"],
                    RULES: [
                        {
                            "rule": "self.all(x, x.startsWith('a'))",
                            "messageExpression": "'bad: ' + self[0]",
                            "reason": "FieldValueDuplicate",
                        }
                    ],
                },
                "e": {"type": "string", "enum": ["x"]},
            },
            RULES: [
                {"rule": "self.a + 1 < 9", "fieldPath": ".n", "message": "small", "reason": "FieldValueRequired"},
                {"rule": "self.m['z'] == 1"},
                {"rule": "!has(self.q) || self.q == 3", "messageExpression": "'it is ' + string(self.q)"},
            ],
        },
    )
    reply = served.create(a=1, s="no", t=["b"], m={"z": 2}, q="x")
    assert reply.causes == [
        ("FieldValueDuplicate", "spec.t", "Duplicate value"),
        ("FieldValueForbidden", "spec.s", "Forbidden: not no"),
        ("FieldValueInvalid", "spec", "Invalid value: failed rule: self.m['z'] == 1"),
        ("FieldValueInvalid", "spec", "Invalid value: it is x"),
    ]
    reply = served.create(a=20, m={})
    assert reply.causes == [
        ("FieldValueInvalid", "spec", "Invalid value: \"object\": no such key: z evaluating rule: self.m['z'] == 1"),
        ("FieldValueInvalid", "spec.a", "Invalid value: 20: failed rule: self < 10"),
        ("FieldValueRequired", "spec.n", "Required value: small"),
    ]
    reply = served.create(a=20, m={}, e="y")
    assert [cause[1] for cause in reply.causes] == ["<nil>", "spec.e"], "rules wait for the schema"
    assert served.create(a=1, m={"z": 1}, q=3).code == 201
    served.remove()


def test_rules_over_the_past(wire: Wire) -> None:
    served = Served(
        wire,
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}},
            RULES: [
                {"rule": "self.a == oldSelf.a", "message": "immutable"},
                {"rule": "!oldSelf.hasValue() || self.b >= oldSelf.value().b", "optionalOldSelf": True},
                {"rule": "oldSelf.hasValue() || self.c == 0", "optionalOldSelf": True, "message": "starts at 0"},
            ],
        },
    )
    assert served.create(a=1, b=1, c=1).causes == [("FieldValueInvalid", "spec", "Invalid value: starts at 0")]
    assert served.create(a=1, b=1, c=0).code == 201
    assert served.patch(a=2).causes == [("FieldValueInvalid", "spec", "Invalid value: immutable")]
    assert served.patch(b=0).code == 422
    assert served.patch(b=2, c=7).code == 200
    served.remove()


LIBRARY = [
    "self.l.sum() == 6 && self.l.min() == 1 && self.l.max() == 3 && self.l.isSorted() && self.l.indexOf(3) == 2",
    "self.s.find('[0-9]+') == '12' && self.s.findAll('[a-z]').size() == 2 && self.s.matches('^a')",
    "url('https://h:80/p?k=v').getHost() == 'h:80' && url('https://h:80/p').getPort() == '80' && isURL('/a')",
    "url('https://h/p?k=v&k=w').getQuery() == {'k': ['v', 'w']} && !isURL('../a')",
    "quantity('1').isGreaterThan(quantity('500m')) && quantity('1k').asInteger() == 1000 && !isQuantity('1x')",
    "quantity('50k').add(20) == quantity('50020') && quantity('1').compareTo(quantity('1000m')) == 0",
    "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && !isIP('1.2.3') && ip.isCanonical('::1')",
    "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
    "cidr('10.1.0.0/8').masked().ip() == ip('10.0.0.0') && cidr('10.0.0.0/8').prefixLength() == 8",
    "!format.dns1123Label().validate('a-b').hasValue() && format.dns1123Label().validate('A').hasValue()",
    "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('1.2')",
    "self.d.getFullYear() == 2024 && self.d < timestamp('2030-01-01T00:00:00Z') && duration('90m').getHours() == 1",
    "self.d + duration('24h') == timestamp('2024-02-03T03:04:05Z')",
    "type(self.q) == int && self.q == 5 && self.x__dash__y == 4 && self.__namespace__ == 'ns'",
    "self.n == 2.0 && self.n + 0.5 == 2.5 && self.a / 2 == 1 && -self.a % 2 == -1",
    "self.m.all(k, self.m[k] > 0) && self.m.exists(k, k == 'z') && 'z' in self.m && !has(self.m.none)",
    "self.l.map(x, x * 2) == [2, 4, 6] && self.l.filter(x, x > 1).size() == 2 && self.l.exists_one(x, x == 1)",
    "self.l.all(i, v, v == i + 1) && self.l.transformList(i, v, i + v) == [1, 3, 5]",
    "self.?a.orValue(9) == 3 && self.m[?'none'].orValue(7) == 7 && optional.of(1).hasValue()",
    "'a,b'.split(',') == ['a', 'b'] && 'AbC'.lowerAscii() == 'abc'",
    "' x '.trim() == 'x' && 'hello'.replace('l', 'L') == 'heLLo' && 'hello'.substring(1, 3) == 'el'",
    "'%s is %d'.format(['x', 3]) == 'x is 3' && 'abc'.charAt(1) == 'b' && 'abcb'.lastIndexOf('b') == 3",
    "sets.contains(self.l, [1, 2]) && sets.intersects(self.l, [3, 9]) && sets.equivalent([1, 1], [1])",
    "(self.a == 3 ? 'yes' : 'no') == 'yes' && (1 / 0 == 1 || true) && !(false && 1 / 0 == 1)",
    "string(self.a) == '3' && int('4') == 4 && double('1.5') == 1.5 && bool('true') && size('abc') == 3",
    r"'\u0041\n'.size() == 2 && r'\n'.size() == 2 && b'ab'.size() == 2",
]


@pytest.mark.parametrize("begin", range(0, len(LIBRARY), 5))
def test_the_libraries(wire: Wire, begin: int) -> None:
    """Each line is a claim of its own: all of them hold of one object."""
    rules = [{"rule": rule} for rule in LIBRARY[begin : begin + 5]]
    served = Served(wire, {"type": "object", "properties": FIELDS, RULES: rules})
    spec: dict[str, Any] = {"a": 3, "n": 2, "s": "ab12", "l": [1, 2, 3], "t": ["a"], "m": {"z": 1}, "q": 5, "x-y": 4}
    reply = served.create(**spec, d="2024-02-02T03:04:05Z", namespace="ns")
    assert reply.code == 201, reply
    served.remove()


def test_lists_of_kinds_are_equal_in_any_order(wire: Wire) -> None:
    names = {
        "type": "array",
        "maxItems": 4,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 9},
    }
    spec = {"type": "object", "properties": {"l": names}, RULES: [{"rule": "self.l == ['b', 'a']"}]}
    served = Served(wire, spec)
    assert served.create(l=["a", "b"]).code == 201
    assert served.create("b", l=["a", "c"]).code == 422
    served.remove()


def test_a_rule_of_the_whole_object_sees_its_name(wire: Wire) -> None:
    crd = definition({"type": "object", "properties": {"a": {"type": "integer"}}})
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"][RULES] = [
        {"rule": "self.metadata.name.startsWith('a')", "message": "begin with a"}
    ]
    assert wire.post(DEFINITIONS, crd).code == 201
    path = f"/apis/cel.example.com/v1/{crd['spec']['names']['plural']}"
    eventually(lambda: wire.get(path).code == 200)
    body = {"apiVersion": "cel.example.com/v1", "kind": crd["spec"]["names"]["kind"], "metadata": {"name": "b"}}
    reply = eventually(lambda: (r := wire.post(path, body)).code != 404 and r)
    assert reply.causes == [("FieldValueInvalid", "<nil>", "Invalid value: begin with a")] or reply.causes == [
        ("FieldValueInvalid", "", "Invalid value: begin with a")
    ], reply
    wire.delete(f"{DEFINITIONS}/{crd['metadata']['name']}")
