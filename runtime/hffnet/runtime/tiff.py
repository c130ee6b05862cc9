"""TIFF bytes -> samples and raw vendor tags: page 0 only, every claim of the header checked before decoding.

tifffile decodes and is given only what this module has checked, because it has no guard of its own: a 1 MB deflate
bomb becomes 895 MB, 65529 samples per pixel ask for 215 TiB, and strips that are missing are filled with zeros.
"""

import io
import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.grey import grey_from_palette, grey_from_samples
from hffnet.runtime.jpeg import check_jpeg
from hffnet.runtime.limits import Limits

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_MAX_TAGS = 4096
_MAX_VALUES = 2**21
_MAX_TAG_BYTES = 2**20
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TEXT_TYPES = {1, 2, 6, 7}
_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "zstd"}
_PHOTOMETRICS = {0: "MinIsWhite", 1: "MinIsBlack", 2: "RGB", 3: "palette", 6: "YCbCr"}
_BITS = {1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64}
_TAKE = "Save the frame as uncompressed, LZW or deflate TIFF, 8 or 16 bit grey."


@dataclass(frozen=True, slots=True)
class _Tag:
    """Where one tag's value lies in the file."""

    kind: int
    count: int
    offset: int

    @property
    def num_bytes(self) -> int:
        return self.count * _TYPE_BYTES.get(self.kind, 1)

    def bytes_of(self, data: bytes) -> bytes:
        return data[self.offset : self.offset + min(self.num_bytes, _MAX_TAG_BYTES)]


class _Silence(logging.Filter):
    """Drops tifffile's log lines: what they tell of is checked here and raised as FrameError."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return False


_SILENCE = _Silence()


class TiffFrame(NamedTuple):
    """Page 0: grey pixels (H, W), and the bytes of the tags that were asked for."""

    pixels: GreyPixels
    tags: dict[int, bytes]


def tiff_frame_from_bytes(data: bytes, name: str, limits: Limits, wanted: frozenset[int]) -> TiffFrame:
    """Decode page 0 and pick the raw bytes of some tags.

    Args:
        data: the whole file.
        name: of the frame, for the error's sentence.
        limits: bounds on what the header may claim.
        wanted: codes of the tags to return as stored, at most 1 MiB each.

    Raises:
        FrameError: damaged, truncated, over a limit, or of a kind that is not read.
    """
    directory = _directory(data, name)
    logging.getLogger("tifffile").addFilter(_SILENCE)  # once: adding the same filter again does nothing
    try:
        # The stream is closed here: tifffile's objects refer to each other and would keep a copy of every file in
        # memory until the next garbage collection.
        with io.BytesIO(data) as stream, tifffile.TiffFile(stream, name="frame.tif") as file:
            pixels = _pixels(file.pages[0], data, name, limits)
    except FrameError:
        raise
    except Exception as error:  # tifffile and imagecodecs raise almost any type on hostile input
        raise FrameError(
            f"{name}: the TIFF cannot be decoded ({type(error).__name__}: {str(error)[:200]}). A complete, undamaged "
            f"page 0 was expected. {_TAKE}"
        ) from error
    tags = {
        code: data[tag.offset : tag.offset + min(tag.num_bytes, 2**20)] for code, tag in directory if code in wanted
    }
    return TiffFrame(pixels=pixels, tags=tags)


def _directory(data: bytes, name: str) -> tuple[tuple[int, _Tag], ...]:
    """Codes and places of page 0's tags, refused where tifffile would read without bound."""
    try:
        tags = tuple(_entries(data))
    except (struct.error, ValueError) as error:
        raise FrameError(
            f"{name}: the TIFF's directory is damaged ({error}), a list of tags inside {len(data)} bytes was expected. "
            "The file is truncated or not a TIFF: save the frame again."
        ) from error
    values = sum(tag.count for _, tag in tags if tag.kind not in _TEXT_TYPES)
    if values > _MAX_VALUES:
        raise FrameError(f"{name}: the TIFF's tags hold {values} values, at most {_MAX_VALUES} are read. {_TAKE}")
    return tags


