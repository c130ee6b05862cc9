"""``hffnet demo``: the whole job on frames it draws itself, with the functions that the other commands call."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hffnet.runtime.commands import JsonOption, print_json, print_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hffnet.runtime.bundle import Bundle
    from hffnet.runtime.dataset import Dataset
    from hffnet.runtime.manifest import Metrics
    from hffnet.runtime.pipeline import RunSummary

_ARRIVAL_S = 0.15
_IDLE_EXIT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where the demo keeps what; its own folders are emptied at the start."""

    root: Path

    @property
    def labelled(self) -> Path:
        return self.root / "labelled"

    @property
    def unseen(self) -> Path:
        return self.root / "unseen"

    @property
    def watched(self) -> Path:
        return self.root / "watched"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def bundle(self) -> Path:
        return self.root / "model.hffnet"

    @property
    def records(self) -> Path:
        return self.root / "records.sqlite"

    @property
    def decisions(self) -> Path:
        return self.root / "decisions.csv"

    @property
    def live(self) -> Path:
        return self.root / "live"

    @property
    def frame(self) -> Path:
        return self.root / "frame.tif"


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; a demo's own older files in it are replaced.")
    ] = Path("demo"),
    *,
    frames_per_class: Annotated[
        int, typer.Option(min=12, help="Labelled frames to draw of each of six classes.")
    ] = 110,
    unseen_per_class: Annotated[int, typer.Option(min=1, help="Frames of each class that arrive live.")] = 12,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the nano recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing and the training.")] = 0,
    view: Annotated[
        bool, typer.Option("--view", help="Afterwards go on live, with a page to look at, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw SEM-like frames, train, export int8, classify a live folder: about five minutes on two cores."""
    from rich.console import Console

    from hffnet.export.demo_view import PACE_S, check_view, show_live

    if view:
        check_view()
    places, console = _Places(root=out), Console(stderr=True)
    _clear(places)
    with _step(console, "1/4 drawing frames"):
        _draw(places, frames_per_class, unseen_per_class, seed)
    console.print("2/4 training nano HFFNet_2D from scratch")
    data = _train(places, epochs, seed, console)
    with _step(console, "3/4 exporting fp32 and int8, proving and measuring them"):
        bundle = _export(places, data)
    with _step(console, f"4/4 classifying {places.watched} while frames are copied into it"):
        summary = _run(places)
    live = _score_of_records(places, bundle)
    if as_json:
        print_json(_document(places, bundle, summary, live))
    else:
        print_tables([_scores(bundle, live), _latency(summary), _files(places)])
    if view:
        console.print(f"a frame every {PACE_S:.0f} s comes into {places.live}; Ctrl-C ends it")
        show_live(places.bundle, places.unseen, places.live, seed=seed)


@contextmanager
def _step(console: "Console", sentence: str) -> Iterator[None]:
    console.print(sentence)
    with console.status(sentence):
        yield


def _clear(places: _Places) -> None:
    from hffnet.runtime.errors import ConfigError

    if places.root.exists() and not places.root.is_dir():
        raise ConfigError(f"--out {places.root} is a file; name a folder")
    places.root.mkdir(parents=True, exist_ok=True)
    for folder in (places.labelled, places.unseen, places.watched, places.checkpoint, places.live):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(places.root / "checkpoint.training", ignore_errors=True)
    for pattern in ("model.hffnet", "records.sqlite*", "live.sqlite*", "decisions.csv", "frame.tif"):
        for file in places.root.glob(pattern):
            file.unlink()


def _draw(places: _Places, frames_per_class: int, unseen_per_class: int, seed: int) -> None:
    from hffnet.train.synthetic import write_dataset

    write_dataset(places.labelled, frames_per_class=frames_per_class, seed=seed)
    write_dataset(places.unseen, frames_per_class=unseen_per_class, seed=seed + 1)
    shutil.copy(next(iter(sorted(places.unseen.rglob("*.tif")))), places.frame)


def _train(places: _Places, epochs: int | None, seed: int, console: "Console") -> "Dataset":
    from hffnet.runtime.dataset import open_dataset
    from hffnet.runtime.split import split_dataset
    from hffnet.train.loop import train
    from hffnet.train.plan import Plan
    from hffnet.train.progress import progress_on
    from hffnet.train.recipes import altered, recipe_by_name

    data = split_dataset(open_dataset(places.labelled), seed)
    recipe = altered(recipe_by_name("nano", data.taxonomy.num_classes), epochs=epochs)
    with progress_on(console) as watcher:
        train(Plan(dataset=data, recipe=recipe, seed=seed, split_seed=seed), places.checkpoint, watcher=watcher)
    return data


def _export(places: _Places, data: "Dataset") -> "Bundle":
    from hffnet.calibration.gate import Budget
    from hffnet.export.bundle import ExportOptions, bundle_from_checkpoint
    from hffnet.train.checkpoint import open_checkpoint

    # Ninety held-out frames: one more mistake costs a point, so the gate is left a little wider than its default.
    options = ExportOptions(name="demo", int8=True, budget=Budget(max_drop=2.0))
    return bundle_from_checkpoint(open_checkpoint(places.checkpoint), places.bundle, data, options)


def _run(places: _Places) -> "RunSummary":
    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.pipeline import run_pipeline
    from hffnet.runtime.records import RecordStore
    from hffnet.runtime.run_settings import settings_of_run
    from hffnet.runtime.sinks.csv_sink import CsvSink
    from hffnet.runtime.sources import open_source

    places.watched.mkdir()
    stop, done = Event(), Event()
    copier = Thread(target=_copy_in, args=(places, done), name="copier", daemon=True)
    store = RecordStore.open(places.records)
    try:
        with Classifier.open(places.bundle) as classifier:
            source = open_source(str(places.watched), idle_exit_s=_IDLE_EXIT_S)
            copier.start()
            return run_pipeline(
                source,
                classifier,
                store,
                [CsvSink(places.decisions)],
                settings_sha256=settings_of_run("auto", "auto"),
                stop=stop,
            )
    finally:
        done.set()
        store.close()


def _copy_in(places: _Places, done: Event) -> None:
    """Frames arrive one by one, as an instrument saves them, their class in the name for the score afterwards."""
    for file in sorted(places.unseen.rglob("*.tif"), key=lambda path: (path.name, path.parent.name)):
        if done.wait(_ARRIVAL_S):
            return
        shutil.copyfile(file, places.watched / f"{file.parent.name}.{file.name}")


def _score_of_records(places: _Places, bundle: "Bundle") -> "Metrics":
    from hffnet.runtime.errors import GateError
    from hffnet.runtime.metrics import metrics_from_paths
    from hffnet.runtime.records import RecordStore

    tree = bundle.manifest.taxonomy
    path_of = {tree.path_of_leaf(leaf)[-1]: tree.path_of_leaf(leaf) for leaf in range(tree.num_leaves)}
    store = RecordStore.open(places.records)
    try:
        records = list(store.iterate())
    finally:
        store.close()
    expected = sorted(path.name for path in places.watched.iterdir())
    if sorted(record.name for record in records) != expected:
        raise GateError(f"{len(records)} records for {len(expected)} frames; expected each frame exactly once")
    truths = [path_of[record.name.split(".")[0]] for record in records]
    return metrics_from_paths(truths, [tuple(record.answer) for record in records], tree)


def _scores(bundle: "Bundle", live: "Metrics") -> "Table":
    from rich.table import Table

    levels = [level.name for level in bundle.manifest.taxonomy.levels]
    table = Table("", "frames", "HF1", "FPA", *levels, title="scores")
    rows = {f"{precision}, held-out": metrics for precision, metrics in bundle.manifest.metrics.items()}
    for name, metrics in (rows | {"live run, unseen": live}).items():
        shares = (metrics.hf1, metrics.fpa, *metrics.level_accuracy)
        table.add_row(name, str(metrics.num_frames), *(f"{share:.4f}" for share in shares))
    return table


def _latency(summary: "RunSummary") -> "Table":
    from rich.table import Table

    table = Table("stage", "p50 ms", "p90 ms", title="latency of the live run (a dash: too few frames for the claim)")
    for stage, figures in summary.stages_ms.items():
        cells = (figures.get("p50"), figures.get("p90"))
        table.add_row(stage, *("-" if value is None else f"{value:.2f}" for value in cells))
    return table


def _files(places: _Places) -> "Table":
    from rich.table import Table

    table = Table("what", "where", title="files")
    for what in ("labelled", "unseen", "watched", "checkpoint", "bundle", "records", "decisions", "frame"):
        table.add_row(what, str(getattr(places, what)))
    return table


def _document(places: _Places, bundle: "Bundle", summary: "RunSummary", live: "Metrics") -> dict[str, Any]:
    return {
        "command": "demo",
        "bundle": str(places.bundle),
        "metrics": {precision: m.model_dump(mode="json") for precision, m in bundle.manifest.metrics.items()},
        "live": live.model_dump(mode="json"),
        "stages_ms": summary.stages_ms,
        "counts": summary.counts,
    }
