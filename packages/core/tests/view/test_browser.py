"""The page in a real Chromium: every view, by mouse and by keyboard; hostile text stays text; a run is seen live."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from recorded_run import SCENARIOS, SCRIPT, Recorded

pytest.importorskip("playwright", reason="playwright is not installed (it is in the dev group)")
from chromium import CHROMIUM, chromium, served
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium, or set WOODSHED_CHROMIUM"
)
LAMP, OTHER = SCENARIOS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    second = Path(shutil.copytree(folder, tmp_path_factory.mktemp("second") / "second"))
    with served(folder, second) as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open the page, and fail on any error of it, on any request to elsewhere, and where a text was run as code."""
    made = browser.new_page()
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    made.on(
        "request", lambda r: problems.append(r.url) if not r.url.startswith(("http://127.0.0.1", "data:")) else None
    )
    made.goto(address)
    expect(made.locator("main h1")).to_be_visible()
    yield made
    assert (problems, made.title()) == ([], "woodshed")
    made.close()


def elsewhere(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a thread: Playwright's own loop runs in this one."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, work).result()


def go(page: Page, address: str, *parts: str) -> None:
    from urllib.parse import quote

    page.goto(f"{address}#/0/{'/'.join(quote(part, safe='') for part in parts)}")


def test_overview_shows_figures_charts_and_warnings(page: Page) -> None:
    expect(page.get_by_role("heading", name="recorded")).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    assert {"Held-out success", "Judge's score", "Reward spread", "Loss", "Entropy"} <= {
        chart.get_attribute("data-chart") for chart in page.locator("[data-chart]").all()
    }
    expect(page.get_by_label("Warnings")).to_contain_text(SCRIPT)
    expect(page.locator(".tile", has_text="held-out success")).to_contain_text("0 % → 50 %")


def test_the_value_under_the_pointer_is_shown(page: Page) -> None:
    chart = page.locator("[data-chart='Held-out success']")
    area = chart.locator(".u-over")

    box = area.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)

    expect(chart.locator(".u-legend")).to_contain_text("0.5 [0.1, 0.9]")


def test_a_chart_has_its_values_as_a_table(page: Page) -> None:
    chart = page.locator("[data-chart='Loss']")
    chart.get_by_text("values").click()

    expect(chart.locator(".values tbody tr")).to_have_count(3)
    expect(
        chart.get_by_role("img", name=re.compile("Loss over 3 steps. loss: 0 at first, -0.02 at last"))
    ).to_be_visible()


def test_from_the_groups_to_a_group_to_an_attempt_to_its_tokens_by_mouse(page: Page) -> None:
    page.get_by_role("link", name="Groups").click()
    expect(page.get_by_role("heading", name="Step 3")).to_be_visible()
    page.get_by_role("link", name="step 2").click()
    page.get_by_role("link", name=LAMP).click()
    expect(page.get_by_role("heading", name=LAMP)).to_be_visible()
    columns = page.locator(".column")
    expect(columns).to_have_count(4)
    expect(columns.first).to_contain_text("worth 0.9")
    expect(columns.first.locator("mark").first).to_be_visible()
    expect(columns.nth(2)).to_contain_text("said and done alike: #3")
    page.get_by_text("All 2 orders the judge saw").click()
    assert page.locator(".orders li").count() == 2
    expect(page.get_by_text("consistency 100 %")).to_be_visible()
    columns.first.get_by_role("link", name="#0").click()
    expect(page.get_by_role("heading", name="Attempt 0")).to_be_visible()
    expect(page.locator(".timeline tbody tr")).to_have_count(3)
    page.get_by_role("button", name="tokens").first.click()
    page.locator(".token").nth(1).hover()
    expect(page.locator(".token-line")).to_contain_text("log-probability -2.5 nats")
    expect(page.locator(".token-line")).to_contain_text("importance ratio 1.284 · weights v1 · trained")


