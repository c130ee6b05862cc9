"""What the live view answers about results: the same as the records say, and pictures of what was analysed."""

import io
from itertools import count
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pypdf
import pytest
import tifffile

from hffnet.runtime.annotate import grey_for_eyes
from hffnet.runtime.field_of_view import TileSettings
from hffnet.runtime.record import Record
from hffnet.runtime.records_search import RecordSearch
from hffnet.runtime.result import record_json
from tests.runtime.dashboard.stand import Stand, events, pixels

_NO_FONT = "\U00012000"  # cuneiform


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def test_the_model_says_what_answers(stand: Stand) -> None:
    model = stand.client.get("/v1/model").raise_for_status().json()
    assert model["bundle"] == {"name": "tiny", "sha256": stand.classifier.bundle.sha256}
    assert model["engine"]["name"] == "onnxruntime"
    assert model["levels"][0]["classes"] == [{"name": name, "parent": None} for name in ("mechanical", "thermal")]
    assert {"name": "spalling", "parent": "thermal"} in model["levels"][1]["classes"]


def test_a_record_is_told_whole_and_in_short(stand: Stand) -> None:
    record = stand.show("told.tif", 7)
    answer = stand.client.get(f"/v1/records/{record.seq}").raise_for_status().json()
    assert answer["record"] == record_json(record)
    short = answer["summary"]
    assert short["path"] == list(record.class_path)
    assert {level["name"]: level["probabilities"] for level in short["levels"]} == record.probabilities
    assert short["review"] is None
    assert (short["width"], short["height"]) == (128, 96)
    newest = stand.client.get("/v1/records", params={"limit": 1}).json()
    assert newest["records"] == [short]
    assert newest["next"] == record.seq


def test_pages_hold_every_result_once(stand: Stand) -> None:
    for number in range(4):
        stand.show(f"paged-{number}.tif", 20 + number)
    found, before = list[int](), None
    while True:
        params = {"limit": 2} | ({"before": before} if before else {})
        page = stand.client.get("/v1/records", params=params).raise_for_status().json()
        found += [record["seq"] for record in page["records"]]
        before = page["next"]
        if before is None:
            break
    expected = [record.seq for record in stand.store.iterate() if record.kind == "result"]
    assert found == expected[::-1]


def test_a_frame_is_shown_as_it_was_analysed_in_8_bits(stand: Stand) -> None:
    deep = pixels(3).astype(np.uint16) * 200
    tifffile.imwrite(stand.frames / ".deep.part", deep)
    (stand.frames / ".deep.part").rename(stand.frames / "deep.tif")
    record = stand.wait_for("deep.tif")
    answer = stand.client.get(f"/v1/frames/{record.seq}.png").raise_for_status()
    shown = decoded(answer.content)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, grey_for_eyes(deep))
    small = decoded(stand.client.get(f"/v1/frames/{record.seq}.png", params={"width": 32}).content)
    assert small.shape == (24, 32)


def test_evidence_lies_where_the_maps_say(stand: Stand) -> None:
    record = stand.show("evidence.tif", 4)
    stand.heard_of(record)
    prediction = stand.classifier.classify(stand.frames / "evidence.tif")
    assert prediction.evidence is not None
    taxonomy = stand.classifier.bundle.manifest.taxonomy
    for depth, level in enumerate(taxonomy.levels):
        maps = prediction.evidence[taxonomy.slices()[depth]]
        for name, grid in zip(level.classes, maps, strict=True):
            params: dict[str, str | int] = {"class": name, "level": level.name, "width": 64}
            answer = stand.client.get(f"/v1/frames/{record.seq}/evidence.png", params=params).raise_for_status()
            layer = decoded(answer.content)
            assert layer.shape == (48, 64, 4)
            corners = layer[[0, 0, -1, -1], [0, -1, 0, -1], 3] / 255
            expected = np.clip(grid.ravel() / max(maps.max(), 1e-6), 0, 1) * 0.62
            np.testing.assert_allclose(corners, expected, atol=0.01)


