"""Damaged and hostile files end in a FrameError or in a correct frame, with bounded memory, and nothing on stderr."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from hffnet.runtime.errors import FrameError
from hffnet.runtime.read import Limits, frame_from_bytes, read_frame

PIXELS = np.asarray(
    cv2.GaussianBlur(np.random.default_rng(1).integers(0, 65536, (60, 80), np.uint16), (0, 0), 2), np.uint16
)
SMALL = Limits(max_file_bytes=2**22, max_pixels=2**20, max_decoded_bytes=2**22)
MEMORY = 64 * 2**20


def tiff(**options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, PIXELS, **({"photometric": "minisblack", "metadata": None} | options))
    return file.getvalue()


def coded(suffix: str) -> bytes:
    return cv2.imencode(suffix, PIXELS if suffix == ".png" else (PIXELS >> 8).astype(np.uint8))[1].tobytes()


WHOLE = {
    "tiff": tiff(),
    "tiff strips": tiff(rowsperstrip=1),
    "tiff lzw": tiff(compression="lzw", rowsperstrip=7),
    "tiff deflate": tiff(compression="zlib", tile=(16, 16)),
    "tiff big": tiff(bigtiff=True),
    "tiff big endian": tiff(byteorder=">"),
    "png": coded(".png"),
    "jpeg": coded(".jpg"),
    "bmp": coded(".bmp"),
}


def ifd(*tags: tuple[int, int, int, int], tail: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory at byte 8: (code, type, count, value or offset)."""
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", following) + tail


def grey(width: int, height: int, *more: tuple[int, int, int, int], tail: bytes = b"", following: int = 0) -> bytes:
    tags = {256: (256, 4, 1, width), 257: (257, 4, 1, height), 258: (258, 3, 1, 8), 259: (259, 3, 1, 1)}
    tags |= {262: (262, 3, 1, 1), 273: (273, 4, 1, 8), 277: (277, 3, 1, 1), 278: (278, 4, 1, height)}
    tags |= {279: (279, 4, 1, min(width * height, 2**32 - 1))} | {tag[0]: tag for tag in more}
    return ifd(*(tags[code] for code in sorted(tags)), tail=tail, following=following)


def deflate_bomb(width: int, height: int) -> bytes:
    data = zlib.compress(bytes(2**26))
    place = len(grey(width, height))
    return grey(width, height, (259, 3, 1, 8), (273, 4, 1, place), (279, 4, 1, len(data)), tail=data)


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + coded(".png")[33:]
    )


