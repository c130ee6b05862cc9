"""OpenVINO on the CPU: the fastest CPU engine measured on this network (docs/results)."""

import numpy as np
import numpy.typing as npt
import openvino

from hffnet.runtime.engines import Outputs
from hffnet.runtime.errors import EngineError


class OpenVinoEngine:
    """One compiled OpenVINO model.

    Where the CPU computes bfloat16 in hardware OpenVINO uses it for what is not quantized; ``arithmetic`` says so,
    and the self-test decides whether the result is near enough.

    Raises:
        EngineError: the library refuses the graph.
    """

    def __init__(self, graph: bytes, threads: int | None) -> None:
        core = openvino.Core()
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            settings["INFERENCE_PRECISION_HINT"] = "bf16"
        try:
            compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot load the graph: {error}") from error
        self._request = compiled.create_infer_request()
        self._logits = compiled.output("logits")
        self._evidence = compiled.output("evidence")
        self.version: str = openvino.__version__
        self.device: str = core.get_property("CPU", "FULL_DEVICE_NAME")
        self.arithmetic: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``."""
        try:
            self._request.infer({"frames": frames_NHW}, share_inputs=True)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {self.version} failed while running: {error}") from error
        # Copies: the request's own tensors are overwritten by the next frame.
        return Outputs(
            logits=self._request.get_tensor(self._logits).data.copy(),
            evidence=self._request.get_tensor(self._evidence).data.copy(),
        )

    def close(self) -> None:
        """See ``Engine.close``."""
        del self._request, self._logits, self._evidence
