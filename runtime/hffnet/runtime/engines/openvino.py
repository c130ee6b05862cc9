"""OpenVINO on the CPU, the fastest CPU engine measured on this network (docs/results), or on Intel's GPU or NPU."""

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

_DRIVERS = {
    "GPU": "install Intel's compute runtime (intel-opencl-icd, intel-level-zero-gpu) and join the group render",
    "NPU": "install Intel's NPU driver (intel-driver-compiler-npu, intel-level-zero-npu)",
}
_log = logging.getLogger(__name__)


class OpenVinoEngine:
    """One compiled OpenVINO model; several threads take turns.

    Where the CPU computes bfloat16 in hardware OpenVINO uses it for what an int8 graph leaves float; ``arithmetic``
    says so, and the self-test decides whether the result is near enough. A fp32 graph is computed in float32, also on
    a GPU, whose default would be half precision.

    Args:
        graph: the ONNX model.
        threads: of the CPU; all cores if None.
        cache: where compiled models are kept, sealed; None to compile each time.
        device: ``cpu``, ``gpu``, ``gpu.1`` or ``npu``.
        pin: tie the CPU's threads to cores; None for OpenVINO's own choice.

    Raises:
        EngineError: the device is not here, or the library refuses the graph.
    """

    def __init__(
        self,
        graph: bytes,
        threads: int | None,
        cache: EngineCache | None = None,
        *,
        device: str = "cpu",
        pin: bool | None = None,
    ) -> None:
        core = openvino.Core()
        self.version: str = openvino.__version__
        self._where = device.upper()
        _check_present(core, self._where)
        self.device: str = core.get_property(self._where, "FULL_DEVICE_NAME")
        settings = _settings(core, self._where, facts_from_onnx(graph).precision)
        if self._where == "CPU" and threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if self._where == "CPU" and pin is not None:
            settings["ENABLE_CPU_PINNING"] = pin
        compiled = self._compiled(core, graph, settings, cache)
        self._request = compiled.create_infer_request()
        self._logits = compiled.output("logits")
        self._evidence = compiled.output("evidence")
        self._lock = threading.Lock()
        self.arithmetic: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def _compiled(
        self, core: openvino.Core, graph: bytes, settings: dict[str, object], cache: EngineCache | None
    ) -> Any:  # noqa: ANN401 (openvino has no type information)
        if "EXPORT_IMPORT" not in core.get_property(self._where, "OPTIMIZATION_CAPABILITIES"):
            cache = None
        name = f"openvino-{_digest(graph, f'{self.version} {self._where} {self.device} {settings}')}"
        if cache is not None and (stored := cache.read(name)):
            try:
                return core.import_model(io.BytesIO(stored), self._where, settings)
            except RuntimeError as error:
                _log.warning("the stored OpenVINO model %s is not used and is compiled anew: %s", name, error)
        start = time.perf_counter()
        try:
            model = core.read_model(graph)
            if self._where == "NPU":  # takes fixed shapes only
                model.reshape({"frames": [1, *list(model.input("frames").partial_shape)[1:]]})
            compiled = core.compile_model(model, self._where, settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {self.version} cannot load the graph: {error}") from error
        if cache is not None and time.perf_counter() - start > WORTH_KEEPING_SECONDS:
            cache.write(name, compiled.export_model().getvalue())
        return compiled

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``."""
        if self._where == "NPU" and len(frames_NHW) > 1:
            parts = [self._run(frame[None]) for frame in frames_NHW]
            return Outputs(
                logits=np.concatenate([part.logits for part in parts]),
                evidence=np.concatenate([part.evidence for part in parts]),
            )
        return self._run(frames_NHW)

    def _run(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
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


def _check_present(core: openvino.Core, where: str) -> None:
    present = list(core.available_devices)
    kind = where.partition(".")[0]
    if where in present or (where == kind and any(one.partition(".")[0] == kind for one in present)):
        return
    raise EngineError(
        f"OpenVINO {openvino.__version__} sees no {where} on this machine, only {', '.join(present)}:"
        f" {_DRIVERS.get(kind, 'install it again')}, or use --engine openvino"
    )


def _settings(core: openvino.Core, where: str, precision: str) -> dict[str, object]:
    """Latency before throughput, and the arithmetic that the graph's precision asks for."""
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
    if where == "CPU":
        settings["NUM_STREAMS"] = 1
    capabilities = core.get_property(where, "OPTIMIZATION_CAPABILITIES")
    # int8 leaves some of the graph float: there the quickest type will do, as the self-test guards the result.
    wanted = {"fp16": "f16", "int8": "bf16" if where == "CPU" else "f16"}.get(precision, "f32")
    is_able = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}[wanted] in capabilities
    if not is_able and where != "CPU":
        raise EngineError(f"OpenVINO's {where} does not compute {wanted}, which {precision} needs; choose another one")
    settings["INFERENCE_PRECISION_HINT"] = wanted if is_able else "f32"
    return settings


def _digest(graph: bytes, rest: str) -> str:
    return hashlib.sha256(hashlib.sha256(graph).digest() + rest.encode()).hexdigest()[:32]
