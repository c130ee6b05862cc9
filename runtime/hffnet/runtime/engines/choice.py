"""The quickest engine here: measured once per bundle and machine, remembered, and said when one is refused.

The remembered table is only a hint: what it names is opened and proved like anything else.
"""

import hashlib
import json
import logging
import os
import platform
import time
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hffnet.runtime.bundle import Bundle
from hffnet.runtime.engines import EngineName, OpenEngine
from hffnet.runtime.engines.cache import EngineCache, cache_folder
from hffnet.runtime.engines.driver import NoGpuError, probe_gpu
from hffnet.runtime.engines.flavour import FLAVOURS, installed_version
from hffnet.runtime.engines.opening import Candidate, OpenSettings, open_candidate
from hffnet.runtime.errors import EngineError, GraphError, MissingExtraError
from hffnet.runtime.manifest import Precision

SECONDS = 1.0
"""How long each engine is timed."""

_BLOCKS = 4
_MOST_RUNS = 15
_log = logging.getLogger(__name__)


class ChoiceRow(BaseModel):
    """What was found of one candidate.

    Attributes:
        target: engine and device as ``--engine`` takes them.
        median_ms: of the last comparison it took part in.
        chosen: it was the quickest of those that can be used.
        refused: why it cannot be used.
        no_gpu: it was refused only because there is no GPU here.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    engine: EngineName
    target: str
    precision: Precision
    version: str | None = None
    device: str | None = None
    arithmetic: str | None = None
    median_ms: Annotated[float, Field(gt=0)] | None = None
    num_runs: int = 0
    error: float | None = None
    cosine: float | None = None
    flips: int | None = None
    chosen: bool = False
    refused: str | None = None
    no_gpu: bool = False


class Worked(BaseModel):
    """What ``auto`` took last for a bundle on this machine, whatever else has changed since."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    target: str
    precision: Precision