def test_a_record_is_shown_no_earlier_than_its_picture(stand: Stand) -> None:
    before, states = stand.store.last_seq(), count(1)
    with stand.telling_nothing():
        stand.put("held.tif", 6)
        while stand.store.last_seq() == before:
            Event().wait(0.02)
        *_, state = events(stand.client, until=lambda event: event.name == "state" and next(states) == 2)
        assert state.data["last_record_seq"] == before
    record = stand.wait_for("held.tif")
    stand.heard_of(record)
    for level in stand.classifier.bundle.manifest.taxonomy.levels:
        for name in level.classes:
            params = {"class": name, "level": level.name}
            stand.client.get(f"/v1/frames/{record.seq}/evidence.png", params=params).raise_for_status()


def test_a_frame_that_came_too_soon_has_its_picture_and_the_evidence_on_record(
    bundle_path: Path, tmp_path: Path
) -> None:
    with Stand(tmp_path, bundle_path, previews_per_s=1e-9) as stand:
        first, second = stand.show("first.tif", 1), stand.show("second.tif", 2)
        stand.heard_of(second)
        classes = [name for level in stand.classifier.bundle.manifest.taxonomy.levels for name in level.classes]

        def codes(record: Record) -> list[int]:
            path = f"/v1/frames/{record.seq}/evidence.png"
            return [stand.client.get(path, params={"class": name}).status_code for name in classes]

        assert codes(first) == [200] * len(classes)
        assert sorted(codes(second)) == [200] + [404] * (len(classes) - 1)
        stand.client.get(f"/v1/frames/{second.seq}/evidence.png").raise_for_status()
        stand.client.get(f"/v1/frames/{second.seq}.png").raise_for_status()


def test_the_layer_of_a_long_narrow_frame_is_bounded_and_its_address_is_its_records(stand: Stand) -> None:
    record = stand.show("narrow.tif", 5, (1280, 96))
    stand.heard_of(record)
    urls = stand.client.get("/v1/records", params={"limit": 1}).json()["records"][0]["urls"]
    assert urls["evidence"].endswith(f"?of={record.hash[:16]}")
    layer = decoded(stand.client.get(f"{urls['evidence']}&width=32").raise_for_status().content)
    assert layer.shape == (128, 32, 4)


def test_a_frame_whose_file_was_changed_is_not_shown_again(bundle_path: Path, tmp_path: Path) -> None:
    with Stand(tmp_path, bundle_path) as first:
        kept, changed, gone = (first.show(f"{name}.tif", seed) for seed, name in enumerate(("kept", "changed", "gone")))
    tifffile.imwrite(tmp_path / "new.tif", pixels(99))
    (tmp_path / "frames" / "gone.tif").unlink()
    with Stand(tmp_path, bundle_path) as second:
        (tmp_path / "new.tif").replace(tmp_path / "frames" / "changed.tif")
        shown = second.client.get(f"/v1/frames/{kept.seq}.png").raise_for_status()
        np.testing.assert_array_equal(decoded(shown.content), grey_for_eyes(pixels(0)))
        for record, why in ((changed, "changed since"), (gone, "cannot be read again")):
            answer = second.client.get(f"/v1/frames/{record.seq}.png")
            assert answer.status_code == 404
            assert why in answer.json()["error"]
        params = {"class": record_class(kept)}
        assert second.client.get(f"/v1/frames/{kept.seq}/evidence.png", params=params).status_code == 200
        other = next(name for name in ("mechanical", "thermal") if name != record_class(kept))
        answer = second.client.get(f"/v1/frames/{kept.seq}/evidence.png", params={"class": other})
        assert answer.status_code == 404
        assert "not at hand any more" in answer.json()["error"]


def record_class(record: object) -> str:
    return str(record.details["evidence"]["class"])  # type: ignore[attr-defined]


def test_tiles_of_a_large_frame_say_what_they_show(bundle_path: Path, tmp_path: Path) -> None:
    with Stand(tmp_path, bundle_path, tiles=TileSettings(side_px=64, overlap=0.0)) as stand:
        record = stand.show("large.tif", 5, (128, 192))
        answer = stand.client.get(f"/v1/frames/{record.seq}/tiles").raise_for_status().json()
        assert answer["num_tiles"] == len(answer["tiles"]) == 6
        assert answer["shares"] == record.details["area"]["shares"]  # type: ignore[index, call-overload]
        boxes = [(tile["left"], tile["top"]) for tile in answer["tiles"]]
        assert boxes[1] == (pytest.approx(1 / 3), 0)
        for tile in answer["tiles"]:
            top, left = round(tile["top"] * 128), round(tile["left"] * 192)
            tifffile.imwrite(tmp_path / "tile.tif", pixels(5, (128, 192))[top : top + 64, left : left + 64])
            alone = stand.classifier.classify(tmp_path / "tile.tif").decision
            assert alone is not None
            assert tile["path"] == list(alone.answer)
            assert tile["confidence"] == pytest.approx(alone.confidence, abs=1e-4)
        small = stand.show("small.tif", 6, (64, 64))
        assert stand.client.get(f"/v1/frames/{small.seq}/tiles").status_code == 404


