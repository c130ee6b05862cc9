"""The routes that answer with a PDF; one is made at a time."""

from threading import Lock
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import FastAPI, Path, Query
from fastapi.responses import Response

from hffnet.runtime.annotate import overlay
from hffnet.runtime.dashboard.access import Refusal
from hffnet.runtime.dashboard.pictures import resized
from hffnet.runtime.dashboard.previews import GoneError
from hffnet.runtime.dashboard.session import Opened
from hffnet.runtime.dashboard.view import BusyError, View
from hffnet.runtime.errors import RecordError
from hffnet.runtime.frame import GreyPixels
from hffnet.runtime.record import MOST_SEQ, Record

_MOST_WITH_FRAMES, _MOST_ROWS = 100, 2000
_PICTURE_WIDTH = 720
_JPEG_QUALITY = 88
_PATIENCE_S = 30.0


def add_reports(app: FastAPI, view: View) -> None:
    """Add both routes."""
    making = Lock()
    pdf: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}}
    }

    @app.get("/v1/records/{seq}/report.pdf", tags=["reports"], response_class=Response, responses=pdf)
    def report_of_frame(seq: Annotated[int, Path(ge=1, le=MOST_SEQ)]) -> Response:
        """The report of one frame."""
        return _made(making, view.opened, seq, seq, with_frames=True, is_session=False)

    @app.get("/v1/report.pdf", tags=["reports"], response_class=Response, responses=pdf)
    def report_of_session(
        first: Annotated[int, Query(ge=1, le=MOST_SEQ, description="Number of the first record.")],
        last: Annotated[int, Query(ge=1, le=MOST_SEQ, description="Number of the last record.")],
        frames: Annotated[bool, Query(description="Also a part for each frame.")] = True,
    ) -> Response:
        """The report of a session: an overview and a row per result, with frames a part for each as well."""
        return _made(making, view.opened, first, last, with_frames=frames, is_session=True)


def _made(making: Lock, opened: Opened, first: int, last: int, *, with_frames: bool, is_session: bool) -> Response:
    if not making.acquire(timeout=_PATIENCE_S):
        raise BusyError("another report is being made; ask again in a minute")
    try:
        from hffnet.runtime.dashboard.report import frame_report, session_report

        records = _results(opened, first, last, _MOST_WITH_FRAMES if with_frames else _MOST_ROWS)
        overrides = opened.search.overrides([record.seq for record in records])
        entries = [_entry(opened, one, overrides.get(one.seq, []), with_frames=with_frames) for one in records]
        version = str(opened.model["hffnet_version"])
        data = (
            session_report(entries, version, with_frames=with_frames)
            if is_session
            else frame_report(entries[0], version)
        )
    finally:
        making.release()
    name = f"hffnet-records-{first}-{last}.pdf" if is_session else f"hffnet-record-{first}.pdf"
    return Response(data, media_type="application/pdf", headers={"Content-Disposition": f'inline; filename="{name}"'})


def _results(opened: Opened, first: int, last: int, most: int) -> list[Record]:
    if last < first:
        raise Refusal(422, f"records {first} to {last} were asked for; expected the first not above the last")
    results = list[Record]()
    cursor = first - 1
    while cursor < last and (rows := opened.search.after(cursor, 256)):
        cursor = rows[-1].seq
        results += [row for row in rows if row.kind == "result" and row.seq <= last]
        if len(results) > most:
            raise Refusal(
                422, f"records {first} to {last} hold more than {most} results; ask for fewer, or frames=false"
            )
    if not results:
        raise RecordError(f"there is no result among records {first} to {last}")
    return results


def _entry(opened: Opened, record: Record, overrides: list[Record], *, with_frames: bool) -> Any:  # noqa: ANN401
    from hffnet.runtime.dashboard.report import Entry

    if not with_frames:
        return Entry(record=record, overrides=overrides)
    try:
        picture = opened.previews.picture(record)
    except GoneError as error:
        return Entry(record=record, overrides=overrides, no_picture=str(error))
    return Entry(record=record, overrides=overrides, pictures=_pictures(record, picture))


def _pictures(record: Record, picture: GreyPixels) -> list[tuple[bytes, tuple[int, int]]]:
    """The frame, and where there is evidence the same with the evidence over it."""
    height, width = picture.shape
    if width > _PICTURE_WIDTH:
        size = (_PICTURE_WIDTH, max(round(height * _PICTURE_WIDTH / width), 1))
        picture = resized(picture, size)
    shown = [_jpeg(overlay(picture, np.zeros((1, 1), np.float32)))]
    evidence = (record.details or {}).get("evidence")
    if isinstance(evidence, dict):
        shown.append(_jpeg(overlay(picture, np.array(evidence["map"], np.float32))))
    return shown


def _jpeg(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[bytes, tuple[int, int]]:
    is_done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert is_done, "OpenCV encodes 8-bit pictures"
    return data.tobytes(), (pixels.shape[1], pixels.shape[0])
