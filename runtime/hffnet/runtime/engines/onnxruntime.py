"""ONNX Runtime: the engine that is always there; on a GPU where its CUDA build and a driver are, else on the CPU."""

import logging

import numpy as np
import numpy.typing as npt
import onnxruntime

from hffnet.runtime.engines import Outputs
from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.errors import EngineError

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_log = logging.getLogger(__name__)


class OnnxRuntimeEngine:
    """One ONNX Runtime session, which may be run by several threads at once.

    Args:
        graph: the ONNX model.
        threads: on the CPU; all cores if None.

    Raises:
        EngineError: the library refuses the graph.
    """

    def __init__(self, graph: bytes, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        gpu = _cuda_gpu()
        providers = [_CUDA, _CPU] if gpu else [_CPU]
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # onnxruntime has no public root of its exceptions
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}") from error
        self.version: str = onnxruntime.__version__
        self.device = "CPU"
        self.arithmetic = "f32"
        if gpu and session.get_providers()[0] == _CUDA:
            self.device, self.arithmetic = f"GPU {gpu}", "tf32"  # the provider's default for float32 products
        elif gpu:
            _log.warning(
                "ONNX Runtime could not start on the GPU %s and runs on the CPU; see its log with --debug", gpu
            )
        self._session: onnxruntime.InferenceSession | None = session

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``."""
        session = self._session
        if session is None:
            raise EngineError("this engine was closed; open the bundle again")
        try:
            logits, evidence = session.run(["logits", "evidence"], {"frames": frames_NHW})
        except Exception as error:
            raise EngineError(f"ONNX Runtime {self.version} failed while running: {error}") from error
        return Outputs(logits=logits, evidence=evidence)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._session = None


def _cuda_gpu() -> str | None:
    """Name of the GPU that the CUDA provider would run on."""
    if _CUDA not in onnxruntime.get_available_providers():
        return None
    try:
        return probe_gpu().name
    except EngineError as error:
        _log.info("ONNX Runtime has a CUDA provider, but %s", error)
        return None
