"""The process that decodes files, so that one hostile file costs a killed process and never the service.

It is asked for one frame at a time through a pipe and puts the pixels into shared memory. What it may take is bounded
by the kernel: address space, and no core dump; if the machine runs out of memory all the same, it is the
first to go. Seconds are watched from outside (``read_worker``), because a decoder that loops cannot watch itself.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hffnet.runtime import read
from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Acquisition, Crop, Frame
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.limits import Limits

LENGTH = struct.Struct("<I")
"""Before each message on both pipes, which is JSON."""

_PR_SET_PDEATHSIG = 1  # prctl.h
_MB = 2**20

ReadFile = Callable[..., Frame]


def request_bytes(path: Path, bar: BarSetting | None, limits: Limits, sha256: str | None = None) -> bytes:
    """A request for one file's frame; with ``sha256`` only if its bytes still are those."""
    request = {"path": os.fsencode(path).hex(), "bar": asdict(bar) if bar else None, "limits": asdict(limits)}
    return framed({**request, "sha256": sha256})


def framed(message: Mapping[str, Any]) -> bytes:
    """A message with its length."""
    data = json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data


def frame_from_answer(answer: Mapping[str, Any], memory: int) -> Frame:
    """The frame that an answer tells of, its pixels copied out of the shared memory.

    Raises:
        FrameError: the answer is that there is none, and why.
        RuntimeError: reading ran into a defect.
    """
    if sentence := answer.get("refused"):
        raise FrameError(sentence)
    if defect := answer.get("defect"):
        raise RuntimeError(defect)
    pixels = np.empty(answer["shape"], answer["dtype"])
    _copy(memory, pixels)
    return Frame(
        pixels=pixels,
        crop=Crop(**answer["crop"]),
        name=answer["name"],
        sha256=answer["sha256"],
        acquisition=Acquisition(**answer["acquisition"]),
    )


def _copy(memory: int, pixels: np.ndarray[Any, Any]) -> None:
    """Fill an array from the shared memory: one copy by the kernel, no mapping to keep."""
    view, done = pixels.data.cast("B"), 0
    while done < len(view):
        num = os.preadv(memory, [view[done:]], done)
        if num == 0:
            raise RuntimeError(f"the reading process wrote {done} of {len(view)} bytes")
        done += num


def serve(memory: int, requests: int, answers: int, memory_mb: int, *, read_file: ReadFile = read.read_frame) -> None:
    """Answer requests until the pipe is closed."""
    _bound(memory_mb)
    os.write(answers, framed({"ready": True}))
    with os.fdopen(requests, "rb") as asked:
        while header := asked.read(LENGTH.size):
            request = json.loads(asked.read(LENGTH.unpack(header)[0]))
            os.write(answers, framed(_answer(request, memory, memory_mb, read_file)))


def _answer(request: Mapping[str, Any], memory: int, memory_mb: int, read_file: ReadFile) -> dict[str, Any]:
    path = Path(os.fsdecode(bytes.fromhex(request["path"])))
    bar = BarSetting(**request["bar"]) if request["bar"] else None
    try:
        limits = Limits(**request["limits"])
        frame = read_file(path, limits=limits, bar=bar, follow_links=False, sha256=request["sha256"])
        _put(memory, frame)
    except (FrameError, MemoryError) as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return {"refused": f"{path}: decoding it takes more than {memory_mb} MB of memory, which is the limit. "}
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001 - told to the one who asked; this process goes on
        return {"defect": f"{type(error).__name__}: {error}"}
    return {
        "shape": frame.pixels.shape,
        "dtype": frame.pixels.dtype.str,
        "crop": asdict(frame.crop),
        "acquisition": asdict(frame.acquisition),
        "name": frame.name,
        "sha256": frame.sha256,
    }


def _put(memory: int, frame: Frame) -> None:
    view, done = np.ascontiguousarray(frame.pixels).data.cast("B"), 0
    while done < len(view):
        done += os.pwrite(memory, view[done:], done)


def _bound(memory_mb: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The terminal's Ctrl-C goes to the whole group; when to end is the pipeline's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory_mb * _MB,) * 2)
    with suppress(OSError):  # not allowed in some containers
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    serve(*(int(text) for text in sys.argv[1:5]))
