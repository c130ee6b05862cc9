"""What the engine that was timed answers for labelled frames: speed and accuracy from one artefact."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.report import Accuracy
from hffnet.runtime.bundle import Bundle
from hffnet.runtime.dataset import open_dataset
from hffnet.runtime.decode import decode
from hffnet.runtime.engines import OpenEngine
from hffnet.runtime.errors import DatasetError, FrameError
from hffnet.runtime.gates import check_gates
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.runtime.preprocess import preprocess
from hffnet.runtime.read import read_frame
from hffnet.runtime.taxonomy import ClassPath

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledInputs:
    """Labelled frames, ready for any engine of the bundle.

    Attributes:
        inputs: (N, size, size) uint8, preprocessed.
        truths: N class paths.
        num_refused: frames that could not be read or that a gate refused.
        name: for the report.
    """

    inputs: npt.NDArray[np.uint8]
    truths: tuple[ClassPath, ...]
    num_refused: int
    name: str


def read_labelled(path: Path, bundle: Bundle) -> LabelledInputs:
    """Read labelled frames: those of the test split where a CSV names one, else all.

    Raises:
        DatasetError: no labels, unknown classes, or no frame that can be classified.
    """
    manifest = bundle.manifest
    dataset = open_dataset(path, manifest.taxonomy)
    frames, which = (dataset.frames_of("test"), "test split of ") if dataset.frames_of("test") else (dataset.frames, "")
    inputs, truths = list[npt.NDArray[np.uint8]](), list[ClassPath]()
    for frame in frames:
        try:
            found = read_frame(frame.path)
        except FrameError as error:
            _log.warning("not scored: %s", error)
            continue
        if failed := [gate.reason for gate in check_gates(found) if not gate.passed]:
            _log.warning("%s is not scored: %s", frame.path, "; ".join(map(str, failed)))
            continue
        inputs.append(preprocess(found.picture, manifest.preprocess))
        truths.append(frame.classes)
    if not inputs:
        raise DatasetError(f"none of the {len(frames)} labelled frames of {path} can be classified; see the warnings")
    return LabelledInputs(
        inputs=np.stack(inputs),
        truths=tuple(truths),
        num_refused=len(frames) - len(inputs),
        name=f"{len(inputs)} frames of the {which}{path}" if which else f"{len(inputs)} frames of {path}",
    )


def answers_of(engine: OpenEngine, bundle: Bundle, inputs_NHW: npt.NDArray[np.uint8], batch: int) -> list[ClassPath]:
    """The most probable complete class path of each frame."""
    manifest, answers = bundle.manifest, list[ClassPath]()
    for first in range(0, len(inputs_NHW), batch):
        logits_NC = engine.infer(np.ascontiguousarray(inputs_NHW[first : first + batch])).logits
        answers += [decision.path for decision in decode(logits_NC, manifest.taxonomy, manifest.decode)]
    return answers


def accuracy_from_answers(
    answers: list[ClassPath], labelled: LabelledInputs, bundle: Bundle, reference: list[ClassPath] | None
) -> Accuracy:
    """Scores and, where there is an fp32 row to compare with, the number of decisions that differ from its."""
    return Accuracy(
        metrics=metrics_from_paths(labelled.truths, answers, bundle.manifest.taxonomy),
        num_refused=labelled.num_refused,
        num_flips=None if reference is None else sum(a != r for a, r in zip(answers, reference, strict=True)),
    )
