"""Trained networks side by side: one table (JSON, Markdown) and one picture (SVG) of scores, size and speed.

Scores are those that training measured on its test frames, or on val where no test frames were set aside. Speed is
measured here, frame by frame in turns, so that a slow second of the machine falls on all networks alike.
"""

import importlib.metadata
import logging
import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.manifest import Metrics
from hffnet.train.checkpoint import Checkpoint, model_from_checkpoint
from hffnet.train.network import Network, normalise

JSON, MARKDOWN, PICTURE = "comparison.json", "comparison.md", "comparison.svg"

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantile of Student's t for 1 to 9 degrees of freedom."""

MAX_RUNS = len(_T_975) + 1
"""Greatest number of seeds an interval is known for."""

_WARM_UP, _REPEATS = 3, 25
_log = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Estimate(_Strict):
    """Mean over seeds and half the width of its 95 % interval (Student's t); None from one seed."""

    mean: float
    half_width: float | None


class Row(_Strict):
    """One network.

    Attributes:
        name: of the row.
        network, recipe: what was trained, and how.
        freeze: which part of the trunk was held fast.
        pretrained: whether the trunk began with public weights.
        seeds: of its trainings.
        num_parameters: all of the training form's.
        ms_per_frame: median of one frame through the training form in PyTorch.
        scores: ``hp``, ``hr``, ``hf1``, ``fpa``, ``tice`` and ``accuracy:<level>``.
        runs: what each seed scored.
    """

    name: str
    network: str
    recipe: str
    freeze: str
    pretrained: bool
    seeds: tuple[int, ...]
    num_parameters: int
    ms_per_frame: float
    scores: dict[str, Estimate]
    runs: tuple[Metrics, ...]


class Comparison(_Strict):
    """``comparison.json``."""

    schema_version: Literal[1] = 1
    title: str
    measured_on: str
    levels: tuple[str, ...]
    rows: tuple[Row, ...]
    machine: str
    created_utc: str
    tools: dict[str, str]


def comparison_from_checkpoints(title: str, entries: Mapping[str, Sequence[Checkpoint]]) -> Comparison:
    """Compare networks that were trained on one data set.

    Args:
        title: of table and picture.
        entries: by the row's name, its checkpoints, one per seed.

    Raises:
        ConfigError: they were trained or measured on different frames.
    """
    every = [checkpoint for group in entries.values() for checkpoint in group]
    check_comparable(every)
    speeds = ms_per_frame({name: model_from_checkpoint(group[0]) for name, group in entries.items()})
    first = every[0]
    split = "val" if first.metrics.test is None else "test"
    rows = tuple(_row(name, group, *speeds[name]) for name, group in entries.items())
    return Comparison(
        title=title,
        measured_on=f"{rows[0].runs[0].num_frames} {split} frames, the same for every row",
        levels=tuple(level.name for level in first.taxonomy.levels),
        rows=rows,
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, batch 1, PyTorch on the CPU",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tools={name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    )


def check_comparable(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints whose scores were not measured on the same frames after training on the same frames.

    Raises:
        ConfigError: names two that differ.
    """

    def frames(checkpoint: Checkpoint) -> frozenset[tuple[str, str]]:
        return frozenset((frame.sha256, frame.split) for frame in checkpoint.config.frames)

    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.taxonomy != first.taxonomy or frames(other) != frames(first):
            raise ConfigError(
                f"{other.folder} and {first.folder} were trained on other frames, another split or another class tree;"
                " their scores cannot stand in one table: train both on the same data with the same --split-seed"
            )


def ms_per_frame(models: Mapping[str, Network]) -> dict[str, tuple[float, int]]:
    """Median milliseconds of one frame, and number of parameters, of each network; they take turns."""
    samples: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(_WARM_UP + _REPEATS):
            for name, model in models.items():
                side = model.config.img_size
                frame = torch.full((1, side, side), turn, dtype=torch.uint8, device=model.device)
                started = time.perf_counter()
                model(normalise(frame, model.config)).cpu()
                if turn >= _WARM_UP:
                    samples[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: (round(statistics.median(samples[name]), 3), sum(p.numel() for p in model.parameters()))
        for name, model in models.items()
    }


def _row(name: str, checkpoints: Sequence[Checkpoint], ms: float, num_parameters: int) -> Row:
    first = checkpoints[0].config
    runs = tuple(one.metrics.test or one.metrics.val for one in checkpoints)
    levels = [level.name for level in checkpoints[0].taxonomy.levels]
    columns = {key: [float(getattr(run, key)) for run in runs] for key in ("hp", "hr", "hf1", "fpa", "tice")}
    columns |= {f"accuracy:{level}": [run.level_accuracy[i] for run in runs] for i, level in enumerate(levels)}
    return Row(
        name=name,
        network=first.model.name,
        recipe=first.recipe.name,
        freeze=first.recipe.freeze,
        pretrained=first.weights_sha256 is not None,
        seeds=tuple(one.config.seeds.training for one in checkpoints),
        num_parameters=num_parameters,
        ms_per_frame=ms,
        scores={key: estimate(values) for key, values in columns.items()},
        runs=runs,
    )


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and half width of the 95 % interval.

    >>> estimate([0.9])
    Estimate(mean=0.9, half_width=None)
    >>> round(estimate([0.8, 0.9, 1.0]).half_width, 3)
    0.248
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean=mean, half_width=None)
    return Estimate(mean=mean, half_width=_T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values)))


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write the table as JSON and Markdown, and the picture."""
    with whole_file(folder / JSON) as temporary:
        temporary.write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with whole_file(folder / MARKDOWN) as temporary:
        temporary.write_text(markdown_from_comparison(comparison), encoding="utf-8")
    from hffnet.train.comparison_picture import write_picture

    write_picture(folder / PICTURE, comparison)


def markdown_from_comparison(comparison: Comparison) -> str:
    """The table for people; scores in percent."""
    heads = ["network", "HP", "HR", "HF1", "FPA", "TICE", *comparison.levels, "parameters", "ms per frame"]
    lines = [f"# {comparison.title}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    keys = ["hp", "hr", "hf1", "fpa", "tice", *(f"accuracy:{level}" for level in comparison.levels)]
    for row in comparison.rows:
        size = f"{row.num_parameters / 1e6:.2f} M"
        cells = [row.name, *(_percent(row.scores[key]) for key in keys), size, f"{row.ms_per_frame:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = len(comparison.rows[0].seeds)
    interval = "One seed: differences may be chance." if seeds == 1 else f"Mean ± 95 % interval over {seeds} seeds."
    lines += ["", f"Scores in percent on {comparison.measured_on}. {interval}", ""]
    lines += [f"- {row.name}: {_how(row)}" for row in comparison.rows]
    tools = ", ".join(f"{name} {version}" for name, version in comparison.tools.items())
    lines += ["", f"Milliseconds: {comparison.machine}; {tools}; {comparison.created_utc}.", ""]
    return "\n".join(lines)


def _percent(score: Estimate) -> str:
    width = "" if score.half_width is None else f" ± {100 * score.half_width:.1f}"
    return f"{100 * score.mean:.1f}{width}"


def _how(row: Row) -> str:
    start = "public trunk weights" if row.pretrained else "random first weights"
    seeds = ", ".join(map(str, row.seeds))
    return f"{row.network}, recipe {row.recipe}, {start}, frozen: {row.freeze}, seed {seeds}"
