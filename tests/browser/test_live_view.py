"""What a person at the microscope sees and does, in a real browser on a real run."""

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hffnet.runtime.records import RecordStore
from hffnet.train.fei_tiff import Settings, write_fei_tiff
from tests.browser.running_view import PARTLY, SURE, UNSURE, RunningView, speckled

pytest.importorskip("playwright", reason="no playwright: pip install 'hffnet[dev]'")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

_HOSTILE = '=HYPERLINK("x")<img src=x onerror="document.title=1">&amp;.tif'


def seen(page: "Page", name: str) -> int:
    """Wait until the newest frame is the one of this name; its record's number."""
    expect(page.locator("#picture-title")).to_contain_text(name)
    found = re.match(r"#(\d+)", page.locator("#picture-title").inner_text())
    assert found is not None
    expect(page.locator("#stage")).to_have_attribute("data-seq", found[1])
    return int(found[1])


def test_a_frame_appears_with_its_decision_scale_and_place_in_the_strip(page: "Page", view: RunningView) -> None:
    settings = Settings(pixel_size_um=0.5, high_voltage_kv=5, working_distance_mm=5, dwell_us=1, number=1)
    write_fei_tiff(view.frames / "scaled.tif", (speckled(SURE) / 255).astype(np.float32), settings, bits=8)
    seq = seen(page, "scaled.tif")
    expect(page.locator("#stage img.frame")).to_have_js_property("naturalWidth", 128)
    expect(page.locator(".scale-bar")).to_have_text("10 µm")
    expect(page.locator("#verdict")).to_contain_text("Classified")
    expect(page.locator("#verdict .title")).to_have_text("dimples")
    expect(page.locator("#tree .answered")).to_have_count(2)
    expect(page.locator("#age")).to_contain_text("Live")
    expect(page.locator("#spoken")).to_contain_text("mechanical, dimples")
    expect(page.locator(f'#strip [data-seq="{seq}"]')).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize(
    ("picture", "kicker", "title"),
    [
        pytest.param(speckled(PARTLY), "Unsure at level 2", "mechanical", id="unsure-below-the-first-level"),
        pytest.param(speckled(UNSURE), "Unsure at level 1", "Unsure", id="unsure"),
        pytest.param(np.zeros((96, 128), np.uint8), "Not classified", "Not classified", id="refused-by-a-gate"),
    ],
)
def test_what_is_not_known_is_said(
    page: "Page", view: RunningView, picture: np.ndarray, kicker: str, title: str, request: pytest.FixtureRequest
) -> None:
    seen(page, view.feed(f"{request.node.callspec.id}.tif", picture))
    expect(page.locator("#verdict .kicker")).to_contain_text(kicker)
    expect(page.locator("#verdict .title")).to_have_text(title)
    expect(page.locator("#verdict .reason")).to_contain_text(
        "one single grey level" if title == "Not classified" else "Most probable"
    )


def test_evidence_is_switched_and_picked_per_class_by_keyboard_and_pointer(page: "Page", view: RunningView) -> None:
    seen(page, view.feed("evidence.tif", speckled(SURE, seed=1)))
    stage, layer = page.locator("#stage"), page.locator("#stage img.evidence")
    expect(layer).to_have_count(0)
    page.keyboard.press("e")
    expect(stage).to_have_attribute("data-evidence", "dimples")
    expect(layer).to_have_js_property("naturalWidth", 640)
    page.keyboard.press("]")
    expect(stage).to_have_attribute("data-evidence", "fatigue")
    page.keyboard.press("l")
    expect(stage).to_have_attribute("data-evidence", "mechanical")
    page.locator("#tree .row", has_text="spalling").click()
    expect(stage).to_have_attribute("data-evidence", "spalling")
    before = layer.evaluate("image => image.style.opacity")
    page.keyboard.press("-")
    expect(layer).not_to_have_css("opacity", before)
    page.keyboard.press("e")
    expect(layer).to_have_count(0)


