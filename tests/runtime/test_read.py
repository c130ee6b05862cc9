"""Files of many kinds become one grey channel, unchanged where they are grey already."""

import gc
import hashlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from hffnet.runtime.errors import FrameError
from hffnet.runtime.read import Limits, frame_from_bytes, read_frame

RNG = np.random.default_rng(7)
GREY8 = RNG.integers(0, 256, (48, 64), np.uint8)
GREY16 = RNG.integers(0, 65536, (48, 64), np.uint16)
GREY12 = RNG.integers(0, 4096, (48, 64), np.uint16)
FLOAT = RNG.random((48, 64), np.float32)
RGB = RNG.integers(0, 256, (48, 64, 3), np.uint8)
LUMA = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
RAMP = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
REVERSED = RAMP[:, ::-1].copy()

TIFFS: dict[str, tuple[npt.NDArray[Any], dict[str, Any], npt.NDArray[Any]]] = {
    "grey8": (GREY8, {}, GREY8),
    "grey16": (GREY16, {}, GREY16),
    "big endian": (GREY16, {"byteorder": ">"}, GREY16),
    "bigtiff": (GREY16, {"bigtiff": True}, GREY16),
    "one row per strip": (GREY8, {"rowsperstrip": 1}, GREY8),
    "tiles": (GREY16, {"tile": (16, 32)}, GREY16),
    "tiles that do not fit": (GREY8, {"tile": (32, 48)}, GREY8),
    "lzw": (GREY16, {"compression": "lzw", "rowsperstrip": 7}, GREY16),
    "lzw with predictor": (GREY16, {"compression": "lzw", "predictor": True}, GREY16),
    "deflate tiles": (GREY8, {"compression": "zlib", "tile": (16, 16)}, GREY8),
    "packbits": (GREY8, {"compression": "packbits"}, GREY8),
    "zstd": (GREY8, {"compression": "zstd"}, GREY8),
    "float32": (FLOAT, {}, FLOAT),
    "float64": (FLOAT.astype(np.float64), {}, FLOAT),
    "float32 deflate with predictor": (FLOAT, {"compression": "zlib", "predictor": True}, FLOAT),
    "int8": (GREY8.view(np.int8), {}, GREY8 ^ 0x80),
    "int16": ((GREY16.astype(np.int32) - 32768).astype(np.int16), {}, GREY16),
    "uint32 that fits 16 bits": (GREY16.astype(np.uint32), {}, GREY16),
    "uint32 that does not": (GREY16.astype(np.uint32) << 16, {}, (GREY16.astype(np.float64) * 65536 / (2**32 - 1))),
    "int32": (GREY16.astype(np.int32) - 70000, {}, GREY16 - GREY16.min()),
    "min is white 8": (GREY8, {"photometric": "miniswhite"}, 255 - GREY8),
    "min is white 16": (GREY16, {"photometric": "miniswhite"}, 65535 - GREY16),
    "rgb": (RGB, {"photometric": "rgb"}, LUMA),
    "rgb in planes": (np.moveaxis(RGB, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, LUMA),
    "rgba": (np.dstack([RGB, GREY8]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, LUMA),
    "rgb of equal channels": (np.dstack([GREY16] * 3), {"photometric": "rgb"}, GREY16),
    "grey and alpha": (
        np.dstack([GREY8, GREY8[::-1]]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        GREY8,
    ),
    "identity palette": (GREY8, {"photometric": "palette", "colormap": RAMP}, GREY8),
    "reversed palette": (GREY8, {"photometric": "palette", "colormap": REVERSED}, 255 - GREY8),
    "palette of 16-bit greys": (GREY8, {"photometric": "palette", "colormap": RAMP // 2}, (RAMP[0] // 2)[GREY8]),
}


def written(path: Path, pixels: npt.NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **({"photometric": "minisblack", "metadata": None} | options))
    return path


@pytest.mark.parametrize("case", TIFFS.values(), ids=TIFFS.keys())
def test_tiff(case: tuple[npt.NDArray[Any], dict[str, Any], npt.NDArray[Any]], tmp_path: Path) -> None:
    stored, options, expected = case
    frame = read_frame(written(tmp_path / "a.tif", stored, **options))
    assert frame.pixels.dtype in (np.uint8, np.uint16, np.float32)
    np.testing.assert_allclose(frame.pixels, expected, rtol=1e-6, atol=0)
    assert frame.pixels.flags.c_contiguous
    assert frame.crop.reason == "whole"
    assert frame.sha256 == hashlib.sha256((tmp_path / "a.tif").read_bytes()).hexdigest()


def test_tiff_of_packed_12_bits(tmp_path: Path) -> None:
    """Two pixels in three bytes, most significant bit first, as TIFF 6.0 packs them."""
    pairs = GREY12.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    path = written(tmp_path / "a.tif", packed.astype(np.uint8).reshape(48, 96))
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        tags["ImageWidth"].overwrite(64)
        tags["BitsPerSample"].overwrite(12)
    np.testing.assert_array_equal(read_frame(path).pixels, GREY12)


def test_jpeg_in_tiff_is_close(tmp_path: Path) -> None:
    """JPEG loses; a smooth picture stays within a few grey levels."""
    smooth = cv2.GaussianBlur(GREY8, (0, 0), 4)
    path = written(tmp_path / "a.tif", smooth, compression="jpeg", compressionargs={"level": 95}, rowsperstrip=16)
    assert np.abs(read_frame(path).pixels.astype(int) - smooth).max() <= 4


def test_only_page_0_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY8)
        file.write(GREY16[:8])
    np.testing.assert_array_equal(read_frame(path).pixels, GREY8)


@pytest.mark.parametrize(
    ("suffix", "stored", "expected"),
    [
        (".png", GREY8, GREY8),
        (".png", GREY16, GREY16),
        (".png", RGB[..., ::-1], LUMA),
        (".png", np.dstack([RGB[..., ::-1], GREY8]), LUMA),
        (".bmp", GREY8, GREY8),
        (".bmp", RGB[..., ::-1], LUMA),
    ],
    ids=["png8", "png16", "png rgb", "png rgba", "bmp8", "bmp rgb"],
)
def test_other_formats(suffix: str, stored: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    coded = cv2.imencode(suffix, stored)[1].tobytes()
    np.testing.assert_array_equal(frame_from_bytes(coded, "frame").pixels, expected)


@pytest.mark.parametrize("stored", [GREY8, RGB], ids=["grey", "colour"])
def test_jpeg_is_close(stored: npt.NDArray[Any]) -> None:
    smooth = cv2.GaussianBlur(stored, (0, 0), 4)
    grey = smooth if smooth.ndim == 2 else cv2.cvtColor(smooth, cv2.COLOR_BGR2GRAY)
    coded = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    assert np.abs(frame_from_bytes(coded, "frame").pixels.astype(int) - grey).max() <= 6


def test_the_extension_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "really.png"
    path.write_bytes(cv2.imencode(".bmp", GREY8)[1].tobytes())
    np.testing.assert_array_equal(read_frame(path).pixels, GREY8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad: float, tmp_path: Path) -> None:
    pixels = FLOAT.copy()
    pixels[3, 5] = bad
    with pytest.raises(FrameError, match="1 of 3072 pixels are NaN or infinite"):
        read_frame(written(tmp_path / "a.tif", pixels))


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY16)
    with pytest.raises(FrameError, match="at most 1000 are read"):
        read_frame(path, limits=Limits(max_file_bytes=1000))
    with pytest.raises(FrameError, match="claims 64x48 pixels"):
        read_frame(path, limits=Limits(max_pixels=64 * 48 - 1))
    with pytest.raises(FrameError, match="6144 bytes decoded"):
        read_frame(path, limits=Limits(max_decoded_bytes=6143))


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    for name, sentence in (("pipe.tif", "a file was exp"), (".", "a file was exp"), ("none.tif", "cannot be read")):
        with pytest.raises(FrameError, match=sentence):
            read_frame(tmp_path / name)


def test_links_are_refused_where_names_are_not_trusted(tmp_path: Path) -> None:
    written(tmp_path / "a.tif", GREY8)
    (tmp_path / "link.tif").symlink_to("a.tif")
    assert read_frame(tmp_path / "link.tif").pixels.shape == (48, 64)
    with pytest.raises(FrameError, match=r"link\.tif: cannot be read"):
        read_frame(tmp_path / "link.tif", follow_links=False)


VENDOR_FRAMES = {
    "fei/helios660_uint16.tif": (471, 512, np.uint16),
    "fei/helios_g4_no_bar.tif": (1024, 1536, np.uint8),
    "fei/no_vendor_tag_no_bar.tif": (1024, 1536, np.uint8),
    "fei/nova450_uint8.tif": (1103, 1536, np.uint8),
    "fei/nova450_uint16.tif": (1103, 1536, np.uint16),
    "tescan/s8251g_uint16.tif": (1331, 1536, np.uint16),
    "zeiss/A7075_2mm_250_01.tif": (768, 1024, np.uint8),
    "zeiss/A7075_6mm_250_01.tif": (768, 1024, np.uint8),
    "zeiss/nvision40.tif": (768, 1024, np.uint8),
    "jeol/no_metadata.bmp": (1024, 1280, np.uint8),
}


@pytest.mark.parametrize("name", VENDOR_FRAMES)
def test_frames_of_real_microscopes(name: str, shared: Path) -> None:
    height, width, dtype = VENDOR_FRAMES[name]
    pixels = read_frame(shared / "data/vendor_tiff" / name).pixels
    assert pixels.shape == (height, width)
    assert pixels.dtype == dtype


def test_a_broken_frame_of_a_real_microscope_is_refused(shared: Path) -> None:
    with pytest.raises(FrameError, match="831 complete ones were expected"):
        read_frame(shared / "data/vendor_tiff/broken/undecodable_strip.tif")


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_file_that_was_read_is_not_kept(compression: str | None) -> None:
    """Not until the next garbage collection either: that would be fresh memory for every frame of a service."""
    file = io.BytesIO()
    tifffile.imwrite(file, GREY16, compression=compression)
    data = file.getvalue()
    before = sys.getrefcount(data)
    gc.disable()
    try:
        frame = frame_from_bytes(data, "a.tif")
        assert np.array_equal(frame.pixels, GREY16)
        del frame
        assert sys.getrefcount(data) == before
    finally:
        gc.enable()


def test_samples_at_an_odd_place_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY16)
    odd = path.stat().st_size // 2 * 2 + 1
    with path.open("ab") as file:
        file.write(bytes(odd - path.stat().st_size) + GREY16.tobytes())
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["StripOffsets"].overwrite(odd)
    pixels = read_frame(path).pixels
    assert np.array_equal(pixels, GREY16)
    assert pixels.flags.aligned
