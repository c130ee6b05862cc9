from typing import Any

import numpy as np
import numpy.typing as npt

INTERFACE: int

def why_no_gpu() -> str | None: ...

class GpuPreprocessor:
    def __init__(self, size: int, low: float, high: float, min_span: float) -> None: ...
    def preprocess(self, picture: npt.NDArray[Any]) -> npt.NDArray[np.uint8]: ...
