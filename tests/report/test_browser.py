"""A real browser opens the report and the dashboard without errors, and runs no foreign script."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import example_study
import pytest
from example_study import HOSTILE, add_trial, config

from autotl import report
from autotl.report import dashboard
from autotl.report.figures import COSTS

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium"),
]

SECTIONS = (
    "recipe test contenders cost progress curves importance trials mistakes data time reproduce "
    "versions"
)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def runs(complete_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a study with names that look like markup."""
    folder = tmp_path_factory.mktemp("runs")
    store = example_study.copied(complete_database, folder)
    add_trial(store, 90, 0.9, chosen=config(freeze=HOSTILE, head="%{x}<b>bold</b>&amp;"))
    add_trial(store, 91, 0.8, chosen=config(freeze=HOSTILE))
    report.write(store, "birds", folder / "birds")
    store.close()
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test when it logs an error, raises one, or opens a dialogue."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    yield page
    page.close()
    assert errors == []


def open_report(page: Any, runs: Path) -> None:
    """Open the report, and wait until its figures are drawn."""
    page.goto((runs / "birds" / "report.html").as_uri())
    page.wait_for_selector("#figure-curves .main-svg")


def test_each_section_is_visible_and_each_figure_drawn(page: Any, runs: Path) -> None:
    open_report(page, runs)
    for name in SECTIONS.split():
        assert page.is_visible(f"section#{name} > h2"), name
    drawn = page.eval_on_selector_all("[data-figure]", "all => all.map(e => e.dataset.figure)")
    assert drawn == ["cost", "progress", "curves"]
    for name in drawn:
        assert page.locator(f"#figure-{name} .main-svg").first.is_visible(), name
    broken = "all => all.filter(e => !e.naturalWidth).length"
    assert page.eval_on_selector_all("img", broken) == 0


def test_every_link_of_the_navigation_has_its_section(page: Any, runs: Path) -> None:
    open_report(page, runs)
    links = page.eval_on_selector_all("nav a", "all => all.map(a => a.hash.slice(1))")
    assert links == SECTIONS.split()


def test_hostile_names_do_nothing_and_are_shown_literally(page: Any, runs: Path) -> None:
    open_report(page, runs)
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("#test").inner_text()
    assert HOSTILE in page.locator("#figure-curves .legend").text_content()
    hover = """box => {
        const index = box.data.findIndex((t) => (t.meta || "").startsWith("trial 90"));
        Plotly.Fx.hover(box, [{ curveNumber: index, pointNumber: 2 }]);
        return box.querySelector(".hoverlayer").textContent;
    }"""
    text = page.eval_on_selector("#figure-curves", hover)
    assert f"freeze: {HOSTILE}" in text
    assert "head: %{x}<b>bold</b>&amp;" in text


def test_a_script_that_is_inserted_into_the_page_does_not_run(browser: Any, runs: Path) -> None:
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
    open_report(page, runs)
    title = page.locator("#figure-cost .xtitle")
    assert title.text_content() == COSTS["ms_per_item"]
    page.click(f"text={COSTS['seconds']}")
    playwright.expect(title).to_have_text(COSTS["seconds"])
    pressed = "all => all.filter(b => b.ariaPressed === 'true').map(b => b.textContent)"
    assert page.eval_on_selector_all(".views button", pressed) == [COSTS["seconds"]]


def test_figures_follow_the_theme(page: Any, runs: Path) -> None:
    open_report(page, runs)
    background = "getComputedStyle(document.body).backgroundColor"
    text = page.locator("#figure-cost .xtick text").first
    light, light_text = page.evaluate(background), fill(text)
    page.emulate_media(color_scheme="dark")
    playwright.expect(text).not_to_have_css("fill", light_text)
    dark, dark_text = page.evaluate(background), fill(text)
    assert brightness(light) > brightness(light_text)
    assert brightness(dark) < brightness(dark_text)
    page.emulate_media(media="print", color_scheme="dark")
    playwright.expect(text).to_have_css("fill", light_text)
    assert brightness(page.evaluate(background)) == 765, "paper is white"


def fill(locator: Any) -> str:
    return str(locator.evaluate("e => getComputedStyle(e).fill"))


def brightness(colour: str) -> int:
    """The sum of the channels of ``rgb(r, g, b)``."""
    return sum(int(channel) for channel in colour[4:-1].split(","))


def test_it_fits_a_phone(page: Any, runs: Path) -> None:
    page.set_viewport_size(PHONE)
    open_report(page, runs)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    outside = """all => all.filter(e => !e.closest(".wide") &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    assert page.eval_on_selector_all("main *", outside) == []


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """The address at which Optuna Dashboard serves the study with its notes."""
    optuna_dashboard = pytest.importorskip("optuna_dashboard")
    store = example_study.opened(runs)
    dashboard.annotate(store, "birds", runs / "birds")
    app = optuna_dashboard.wsgi(store.storage)
    with make_server("127.0.0.1", 0, app, handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    store.close()


def test_the_dashboard_shows_the_note_and_the_confusion_matrix_of_a_trial(
    page: Any, address: str, runs: Path
) -> None:
    store = example_study.opened(runs)
    winner = report.summarise(store, "birds")["best"]["trial"]
    store.close()
    page.goto(f"{address}/dashboard/studies/1/trials?numbers={winner}")
    page.wait_for_selector("text=the winner")
    matrix = page.locator("table", has=page.locator("th", has_text="wren"))
    assert matrix.locator("tbody tr").count() == len(example_study.CLASSES)
    assert HOSTILE in matrix.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200


def test_the_dashboard_shows_the_result(page: Any, address: str, runs: Path) -> None:
    page.goto(f"{address}/dashboard/studies/1/note")
    page.wait_for_selector("h3:has-text('Contenders')")
    text = page.inner_text("body")
    assert re.search(r"Its accuracy on the test split is .* 180 images", text)
    assert str(runs / "birds" / "report.html") in text
    assert page.locator("td", has_text="winner").count() == 1


def test_a_reason_that_looks_like_markup_is_text_in_the_dashboard(
    page: Any, address: str, runs: Path
) -> None:
    store = example_study.opened(runs)
    failed = next(row.number for row in store.trials("birds") if row.status == "failed")
    store.close()
    page.goto(f"{address}/dashboard/studies/1/trials?numbers={failed}")
    page.wait_for_selector(f"text={HOSTILE} is no picture")
    assert page.locator("img[src=x]").count() == 0