def test_what_was_not_classified_says_why_and_has_no_evidence(stand: Stand) -> None:
    part = stand.frames / ".blank.part"
    tifffile.imwrite(part, np.full((96, 128), 40, np.uint8))
    part.rename(stand.frames / "blank.tif")
    record = stand.wait_for("blank.tif")
    short = stand.client.get(f"/v1/records/{record.seq}").json()["summary"]
    assert (short["status"], short["path"], short["urls"]["evidence"]) == ("not_classified", [], None)
    assert short["reason"]
    assert stand.client.get(f"/v1/frames/{record.seq}.png").status_code == 200
    assert stand.client.get(f"/v1/frames/{record.seq}/evidence.png").status_code == 404
    refused = stand.client.get("/v1/records", params={"gate": "blank"}).json()["records"]
    assert [one["seq"] for one in refused] == [record.seq]


def test_filters_find_classes_and_decisions(stand: Stand) -> None:
    record = stand.show("filtered.tif", 11)
    name = record.answer[0]
    stand.client.post(f"/v1/records/{record.seq}/review", json={"decision": "accept", "operator": "Ann"})
    for params, is_in in (
        ({"class": name}, True),
        ({"class": "no such class"}, False),
        ({"reviewed": "yes"}, True),
        ({"reviewed": "accepted"}, True),
        ({"reviewed": "overridden"}, False),
        ({"reviewed": "no"}, False),
    ):
        page = stand.client.get("/v1/records", params={"limit": 200, **params}).raise_for_status().json()
        assert (record.seq in [one["seq"] for one in page["records"]]) is is_in, params
    assert stand.client.get("/v1/records", params={"reviewed": "perhaps"}).status_code == 422


