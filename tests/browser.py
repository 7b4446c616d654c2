"""The system's Chromium, driven by Playwright: for tests of the page, its screenshots and times."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def missing() -> str | None:
    """What must be installed before there is a browser; None if nothing."""
    if CHROMIUM is None:
        return "there is no Chromium: apt-get install chromium"
    if importlib.util.find_spec("playwright") is None:
        return "there is no Playwright: pip install -r tests/requirements.txt"
    return None


@contextmanager
def chromium(*arguments: str) -> Iterator:
    """Playwright's `Browser`, without a window. arguments: of Chromium's command line."""
    from playwright.sync_api import sync_playwright

    # Chromium has no sandbox for root. What it opens here is our own page only.
    is_root = sys.platform != "win32" and os.geteuid() == 0
    if is_root:
        arguments = (*arguments, "--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
