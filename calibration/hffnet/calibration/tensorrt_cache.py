"""LEGACY: ``calibration.cache`` in TensorRT's text format, for implicit quantization (TensorRT up to 10, and DLA).

TensorRT 11 removed calibrators; use the explicit Q/DQ graph wherever it can be built. What a cache cannot say: which
nodes to quantize (TensorRT decides, the transformer's residual sums included), a scale per weight channel (TensorRT
computes those itself), smoothing and bias corrections. A tensor without a line stays float.

The format is not documented by NVIDIA; it is what its calibrators write: a header ``TRT-<version>-<calibrator>``, then
``<tensor>: <scale>`` with the scale as the eight hexadecimal digits of a big-endian float32, range / 127.
"""

import re
import struct
from collections.abc import Mapping

from hffnet.calibration.observers import NUM_LEVELS
from hffnet.runtime.errors import ConfigError, GraphError

TENSORRT_VERSION = "100300"
"""10.3, the last of JetPack 6. TensorRT reads the cache of another version too, but warns."""

_HEADER = re.compile(r"TRT-\d{4,6}-EntropyCalibration2")


def cache_from_ranges(ranges: Mapping[str, float], version: str = TENSORRT_VERSION) -> str:
    """The file's text.

    Args:
        ranges: magnitude that becomes 127, by tensor name of the float graph that is to be built.
        version: digits of TensorRT's version as it writes them, e.g. ``100300`` or ``8601``.

    Raises:
        ConfigError: the version is no such number.
        GraphError: a tensor's name holds a line break.

    >>> print(cache_from_ranges({"image": 127.0}), end="")
    TRT-100300-EntropyCalibration2
    image: 3f800000
    """
    header = f"TRT-{version}-EntropyCalibration2"
    if not _HEADER.fullmatch(header):
        raise ConfigError(f"{version!r} is not a TensorRT version; expected digits such as 100300 or 8601")
    if broken := [name for name in ranges if "\n" in name or "\r" in name]:
        raise GraphError(f"the tensor name {broken[0]!r} holds a line break, which a calibration cache cannot")
    lines = (f"{name}: {struct.pack('>f', limit / NUM_LEVELS).hex()}" for name, limit in ranges.items())
    return "\n".join([header, *lines, ""])


def ranges_from_cache(text: str) -> dict[str, float]:
    """What a cache says, for comparison.

    Raises:
        GraphError: it is not of that format.
    """
    header, *lines = text.splitlines() or [""]
    if not _HEADER.fullmatch(header):
        raise GraphError(f"{header[:60]!r} is not the header of a calibration cache; expected TRT-100300-...")
    found = {}
    for line in lines:
        name, _, digits = line.rpartition(": ")
        if not re.fullmatch(r"[0-9a-f]{8}", digits):
            raise GraphError(f"{line[:60]!r} is no line of a calibration cache; expected 'tensor: 3c010a14'")
        found[name] = NUM_LEVELS * float(struct.unpack(">f", bytes.fromhex(digits))[0])
    return found
