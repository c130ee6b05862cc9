"""What a JPEG stream claims about itself: size and completeness, before a decoder sees it."""

import struct

from hffnet.runtime.errors import FrameError
from hffnet.runtime.limits import Limits

_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READ = {0xC0, 0xC1, 0xC2}


def check_jpeg(data: bytes, name: str, limits: Limits) -> None:
    """Refuse a JPEG stream that is cut off, too large, or of a kind decoders disagree about.

    libjpeg fills a truncated stream with grey and only warns, so the end-of-image marker is asked for here.

    Raises:
        FrameError: truncated, over a limit, lossless or arithmetic coding, more than 8 bits, CMYK.
    """
    try:
        marker, bits, height, width, components = _frame_header(data)
    except (struct.error, IndexError, ValueError) as error:
        raise FrameError(
            f"{name}: the JPEG stream has no readable header ({error}). The file is damaged: save the frame again."
        ) from error
    if marker not in _READ or bits != 8 or components not in (1, 3):
        raise FrameError(
            f"{name}: a JPEG with {bits} bits, {components} components and coding 0x{marker:02X} was found; 8 bits, "
            "1 or 3 components, baseline or progressive were expected. Save the frame as TIFF."
        )
    limits.check_picture(width, height, components, 1, name)
    if b"\xff\xd9" not in data[-64:]:  # some writers pad after the end
        raise FrameError(
            f"{name}: the JPEG stream of {len(data)} bytes has no end-of-image marker. The file is truncated: copy or "
            "save it again."
        )


def _frame_header(data: bytes) -> tuple[int, int, int, int, int]:
    """Marker, bits, height, width, components of the first start-of-frame (ITU-T T.81, B.2.2)."""
    place = 2
    while True:
        if data[place] != 0xFF:
            raise ValueError(f"no marker at byte {place}")
        marker = data[place + 1]
        place += 1 if marker == 0xFF else 2
        if marker in _START_OF_FRAME:
            return (marker, *struct.unpack_from(">BHHB", data, place + 2))
        if marker not in _NO_LENGTH and marker != 0xFF:
            (length,) = struct.unpack_from(">H", data, place)
            place += max(length, 2)
