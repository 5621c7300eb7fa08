"""The shop does what a shop does, seen from outside."""

from __future__ import annotations

import urllib.error
from typing import Any

import pytest

from tests.system.harness import System, until


def place(shop: System, product: int = 1, quantity: int = 1, **extra: Any) -> dict[str, Any]:
    body = {"user_id": 1, "lines": [{"product_id": product, "quantity": quantity}], **extra}
    order: dict[str, Any] = shop.post("/api/orders", body)
    return order


def settled(shop: System, order_id: int) -> dict[str, Any]:
    def look() -> Any:
        order = shop.get(f"/api/orders/{order_id}")
        return order if order["status"] != "pending" else None

    found: dict[str, Any] = until(look, 15, f"order {order_id} is settled")
    return found


def stock(shop: System, product: int) -> int:
    return int(shop.get(f"/api/products/{product}")["stock"])


def test_ten_pods_or_more_are_ready(shop: System) -> None:
    pods = shop.objects("pods", "-n", "shop")
    running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
    assert len(running) >= 10
    for pod in running:
        ready = [c["status"] for c in pod["status"]["conditions"] if c["type"] == "Ready"]
        assert ready == ["True"], pod["metadata"]["name"]


def test_an_order_is_confirmed(shop: System) -> None:
    before = stock(shop, 2)
    order = place(shop, product=2, quantity=3)
    assert order["status"] == "pending"
    assert settled(shop, order["id"])["status"] == "confirmed"
    assert stock(shop, 2) == before - 3


def test_a_declined_card_gives_the_stock_back(shop: System) -> None:
    before = stock(shop, 3)
    order = place(shop, product=3, quantity=5, card="4000-0000-0000-0002")
    final = settled(shop, order["id"])
    assert (final["status"], final["reason"]) == ("cancelled", "card declined")
    until(lambda: stock(shop, 3) == before, 10, "the stock is back")


def test_more_than_there_is_is_cancelled(shop: System) -> None:
    order = place(shop, product=7, quantity=4)
    final = settled(shop, order["id"])
    assert final["status"] == "cancelled"
    assert "sold out" in final["reason"]


def test_the_same_key_gives_the_same_order(shop: System) -> None:
    body = {"user_id": 1, "lines": [{"product_id": 1, "quantity": 1}]}
    first = shop.post("/api/orders", body, **{"idempotency-key": "once-only"})
    again = shop.post("/api/orders", body, **{"idempotency-key": "once-only"})
    assert first["id"] == again["id"]


@pytest.mark.parametrize(
    ("path", "code"), [("/api/users/1", 200), ("/api/users/999999", 404), ("/api/users/x", 422), ("/", 200)]
)
def test_found_not_found_and_refused_are_told_apart(shop: System, path: str, code: int) -> None:
    import urllib.request

    try:
        with urllib.request.urlopen(shop.url + path, timeout=10) as reply:
            assert reply.status == code
    except urllib.error.HTTPError as answer:
        assert answer.code == code


def test_services_that_are_not_public_cannot_be_reached_from_outside(shop: System) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        shop.get("/api/payments/1")
    assert refused.value.code == 404


def test_a_changed_configmap_reaches_the_running_service(shop: System) -> None:
    names = {
        pod["metadata"]["name"] for pod in shop.objects("pods", "-n", "shop", "-l", "app.kubernetes.io/name=orders")
    }
    patch = '{"data": {"banner": "Half price on lanterns"}}'
    shop.kubectl("patch", "configmap", "config-checkout", "-n", "shop", "--type=merge", "-p", patch)
    until(lambda: shop.get("/api/checkout")["banner"] == "Half price on lanterns", 10, "the new banner is served")
    after = {
        pod["metadata"]["name"] for pod in shop.objects("pods", "-n", "shop", "-l", "app.kubernetes.io/name=orders")
    }
    assert names == after


def test_the_report_runs_when_asked(shop: System) -> None:
    shop.kubectl("create", "job", "report-now", "--from=cronjob/report", "-n", "shop")
    shop.kubectl("wait", "--for=condition=complete", "job/report-now", "-n", "shop", "--timeout=30s")
    assert "orders by status" in shop.kubectl("logs", "job/report-now", "-n", "shop")


def test_secrets_are_not_in_logs_or_manifests(shop: System) -> None:
    import base64

    secrets = [
        base64.b64decode(value).decode()
        for secret in shop.objects("secrets", "-n", "shop")
        for key, value in secret["data"].items()
        if key in ("password", "api-key") and value
    ]
    assert secrets
    for path in (shop.directory / ".sampan").rglob("*.log"):
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path
