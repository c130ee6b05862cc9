"""One PNG per classified file: evidence overlay, scale bar and decision, drawn from the record and the file itself.

The file is read again (``read_again``) and must still hold the very bytes that were classified; a file that is gone or
changed gets no picture, and that is told in the log. So is one that drawing fails on: the next record gets its own.
Live frames are not kept, so there is nothing to draw them on.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import FrameError, HffnetError, RecordError
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.read_again import ReadAgain
from hffnet.runtime.record import Record

_log = logging.getLogger(__name__)
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


class AnnotatedSink:
    """Writes ``<seq>-<name>.png`` into a folder.

    Args:
        folder: for the pictures.
        reading: what reading a file again may cost.

    Attributes:
        num_skipped: records in this run that got no picture and will get none.
    """

    def __init__(self, folder: Path, reading: ReadingSettings | None = None) -> None:
        self.name = f"annotated:{folder.absolute()}"
        self.num_skipped = 0
        self._folder = folder
        self._read_again = ReadAgain(reading)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"{folder} cannot be made ({error.strerror}); name another folder") from error

    def start(self, cursor: int | None, last_seq: int) -> int:
        """A new folder gets what comes from now on: older files may be gone."""
        return last_seq if cursor is None else cursor

    def deliver(self, records: Sequence[Record]) -> None:
        """Draw; a picture that is there already is the same one.

        Raises:
            OSError, HffnetError: the folder cannot be written to, or nothing can be read now; it will come again.
        """
        for record in records:
            if record.kind != "result" or record.status != "classified" or record.input_size is None:
                continue
            try:
                self._draw(record)
            except FrameError as error:
                self._skip(record, str(error))
            except (OSError, HffnetError):
                raise
            except Exception as error:  # noqa: BLE001 - one record must not hold up all that follow, nor their archive
                self._skip(record, f"drawing it ran into a defect: {type(error).__name__}: {error}")

    def close(self) -> None:
        """End the process that reads."""
        self._read_again.close()
        if self.num_skipped:
            _log.warning("sink %s: %d records of this run got no picture", self.name, self.num_skipped)

    def _skip(self, record: Record, reason: str) -> None:
        self.num_skipped += 1
        _log.warning("record %d gets no picture: %s", record.seq, reason)

    def path_of(self, record: Record) -> Path:
        """Where a record's picture is; names from outside become plain letters."""
        stem = _PLAIN.sub("_", Path(record.name).name)[:80]
        return self._folder / f"{record.seq:09d}-{stem}.png"

    def _draw(self, record: Record) -> None:
        import cv2

        from hffnet.runtime.annotate import at_most_for_eyes, overlay, with_legend

        evidence = (record.details or {}).get("evidence")
        if not isinstance(evidence, Mapping) or record.crop is None:
            raise FrameError(f"the record has no evidence of {record.input_path}")
        frame = self._read_again(record)
        top, left, height, width = (int(str(record.crop[key])) for key in ("top", "left", "height", "width"))
        cropped = frame.pixels[top : top + height, left : left + width]
        picture, um = at_most_for_eyes(cropped, frame.acquisition.pixel_size_um)
        drawn = overlay(picture, np.array(evidence["map"], np.float32))
        shown = with_legend(drawn, _lines(record, str(evidence["class"])), um)
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
