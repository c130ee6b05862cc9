from typing import Any

import numpy as np
import numpy.typing as npt

INTERFACE: int

def preprocess(
    picture: npt.NDArray[Any], size: int, low: float, high: float, min_span: float
) -> npt.NDArray[np.uint8]: ...

class Decoder:
    def __init__(
        self,
        levels: list[tuple[str, list[str], list[int]]],
        temperatures: list[float],
        min_confidence: float | None,
    ) -> None: ...
    def decide(
        self, logits_NC: npt.NDArray[np.float32]
    ) -> list[tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...], tuple[npt.NDArray[np.float64], ...]]]: ...
