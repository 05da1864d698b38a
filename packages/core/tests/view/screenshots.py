"""Take the pictures in docs/images; needs Chromium.

python packages/core/tests/view/screenshots.py runs/demo
python packages/core/tests/view/screenshots.py --crew runs/serve_customer   # of a crew with two agents
"""

from __future__ import annotations

import sys
from pathlib import Path

from chromium import chromium, served
from PIL import Image
from playwright.sync_api import Page

IMAGES = Path(__file__).parents[4] / "docs" / "images"


def shoot(page: Page, name: str) -> None:
    """Save what the page shows."""
    page.wait_for_function("document.fonts.status === 'loaded'")
    file = IMAGES / f"view-{name}.png"
    page.screenshot(path=file)
    Image.open(file).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


def main(runs: list[str]) -> None:
    """Go through the pages of the first run."""
    IMAGES.mkdir(exist_ok=True)
    with served(*map(Path, runs)) as address, chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
            page.on("console", lambda m: print("console:", m.text))
            page.on("pageerror", lambda e: print("error:", e))
            page.goto(address)
            page.wait_for_selector(".chart canvas")
            shoot(page, f"overview{'' if scheme == 'light' else '-dark'}")
            page.keyboard.press("2")
            page.wait_for_selector(".list tbody tr")
            if scheme == "light":
                shoot(page, "groups")
            page.goto(f"{address}#/0/groups/4")
            page.wait_for_selector("h1:has-text('Step 5')")
            page.wait_for_selector(".list tbody tr")
            page.keyboard.press("j")
            page.keyboard.press("Enter")
            page.wait_for_selector(".column")
            page.locator(".orders summary").click()
            shoot(page, f"group{'' if scheme == 'light' else '-dark'}")
            if scheme == "light":
                page.locator(".column h2 a").first.click()
                page.wait_for_selector(".timeline")
                page.get_by_role("button", name="tokens").first.click()
                page.wait_for_selector(".token")
                page.locator(".token").nth(2).hover()
                shoot(page, "attempt")
                page.keyboard.press("3")
                page.wait_for_selector(".list tbody tr")
                shoot(page, "then-and-now")
                page.locator(".list a").nth(1).click()
                page.wait_for_selector(".column")
                shoot(page, "scenario")
                page.keyboard.press("4")
                if page.locator(".dot.live").count():
                    page.keyboard.press("4")
                    page.wait_for_selector(".list tbody tr")
                    shoot(page, "now")
                if len(runs) > 1:
                    page.keyboard.press("5")
                    page.wait_for_selector(".chart canvas")
                    shoot(page, "compare")


def crew(run: str) -> None:
    """Show the first attempt of a crew's run, with what each agent did."""
    with served(Path(run)) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        page.goto(f"{address}#/0/groups/0")
        page.wait_for_selector(".list tbody tr")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_selector(".column")
        page.locator(".column h2 a").first.click()
        page.wait_for_selector(".timeline")
        shoot(page, "crew")


if __name__ == "__main__":
    crew(sys.argv[2]) if sys.argv[1] == "--crew" else main(sys.argv[1:])
