"""ONNX Runtime on the CPU: the engine that is always there."""

import numpy as np
import numpy.typing as npt
import onnxruntime

from hffnet.runtime.engines import Outputs
from hffnet.runtime.errors import EngineError


class OnnxRuntimeEngine:
    """One ONNX Runtime session.

    Raises:
        EngineError: the library refuses the graph.
    """

    def __init__(self, graph: bytes, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no public root of its exceptions
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}") from error
        self.version: str = onnxruntime.__version__
        self.device = "CPU"
        self.arithmetic = "f32"

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``."""
        try:
            logits, evidence = self._session.run(["logits", "evidence"], {"frames": frames_NHW})
        except Exception as error:
            raise EngineError(f"ONNX Runtime {self.version} failed while running: {error}") from error
        return Outputs(logits=logits, evidence=evidence)

    def close(self) -> None:
        """See ``Engine.close``."""
        del self._session
