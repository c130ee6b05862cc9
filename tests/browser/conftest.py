"""A browser, a running view, and a page that watches what the page does."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from hffnet.runtime.decode import DecodeSpec
from tests.browser.running_view import MIN_CONFIDENCE, RunningView
from tests.tiny import tiny_manifest, tiny_taxonomy, write_tiny_bundle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LAB_SCREEN = {"width": 1366, "height": 768}


def chromium_path() -> str | None:
    """The browser to drive, as the system or ``HFFNET_CHROMIUM`` has it."""
    return os.environ.get("HFFNET_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def browser() -> "Iterator[Browser]":
    """Debian's chromium; Playwright's own browsers are a download that laboratories and CI do without.

    Not for the session: Playwright's event loop would still run under tests elsewhere that need one of their own.
    """
    pytest.importorskip("playwright", reason="no playwright: pip install 'hffnet[dev]'")
    pytest.importorskip("fastapi", reason="no fastapi: pip install 'hffnet[dashboard]'")
    chromium = chromium_path()
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium, or set HFFNET_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def holding_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, with a confidence below which it does not answer."""
    spec = DecodeSpec(temperatures=(1.0, 1.0), min_confidence=MIN_CONFIDENCE)
    manifest = tiny_manifest(tiny_taxonomy()).model_copy(update={"decode": spec})
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.hffnet", manifest=manifest)


@pytest.fixture(scope="module")
def view(holding_back: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningView]:
    """One run for all tests of a module; frames of earlier tests are on its strip."""
    with RunningView(holding_back, tmp_path_factory.mktemp("run")) as running:
        yield running


@pytest.fixture
def console() -> list[str]:
    """What the page's console said; a test that provokes an error clears it."""
    return []


@pytest.fixture
def page(browser: "Browser", view: RunningView, console: list[str]) -> "Iterator[Page]":
    """A new browser window on the view, signed in; nothing may be asked of another machine or go wrong unseen."""
    context = browser.new_context(viewport=LAB_SCREEN, reduced_motion="reduce")  # type: ignore[arg-type]
    opened = context.new_page()
    asked = list[str]()
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: console.append(f"uncaught: {error}"))
    opened.goto(view.login_url)
    yield opened
    context.close()
    here = urlsplit(view.url).netloc
    assert [url for url in asked if urlsplit(url).netloc != here] == []
    assert [line for line in console if not line.startswith(("debug", "log", "info"))] == []
