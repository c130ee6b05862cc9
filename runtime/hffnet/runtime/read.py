"""A file -> a Frame: bytes read once, hashed, decoded within limits, metadata read, info bar found.

The format is told by the first bytes, never by the extension.
"""

import hashlib
import logging
import os
import stat
from pathlib import Path

import numpy as np

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Acquisition, Frame, GreyPixels
from hffnet.runtime.infobar import BarSetting, crop_of
from hffnet.runtime.limits import Limits
from hffnet.runtime.metadata import VENDOR_TAGS, Described, described_from_sidecar, described_from_tags, sidecars_of
from hffnet.runtime.raster import MAGIC as RASTER_MAGIC
from hffnet.runtime.raster import grey_from_raster
from hffnet.runtime.tiff import MAGIC as TIFF_MAGIC
from hffnet.runtime.tiff import tiff_frame_from_bytes

__all__ = ["BarSetting", "Limits", "frame_from_bytes", "frame_from_pixels", "read_frame"]

_LOG = logging.getLogger(__name__)

MAX_SIDECAR_BYTES = 2**18
_DEFAULT_LIMITS = Limits()


def read_frame(
    source: Path,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    bar: BarSetting | None = None,
    follow_links: bool = True,
    sha256: str | None = None,
) -> Frame:
    """Read one frame from a file, with the text file the microscope may have put beside it.

    Args:
        source: TIFF, PNG, JPEG or BMP.
        limits: bounds, checked before memory is asked for.
        bar: what is known of this instrument's info bar.
        follow_links: False for watch folders, whose file names are not trusted.
        sha256: what the bytes must be; compared before anything is decoded. None takes any.

    Raises:
        FrameError: the file is missing, not a regular file, truncated, damaged, over a limit, not a frame, or not the
            one that was asked for.
    """
    data = _file_bytes(source, limits.max_file_bytes, follow_links=follow_links)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise FrameError(f"{source}: was changed since it was classified; its bytes are others, so it is not shown")
    return frame_from_bytes(
        data, str(source), limits=limits, bar=bar, sidecar=_sidecar_bytes(source, follow_links=follow_links)
    )


def frame_from_bytes(
    data: bytes,
    name: str,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    bar: BarSetting | None = None,
    sidecar: bytes | None = None,
) -> Frame:
    """Decode one frame from the bytes of a file.

    Args:
        data: the whole file.
        name: for people, records and error sentences.
        limits: bounds, checked before memory is asked for.
        bar: what is known of this instrument's info bar.
        sidecar: the text beside the frame; used where the file itself carries no vendor metadata.

    Raises:
        FrameError: truncated, damaged, over a limit, or not a frame.
    """
    limits.check_file(len(data), name)
    pixels, tags = _decoded(data, name, limits)
    size = (pixels.shape[0], pixels.shape[1])
    described = described_from_tags(tags, size, name)
    if sidecar is not None and described.acquisition.vendor is None:
        described = described_from_sidecar(sidecar, size, name)
    return Frame(
        pixels=pixels,
        crop=crop_of(pixels, described, bar, name),
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        acquisition=described.acquisition,
    )


def frame_from_pixels(
    pixels: GreyPixels,
    name: str,
    *,
    acquisition: Acquisition | None = None,
    bar: BarSetting | None = None,
    limits: Limits = _DEFAULT_LIMITS,
) -> Frame:
    """A frame of pixels that came without a file: from a camera, the screen or a program.

    Args:
        pixels: (H, W), as captured.
        name: for people, records and error sentences.
        acquisition: what is known of how it was taken.
        bar: what is known of this instrument's info bar.
        limits: bounds.

    Raises:
        FrameError: over a limit.
    """
    height, width = pixels.shape
    limits.check_picture(width, height, 1, pixels.itemsize, name)
    described = Described(acquisition=acquisition or Acquisition())
    digest = hashlib.sha256(f"{pixels.dtype.str} {height} {width} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Frame(
        pixels=pixels,
        crop=crop_of(pixels, described, bar, name),
        name=name,
        sha256=digest.hexdigest(),
        acquisition=described.acquisition,
    )


def _decoded(data: bytes, name: str, limits: Limits) -> tuple[GreyPixels, dict[int, bytes]]:
    """Pixels and raw vendor tags of a file of any format that is read."""
    if data[:4] in TIFF_MAGIC:
        return tiff_frame_from_bytes(data, name, limits, VENDOR_TAGS)
    for magic, kind in RASTER_MAGIC.items():
        if data.startswith(magic):
            return grey_from_raster(data, kind, name, limits), {}
    raise FrameError(
        f"{name}: {len(data)} bytes beginning with {data[:8]!r} were found; a TIFF, PNG, JPEG or BMP was expected. "
        "Export the frame from the microscope in one of these formats."
    )


def _sidecar_bytes(source: Path, *, follow_links: bool) -> bytes | None:
    for place in sidecars_of(source):
        try:
            return _file_bytes(place, MAX_SIDECAR_BYTES, follow_links=follow_links)
        except FrameError as error:
            if place.exists():
                _LOG.warning("%s: not used as metadata: %s", place, error)
    return None


def _file_bytes(source: Path, max_bytes: int, *, follow_links: bool) -> bytes:
    """All bytes of a regular file, read once; never waits on a pipe or a device."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(source, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FrameError(f"{source}: a file was expected, a folder, pipe or device found. Give a frame's path.")
            Limits(max_file_bytes=max_bytes).check_file(status.st_size, str(source))
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read(status.st_size)  # what is written later belongs to another read
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FrameError(
            f"{source}: cannot be read ({error.strerror or error}). An existing, readable frame was expected: check "
            "path and permissions."
        ) from error
