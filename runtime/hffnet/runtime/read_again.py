"""Reads a classified file a second time, to show it: only if it still holds the very bytes, and never in this process.

Between the record and the picture anybody may have put another file there. Its bytes are compared with the record's
hash before anything is decoded, and decoding is done by a process that can be killed, with the limits of ``[reading]``.
"""

from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

from hffnet.runtime.errors import FrameError
from hffnet.runtime.frame import Frame
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.read_worker import ReadWorker, read_here
from hffnet.runtime.record import Record


class ReadAgain:
    """One file after another, from any thread; the reading process is started with the first one.

    The process ends with the thread that started it, so that is one of its own: threads that serve requests come
    and go.

    Args:
        settings: ``[reading]`` of the run.
    """

    def __init__(self, settings: ReadingSettings | None = None) -> None:
        self._settings = settings or ReadingSettings()
        self._asked = SimpleQueue[tuple[Path, str, Future[Frame]] | None]()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._is_closed = False

    def __call__(self, record: Record) -> Frame:
        """The frame of a record.

        Raises:
            FrameError: it does not come from a file, or the file is gone, changed, or took more than it may.
            ReaderError: no process can be started to read it.
        """
        if record.input_path is None or record.input_sha256 is None or record.input_size is None:
            raise FrameError(f"record {record.seq} did not come from a file that can be read again")
        path, sha256 = Path(record.input_path), record.input_sha256
        if not self._settings.process:
            return read_here(path, None, self._settings, sha256)
        answer = Future[Frame]()
        with self._lock:
            if self._is_closed:
                raise FrameError(f"{path}: nothing is read any more, the run is over")
            self._asked.put((path, sha256, answer))
            if self._thread is None:
                self._thread = Thread(target=self._serve, name="read again", daemon=True)
                self._thread.start()
        return answer.result()

    def close(self) -> None:
        """End the process; a file in hand is given up."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
            self._asked.put(None)
        if thread is not None:
            thread.join()

    def _serve(self) -> None:
        with ReadWorker(self._settings, is_stopped=lambda: self._is_closed, hold_s=0.0) as worker:
            while (asked := self._asked.get()) is not None:
                path, sha256, answer = asked
                try:
                    answer.set_result(worker(path, sha256=sha256))
                except BaseException as error:  # noqa: BLE001 - raised again by the one who asked
                    answer.set_exception(error)
