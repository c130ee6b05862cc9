"""ONNX Runtime: the engine that is always there, on the CPU or through one of its providers on a GPU.

A provider that was asked for does the work or is refused; ONNX Runtime alone would quietly go to the CPU.
"""

import logging
import os
import platform
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import onnxruntime

from hffnet.runtime.engines import Outputs
from hffnet.runtime.engines.cache import EngineCache
from hffnet.runtime.engines.onnxruntime_providers import (
    PROVIDERS,
    check_placement,
    gpu_for_provider,
    options_with_provider,
)
from hffnet.runtime.engines.sealed_folder import sealed_folder
from hffnet.runtime.engines.target import CPU, OrtProvider
from hffnet.runtime.errors import EngineError
from hffnet.runtime.graph import facts_from_onnx

_DEFAULT_SIZE = 224
_log = logging.getLogger(__name__)


class OnnxRuntimeEngine:
    """One ONNX Runtime session, which may be run by several threads at once.

    Args:
        graph: the ONNX model.
        threads: on the CPU; all cores if None.
        provider: who computes.
        pin: tie each thread to a core of its own; the calling thread, which computes too, stays free.
        frame_size: side of the frames, for providers that build engines.
        cache: where such engines are kept; None to build them each time.
        name: of the graph in the cache.

    Raises:
        EngineError: the library refuses the graph, or the provider does not do the work.
        MissingExtraError: this build has no such provider.
    """

    def __init__(
        self,
        graph: bytes,
        threads: int | None,
        *,
        provider: OrtProvider = "cpu",
        pin: bool = False,
        frame_size: int = _DEFAULT_SIZE,
        cache: EngineCache | None = None,
        name: str = "",
    ) -> None:
        self.version: str = onnxruntime.__version__
        self.device = "CPU"
        if provider != CPU:
            self.device = f"GPU {gpu_for_provider(provider).name} ({PROVIDERS[provider].name})"
        self.arithmetic = _arithmetic(facts_from_onnx(graph).precision, provider)
        self._one_at_a_time = PROVIDERS[provider].builds_engines
        kept = sealed_folder(cache, f"onnxruntime-{name}") if cache and self._one_at_a_time else nullcontext(None)
        with kept as folder:
            options = _session_options(threads, pin=pin)
            if provider != CPU:
                # A GPU's quantized graphs are half precision: 1.32 would quantize their float16 biases too, with scales
                # that float16 cannot hold. Providers that build engines read the points themselves.
                options.add_session_config_entry("session.disable_quant_qdq", "1")
            providers = options_with_provider(provider, options, frame_size, folder)
            try:
                session = onnxruntime.InferenceSession(graph, options, providers=providers or None)
            except Exception as error:  # onnxruntime has no public root of its exceptions
                raise EngineError(f"ONNX Runtime {self.version} cannot load the graph: {error}") from error
        session.disable_fallback()
        if provider != CPU:
            _log.info("ONNX Runtime placed nodes: %s", dict(check_placement(session, provider)))
        self._session: onnxruntime.InferenceSession | None = session

    def infer(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
        """See ``Engine.infer``."""
        if self._one_at_a_time and len(frames_NHW) > 1:
            parts = [self._run(frame[None]) for frame in frames_NHW]
            return Outputs(
                logits=np.concatenate([part.logits for part in parts]),
                evidence=np.concatenate([part.evidence for part in parts]),
            )
        return self._run(frames_NHW)

    def _run(self, frames_NHW: npt.NDArray[np.uint8]) -> Outputs:
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


def _session_options(threads: int | None, *, pin: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if pin:
        cores = sorted(os.sched_getaffinity(0))
        options.intra_op_num_threads = threads or len(cores)
        # One entry per thread that ONNX Runtime makes itself; its processors count from 1.
        others = [str(cores[k % len(cores)] + 1) for k in range(1, options.intra_op_num_threads)]
        if others:
            options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(others))
    return options


def _arithmetic(precision: str, provider: OrtProvider) -> str:
    """On a CPU of x86 there are no half-precision kernels: such graphs are computed in float32."""
    if provider == CPU and platform.machine() in {"x86_64", "AMD64"}:
        return "f32"
    return "f32" if precision == "fp32" else "f16"
