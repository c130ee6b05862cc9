"""Labelled frames as a list: which file, which class path, which group, which split. No pixels, no torch.

Stands in the runtime because training, calibration, evaluation and benchmarks must agree on it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hffnet.runtime.taxonomy import ClassPath, Taxonomy

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """One labelled file.

    Attributes:
        path: the image file.
        classes: complete class path, first level first.
        group: frames of one group (specimen, source frame, exact duplicates) never stand in two splits.
        split: None until split.
    """

    path: Path
    classes: ClassPath
    group: str
    split: Split | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled frames and the class tree they live in."""

    root: Path
    taxonomy: Taxonomy
    frames: tuple[LabelledFrame, ...]