class Choice(BaseModel):
    """The table, in order of preference."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    measured_utc: str
    rows: tuple[ChoiceRow, ...]

    @property
    def winner(self) -> ChoiceRow | None:
        """The quickest row that can be used."""
        return next((row for row in self.rows if row.chosen), None)


def open_quickest(bundle: Bundle, candidates: tuple[Candidate, ...], settings: OpenSettings) -> OpenEngine:
    """Open the quickest candidate; a single one is opened without timing.

    Raises:
        EngineError: none can be used; the sentence holds every reason.
    """
    if len(candidates) == 1:
        return open_candidate(bundle, candidates[0], settings)
    cache, name = EngineCache(cache_folder()), _name(bundle, candidates, settings)
    remembered = _remembered(cache, name)
    if remembered is not None and (opened := _reopened(bundle, candidates, settings, remembered)):
        return opened
    choice, quickest = measured_choice(bundle, candidates, settings)
    _say_what_has_no_gpu(choice)
    _warn_of_refused(choice)
    if quickest is None:
        refused = _refused(choice)
        if len(refused) == 1:  # one that was named, in several precisions
            raise EngineError(next(iter(refused))[1])
        reasons = (f"{target} ({', '.join(kinds)}): {reason}" for (target, reason), kinds in refused.items())
        raise EngineError(f"no engine can run this bundle here. {'; '.join(reasons)}")
    _warn_of_loss(cache, bundle, choice)
    store_choice(bundle, candidates, settings, choice)
    return quickest


def store_choice(bundle: Bundle, candidates: tuple[Candidate, ...], settings: OpenSettings, choice: Choice) -> None:
    """Remember a table on this machine; one in which nothing can be used is not worth it."""
    if choice.winner is not None:
        name = _name(bundle, candidates, settings)
        EngineCache(cache_folder()).write(name, choice.model_dump_json().encode())


def remembered_choice(bundle: Bundle, candidates: tuple[Candidate, ...], settings: OpenSettings) -> Choice | None:
    """The table of an earlier measurement on this machine; None where there is none."""
    return _remembered(EngineCache(cache_folder()), _name(bundle, candidates, settings))


def measured_choice(
    bundle: Bundle, candidates: tuple[Candidate, ...], settings: OpenSettings, *, seconds: float = SECONDS
) -> tuple[Choice, OpenEngine | None]:
    """Open, prove and time every candidate; the quickest stays open.

    Each is timed against the quickest so far, in turns: another program that takes the processor for a moment slows
    both. At most two are open at once.
    """
    rows = list[ChoiceRow]()
    quickest: OpenEngine | None = None
    best = -1
    for candidate in candidates:
        try:
            opened = open_candidate(bundle, candidate, settings)
        except (EngineError, GraphError, MissingExtraError) as error:
            rows.append(
                ChoiceRow(
                    engine=candidate.engine,
                    target=candidate.text,
                    precision=candidate.graph.precision,
                    refused=str(error),
                    no_gpu=isinstance(error, NoGpuError),
                )
            )
            continue
        rows.append(_row(opened, candidate))
        if quickest is None:
            (samples,) = _timed(bundle, (opened,), seconds)
            quickest, best = opened, len(rows) - 1
            rows[best] = _with_times(rows[best], samples)
            continue
        before, now = _timed(bundle, (quickest, opened), seconds)
        rows[best], rows[-1] = _with_times(rows[best], before), _with_times(rows[-1], now)
        if median(now) < median(before):
            quickest, opened, best = opened, quickest, len(rows) - 1
        opened.close()
    if quickest is not None:
        rows[best] = rows[best].model_copy(update={"chosen": True})
    return Choice(measured_utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), rows=tuple(rows)), quickest


def _timed(bundle: Bundle, engines: tuple[OpenEngine, ...], seconds: float) -> tuple[list[float], ...]:
    """Milliseconds per frame, in blocks of one engine: a library's idle threads spin on for a while after its turn."""
    frames_NHW, _ = bundle.vectors()
    samples_ms = tuple(list[float]() for _ in engines)
    for _ in range(_BLOCKS):
        for opened, times in zip(engines, samples_ms, strict=True):
            opened.infer(frames_NHW[:1])
            end, most = time.perf_counter() + seconds / _BLOCKS, len(times) + _MOST_RUNS
            while True:
                n = len(times) % len(frames_NHW)
                start = time.perf_counter()
                opened.infer(frames_NHW[n : n + 1])
                times.append((time.perf_counter() - start) * 1e3)
                if len(times) >= most or time.perf_counter() >= end:
                    break
    return samples_ms


def _row(opened: OpenEngine, candidate: Candidate) -> ChoiceRow:
    identity = opened.identity
    return ChoiceRow(
        engine=candidate.engine,
        target=candidate.text,
        precision=identity.precision,
        version=identity.version,
        device=identity.device,
        arithmetic=identity.arithmetic,
        error=identity.self_test.error,
        cosine=identity.self_test.cosine,
        flips=identity.self_test.flips,
    )


def _with_times(row: ChoiceRow, samples_ms: list[float]) -> ChoiceRow:
    return row.model_copy(update={"median_ms": median(samples_ms), "num_runs": len(samples_ms)})


def _reopened(
    bundle: Bundle, candidates: tuple[Candidate, ...], settings: OpenSettings, remembered: Choice
) -> OpenEngine | None:
    row = remembered.winner
    wanted = [one for one in candidates if row and (one.text, one.graph.precision) == (row.target, row.precision)]
    if not wanted:
        return None
    _warn_of_refused(remembered)
    try:
        return open_candidate(bundle, wanted[0], settings)
    except (EngineError, GraphError, MissingExtraError) as error:
        _log.warning("%s was the quickest engine here but fails now: %s; measuring again", wanted[0].text, error)
        return None


