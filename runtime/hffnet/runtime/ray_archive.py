"""The frames of an archive on the workers of a Ray cluster: Ray Data moves file names, each worker has one engine.

Frames are read where they are classified, from storage that every worker sees under the same path; the bundle travels
through Ray's object store. The engine is chosen once, by whoever starts the job, and asked for by name on every worker,
so that a result does not depend on which worker gave it.
"""

import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hffnet.runtime.archive import Document, document_from_file
from hffnet.runtime.errors import EngineError, HffnetError
from hffnet.runtime.installed import hffnet_version

if TYPE_CHECKING:
    import ray

    from hffnet.runtime.classifier import Classifier
    from hffnet.runtime.field_of_view import TileSettings
    from hffnet.runtime.manifest import Precision

LOCAL = "local"
_FRAMES_AT_ONCE = 8
_CONNECT_S = 5.0
_FRAMES_PER_BLOCK = 32  # what is handed out, finished and written at a time
_log = logging.getLogger(__name__)

Strings = dict[str, npt.NDArray[np.object_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What every worker is to open.

    Attributes:
        engine: by name, never "auto".
        precision: likewise.
        threads: of the engine; also the CPUs that Ray sets aside for a worker.
        num_workers: how many; None is as many as the cluster has CPUs for.
        settings_sha256: for the documents.
        tiles: how large frames are cut.
    """

    engine: str
    precision: "Precision"
    threads: int
    num_workers: int | None
    settings_sha256: str
    tiles: "TileSettings | None" = None


@contextmanager
def cluster(address: str, num_workers: int | None, threads: int) -> Iterator[int]:
    """Join a cluster, or start one on this machine for the time of the job; yields the CPUs it has.

    Args:
        address: ``local``, ``auto`` (the one this machine belongs to) or ``HOST:PORT`` of its head.
        num_workers: so many are needed.
        threads: of each.

    Raises:
        EngineError: there is no cluster at that address, or it has fewer CPUs than one worker needs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what a laboratory classifies is nobody's statistics
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a worker's own sentence comes as an exception
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # As many as are asked for, also where the machine has fewer: it is the user's to share its cores.
        cpus = num_workers * threads if num_workers else max(os.cpu_count() or 1, threads)
        quiet |= {"num_cpus": cpus, "include_dashboard": False}
    _check_address(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(f"no Ray cluster answers at {address!r} ({error}); give local, auto or HOST:PORT") from error
    try:
        num_cpus = int(ray.cluster_resources().get("CPU", 0))
        if num_cpus < threads * (num_workers or 1):
            raise EngineError(
                f"the Ray cluster at {address} has {num_cpus} CPUs; {num_workers or 1} workers of {threads} threads"
                f" need {threads * (num_workers or 1)}: give fewer --workers or --threads"
            )
        yield num_cpus
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray tries an address where nobody listens for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"no Ray cluster answers at {address!r} ({error}); give local, auto or HOST:PORT") from error


def documents_from_ray(paths: Sequence[Path], bundle: Path, plan: WorkerPlan, num_cpus: int) -> Iterator[Document]:
    """One document per frame, in order, while workers go on; call inside ``cluster``.

    Raises:
        EngineError: a worker could not open the bundle, or its engine failed.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    num_workers = min(plan.num_workers or max(num_cpus // plan.threads, 1), -(-len(paths) // _FRAMES_AT_ONCE))
    num_blocks = max(-(-len(paths) // _FRAMES_PER_BLOCK), min(num_workers, len(paths)))
    frames = ray.data.from_items([{"path": str(path.absolute())} for path in paths], override_num_blocks=num_blocks)
    # Held here until the last result, and handed over inside a tuple, so that a worker that died can be started again.
    stored = (ray.put(bundle.read_bytes()),)
    results = frames.map_batches(
        _Worker,
        fn_constructor_args=(stored, plan, hffnet_version()),
        batch_size=_FRAMES_AT_ONCE,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_cpus=plan.threads,
    )
    try:
        for row in results.iter_rows():
            if row["error"]:
                raise EngineError(f"a Ray worker failed: {row['error']}")
            yield json.loads(row["document"])
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from error


class _Worker:
    """One engine, in a process of its own, on whatever node.

    What fails for good travels as an answer and not as an exception, which Ray would wrap until its sentence is lost.
    """

    def __init__(self, stored: "tuple[ray.ObjectRef[bytes]]", plan: WorkerPlan, asked_version: str) -> None:
        import ray

        self._plan, self._classifier, self._error = plan, None, ""
        if hffnet_version() != asked_version:
            self._error = f"it has hffnet {hffnet_version()}, the job {asked_version}; install the same everywhere"
            return
        self._folder = tempfile.TemporaryDirectory(prefix="hffnet-ray-")
        path = Path(self._folder.name) / "model.hffnet"
        path.write_bytes(ray.get(stored[0]))
        try:
            self._classifier = _opened(path, plan)
        except HffnetError as error:
            self._error = str(error)

    def __call__(self, batch: Strings) -> Strings:
        documents = list[str]()
        for path in batch["path"]:
            try:
                documents.append(json.dumps(self._document(Path(path))))
            except EngineError as error:
                self._error = str(error)
                documents.append("")
        errors = [self._error if not document else "" for document in documents]
        return {"document": np.array(documents, dtype=object), "error": np.array(errors, dtype=object)}

    def _document(self, path: Path) -> Document:
        if self._classifier is None:
            raise EngineError(self._error)
        return document_from_file(self._classifier, path, self._plan.settings_sha256)


def _opened(path: Path, plan: WorkerPlan) -> "Classifier":
    from hffnet.runtime.classifier import Classifier

    return Classifier.open(path, engine=plan.engine, precision=plan.precision, threads=plan.threads, tiles=plan.tiles)
