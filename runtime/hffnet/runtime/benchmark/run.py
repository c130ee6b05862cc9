"""One benchmark from bundle to report."""

import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt

from hffnet.runtime.benchmark.accuracy import (
    accuracy_from_answers,
    answers_of,
    read_labelled,
)
from hffnet.runtime.benchmark.clock import SystemClock, tick_of_clock
from hffnet.runtime.benchmark.conditions import ConditionsWatch
from hffnet.runtime.benchmark.energy import open_energy_meter
from hffnet.runtime.benchmark.footprint import footprint
from hffnet.runtime.benchmark.gpu import open_nvml
from hffnet.runtime.benchmark.interleave import Measured, Turns, measure_interleaved
from hffnet.runtime.benchmark.loadgen import LOADGEN_SCENARIOS, require_loadgen
from hffnet.runtime.benchmark.loadgen_lane import LoadGenLane, LoadGenRun, loadgen_beside
from hffnet.runtime.benchmark.machine import machine_facts
from hffnet.runtime.benchmark.matrix import (
    EngineKey,
    InferWork,
    JourneyWork,
    RowKey,
    engine_keys,
    open_engines,
    row_keys,
)
from hffnet.runtime.benchmark.profiles import gmacs_of_graph, layers_of_engine
from hffnet.runtime.benchmark.report import Accuracy, Conditions, Footprint, Layer, LoadGen, Report, Roofline, Row
from hffnet.runtime.benchmark.roofline import memory_bandwidth, peak_gmac_s, roofline, weight_bytes
from hffnet.runtime.benchmark.row import row_from_measured
from hffnet.runtime.benchmark.scenarios import ScenarioName, ScenarioSettings, Stream
from hffnet.runtime.benchmark.validity import reasons_against
from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.classifier import Classifier
from hffnet.runtime.dataset import IMAGE_SUFFIXES
from hffnet.runtime.engines import EngineName
from hffnet.runtime.errors import ConfigError, EngineError, HffnetError
from hffnet.runtime.gates import check_gates
from hffnet.runtime.manifest import Graph, Precision
from hffnet.runtime.preprocess import preprocess
from hffnet.runtime.read import read_frame
from hffnet.runtime.records import RecordStore

_log = logging.getLogger(__name__)
_LANE = None  # the key of LoadGen's lane beside those of rows
OnStep = Callable[[str, float], None]
"""Told what is being done and the share of it that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        scenarios: empty is ``single-stream``, and ``end-to-end`` where there are frames.
        engines: every one that hffnet knows if None; precisions: every one of the bundle if None.
        threads: of the engines; None in it is the engine's own choice.
        frames: folder of image files; without it the engines are timed on the bundle's test vectors.
        data: labelled frames, for accuracy.
        seconds: measuring time of each row.
        block_s: of one row's turn.
        with_footprint: memory and opening time, each in a process of its own.
        with_bounds: measure what limits each engine (roofline).
        with_layers: the engines' own profiles.
        loadgen: folder for the logs of MLPerf LoadGen, through which rows are measured too.
    """

    scenarios: tuple[ScenarioName, ...] = ()
    engines: tuple[EngineName, ...] | None = None
    precisions: tuple[Precision, ...] | None = None
    batches: tuple[int, ...] = (1,)
    threads: tuple[int | None, ...] = (None,)
    frames: Path | None = None
    data: Path | None = None
    seconds: float = 5.0
    block_s: float = 0.25
    scenario_settings: ScenarioSettings = field(default_factory=ScenarioSettings)
    with_footprint: bool = False
    with_bounds: bool = False
    with_layers: bool = False
    loadgen: Path | None = None


