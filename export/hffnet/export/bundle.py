"""From a checkpoint to a bundle: fold, prove, export, calibrate, quantize, measure, gate, write.

Nothing is written unless every step before it held: each form is proven equal to the one before on real frames, and
fp16 and int8 are kept only where, or as far as, their loss of HF1 on held-out frames is within the budget.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from hffnet.calibration.contributions import rows_of_methods
from hffnet.calibration.fidelity import HeldOut, Scored, check_reference, logits_from_onnx, scored
from hffnet.calibration.frames import (
    CalibrationFrames,
    check_magnification,
    choose_frames,
    frames_sha256,
    imaging_from_file,
    load_frames,
)
from hffnet.calibration.gate import Budget, GateReport, Passed, RefusedError, placement_within_budget
from hffnet.calibration.half import peaks_from_frames
from hffnet.calibration.half_gate import HalfReport, half_within_budget
from hffnet.calibration.html_report import Flip, html_from_calibration
from hffnet.calibration.int8 import Calibration, CalibrationOptions, calibration_from_frames
from hffnet.calibration.placement import Placement
from hffnet.calibration.progress import Watch, watch_through
from hffnet.calibration.report import CalibrationReport, FramesReport, MethodRow, tool_versions
from hffnet.calibration.sensitivity import Quantizer
from hffnet.export.bundle_writer import check_bundle_path, write_bundle
from hffnet.export.deploy_form import DeployForm, deploy_form
from hffnet.export.held_out import Roles, roles_from_checkpoint
from hffnet.export.model_card import card_from_manifest
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.export.parity import FP16_TOLERANCE, logits_of_deploy_form, parity_of_deploy_form, parity_of_onnx
from hffnet.export.trust import TRUST, card_section, trust_from_logits, with_target
from hffnet.runtime.bundle import CALIBRATION, MODEL_CARD, Bundle
from hffnet.runtime.dataset import Dataset
from hffnet.runtime.durable import whole_file, working_folder
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.manifest import Family, Graph, Manifest, Metrics, Network, Precision, Provenance
from hffnet.runtime.novelty import energies_from_logits, novelty_from_energies
from hffnet.train.checkpoint import Checkpoint, checkpoint_sha256, model_from_checkpoint

_NUM_PARITY_FRAMES = 8
_NUM_VECTORS = 16
_FOLDER = ".hffnet-export-"
_INT8_FLOOR = 0.05
_FP32_TOLERANCE = 1e-3  # other machines' float32 arithmetic; measured differences are below 1e-5
_log = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Called with a short sentence when a step begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What a person may choose.

    Attributes:
        name: of the model, for people and records; the checkpoint's folder name if None.
        int8: add an int8 graph for CPU engines, and with ``fp16`` one for TensorRT.
        fp16: add a half-precision graph for TensorRT.
        budget: what either may cost, in points of HF1 (0.5 = 0.005), and how much of the work each must cover.
        num_frames: calibration frames to use.
        calibration: how frames and ranges are chosen.
        report: HTML file to write about int8, beside the bundle, and also where its gate refuses; none where None.
        target_accuracy: share of frames whose answer is to be right as far as it goes; the bundle then holds back below
            the confidence that keeps it on the checkpoint's val frames. None keeps the checkpoint's threshold.
    """

    name: str | None = None
    int8: bool = False
    fp16: bool = False
    budget: Budget = field(default_factory=Budget)
    num_frames: int = 512
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    report: Path | None = None
    target_accuracy: float | None = None


