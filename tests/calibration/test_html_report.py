"""The page stands alone and shows what was measured."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

from hffnet.calibration.html_report import Flip, html_from_calibration
from hffnet.calibration.int8 import CalibrationOptions, calibration_from_frames
from hffnet.calibration.observers import ObserverName
from tests.calibration.graphs import outlier_network, textured_frames


class Page(HTMLParser):
    """Counts elements and keeps what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.mark.parametrize("observer", ["entropy", "minmax"])
def test_page_shows_every_tensor_flip_and_frame_and_fetches_nothing(tmp_path: Path, observer: ObserverName) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(outlier_network(), path)
    calibration = calibration_from_frames(path, textured_frames(4), options=CalibrationOptions(observer=observer))
    report = calibration.report()
    flip = Flip(
        name="<script>alert(1)</script>.tif",
        pixels=np.zeros((32, 32), np.uint8),
        truth=("a", "x"),
        before=("a", "x"),
        after=("b", "z"),
    )
    text = html_from_calibration(calibration, report, [flip])
    page = Page(text)
    assert "script" not in page.counts
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.tif" in text
    assert page.counts["img"] == 1
    assert all(url.startswith("data:") for url in page.fetched)
    assert all(tensor in text for tensor in report.ranges)
    assert all(origin.name in text for origin in report.frames)
    assert page.counts.get("svg", 0) == (len(report.ranges) if observer == "entropy" else 0)
    assert "α 0.5" in text
