"""What is fuzzed: each target takes any bytes and may only return or raise HffnetError within its memory.

Anything else it raises is a finding. The saved inputs in ``corpus/`` are replayed by ``make test``; ``make fuzz`` looks
for new ones.
"""

import logging
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hffnet.runtime.bundle import VECTOR_FRAMES, _array_from_npy, _manifest_from_json, open_bundle
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.metadata import (
    FEI_TAGS,
    TESCAN_TAG,
    ZEISS_TAG,
    Described,
    described_from_sidecar,
    described_from_tags,
)
from hffnet.runtime.read import Limits, frame_from_bytes

CORPUS = Path(__file__).parent / "corpus"
LIMITS = Limits(max_file_bytes=2**22, max_pixels=2**20, max_decoded_bytes=2**22)
MEMORY = 96 * 2**20
"""Most bytes one input may take at a time: some times what ``LIMITS`` lets a picture have."""


class _Swallowed(logging.Handler):
    """Metadata never costs a frame, so its parsers' exceptions end in the log; here they are findings."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            raise record.exc_info[1]


_metadata_log = logging.getLogger("hffnet.runtime.metadata")


def frame(data: bytes) -> None:
    """An image file of any format."""
    try:
        read = frame_from_bytes(data, "frame", limits=LIMITS)
    except HffnetError:
        return
    assert read.pixels.ndim == 2
    assert read.pixels.dtype in (np.uint8, np.uint16, np.float32)
    assert np.isfinite(read.pixels).all()
    assert 0 < read.picture.size <= read.pixels.size <= LIMITS.max_pixels
    assert read.picture.shape == (read.crop.height, read.crop.width)


def metadata(data: bytes) -> None:
    """The bytes of a vendor tag or of a text beside the frame, given to every parser."""
    handler = _Swallowed()
    _metadata_log.addHandler(handler)
    _metadata_log.propagate = False
    try:
        for code in (*FEI_TAGS, ZEISS_TAG, TESCAN_TAG):
            _check(described_from_tags({code: data}, (60, 80), "frame"))
        _check(described_from_sidecar(data, (60, 80), "frame"))
    finally:
        _metadata_log.propagate = True
        _metadata_log.removeHandler(handler)


def _check(described: Described) -> None:
    acquisition = described.acquisition
    for number in (acquisition.pixel_size_um, acquisition.high_voltage_kv, acquisition.working_distance_mm):
        assert number is None or math.isfinite(number)
    assert acquisition.pixel_size_um is None or 0 < acquisition.pixel_size_um < math.inf
    assert (acquisition.pixel_size_um is None) == (acquisition.pixel_size_source is None)
    for text in (acquisition.instrument, acquisition.detector, acquisition.operator, acquisition.acquired_at):
        assert text is None or (text.isprintable() and 0 < len(text) <= 120)
    for size in (described.bar_rows, *(described.picture_size or ())):
        assert size is None or 0 <= size < 2**31


def bundle(data: bytes) -> None:
    """A whole bundle, or what stands in one: blind changes of a zip rarely come past its checksums.

    Told by the first bytes: ``{`` is a manifest, numpy's magic an array, ``PK`` a bundle, anything else a graph.
    """
    try:
        if data.startswith(b"{"):
            _manifest_from_json(Path("fuzzed"), data)
        elif data.startswith(b"\x93NUMPY"):
            _array_from_npy(Path("fuzzed"), VECTOR_FRAMES, data, np.uint8, 3)
        elif data.startswith(b"PK"):
            _opened(data)
        else:
            assert facts_from_onnx(data).macs is not None
    except HffnetError:
        return


def _opened(data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(suffix=".hffnet", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        open_bundle(Path(name)).vectors()
    finally:
        Path(name).unlink()


TARGETS: dict[str, Callable[[bytes], None]] = {"frame": frame, "metadata": metadata, "bundle": bundle}
