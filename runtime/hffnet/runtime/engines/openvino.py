"""OpenVINO on the CPU: the fastest CPU engine measured on this network (docs/results)."""

import hashlib
import io
import logging
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from hffnet.runtime.engines import Outputs
from hffnet.runtime.engines.cache import EngineCache
from hffnet.runtime.errors import EngineError
from hffnet.runtime.graph import facts_from_onnx

WORTH_KEEPING_SECONDS = 1.0
"""A model that compiles quicker than this is not kept: reading and checking it would take as long."""

_log = logging.getLogger(__name__)


class OpenVinoEngine:
    """One compiled OpenVINO model; several threads take turns.

    Where the CPU computes bfloat16 in hardware OpenVINO uses it for what an int8 graph leaves float; ``arithmetic``
    says so, and the self-test decides whether the result is near enough. A fp32 graph is computed in float32.

    Args:
        graph: the ONNX model.
        threads: of the CPU; all cores if None.
        cache: where compiled models are kept, sealed; None to compile each time.

    Raises:
        EngineError: the library refuses the graph.
    """

    def __init__(self, graph: bytes, threads: int | None, cache: EngineCache | None = None) -> None:
        core = openvino.Core()
        self.version: str = openvino.__version__
        self.device: str = core.get_property("CPU", "FULL_DEVICE_NAME")
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        is_int8 = facts_from_onnx(graph).precision == "int8"
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if has_bf16 and is_int8 else "f32"
        compiled = self._compiled(core, graph, settings, cache)
        self._request = compiled.create_infer_request()
        self._logits = compiled.output("logits")
        self._evidence = compiled.output("evidence")
        self._lock = threading.Lock()
        self.arithmetic: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def _compiled(
        self, core: openvino.Core, graph: bytes, settings: dict[str, object], cache: EngineCache | None
    ) -> Any:  # noqa: ANN401 (openvino has no type information)
        name = f"openvino-{_digest(graph, f'{self.version} {self.device} {settings}')}"
        if cache is not None and (stored := cache.read(name)):
            try:
                return core.import_model(io.BytesIO(stored), "CPU", settings)
            except RuntimeError as error:
                _log.warning("the stored OpenVINO model %s is not used and is compiled anew: %s", name, error)
        start = time.perf_counter()
        try:
            compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {self.version} cannot load the graph: {error}") from error
        if cache is not None and time.perf_counter() - start > WORTH_KEEPING_SECONDS:
            cache.write(name, compiled.export_model().getvalue())
        return compiled

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``."""
        with self._lock:
            if self._request is None:
                raise EngineError("this engine was closed; open the bundle again")
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
        with self._lock:
            self._request = self._logits = self._evidence = None


def _digest(graph: bytes, rest: str) -> str:
    return hashlib.sha256(hashlib.sha256(graph).digest() + rest.encode()).hexdigest()[:32]
