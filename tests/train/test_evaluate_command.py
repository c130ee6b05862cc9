"""`hffnet evaluate` tells the same numbers as JSON and as one HTML page that needs no network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from hffnet.runtime.assessment import Judged, assess
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import ConfigError, DatasetError
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.evaluate import temperatures_from_logits
from hffnet.train.evaluate_command import evaluate
from hffnet.train.html_report import ReportPage, write_report
from hffnet.train.mistakes import Thumbnail, thumbnails_of, worst_mistakes
from tests.tiny import SIZE

app = typer.Typer()
app.command()(evaluate)

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Four noise pictures for each class of the tiny bundle, and one that a gate refuses."""
    rng = np.random.default_rng(5)
    for leaf in ("mechanical/dimples", "mechanical/fatigue", "thermal/spalling"):
        (tmp_path / "data" / leaf).mkdir(parents=True)
        for n in range(4):
            picture = rng.integers(0, 256, size=(2 * SIZE, 2 * SIZE), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "data" / leaf / f"{n}.png"), picture)
    cv2.imwrite(str(tmp_path / "data/thermal/spalling/blank.png"), np.full((64, 64), 7, np.uint8))
    return tmp_path / "data"


class _Loads(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.scripts: list[str] = []
        self.others: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = next((value for name, value in attrs if name in {"src", "href"} and value), None)
        if address is None:
            return
        {"img": self.images, "script": self.scripts}.get(tag, self.others).append(address)


def test_json_and_page_of_a_bundle(bundle_path: Path, frames: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = _run(bundle_path, frames, "--report", page, "--engine", "onnxruntime", "--threads", "1", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    found = document["assessment"]
    assert (document["schema_version"], document["metrics"]["num_frames"], found["num_refused"]) == (1, 13, 1)
    assert [len(level["confusion"]) for level in found["levels"]] == [2, 3]
    assert sum(map(sum, found["levels"][1]["confusion"])) == 12
    assert [one["decoding"] for one in found["decodings"]] == ["independent", "top-down", "joint", "hf1-optimal"]
    assert len(document["frames"]) == 13
    text = page.read_text(encoding="utf-8")
    assert f"{document['metrics']['hf1']:.4f}" in text
    assert "1 frames were refused" in text
    loads = _Loads()
    loads.feed(text)
    assert (loads.scripts, loads.others) == ([], [])
    wrong = sum(frame["answer"] != frame["truth"] and bool(frame["answer"]) for frame in document["frames"])
    assert len(loads.images) == 2 * wrong > 0  # each mistake with its evidence
    assert all(address.startswith("data:image/png;base64,") for address in loads.images)
    assert not list(tmp_path.glob("*.part"))


def test_a_report_that_cannot_be_written_is_refused_first(bundle_path: Path, frames: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "report.html", tmp_path):
        result = _run(bundle_path, frames, "--report", path)
        assert isinstance(result.exception, ConfigError)


def _judged(logits: list[list[float] | None], truths: list[tuple[str, ...]]) -> list[Judged]:
    return [
        Judged(name=f"{n}.png", truth=t, group=str(n), logits=None if row is None else np.array(row, np.float32))
        for n, (row, t) in enumerate(zip(logits, truths, strict=True))
    ]


def test_names_in_the_page_are_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    tree = Taxonomy.from_paths([("a", evil), ("b", "z")])
    judged = [
        Judged(name=evil, truth=("a", evil), group=evil, logits=np.array([0, 5, 0, 5], np.float32)),
        Judged(name="2", truth=("b", "z"), group="2", logits=np.array([0, 5, 0, 5], np.float32)),
    ]
    assessment, decisions = assess(judged, tree, DecodeSpec.plain(tree))
    page = ReportPage(
        title=evil,
        facts=[("model", evil)],
        mistakes=worst_mistakes(judged, decisions),
        pictures=[Thumbnail(picture="data:,", overlay=None)],
        evidence_note=evil,
    )
    write_report(tmp_path / "report.html", assessment, page)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;img src=x" in text
    assert "<img src=x" not in re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.DOTALL)


def test_the_worst_mistake_is_the_furthest_then_the_surest() -> None:
    right, near, far, sure = [9, 0, 9, 0, 0], [9, 0, 0, 5, 0], [0, 3, 0, 0, 3], [0, 9, 0, 0, 9]
    judged = _judged([right, near, far, sure, None], [("a", "x")] * 5)  # type: ignore[list-item]
    assessment, decisions = assess(judged, TREE, DecodeSpec.plain(TREE))
    mistakes = worst_mistakes(judged, decisions)
    assert [(one.name, one.distance) for one in mistakes] == [("3.png", 4), ("2.png", 4), ("1.png", 2)]
    assert assessment.mistake_distance == pytest.approx(10 / 3)
    assert assessment.num_refused == 1
    assert worst_mistakes(judged, decisions, most=1) == mistakes[:1]


def test_the_overlay_shows_where_the_wrong_class_speaks() -> None:
    judged = _judged([[0, 9, 0, 0, 9]], [("a", "x")])
    _, decisions = assess(judged, TREE, DecodeSpec.plain(TREE))
    evidence = np.zeros((5, 2, 2), np.float32)
    evidence[1, 0, 0], evidence[0, 1, 1] = 4.0, 4.0  # said "b" upper left, true "a" lower right
    grey = np.full((SIZE, SIZE), 128, np.uint8)
    (drawn,) = thumbnails_of(worst_mistakes(judged, decisions), lambda _: (grey, evidence), TREE)
    assert drawn.overlay is not None
    import base64

    png = np.frombuffer(base64.b64decode(drawn.overlay.split(",")[1]), np.uint8)
    picture = np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR)).astype(int)
    assert picture[20, 20, 2] > picture[20, 20, 0] + 50  # orange: red over blue
    assert picture[-20, -20, 0] > picture[-20, -20, 2] + 50


def test_no_frame_that_can_be_judged() -> None:
    with pytest.raises(DatasetError, match="none of 1 frames could be classified"):
        assess(_judged([None], [("a", "x")]), TREE, DecodeSpec.plain(TREE))


def test_a_faultless_split_sharpens_nothing() -> None:
    leaves = np.arange(60) % 3
    labels = TREE.leaf_paths[leaves].astype(np.int64)
    logits = np.zeros((60, 5), np.float32)
    logits[np.arange(60), labels[:, 0]] = 3
    logits[np.arange(60), 2 + labels[:, 1]] = 3
    assert temperatures_from_logits(logits, labels, TREE) == (1.0, 1.0)
