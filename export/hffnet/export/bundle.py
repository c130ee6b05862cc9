"""From a checkpoint to a bundle: fold, prove, export, calibrate, quantize, measure, gate, write.

Nothing is written unless every step before it held: each form is proven equal to the one before on real frames, and
int8 is kept only where its loss of HF1 on held-out frames is within the budget.
"""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from hffnet.calibration.frames import CalibrationFrames, choose_frames, load_frames
from hffnet.calibration.int8 import CalibrationOptions, int8_from_onnx
from hffnet.calibration.report import CalibrationReport
from hffnet.export.bundle_writer import check_bundle_path, write_bundle
from hffnet.export.deploy_form import DeployForm, deploy_form
from hffnet.export.held_out import Roles, roles_from_checkpoint
from hffnet.export.model_card import card_from_manifest
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.export.parity import logits_of_deploy_form, parity_of_deploy_form, parity_of_onnx
from hffnet.runtime.bundle import CALIBRATION, MODEL_CARD, Bundle
from hffnet.runtime.dataset import Dataset
from hffnet.runtime.decode import decode
from hffnet.runtime.errors import GateError
from hffnet.runtime.manifest import Graph, Manifest, Metrics, Network, Precision, Provenance
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.runtime.novelty import energies_from_logits, novelty_from_energies
from hffnet.train.checkpoint import Checkpoint, checkpoint_sha256, model_from_checkpoint

_NUM_PARITY_FRAMES = 8
_NUM_VECTORS = 16
_INT8_FLOOR = 0.05
_FP32_TOLERANCE = 1e-3  # other machines' float32 arithmetic; measured differences are below 1e-5
_log = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Called with a short sentence when a step begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What a person may choose.

    Attributes:
        int8: add an int8 graph for CPU engines.
        max_drop: largest loss of HF1 that int8 may cost, in points (0.5 = 0.005).
        num_frames: calibration frames to use.
        calibration: how frames and ranges are chosen.
    """

    int8: bool = False
    max_drop: float = 0.5
    num_frames: int = 512
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)


def bundle_from_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    data: Dataset,
    options: ExportOptions,
    *,
    held_out: Dataset | None = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Export a checkpoint.

    Args:
        checkpoint: as opened.
        out: ``*.hffnet`` to write; an existing one is replaced only by a sound one.
        data: labelled frames; train frames calibrate, held-out ones measure (see ``roles_from_checkpoint``).
        options: see ``ExportOptions``.
        held_out: frames to measure on instead.
        say: progress, for people.

    Raises:
        ParityError: a form of the network differs from the one before.
        GateError: int8 costs more than ``max_drop``.
        ConfigError, DatasetError, FrameError, CheckpointError, GraphError: as the steps name them.
    """
    check_bundle_path(out)
    roles = roles_from_checkpoint(data, checkpoint, held_out)
    say("reading held-out frames")
    measured = load_frames(roles.held_out.frames, roles.held_out, checkpoint.config.preprocess)
    with tempfile.TemporaryDirectory(prefix=".hffnet-export-", dir=out.parent) as folder:
        return _Exporter(checkpoint, roles, measured, options, Path(folder), say).write(out)