def test_a_person_overrides_by_keyboard_and_it_is_a_row_of_its_own(page: "Page", view: RunningView) -> None:
    seq = seen(page, view.feed("judged.tif", speckled(SURE, seed=2)))
    page.keyboard.press("o")
    dialog = page.locator("#review-dialog")
    expect(dialog.locator("input[name=operator]")).to_be_focused()
    view.feed("meanwhile.tif", speckled(SURE, seed=3))
    expect(page.locator("#strip .thumb").first).to_have_attribute("title", re.compile("meanwhile"))
    expect(page.locator("#picture-title")).to_contain_text("judged.tif")  # the frame in question stays on show
    page.keyboard.type("A. Reader")
    dialog.get_by_label("spalling").check()
    dialog.get_by_label("Reason").fill("oxide <b>on both faces</b>")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(f'#strip [data-seq="{seq}"] .thumb-review')).to_have_text("✎")
    page.locator(f'#strip [data-seq="{seq}"]').click()
    expect(page.locator("#review .said")).to_contain_text("A. Reader decided thermal › spalling")
    expect(page.locator("#review .said")).to_contain_text("oxide <b>on both faces</b>")
    expect(page.locator("#verdict .title")).to_have_text("dimples")  # beside the model's word, not instead of it
    with RecordStore.open(view.records, create=False) as store:
        (row,) = store.overrides(seq)
        assert store.verify().broken_seq is None
    assert (row.person, tuple(row.answer)) == ("A. Reader", ("thermal", "spalling"))


def test_the_operator_is_remembered_and_what_the_server_refuses_is_said(
    page: "Page", view: RunningView, console: list[str]
) -> None:
    seq = seen(page, view.feed("accepted.tif", speckled(SURE, seed=4)))
    page.keyboard.press("a")
    page.locator("#review-dialog input[name=operator]").fill("A. Reader")
    page.route("**/review", lambda route: route.fulfill(status=409, json={"error": "the disk is full"}))
    page.keyboard.press("Enter")
    expect(page.locator("#review-dialog .complaint")).to_have_text("the disk is full")
    console.clear()
    page.unroute("**/review")
    page.locator("#review-dialog button[type=submit]").click()
    expect(page.locator("#review .said")).to_contain_text("A. Reader accepted")
    page.reload()
    seen(page, "accepted.tif")
    page.keyboard.press("a")
    expect(page.locator("#review-dialog input[name=operator]")).to_have_value("A. Reader")
    page.keyboard.press("Escape")
    with RecordStore.open(view.records, create=False) as store:
        assert [row.person for row in store.overrides(seq)] == ["A. Reader"]


def test_no_new_frame_for_a_while_turns_the_page_grey(page: "Page", view: RunningView) -> None:
    seen(page, view.feed("last.tif", speckled(SURE, seed=5)))
    page.evaluate("localStorage.setItem('hffnet.stale', '0.2')")
    expect(page.locator("body")).to_have_class(re.compile("stale"))
    expect(page.locator("#age")).to_contain_text("Stale: no new frame for")
    expect(page.locator("#stage img.frame")).not_to_have_css("filter", "none")
    page.evaluate("localStorage.removeItem('hffnet.stale')")
    view.feed("next.tif", speckled(SURE, seed=6))
    expect(page.locator("body")).not_to_have_class(re.compile("stale"))


def test_a_decision_waits_for_its_picture(page: "Page", view: RunningView) -> None:
    held, pictures = list["Route"](), re.compile(r"/v1/frames/\d+\.png\?of=\w+&width=128")

    def hold(route: "Route") -> None:
        held.append(route)

    seen(page, view.feed("first.tif", speckled(SURE, seed=14)))
    page.route(pictures, hold)
    view.feed("second.tif", speckled(UNSURE, seed=15))
    expect(page.locator("#strip [title*='second.tif']")).to_have_count(1)
    expect(page.locator("#picture-title")).to_contain_text("first.tif")
    expect(page.locator("#verdict .title")).to_have_text("dimples")
    for route in held:
        route.continue_()
    page.unroute(pictures)
    seen(page, "second.tif")
    expect(page.locator("#verdict .title")).to_have_text("Unsure")


