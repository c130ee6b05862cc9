"""A file -> a Frame: bytes read once, hashed, decoded within limits, metadata read, info bar found.

The format is told by the first bytes, never by the extension.
"""

import hashlib
import os
import stat
from pathlib import Path

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Crop, Frame
from hffnet.runtime.limits import Limits
from hffnet.runtime.raster import grey_from_raster
from hffnet.runtime.tiff import MAGIC as TIFF_MAGIC
from hffnet.runtime.tiff import tiff_frame_from_bytes

__all__ = ["Limits", "frame_from_bytes", "read_frame"]

_DEFAULT_LIMITS = Limits()


def read_frame(source: Path, *, limits: Limits = _DEFAULT_LIMITS, follow_links: bool = True) -> Frame:
    """Read one frame from a file.

    Raises:
        FrameError: the file is missing, not a regular file, truncated, damaged, over a limit, or not a frame.
    """
    return frame_from_bytes(_file_bytes(source, limits, follow_links=follow_links), str(source), limits=limits)


def frame_from_bytes(data: bytes, name: str, *, limits: Limits = _DEFAULT_LIMITS) -> Frame:
    """Decode one frame from the bytes of a file.

    Raises:
        FrameError: as for ``read_frame``.
    """
    limits.check_file(len(data), name)
    if data[:4] in TIFF_MAGIC:
        pixels = tiff_frame_from_bytes(data, name, limits, frozenset()).pixels
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        pixels = grey_from_raster(data, "PNG", name, limits)
    elif data.startswith(b"\xff\xd8\xff"):
        pixels = grey_from_raster(data, "JPEG", name, limits)
    elif data.startswith(b"BM"):
        pixels = grey_from_raster(data, "BMP", name, limits)
    else:
        raise FrameError(
            f"{name}: {len(data)} bytes beginning with {data[:8]!r} were found; a TIFF, PNG, JPEG or BMP was expected. "
            "Export the frame from the microscope in one of these formats."
        )
    height, width = pixels.shape
    crop = Crop(top=0, left=0, height=height, width=width, reason="whole")
    return Frame(pixels=pixels, crop=crop, name=name, sha256=hashlib.sha256(data).hexdigest())


def _file_bytes(source: Path, limits: Limits, *, follow_links: bool) -> bytes:
    """All bytes of a regular file, read once; never waits on a pipe or a device."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(source, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FrameError(f"{source}: not a regular file. Give the path of a frame.")
            limits.check_file(status.st_size, str(source))
            return file.read(status.st_size)
    except OSError as error:
        raise FrameError(
            f"{source}: cannot be read ({error.strerror or error}). An existing, readable frame was expected: check "
            "path and permissions."
        ) from error
