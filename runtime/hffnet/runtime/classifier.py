"""One frame's journey without a folder to watch: read, gates, preprocess, infer, decode, each stage timed.

The streaming pipeline runs the very same steps; what it adds is sources, records and sinks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from hffnet.runtime.bundle import Bundle, open_bundle
from hffnet.runtime.decode import Decision, decode
from hffnet.runtime.engines import EngineIdentity, OpenEngine, Outputs, open_engine
from hffnet.runtime.engines.tensorrt import GpuSettings
from hffnet.runtime.field_of_view import Area, FieldOfView, TileSettings
from hffnet.runtime.frame import Acquisition, Crop, Frame
from hffnet.runtime.gates import DEFAULT_SETTINGS, FrameFingerprint, GateResult, GateSettings, check_gates, resampling
from hffnet.runtime.gpu_preprocess import preprocess_beside
from hffnet.runtime.manifest import Precision
from hffnet.runtime.novelty import novelty_gate
from hffnet.runtime.read import read_frame
from hffnet.runtime.resample import Widened, outputs_inside, widened
from hffnet.runtime.taxonomy import ClassPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is known of one frame after its journey.

    Attributes:
        name: path or source name.
        sha256: of the input.
        crop: the part that was looked at.
        acquisition: metadata as found.
        gates: every gate's result; where one stops the frame, nothing was classified.
        decision: None where nothing was classified.
        logits: (ΣC,) float32; None where nothing was classified.
        evidence: (ΣC, h, w) float32, whose mean over positions is the logits; None where nothing was classified.
        engine: which engine answered.
        timings_ms: milliseconds by stage.
        area: of a frame that was cut into tiles, what share of it shows what; ``decision``, ``logits`` and
            ``evidence`` then are of the whole field of view.
    """

    name: str
    sha256: str
    crop: Crop
    acquisition: Acquisition
    gates: tuple[GateResult, ...]
    decision: Decision | None
    logits: npt.NDArray[np.float32] | None
    evidence: npt.NDArray[np.float32] | None
    engine: EngineIdentity
    timings_ms: dict[str, float]
    area: Area | None = None

    @property
    def path(self) -> ClassPath:
        """The most probable complete class path; ``()`` where a gate refused the frame."""
        return self.decision.path if self.decision else ()

    @property
    def not_classified(self) -> str | None:
        """Why nothing was classified, as a sentence; None where something was."""
        failed = [gate.reason for gate in self.gates if gate.stops]
        return "; ".join(failed) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedFrame(Frame):
    """A frame of which everything is known but the engine's answer; another thread may make it while that works.

    Attributes:
        gates: answers of the gates that look at the frame.
        tile_px: side of the tiles it is to be cut into; None where it is looked at as a whole.
        input_hw: the network's input; None where a gate stopped the frame, or where it is cut.
        seen: which part of the input is picture, where it was brought to another scale.
    """

    gates: tuple[GateResult, ...]
    tile_px: int | None = None
    input_hw: npt.NDArray[np.uint8] | None = None
    seen: Widened | None = None


_TILES_AT_ONCE = 8
_Values = npt.NDArray[np.float32]
_FieldAnswer = tuple[Decision | None, Area | None, _Values | None, _Values | None, GateResult]


class GivenUpError(Exception):
    """A frame was given up between two batches of its tiles, because whoever asked for it is ending."""