def test_everything_can_be_reached_by_keyboard(page: Page) -> None:
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Step 3")).to_be_visible()
    expect(page.locator(".list tbody tr")).to_have_count(2)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", name="Step 2")).to_be_visible()
    expect(page.locator(".list tbody tr")).to_have_count(2)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".column")).to_have_count(4)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name=LAMP)).to_be_visible()
    expect(page.locator("[data-key=next]")).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Attempt 0")).to_be_visible()
    page.keyboard.press("l")
    expect(page.get_by_role("heading", name="Attempt 1")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator(".column")).to_have_count(4)
    page.keyboard.press("u")
    expect(page.get_by_role("heading", name="Step 2")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_tokens_are_walked_by_arrow_keys(page: Page, address: str) -> None:
    go(page, address, "attempt", f"1/{LAMP}/0")
    page.get_by_role("button", name="tokens").first.click()
    page.locator(".token-text").focus()

    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")

    expect(page.locator(".token.at")).to_have_count(1)
    expect(page.locator(".token-line")).to_contain_text("token 1171")
    expect(page.get_by_role("heading", name="Attempt 0")).to_be_visible()  # the arrow keys went to the tokens only


@pytest.mark.parametrize(
    "parts",
    [
        ("group", f"1/{LAMP}"),
        ("group", f"1/{OTHER}"),
        ("attempt", f"1/{LAMP}/0"),
        ("attempt", f"1/{OTHER}/4"),
        ("overview",),
    ],
    ids=["group", "odd name", "attempt", "failed attempt", "overview"],
)
def test_what_looks_like_html_is_shown_as_text(page: Page, address: str, parts: tuple[str, ...]) -> None:
    go(page, address, *parts)

    shown = page.locator("main").get_by_text("<script>document.title = 'owned'</script>").locator("visible=true")
    expect(shown.first).to_be_visible()
    assert page.locator("main script, main img, main i, main b:has-text('odd')").count() == 0


def test_then_and_now_shows_a_scenario_at_each_evaluation(page: Page) -> None:
    page.keyboard.press("3")
    page.get_by_role("link", name="held/out <b>").click()
    columns = page.locator(".column")
    expect(columns).to_have_count(2)
    expect(columns.nth(1)).to_contain_text("after step 3")
    expect(columns.nth(1)).to_contain_text("success 50 %")
    columns.nth(1).get_by_role("button", name="#1").click()
    expect(columns.nth(1)).to_contain_text("written: four lamps")


def test_runs_are_compared(page: Page) -> None:
    page.keyboard.press("5")

    expect(page.get_by_role("heading", name="2 runs")).to_be_visible()
    expect(page.locator("[data-chart='Score'] .u-legend")).to_contain_text("second")
    page.get_by_role("combobox", name="Run").select_option("second")
    expect(page.get_by_role("heading", name="second")).to_be_visible()


def test_what_is_not_there_is_said(page: Page, address: str, browser: Browser) -> None:
    made = browser.new_page()  # the failed requests are errors of the console, and meant here
    for parts, said in [
        ("group/nothing", "the run has no group 'nothing'"),
        ("attempt/1%2Fx%2F0", "no attempt '1/x/0'"),
    ]:
        made.goto(f"{address}#/0/{parts}")
        expect(made.get_by_role("alert")).to_contain_text(said)
    made.goto(f"{address}#/9/overview")
    expect(made.get_by_role("alert")).to_contain_text("there is no run 9")
    made.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, address: str, scheme: str) -> None:
    made = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    made.goto(f"{address}#/0/group/{'1%2Fprice%20of%2Fa%20lamp'}")
    expect(made.locator(".column").first).to_be_visible()

    contrast = made.evaluate(
        """() => {
          const light = (c) => {
            const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (e) => {
            const c = getComputedStyle(e).backgroundColor;
            return c === "rgba(0, 0, 0, 0)" ? behind(e.parentElement) : c;
          };
          const ratio = (e) => {
            const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
          };
          return Object.fromEntries([".quiet", ".tag", "mark", "pre", "a", ".role", ".why", "h1"].map(
            (s) => [s, Math.min(...[...document.querySelectorAll(`main ${s}`)].map(ratio))]));
        }"""
    )

    assert {name: value for name, value in contrast.items() if value < 4.5} == {}
    made.close()


def test_every_control_has_a_name(page: Page, address: str) -> None:
    for parts in (
        ("overview",),
        ("groups", "1"),
        ("group", f"1/{LAMP}"),
        ("attempt", f"1/{LAMP}/0"),
        ("heldout",),
        ("now",),
    ):
        go(page, address, *parts)
        expect(page.locator("main h1").first).to_be_visible()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("a, button, select, [role=img], [role=region], meter")]
              .filter((e) => !(e.getAttribute("aria-label") || e.innerText?.trim() || e.labels?.length))
              .map((e) => e.outerHTML)"""
        )
        assert nameless == []


def test_a_narrow_window_does_not_scroll_sideways(browser: Browser, address: str) -> None:
    made = browser.new_page(viewport={"width": 420, "height": 800})
    for parts in ("overview", f"group/{'1%2Fprice%20of%2Fa%20lamp'}", f"attempt/{'1%2Fprice%20of%2Fa%20lamp%2F0'}"):
        made.goto(f"{address}#/0/{parts}")
        expect(made.locator("main h1").first).to_be_visible()
        assert made.evaluate("document.documentElement.scrollWidth <= innerWidth"), parts
    made.close()


def test_a_run_that_goes_on_is_seen_without_a_reload(browser: Browser, tmp_path: Path) -> None:
    run = Recorded(tmp_path / "live")
    run.begin()
    elsewhere(run.step(0))
    with served(tmp_path / "live") as address:
        made = browser.new_page()
        made.goto(address)
        steps = made.locator(".tile", has_text="steps")
        expect(steps).to_contain_text("1 of 3")

        elsewhere(run.step(1))

        expect(steps).to_contain_text("2 of 3", timeout=20_000)
        expect(made.locator("[data-chart='Loss'] .values tbody tr")).to_have_count(2)
        made.close()
    run.close()
