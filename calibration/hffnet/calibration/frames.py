"""Which labelled frames calibrate, and their pixels as the network sees them.

Silent defaults of four images have cost others their accuracy: too few frames are a warning that names the number, and
frames that cannot show the network's ranges (blank, all the same, also in the test split) are refused.
"""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hffnet.runtime.dataset import Dataset, LabelledFrame
from hffnet.runtime.errors import ConfigError, DatasetError, FrameError
from hffnet.runtime.frame import Acquisition
from hffnet.runtime.metadata import sidecars_of
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.runtime.read import read_frame

logger = logging.getLogger(__name__)

RECOMMENDED_NUM_FRAMES = 500
DEFAULT_NUM_FRAMES = 512
MOST_NUM_FRAMES = 10_000
"""Ranges hardly move after a few hundred; so many frames of 224 x 224 are half a gigabyte of disk."""

_FARTHEST = 2.0  # one step of magnification between two ranges
_MOST_OUTSIDE = 0.5  # share of frames at another magnification from which on ranges are theirs
_MOST_ASKED = 64  # frames whose metadata tell what a network is for


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOrigin:
    """A calibration frame as ``calibration.json`` names it: its path below the data set's root, and its SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFrames:
    """Frames ready for ``ranges_from_frames``.

    Attributes:
        pixels: (N, H, W) uint8; where they lie in a file, read from it as they are looked at.
        origins: where each came from.
        pixel_sizes_um: micrometres per pixel of each file; None where it does not say.
    """

    pixels: npt.NDArray[np.uint8]
    origins: tuple[FrameOrigin, ...]
    pixel_sizes_um: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imaging:
    """How a frame was taken, as far as its file says: instrument, and micrometres per pixel to an octave."""

    instrument: str | None
    octave: int | None


ImagingOf = Callable[[LabelledFrame], Imaging | None]
"""How a labelled frame was taken; None where its file does not say."""


def choose_frames(
    dataset: Dataset, num_frames: int = DEFAULT_NUM_FRAMES, *, seed: int = 0, imaging: ImagingOf | None = None
) -> tuple[LabelledFrame, ...]:
    """Frames of the train split, spread over the leaves, in an order given by ``seed`` alone.

    Leaves take turns until ``num_frames`` are chosen, so rare classes show their ranges too; within a leaf a group
    (specimen, duplicates) gives its second frame only when every group has given one, and where ``imaging`` is given,
    instruments and magnifications (octaves of pixel size) take turns too. A data set without any split is taken as
    train altogether.

    Raises:
        ConfigError: ``num_frames`` is below 1.
        DatasetError: no train frame, or a chosen frame's bytes stand in the val or test split too.
    """
    if num_frames < 1:
        raise ConfigError(f"{num_frames} calibration frames were asked for; expected at least 1, better 500")
    candidates = _train_frames(dataset)
    leaves: defaultdict[tuple[str, ...], list[LabelledFrame]] = defaultdict(list)
    for frame in candidates:
        leaves[frame.classes].append(frame)
    turns = []
    for number, (leaf, frames) in enumerate(sorted(leaves.items())):
        ordered = _groups_in_turn(frames, seed, leaf)
        if imaging is not None:
            # Reading a file's metadata costs: no more of them than could be wanted from this leaf four times over.
            ordered = _imagings_in_turn(ordered[: 4 * num_frames], imaging)
        turns += [(turn, number, frame) for turn, frame in enumerate(ordered)]
    turns.sort(key=lambda entry: entry[:2])
    chosen = tuple(frame for _, _, frame in turns[:num_frames])
    _refuse_measured_frames(chosen, dataset)
    if len(chosen) < RECOMMENDED_NUM_FRAMES:
        logger.warning(
            "%d calibration frames (%d asked for, %d in the train split); at least %d are recommended",
            len(chosen), num_frames, len(candidates), RECOMMENDED_NUM_FRAMES,
        )  # fmt: skip
    return chosen


def load_frames(
    frames: Sequence[LabelledFrame],
    dataset: Dataset,
    spec: PreprocessSpec,
    *,
    progress: Callable[[int], None] | None = None,
    what: str = "calibration",
    folder: Path | None = None,
) -> CalibrationFrames:
    """Read and preprocess; 512 frames of 224 x 224 take 26 MB.

    Args:
        frames: of ``dataset``, as from ``choose_frames``.
        dataset: names are relative to its root.
        spec: the checkpoint's or bundle's.
        progress: called after each frame with the number read so far.
        what: kind of frames, for sentences.
        folder: keep the pixels in a file there, not in memory; it has to stay as long as they are used.

    Raises:
        FrameError: a file cannot be read, or has changed since the data set was opened.
        DatasetError: see ``check_pixels``.
        ConfigError: there is no room in ``folder``.
    """
    origins, sizes = list[FrameOrigin](), list[float | None]()

    def read() -> Iterator[npt.NDArray[np.uint8]]:
        for number, labelled in enumerate(frames):
            frame = read_frame(labelled.path)
            if frame.sha256 != labelled.sha256:
                raise FrameError(
                    f"{labelled.path} has changed since the data set was opened; start again once nobody writes it"
                )
            yield preprocess(frame.picture, spec)
            origins.append(FrameOrigin(name=dataset.relative(labelled), sha256=frame.sha256))
            sizes.append(frame.acquisition.pixel_size_um)
            if progress:
                progress(number + 1)

    pixels_NHW = _stored(read(), (len(frames), spec.size, spec.size), folder, what)
    check_pixels(pixels_NHW, what)
    _warn_of_repeats(pixels_NHW, what)
    return CalibrationFrames(pixels=pixels_NHW, origins=tuple(origins), pixel_sizes_um=tuple(sizes))


def _stored(
    pictures: Iterator[npt.NDArray[np.uint8]], shape: tuple[int, int, int], folder: Path | None, what: str
) -> npt.NDArray[np.uint8]:
    if folder is None or not shape[0]:
        pixels_NHW = np.empty(shape, np.uint8)
        for number, picture in enumerate(pictures):
            pixels_NHW[number] = picture
        return pixels_NHW
    path = folder / f"{what}-frames.npy"
    # Written, then mapped: writing into a mapped file on a full disk would end the program with a signal.
    with _room_for(path, math.prod(shape)), path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for picture in pictures:
            file.write(picture.tobytes())
    # "c": changes stay in memory. Nobody makes any, but torch warns of arrays that it may not write to.
    mapped: npt.NDArray[np.uint8] = np.load(path, mmap_mode="c", allow_pickle=False)
    return mapped


@contextmanager
def _room_for(path: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}; the frames take {num_bytes / 1e6:.0f} MB there"
        ) from error


def check_pixels(pixels_NHW: npt.NDArray[np.uint8], what: str = "calibration") -> None:
    """Refuse frames that cannot show a network's ranges, or what int8 does to it.

    Raises:
        DatasetError: no frame, not (N, H, W) uint8, every frame blank, or all frames the same.
    """
    if pixels_NHW.dtype != np.uint8 or pixels_NHW.ndim != 3:
        raise DatasetError(f"frames are {pixels_NHW.dtype} of shape {pixels_NHW.shape}; expected uint8 of (N, H, W)")
    num = len(pixels_NHW)
    if not num:
        raise DatasetError(f"there is no {what} frame; expected at least one, better several hundred")
    num_blank = sum(not np.ptp(pixels) for pixels in pixels_NHW)
    if num_blank == num:
        raise DatasetError(f"all {num} {what} frames are blank (one grey value); expected pictures of the specimen")
    if num > 1 and _num_different(pixels_NHW) == 1:
        raise DatasetError(f"all {num} {what} frames are the same picture; expected different ones, better 500")


def _warn_of_repeats(pixels_NHW: npt.NDArray[np.uint8], what: str) -> None:
    num_blank = sum(not np.ptp(pixels) for pixels in pixels_NHW)
    num_again = len(pixels_NHW) - _num_different(pixels_NHW)
    if num_blank or num_again:
        logger.warning(
            "of %d %s frames %d are blank and %d repeat another; they tell nothing new",
            len(pixels_NHW), what, num_blank, num_again,
        )  # fmt: skip


def _num_different(pixels_NHW: npt.NDArray[np.uint8]) -> int:
    return len({hashlib.sha256(pixels.tobytes()).digest() for pixels in pixels_NHW})


def warn_of_unknown_sizes(found_um: Sequence[float | None]) -> None:
    """Say where a check that was asked for cannot look: frames whose files do not tell their pixel size."""
    if num_unknown := sum(not size for size in found_um):
        logger.warning(
            "%d of %d calibration frames do not tell their pixel size; it is not checked", num_unknown, len(found_um)
        )


def check_magnification(
    calibration_um: Sequence[float | None], expected_um: Sequence[float | None], whose: str = "the held-out frames have"
) -> None:
    """Refuse calibration frames of another modality than those the network is for.

    Args:
        calibration_um: micrometres per pixel of the calibration frames; None where a file does not say.
        expected_um: the same of the held-out frames, or the ends of the range the network was trained on.
        whose: whose sizes ``expected_um`` are, with a verb, for sentences.

    Raises:
        DatasetError: both are known, and more than half of the calibration frames that tell their size lie further than
            a factor of two outside. Where some do, a warning says how many.
    """
    found, expected = ([size for size in sizes if size] for sizes in (calibration_um, expected_um))
    if not found or not expected:
        return
    smallest, largest = min(expected) / _FARTHEST, max(expected) * _FARTHEST
    num_outside = sum(not smallest <= size <= largest for size in found)
    what = (
        f"have {min(found):.4g} to {max(found):.4g} µm per pixel, but {whose} {min(expected):.4g} to"
        f" {max(expected):.4g}; ranges measured at another magnification do not fit"
    )
    told = f"{num_outside} of {len(found)} calibration frames are more than a factor of two away: they {what}"
    if num_outside > _MOST_OUTSIDE * len(found):
        raise DatasetError(f"{told}. Calibrate with frames like those it is for")
    if num_outside:
        logger.warning("%s", told)


def pixel_sizes_of(frames: Sequence[LabelledFrame]) -> list[float | None]:
    """Micrometres per pixel of some of ``frames``, spread evenly; None where the file does not say."""
    places = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _MOST_ASKED)).round().astype(int))
    found = [_acquisition(frames[k]) for k in places]
    return [None if acquisition is None else acquisition.pixel_size_um for acquisition in found]


def origins_from_pixels(pixels_NHW: npt.NDArray[np.uint8]) -> tuple[FrameOrigin, ...]:
    """Names and hashes for frames that came as arrays: the SHA-256 of each frame's pixels."""
    digests = (hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in pixels_NHW)
    return tuple(FrameOrigin(name=f"array/{number}", sha256=digest) for number, digest in enumerate(digests))


