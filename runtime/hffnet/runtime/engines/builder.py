"""Builds TensorRT engines from ONNX bytes, in a process of its own; the same for both flavours.

Types are the graph's own (strongly typed networks): there is no precision flag that could be ignored. What this module
does not know is where engines are kept (``cache``) and how they run (``tensorrt``).
"""

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Self

from hffnet.runtime.engines.driver import probe_gpu
from hffnet.runtime.engines.flavour import Flavour, installed_version
from hffnet.runtime.engines.sidecar import Sidecar
from hffnet.runtime.errors import ConfigError, EngineError, GraphError
from hffnet.runtime.manifest import Precision

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build.

    Attributes:
        architectures: GPUs to build for, e.g. ``("sm86", "sm89")``; () for the GPU of this machine.
        batch: smallest, best and largest number of frames; three equal numbers give a fixed shape, which is fastest.
        workspace_bytes: scratch memory the engine may use; None for half of what the GPU has free.
        version_compatible: later releases of TensorRT and its lean runtime may run it too; it may be slower.
    """

    architectures: tuple[str, ...] = ()
    batch: tuple[int, int, int] = (1, 1, 1)
    workspace_bytes: int | None = None
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ConfigError(f"batch {self.batch}: smallest, best and largest must be at least 1 and not decrease")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ConfigError(f"workspace_bytes is {self.workspace_bytes}; expected a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """Where a build is.

    Attributes:
        share: 0 to 1, by the library's own count of steps, which are not equally long.
        remaining_seconds: estimate; None while there is too little to go by.
    """

    phase: str
    share: float
    remaining_seconds: float | None

    @property
    def text(self) -> str:
        """For people.

        >>> BuildProgress(phase="tactics", share=0.25, remaining_seconds=18.4).text
        '25 %, about 18 s left'
        """
        left = "" if self.remaining_seconds is None else f", about {self.remaining_seconds:.0f} s left"
        return f"{100 * self.share:.0f} %{left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """A new engine and what is known of it; ``timing_cache`` is empty where the library keeps none."""

    engine: bytes
    sidecar: Sidecar
    timing_cache: bytes


def architectures_from_text(text: str) -> tuple[str, ...]:
    """``"sm86,SM89"`` to ``("sm86", "sm89")``.

    Raises:
        ConfigError: a part is not of the form ``smNN``.

    >>> architectures_from_text("sm86, SM120")
    ('sm86', 'sm120')
    """
    names = tuple(part.strip().lower() for part in text.split(","))
    for name in names:
        if not (name.startswith("sm") and name[2:].isdecimal()):
            raise ConfigError(f"--gpu has {name!r}; expected names like sm86,sm89,sm120")
    if len(set(names)) != len(names):
        raise ConfigError(f"--gpu names an architecture twice: {text}")
    return names


def engine_from_onnx(
    onnx: bytes,
    flavour: Flavour,
    options: BuildOptions,
    *,
    precision: Precision | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
    cancel: threading.Event | None = None,
    timing_cache: bytes = b"",
) -> BuiltEngine:
    """Build an engine; nothing is written to disk.

    Args:
        onnx: a whole ONNX model with its types as they are to be computed.
        flavour: which library.
        options: how.
        precision: what the graph is said to be; the build is refused where its types say otherwise.
        progress: called from this thread while the build goes on.
        cancel: set it from another thread to end the build.
        timing_cache: of an earlier build on this machine.

    Raises:
        MissingExtraError: the library is not installed.
        EngineError: no GPU where one is needed, memory ran out, the build was cancelled, or the library refuses the
            graph; the sentence names the node where there is one.
        GraphError: the graph's types are not ``precision``.
    """
    version = installed_version(flavour)
    _check_target(flavour, version, options)
    start = time.monotonic()
    request = {
        "flavour": flavour.name,
        "needs_gpu": not options.architectures,
        "architectures": options.architectures,
        "batch": options.batch,
        "workspace_bytes": options.workspace_bytes,
        "version_compatible": options.version_compatible,
        "onnx_bytes": len(onnx),
        "timing_cache_bytes": len(timing_cache),
    }
    with _BuildProcess(request, (onnx, timing_cache), f"{flavour.title} {version}") as process:
        facts, engine, new_timing_cache = process.result(progress, cancel)
    sidecar = Sidecar.model_validate_json(
        json.dumps(
            {
                **facts,
                "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
                "engine_sha256": hashlib.sha256(engine).hexdigest(),
                "engine_bytes": len(engine),
                "library": flavour.name,
                "architectures": options.architectures or (probe_gpu().architecture,),
                "batch": options.batch,
                "total_seconds": round(time.monotonic() - start, 3),
                "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
    )
    if precision is not None and sidecar.audit.precision != precision:
        raise GraphError(
            f"the graph is said to be {precision}, but its types compute {sidecar.audit.precision}"
            f" ({_counts(sidecar)}); export the bundle again"
        )
    return BuiltEngine(engine=engine, sidecar=sidecar, timing_cache=new_timing_cache)


def remaining_seconds(elapsed_seconds: float, share: float) -> float | None:
    """Seconds left if the rest goes as the part so far; None while that part is too small to tell.

    >>> remaining_seconds(6.0, 0.25), remaining_seconds(6.0, 0.01), remaining_seconds(0.5, 0.5)
    (18.0, None, None)
    """
    return elapsed_seconds * (1 - share) / share if elapsed_seconds > 1 and share > 0.05 else None


def _counts(sidecar: Sidecar) -> str:
    audit = sidecar.audit
    return f"convolutions {audit.convolutions}, matrix products {audit.products}"


def _check_target(flavour: Flavour, version: str, options: BuildOptions) -> None:
    if not flavour.builds:
        raise ConfigError(f"the {flavour.title} builds no engines; build with --engine tensorrt on this machine")
    if options.version_compatible and flavour.name != "tensorrt":
        raise ConfigError(f"{flavour.title} has no version-compatible engines; leave out version_compatible")
    if options.architectures and not flavour.builds_without_gpu:
        raise ConfigError(f"{flavour.title} builds for the GPU of this machine only; leave out --gpu")
    if options.architectures:
        return
    try:
        probe_gpu()
    except EngineError as error:
        hint = "; name the GPUs to build for, e.g. --gpu sm86,sm89,sm120" if flavour.builds_without_gpu else ""
        raise EngineError(f"{flavour.title} {version} cannot build for this machine's GPU: {error}{hint}") from error


class _BuildProcess:
    """The child: started, listened to, and never left behind."""

    def __init__(self, request: dict[str, Any], payload: tuple[bytes, ...], title: str) -> None:
        self._title = title
        # A fresh interpreter and no multiprocessing: "spawn" would run the user's own script a second time.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "hffnet.runtime.engines.build_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._engine, self._timing_cache, self._complaints = b"", b"", b""
        self._threads = [
            threading.Thread(target=self._send, args=(request, payload), daemon=True),
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._drain, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            _pipe(stream).close()

    def result(
        self, progress: Callable[[BuildProgress], None] | None, cancel: threading.Event | None
    ) -> tuple[dict[str, Any], bytes, bytes]:
        """Facts, engine and timing cache."""
        start = time.monotonic()
        while True:
            if cancel is not None and cancel.is_set():
                raise EngineError(f"{self._title}: the build was cancelled; nothing was written")
            try:
                message = self._messages.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            match message:
                case None:
                    raise EngineError(self._death())
                case {"kind": "progress", "phase": phase, "share": share}:
                    if progress is not None:
                        elapsed = time.monotonic() - start
                        left = remaining_seconds(elapsed, share)
                        progress(BuildProgress(phase=phase, share=share, remaining_seconds=left))
                case {"kind": "done", "facts": facts}:
                    return facts, self._engine, self._timing_cache
                case {"sentence": sentence}:
                    raise EngineError(sentence)

    def _send(self, request: dict[str, Any], payload: tuple[bytes, ...]) -> None:
        stream = _pipe(self._child.stdin)
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            for part in payload:
                stream.write(part)
            stream.flush()
        except OSError:
            pass  # the child died; _listen sees its end and tells why

    def _listen(self) -> None:
        stream = _pipe(self._child.stdout)
        for line in stream:
            message = json.loads(line)
            if message["kind"] == "done":
                self._engine = stream.read(message["engine_bytes"])
                self._timing_cache = stream.read(message["timing_cache_bytes"])
                if len(self._engine) < message["engine_bytes"]:
                    break
            self._messages.put(message)
        self._messages.put(None)

    def _drain(self) -> None:
        for line in _pipe(self._child.stderr):
            self._complaints = (self._complaints + line)[-2000:]

    def _death(self) -> str:
        code = self._child.wait()
        if code == -signal.SIGKILL:
            return (
                f"{self._title}: the build process was killed, most likely because memory ran out;"
                " close other programs, add swap, or build int8, which needs least"
            )
        last = self._complaints.decode(errors="replace").strip().splitlines()
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        told = last[-1] if last else "it gave no reason"
        if -code in {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS}:
            told += "; the builder may crash where memory runs out: close other programs, add swap, or build int8"
        return f"{self._title}: the build process ended with {reason}: {told}"


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
