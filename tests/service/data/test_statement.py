"""Statements as their users write them, and what each engine is sent."""

from __future__ import annotations

import pytest

from sampan.model.data import ParameterError
from sampan.service.data.rows import Encoders
from sampan.service.data.statement import Statement, Statements


@pytest.mark.parametrize(
    ("engine", "text", "sql", "order"),
    [
        ("mysql", "SELECT :a, :b, :a", "SELECT ?, ?, ?", "aba"),
        ("postgresql", "SELECT :a, :b, :a", "SELECT $1, $2, $1", "ab"),
        ("sqlite", "SELECT :a", "SELECT ?", "a"),
        ("postgresql", "SELECT :a::int, x::text", "SELECT $1::int, x::text", "a"),
        ("postgresql", "SELECT x[1:2], y[:a]", "SELECT x[1:2], y[$1]", "a"),
        ("postgresql", "SELECT $$ :no $$, $x$ :no $x$, :a", "SELECT $$ :no $$, $x$ :no $x$, $1", "a"),
        ("postgresql", "SELECT E'\\':no', :a", "SELECT E'\\':no', $1", "a"),
        ("mysql", "SELECT ':no', \":no\", `:no`, @x := :a", "SELECT ':no', \":no\", `:no`, @x := ?", "a"),
        ("mysql", "SELECT 'it\\'s :no', :a", "SELECT 'it\\'s :no', ?", "a"),
        ("mysql", "SELECT 1 # :no\n, :a -- :no\n/* :no */", "SELECT 1 # :no\n, ? -- :no\n/* :no */", "a"),
        ("sqlite", "SELECT 'it''s :no', '\\', :a", "SELECT 'it''s :no', '\\', ?", "a"),
        ("sqlite", "SELECT * FROM t WHERE a = :a FOR UPDATE SKIP LOCKED", "SELECT * FROM t WHERE a = ?", "a"),
        ("postgresql", "SELECT '12:30'::time, :a", "SELECT '12:30'::time, $1", "a"),
    ],
)  # fmt: skip
def test_parameters(engine: str, text: str, sql: str, order: str) -> None:
    statement = Statement(text, engine)
    assert statement.sql == sql
    assert "".join(statement.order) == order


@pytest.mark.parametrize(
    ("text", "verb", "table", "reads"),
    [
        ("select * from users where 1", "SELECT", "users", True),
        ("  -- why\n (SELECT 1)", "SELECT", "", True),
        ("SELECT * FROM a FOR UPDATE", "SELECT", "a", False),
        ("SELECT * FROM a FOR NO KEY UPDATE OF a NOWAIT", "SELECT", "a", False),
        ("INSERT INTO `users` VALUES (1)", "INSERT", "users", False),
        ('UPDATE "s"."users" SET a = 1', "UPDATE", "s.users", False),
        ("WITH x AS (DELETE FROM t RETURNING id) SELECT * FROM x", "WITH", "t", False),
        ("", "", "", False),
    ],
)
def test_what_a_statement_does(text: str, verb: str, table: str, reads: bool) -> None:
    statement = Statement(text, "postgresql")
    assert (statement.verb, statement.table, statement.reads) == (verb, table, reads)


def test_literals_are_not_told() -> None:
    assert Statement("SELECT * FROM t WHERE a = 'hush''x' AND b IN (1, 2.5)", "mysql").shape == (
        "SELECT * FROM t WHERE a = ? AND b IN (?, ?)"
    )


def test_a_value_that_cannot_be_encoded_is_not_quoted() -> None:
    with pytest.raises(ParameterError) as caught:
        Statement("SELECT :a", "mysql").arguments({"a": [object(), "hush"]}, Encoders("mysql"))
    assert "hush" not in str(caught.value)


def test_the_cache_is_bounded() -> None:
    known = Statements("sqlite")
    for number in range(5000):
        known[f"SELECT {number}"]
    assert len(known) <= 2000
    assert known["SELECT 1"] is known["SELECT 1"]
