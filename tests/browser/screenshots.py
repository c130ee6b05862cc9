"""The pictures of the documentation, taken of the real thing: ``python -m tests.browser.screenshots DEMO OUT``.

DEMO is a folder that ``hffnet demo`` wrote. Its bundle runs live on its unseen frames; a person's decisions are made
with the keys that a person has.
"""

import re
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hffnet.export.demo_view import write_stopped
from tests.browser.conftest import chromium_path
from tests.browser.running_view import ROOT, RunningView

_MOST_BYTES = 250_000
_MOST_WIDE = 1366
_PACE_S = 1.0
_NUM_COLOURS = (112, 64, 40)
_FIRST_AFTER = 40
_STOPPED = 33
_IN_SIGHT = 9
_SIZES = {"lab": (1366, 768, "dark"), "tablet": (820, 1180, "light"), "wide": (1920, 1080, "dark")}


def main(demo: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.gettempdir()) / "microscope"  # readers of the pictures see it as the source
    folder.mkdir()  # never one that is there: it is removed at the end
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium_path())
        with RunningView(demo / "model.hffnet", folder, str(folder / "frames")) as view:
            done = Event()
            feeder = Thread(target=_feed, args=(view, demo / "unseen", done))
            feeder.start()
            try:
                _take_all(browser, view, out)
            finally:
                done.set()
                feeder.join()
        browser.close()
    for path in sorted(out.glob("live-view-*.png")):
        _shrink(path)


def _take_all(browser: Browser, view: RunningView, out: Path) -> None:
    for name, (width, height, scheme) in _SIZES.items():
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        page.goto(view.login_url)
        expect(page.locator("#strip .thumb").nth(_FIRST_AFTER)).to_be_attached(timeout=120_000)
        if name == "lab":
            _decide(page)
        _show_evidence(page)
        _take(page, out / f"live-view-{name}.png")
        if name == "lab":
            _take_states(page, out)
        page.close()


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
    page.locator("#to-live").click()
    expect(page.locator("#verdict .kicker")).to_contain_text("Classified")
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
    # The frame has most of the pixels and would take all of the palette; the page's own colours are given a place.
    own = [int(colour[i : i + 2], 16) for colour in _own_colours() for i in (0, 2, 4)]
    for num_colours in _NUM_COLOURS:
        theirs = picture.quantize(num_colours).getpalette() or []
        palette = Image.new("P", (1, 1))
        palette.putpalette([*theirs[: 3 * num_colours], *own])
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= _MOST_BYTES:
            break
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB in {num_colours} colours")


def _own_colours() -> list[str]:
    css = (ROOT / "runtime/hffnet/runtime/dashboard/page/colours.css").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"--(?:t\d|accent|said|partly): #([0-9a-f]{6})", css.split("@media")[0])))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
