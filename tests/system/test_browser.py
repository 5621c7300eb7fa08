"""The storefront in a real browser: fill the basket, order, watch the order settle."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.system.harness import System

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def test_a_customer_orders_and_sees_it_confirmed(shop: System) -> None:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not on this machine")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            mistakes: list[str] = []
            page.on("pageerror", lambda error: mistakes.append(str(error)))
            page.goto(shop.url)
            page.locator("article", has_text="Storm lantern").get_by_role("button", name="Add to basket").click()
            expect(page.locator("#basket")).to_contain_text("1 × Storm lantern")
            page.get_by_role("button", name=re.compile("Place order")).click()
            expect(page.locator("#notice")).to_contain_text("is placed")
            number = re.search(r"#(\d+)", page.locator("#notice").inner_text())
            assert number
            placed = page.locator(f'[data-order="{number[1]}"]')
            expect(placed.locator(".status")).to_have_text("confirmed", timeout=15_000)
            page.screenshot(path=shop.directory / "storefront.png")
            assert mistakes == []
        finally:
            browser.close()
