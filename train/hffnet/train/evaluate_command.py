"""``hffnet evaluate``: how good a checkpoint or a bundle is on labelled frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hffnet.runtime.commands import (
    EngineChoice,
    EngineOption,
    JsonOption,
    PrecisionChoice,
    PrecisionOption,
    ThreadsOption,
    print_json,
    print_tables,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hffnet.runtime.dataset import Dataset
    from hffnet.runtime.decode import Decision
    from hffnet.runtime.manifest import Metrics
    from hffnet.train.checkpoint import Checkpoint


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint folder or a *.hffnet bundle.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled frames: class folders or a CSV.")],
    *,
    split: Annotated[
        Literal["auto", "train", "val", "test", "all"],
        typer.Option(help="Of the checkpoint's own split. auto: test for a checkpoint, all for a bundle."),
    ] = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="For a bundle: the checkpoint whose split is meant.")
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled frames: HF1, FPA, TICE and accuracy per level, and each frame's decision."""
    from hffnet.runtime.bundle import open_bundle
    from hffnet.runtime.dataset import open_dataset
    from hffnet.runtime.errors import ConfigError
    from hffnet.train.checkpoint import open_checkpoint

    decisions: Sequence[Decision | None]
    if model.is_dir():
        opened = open_checkpoint(model)
        dataset = _frames_of(open_dataset(data, opened.taxonomy), opened, "test" if split == "auto" else split)
        metrics, decisions = _by_checkpoint(opened, dataset, threads)
        judge = "training form"
    else:
        dataset = open_dataset(data, open_bundle(model).manifest.taxonomy)
        if split not in {"auto", "all"}:
            if checkpoint is None:
                raise ConfigError(f"--split {split} of a bundle needs --checkpoint, whose split is meant")
            dataset = _frames_of(dataset, open_checkpoint(checkpoint), split)
        metrics, decisions, judge = _by_bundle(model, dataset, engine, precision, threads)
    _show(model, dataset, metrics, decisions, judge, as_json=as_json)


def _frames_of(dataset: "Dataset", checkpoint: "Checkpoint", split: str) -> "Dataset":
    from dataclasses import replace

    from hffnet.runtime.errors import DatasetError

    if split == "all":
        return dataset
    wanted = {frame.sha256 for frame in checkpoint.config.frames if frame.split == split}
    frames = tuple(frame for frame in dataset.frames if frame.sha256 in wanted)
    if not frames:
        raise DatasetError(
            f"none of the {len(dataset.frames)} frames of {dataset.root} stands in the {split} split of"
            f" {checkpoint.folder}; name the data it was trained with, or --split all"
        )
    return replace(dataset, frames=frames)


def _by_checkpoint(
    checkpoint: "Checkpoint", dataset: "Dataset", threads: int | None
) -> "tuple[Metrics, tuple[Decision, ...]]":
    import torch

    from hffnet.train.evaluate import evaluate_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    return evaluate_checkpoint(checkpoint, dataset)


def _by_bundle(
    path: Path, dataset: "Dataset", engine: EngineChoice, precision: PrecisionChoice, threads: int | None
) -> "tuple[Metrics, tuple[Decision | None, ...], str]":
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.metrics import metrics_from_paths

    with Classifier.open(path, engine=engine, precision=precision, threads=threads) as classifier:
        decisions = tuple(classifier.classify(frame.path).decision for frame in dataset.frames)
        identity = classifier.engine
    answers = [decision.answer if decision else () for decision in decisions]
    metrics = metrics_from_paths([frame.classes for frame in dataset.frames], answers, dataset.taxonomy)
    return metrics, decisions, f"{identity.precision} in {identity.name} {identity.version} ({identity.arithmetic})"


def _show(
    model: Path,
    dataset: "Dataset",
    metrics: "Metrics",
    decisions: "Sequence[Decision | None]",
    judge: str,
    *,
    as_json: bool,
) -> None:
    from rich.table import Table

    if as_json:
        frames = [
            {
                "name": dataset.relative(frame),
                "sha256": frame.sha256,
                "truth": frame.classes,
                "path": decision.path if decision else (),
                "answer": decision.answer if decision else (),
                "confidence": decision.confidence if decision else (),
            }
            for frame, decision in zip(dataset.frames, decisions, strict=True)
        ]
        scores = metrics.model_dump(mode="json")
        print_json({"command": "evaluate", "model": str(model), "judge": judge, "metrics": scores, "frames": frames})
        return
    levels = [level.name for level in dataset.taxonomy.levels]
    table = Table("frames", "HP", "HR", "HF1", "FPA", "TICE", *levels, title=f"{model}: {judge}")
    shares = (metrics.hp, metrics.hr, metrics.hf1, metrics.fpa, metrics.tice, *metrics.level_accuracy)
    table.add_row(str(metrics.num_frames), *(f"{share:.4f}" for share in shares))
    print_tables([table])
