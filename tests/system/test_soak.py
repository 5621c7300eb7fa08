"""The short form of `./dev soak`: three restarts under load, and the books agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.books import Books, audit
from tests.system.harness import System
from tests.system.soak import Restart, soak
from tests.system.soak_report import figures, write


@pytest.mark.timeout(300)
async def test_no_acknowledged_order_is_lost_or_doubled(shop: System, tmp_path: Path) -> None:
    restarts = [Restart("messaging", "kill -9"), Restart("orders-db", "kill -9"), Restart("payments", "rollout")]
    result = await soak(shop, 28, 8, restarts, print)
    found = figures(result)["orders"]
    assert result.problems == []
    assert found["acknowledged"] > 150
    assert found["in the books"] == found["reserved"] == found["paid"] == found["confirmed"]
    page = write(result, tmp_path).read_text()
    assert "0 lost, 0 doubled" in page
    assert "<svg" in page


def row(number: int, status: str = "confirmed") -> tuple[int, str, str, int]:
    return number, f"key-{number}", status, 100


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, ""),
        ({"orders": [row(1)]}, "lost: order 2 of key key-2"),
        ({"orders": [row(1), row(2), (3, "key-2", "confirmed", 100)]}, "doubled: key key-2"),
        ({"payments": [(1, "taken", 100)]}, "order 2 has 0 payments"),
        ({"payments": [(1, "taken", 100), (2, "taken", 100), (2, "taken", 100)]}, "order 2 has 2 payments"),
        ({"payments": [(1, "taken", 100), (2, "taken", 99)]}, "order 2 of 100 was paid with 99"),
        ({"payments": [(1, "taken", 100), (2, "taken", 100), (9, "taken", 1)]}, "a payment of order 9"),
        ({"stock": {7: 97}}, "product 7: 3 left the shelf, 2 were reserved"),
    ],
)
async def test_the_audit_sees(changed: dict[str, object], problem: str) -> None:
    lines = '[{"product_id": 7, "quantity": 1}]'
    fields: dict[str, object] = {
        "orders": [row(1), row(2)],
        "reservations": [(1, "reserved", lines), (2, "reserved", lines)],
        "payments": [(1, "taken", 100), (2, "taken", 100)],
        "stock": {7: 98},
    }

    async def read() -> Books:
        return Books(**{**fields, **changed})  # type: ignore[arg-type]

    before = Books([], [], [], {7: 100})
    books = await audit(read, before, {"key-1": [1], "key-2": [2, 2]})
    assert bool(books.problems) == bool(problem)
    assert problem in "\n".join(books.problems)
