"""Take the screenshots in this folder of a study.

    python studies/screenshots/take.py STUDY --out runs

It needs Chromium and ``pip install -e '.[dev]'``. The report of the study is rewritten first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna_dashboard
from playwright.sync_api import Browser, Page, sync_playwright

from autotl import report
from autotl.report import dashboard
from autotl.store import Store

FOLDER = Path(__file__).parent
MARGIN = 24
"""Pixels around a section of the report."""


def main() -> None:
    """Take the screenshots of the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    folder = arguments.out / arguments.study
    store = Store(f"sqlite:///{arguments.out / 'autotl.db'}")
    summary = report.write(store, arguments.study, folder)
    dashboard.annotate(store, arguments.study, folder)
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        take_report(browser, folder / "report.html")
        with serve_dashboard(store) as address:
            study = store.storage.get_study_id_from_name(arguments.study)
            best = summary["best"]["trial"]
            take_dashboard(browser, f"{address}/dashboard/studies/{study}/trials?numbers={best}")
        browser.close()
    store.close()


def take_report(browser: Browser, file: Path) -> None:
    """Take the top of the report in both themes and on a phone, and some of its sections."""
    desktop, phone = {"width": 1120, "height": 800}, {"width": 390, "height": 800}
    for name, size, theme in (
        ("report", desktop, "light"),
        ("report-dark", desktop, "dark"),
        ("report-phone", phone, "light"),
    ):
        page = browser.new_page(viewport=size, color_scheme=theme)
        page.goto(file.absolute().as_uri())
        page.wait_for_selector(".main-svg")
        page.screenshot(path=FOLDER / f"{name}.png")
        if size == desktop:
            take_sections(page, ["contenders"] if theme == "light" else ["cost", "curves"])
        page.close()


def take_sections(page: Page, names: list[str]) -> None:
    """Take sections of the report, each into a file of its name."""
    for name in names:
        section = page.locator(f"#{name}")
        if box := section.bounding_box():
            clip = {
                "x": box["x"] - MARGIN,
                "y": box["y"] - MARGIN,
                "width": box["width"] + 2 * MARGIN,
                "height": box["height"] + 2 * MARGIN,
            }
            page.screenshot(path=FOLDER / f"{name}.png", clip=clip, full_page=True)


def take_dashboard(browser: Browser, address: str) -> None:
    """Take a trial with its note in Optuna Dashboard."""
    page = browser.new_page(viewport={"width": 1280, "height": 1040})
    page.goto(address)
    page.wait_for_selector("text=the winner")
    page.screenshot(path=FOLDER / "dashboard.png", animations="disabled")


@contextmanager
def serve_dashboard(store: Store) -> Iterator[str]:
    """Serve Optuna Dashboard on this machine while the context is open; yields its address."""
    with make_server("127.0.0.1", 0, optuna_dashboard.wsgi(store.storage)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    main()