def test_a_search_stops_after_so_many_rows_and_says_where_to_go_on(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffnet.runtime.records_search._MOST_SCANNED", 2)
    search = RecordSearch.open(stand.records_path)
    high = search.bounds()[1]
    page = search.page(before=None, limit=50, node="no such class")
    assert page.records == ()
    assert page.next_before == high - 1
    search.close()


def test_shares_add_up(stand: Stand) -> None:
    seq = stand.show("shared.tif", 12).seq
    events(stand.client, until=lambda e: e.seq == seq, params={"after": seq - 1})
    document = stand.client.get("/v1/shares", params={"bins": 6, "minutes": 60}).raise_for_status().json()
    assert len(document["bins"]) == 6
    newest = document["bins"][-1]
    assert sum(one["num"] for one in document["bins"]) == len(stand.committed)
    total = sum(newest["shares"]["level1"].values()) + newest["unsure"] + newest["not_classified"]
    assert total == pytest.approx(1, abs=1e-4)


def test_metrics_count_this_run(stand: Stand) -> None:
    text = stand.client.get("/metrics").raise_for_status().text
    assert 'hffnet_frames_total{status="classified"}' in text


@pytest.mark.parametrize(
    "name", ["plain.tif", f"<script>alert(1)<script>&=cmd{_NO_FONT}.tif"], ids=["plain", "hostile name"]
)
def test_the_report_of_a_frame_says_it_all(stand: Stand, name: str) -> None:
    record = stand.show(name, 30 + len(name))
    review = {"decision": "override", "path": ["thermal"], "operator": "<b>Ann</b> & Bo", "reason": "=1+1 <i>x</i>"}
    assert stand.client.post(f"/v1/records/{record.seq}/review", json=review).status_code == 201
    answer = stand.client.get(f"/v1/records/{record.seq}/report.pdf").raise_for_status()
    pdf = pypdf.PdfReader(io.BytesIO(answer.content))
    text = " ".join("\n".join(page.extract_text() for page in pdf.pages).split())
    unbroken = text.replace(" ", "")
    for piece in (record.hash, record.bundle_sha256, record.input_sha256, "thermal", "onnxruntime"):
        assert str(piece) in unbroken, piece
    assert name.replace(_NO_FONT, r"\U00012000") in unbroken
    assert "<b>Ann</b> & Bo" in text
    assert "=1+1 <i>x</i>" in text
    assert f"page 1 of {len(pdf.pages)}" in text
    assert len(pdf.pages[0].images) == 2
    again = stand.client.get(f"/v1/records/{record.seq}/report.pdf").content
    assert pypdf.PdfReader(io.BytesIO(again)).metadata != pdf.metadata, "each report has its own id"


def test_the_report_of_a_session_has_a_row_for_each_result(stand: Stand) -> None:
    seqs = [stand.show(f"session-{number}.tif", 40 + number).seq for number in range(3)]
    params = {"first": seqs[0], "last": seqs[-1]}
    pdf = pypdf.PdfReader(io.BytesIO(stand.client.get("/v1/report.pdf", params=params).raise_for_status().content))
    assert "3 of 3" in pdf.pages[0].extract_text() or "of 3" in pdf.pages[0].extract_text()
    for number in range(3):
        assert f"session-{number}.tif" in pdf.pages[0].extract_text()
    assert len(pdf.pages) > 3
    short = stand.client.get("/v1/report.pdf", params={**params, "frames": False}).raise_for_status()
    assert len(pypdf.PdfReader(io.BytesIO(short.content)).pages) == 1
    assert stand.client.get("/v1/report.pdf", params={"first": 5, "last": 4}).status_code == 422
    assert stand.client.get("/v1/report.pdf", params={"first": 10**9, "last": 10**9}).status_code == 404


def test_a_decision_is_a_new_row_beside_the_models(stand: Stand) -> None:
    record = stand.show("decided.tif", 50)
    asked = {"decision": "override", "path": ["thermal", "spalling"], "operator": "Ann", "reason": "seen by eye"}
    following = {"params": {"after": stand.store.last_seq()}}
    answer = stand.client.post(f"/v1/records/{record.seq}/review", json=asked)
    assert answer.status_code == 201
    review = answer.json()["review"]
    assert (review["path"], review["operator"], review["reason"]) == (asked["path"], "Ann", "seen by eye")
    (told,) = [e for e in events(stand.client, until=lambda e: e.name == "review", **following) if e.name == "review"]
    assert (told.seq, told.data) == (review["seq"], review)
    whole = stand.client.get(f"/v1/records/{record.seq}").json()
    assert whole["record"] == record_json(record)
    assert whole["reviews"] == [review]
    assert whole["summary"]["review"] == review
    assert stand.store.verify().is_sound


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"decision": "override", "path": ["thermal", "fatigue"], "operator": "A", "reason": "x"}, "no path"),
        ({"decision": "override", "path": [], "operator": "A", "reason": "x"}, "no path"),
        ({"decision": "override", "path": ["thermal"], "operator": "A"}, "reason"),
        ({"decision": "override", "path": ["thermal"], "operator": "  ", "reason": "x"}, "operator"),
        ({"decision": "accept"}, "operator"),
        ({"decision": "accept", "operator": "A\nB"}, "operator"),
        ({"decision": "accept", "operator": "A" * 201}, "operator"),
        ({"decision": "delete", "operator": "A"}, "decision"),
        ({"decision": "accept", "operator": "A", "seq": 1}, "seq"),
        ([], "object"),
    ],
)
def test_a_decision_that_cannot_be_is_refused_with_a_sentence(stand: Stand, asked: object, why: str) -> None:
    rows = stand.store.last_seq()
    answer = stand.client.post("/v1/records/2/review", json=asked)
    assert answer.status_code == 422
    assert why in answer.json()["error"]
    assert stand.store.last_seq() == rows


def test_what_does_not_exist_is_told(stand: Stand) -> None:
    for path in ("/v1/records/999999", "/v1/frames/999999.png", "/v1/frames/999999/tiles", "/nothing"):
        answer = stand.client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]
    assert stand.client.get("/v1/records/1").json()["error"] == "record 1 is no result but an event"
    assert stand.client.get("/v1/records/0").status_code == 422
