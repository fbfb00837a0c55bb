"""Take the pictures in this folder of a study that has been searched.

    python studies/screenshots/take.py STUDY --out runs

It needs Chromium and ``pip install -e '.[dev]'``. The report is written again before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from autotl import report
from autotl.store import Store

HERE = Path(__file__).parent
PORT = 18087


def main() -> None:
    """Take the pictures of the study that the command line names."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("study")
    asked.add_argument("--out", type=Path, default=Path("runs"))
    given = asked.parse_args()
    folder = given.out / given.study
    store = Store(f"sqlite:///{given.out / 'autotl.db'}")
    summary = report.write(store, given.study, folder)
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=root)
        take_report(browser, folder / "report.html")
        with served(given.study, given.out) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 1040})
            best = summary["best"]["trial"]
            number = store.storage.get_study_id_from_name(given.study)
            page.goto(f"{address}/dashboard/studies/{number}/trials?numbers={best}")
            page.wait_for_selector("img[alt='learning curve']")
            page.wait_for_timeout(1500)  # it moves its parts into place
            page.screenshot(path=HERE / "dashboard.png")
        browser.close()


def take_report(browser: Browser, file: Path) -> None:
    """The top of the report in both themes and on a phone, and its finalists."""
    wide, phone = {"width": 1120, "height": 800}, {"width": 390, "height": 800}
    for name, size, theme in (
        ("report", wide, "light"),
        ("report-dark", wide, "dark"),
        ("report-phone", phone, "light"),
    ):
        page = browser.new_page(viewport=size, color_scheme=theme)
        page.goto(file.absolute().as_uri())
        page.wait_for_selector(".main-svg")
        page.screenshot(path=HERE / f"{name}.png")
        if size == wide:
            take_sections(page, theme)
        page.close()


def take_sections(page: Page, theme: str) -> None:
    """The finalists in the light theme, the figures in the dark one."""
    names = ["finalists"] if theme == "light" else ["cost", "curves"]
    for name in names:
        section = page.locator(f"#{name}")
        if section.count() and (box := section.bounding_box()):
            air = 24
            clip = {
                "x": box["x"] - air,
                "y": box["y"] - air,
                "width": box["width"] + 2 * air,
                "height": box["height"] + 2 * air,
            }
            page.screenshot(path=HERE / f"{name}.png", clip=clip, full_page=True)


@contextmanager
def served(study: str, out: Path) -> Iterator[str]:
    """The dashboard with the study, while inside."""
    command = [sys.executable, "-m", "autotl", "dashboard", study, "--out", str(out)]
    with subprocess.Popen(
        [*command, "--port", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            address = f"http://127.0.0.1:{PORT}"
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api/studies").close()
                    break
                except urllib.error.URLError:
                    if server.poll() is not None:
                        raise
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