def frames_sha256(origins: Sequence[FrameOrigin]) -> str:
    """Identity of the set, whatever the order."""
    return hashlib.sha256("\n".join(sorted(origin.sha256 for origin in origins)).encode()).hexdigest()


def _train_frames(dataset: Dataset) -> list[LabelledFrame]:
    if all(frame.split is None for frame in dataset.frames):
        logger.info("the data set has no split: all its %d frames count as train", len(dataset.frames))
        found = list(dataset.frames)
    else:
        found = [frame for frame in dataset.frames if frame.split == "train"]
    if not found:
        splits = dict(Counter(str(frame.split) for frame in dataset.frames))
        raise DatasetError(f"{dataset.root} has no frame in the train split (found {splits}); calibration needs some")
    return found


def _groups_in_turn(frames: list[LabelledFrame], seed: int, leaf: tuple[str, ...]) -> list[LabelledFrame]:
    # Ordered by hash, not by a random generator: the choice depends on no library's version and on no file order.
    def key(frame: LabelledFrame) -> str:
        return hashlib.sha256("\0".join([str(seed), *leaf, frame.sha256, frame.path.name]).encode()).hexdigest()

    seen = Counter[str]()
    turns = []
    for frame in sorted(frames, key=key):
        turns.append((seen[frame.group], frame))
        seen[frame.group] += 1
    return [frame for _, frame in sorted(turns, key=lambda entry: entry[0])]