def _entries(data: bytes) -> Iterator[tuple[int, _Tag]]:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    if not 8 <= start < len(data):
        raise ValueError(f"page 0 is said to lie at byte {start}")
    (num_tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if not 0 < num_tags <= _MAX_TAGS:
        raise ValueError(f"{num_tags} tags")
    entry, inline = struct.Struct(order + ("HHQ" if big else "HHI")), 8 if big else 4
    first = start + (8 if big else 2)
    for place in range(first, first + num_tags * (entry.size + inline), entry.size + inline):
        code, kind, count = entry.unpack_from(data, place)
        where = place + entry.size
        tag = _Tag(kind, count, where)
        if tag.num_bytes > inline:
            (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, where)
            tag = _Tag(kind, count, offset)
            if offset + tag.num_bytes > len(data):
                raise ValueError(f"tag {code} is said to have {tag.num_bytes} bytes at byte {offset}")
        yield code, tag


def _pixels(page: Any, data: bytes, name: str, limits: Limits) -> GreyPixels:  # noqa: ANN401 - tifffile is untyped
    _check_kind(page, name, limits)
    _check_segments(page, data, name, limits)
    stored = _as_stored(page, data)
    samples = stored if stored is not None else np.asarray(page.asarray(maxworkers=1))
    if samples.ndim == 3 and page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    if page.photometric == 3:
        return grey_from_palette(samples, np.asarray(page.colormap, np.uint16), name)
    if page.photometric == 6 and page.compression != 7 and samples.ndim == 3:
        samples = samples[..., 0]  # Y is the grey level
    return grey_from_samples(samples, name, bits=page.bitspersample, white_is_zero=page.photometric == 0)


def _as_stored(page: Any, data: bytes) -> npt.NDArray[Any] | None:  # noqa: ANN401
    """Grey samples that lie in the file as they are to be, without a copy; None where they have to be decoded.

    The copy is the dearest part of reading a large frame: fresh memory costs more than filling it.
    """
    is_plain = page.is_contiguous and page.samplesperpixel == 1 and page.fillorder == 1 and page.predictor == 1
    dtype = np.dtype(page.parent.byteorder + page.dtype.char)
    offset, num_bytes = page.dataoffsets[0], page.imagelength * page.imagewidth * dtype.itemsize
    if not is_plain or offset + num_bytes > len(data):
        return None  # a strip that is too short is tifffile's to refuse
    if 2 * num_bytes < len(data):
        return None  # one page of a stack must not keep the whole file in memory
    samples = np.frombuffer(data, dtype, page.imagelength * page.imagewidth, offset)
    return samples.reshape(page.imagelength, page.imagewidth) if samples.flags.aligned else None


def _check_kind(page: Any, name: str, limits: Limits) -> None:  # noqa: ANN401
    found = {
        f"compression {page.compression}": int(page.compression) in _COMPRESSIONS,
        f"photometric interpretation {page.photometric}": int(page.photometric) in _PHOTOMETRICS,
        f"{page.bitspersample} bits per sample": page.bitspersample in _BITS,
        f"sample format {page.sampleformat}": page.sampleformat in (1, 2, 3) and page.dtype is not None,
        f"{page.samplesperpixel} samples per pixel": page.samplesperpixel in (1, 2, 3, 4),
        f"depth {page.imagedepth}": page.imagedepth == 1,
        "a palette without colour map": page.photometric != 3 or page.colormap is not None,
    }
    if wrong := [what for what, good in found.items() if not good]:
        raise FrameError(
            f"{name}: a TIFF with {', '.join(wrong)} was found; grey, palette or RGB was expected. {_TAKE}"
        )
    limits.check_picture(page.imagewidth, page.imagelength, page.samplesperpixel, page.dtype.itemsize, name)
    if page.is_tiled:
        limits.check_picture(page.tilewidth, page.tilelength, page.samplesperpixel, page.dtype.itemsize, name)


def _check_segments(page: Any, data: bytes, name: str, limits: Limits) -> None:  # noqa: ANN401
    """Every strip or tile is inside the file: tifffile fills missing ones with zeros."""
    expected = math.prod(page.chunked)
    offsets, counts = page.dataoffsets[:expected], page.databytecounts[:expected]
    present = len(offsets) == len(counts) == expected and min(offsets) > 0 and min(counts) > 0
    # Some writers round the byte count of an uncompressed strip up; tifffile itself refuses a short one.
    inside = present and all(
        offset + (1 if page.compression == 1 else count) <= len(data)
        for offset, count in zip(offsets, counts, strict=True)
    )
    if not inside:
        raise FrameError(
            f"{name}: strips or tiles are missing or lie outside the file ({len(data)} bytes), {expected} complete "
            "ones were expected. The file is truncated: copy or save it again."
        )
    if page.compression == 7:
        for offset, count in zip(offsets, counts, strict=True):
            check_jpeg(data[offset : offset + count], name, limits)