def test_a_frame_that_comes_while_the_page_opens_is_kept(page: "Page", view: RunningView) -> None:
    held = list["Route"]()

    def hold(route: "Route") -> None:
        held.append(route)

    seen(page, view.feed("before.tif", speckled(SURE, seed=12)))
    page.route("**/v1/records?*", hold)
    with page.expect_request("**/v1/records?*"):
        page.reload()
    expect(page.locator("#model-name")).to_have_text("tiny")
    answer = held[0].fetch()
    view.feed("between.tif", speckled(SURE, seed=13))
    thumbs = page.locator("#strip .thumb")
    expect(thumbs.and_(page.locator("[title*='between.tif']"))).to_have_count(1)
    held[0].fulfill(response=answer)
    expect(thumbs.and_(page.locator("[title*='before.tif']"))).to_have_count(1)
    expect(thumbs.and_(page.locator("[title*='between.tif']"))).to_have_count(1)


def test_strangers_words_are_text(page: "Page", view: RunningView) -> None:
    seq = seen(page, view.feed(_HOSTILE, speckled(SURE, seed=7)))
    expect(page.locator("#picture-title")).to_have_text(f"#{seq} · {_HOSTILE}")
    page.keyboard.press("r")
    expect(page.locator("#record .record-head")).to_contain_text(_HOSTILE)
    expect(page.locator("#record .sheets")).to_contain_text(_HOSTILE)
    expect(page).to_have_title("hffnet live view")


def test_the_strip_is_filtered_by_class_gate_and_review(page: "Page", view: RunningView) -> None:
    sure = seen(page, view.feed("sure.tif", speckled(SURE, seed=8)))
    refused = seen(page, view.feed("blank.tif", np.full((96, 128), 7, np.uint8)))
    thumb = "#strip [data-seq='{}']"
    page.get_by_label("Class", exact=True).select_option("dimples")
    expect(page.locator(thumb.format(refused))).to_have_count(0)
    expect(page.locator(thumb.format(sure))).to_have_count(1)
    page.get_by_label("Class", exact=True).select_option("")
    page.get_by_label("Gate").select_option("blank")
    expect(page.locator(thumb.format(sure))).to_have_count(0)
    expect(page.locator(thumb.format(refused))).to_have_count(1)
    page.get_by_label("Reviewed").select_option("accepted")
    expect(page.locator("#strip .thumb")).to_have_count(0)


def test_everything_on_record_by_keyboard(page: "Page", view: RunningView) -> None:
    older = seen(page, view.feed("older.tif", speckled(SURE, seed=9)))
    newer = seen(page, view.feed("newer.tif", speckled(SURE, seed=10)))
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).not_to_be_visible()
    page.keyboard.press("ArrowRight")
    assert seen(page, "older.tif") == older
    expect(page.locator("#age")).to_contain_text("Held")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Record {older}")
    with RecordStore.open(view.records, create=False) as store:
        record = store.get(older)
    assert record.engine is not None
    for fact in (record.hash, record.prev_hash, str(record.input_sha256), str(record.engine["graph_sha256"])):
        expect(page.locator("#record")).to_contain_text(fact)
    expect(page.locator("#record tbody tr", has_text="saturated")).to_contain_text("passed")
    expect(page.locator("#record a", has_text="PDF")).to_have_attribute("href", f"/v1/records/{older}/report.pdf")
    page.keyboard.press("Escape")
    assert seen(page, "newer.tif") == newer
    page.keyboard.press("Tab")
    expect(page.locator("#tree .row").first).to_be_focused()
    expect(page.locator("#tree .row").first).to_have_css("outline-style", "solid")


def test_the_theme_follows_the_system_until_a_person_chooses(page: "Page") -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) != dark
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark
    assert json.loads(page.evaluate("JSON.stringify(Object.keys(localStorage))")) == ["hffnet.theme"]


@pytest.mark.parametrize("size", [(1366, 768), (820, 1180), (1920, 1080), (390, 844)], ids="{0[0]}x{0[1]}".format)
def test_nothing_is_wider_than_the_screen(page: "Page", view: RunningView, size: tuple[int, int]) -> None:
    seen(page, view.feed(f"wide {size[0]}.tif", speckled(SURE, seed=11)))
    page.set_viewport_size({"width": size[0], "height": size[1]})
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    expect(page.locator("#verdict .title")).to_be_in_viewport()
