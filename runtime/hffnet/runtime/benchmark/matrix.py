"""Which rows a benchmark has, and the engines behind them, each opened once."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import get_args

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.scenarios import ScenarioName
from hffnet.runtime.bundle import Bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.engines import EngineName, OpenEngine, open_engine
from hffnet.runtime.errors import BundleError, EngineError, MissingExtraError
from hffnet.runtime.manifest import Precision
from hffnet.runtime.records import RecordStore
from hffnet.runtime.result import draft_from_prediction

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class EngineKey:
    """What is opened once and may serve several rows."""

    engine: EngineName
    precision: Precision
    threads: int | None


@dataclass(frozen=True, slots=True, order=True)
class RowKey:
    """One row."""

    scenario: ScenarioName
    opened: EngineKey
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """Why an engine is not measured.

    Attributes:
        status: ``refused`` where it is there and failed, ``skipped`` where it is not for this bundle or machine.
    """

    status: str
    reason: str


def engine_keys(
    bundle: Bundle,
    engines: Sequence[EngineName] | None,
    precisions: Sequence[Precision] | None,
    threads: Sequence[int | None],
) -> tuple[EngineKey, ...]:
    """Every engine x precision x threads that was asked for; None is every one that hffnet and the bundle know."""
    held = sorted({graph.precision for graph in bundle.manifest.graphs})
    return tuple(
        EngineKey(engine, precision, num)
        for precision in precisions or held
        for engine in engines or get_args(EngineName)
        for num in threads
    )


def row_keys(
    opened: Iterable[EngineKey], scenarios: Sequence[ScenarioName], batches: Sequence[int]
) -> tuple[RowKey, ...]:
    """Rows by scenario. ``end-to-end`` takes frames one by one, as they come from the microscope."""
    keys = list(opened)
    return tuple(
        RowKey(scenario, key, batch)
        for scenario in scenarios
        for key in keys
        for batch in ((1,) if scenario == "end-to-end" else batches)
    )


def open_engines(
    bundle: Bundle, keys: Iterable[EngineKey], stack: ExitStack
) -> tuple[dict[EngineKey, OpenEngine], dict[EngineKey, Absence]]:
    """Open each; one that cannot be opened is said so and the others go on. ``stack`` closes them."""
    opened, absent = dict[EngineKey, OpenEngine](), dict[EngineKey, Absence]()
    for key in keys:
        try:
            engine = open_engine(bundle, engine=key.engine, precision=key.precision, threads=key.threads)
        except (MissingExtraError, BundleError) as error:
            absent[key] = Absence(status="skipped", reason=str(error))
        except EngineError as error:
            absent[key] = Absence(status="refused", reason=str(error))
        else:
            opened[key] = stack.enter_context(engine)
    return opened, absent


class InferWork:
    """Frames that are preprocessed already, through the engine alone, ``batch`` at a time."""

    def __init__(self, engine: OpenEngine, frames_NHW: npt.NDArray[np.uint8], batch: int) -> None:
        self._engine, self._batch = engine, batch
        # Twice over, so that any run of frames lies in one piece and nothing is copied while time is taken.
        self._frames_NHW = np.resize(frames_NHW, (len(frames_NHW) + batch, *frames_NHW.shape[1:]))
        self._num = len(frames_NHW)

    def __call__(self, turn: int, num_frames: int) -> Mapping[str, float]:
        """See ``Work``."""
        first = turn * num_frames
        for done in range(0, num_frames, self._batch):
            at = (first + done) % self._num
            self._engine.infer(self._frames_NHW[at : at + min(self._batch, num_frames - done)])
        return {}


class JourneyWork:
    """Files through every stage to a committed record, one after the other.

    The live pipeline runs the same steps in threads that overlap; here nothing overlaps, so that stages add up.
    """

    def __init__(self, classifier: Classifier, files: Sequence[Path], store: RecordStore) -> None:
        self._classifier, self._files, self._store = classifier, files, store

    def __call__(self, turn: int, num_frames: int) -> Mapping[str, float]:
        """See ``Work``."""
        stages_ms = dict[str, float]()
        for k in range(num_frames):
            prediction = self._classifier.classify(self._files[(turn * num_frames + k) % len(self._files)])
            start = perf_counter_ns()
            draft = draft_from_prediction(
                prediction, self._classifier.bundle.manifest.taxonomy, bundle_sha256=self._classifier.bundle.sha256
            )
            self._store.append(draft)
            record_ms = (perf_counter_ns() - start) / 1e6
            for stage, ms in {**prediction.timings_ms, "record": record_ms}.items():
                stages_ms[stage] = stages_ms.get(stage, 0.0) + ms
        return stages_ms


WorkOf = Callable[[RowKey], InferWork | JourneyWork]
