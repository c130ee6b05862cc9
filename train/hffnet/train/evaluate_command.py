"""``hffnet evaluate``: how good a checkpoint or a bundle is on labelled frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hffnet.runtime.commands import (
    EngineOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    print_json,
    print_tables,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from hffnet.runtime.assessment import Assessment, Judged
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.dataset import Dataset
    from hffnet.runtime.decode import Decision, DecodeSpec
    from hffnet.train.checkpoint import Checkpoint
    from hffnet.train.mistakes import Evidence

    Look = Callable[[int], tuple[npt.NDArray[np.uint8], Evidence | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What was found: frames, decisions and numbers, by whom, and how to look at a frame again."""

    dataset: "Dataset"
    judged: "tuple[Judged, ...]"
    decisions: "tuple[Decision | None, ...]"
    assessment: "Assessment"
    judge: str


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
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write everything as one HTML page.")
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled frames: hierarchical scores with intervals, calibration, risk, and every decision."""
    from hffnet.runtime.bundle import open_bundle
    from hffnet.runtime.dataset import open_dataset
    from hffnet.runtime.errors import ConfigError
    from hffnet.train.checkpoint import open_checkpoint

    if report is not None:
        from hffnet.train.html_report import check_report_path

        check_report_path(report)
    if model.is_dir():
        opened = open_checkpoint(model)
        dataset = _frames_of(open_dataset(data, opened.taxonomy), opened, "test" if split == "auto" else split)
        result = _by_checkpoint(opened, dataset, threads)
        if report is not None:
            _write_report(report, model, result, _look_by_checkpoint(opened, dataset))
    else:
        from hffnet.runtime.classifier import Classifier

        dataset = open_dataset(data, open_bundle(model).manifest.taxonomy)
        if split not in {"auto", "all"}:
            if checkpoint is None:
                raise ConfigError(f"--split {split} of a bundle needs --checkpoint, whose split is meant")
            dataset = _frames_of(dataset, open_checkpoint(checkpoint), split)
        with Classifier.open(model, engine=engine, precision=precision, threads=threads) as classifier:
            result = _by_bundle(classifier, dataset)
            if report is not None:
                _write_report(report, model, result, _look_by_bundle(classifier, dataset))
    _show(model, result, as_json=as_json)


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


def _by_checkpoint(checkpoint: "Checkpoint", dataset: "Dataset", threads: int | None) -> _Result:
    import torch

    from hffnet.train.evaluate import logits_from_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    logits_NC = logits_from_checkpoint(checkpoint, dataset)
    return _result(dataset, list(logits_NC), checkpoint.config.decode, "training form")


def _by_bundle(classifier: "Classifier", dataset: "Dataset") -> _Result:
    logits = [classifier.classify(frame.path).logits for frame in dataset.frames]
    identity = classifier.engine
    judge = f"{identity.precision} in {identity.name} {identity.version} ({identity.arithmetic})"
    return _result(dataset, logits, classifier.bundle.manifest.decode, judge)


def _result(
    dataset: "Dataset",
    logits: "list[npt.NDArray[np.float32]] | list[npt.NDArray[np.float32] | None]",
    spec: "DecodeSpec",
    judge: str,
) -> _Result:
    from hffnet.runtime.assessment import Judged, assess

    judged = tuple(
        Judged(name=dataset.relative(frame), truth=frame.classes, group=frame.group, logits=logits_C)
        for frame, logits_C in zip(dataset.frames, logits, strict=True)
    )
    assessment, decisions = assess(judged, dataset.taxonomy, spec)
    return _Result(dataset=dataset, judged=judged, decisions=decisions, assessment=assessment, judge=judge)


def _look_by_checkpoint(checkpoint: "Checkpoint", dataset: "Dataset") -> "Look":
    from hffnet.runtime.preprocess import preprocess
    from hffnet.runtime.read import read_frame

    def look(place: int) -> "tuple[npt.NDArray[np.uint8], None]":
        picture = read_frame(dataset.frames[place].path).picture
        return preprocess(picture, checkpoint.config.preprocess), None

    return look


def _look_by_bundle(classifier: "Classifier", dataset: "Dataset") -> "Look":
    from hffnet.runtime.preprocess import preprocess
    from hffnet.runtime.read import read_frame

    def look(place: int) -> "tuple[npt.NDArray[np.uint8], Evidence | None]":
        frame = read_frame(dataset.frames[place].path)
        evidence = classifier.classify_frame(frame).evidence
        return preprocess(frame.picture, classifier.bundle.manifest.preprocess), evidence

    return look


def _write_report(path: Path, model: Path, result: _Result, look: "Look") -> None:
    from hffnet.train.html_report import ReportPage, write_report
    from hffnet.train.mistakes import thumbnails_of, worst_mistakes

    mistakes = worst_mistakes(result.judged, result.decisions)
    pictures = thumbnails_of(mistakes, look, result.dataset.taxonomy)
    note = (
        "Furthest from the truth first. Orange: what speaks for the class that was said; blue: for the true one"
        " (difference of their evidence maps, each picture scaled to its strongest place)."
        if model.is_file()
        else "Furthest from the truth first. The training form gives no evidence maps: evaluate a bundle to see them."
    )
    facts = [
        ("model", str(model)),
        ("judged by", result.judge),
        ("frames", f"{len(result.judged)} of {result.dataset.root}, in {result.assessment.num_groups} groups"),
    ]
    write_report(
        path,
        result.assessment,
        ReportPage(
            title=f"hffnet evaluate: {model.name}",
            facts=facts,
            mistakes=mistakes,
            pictures=pictures,
            evidence_note=note,
        ),
    )


def _show(model: Path, result: _Result, *, as_json: bool) -> None:
    from rich.table import Table

    metrics = result.assessment.metrics
    if as_json:
        print_json(_document(model, result))
        return
    levels = [level.name for level in result.dataset.taxonomy.levels]
    table = Table("", "frames", "HP", "HR", "HF1", "FPA", "TICE", *levels, title=f"{model}: {result.judge}")
    shares = (metrics.hp, metrics.hr, metrics.hf1, metrics.fpa, metrics.tice, *metrics.level_accuracy)
    table.add_row("score", str(metrics.num_frames), *(f"{share:.4f}" for share in shares))
    if i := result.assessment.intervals:
        spans = [f"{x.low:.3f}–{x.high:.3f}" for x in (i.hp, i.hr, i.hf1, i.fpa)]
        tail = [f"{x.low:.3f}–{x.high:.3f}" for x in i.level_accuracy]
        table.add_row("95 %", f"{i.num_groups} groups", *spans, "", *tail)
    ece = [f"{level.ece:.4f}" for level in result.assessment.levels]
    table.add_row("ECE", "", "", "", "", "", "", *ece)
    print_tables([table])
    here = result.assessment.operating_point
    if result.assessment.min_confidence is not None:
        typer.echo(
            f"held back below {here.threshold:.4f}: {here.answered:.1%} of the frames answered, {here.complete:.1%}"
            f" down to the leaf, {here.risk:.1%} answered wrongly"
        )


def _document(model: Path, result: _Result) -> dict[str, Any]:
    frames = [
        {
            "name": one.name,
            "sha256": frame.sha256,
            "truth": one.truth,
            "path": decision.path if decision else (),
            "answer": decision.answer if decision else (),
            "confidence": decision.confidence if decision else (),
        }
        for frame, one, decision in zip(result.dataset.frames, result.judged, result.decisions, strict=True)
    ]
    assessment = result.assessment.model_dump(mode="json")
    metrics = assessment.pop("metrics")
    return {
        "command": "evaluate",
        "model": str(model),
        "judge": result.judge,
        "metrics": metrics,
        "assessment": assessment,
        "frames": frames,
    }
