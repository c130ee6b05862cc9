"""One streaming pass of frames through the float graph, feeding each observed tensor to its observer.

No activation outlives its batch, so memory does not grow with the number of frames. The graph is not parsed here: the
tensors to observe are declared as outputs by appending a few bytes to the file (a protobuf message followed by another
is their merger), so a model of a gigabyte costs what onnxruntime needs for it, and no more.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
Progress = Callable[[int], None]
"""Called after each batch with the number of frames done so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where to keep what was seen, and how often.

    Attributes:
        path: a file; not removed at the end, the caller knows when nothing can fail any more.
        identity: of graph, frames and method; see ``resume``.
        every: frames between two writings.
    """

    path: Path
    identity: str
    every: int = 64


def ranges_from_frames(
    model: Path | bytes,
    frames_HW: Iterable[Frame],
    observers: Mapping[str, Observer],
    *,
    batch: int = 1,
    num_threads: int | None = None,
    num_levels: Mapping[str, int] = MappingProxyType({}),
    progress: Progress | None = None,
    resume: Resume | None = None,
) -> dict[str, float]:
    """Activation range of each observed tensor.

    Args:
        model: float ONNX file, or its bytes; one input of uint8 (N, H, W).
        frames_HW: preprocessed frames, (H, W) uint8 each, all of one size; an (N, H, W) array will do.
        observers: by tensor name; they are updated, so they can be asked for more than the range afterwards.
        batch: frames per run of the graph; more than one costs memory and gains little on a CPU.
        num_threads: of onnxruntime, and to count values; all cores where None.
        num_levels: above zero, of tensors that do not have those of int8.
        progress: see ``Progress``.
        resume: keep what was seen in a file, and go on from it.

    Raises:
        DatasetError: no frame.
        GraphError: onnxruntime refuses the graph, a tensor is unknown, or its values are not finite.
    """
    names = list(observers)
    count = restore_progress(resume.path, resume.identity, observers) if resume else 0
    saved = count
    workers = ThreadPoolExecutor(num_threads or os.cpu_count(), "observer")
    with _observed_session(model, names, num_threads) as session, workers:
        input_name = session.get_inputs()[0].name
        iterator = islice(iter(frames_HW), count, None)
        while frames := list(islice(iterator, batch)):
            values = session.run(names, {input_name: np.stack(frames)})
            list(workers.map(_update, observers.values(), names, values))
            del values  # before the next run makes its own
            count += len(frames)
            if progress:
                progress(count)
            if resume and count - saved >= resume.every:
                save_progress(resume.path, resume.identity, count, observers)
                saved = count
    if resume and count > saved:
        save_progress(resume.path, resume.identity, count, observers)  # what follows may be interrupted too
    if not count:
        raise DatasetError("no calibration frame was given; expected at least one, better 500")
    return {name: observer.range(num_levels.get(name, NUM_LEVELS)) for name, observer in observers.items()}


def _update(observer: Observer, name: str, value: npt.NDArray[np.float32]) -> None:
    try:
        observer.update(value)
    except GraphError as error:
        raise GraphError(f"tensor {name!r}: {error}") from error


@contextmanager
def _observed_session(model: Path | bytes, names: list[str], num_threads: int | None) -> Iterator[ort.InferenceSession]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
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
