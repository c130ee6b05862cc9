"""The info bar is found where there is one, and no picture is cut where there is none."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Crop
from hffnet.runtime.infobar import BarSetting, crop_of, first_bar_row
from hffnet.runtime.metadata import Described
from hffnet.runtime.read import read_frame

RNG = np.random.default_rng(11)

BARS = {
    "fei/helios660_uint16.tif": (442, "metadata"),
    "fei/helios_g4_no_bar.tif": (1024, "whole"),
    "fei/no_vendor_tag_no_bar.tif": (1024, "whole"),
    "fei/nova450_uint8.tif": (1024, "metadata"),
    "fei/nova450_uint16.tif": (1024, "metadata"),
    "tescan/s8251g_uint16.tif": (1152, "metadata"),
    "zeiss/A7075_2mm_250_01.tif": (716, "detected"),
    "zeiss/A7075_6mm_250_01.tif": (716, "detected"),
    "zeiss/nvision40.tif": (699, "detected"),
    "jeol/no_metadata.bmp": (960, "detected"),
}
WITH_BAR = [name for name, (_, reason) in BARS.items() if reason != "whole"]


@pytest.mark.parametrize("name", BARS)
def test_real_bars(name: str, shared: Path) -> None:
    rows, reason = BARS[name]
    crop = read_frame(shared / "data/vendor_tiff" / name).crop
    assert (crop.top, crop.left, crop.reason) == (0, 0, reason)
    assert abs(crop.height - rows) <= 2


@pytest.mark.parametrize("name", WITH_BAR)
def test_detection_agrees_with_metadata(name: str, shared: Path) -> None:
    rows, _ = BARS[name]
    found = first_bar_row(read_frame(shared / "data/vendor_tiff" / name).pixels)
    assert found is not None
    assert abs(found - rows) <= 2


@pytest.mark.parametrize("name", BARS)
@pytest.mark.parametrize("tail", [0, 30, 100], ids=["picture", "30 rows of zeros", "100 rows of zeros"])
def test_a_picture_is_not_cut(name: str, tail: int, shared: Path) -> None:
    """Neither a real picture nor the black bottom of a file that was allocated before it was written."""
    picture = read_frame(shared / "data/vendor_tiff" / name).picture.copy()
    picture[len(picture) - tail :] = 0
    assert first_bar_row(picture) is None


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["x_sdd", "sem_thermal"])
def test_no_tile_is_cut(folder: str, shared: Path) -> None:
    """Also enlarged to the height at which detection begins, and with its darker half clipped to black."""
    for path in sorted((shared / "data" / folder).rglob("*.[jp][pn]g")):
        frame = read_frame(path)
        assert frame.crop.reason == "whole", path
        large = np.asarray(cv2.resize(frame.pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), np.uint8)
        middle = np.uint8(np.median(large))
        assert first_bar_row(large) is None, path
        assert first_bar_row(np.maximum(large, middle) - middle) is None, path


def drawn(height: int = 600, width: int = 800, rows: int = 48, level: int = 0) -> npt.NDArray[np.uint8]:
    pixels = np.asarray(cv2.GaussianBlur(RNG.integers(0, 256, (height, width), np.uint8), (0, 0), 1.5), np.uint8)
    pixels[height - rows :] = level
    ink = (255 - level,)
    cv2.putText(pixels, "HV 10.0 kV  WD 7.0 mm  x250", (10, height - rows // 3), cv2.FONT_HERSHEY_SIMPLEX, 0.9, ink, 2)
    return pixels


@pytest.mark.parametrize("level", [0, 30, 255], ids=["black", "grey", "white"])
def test_a_drawn_bar_is_found_in_every_depth(level: int) -> None:
    pixels = drawn(level=level)
    assert first_bar_row(pixels) == 552
    assert first_bar_row(pixels.astype(np.uint16) * np.uint16(257)) == 552
    assert first_bar_row(pixels.astype(np.float32) / np.float32(255)) == 552


def test_a_setting_serves_where_nothing_is_found_and_overrides_where_forced() -> None:
    plain, with_bar = drawn()[:552], drawn()
    nothing = Described()
    assert crop_of(plain, nothing, None, "a") == Crop(top=0, left=0, height=552, width=800, reason="whole")
    assert crop_of(plain, nothing, BarSetting(rows=20), "a").height == 532
    assert crop_of(with_bar, nothing, BarSetting(rows=20), "a").reason == "detected"
    assert crop_of(with_bar, nothing, BarSetting(rows=20, force=True), "a").height == 580
    assert crop_of(with_bar, nothing, BarSetting(rows=0, force=True), "a").reason == "whole"
    with pytest.raises(FrameError, match="leaves no picture"):
        crop_of(plain, nothing, BarSetting(rows=552), "a")


@pytest.mark.parametrize("rows", [-5, 600, 10**9], ids=["negative", "all", "more than all"])
def test_impossible_metadata_is_not_followed(rows: int) -> None:
    assert crop_of(drawn()[:552], Described(bar_rows=rows), None, "a").reason == "whole"


def test_small_frames_are_left_alone() -> None:
    assert crop_of(drawn(height=255, rows=30), Described(), None, "a").reason == "whole"
