"""One streaming pass of frames through the float graph, feeding each observed tensor to its observer.

While the tensors of one batch are counted the next batches run, each on a core of its own: a network of this size makes
poor use of several cores for one frame, so two frames side by side are done sooner than one after the other. Observers
still get the batches in their order, whatever the number of cores. No activation outlives the counting of its batch,
and there are never more than four batches of them, so memory does not grow with the number of frames.

The graph is not parsed here: the tensors to observe are declared as outputs by appending a few bytes to the file (a
protobuf message followed by another is their merger), so a model of a gigabyte costs what onnxruntime needs for it.
"""

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from hffnet.calibration.observers import NUM_LEVELS, Observer
from hffnet.calibration.resume import restore_progress, save_progress
from hffnet.runtime.errors import DatasetError, GraphError

Frame = npt.NDArray[np.uint8]
_MOST_RUNS = 2  # side by side; each holds the activations of one batch

Progress = Callable[[int], None]
"""Called after each batch with the number of frames done so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where to keep what was seen, and how often.

    Attributes:
        path: a file; not removed at the end, the caller knows when nothing can fail any more.
        identity: of graph, frames and method; see ``resume``.
        seconds: at least, between two writings: of so much work an interruption costs the most. What is written is as
            large as the activations of two frames.
    """

    path: Path
    identity: str
    seconds: float = 15.0


def ranges_from_frames(
    model: Path | bytes,
    frames_HW: Iterable[Frame],
    observers: Mapping[str, Observer],
    *,
    batch: int = 1,
    num_threads: int | None = None,
    num_levels: Mapping[str, int] = MappingProxyType({}),
    seen: int = 0,
    progress: Progress | None = None,
    resume: Resume | None = None,
) -> dict[str, float]:
    """Activation range of each observed tensor.

    Args:
        model: float ONNX file, or its bytes; one input of uint8 (N, H, W).
        frames_HW: preprocessed frames, (H, W) uint8 each, all of one size; an (N, H, W) array will do.
        observers: by tensor name; they are updated, so they can be asked for more than the range afterwards.
        batch: frames per run of the graph; more than one costs memory and gains little on a CPU.
        num_threads: of onnxruntime, and to count values; all cores this process may use where None.
        num_levels: above zero, of tensors that do not have those of int8.
        seen: so many of the frames, from the first on, the observers know already.
        progress: see ``Progress``.
        resume: keep what was seen in a file, and go on from it.

    Raises:
        DatasetError: no frame.
        GraphError: onnxruntime refuses the graph, a tensor is unknown, or its values are not finite.
    """
    done = (restore_progress(resume.path, resume.identity, observers) if resume else 0) or seen
    saved, when = done, time.monotonic()
    num_threads = num_threads or _usable_cores()
    rest = islice(iter(frames_HW), done, None)
    with (
        _observed_session(model, list(observers), num_threads) as session,
        # Closed here, not when the garbage collector comes: its threads run in this session.
        closing(_counted_batches(session, rest, observers, batch, num_threads, done)) as batches,
    ):
        for done in batches:
            if progress:
                progress(done)
            if resume and time.monotonic() - when >= resume.seconds:
                save_progress(resume.path, resume.identity, done, observers)
                saved, when = done, time.monotonic()
    if resume and done > saved:
        save_progress(resume.path, resume.identity, done, observers)  # what follows may be interrupted too
    if not done:
        raise DatasetError("no calibration frame was given; expected at least one, better 500")
    with ThreadPoolExecutor(num_threads, "range") as workers:
        levels = [num_levels.get(name, NUM_LEVELS) for name in observers]
        found = workers.map(lambda observer, number: observer.range(number), observers.values(), levels)
        return dict(zip(observers, found, strict=True))


def _counted_batches(
    session: ort.InferenceSession,
    frames_HW: Iterator[Frame],
    observers: Mapping[str, Observer],
    batch: int,
    num_threads: int,
    done: int,
) -> Generator[int]:
    """Number of frames that all observers have seen, after each batch; nothing is being counted when it is told."""
    names, input_name = list(observers), session.get_inputs()[0].name
    running = deque[tuple[int, Future[list[npt.NDArray[np.float32]]]]]()
    counting = list[Future[None]]()
    num_counting = 0

    def run_ahead() -> None:
        while len(running) < min(_MOST_RUNS, num_threads) and (frames := list(islice(frames_HW, batch))):
            stacked = np.stack(frames)
            running.append((len(frames), runners.submit(session.run, names, {input_name: stacked})))

    with ThreadPoolExecutor(_MOST_RUNS, "run") as runners, ThreadPoolExecutor(num_threads, "observer") as counters:
        run_ahead()
        while running or num_counting:
            num, future = running.popleft() if running else (0, None)
            values = future.result() if future else []
            del future  # it would keep the values
            run_ahead()
            for counted in counting:
                counted.result()
            if num_counting:
                done += num_counting
                yield done
            num_counting = num
            counting = [counters.submit(_update, *entry) for entry in zip(observers.values(), names, values)]  # noqa: B905
            del values


def _update(observer: Observer, name: str, value: npt.NDArray[np.float32]) -> None:
    try:
        observer.update(value)
    except GraphError as error:
        raise GraphError(f"tensor {name!r}: {error}") from error


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _observed_session(model: Path | bytes, names: list[str], num_threads: int) -> Iterator[ort.InferenceSession]:
    options = ort.SessionOptions()
    # Each run computes in its caller's thread too, so the session's own are what those callers leave free.
    options.intra_op_num_threads = max(1, num_threads - _MOST_RUNS + 1)
    options.log_severity_level = 3
    # Threads that spin after a run would take the cores from the observers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory(prefix="hffnet-calibration-") as folder:
        path = Path(folder) / "observed.onnx"
        _write_observed(path, model, names)
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public root
            raise GraphError(f"onnxruntime does not open the float graph with observed tensors: {error}") from error
        _check_input(session)
        yield session


def _write_observed(path: Path, model: Path | bytes, names: list[str]) -> None:
    if isinstance(model, bytes):
        path.write_bytes(model)
    else:
        shutil.copyfile(model, path)
    tail = onnx.ModelProto()
    tail.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with path.open("ab") as file:
        file.write(tail.SerializeToString())


def _check_input(session: ort.InferenceSession) -> None:
    inputs = [(entry.name, entry.type, len(entry.shape)) for entry in session.get_inputs()]
    if len(inputs) != 1 or inputs[0][1:] != ("tensor(uint8)", 3):
        raise GraphError(f"the graph's inputs are {inputs}; expected one of uint8 with the axes (N, H, W)")
