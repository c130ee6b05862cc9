"""A large frame, cut into tiles: the record page shows where each lies and what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.browser.running_view import PARTLY, SURE, RunningView, speckled

pytest.importorskip("playwright", reason="no playwright: pip install 'hffnet[dev]'")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def view(holding_back: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningView]:
    tables = "tiles = { side_px = 96, overlap = 0.0 }"
    with RunningView(holding_back, tmp_path_factory.mktemp("run"), tables=tables) as running:
        yield running


def test_the_map_has_each_tile_in_its_place_with_its_answer(page: "Page", view: RunningView) -> None:
    """Dimples and, beside them, not sure which mechanical; below nothing to see and dimples again."""
    sure, partly = speckled(SURE)[:, :96], speckled(PARTLY, seed=1)[:, :96]
    blank = np.full((96, 96), 90, np.uint8)
    view.feed("field.tif", np.vstack([np.hstack([sure, partly]), np.hstack([blank, sure])]))
    expect(page.locator("#picture-title")).to_contain_text("field.tif")
    page.keyboard.press("r")
    expect(page.locator("#tiles h2")).to_have_text("Tiles: 3 of 4 classified, 96 pixels wide")
    tiles = page.locator("#tiles svg.tile-map rect")
    expect(tiles).to_have_count(4)
    found = {}
    for tile in tiles.all():
        box = tile.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 10
        found[box["y"], box["x"]] = (tile.locator("title").text_content() or "", tile.get_attribute("class"))
    in_place = [found[place] for place in sorted(found)]
    said, tones = zip(*in_place, strict=True)
    assert "dimples" in said[0]
    assert said[1].startswith("mechanical")
    assert "dimples" not in said[1]
    assert said[2] == "no answer"
    assert said[3] == said[0]
    assert tones[3] == tones[0] not in tones[1:3]
    assert tones[2] == "tone-unsure"
    expect(page.locator("#tiles tbody tr", has_text="dimples")).to_contain_text("%")


def test_a_frame_as_large_as_a_tile_has_no_map(page: "Page", view: RunningView) -> None:
    view.feed("small.tif", speckled(SURE, seed=2)[:, :96])
    expect(page.locator("#picture-title")).to_contain_text("small.tif")
    page.keyboard.press("r")
    expect(page.locator("#record")).to_contain_text("small.tif")
    expect(page.locator("#tiles")).to_be_hidden()