def benchmark_bundle(
    path: Path, options: BenchmarkOptions, *, stop: Event, on_step: OnStep = lambda _what, _share: None
) -> Report:
    """Measure a bundle.

    Args:
        path: the bundle.
        options: what to measure.
        stop: ends the run early; the report holds what was measured and says that it is partial.
        on_step: for a progress line.

    Raises:
        ConfigError: ``frames`` holds no frame that can be classified. DatasetError: ``data`` is not labelled frames.
        BundleError: the bundle is not sound. EngineError: no row could be measured.
    """
    bundle = open_bundle(path)
    with ExitStack() as stack:
        run = _Run(bundle, options, stack, stop, on_step)
        run.check_accuracy()
        run.measure_footprints()
        # Bounds twice: what a neighbour on the same host takes away for some seconds is then not taken for the limit.
        _if_possible(run.measure_bounds)
        run.measure_rows()
        _if_possible(run.measure_bounds)
        _if_possible(run.profile_layers)
        return run.report()


def _if_possible(step: Callable[[], None]) -> None:
    try:
        step()
    except HffnetError as error:
        _log.warning("the report lacks a part: %s", error)


class _Run:
    """The steps of one benchmark and what they found; each step looks at ``stop`` first."""

    def __init__(
        self, bundle: Bundle, options: BenchmarkOptions, stack: ExitStack, stop: Event, on_step: OnStep
    ) -> None:
        self._bundle, self._options, self._stack, self._stop, self._on_step = bundle, options, stack, stop, on_step
        if options.loadgen:
            require_loadgen()
        self._started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._machine = machine_facts()
        self._labelled = read_labelled(options.data, bundle) if options.data else None
        self._files, self._inputs_NHW, self._frames_name = _frames(bundle, options.frames)
        self._scenarios = options.scenarios or (("single-stream", "end-to-end") if self._files else ("single-stream",))
        if "end-to-end" in self._scenarios and not self._files:
            raise ConfigError("end-to-end times image files: name a folder of them with --frames")
        keys = engine_keys(bundle, options.engines, options.precisions, options.threads)
        on_step("opening engines", 0.0)
        self._opened, self._absent = open_engines(bundle, keys, stack)
        if not self._opened:
            reasons = "; ".join(sorted({f"{key.engine}: {a.reason}" for key, a in self._absent.items()}))
            raise EngineError(f"no engine could be measured: {reasons}")
        self._row_keys = row_keys(keys, self._scenarios, options.batches)
        self._accuracy = dict[EngineKey, Accuracy]()
        self._footprints = dict[tuple[EngineKey, int], Footprint]()
        self._measured = dict[RowKey, Measured]()
        self._conditions: Conditions | None = None
        self._bandwidth_gb_s = dict[int, float]()
        self._peaks = dict[EngineKey, float]()
        self._gmacs: float | None = None
        self._layers = dict[tuple[EngineKey, int], tuple[Layer, ...]]()
        self._loadgen = dict[RowKey, LoadGen]()
        self._tick_s = tick_of_clock()
        self._nvml, self._machine["gpu"] = open_nvml()
        meter, self._machine["energy"] = open_energy_meter(nvml=self._nvml)
        self._meter: Callable[[], float | None] = meter or (lambda: None)

    def check_accuracy(self) -> None:
        """Accuracy of each engine that was opened; flips against the fp32 row that stands first."""
        if self._labelled is None:
            return
        answers = {}
        for key, engine in self._opened.items():
            if not self._stop.is_set():
                self._on_step(f"accuracy of {key.engine} {key.precision}", 0.0)
                answers[key] = answers_of(engine, self._bundle, self._labelled.inputs, self._options.batches[0])
        # ONNX Runtime computes fp32 as fp32; OpenVINO may use bfloat16 for it.
        by_trust = sorted(answers, key=lambda key: (key.precision != "fp32", key.engine != "onnxruntime"))
        reference = answers[by_trust[0]] if by_trust and by_trust[0].precision == "fp32" else None
        self._accuracy = {
            key: accuracy_from_answers(found, self._labelled, self._bundle, reference) for key, found in answers.items()
        }

    def measure_footprints(self) -> None:
        """Memory and opening time of each engine and batch."""
        pairs = dict.fromkeys((k.opened, k.batch) for k in self._row_keys if k.opened in self._opened)
        for key, batch in pairs if self._options.with_footprint else ():
            if self._stop.is_set():
                return
            self._on_step(f"memory of {key.engine} {key.precision} batch {batch}", 0.0)
            try:
                self._footprints[key, batch] = footprint(
                    self._bundle.path, key.engine, key.precision, batch=batch, threads=key.threads
                )
            except EngineError as error:
                _log.warning("no memory figures: %s", error)

    def measure_rows(self) -> None:
        """The interleaved run, with the machine watched."""
        clock = SystemClock(self._stop)
        streams: dict[RowKey | None, Turns] = {
            key: Stream(
                self._work(key),
                key.scenario,
                settings=self._options.scenario_settings,
                batch=key.batch,
                clock=clock,
            )
            for key in self._row_keys
            if key.opened in self._opened
        }
        lane = self._stack.enter_context(self._loadgen_lane(clock))
        began_s = clock.now()
        with ConditionsWatch(clock.now, began_s, nvml=self._nvml) as watch:
            measured = measure_interleaved(
                {**streams, _LANE: lane} if self._options.loadgen else streams,
                seconds=self._options.seconds,
                block_s=self._options.block_s,
                began_s=began_s,
                stop=self._stop,
                energy_j=self._meter,
                on_block=lambda share: self._on_step(f"measuring {len(streams)} rows in turns", share),
            )
        self._conditions = watch.conditions()
        self._measured = {key: found for key, found in measured.items() if key is not _LANE}
        self._loadgen = {key: loadgen_beside(found, self._measured[key], began_s) for key, found in lane.found.items()}

    def _loadgen_lane(self, clock: SystemClock) -> LoadGenLane[RowKey]:
        folder, settings, runs = self._options.loadgen, self._options.scenario_settings, dict[RowKey, LoadGenRun]()
        for number, key in enumerate(self._row_keys if folder else ()):
            if folder is None or key.scenario not in LOADGEN_SCENARIOS or key.opened not in self._opened:
                continue
            name = f"{number:02d}-{key.scenario}-{key.opened.engine}-{key.opened.precision}-b{key.batch}"
            runs[key] = LoadGenRun(
                work=self._work(key),
                scenario=key.scenario,
                batch=key.batch,
                num_frames=settings.frames_per_query(key.scenario, key.batch),
                folder=folder / name,
            )
        return LoadGenLane(runs, settings=settings, seconds=self._options.seconds, clock=clock, stop=self._stop)

    def _work(self, key: RowKey) -> InferWork | JourneyWork:
        engine = self._opened[key.opened]
        if key.scenario != "end-to-end":
            return InferWork(engine, self._inputs_NHW, key.batch)
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hffnet-benchmark-"))
        store = self._stack.enter_context(RecordStore.open(Path(folder) / "records.sqlite"))
        return JourneyWork(Classifier(self._bundle, engine), self._files, store)

    def measure_bounds(self) -> None:
        """Memory bandwidth and arithmetic peak of each engine, the best of all calls; operations of the network."""
        if not self._options.with_bounds or self._stop.is_set():
            return
        graphs = [graph for graph in self._bundle.manifest.graphs if graph.family == "cpu"]
        if not graphs:
            _log.warning("operations are not counted: the bundle has no graph for CPU engines")
            return
        self._on_step("measuring memory and arithmetic", 0.0)
        self._gmacs = self._gmacs or gmacs_of_graph(self._bundle.member(graphs[0].member), self._inputs_NHW[:1])
        for num in {key.threads or int(self._machine["usable_cpus"]) for key in self._opened}:
            self._bandwidth_gb_s[num] = max(memory_bandwidth(num), self._bandwidth_gb_s.get(num, 0.0))
        for key in self._opened:
            if not self._stop.is_set() and (peak := peak_gmac_s(key.engine, key.precision, key.threads)):
                self._peaks[key] = max(peak, self._peaks.get(key, 0.0))

    def profile_layers(self) -> None:
        """The engines' own profiles."""
        for key in self._row_keys if self._options.with_layers else ():
            place = (key.opened, key.batch)
            if key.opened in self._opened and place not in self._layers and not self._stop.is_set():
                self._on_step(f"profiling {key.opened.engine} {key.opened.precision}", 0.0)
                frames_NHW = np.resize(self._inputs_NHW, (key.batch, *self._inputs_NHW.shape[1:]))
                graph = self._bundle.member(self._graph(key.opened).member)
                self._layers[place] = layers_of_engine(key.opened.engine, graph, frames_NHW, key.opened.threads)

    def report(self) -> Report:
        """What was found."""
        rows = tuple(self._row(key) for key in self._row_keys)
        steady = {
            row.label: self._measured[key]
            for key, row in zip(self._row_keys, rows, strict=True)
            if key in self._measured and not row.is_overloaded and key.scenario != "cold"
        }
        reasons = reasons_against(self._conditions, steady, self._tick_s)
        settings = self._options.scenario_settings
        return Report(
            bundle=str(self._bundle.path),
            bundle_sha256=self._bundle.sha256,
            model=f"{self._bundle.manifest.name} ({self._bundle.manifest.network.recipe})",
            frames=self._frames_name,
            data=self._labelled.name if self._labelled else None,
            started_utc=self._started_utc,
            seconds_per_row=self._options.seconds,
            settings={
                "block_s": self._options.block_s,
                "multi_stream_frames": float(settings.multi_stream_frames),
                "offline_frames": float(settings.offline_frames),
                "period_s": settings.period_s,
                "idle_s": settings.idle_s,
            },
            machine=self._machine,
            clock_tick_us=self._tick_s * 1e6,
            conditions=self._conditions,
            is_valid=not reasons,
            invalid_because=reasons,
            partial="the run was interrupted before every row had its time" if self._stop.is_set() else None,
            rows=rows,
        )

    def _row(self, key: RowKey) -> Row:
        engine, absence = self._opened.get(key.opened), self._absent.get(key.opened)
        row = row_from_measured(key, engine, absence, self._measured.get(key), self._options.scenario_settings)
        if engine is None:
            return row
        graph = self._graph(key.opened)
        size = next(member.size for member in self._bundle.manifest.members if member.name == graph.member)
        return row.model_copy(
            update={
                "graph_mb": size / 1e6,
                "accuracy": self._accuracy.get(key.opened),
                "footprint": self._footprints.get((key.opened, key.batch)),
                "roofline": self._roofline(key, row, graph),
                "layers": self._layers.get((key.opened, key.batch), ()),
                "loadgen": self._loadgen.get(key),
            }
        )

    def _graph(self, key: EngineKey) -> Graph:
        sha256 = self._opened[key].identity.graph_sha256
        return next(g for g in self._bundle.manifest.graphs if self._bundle.sha256_of(g.member) == sha256)

    def _roofline(self, key: RowKey, row: Row, graph: Graph) -> Roofline | None:
        """Of one batch, in the scenario that times just that."""
        peak = self._peaks.get(key.opened)
        if peak is None or not self._gmacs or key.scenario != "single-stream":
            return None
        return roofline(
            weights_mb=weight_bytes(self._bundle.facts[graph.member]) / 1e6,
            bandwidth_gb_s=self._bandwidth_gb_s[key.opened.threads or int(self._machine["usable_cpus"])],
            gmacs=self._gmacs * key.batch,
            peak=peak,
            median_ms=row.latency.p50_ms if row.latency else None,
        )


def _frames(bundle: Bundle, folder: Path | None) -> tuple[list[Path], npt.NDArray[np.uint8], str]:
    """Files that can be classified, what the engine gets of them, and their name; test vectors without a folder."""
    if folder is None:
        return [], bundle.vectors()[0], "the bundle's test vectors"
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    files, inputs = list[Path](), list[npt.NDArray[np.uint8]]()
    for path in found:
        try:
            frame = read_frame(path)
        except HffnetError as error:
            _log.warning("not timed: %s", error)
            continue
        if all(gate.passed for gate in check_gates(frame)):
            files.append(path)
            inputs.append(preprocess(frame.picture, bundle.manifest.preprocess))
        else:
            _log.warning("%s is not timed: a gate refuses it", path)
    if not files:
        raise ConfigError(
            f"--frames {folder} holds {len(found)} image files, none of which can be classified;"
            " name a folder of frames as the microscope writes them"
        )
    return files, np.stack(inputs), f"{len(files)} files of {folder}"
