"""A checkpoint compiled by torch-tensorrt: an optional engine for machines that have torch and TensorRT anyway.

The way is checkpoint → deploy form → ``torch.export`` → torch-tensorrt (``ir="dynamo"``) → exported program, kept in
the sealed cache like any other compiled code. It takes no bundle's graph, but must answer a bundle's test vectors. Why
it lives here and not in the runtime: docs/decisions/0049. Types are the form's own, as with every TensorRT here.
Source: https://docs.pytorch.org/TensorRT/user_guide/runtime_performance/saving_models.html.
"""

import copy
import hashlib
import io
import logging
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from hffnet.export.deploy_form import DeployForm, deploy_form
from hffnet.runtime.bundle import Bundle
from hffnet.runtime.engines import EngineIdentity, OpenEngine, Outputs
from hffnet.runtime.engines.cache import EngineCache, cache_folder
from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.engines.opening import self_test
from hffnet.runtime.errors import BundleError, EngineError, MissingExtraError
from hffnet.train.checkpoint import checkpoint_sha256, model_from_checkpoint, open_checkpoint

FloatPrecision = Literal["fp32", "fp16"]
NAME: Literal["torch-tensorrt"] = "torch-tensorrt"
_log = logging.getLogger(__name__)


class ProgramEngine:
    """An exported program as an engine; several threads take turns.

    Args:
        program: takes (1, size, size) uint8 frames, gives logits and evidence.
        device: where it computes, e.g. ``cuda``.
        title: the device's name for people.
        precision: what the form's parameters are.
        version: of what compiled it.

    Raises:
        EngineError: on ``infer``, where the program failed.
    """

    def __init__(
        self, program: ExportedProgram, device: str, title: str, precision: FloatPrecision, version: str
    ) -> None:
        self._infer: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = program.module().to(device)
        self._where = device
        self._lock = threading.Lock()
        self.device = title
        self.version = version
        self.arithmetic = {"fp32": "f32", "fp16": "f16"}[precision]

    @torch.inference_mode()
    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``: one frame after the other, as the program was compiled for one."""
        with self._lock:
            if self._infer is None:
                raise EngineError("this engine was closed; open the checkpoint again")
            try:
                answers = [self._infer(torch.tensor(frame[None], device=self._where)) for frame in frames_NHW]
            except RuntimeError as error:
                raise EngineError(f"{NAME} {self.version} failed while running: {error}") from error
        logits, evidence = (torch.cat(parts).float().cpu().numpy() for parts in zip(*answers, strict=True))
        return Outputs(logits=logits, evidence=evidence)

    def close(self) -> None:
        """See ``Engine.close``."""
        with self._lock:
            self._infer = None


def open_torch_tensorrt(bundle: Bundle, checkpoint: Path, *, precision: FloatPrecision = "fp16") -> OpenEngine:
    """Compile a checkpoint for this machine's GPU, or take what was compiled before, and prove it on a bundle.

    Args:
        bundle: of the same checkpoint; its test vectors are the proof.
        checkpoint: folder written by ``hffnet train``.
        precision: of the deploy form.

    Raises:
        MissingExtraError: torch-tensorrt is not installed.
        BundleError: the bundle is of another checkpoint, or states no tolerance for the precision.
        EngineError: no driver or GPU, the compiler failed, or the answers are wrong.
        CheckpointError: the checkpoint is not sound.
    """
    if find_spec("torch_tensorrt") is None:
        raise MissingExtraError(
            f"{NAME} is not installed: it needs torch with CUDA and NVIDIA's TensorRT of the same release"
            " (pip install 'hffnet[torch-tensorrt]'); for a bundle take --engine tensorrt"
        )
    gpu = probe_gpu()
    graph = next((one for one in bundle.manifest.graphs if one.precision == precision), None)
    if graph is None:
        raise BundleError(f"{bundle.path} has no {precision} graph, whose tolerance is needed; export it with one")
    sha256 = checkpoint_sha256(checkpoint)
    if bundle.manifest.provenance.checkpoint_sha256 != sha256:
        raise BundleError(f"{bundle.path} was exported from another checkpoint than {checkpoint}; export it again")
    import torch_tensorrt

    version = str(torch_tensorrt.__version__)
    made_of = f"{sha256} {precision} {version} {torch.__version__} {gpu.name} {gpu.architecture} {gpu.cuda_version}"
    name = f"{NAME}-{hashlib.sha256(made_of.encode()).hexdigest()[:32]}"

    def compiled() -> bytes:
        _log.warning("compiling the %s checkpoint with %s for %s: once, then it is kept", precision, NAME, gpu.name)
        form = deploy_form(model_from_checkpoint(open_checkpoint(checkpoint)).eval())
        return _compiled(program_from_form(form, precision, "cuda"), bundle.manifest.preprocess.size)

    program = kept_program(EngineCache(cache_folder()), name, compiled)
    engine = ProgramEngine(program, "cuda", gpu.name, precision, version)
    result = self_test(engine, bundle, graph)
    if not result.passed:
        engine.close()
        raise EngineError(
            f"{NAME} {version} on {gpu.name} answers the bundle's test vectors with an error of {result.error:.4g};"
            f" at most {result.tolerance:.4g} is allowed for {precision}: use --engine tensorrt"
        )
    identity = EngineIdentity(
        name=NAME,
        version=version,
        device=gpu.name,
        precision=precision,
        arithmetic=engine.arithmetic,
        graph_sha256=sha256,
        self_test=result,
    )
    return OpenEngine(engine, identity, bundle.manifest.preprocess.size)


def program_from_form(form: DeployForm, precision: FloatPrecision, device: str) -> ExportedProgram:
    """The deploy form as an exported program for one frame, its parameters of the precision's type."""
    typed = copy.deepcopy(form).to(device)
    typed = typed.half() if precision == "fp16" else typed.float()
    size = form.config.img_size
    frames = torch.zeros(1, size, size, dtype=torch.uint8, device=device)
    return torch.export.export(typed.eval(), (frames,))


def kept_program(cache: EngineCache, name: str, compiled: Callable[[], bytes]) -> ExportedProgram:
    """The program of that name in the sealed cache, or a new one that is put there."""
    stored = cache.read(name)
    if stored is None:
        stored = compiled()
        cache.write(name, stored)
    return torch.export.load(io.BytesIO(stored))


def _compiled(program: ExportedProgram, size: int) -> bytes:
    import torch_tensorrt

    inputs = [torch.zeros(1, size, size, dtype=torch.uint8, device="cuda")]
    try:
        module = torch_tensorrt.dynamo.compile(program, arg_inputs=inputs, use_explicit_typing=True, min_block_size=1)
        with tempfile.TemporaryDirectory(prefix="hffnet-torch-tensorrt-") as folder:
            path = Path(folder) / "program.pt2"
            torch_tensorrt.save(module, str(path), output_format="exported_program", arg_inputs=inputs)
            return path.read_bytes()
    except RuntimeError as error:
        raise EngineError(f"{NAME} {torch_tensorrt.__version__} cannot compile the checkpoint: {error}") from error
