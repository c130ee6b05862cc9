"""What two options of the service are worth: frames at another scale looked at as trained, and live frames averaged.

``python -m tests.bench.scale_and_smoothing BUNDLE FRAMES`` (FRAMES: labelled folders or a CSV that the model was not
trained on) prints markdown. The bundle is told that its train frames had 1 um per pixel.

- Scale 0.5, 0.7: the middle of each frame, enlarged to the frame's size: what a microscope shows at a higher
  magnification. Scale 1.4, 2: the frame mirrored at its borders until it is so much larger, then reduced to its size:
  more of the same surface. Mirrored surface is not new surface, so the second kind is the easier one.
- Smoothing: 7 scans of each frame with independent noise; what is said of the last alone, and of all together.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.dataset import open_dataset
from hffnet.runtime.frame import Acquisition, Crop, Frame
from hffnet.runtime.gates import GateSettings
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.runtime.read import read_frame
from hffnet.runtime.smoothing import Smoother, SmoothingSettings
from hffnet.runtime.taxonomy import ClassPath
from tests.bench.run import heading

_Pixels = npt.NDArray[np.uint8]
_SCALES = (0.5, 0.7, 1.4, 2.0)
_NUM_SCANS = 7
_NOISE = (0.02, 0.04, 0.07)  # standard deviation of one scan, as a share of full scale


def at_scale(picture: _Pixels, scale: float) -> _Pixels:
    """The same surface with pixels ``scale`` times as large; as many of them as before."""
    rows, columns = picture.shape
    if scale < 1:
        height, width = round(rows * scale), round(columns * scale)
        top, left = (rows - height) // 2, (columns - width) // 2
        part = picture[top : top + height, left : left + width]
        return np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_CUBIC), np.uint8)
    more_rows, more_columns = round(rows * (scale - 1) / 2), round(columns * (scale - 1) / 2)
    border = cv2.BORDER_REFLECT_101
    larger = cv2.copyMakeBorder(picture, more_rows, more_rows, more_columns, more_columns, border)
    return np.asarray(cv2.resize(larger, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def frame_of(pixels: _Pixels, name: str, pixel_size_um: float) -> Frame:
    """A frame that says its pixel size."""
    height, width = pixels.shape
    crop = Crop(top=0, left=0, height=height, width=width, reason="whole")
    acquisition = Acquisition(pixel_size_um=pixel_size_um)
    return Frame(pixels=pixels, crop=crop, name=name, sha256="0" * 64, acquisition=acquisition)


def opened(bundle: Path, pixel_size: str) -> Classifier:
    """A classifier that takes its train frames for 1 um per pixel."""
    settings = GateSettings.model_validate({"pixel_size": pixel_size, "out_of_distribution": "ignore"})
    classifier = Classifier.open(bundle, threads=1, gates=settings)
    bundle_told = classifier.bundle
    bundle_told.manifest = bundle_told.manifest.model_copy(update={"pixel_size_um": (1.0, 1.0)})
    return classifier


def tell_scales(bundle: Path, pictures: Sequence[_Pixels], truths: Sequence[ClassPath]) -> None:
    """Table of scores by scale."""
    print("## Another scale\n\n| µm per pixel, trained: 1 | HF1 flagged only | HF1 resampled | gain (95 %) |")
    print("|" + " --- |" * 4)
    with opened(bundle, "flag") as flagging, opened(bundle, "resample") as resampling:
        for scale in (1.0, *_SCALES):
            frames = [frame_of(at_scale(picture, scale), str(n), scale) for n, picture in enumerate(pictures)]
            said = [
                [classifier.classify_frame(frame).path for frame in frames] for classifier in (flagging, resampling)
            ]
            print(f"| {scale:g} | {_cells(truths, said[0], said[1], flagging)} |", flush=True)
    print()


def tell_smoothing(bundle: Path, pictures: Sequence[_Pixels], truths: Sequence[ClassPath]) -> None:
    """Table of scores by noise."""
    print(f"## {_NUM_SCANS} noisy scans of one field\n")
    print("| noise, of full scale | HF1 last scan | HF1 all together | gain (95 %) |")
    print("|" + " --- |" * 4)
    rng = np.random.default_rng(0)
    with opened(bundle, "ignore") as classifier:
        manifest = classifier.bundle.manifest
        for noise in _NOISE:
            single, together = list[ClassPath](), list[ClassPath]()
            for picture in pictures:
                # The whole field by its number, as a person would tell; thumbnails of noisy scans are another question.
                smoother = Smoother(SmoothingSettings(same_field=-0.99), manifest.taxonomy, manifest.decode)
                path = smoothed = ClassPath()
                for _ in range(_NUM_SCANS):
                    noisy = np.clip(picture + rng.normal(0, 255 * noise, picture.shape), 0, 255).astype(np.uint8)
                    prediction = classifier.classify_frame(frame_of(noisy, "scan", 1.0))
                    if prediction.decision is not None:
                        path = prediction.path
                        smoothed = smoother.add(frame_of(picture, "scan", 1.0), prediction.decision)[0].path
                single.append(path)
                together.append(smoothed)
            print(f"| {noise:g} | {_cells(truths, single, together, classifier)} |", flush=True)
    print()


def _cells(
    truths: Sequence[ClassPath], before: Sequence[ClassPath], after: Sequence[ClassPath], classifier: Classifier
) -> str:
    """Both scores and their difference, with a paired bootstrap over frames."""
    tree = classifier.bundle.manifest.taxonomy

    def gain(places: Sequence[int]) -> float:
        one, two = (
            metrics_from_paths([truths[n] for n in places], [said[n] for n in places], tree).hf1
            for said in (before, after)
        )
        return two - one

    rng, num = np.random.default_rng(0), len(truths)
    low, high = np.quantile([gain(rng.integers(0, num, num).tolist()) for _ in range(500)], (0.025, 0.975))
    first, second = (metrics_from_paths(truths, said, tree).hf1 for said in (before, after))
    return f"{first:.4f} | {second:.4f} | {second - first:+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--parts", nargs="+", choices=("scale", "smoothing"), default=["scale", "smoothing"])
    parser.add_argument("--most", type=int, help="frames")
    told = parser.parse_args()
    with Classifier.open(told.bundle, threads=1) as classifier:
        taxonomy = classifier.bundle.manifest.taxonomy
    labelled = open_dataset(told.frames, taxonomy).frames[: told.most]
    pictures = [np.asarray(read_frame(frame.path).picture, np.uint8) for frame in labelled]
    truths = [frame.classes for frame in labelled]
    print(heading("tests.bench.scale_and_smoothing"))
    print(f"{len(labelled)} frames that the model did not see.\n")
    for part in told.parts:
        {"scale": tell_scales, "smoothing": tell_smoothing}[part](told.bundle, pictures, truths)


if __name__ == "__main__":
    main()
