"""The engine of expressions by itself: what it costs at most, and that nothing but its own faults comes out of it."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.cluster.apiserver.cel import DYN, EvaluationFault, SyntaxFault, compile_program


def evaluate(text: str, **values: Any) -> Any:
    return compile_program(text, dict.fromkeys(values, DYN)).evaluate(values)


def test_an_evaluation_has_a_budget() -> None:
    nested = "l.all(a, l.all(b, l.all(c, l.all(d, true))))"
    with pytest.raises(EvaluationFault, match="cost limit exceeded"):
        evaluate(nested, l=list(range(100)))


@pytest.mark.parametrize(
    "text",
    [
        "{v: 1} == {}", "v[v]", "v + 1", "v.a.b", "v.sum()", "1 / 0", "9223372036854775807 + 1", "int('x')",
        "v.all(x, x)",
        "duration(v)", "quantity('x')", "ip('x')", "timestamp(v)", "'a'.matches(v)", "-v", "!v", "v ? 1 : 2",
        "optional.none().value()", "v.getHours('Nowhere')", "[1].min() > v", "'%d'.format(['x'])", "'a'.substring(5)",
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_a_fault_of_its_own(text: str) -> None:
    with pytest.raises(EvaluationFault):
        evaluate(text, v=[None, {"a": 1}])


@pytest.mark.parametrize("text", ["", "1 +", "(", "[1", "{1:", "a b", "'x", "1 ? 2", "@", "f(", "x.", "((" * 40, "1u2"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(SyntaxFault, match=r"ERROR: <input>:1:\d+: "):
        evaluate(text)


def test_one_side_may_make_the_fault_of_the_other_irrelevant() -> None:
    assert evaluate("1 / v == 1 || true", v=0) is True
    assert evaluate("1 / v == 1 && false", v=0) is False
    with pytest.raises(EvaluationFault, match="division by zero"):
        evaluate("1 / v == 1 || false", v=0)
