"""PNG, JPEG and BMP bytes -> grey pixels, the header checked before decoding.

imagecodecs decodes, not OpenCV: libpng and libjpeg inside OpenCV write to stderr and return part of a damaged frame.
EXIF orientation is not applied: pixels stay as the microscope wrote them.
"""

import struct
from typing import Literal

import imagecodecs
import numpy as np

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.grey import grey_from_samples
from hffnet.runtime.jpeg import check_jpeg
from hffnet.runtime.limits import Limits

RasterFormat = Literal["PNG", "JPEG", "BMP"]

MAGIC: dict[bytes, RasterFormat] = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}

_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_PNG_END = b"IEND\xaeB`\x82"


def grey_from_raster(data: bytes, kind: RasterFormat, name: str, limits: Limits) -> GreyPixels:
    """Decode one PNG, JPEG or BMP.

    Raises:
        FrameError: damaged, truncated, over a limit, or of a kind that is not read.
    """
    try:
        match kind:
            case "PNG":
                _check_png(data, name, limits)
                samples = imagecodecs.png_decode(data)
            case "JPEG":
                check_jpeg(data, name, limits)
                samples = imagecodecs.jpeg8_decode(data)
            case "BMP":
                _check_bmp(data, name, limits)
                samples = imagecodecs.bmp_decode(data)
    except FrameError:
        raise
    except Exception as error:  # each codec has its own exception types
        raise FrameError(
            f"{name}: the {kind} cannot be decoded ({type(error).__name__}: {str(error)[:200]}). A complete, undamaged "
            "frame was expected: copy or save it again, as TIFF if possible."
        ) from error
    return grey_from_samples(np.asarray(samples), name)


def _check_png(data: bytes, name: str, limits: Limits) -> None:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    limits.check_picture(width, height, _PNG_SAMPLES.get(colour, 4), 2 if bits == 16 else 1, name)
    if _PNG_END not in data[-64:]:
        raise FrameError(
            f"{name}: the PNG of {len(data)} bytes has no end chunk. The file is truncated: copy or save it again."
        )


def _check_bmp(data: bytes, name: str, limits: Limits) -> None:
    start, header, width, height, _, bits, coding = struct.unpack_from("<IIiiHHI", data, 10)
    if header < 40 or coding not in (0, 3):
        raise FrameError(
            f"{name}: a BMP with a header of {header} bytes and coding {coding} was found, an uncompressed Windows "
            "bitmap was expected. Save the frame as TIFF."
        )
    limits.check_picture(width, abs(height), 4, 1, name)
    stored = (width * bits + 31) // 32 * 4 * abs(height)
    if start + stored > len(data):
        raise FrameError(
            f"{name}: the BMP needs {start + stored} bytes and has {len(data)}. The file is truncated: copy or save it "
            "again."
        )
