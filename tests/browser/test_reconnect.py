"""The run ends and is started again while somebody looks: the page says so, and misses and repeats nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.running_view import SURE, RunningView, speckled

pytest.importorskip("playwright", reason="no playwright: pip install 'hffnet[dev]'")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_after_a_restart_every_record_is_on_the_strip_once(
    browser: "Browser", holding_back: Path, tmp_path: Path
) -> None:
    with RunningView(holding_back, tmp_path) as view, browser.new_context() as context:
        page = context.new_page()
        page.goto(view.login_url)
        for n in range(3):
            view.feed(f"before-{n}.tif", speckled(SURE, seed=n))
        expect(page.locator("#strip .thumb")).to_have_count(3)
        view.stop()
        expect(page.locator("#banner")).to_contain_text("Connection lost since")
        expect(page.locator("#age")).to_contain_text("Last frame")
        for n in range(3):
            view.feed(f"while-away-{n}.tif", speckled(SURE, seed=10 + n))
        view.start()
        expect(page.locator("#strip .thumb")).to_have_count(6, timeout=30_000)
        expect(page.locator("#banner")).to_be_hidden()
        view.feed("after.tif", speckled(SURE, seed=20))
        expect(page.locator("#picture-title")).to_contain_text("after.tif")
        shown = page.locator("#strip .thumb").evaluate_all("thumbs => thumbs.map(thumb => Number(thumb.dataset.seq))")
        assert sorted(shown) == view.result_seqs()
        context.clear_cookies()  # as after a restart with another token
        view.stop()
        view.start()
        expect(page.locator("#banner")).to_contain_text("Signed out", timeout=30_000)
