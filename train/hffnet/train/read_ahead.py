"""The next step's pixels are fetched while the network works on this one's."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from hffnet.train.pixels import Pixels
from hffnet.train.seeds import Indices


class ReadAhead:
    """Fetches rows of the pixel file on a thread of its own; for a GPU into pinned memory, copied beside its work.

    Attributes:
        waited_s: seconds that steps have waited for pixels.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.waited_s = 0.0
        self._pixels = pixels
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._asked: tuple[bytes, Future[Tensor]] | None = None

    def ask(self, indices: Indices, device: torch.device) -> None:
        """Begin to fetch rows that will be taken next."""
        self._asked = indices.tobytes(), self._pool.submit(self._fetch, indices, device)

    def take(self, indices: Indices, device: torch.device) -> Tensor:
        """(n, size, size) uint8 on ``device``: what was asked for, or fetched now where something else was."""
        started = time.perf_counter()
        asked, self._asked = self._asked, None
        if asked is not None and asked[0] == indices.tobytes():
            frames = asked[1].result()
        else:
            frames = self._fetch(indices, device)
        self.waited_s += time.perf_counter() - started
        return frames.to(device, non_blocking=True)

    def _fetch(self, indices: Indices, device: torch.device) -> Tensor:
        frames = torch.from_numpy(self._pixels[indices])
        return frames.pin_memory() if device.type == "cuda" else frames
