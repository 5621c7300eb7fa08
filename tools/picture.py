"""Make docs/pictures/storefront.png again: a shop, some orders in every state, and a browser that looks at them.

python tools/picture.py        # needs chromium and kubectl
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/pictures/storefront.png"
PAYMENTS = "app.kubernetes.io/name=payments,app.kubernetes.io/component=service"
GOOD, DECLINED = "4000-0000-0000-0001", "4000-0000-0000-0002"
ORDERS = (([(4, 2), (3, 1)], GOOD), ([(6, 1)], DECLINED), ([(1, 1), (5, 1)], GOOD), ([(7, 4)], GOOD))


def sampan(directory: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "sampan", *arguments], cwd=directory, check=True)


def kubectl(directory: str, *arguments: str) -> None:
    subprocess.run(["kubectl", "--kubeconfig", f"{directory}/.sampan/kubeconfig", *arguments], check=True)


def order(url: str, lines: list[tuple[int, int]], card: str, *, settle: bool = True) -> None:
    """Place an order for the first customer and wait until it is settled, if wanted."""
    body: dict[str, Any] = {"user_id": 1, "card": card}
    body["lines"] = [{"product_id": product, "quantity": quantity} for product, quantity in lines]
    request = urllib.request.Request(
        url + "/api/orders", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        number = json.load(reply)["id"]
    deadline = time.monotonic() + 20
    while settle:
        with urllib.request.urlopen(f"{url}/api/orders/{number}", timeout=10) as reply:
            if json.load(reply)["status"] != "pending":
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"order {number} did not settle within 20 s")
        time.sleep(0.1)


def take(page: Page, url: str) -> None:
    page.goto(url)
    for product, times in (("Ship's bell", 1), ("Brass sextant", 1), ("Hemp rope", 2)):
        for _ in range(times):
            page.locator("article", has_text=product).get_by_role("button").click()
    expect(page.locator("#orders .status")).to_have_count(len(ORDERS) + 1)
    expect(page.locator("#orders .pending")).to_have_count(1)
    page.screenshot(path=PICTURE)


def main() -> None:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        sampan(directory, "up", str(ROOT / "examples/shop"), "--detach")
        try:
            info = json.loads((Path(directory) / ".sampan/cluster.json").read_text())
            for lines, card in ORDERS:
                order(info["ingress"], lines, card)
            # nobody to take the money: the last order waits for it
            kubectl(directory, "scale", "-n", "shop", "deployment/payments", "--replicas=0")
            kubectl(directory, "wait", "-n", "shop", "pod", "-l", PAYMENTS, "--for=delete", "--timeout=40s")
            order(info["ingress"], [(2, 1)], GOOD, settle=False)
            with sync_playwright() as playwright:
                flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
                browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
                take(browser.new_page(viewport={"width": 1200, "height": 690}), info["ingress"])
                browser.close()
        finally:
            sampan(directory, "down")
    print(f"{PICTURE} ({PICTURE.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
