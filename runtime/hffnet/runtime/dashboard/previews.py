"""The frames that can still be shown: a bounded store of previews, filled by the run, or from the file itself.

A file is read again only through its record, never by a name from outside, and shown only where it still holds the
very bytes that were classified, which is asked before anything is decoded (``read_again``).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from hffnet.runtime.dashboard.pictures import evidence_png, preview_png, reduced
from hffnet.runtime.dashboard.wire import Message, WireError
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.read_again import ReadAgain
from hffnet.runtime.record import Json, Record
from hffnet.runtime.taxonomy import Taxonomy

_MOST_BYTES = 64 * 2**20
_MOST_ENCODED_BYTES = 32 * 2**20
Make = Callable[[], bytes]
_DTYPES = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}


class GoneError(HffnetError):
    """A frame, or evidence for a class, is no longer at hand; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What can be shown of one frame.

    Attributes:
        picture: (H, W), the analysed crop, reduced, in its own depth.
        evidence: (ΣC, h, w) float32; None where only the record's map is left.
    """

    picture: GreyPixels
    evidence: npt.NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.picture.nbytes + (self.evidence.nbytes if self.evidence is not None else 0)


def preview_message(seq: int, picture: GreyPixels, evidence: npt.NDArray[np.float32] | None) -> Message:
    """A preview on its way to the view's process."""
    small = np.ascontiguousarray(reduced(picture))
    maps = np.ascontiguousarray(evidence, np.float32) if evidence is not None else None
    fields: dict[str, Json] = {"seq": seq, "shape": list(small.shape), "dtype": small.dtype.name}
    payload = small.tobytes() + (maps.tobytes() if maps is not None else b"")
    return Message("preview", {**fields, "evidence": list(maps.shape) if maps is not None else None}, payload)


def preview_from_message(message: Message) -> Preview:
    """The preview that came; raises WireError where sizes do not fit."""
    shape, grid = message.fields.get("shape"), message.fields.get("evidence")
    try:
        dtype = np.dtype(_DTYPES[message.text_of("dtype")])
        height, width = (int(str(n)) for n in shape) if isinstance(shape, list) else (0, 0)
        picture = np.frombuffer(message.payload, dtype, height * width).reshape(height, width)
        evidence = None
        if isinstance(grid, list):
            sides = [int(str(n)) for n in grid]
            maps = np.frombuffer(message.payload, np.float32, -1, picture.nbytes)
            evidence = maps.reshape(sides)
    except (KeyError, ValueError) as error:
        raise WireError(f"a preview is not of the size and type it says ({error})") from error
    return Preview(picture, evidence)


class Previews:
    """Keeps the newest previews and the pictures made of them, each within a fixed number of bytes."""

    def __init__(
        self, taxonomy: Taxonomy, most_bytes: int = _MOST_BYTES, reading: ReadingSettings | None = None
    ) -> None:
        self._read_again = ReadAgain(reading)
        self._taxonomy, self._most_bytes = taxonomy, most_bytes
        self._kept = OrderedDict[int, Preview]()
        self._encoded = OrderedDict[tuple[int, str], bytes]()
        self._bytes = self._encoded_bytes = 0
        self._lock, self._reading = Lock(), Lock()

    def close(self) -> None:
        """End the process that reads files again, if one was needed."""
        self._read_again.close()

    def add(self, seq: int, preview: Preview) -> None:
        """Keep one; the oldest go where the space is used up."""
        with self._lock:
            if (before := self._kept.pop(seq, None)) is not None:
                self._bytes -= before.nbytes
            self._kept[seq] = preview
            self._bytes += preview.nbytes
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def frame_png(self, record: Record, width: int | None) -> bytes:
        """The frame of a record as it was analysed.

        Raises:
            GoneError: it is not at hand any more.
        """
        return self._remembered((record.seq, f"frame {width}"), lambda: preview_png(self.picture(record), width))

    def evidence_layer(self, record: Record, level: int | None, name: str | None, width: int) -> bytes:
        """Evidence for one class, to be laid over the frame.

        Args:
            record: of a classified frame.
            level: index of a level; None together with ``name`` takes the class that the record's map is about.
            name: a class of that level.
            width: of the layer; its height follows the crop.

        Raises:
            GoneError: no evidence for that class is at hand.
        """
        key = (record.seq, f"evidence {level} {name} {width}")
        return self._remembered(key, lambda: self._layer(record, level, name, width))

    def evidence_of(self, seq: int) -> npt.NDArray[np.float32] | None:
        """All maps of a frame, (ΣC, h, w); None where they are not at hand."""
        with self._lock:
            preview = self._kept.get(seq)
        return preview.evidence if preview else None

    def _layer(self, record: Record, level: int | None, name: str | None, width: int) -> bytes:
        crop = record.crop
        if crop is None or record.status != "classified":
            raise GoneError(f"record {record.seq} was not classified, so there is no evidence")
        height = min(max(round(width * int(str(crop["height"])) / max(int(str(crop["width"])), 1)), 1), 4 * width)
        told = (record.details or {}).get("evidence")
        told = told if isinstance(told, Mapping) else {}
        maps = self.evidence_of(record.seq)
        if name is None:
            name = str(told.get("class"))
            level = next((i for i, one in enumerate(self._taxonomy.levels) if name in one.classes), None)
        if maps is not None and level is not None and name in self._taxonomy.levels[level].classes:
            columns = self._taxonomy.slices()[level]
            grid = maps[columns.start + self._taxonomy.levels[level].classes.index(name)]
            return evidence_png(grid, float(maps[columns].max()), (width, height))
        if told.get("class") == name:
            grid = np.array(told["map"], np.float32)
            return evidence_png(grid, float(grid.max()), (width, height))
        raise GoneError(
            f"evidence for {name!r} in record {record.seq} is not at hand any more; the record itself keeps the map"
            f" of {told.get('class')!r} alone"
        )

    def picture(self, record: Record) -> GreyPixels:
        """The analysed crop, reduced, in its own depth.

        Raises:
            GoneError: it is not at hand any more.
        """
        with self._lock:
            preview = self._kept.get(record.seq)
        if preview is None:
            # One at a time: a file may take as much memory as the limits on frames allow.
            with self._reading:
                preview = Preview(_picture_from_file(record, self._read_again), None)
            self.add(record.seq, preview)
        return preview.picture

    def _remembered(self, key: tuple[int, str], make: Make) -> bytes:
        with self._lock:
            if (known := self._encoded.get(key)) is not None:
                self._encoded.move_to_end(key)
                return known
        data = make()
        with self._lock:
            if key not in self._encoded:
                self._encoded[key] = data
                self._encoded_bytes += len(data)
            while self._encoded_bytes > _MOST_ENCODED_BYTES and len(self._encoded) > 1:
                self._encoded_bytes -= len(self._encoded.popitem(last=False)[1])
        return data


def _picture_from_file(record: Record, read_again: ReadAgain) -> GreyPixels:
    gone = f"the frame of record {record.seq} is not at hand any more"
    if record.crop is None or record.input_path is None or record.input_sha256 is None:
        raise GoneError(f"{gone}: it did not come from a file that can be read again")
    if (record.details or {}).get("live") is not None or record.input_size is None:
        raise GoneError(f"{gone}: live frames are kept for a while only")
    try:
        frame = read_again(record)
    except HffnetError as error:
        why = "was changed since" if "changed since" in str(error) else "cannot be read again"
        raise GoneError(f"{gone}: its file {why}") from error
    top, left, height, width = (int(str(record.crop[key])) for key in ("top", "left", "height", "width"))
    return reduced(frame.pixels[top : top + height, left : left + width])