REFUSED = {
    "empty": b"",
    "text": b"this is not a frame\n" * 100,
    "magic only": b"II*\0",
    "html": b"<html>not found</html>",
    "no tags": ifd(),
    "directory beyond the end": b"II*\0\xff\xff\xff\x7f",
    "200000 x 200000": grey(200_000, 200_000),
    "width 0": grey(0, 10),
    "65529 samples": grey(10, 10, (277, 3, 1, 65529)),
    "1000 bits": grey(10, 10, (258, 3, 1, 1000)),
    "unknown compression": grey(10, 10, (259, 3, 1, 34887)),
    "cmyk": grey(10, 10, (262, 3, 1, 5), (277, 3, 1, 4)),
    "palette without map": grey(4, 4, (262, 3, 1, 3)),
    "depth 2^20": grey(4, 4, (32997, 4, 1, 2**20)),
    "huge tile": grey(4, 4, (322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (325, 4, 1, 16)),
    "strip at 0": grey(4, 4, (273, 4, 1, 0)),
    "strip of 0 bytes": grey(4, 4, (279, 4, 1, 0)),
    "strip outside": grey(4, 4, (273, 4, 1, 2**31)),
    "strips missing": grey(4, 400, (278, 4, 1, 1), tail=bytes(2000)),
    "tag of 4 billion values": grey(4, 4, (273, 4, 2**32 - 1, 8)),
    "tag of unknown type": grey(4, 4, (273, 99, 2**30, 8)),
    "complex samples": grey(4, 4, (258, 3, 1, 64), (339, 3, 1, 6), tail=bytes(500)),
    "deflate bomb of a big picture": deflate_bomb(8192, 8192),
    "deflate of noise": grey(100, 100, (259, 3, 1, 8), (279, 4, 1, 150), tail=b"\x01" * 200),
    "lzw of noise": grey(100, 100, (259, 3, 1, 5), (279, 4, 1, 150), tail=b"\xfe" * 200),
    "jpeg strip of 65500 x 65500": grey(
        8, 8, (259, 3, 1, 7), (273, 4, 1, 122), (279, 4, 1, 23),
        tail=b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 65500, 65500, 1) + b"\1\x11\0\xff\xd9" + bytes(20),
    ),
    "png of 2^30 x 2^30": png_header(2**30, 2**30),
    "jpeg without end": coded(".jpg")[:-2],
    "jpeg cut in half": coded(".jpg")[:1000],
    "bmp of 2^30 x 2^30": b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 2**30, 2**30, 1, 8, 0) + bytes(2000),
    "bmp with run lengths": b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 8, 8, 1, 8, 1) + bytes(2000),
    "bmp of negative width": b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, -8, 8, 1, 8, 0) + bytes(2000),
}  # fmt: skip


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_a_sentence(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=r"^frame: .*expected|^frame: .*at most|^frame: .*again"):
            frame_from_bytes(data, "frame", limits=SMALL)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert capfd.readouterr() == ("", "")


def test_a_deflate_bomb_costs_what_its_header_claims() -> None:
    """64 MiB of zeros behind a header of 16 x 16 pixels: 256 bytes are decoded."""
    tracemalloc.start()
    try:
        frame = frame_from_bytes(deflate_bomb(16, 16), "frame", limits=SMALL)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    except FrameError:
        pass
    else:
        assert frame.pixels.shape == (16, 16)
    finally:
        tracemalloc.stop()


def test_a_ring_of_directories_is_one_frame() -> None:
    frame = frame_from_bytes(grey(4, 4, following=8), "frame", limits=SMALL)
    assert frame.pixels.shape == (4, 4)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99], ids=lambda share: f"{share:.0%}")
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    whole = WHOLE[kind]
    path = tmp_path / "a.tif"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FrameError, match=r"a\.tif"):
        read_frame(path)


@pytest.mark.parametrize("kind", ["tiff lzw", "tiff deflate", "png"])
def test_a_zero_tail_in_compressed_data_is_refused(kind: str) -> None:
    """OpenCV fills such a picture with zeros and says nothing."""
    whole = WHOLE[kind]
    data = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    with pytest.raises(FrameError):
        frame_from_bytes(data, "frame")


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=8), early=st.booleans()
)
def test_flipped_bytes(kind: str, flips: list[tuple[int, int]], *, early: bool) -> None:
    """Half of the examples hit the first or last 300 bytes, where headers and directories lie."""
    data = bytearray(WHOLE[kind])
    for place, mask in flips:
        where = (place % 600) - 300 if early else place
        data[where % len(data)] ^= mask
    tracemalloc.start()
    try:
        frame = frame_from_bytes(bytes(data), "frame", limits=SMALL)
    except FrameError:
        pass
    else:
        assert frame.pixels.ndim == 2
        assert frame.pixels.dtype in (np.uint8, np.uint16, np.float32)
        assert np.isfinite(frame.pixels).all()
        assert 0 < frame.picture.size <= SMALL.max_pixels
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"BM", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b""]
    ),
    st.binary(max_size=300),
)
def test_noise_behind_any_magic(magic: bytes, noise: bytes) -> None:
    try:
        frame_from_bytes(magic + noise, "frame", limits=SMALL)
    except FrameError as error:
        assert str(error).startswith("frame: ")  # noqa: PT017 - a frame is an answer too