def bundle_from_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    data: Dataset,
    options: ExportOptions,
    *,
    held_out: Dataset | None = None,
    say: Say = lambda _: None,
    watch: Watch | None = None,
) -> Bundle:
    """Export a checkpoint.

    Args:
        checkpoint: as opened.
        out: ``*.hffnet`` to write; an existing one is replaced only by a sound one.
        data: labelled frames; train frames calibrate, held-out ones measure (see ``roles_from_checkpoint``).
        options: see ``ExportOptions``.
        held_out: frames to measure on instead.
        say: told of each step, for people.
        watch: told of the steps that take frames one by one, and how far they are; ``say`` is told of them where None.

    Raises:
        ParityError: a form of the network differs from the one before.
        RefusedError: fp16 or int8 costs more than the budget with every part restored that may be; it carries what
            was measured, and the report's page is written.
        GateError: no threshold meets the target accuracy.
        ConfigError, DatasetError, FrameError, CheckpointError, GraphError: as the steps name them.
    """
    check_bundle_path(out)
    roles = roles_from_checkpoint(data, checkpoint, held_out)
    watch = watch or watch_through(say, math.inf)
    if options.target_accuracy is not None:
        say("choosing the confidence to hold back at")
        checkpoint = with_target(checkpoint, data, roles.held_out, options.target_accuracy)
    spec = checkpoint.config.preprocess
    # An export interrupted while calibrating goes on from this file; every other end removes it.
    keep = out.with_suffix(".calibration.part.npz")
    try:
        with working_folder(out.parent, _FOLDER) as folder:
            progress = watch("reading held-out frames", len(roles.held_out.frames))
            measured = load_frames(
                roles.held_out.frames, roles.held_out, spec, what="held-out", progress=progress, folder=folder
            )
            frames = None
            if options.int8 or options.fp16:
                frames = _calibration_frames(roles, measured, checkpoint, options, folder, watch)
            bundle = _Exporter(checkpoint, roles, measured, frames, options, folder, keep, say, watch).write(out)
    except HffnetError:
        keep.unlink(missing_ok=True)
        raise
    keep.unlink(missing_ok=True)
    return bundle


def _calibration_frames(
    roles: Roles,
    measured: CalibrationFrames,
    checkpoint: Checkpoint,
    options: ExportOptions,
    folder: Path,
    watch: Watch,
) -> CalibrationFrames:
    """Read before anything is computed: frames that are of no use are told at once."""
    chosen = choose_frames(
        roles.calibration, options.num_frames, seed=options.calibration.seed or 0, imaging=imaging_from_file
    )
    progress = watch(f"reading {len(chosen)} train frames", len(chosen))
    spec, trained_um = checkpoint.config.preprocess, checkpoint.config.pixel_size_um
    frames = load_frames(chosen, roles.calibration, spec, progress=progress, folder=folder)
    if trained_um is not None:
        check_magnification(frames.pixel_sizes_um, trained_um, "the network was trained at")
    else:
        check_magnification(frames.pixel_sizes_um, measured.pixel_sizes_um)
    return frames


@dataclass(frozen=True, slots=True)
class _Vectors:
    """The bundle's test vectors: frames (K, size, size) and the float network's logits (K, ΣC)."""

    frames: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]


