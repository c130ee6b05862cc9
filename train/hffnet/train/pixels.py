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
    path, sizes_path = _paths(frames, spec, folder)
    if not (path.is_file() and sizes_path.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, whole_file(sizes_path) as temporary_sizes:
            sizes_um = _decode_into(temporary, frames, spec, threads, advance)
            with temporary_sizes.open("wb") as file:
                np.save(file, sizes_um, allow_pickle=False)
    pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def pixel_size_range(frames: Sequence[LabelledFrame], spec: PreprocessSpec, folder: Path) -> tuple[float, float] | None:
    """Smallest and largest micrometres per pixel of frames that ``open_pixels`` decoded; None where no file tells."""
    sizes_um = np.load(_paths(frames, spec, folder)[1], allow_pickle=False)
    known = sizes_um[np.isfinite(sizes_um) & (sizes_um > 0)]
    return (float(known.min()), float(known.max())) if known.size else None


def _paths(frames: Sequence[LabelledFrame], spec: PreprocessSpec, folder: Path) -> tuple[Path, Path]:
    """Of the pixels, and of the micrometres per pixel that stand in the same files."""
    key = hashlib.sha256(spec.model_dump_json().encode())
    for frame in frames:
        key.update(bytes.fromhex(frame.sha256))
    name = key.hexdigest()[:32]
    return folder / f"pixels-{name}.npy", folder / f"pixel-sizes-{name}.npy"


def _decode_into(
    path: Path, frames: Sequence[LabelledFrame], spec: PreprocessSpec, threads: int, advance: Callable[[int], None]
) -> npt.NDArray[np.float64]:
    """Micrometres per pixel of each frame, NaN where its file does not tell."""
    shape = (len(frames), spec.size, spec.size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    sizes_um = np.full(len(frames), np.nan)
    with ThreadPoolExecutor(max_workers=threads) as pool:

        def decode_one(n: int) -> None:
            pixels[n], size_um = _network_input(frames[n], spec)
            if size_um is not None:
                sizes_um[n] = size_um

        for n, _ in enumerate(pool.map(decode_one, range(len(frames)))):
            advance(n + 1)
    pixels.flush()
    return sizes_um


def _network_input(frame: LabelledFrame, spec: PreprocessSpec) -> tuple[Pixels, float | None]:
    try:
        read = read_frame(frame.path)
    except FrameError as error:
        raise DatasetError(f"a frame of class {'/'.join(frame.classes)} cannot be used: {error}") from error
    if read.sha256 != frame.sha256:
        raise DatasetError(f"{frame.path} has changed since the data set was opened; start again once nobody writes it")
    return preprocess(read.picture, spec), read.acquisition.pixel_size_um
