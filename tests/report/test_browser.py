"""A real browser opens the report and the dashboard, and nothing in them complains or runs wild."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import example_study
import pytest
from example_study import HOSTILE, add_trial, config

from autotl import report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'"
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")

SECTIONS = (
    "recipe test finalists cost progress curves mattered trials pictures data time again versions"
)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a study is that somebody gave names which would like to be markup."""
    folder = tmp_path_factory.mktemp("runs")
    store = example_study.opened(folder)
    example_study.write(store)
    add_trial(store, 90, 0.9, chosen=config(freeze=HOSTILE, head="%{x}<b>bold</b>&amp;"))
    add_trial(store, 91, 0.8, chosen=config(freeze=HOSTILE))
    report.write(store, "birds", folder / "birds")
    store.close()
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=root)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test when it logs an error, raises one, or opens a dialogue."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    said: list[str] = []
    opened.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    yield opened
    opened.close()
    assert said == []


def show(page: Any, runs: Path) -> None:
    """Open the report, and wait until its figures are drawn."""
    page.goto((runs / "birds" / "report.html").as_uri())
    page.wait_for_selector("#figure-curves .main-svg")


def until(page: Any, expression: str) -> None:
    """Wait until it holds; playwright would do so with eval, which the page forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"in vain: {expression}"
        page.wait_for_timeout(50)


def test_each_section_is_there_and_each_figure_drawn(page: Any, runs: Path) -> None:
    show(page, runs)
    for name in SECTIONS.split():
        assert page.is_visible(f"section#{name} > h2"), name
    drawn = page.eval_on_selector_all("[data-figure]", "all => all.map(e => e.dataset.figure)")
    assert drawn == ["cost", "progress", "curves"]
    for name in drawn:
        assert page.locator(f"#figure-{name} .main-svg").first.is_visible(), name
    broken = "all => all.filter(e => !e.naturalWidth).length"
    assert page.eval_on_selector_all("img", broken) == 0


def test_hostile_names_do_nothing_and_are_shown_as_they_are(page: Any, runs: Path) -> None:
    show(page, runs)
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("#test").inner_text()
    assert HOSTILE in page.locator("#figure-curves .legend").text_content()
    shown = """box => {
        const place = box.data.findIndex((t) => (t.meta || "").startsWith("trial 90"));
        Plotly.Fx.hover(box, [{ curveNumber: place, pointNumber: 2 }]);
        return box.querySelector(".hoverlayer").textContent;
    }"""
    text = page.eval_on_selector("#figure-curves", shown)
    assert f"freeze: {HOSTILE}" in text
    assert "head: %{x}<b>bold</b>&amp;" in text


def test_a_script_that_gets_into_the_page_does_not_run(browser: Any, runs: Path) -> None:
    source = (runs / "birds" / "report.html").read_text(encoding="utf-8")
    file = runs / "birds" / "tampered.html"
    file.write_text(source.replace("<main>", "<main><script>window.ran = 1</script>"))
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(file.as_uri())
    page.wait_for_selector("#figure-curves .main-svg")
    assert page.evaluate("window.ran === undefined")
    assert "Content Security Policy" in refused[0]
    page.close()


def test_a_button_shows_another_cost(page: Any, runs: Path) -> None:
    show(page, runs)
    title = "#figure-cost .xtitle"
    assert page.text_content(title) == "ms to predict one picture"
    page.click("text=seconds of training")
    until(page, f"document.querySelector('{title}').textContent === 'seconds of training'")
    pressed = "all => all.filter(b => b.ariaPressed === 'true').map(b => b.textContent)"
    assert page.eval_on_selector_all(".choice button", pressed) == ["seconds of training"]


def test_figures_follow_the_theme(page: Any, runs: Path) -> None:
    show(page, runs)
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#figure-cost .xtick text')).fill"
    light = page.evaluate(ground), page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    until(page, f"{ink} !== '{light[1]}'")
    dark = page.evaluate(ground), page.evaluate(ink)
    assert brightness(light[0]) > brightness(light[1])
    assert brightness(dark[0]) < brightness(dark[1])
    page.emulate_media(media="print", color_scheme="dark")
    until(page, f"{ink} === '{light[1]}'")
    assert brightness(page.evaluate(ground)) == 765, "paper is white"


def brightness(colour: str) -> int:
    """Of ``rgb(r, g, b)`` the sum."""
    return sum(int(part) for part in colour[4:-1].split(","))


def test_it_fits_a_phone(page: Any, runs: Path) -> None:
    page.set_viewport_size(PHONE)
    show(page, runs)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    outside = """all => all.filter(e => !e.closest(".wide") &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    assert page.eval_on_selector_all("main *", outside) == []


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Where ``autotl dashboard`` serves the study."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "autotl", "dashboard", "birds", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--out", str(runs)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            yield answers(server, f"http://127.0.0.1:{port}")
        finally:
            server.terminate()


def answers(server: subprocess.Popen[str], address: str) -> str:
    """The address, once somebody answers there."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/studies").close()
        except urllib.error.URLError:
            time.sleep(0.1)
        else:
            return address
    pytest.fail(f"the dashboard ended: {server.stdout.read() if server.stdout else ''}")


def test_the_dashboard_shows_the_note_and_the_pictures_of_a_trial(
    page: Any, address: str, runs: Path
) -> None:
    winner = report.summarise(example_study.opened(runs), "birds")["best"]["trial"]
    page.goto(f"{address}/dashboard/studies/1/trials?numbers={winner}")
    page.wait_for_selector("text=the winner")
    for name in ("learning curve", "confusion matrix"):
        loaded = f"document.querySelector('img[alt=\"{name}\"]')?.naturalWidth > 100"
        until(page, loaded)
        assert page.locator(f"text={name}.png").count() == 1, "it is an artifact too"


def test_the_dashboard_shows_the_answer(page: Any, address: str, runs: Path) -> None:
    page.goto(f"{address}/dashboard/studies/1/note")
    page.wait_for_selector("h3:has-text('Finalists')")
    text = page.inner_text("body")
    assert "On 180 test pictures that the search never saw" in text
    assert str(runs / "birds" / "report.html") in text
    assert page.locator("td", has_text="winner").count() == 1


def test_a_reason_that_would_be_markup_is_text_in_the_dashboard(page: Any, address: str) -> None:
    page.goto(f"{address}/dashboard/studies/1")
    failed = page.evaluate(
        """fetch("/api/studies/1?after=0").then(r => r.json()).then(
            d => d.trials.find(t => t.state === "Fail").number)"""
    )
    page.goto(f"{address}/dashboard/studies/1/trials?numbers={failed}")
    page.wait_for_selector(f"text={HOSTILE} is no picture")
    assert page.locator("img[src=x]").count() == 0
