"""A six-class SEM-like data set, drawn: for the demo and for tests, where no labelled frames of one's own are at hand.

What a class looks like stands in ``textures``, what the microscope does in ``sem_image``, the file format in
``fei_tiff``. Nothing here is measured: a network trained on it has learnt these drawings, not metal.
"""

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hffnet.runtime.errors import ConfigError
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.fei_tiff import Settings, write_fei_tiff
from hffnet.train.relief import Canvas, Field
from hffnet.train.sem_image import record, signal
from hffnet.train.textures import SURFACES

_log = logging.getLogger(__name__)

PIXEL_SIZES_UM = (0.06, 0.15)
"""Range of pixel sizes frames are drawn with: the smallest feature keeps about four pixels."""


def six_class_taxonomy() -> Taxonomy:
    """The tree of the drawn classes, the paper's shape: 2 and 6.

    >>> six_class_taxonomy().num_classes
    (2, 6)
    """
    return Taxonomy.from_paths([(above, leaf) for leaf, (above, _) in SURFACES.items()])


def draw_frame(
    leaf: str, rng: np.random.Generator, *, height: int = 442, width: int = 512, pixel_size_um: float | None = None
) -> Field:
    """One picture without info bar, (height, width) float32 in 0..1.

    Args:
        leaf: a class of the last level of :func:`six_class_taxonomy`.
        rng: everything random comes from here; equal states draw equal pictures.
        height: rows, at least 64.
        width: columns, at least 64.
        pixel_size_um: micrometres per pixel; drawn from ``PIXEL_SIZES_UM`` when None.

    Raises:
        ConfigError: unknown leaf, size or pixel size out of range.
    """
    if leaf not in SURFACES:
        raise ConfigError(f"there is no drawn class {leaf!r}; expected one of {', '.join(sorted(SURFACES))}")
    if min(height, width) < 64:
        raise ConfigError(f"a frame of {height}×{width} pixels is too small to show texture; ask for at least 64×64")
    if pixel_size_um is None:
        pixel_size_um = draw_pixel_size_um(rng)
    if not 0.01 <= pixel_size_um <= 0.5:
        raise ConfigError(f"pixel size {pixel_size_um} µm shows none of the drawn features; expected 0.01 to 0.5 µm")
    canvas = Canvas(height=height, width=width, pixel_size_um=pixel_size_um)
    surface = SURFACES[leaf][1](canvas, rng)
    return record(signal(surface, rng), canvas, rng)


def draw_pixel_size_um(rng: np.random.Generator) -> float:
    """A pixel size from ``PIXEL_SIZES_UM``, every ratio equally likely."""
    low, high = PIXEL_SIZES_UM
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def write_dataset(
    folder: Path,
    *,
    frames_per_class: int,
    seed: int,
    size: tuple[int, int] = (442, 512),
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a data set as ``<level1>/<level2>/frame_0001.tif``, odd numbers 8 bit, even ones 16 bit.

    Each frame has its own seed from (``seed``, class, number), so files do not depend on ``jobs``, and a larger data
    set begins with the frames of a smaller one. The folder appears only when all frames are in it.

    Args:
        folder: absent or empty.
        frames_per_class: at least 1.
        seed: not negative.
        size: rows and columns of the picture; the info bar comes below.
        jobs: threads (numpy and OpenCV work outside the interpreter's lock); None is one per core.
        progress: called with (frames written, frames in all) after each frame, from the calling thread.

    Returns:
        ``folder``.

    Raises:
        ConfigError: a setting is out of range, or ``folder`` is not empty.
        OSError: the disk refuses.
    """
    if frames_per_class < 1 or seed < 0 or (jobs is not None and jobs < 1):
        raise ConfigError(
            f"frames_per_class={frames_per_class}, seed={seed}, jobs={jobs}: expected at least 1, 0 and 1"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} stands and is not an empty folder; name another one or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    leaves = [six_class_taxonomy().path_of_leaf(k) for k in range(len(SURFACES))]
    work = [(path, seed, number, size) for number in range(1, frames_per_class + 1) for path in leaves]
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        _write_frames(unfinished, work, jobs or _num_cores(), progress)
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _log.info("drew %d frames in %d classes into %s", len(work), len(leaves), folder)
    return folder


_Frame = tuple[tuple[str, ...], int, int, tuple[int, int]]
"""Class path, seed of the data set, number within the class, picture size."""


def _write_frames(root: Path, work: Sequence[_Frame], jobs: int, progress: Callable[[int, int], None] | None) -> None:
    for path in {frame[0] for frame in work}:
        root.joinpath(*path).mkdir(parents=True)
    pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="draw")
    try:
        for done, _ in enumerate(pool.map(lambda frame: _write_frame(root, frame), work), start=1):
            if progress is not None:
                progress(done, len(work))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_frame(root: Path, frame: _Frame) -> None:
    path, seed, number, (height, width) = frame
    # Python's hash of a string changes from run to run; its bytes do not.
    rng = np.random.default_rng(np.random.SeedSequence([seed, number, *"/".join(path).encode()]))
    pixel_size_um = draw_pixel_size_um(rng)
    settings = Settings.draw(rng, pixel_size_um=pixel_size_um, number=number)
    picture = draw_frame(path[-1], rng, height=height, width=width, pixel_size_um=pixel_size_um)
    write_fei_tiff(root.joinpath(*path, f"frame_{number:04d}.tif"), picture, settings, bits=8 if number % 2 else 16)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
