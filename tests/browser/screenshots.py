"""The pictures of the documentation, taken of the real thing: ``python -m tests.browser.screenshots DEMO OUT``.

DEMO is a folder that ``hffnet demo`` wrote. Its bundle runs live on its unseen frames; a person's decisions are made
with the keys that a person has.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from threading import Event, Thread

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from hffnet.export.demo_view import write_stopped
from tests.browser.conftest import chromium_path
from tests.browser.running_view import RunningView

_MOST_BYTES = 250_000
_MOST_WIDE = 1366
_PACE_S = 1.0
_NUM_COLOURS = 128
_FIRST_AFTER = 40
_STOPPED = 33
_IN_SIGHT = 9
_SIZES = {"lab": (1366, 768, "dark"), "tablet": (820, 1180, "light"), "wide": (1920, 1080, "dark")}


def main(demo: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path())
        with RunningView(demo / "model.hffnet", Path(folder), str(Path(folder) / "frames")) as view:
            done = Event()
            feeder = Thread(target=_feed, args=(view, demo / "unseen", done))
            feeder.start()
            for name, (width, height, scheme) in _SIZES.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if scheme == "dark" else "light",
                    reduced_motion="reduce",
                )
                page.goto(view.login_url)
                expect(page.locator("#strip .thumb").nth(_FIRST_AFTER)).to_be_attached(timeout=120_000)
                _decide(page) if name == "lab" else None
                _show_evidence(page)
                _take(page, out / f"live-view-{name}.png")
                if name == "lab":
                    _take_states(page, out)
                page.close()
            done.set()
            feeder.join()
        browser.close()
    for path in sorted(out.glob("live-view-*.png")):
        _shrink(path)


def _feed(view: RunningView, unseen: Path, done: Event) -> None:
    files = sorted(unseen.rglob("*.tif"), key=lambda path: (path.name, path.parent.name))
    for number, file in enumerate(files, start=1):
        if done.wait(_PACE_S):
            return
        part = view.frames / ".part"
        if number == _STOPPED:
            write_stopped(file, part)
        else:
            shutil.copyfile(file, part)
        part.rename(view.frames / f"{number:05d}.{file.parent.name}.tif")


def _decide(page: Page) -> None:
    """Somebody looked at two frames before."""
    for key, place in (("a", 3), ("o", 5)):
        thumb = page.locator("#strip .thumb").nth(place)
        thumb.click()
        expect(page.locator("#stage")).to_have_attribute("data-seq", str(thumb.get_attribute("data-seq")))
        page.keyboard.press(key)
        page.locator("#review-dialog input[name=operator]").fill("A. Reader")
        if key == "o":
            page.locator("#review-dialog input[type=radio]").nth(1).check()
            page.locator("#review-dialog textarea").fill("dimples between the striations")
        page.locator("#review-dialog button[type=submit]").click()
        expect(page.locator("#review-dialog")).to_be_hidden()
    page.keyboard.press("Home")


def _show_evidence(page: Page) -> None:
    page.keyboard.press("e")
    expect(page.locator("#stage img.evidence")).to_be_visible()
    expect(page.locator("#shares .chart")).to_be_visible()


def _take_states(page: Page, out: Path) -> None:
    """What else a person meets: a refused frame, the question for a decision, everything on record."""
    page.get_by_label("Gate").select_option("incomplete")
    expect(page.locator("#strip .thumb")).to_have_count(1)
    page.locator("#strip .thumb").click()
    expect(page.locator("#verdict")).to_contain_text("Not classified")
    _take(page, out / "live-view-refused.png")
    page.get_by_label("Gate").select_option("")
    page.keyboard.press("Home")
    page.keyboard.press("o")
    expect(page.locator("#review-dialog")).to_be_visible()
    _take(page, out / "live-view-override.png")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    expect(page.locator("#record .stage img.evidence")).to_be_visible()
    _take(page, out / "live-view-record.png")


def _take(page: Page, path: Path) -> None:
    for picture in page.locator("img:visible").all()[:_IN_SIGHT]:
        expect(picture).to_have_js_property("complete", value=True)
    page.screenshot(path=path)


def _shrink(path: Path) -> None:
    """As small as a picture of text and noise gets: a palette, the best of zlib."""
    with Image.open(path) as taken:
        picture = taken.convert("RGB")
    picture.thumbnail((_MOST_WIDE, picture.height))
    # The frame has most of the pixels; the few colours of the chart are given a say in the palette.
    said = picture.crop((round(picture.width * 0.55), 0, picture.width, picture.height)).resize(picture.size)
    both = Image.new("RGB", (picture.width, 2 * picture.height))
    both.paste(picture, (0, 0))
    both.paste(said, (0, picture.height))
    palette = both.quantize(_NUM_COLOURS, kmeans=2)
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size / 1000:.0f} kB" + (", too large" if size > _MOST_BYTES else ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