class _Exporter:
    """The steps of one export and what they hand on; lives as long as its temporary folder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        roles: Roles,
        measured: CalibrationFrames,
        calibration_frames: CalibrationFrames | None,
        options: ExportOptions,
        folder: Path,
        keep: Path,
        say: Say,
        watch: Watch,
    ) -> None:
        self._checkpoint = checkpoint
        self._roles = roles
        self._frames_NHW = measured.pixels
        self._calibration_frames = calibration_frames
        self._held_out = HeldOut(
            frames=measured.pixels,
            truths=[frame.classes for frame in roles.held_out.frames],
            taxonomy=checkpoint.taxonomy,
            decode=checkpoint.config.decode,
        )
        self._reference: Scored
        self._page = ""
        self._half: HalfReport | None = None
        self._options = options
        self._folder = folder
        self._calibrated_so_far = keep
        self._say = say
        self._watch = watch
        self._members: dict[str, bytes | Path] = {}
        self._graphs: list[Graph] = []
        self._metrics: dict[Precision, Metrics] = {}
        self._logits: dict[Precision, npt.NDArray[np.float32]] = {}
        self._pixel_sizes_um: list[float] = []

    def write(self, out: Path) -> Bundle:
        form = self._folded()
        frames_NHW = self._frames_NHW[_spread(len(self._frames_NHW), _NUM_VECTORS)]
        vectors = _Vectors(frames_NHW, logits_of_deploy_form(form, frames_NHW))
        fp32 = self._fp32(form, vectors)
        num_parameters = sum(p.numel() for p in form.parameters())
        if self._calibration_frames is not None:
            self._measure_reductions(form, fp32, self._calibration_frames, vectors)
        manifest = self._manifest(num_parameters)
        trust = trust_from_logits(
            self._logits, self._roles.held_out, self._checkpoint.config.decode, self._options.target_accuracy
        )
        self._members[TRUST] = trust.model_dump_json(indent=1).encode()
        self._members[MODEL_CARD] = (card_from_manifest(manifest) + card_section(trust)).encode()
        self._say(f"writing {out}")
        bundle = write_bundle(out, manifest, self._members, vectors.frames, vectors.logits)
        if self._options.report and self._page:
            self._write_page(self._options.report)
        return bundle

    def _write_page(self, path: Path) -> None:
        with whole_file(path) as temporary:
            temporary.write_text(self._page, encoding="utf-8")

    def _folded(self) -> DeployForm:
        self._say("folding the network and proving it equal")
        model = model_from_checkpoint(self._checkpoint)
        form = deploy_form(model)
        report = parity_of_deploy_form(model, form, self._frames_NHW[:_NUM_PARITY_FRAMES])
        _log.info("%s: %.2e relative on %d frames", report.what, report.relative_error, report.num_frames)
        return form

    def _fp32(self, form: DeployForm, vectors: _Vectors) -> Path:
        self._say("exporting the fp32 graph")
        path = self._folder / "fp32-cpu.onnx"
        onnx_from_deploy_form(form, path, precision="fp32")
        parity_of_onnx(form, path, self._frames_NHW[:_NUM_PARITY_FRAMES])
        self._add_graph("fp32", "cpu", path, vectors, floor=_FP32_TOLERANCE)
        self._say("measuring fp32")
        self._reference = scored(path, self._held_out)
        check_reference(self._reference)
        self._keep("fp32", self._reference)
        return path

    def _measure_reductions(self, form: DeployForm, fp32: Path, frames: CalibrationFrames, vectors: _Vectors) -> None:
        """Everything that is not float32: each graph is kept only where its measured loss is within the budget."""
        options = self._options
        self._pixel_sizes_um = [size for size in frames.pixel_sizes_um if size is not None]
        half = self._fp16(form, fp32, frames, vectors) if options.fp16 else None
        del form
        document: FramesReport = FramesReport(
            frames=frames.origins, frames_sha256=frames_sha256(frames.origins), tools=tool_versions()
        )
        if options.int8:
            document = self._int8(fp32, half, frames, vectors)
        self._members[CALIBRATION] = document.model_copy(update={"fp16": self._half}).model_dump_json(indent=1).encode()

    def _fp16(self, form: DeployForm, fp32: Path, frames: CalibrationFrames, vectors: _Vectors) -> Path:
        progress = self._watch("looking for tensors that float16 cannot hold", len(frames.pixels))
        peaks = peaks_from_frames(fp32, frames.pixels, progress=progress)
        self._say("exporting the fp16 graph")
        path = self._folder / "fp16-tensorrt.onnx"
        onnx_from_deploy_form(form, path, precision="fp16")
        passed = half_within_budget(
            path, fp32, peaks, self._reference, self._held_out, self._options.budget, say=self._say
        )
        path.write_bytes(passed.model.SerializeToString())
        self._half = passed.report
        self._keep("fp16", passed.score)
        self._add_graph("fp16", "tensorrt", path, vectors, floor=FP16_TOLERANCE)
        return path

    def _int8(self, fp32: Path, half: Path | None, frames: CalibrationFrames, vectors: _Vectors) -> CalibrationReport:
        calibration = calibration_from_frames(
            fp32,
            frames.pixels,
            options=self._options.calibration,
            origins=frames.origins,
            activations="uint8",  # behind ReLU: the CPU engines' fused kernels; TensorRT takes int8 only
            watch=self._watch,
            keep=self._calibrated_so_far,
        )
        report = calibration.report()
        try:
            passed = self._gated("cpu", calibration.quantized, calibration.placement, vectors)
        except RefusedError as refused:
            self._show_refusal(calibration, report, "gate", refused)
            raise
        self._keep("int8", passed.score)
        methods = self._methods(calibration, passed)
        report = calibration.report(passed.placement).model_copy(update={"gate": passed.report, "methods": methods})
        flips_tensorrt: list[Flip] = []
        if half is not None:
            quantizer = partial(calibration.quantized, float_model=half, activations="int8")
            # A half-precision graph is slow on a CPU, and what int8 costs a group is nearly the same in float32.
            ranked_by = partial(calibration.quantized, activations="int8")
            try:
                other = self._gated("tensorrt", quantizer, passed.placement.for_tensorrt(), vectors, ranked_by)
            except RefusedError as refused:
                self._show_refusal(calibration, report, "gate_tensorrt", refused)
                raise
            ranges = calibration.ranges_for("int8", other.placement)
            report = report.model_copy(update={"gate_tensorrt": other.report, "ranges_tensorrt": ranges})
            flips_tensorrt = self._flips(other.report, other.score)
        if self._options.report:
            flips = self._flips(passed.report, passed.score)
            self._page = html_from_calibration(calibration, report, flips, flips_tensorrt)
        return report

    def _methods(self, calibration: Calibration, passed: Passed) -> tuple[MethodRow, ...]:
        """On a part of the held-out frames: each row is one more graph to run."""
        self._say("measuring what each method of calibration brought")
        chosen = _spread(len(self._frames_NHW), self._options.budget.num_ranking_frames)
        truths = [self._held_out.truths[k] for k in chosen]
        part = replace(self._held_out, frames=self._frames_NHW[chosen], truths=truths)
        return rows_of_methods(
            calibration,
            passed.placement,
            self._reference.logits[chosen],
            part,
            lambda model: scored(model, part).logits,
        )

    def _show_refusal(
        self, calibration: Calibration, report: CalibrationReport, gate: str, refused: RefusedError
    ) -> None:
        """The page about what there will be no graph of: curve and ranking are wanted most where the gate fails."""
        if self._options.report:
            report = report.model_copy(update={gate: refused.report})
            flips = self._flips(refused.report, refused.score)
            where = "flips" if gate == "gate" else "flips_tensorrt"
            self._page = html_from_calibration(calibration, report, **{where: flips})
            self._write_page(self._options.report)

    def _flips(self, gate: GateReport, score: Scored) -> list[Flip]:
        return [
            Flip(
                name=self._roles.held_out.relative(self._roles.held_out.frames[k]),
                pixels=self._held_out.frames[k],
                truth=self._held_out.truths[k],
                before=self._reference.paths[k],
                after=score.paths[k],
            )
            for k in gate.flips
        ]

    def _gated(
        self,
        family: Family,
        quantizer: Quantizer,
        placement: Placement,
        vectors: _Vectors,
        ranked_by: Quantizer | None = None,
    ) -> Passed:
        passed = placement_within_budget(
            quantizer,
            placement,
            self._reference,
            self._held_out,
            self._options.budget,
            ranked_by=ranked_by,
            say=lambda step: self._say(f"int8 for {family}: {step}"),
        )
        path = self._folder / f"int8-{family}.onnx"
        path.write_bytes(quantizer(passed.placement).SerializeToString())
        self._add_graph("int8", family, path, vectors, floor=_INT8_FLOOR)
        return passed

    def _keep(self, precision: Precision, score: Scored) -> None:
        self._metrics[precision], self._logits[precision] = score.metrics, score.logits

    def _add_graph(self, precision: Precision, family: Family, path: Path, vectors: _Vectors, *, floor: float) -> None:
        error = 0.0
        if precision != "fp32":
            logits_NC, _ = logits_from_onnx(path, vectors.frames)
            error = float(np.abs(logits_NC - vectors.logits).max() / np.abs(vectors.logits).max())
        # Other engines round elsewhere (OpenVINO keeps bfloat16 between int8 parts): three times what was measured.
        tolerance = max(floor, 3 * error)
        member = f"graphs/{path.name}"
        self._members[member] = path
        self._graphs.append(Graph(precision=precision, family=family, member=member, tolerance=tolerance))

    def _manifest(self, num_parameters: int) -> Manifest:
        config = self._checkpoint.config
        sizes = self._checkpoint.config.pixel_size_um or self._pixel_sizes_um
        return Manifest(
            name=self._options.name or self._checkpoint.folder.resolve().name,
            taxonomy=self._checkpoint.taxonomy,
            preprocess=config.preprocess,
            decode=config.decode,
            network=Network(
                name=config.model.name,
                recipe=config.recipe.name,
                num_parameters=num_parameters,
                evidence_shape=(config.model.grid, config.model.grid),
            ),
            graphs=tuple(self._graphs),
            metrics=self._metrics,
            pixel_size_um=(min(sizes), max(sizes)) if sizes else None,
            # Of the fp32 graph; what other precisions add to an energy is far below the spread between frames.
            novelty=novelty_from_energies(energies_from_logits(self._reference.logits, self._checkpoint.taxonomy)),
            provenance=Provenance(
                created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                checkpoint_sha256=checkpoint_sha256(self._checkpoint.folder),
                data_sha256=config.data_sha256,
                num_train_frames=sum(frame.split == "train" for frame in config.frames),
                evaluated_on=f"{self._roles.evaluated_on}, in ONNX Runtime {ort.__version__}",
                tools={name: version(name) for name in ("hffnet", "torch", "onnx", "onnxruntime", "numpy")},
            ),
            members=(),
        )


def _spread(num: int, wanted: int) -> npt.NDArray[np.intp]:
    """``wanted`` indices spread evenly over ``num``: frames come ordered by class, so each class gets its share."""
    return np.unique(np.linspace(0, num - 1, min(num, wanted)).round().astype(np.intp))
