"""``hffnet classify --out``: an archive of frames into one file of results, alone or with the workers of Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import typer

from hffnet.runtime.archive import ArchiveSummary, Document, classify_archive, documents_in_turn
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.commands import PrecisionChoice, print_json
from hffnet.runtime.errors import ConfigError, ExitCode
from hffnet.runtime.field_of_view import TileSettings
from hffnet.runtime.run_settings import settings_of_run


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOptions:
    """What the command was told; see its options."""

    engine: str
    precision: PrecisionChoice
    threads: int | None
    ray: str | None
    workers: int | None
    tiles: TileSettings | None = None
    pin: bool | None = None


def classify_to_file(
    bundle: Path, paths: Sequence[Path], out: Path | None, options: ArchiveOptions, *, as_json: bool
) -> None:
    """Classify what ``out`` lacks and tell what was done.

    Raises:
        typer.Exit: some frames could not be read; they are named on stderr.
        ConfigError: the options do not go together.
        HffnetError: see ``classify_archive`` and ``ray_archive``.
    """
    if options.workers is not None and options.ray is None:
        raise ConfigError("--workers says how many of Ray's workers; give --ray local or an address")
    if options.pin is not None and options.ray is not None:
        raise ConfigError(
            "--pin ties threads to cores of this machine, which Ray's workers share; leave one of them out"
        )
    if out is None:
        raise ConfigError("--ray needs --out FILE.jsonl: where results go, and what a restart goes on from")
    began = monotonic()
    settings_sha256 = settings_of_run(options.engine, options.precision, options.tiles)  # as `hffnet run` has it
    with _open_classifier(bundle, options) as classifier:
        sha256 = classifier.bundle.sha256
        documents = _documents(classifier, options, settings_sha256)
        with _progress(len(paths)) as advance:
            summary = classify_archive(
                paths, out, documents, bundle_sha256=sha256, settings_sha256=settings_sha256, on_document=advance
            )
    _tell(summary, out, monotonic() - began, options, as_json=as_json)
    if summary.counts.get("failed"):
        raise typer.Exit(ExitCode.BAD_INPUT)


def _open_classifier(bundle: Path, options: ArchiveOptions) -> Classifier:
    """The engine of this process; ``auto`` is asked in the same way whoever does the work.

    Which engine is the quickest hangs on the number of threads, and engines differ in last digits: an archive that was
    begun in the loop and goes on in Ray must not change its engine in between.
    """
    engine, precision = options.engine, options.precision
    threads = _threads(options)
    if engine == "auto" and threads is None:
        with Classifier.open(bundle, precision=precision, threads=1, tiles=options.tiles) as chosen:
            engine, precision = chosen.engine.name, chosen.engine.precision
    return Classifier.open(
        bundle, engine=engine, precision=precision, threads=threads, tiles=options.tiles, pin=options.pin
    )


def _threads(options: ArchiveOptions) -> int | None:
    """Of one engine: all cores in this process, one where there are many workers."""
    return options.threads or (1 if options.ray is not None else None)


def _documents(
    classifier: Classifier, options: ArchiveOptions, settings_sha256: str
) -> Callable[[Sequence[Path]], Iterator[Document]]:
    """Who classifies; Ray is started when there is something to do."""
    if options.ray is None:
        return documents_in_turn(classifier, settings_sha256)
    from hffnet.runtime.ray_archive import WorkerPlan, cluster, documents_from_ray

    threads = _threads(options) or 1
    plan = WorkerPlan(
        engine=classifier.engine.name if options.engine == "auto" else options.engine,
        precision=classifier.engine.precision,
        threads=threads,
        num_workers=options.workers,
        settings_sha256=settings_sha256,
        tiles=options.tiles,
    )
    path = classifier.bundle.path
    classifier.close()  # it has said which engine is the best; the workers open their own
    address = options.ray

    def shared(paths: Sequence[Path]) -> Iterator[Document]:
        with cluster(address, options.workers, threads) as num_cpus:
            yield from documents_from_ray(paths, path, plan, num_cpus)

    return shared


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Document], None]]:
    """A bar on a terminal; failures are named on stderr in any case."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("classifying", total=total)

        def advance(document: Document) -> None:
            bar.advance(task)
            if document["status"] == "failed":
                typer.echo(f"hffnet: {document['reason']}", err=True)

        yield advance


def _tell(summary: ArchiveSummary, out: Path, seconds: float, options: ArchiveOptions, *, as_json: bool) -> None:
    if as_json:
        done = {"counts": summary.counts, "num_skipped": summary.num_skipped, "seconds": round(seconds, 3)}
        print_json({"command": "classify", "out": str(out), **done, "ray": options.ray})
        return
    counts = ", ".join(f"{num} {status.replace('_', ' ')}" for status, num in summary.counts.items()) or "nothing new"
    typer.echo(f"{out}: {counts}; {summary.num_skipped} were there already; {seconds:.1f} s")
