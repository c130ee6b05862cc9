"""Where in a picture an answer comes from, as a file: a PNG to look at, or a TIFF to measure in.

The PNG is the picture with colour where it speaks for the answer, a scale bar and the decision. The TIFF holds the
evidence itself, one page per class, one value per position of the network, with its pixel size, as ImageJ reads it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import numpy.typing as npt

from hffnet.runtime.annotate import at_most_for_eyes, overlay, with_legend
from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import ConfigError

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier, Prediction
    from hffnet.runtime.frame import Frame
    from hffnet.runtime.taxonomy import Taxonomy

MapFormat = Literal["png", "tiff"]


def evidence_of_answer(prediction: "Prediction", taxonomy: "Taxonomy") -> tuple[str, npt.NDArray[np.float32]] | None:
    """The answer's last class and its map (rows, columns), whose mean is that class's logit; None without answer."""
    decision = prediction.decision
    if decision is None or prediction.evidence is None:
        return None
    depth = max(len(decision.answer), 1) - 1
    name = decision.path[depth]
    column = taxonomy.slices()[depth].start + taxonomy.levels[depth].classes.index(name)
    return name, prediction.evidence[column]


def write_map(
    path: Path, frame: "Frame", prediction: "Prediction", taxonomy: "Taxonomy", kind: MapFormat = "png"
) -> bool:
    """Write the evidence map of a classified frame; false where nothing was classified, so that there is none.

    Raises:
        ConfigError: the file cannot be written.
    """
    found = evidence_of_answer(prediction, taxonomy)
    if found is None or prediction.evidence is None:
        return False
    try:
        with whole_file(path) as temporary:
            if kind == "png":
                temporary.write_bytes(_png(frame, prediction, *found))
            else:
                _write_tiff(temporary, frame, prediction.evidence, taxonomy)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name another folder for maps") from error
    return True


class MapFolder:
    """Where ``hffnet classify`` puts maps: ``<frame's name>.evidence.png``, with a number where names repeat.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, kind: MapFormat) -> None:
        self._folder, self._kind = folder, kind
        self._given = set[str]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror}); name another folder for maps") from error

    def classify(self, classifier: "Classifier", path: Path) -> "Prediction":
        """Classify one file and write its map; raises as ``Classifier.classify`` does."""
        from hffnet.runtime.classifier import Timings
        from hffnet.runtime.read import read_frame

        timings = Timings()
        with timings.stage("read"):
            frame = read_frame(path)
        prediction = classifier.classify_frame(frame, timings)
        place = self._folder / self._name(path)
        write_map(place, frame, prediction, classifier.bundle.manifest.taxonomy, self._kind)
        return prediction

    def _name(self, path: Path) -> str:
        suffix, number = "png" if self._kind == "png" else "tif", 1
        name = f"{path.stem}.evidence.{suffix}"
        while name in self._given:
            number += 1
            name = f"{path.stem}-{number}.evidence.{suffix}"
        self._given.add(name)
        return name


def _png(frame: "Frame", prediction: "Prediction", node: str, evidence_hw: npt.NDArray[np.float32]) -> bytes:
    picture, um = at_most_for_eyes(frame.picture, frame.acquisition.pixel_size_um)
    _, data = cv2.imencode(".png", with_legend(overlay(picture, evidence_hw), _lines(prediction, node), um))
    return data.tobytes()


def _lines(prediction: "Prediction", node: str) -> list[str]:
    decision, area = prediction.decision, prediction.area
    assert decision is not None
    answer = " / ".join(decision.answer) or "unsure"
    confidence = decision.confidence[max(len(decision.answer), 1) - 1]
    lines = [f"{answer}  {confidence:.3f}   (colour: evidence for {node})", Path(prediction.name).name]
    if area is not None:
        lines.append(area.in_words())
    return lines


def _write_tiff(path: Path, frame: "Frame", evidence_chw: npt.NDArray[np.float32], taxonomy: "Taxonomy") -> None:
    import tifffile

    names = [f"{level.name}: {name}" for level in taxonomy.levels for name in level.classes]
    metadata: dict[str, object] = {"axes": "CYX", "Labels": names}
    resolution, um = None, frame.acquisition.pixel_size_um
    if um:
        rows, columns = evidence_chw.shape[1:]
        height, width = frame.picture.shape
        resolution = (columns / (width * um), rows / (height * um))  # cells per micrometre
        metadata["unit"] = "um"
    tifffile.imwrite(path, evidence_chw, imagej=True, resolution=resolution, metadata=metadata)