class Timings(dict[str, float]):
    """Milliseconds by stage, monotonic clock; a stage that comes again adds up."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        start = perf_counter_ns()
        yield
        self[name] = self.get(name, 0.0) + (perf_counter_ns() - start) / 1e6


class Classifier:
    """A bundle on an engine that proved itself on this machine; several threads may share it, the engine takes turns.

    Example:
        ::

            with Classifier.open("model.hffnet") as classifier:
                print(classifier.classify("frame.tif").path)
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: OpenEngine,
        gates: GateSettings = DEFAULT_SETTINGS,
        tiles: TileSettings | None = None,
    ) -> None:
        self.bundle = bundle
        self._engine = engine
        self._gates = gates
        self._tiles = tiles
        self._preprocess = preprocess_beside(engine.identity.name, bundle.manifest.preprocess)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        engine: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        threads: int | None = None,
        pin: bool | None = None,
        gpu: GpuSettings | None = None,
        gates: GateSettings = DEFAULT_SETTINGS,
        tiles: TileSettings | None = None,
    ) -> Self:
        """Open a bundle and an engine for it; ``engine``, ``threads``, ``pin`` and ``gpu`` as `open_engine` takes them.

        Raises:
            BundleError: the file is not a sound bundle, or lacks the precision.
            EngineError: no engine passed its self-test; MissingExtraError: the one asked for is not installed.
        """
        bundle = open_bundle(Path(path))
        opened = open_engine(bundle, engine=engine, precision=precision, threads=threads, pin=pin, gpu=gpu)
        return cls(bundle, opened, gates, tiles)

    @property
    def engine(self) -> EngineIdentity:
        """Which engine answers."""
        return self._engine.identity

    @property
    def tiles(self) -> TileSettings | None:
        """How large frames are cut; None where they are not."""
        return self._tiles

    def classify(self, source: str | Path) -> Prediction:
        """Classify one image file.

        Raises:
            FrameError: the file cannot be read as a frame.
            EngineError: the engine failed.
        """
        timings = Timings()
        with timings.stage("read"):
            frame = read_frame(Path(source))
        return self.classify_frame(frame, timings)

    def classify_frame(
        self, frame: Frame, timings: Timings | None = None, *, pulse: Callable[[], None] | None = None
    ) -> Prediction:
        """Classify one frame that was read already, or prepared too.

        Args:
            frame: see ``hffnet.runtime.read``, or `prepared`.
            timings: stages are added to it.
            pulse: called between two batches of a frame that is cut into tiles, which may take minutes; whatever it
                raises gives the frame up (`GivenUpError`).
        """
        timings = Timings() if timings is None else timings
        manifest = self.bundle.manifest
        ready = frame if isinstance(frame, PreparedFrame) else self.prepared(frame, timings)
        gates = ready.gates
        decision, logits, evidence, area = None, None, None, None
        if ready.tile_px is not None:
            decision, area, logits, evidence, gate = self._classify_field(frame, ready.tile_px, timings, pulse)
            gates += (gate,)
        elif ready.input_hw is not None:
            outputs = self._infer(ready.input_hw[None], timings)
            with timings.stage("decode"):
                outputs = outputs_inside(outputs, ready.seen) if ready.seen else outputs
                gates += self._novelty(outputs.logits)
                if not any(gate.stops for gate in gates):
                    (decision,) = decode(outputs.logits, manifest.taxonomy, manifest.decode)
                    logits, evidence = outputs.logits[0], outputs.evidence[0]
        return Prediction(
            name=frame.name,
            sha256=frame.sha256,
            crop=frame.crop,
            acquisition=frame.acquisition,
            gates=gates,
            decision=decision,
            logits=logits,
            evidence=evidence,
            engine=self.engine,
            timings_ms=dict(timings),
            area=area,
        )

    def prepared(
        self, frame: Frame, timings: Timings | None = None, *, previous: FrameFingerprint | None = None
    ) -> PreparedFrame:
        """Do everything that needs no engine; ``classify_frame`` takes it from there. Any thread may call this.

        Args:
            frame: see ``hffnet.runtime.read``.
            timings: stages are added to it.
            previous: fingerprint of a live source's last frame, which this one must not repeat.

        Raises:
            FrameError: it would be cut into tiles too small or too many.
        """
        timings = Timings() if timings is None else timings
        manifest = self.bundle.manifest
        with timings.stage("gates"):
            gates = check_gates(frame, previous, self._gates, trained_um=manifest.pixel_size_um)
        tile_px, input_hw, seen = None, None, None
        if not any(gate.stops for gate in gates):
            scale = resampling(frame.acquisition.pixel_size_um, manifest.pixel_size_um, self._gates)
            tile_px = self._tiles.side_of(frame) if self._tiles else None
            if tile_px is None and scale is not None and scale > 1:
                tile_px = max(round(min(frame.picture.shape) / scale), 1)
            if tile_px is None:
                with timings.stage("preprocess"):
                    seen = widened(frame.picture, scale) if scale is not None else None
                    input_hw = self._preprocess(seen.picture if seen else frame.picture)
        return PreparedFrame(
            pixels=frame.pixels,
            crop=frame.crop,
            name=frame.name,
            sha256=frame.sha256,
            acquisition=frame.acquisition,
            gates=gates,
            tile_px=tile_px,
            input_hw=input_hw,
            seen=seen,
        )

    def _classify_field(
        self, frame: Frame, side: int, timings: Timings, pulse: Callable[[], None] | None
    ) -> _FieldAnswer:
        """Tiles in batches; those that are blank or unlike what the model knows leave their place open."""
        manifest = self.bundle.manifest
        field = FieldOfView(frame, side, self._tiles or TileSettings(side_px=max(side, 32)), manifest.taxonomy)
        pictures = field.pictures(self._gates.min_contrast)
        while batch := list(islice(pictures, _TILES_AT_ONCE)):
            if pulse is not None:
                pulse()
            with timings.stage("preprocess"):
                input_NHW = np.stack([self._preprocess(tile) for _, tile in batch])
            outputs = self._infer(input_NHW, timings)
            with timings.stage("decode"):
                known = [
                    n
                    for n in range(len(batch))
                    if not any(gate.stops for gate in self._novelty(outputs.logits[n : n + 1]))
                ]
                kept = Outputs(logits=outputs.logits[known], evidence=outputs.evidence[known])
                field.add([batch[n][0] for n in known], kept, manifest.decode)
        answer = field.result(manifest.decode)
        decision, area, logits, evidence = answer or (None, None, None, None)
        share = area.num_classified / area.num_tiles if area else 0.0
        gate = GateResult(
            "field_of_view",
            area is not None,
            share,
            0.0,
            f"none of {len(field.tiles)} tiles of {side} pixels is fit to be classified: they are blank or unlike what"
            " the model was trained on.",
        )
        return decision, area, logits, evidence, gate

    def _infer(self, input_NHW: npt.NDArray[np.uint8], timings: Timings) -> Outputs:
        """The engine's answer; copies to and from its device are a stage of their own, so that stages add up."""
        before_ms = timings.get("infer", 0.0)
        with timings.stage("infer"):
            outputs = self._engine.infer(input_NHW)
        if outputs.copy_ms is not None:
            # Frames in flight at once copy while others are worked on: no more than the whole is counted.
            copy_ms = min(outputs.copy_ms, timings["infer"] - before_ms)
            timings["infer"] -= copy_ms
            timings["copy"] = timings.get("copy", 0.0) + copy_ms
        return outputs

    def _novelty(self, logits_NC: npt.NDArray[np.float32]) -> tuple[GateResult, ...]:
        novelty, policy = self.bundle.manifest.novelty, self._gates.out_of_distribution
        if novelty is None or policy == "ignore":
            return ()
        return (novelty_gate(logits_NC, self.bundle.manifest.taxonomy, novelty, policy),)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
