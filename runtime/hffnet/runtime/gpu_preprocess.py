"""Preprocess as a CUDA kernel beside the engines of an NVIDIA GPU: used where it is built and runs, never required.

``HFFNET_NATIVE=1 pip install .`` builds it where a CUDA toolkit is found. Its input is within one grey level of
``preprocess``.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import EngineError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.native import find_native
from hffnet.runtime.preprocess import PreprocessSpec, preprocess, rows_of

if TYPE_CHECKING:
    from hffnet.runtime._native_cuda import GpuPreprocessor

_log = logging.getLogger(__name__)

Prepare = Callable[[GreyPixels], npt.NDArray[np.uint8]]
"""A picture's network input."""


def preprocess_beside(engine: str, spec: PreprocessSpec) -> Prepare:
    """What prepares frames for an engine: the kernel beside TensorRT and its kin where it can run, else the CPU.

    Args:
        engine: name of the engine that takes the input.
        spec: the bundle's.
    """
    on_cpu = partial(preprocess, spec=spec)
    if not engine.startswith("tensorrt"):
        return on_cpu
    module, reason = find_native("_native_cuda")
    if module is None:
        _log.debug("frames are prepared on the CPU; the kernel is %s", reason)
        return on_cpu
    try:
        kernel: GpuPreprocessor = module.GpuPreprocessor(spec.size, spec.low, spec.high, spec.min_span)
    except RuntimeError as error:
        _log.warning("frames are prepared on the CPU: %s", error)
        return on_cpu
    return partial(_on_gpu, kernel)


def _on_gpu(kernel: "GpuPreprocessor", picture: GreyPixels) -> npt.NDArray[np.uint8]:
    try:
        return kernel.preprocess(rows_of(picture))
    except RuntimeError as error:
        raise EngineError(str(error)) from error