class _Exporter:
    """The steps of one export and what they hand on; lives as long as its temporary folder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        roles: Roles,
        measured: CalibrationFrames,
        options: ExportOptions,
        folder: Path,
        say: Say,
    ) -> None:
        self._checkpoint = checkpoint
        self._roles = roles
        self._frames_NHW = measured.pixels
        self._options = options
        self._folder = folder
        self._say = say
        self._members: dict[str, bytes | Path] = {}
        self._graphs: list[Graph] = []
        self._metrics: dict[Precision, Metrics] = {}
        self._pixel_sizes_um: list[float] = []
        self._energies = list[npt.NDArray[np.float64]]()

    def write(self, out: Path) -> Bundle:
        form = self._folded()
        vectors_NHW = self._frames_NHW[_spread(len(self._frames_NHW), _NUM_VECTORS)]
        reference_NC = logits_of_deploy_form(form, vectors_NHW)
        fp32 = self._fp32(form)
        num_parameters = sum(p.numel() for p in form.parameters())
        del form  # the graph on disk takes over: at the paper's size this is a gigabyte
        if self._options.int8:
            self._int8(fp32, vectors_NHW, reference_NC)
        manifest = self._manifest(num_parameters)
        self._members[MODEL_CARD] = card_from_manifest(manifest).encode()
        self._say(f"writing {out}")
        return write_bundle(out, manifest, self._members, vectors_NHW, reference_NC)

    def _folded(self) -> DeployForm:
        self._say("folding the network and proving it equal")
        model = model_from_checkpoint(self._checkpoint)
        form = deploy_form(model)
        report = parity_of_deploy_form(model, form, self._frames_NHW[:_NUM_PARITY_FRAMES])
        _log.info("%s: %.2e relative on %d frames", report.what, report.relative_error, report.num_frames)
        return form

    def _fp32(self, form: DeployForm) -> Path:
        self._say("exporting the fp32 graph")
        path = self._folder / "fp32-cpu.onnx"
        onnx_from_deploy_form(form, path, precision="fp32")
        parity_of_onnx(form, path, self._frames_NHW[:_NUM_PARITY_FRAMES])
        self._add_graph("fp32", path, _FP32_TOLERANCE)
        self._metrics["fp32"] = self._score(path)
        return path

    def _int8(self, fp32: Path, vectors_NHW: npt.NDArray[np.uint8], reference_NC: npt.NDArray[np.float32]) -> None:
        options = self._options
        chosen = choose_frames(self._roles.calibration, options.num_frames, seed=options.calibration.seed or 0)
        self._say(f"calibrating with {len(chosen)} train frames")
        frames = load_frames(chosen, self._roles.calibration, self._checkpoint.config.preprocess)
        self._pixel_sizes_um = [size for size in frames.pixel_sizes_um if size is not None]
        model, report = int8_from_onnx(
            fp32,
            frames.pixels,
            options=options.calibration,
            origins=frames.origins,
        )
        path = self._folder / "int8-cpu.onnx"
        path.write_bytes(model.SerializeToString())
        del model
        self._say("measuring int8 against fp32")
        self._metrics["int8"] = self._score(path)
        self._gate(report)
        error = float(np.abs(logits_from_onnx(path, vectors_NHW) - reference_NC).max() / np.abs(reference_NC).max())
        # Other engines round elsewhere (OpenVINO keeps bfloat16 between int8 parts): three times what was measured.
        self._add_graph("int8", path, max(_INT8_FLOOR, 3 * error))
        self._members[CALIBRATION] = report.model_dump_json(indent=1).encode()

    def _gate(self, report: CalibrationReport) -> None:
        drop = 100 * (self._metrics["fp32"].hf1 - self._metrics["int8"].hf1)
        if drop > self._options.max_drop:
            raise GateError(
                f"int8 costs {drop:.2f} points of HF1 on {self._roles.evaluated_on}; at most"
                f" {self._options.max_drop} may be lost, so no bundle was written. It was calibrated with"
                f" {len(report.frames)} frames by {report.method.observer}: use more frames, another --observer,"
                " or --exclude parts of the network"
            )

    def _add_graph(self, precision: Precision, path: Path, tolerance: float) -> None:
        member = f"graphs/{path.name}"
        self._members[member] = path
        self._graphs.append(Graph(precision=precision, family="cpu", member=member, tolerance=tolerance))

    def _score(self, path: Path) -> Metrics:
        config, taxonomy = self._checkpoint.config, self._checkpoint.taxonomy
        logits_NC = logits_from_onnx(path, self._frames_NHW)
        self._energies.append(energies_from_logits(logits_NC, taxonomy))
        decisions = decode(logits_NC, taxonomy, config.decode)
        truths = [frame.classes for frame in self._roles.held_out.frames]
        return metrics_from_paths(truths, [decision.answer for decision in decisions], taxonomy)

    def _manifest(self, num_parameters: int) -> Manifest:
        config = self._checkpoint.config
        sizes = self._pixel_sizes_um
        return Manifest(
            name=self._checkpoint.folder.resolve().name,
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
            # One limit for all precisions: the larger energy of each frame.
            novelty=novelty_from_energies(np.max(self._energies, axis=0)),
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


def logits_from_onnx(path: Path, frames_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits (N, ΣC) of preprocessed frames in ONNX Runtime on the CPU, the reference executor."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"frames": frames_NHW[n : n + 1]})[0] for n in range(len(frames_NHW))]
    return np.concatenate(parts)


def _spread(num: int, wanted: int) -> npt.NDArray[np.intp]:
    """``wanted`` indices spread evenly over ``num``: frames come ordered by class, so each class gets its share."""
    return np.unique(np.linspace(0, num - 1, min(num, wanted)).round().astype(np.intp))
