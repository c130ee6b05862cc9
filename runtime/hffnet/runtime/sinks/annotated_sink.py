"""One PNG per classified file: evidence overlay, scale bar and decision, drawn from the record and the file itself.

The file is read again and must still hold the very bytes that were classified; a file that is gone or changed gets no
picture, and that is told in the log. Live frames are not kept, so there is nothing to draw them on.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import FrameError, RecordError
from hffnet.runtime.record import Record

_log = logging.getLogger(__name__)
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


class AnnotatedSink:
    """Writes ``<seq>-<name>.png`` into a folder."""

    def __init__(self, folder: Path) -> None:
        self.name = f"annotated:{folder.absolute()}"
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"{folder} cannot be made ({error.strerror}); name another folder") from error

    def start(self, cursor: int | None, last_seq: int) -> int:
        """A new folder gets what comes from now on: older files may be gone."""
        return last_seq if cursor is None else cursor

    def deliver(self, records: Sequence[Record]) -> None:
        """Draw; a picture that is there already is the same one."""
        for record in records:
            if record.kind == "result" and record.status == "classified" and record.input_size is not None:
                self._draw(record)

    def close(self) -> None:
        """Nothing stays open."""

    def path_of(self, record: Record) -> Path:
        """Where a record's picture is; names from outside become plain letters."""
        stem = _PLAIN.sub("_", Path(record.name).name)[:80]
        return self._folder / f"{record.seq:09d}-{stem}.png"

    def _draw(self, record: Record) -> None:
        import cv2

        from hffnet.runtime.annotate import overlay, with_legend
        from hffnet.runtime.read import read_frame

        try:
            frame = read_frame(Path(str(record.input_path)), follow_links=False)
        except FrameError as error:
            _log.warning("record %d gets no picture: %s", record.seq, error)
            return
        evidence = (record.details or {}).get("evidence")
        if frame.sha256 != record.input_sha256 or not isinstance(evidence, Mapping) or record.crop is None:
            _log.warning("record %d gets no picture: %s was changed since", record.seq, record.input_path)
            return
        top, left, height, width = (int(str(record.crop[key])) for key in ("top", "left", "height", "width"))
        picture = frame.pixels[top : top + height, left : left + width]
        drawn = overlay(picture, np.array(evidence["map"], np.float32))
        shown = with_legend(drawn, _lines(record, str(evidence["class"])), frame.acquisition.pixel_size_um)
        _, data = cv2.imencode(".png", shown)
        with whole_file(self.path_of(record)) as temporary:
            temporary.write_bytes(data.tobytes())


def _lines(record: Record, node: str) -> list[str]:
    answer = " / ".join(record.answer) or "unsure"
    confidence = record.confidence[max(len(record.answer), 1) - 1] if record.confidence else 0.0
    area = (record.details or {}).get("area")
    modes = area["modes"] if isinstance(area, Mapping) else None
    if isinstance(modes, Sequence) and len(modes) > 1:
        answer = "mixed: " + ", ".join("/".join(map(str, mode)) for mode in modes if isinstance(mode, Sequence))
    return [
        f"{answer}  {confidence:.3f}   (colour: evidence for {node})",
        f"record {record.seq}  {record.name}  {record.created_utc[:19]} UTC",
    ]
