"""What decides a training's result, and whether it can be trained at all."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from hffnet.runtime.dataset import Dataset, dataset_sha256
from hffnet.runtime.errors import CheckpointError, ConfigError, DatasetError
from hffnet.train.checkpoint import Checkpoint, checkpoint_sha256
from hffnet.train.recipes import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What decides a training's result.

    Attributes:
        dataset: every frame with its split.
        recipe: the complete configuration.
        weights: public weights for the trunk, or None for a random start.
        seed: of first weights, order, variants, dropout.
        split_seed: which the split was made with, for the record; None where it was given.
        teacher: whose soft answers the network learns from, as ``recipe.distill`` says; None without one.
    """

    dataset: Dataset
    recipe: Recipe
    weights: Path | None = None
    seed: int = 0
    split_seed: int | None = None
    teacher: Checkpoint | None = None


def check_splits(plan: Plan) -> None:
    """Refuse data that cannot be trained on, and a recipe for other data.

    Raises:
        DatasetError: a frame without split, or no frame in train or val.
        ConfigError: the recipe's network has other numbers of classes.
    """
    frames = plan.dataset.frames
    if loose := [frame for frame in frames if frame.split is None]:
        raise DatasetError(f"{loose[0].path} is in no split; divide the data set first (split_dataset)")
    for split in ("train", "val"):
        if not plan.dataset.frames_of(split):
            raise DatasetError(
                f"no frame is in {split}; training needs train frames, and val frames to choose an epoch"
            )
    if plan.dataset.taxonomy.num_classes != plan.recipe.model.num_classes:
        raise ConfigError(
            f"the recipe's network has {plan.recipe.model.num_classes} classes per level, the data set "
            f"{plan.dataset.taxonomy.num_classes}; make the recipe for the data set's taxonomy"
        )
    if plan.teacher is not None:
        _check_teacher(plan, plan.teacher)
    elif plan.recipe.distill is not None:
        raise ConfigError("the recipe is for a student, but there is no teacher; name its checkpoint, or leave it out")


def _check_teacher(plan: Plan, teacher: Checkpoint) -> None:
    if plan.recipe.distill is None:
        raise ConfigError("there is a teacher, but the recipe does not say how to learn from it (distill)")
    if teacher.taxonomy != plan.dataset.taxonomy:
        raise ConfigError(
            f"the teacher {teacher.folder} has {teacher.taxonomy.num_classes} classes of its own per level, the data"
            f" set {plan.dataset.taxonomy.num_classes}; teacher and student need one class tree"
        )
    student, its = plan.recipe.model, teacher.config.model
    if (student.img_size, student.grey_mean, student.grey_std) != (its.img_size, its.grey_mean, its.grey_std):
        raise ConfigError(
            f"the teacher {teacher.folder} sees frames of {its.img_size} pixels, mean {its.grey_mean}, deviation"
            f" {its.grey_std}; the student {student.img_size}, {student.grey_mean}, {student.grey_std}: they must agree"
        )
    known = {frame.sha256: frame.split for frame in teacher.config.frames}
    for frame in plan.dataset.frames:
        if known.get(frame.sha256) == "train" and frame.split != "train":
            raise DatasetError(
                f"{frame.path} is in {frame.split}, but the teacher {teacher.folder} was trained on it: the student"
                " would be scored on frames it knows by hearsay; use the teacher's --split-seed"
            )


def identity(plan: Plan, weights_sha256: str | None) -> str:
    """One line per thing that decides the result, so that a difference can be named."""
    splits = sorted(f"{plan.dataset.relative(frame)} {frame.split}" for frame in plan.dataset.frames)
    lines = {
        "data": dataset_sha256(plan.dataset),
        "split": hashlib.sha256("\n".join(splits).encode()).hexdigest(),
        "recipe": plan.recipe.model_dump_json(),
        "seed": plan.seed,
        "weights": weights_sha256,
        "teacher": None if plan.teacher is None else checkpoint_sha256(plan.teacher.folder),
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def check_same(work: Path, found: str, expected: str) -> None:
    """Refuse to go on with the training of another plan; raises ConfigError that says what differs."""
    different = [
        new.split(":")[0] for old, new in zip(found.splitlines(), expected.splitlines(), strict=False) if old != new
    ]
    if found != expected:
        raise ConfigError(
            f"the unfinished training in {work} has another {' and '.join(different) or 'form'} than is asked for now; "
            "give the same options and data as before, or remove it to start anew"
        )


def torch_device(name: str) -> torch.device:
    """The device a name means; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: torch has no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; choose cpu or auto"
        ) from error


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weights file; raises CheckpointError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; a weights file is expected") from error
