"""Frames that programs send are decoded like files of the run: in a process that can be killed, within its limits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Frame
from hffnet.runtime.infobar import BarSetting
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.read import frame_from_bytes
from hffnet.runtime.read_worker import ReadWorker


class UploadDecoder:
    """One upload after another; the process is started with the first one, most runs get none.

    Args:
        settings: ``[reading]`` of the run.
        is_stopped: a decoding in hand is given up when it says so.
    """

    def __init__(self, settings: ReadingSettings, is_stopped: Callable[[], bool]) -> None:
        self._settings, self._is_stopped = settings, is_stopped
        self._lock = Lock()
        self._worker: ReadWorker | None = None

    def __call__(self, data: bytes, name: str, bar: BarSetting | None) -> Frame:
        """Decode.

        Raises:
            FrameError: it cannot be decoded, or took more than it may.
            ReaderError: no process can be started to decode it.
        """
        if not self._settings.process:
            return frame_from_bytes(data, name, limits=self._settings.limits, bar=bar)
        with self._lock, NamedTemporaryFile(prefix="hffnet-upload-") as file:
            file.write(data)
            file.flush()
            if self._worker is None:
                self._worker = ReadWorker(self._settings, is_stopped=self._is_stopped, hold_s=0.0)
            try:
                return replace(self._worker(Path(file.name), bar), name=name)
            except FrameError as error:
                raise FrameError(str(error).replace(file.name, name)) from error

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None