def _warn_of_refused(choice: Choice) -> None:
    instead = _instead(choice)
    shown = choice.model_copy(update={"rows": tuple(row for row in choice.rows if not row.no_gpu)})
    for (engine, reason), precisions in _refused(shown).items():
        _log.warning("engine %s (%s) is not used: %s%s", engine, ", ".join(precisions), reason, instead)
    unused = _unused_gpu(choice)
    if unused:
        _log.warning(
            "the GPU %s is not used%s: install tensorrt, or 'hffnet[tensorrt-rtx]' for an RTX card", unused, instead
        )


def _refused(choice: Choice) -> dict[tuple[str, str], list[str]]:
    """Precisions by target and reason: what is refused twice for one reason is said once."""
    found = defaultdict[tuple[str, str], list[str]](list)
    for row in choice.rows:
        if row.refused:
            found[row.target, row.refused].append(row.precision)
    return found


def _instead(choice: Choice) -> str:
    winner = choice.winner
    return f"; {winner.target} on {winner.device} is used instead" if winner else ""


def _say_what_has_no_gpu(choice: Choice) -> None:
    """Calmly, and only when engines are compared: a machine without a GPU is nothing out of order."""
    if idle := dict.fromkeys(row.target for row in choice.rows if row.no_gpu):
        _log.info("no NVIDIA GPU here: %s stay unused%s", ", ".join(idle), _instead(choice))


def _warn_of_loss(cache: EngineCache, bundle: Bundle, choice: Choice) -> None:
    """Say loudly that what ``auto`` took here before is refused now, even where its whole GPU is gone."""
    graphs = sorted(bundle.sha256_of(graph.member) for graph in bundle.manifest.graphs)
    name = f"worked-{hashlib.sha256(json.dumps(graphs).encode()).hexdigest()[:32]}"
    stored = cache.read(name)
    winner = choice.winner
    try:
        before = None if stored is None else Worked.model_validate_json(stored)
    except ValidationError:
        before = None  # of another hffnet
    refused = {(row.target, row.precision): row.refused for row in choice.rows}
    if before is not None and (reason := refused.get((before.target, before.precision))):
        _log.warning(
            "%s (%s) was used here before and is refused now: %s%s",
            before.target,
            before.precision,
            reason,
            _instead(choice),
        )
    if winner is not None:
        now = Worked(target=winner.target, precision=winner.precision)
        if now != before:
            cache.write(name, now.model_dump_json().encode())


def _unused_gpu(choice: Choice) -> str | None:
    """Name of a GPU that no row even tried to use."""
    if any(row.engine in FLAVOURS or (row.device or "").startswith("GPU") for row in choice.rows):
        return None
    try:
        return probe_gpu().name
    except EngineError:
        return None


def _remembered(cache: EngineCache, name: str) -> Choice | None:
    stored = cache.read(name)
    if stored is None:
        return None
    try:
        return Choice.model_validate_json(stored)
    except ValidationError:
        return None  # of another hffnet


def _name(bundle: Bundle, candidates: tuple[Candidate, ...], settings: OpenSettings) -> str:
    """Everything that could make another engine the quickest."""
    facts = {
        "candidates": [[one.text, one.graph.precision, bundle.sha256_of(one.graph.member)] for one in candidates],
        "tolerances": [one.graph.tolerance for one in candidates],
        "versions": {one.engine: library_version(one.engine) for one in candidates},
        "cpu": cpu_name(),
        "cores": sorted(os.sched_getaffinity(0)),
        "gpu": _gpu_name(),
        "settings": asdict(settings),
    }
    return f"choice-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}"


def library_version(engine: EngineName) -> str:
    """Version of an engine's library without importing it; ``unknown`` where its package does not tell."""
    try:
        return installed_version(FLAVOURS[engine]) if engine in FLAVOURS else version(engine)
    except PackageNotFoundError:
        return "unknown"


def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpu_name() -> str | None:
    try:
        gpu = probe_gpu()
    except EngineError:
        return None
    return f"{gpu.name} {gpu.architecture} {gpu.cuda_version}"