def _imagings_in_turn(frames: list[LabelledFrame], imaging: ImagingOf) -> list[LabelledFrame]:
    seen = Counter[Imaging | None]()
    turns = []
    for frame in frames:
        how = imaging(frame)
        turns.append((seen[how], frame))
        seen[how] += 1
    return [frame for _, frame in sorted(turns, key=lambda entry: entry[0])]


def imaging_from_file(frame: LabelledFrame) -> Imaging | None:
    """Instrument and pixel size as the frame's file or the text beside it tells; None where neither can."""
    acquisition = _acquisition(frame)
    return None if acquisition is None else imaging_from_acquisition(acquisition)


def _acquisition(frame: LabelledFrame) -> Acquisition | None:
    """Only files that may carry metadata are read. One that cannot be read is named when it is used, not here."""
    may_tell = frame.path.suffix.lower() in {".tif", ".tiff"} or any(p.exists() for p in sidecars_of(frame.path))
    if not may_tell:
        return None
    try:
        return read_frame(frame.path).acquisition
    except FrameError:
        return None


def imaging_from_acquisition(acquisition: Acquisition) -> Imaging:
    """What of a frame's metadata sets its stratum.

    >>> imaging_from_acquisition(Acquisition(instrument="Helios", pixel_size_um=0.3))
    Imaging(instrument='Helios', octave=-2)
    """
    size = acquisition.pixel_size_um
    return Imaging(instrument=acquisition.instrument, octave=math.floor(math.log2(size)) if size else None)


def _refuse_measured_frames(chosen: Sequence[LabelledFrame], dataset: Dataset) -> None:
    measured = {frame.sha256: frame for frame in dataset.frames if frame.split in {"val", "test"}}
    for frame in chosen:
        if twin := measured.get(frame.sha256):
            raise DatasetError(
                f"{frame.path} (train) and {twin.path} ({twin.split}) are the same file; the int8 score would be"
                " measured on frames it was calibrated with. Give duplicates one split"
            )
