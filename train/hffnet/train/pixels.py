"""Network inputs of labelled frames, decoded once through the runtime's own read and preprocess, kept on disk.

Training sees exactly the pixels that the instrument's runtime will see. The file is memory-mapped: it may be larger
than memory.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hffnet.runtime.dataset import LabelledFrame
from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import DatasetError, FrameError
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.runtime.read import read_frame

Pixels = npt.NDArray[np.uint8]
"""(N, size, size)."""


def open_pixels(
    frames: Sequence[LabelledFrame],
    spec: PreprocessSpec,
    folder: Path,
    *,
    threads: int = 2,
    advance: Callable[[int], None] = lambda _: None,
) -> Pixels:
    """Network inputs of frames, in their order, read-only.

    Args:
        frames: what to decode.
        spec: the checkpoint's preprocessing.
        folder: where the file is kept; a file for the same bytes and specification is used again.
        threads: decoders side by side.
        advance: called with the number of frames done so far.

    Raises:
        DatasetError: a frame cannot be read or decoded; the message names it.
    """
    key = hashlib.sha256(spec.model_dump_json().encode())
    for frame in frames:
        key.update(bytes.fromhex(frame.sha256))
    path = folder / f"pixels-{key.hexdigest()[:32]}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            _decode_into(temporary, frames, spec, threads, advance)
    pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _decode_into(
    path: Path, frames: Sequence[LabelledFrame], spec: PreprocessSpec, threads: int, advance: Callable[[int], None]
) -> None:
    shape = (len(frames), spec.size, spec.size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with ThreadPoolExecutor(max_workers=threads) as pool:

        def decode_one(n: int) -> None:
            pixels[n] = _network_input(frames[n], spec)

        for n, _ in enumerate(pool.map(decode_one, range(len(frames)))):
            advance(n + 1)
    pixels.flush()


def _network_input(frame: LabelledFrame, spec: PreprocessSpec) -> Pixels:
    try:
        read = read_frame(frame.path)
    except FrameError as error:
        raise DatasetError(f"a frame of class {'/'.join(frame.classes)} cannot be used: {error}") from error
    if read.sha256 != frame.sha256:
        raise DatasetError(f"{frame.path} has changed since the data set was opened; start again once nobody writes it")
    return preprocess(read.picture, spec)
