"""The routes: every answer of the live view, one short function each."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from time import time
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from hffnet.runtime.dashboard import documents as said
from hffnet.runtime.dashboard.access import Access, Keys, Refusal
from hffnet.runtime.dashboard.classified import tiles_document
from hffnet.runtime.dashboard.previews import GoneError
from hffnet.runtime.dashboard.reports import add_reports
from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.dashboard.stream import EventStream
from hffnet.runtime.dashboard.view import BusyError, NotReadyError, View
from hffnet.runtime.dashboard.writes import add_writes
from hffnet.runtime.errors import HffnetError, RecordError
from hffnet.runtime.record import MOST_SEQ, Record
from hffnet.runtime.records_search import Reviewed, UnreadableError

Seq = Annotated[int, Path(ge=1, le=MOST_SEQ, description="Number of a record.")]
Width = Annotated[int | None, Query(ge=16, le=2048, description="Pixels; smaller where the picture is.")]
ClassName = Annotated[str | None, Query(max_length=200)]
_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
# For the document alone: the guard around the application has checked the token before a route is reached.
_TOKEN = HTTPBearer(auto_error=False, description="The token that was shown when the run started.")
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": said.ErrorSaid, "description": text}
    for code, text in {
        401: "No or a wrong token.",
        403: "Another site's page asked, or the second secret of a write is missing.",
        404: "There is no such thing, or not any more.",
        421: "Not known by this Host.",
        422: "A parameter is not of the kind that is expected.",
        429: "Too many requests.",
        503: "Not ready, or too many ask.",
    }.items()
}


def build_app(view: View, keys: Keys, choice: ViewChoice) -> ASGIApp:
    """The application with its guard."""
    app = FastAPI(
        title="hffnet live view",
        version="1",
        description="What a running hffnet sees and decides. Send Authorization: Bearer TOKEN.",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
        dependencies=[Depends(_TOKEN)],
    )
    _add_errors(app)
    _add_service(app, view)
    _add_run(app, view, keys, choice)
    _add_records(app, view)
    _add_frames(app, view)
    add_writes(app, view, choice)
    add_reports(app, view)
    _add_page(app)
    is_secure = choice.tls_cert is not None or choice.behind_proxy
    return Access(app, keys, (*choice.hosts, choice.host), is_secure=is_secure)


def sentence_answer(status: int, sentence: str) -> JSONResponse:
    """An error as JSON."""
    return JSONResponse({"error": sentence}, status)


def _add_errors(app: FastAPI) -> None:
    def on_hffnet(_request: Request, error: Exception) -> JSONResponse:
        match error:
            case NotReadyError() | BusyError() | UnreadableError():
                return sentence_answer(503, str(error))
            case RecordError() | GoneError():
                return sentence_answer(404, str(error))
        return sentence_answer(500, str(error))

    def on_invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:8])
        return sentence_answer(422, faults)

    def on_http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = sentence_answer(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    def on_refusal(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        answer = sentence_answer(error.status, str(error))
        # What was not read of the body is not read: the connection ends with this answer.
        answer.headers["connection"] = "close"
        return answer

    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(HffnetError, on_hffnet)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _add_service(app: FastAPI, view: View) -> None:
    @app.get("/healthz", tags=["service"], response_model=said.HealthSaid)
    async def healthz() -> Response:
        """Whether the view's process answers."""
        return JSONResponse({"status": "ok", "reason": None})

    @app.get("/readyz", tags=["service"], response_model=said.HealthSaid)
    async def readyz() -> Response:
        """Whether frames are classified; 503 while starting, stopping, or where the self-test failed."""
        session = view.session
        is_ready = session.readiness == "running"
        return JSONResponse(
            {
                "status": session.readiness,
                "reason": session.reason,
                **({} if is_ready else {"error": session.readiness}),
            },
            200 if is_ready else 503,
        )

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus' text format; counters begin with this process."""
        return Response(view.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_run(app: FastAPI, view: View, keys: Keys, choice: ViewChoice) -> None:
    @app.get("/v1/session", tags=["page"], response_model=said.SessionSaid)
    async def session() -> Response:
        """The second secret of writes, and the limits of this view."""
        limits = {"max_upload_mb": choice.max_upload_mb, "max_clients": choice.max_clients}
        return JSONResponse({"schema_version": 1, "csrf": keys.csrf, "limits": limits})

    @app.get("/v1/model", tags=["run"], response_model=said.ModelSaid)
    async def model() -> Response:
        """What answers."""
        return JSONResponse(view.opened.model)

    @app.get("/v1/state", tags=["run"], response_model=said.StateSaid)
    async def state() -> Response:
        """How the run is doing."""
        return JSONResponse(view.state_json())

    @app.get("/v1/shares", tags=["run"], response_model=said.SharesSaid)
    async def shares(
        bins: Annotated[int, Query(ge=1, le=360)] = 60,
        minutes: Annotated[float, Query(gt=0, le=1440, allow_inf_nan=False)] = 60,
    ) -> Response:
        """Fractions of answers over time."""
        names = [level.name for level in view.opened.taxonomy.levels]
        return JSONResponse(view.shares.document(names, num_bins=bins, minutes=minutes, now_s=time()))

    @app.get(
        "/v1/events",
        tags=["run"],
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def events(
        after: Annotated[int | None, Query(ge=0, le=MOST_SEQ)] = None,
        last_event_id: Annotated[str | None, Header(max_length=40)] = None,
    ) -> Response:
        """Server-sent events: record, review, service, state; ids are record numbers."""
        broadcast = view.broadcast
        if broadcast.is_full:
            return sentence_answer(503, f"{broadcast.num_clients} clients follow already; close one")
        cursor = int(last_event_id) if last_event_id and last_event_id.isdecimal() else after
        broadcast.num_clients += 1

        def leave() -> None:
            broadcast.num_clients -= 1

        return EventStream(broadcast.follow(cursor), leave)


def _add_records(app: FastAPI, view: View) -> None:
    @app.get("/v1/records", tags=["records"], response_model=said.RecordPage)
    def records(
        before: Annotated[int | None, Query(ge=1, le=MOST_SEQ, description="`next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        class_name: Annotated[str | None, Query(alias="class", max_length=200)] = None,
        gate: Annotated[str | None, Query(max_length=200)] = None,
        reviewed: Reviewed | None = None,
    ) -> Response:
        """Results, newest first; a filtered page may be short and yet have a `next`."""
        search = view.opened.search
        page = search.page(before=before, limit=limit, node=class_name, gate=gate, reviewed=reviewed)
        overrides = search.overrides([record.seq for record in page.records])
        shown = [said.short_json(record, overrides.get(record.seq, ())) for record in page.records]
        return JSONResponse({"schema_version": 1, "records": shown, "next": page.next_before})

    @app.get("/v1/records/{seq}", tags=["records"], response_model=said.RecordWhole)
    def record(seq: Seq) -> Response:
        """Everything in a record and what people decided on it."""
        found = result_of(view, seq)
        return JSONResponse(said.whole_json(found, view.opened.search.overrides([seq]).get(seq, ())))


def result_of(view: View, seq: int) -> Record:
    """A result by its number; raises RecordError where there is none."""
    found = view.opened.store.get(seq)
    if found.kind != "result":
        raise RecordError(f"record {seq} is no result but an {found.kind}")
    return found


def _add_frames(app: FastAPI, view: View) -> None:
    png: dict[int | str, dict[str, Any]] = {
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
    }

    @app.get("/v1/frames/{seq}.png", tags=["frames"], response_class=Response, responses=png)
    def frame(seq: Seq, width: Width = None) -> Response:
        """The frame as it was analysed, in 8 bits for eyes."""
        return _picture(view.opened.previews.frame_png(result_of(view, seq), width))

    @app.get("/v1/frames/{seq}/evidence.png", tags=["frames"], response_class=Response, responses=png)
    def evidence(
        seq: Seq,
        level: Annotated[str | None, Query(max_length=200)] = None,
        class_name: Annotated[str | None, Query(alias="class", max_length=200)] = None,
        width: Annotated[int, Query(ge=16, le=2048)] = 640,
    ) -> Response:
        """Where the evidence for a class lies, as a transparent layer; without a class, for the answer."""
        opened = view.opened
        number = None
        if class_name is not None:
            names = [one.name for one in opened.taxonomy.levels]
            holders = [i for i, one in enumerate(opened.taxonomy.levels) if class_name in one.classes]
            number = names.index(level) if level in names else (holders[-1] if holders else None)
        return _picture(opened.previews.evidence_layer(result_of(view, seq), number, class_name, width))

    @app.get("/v1/frames/{seq}/tiles", tags=["frames"], response_model=said.TilesSaid)
    def tiles(seq: Seq) -> Response:
        """How a large frame was cut, and what each tile says while its evidence is at hand."""
        opened, found = view.opened, result_of(view, seq)
        overlap = opened.tile_overlap if opened.tile_overlap is not None else 0.25
        maps = opened.previews.evidence_of(seq)
        document = tiles_document(found, maps, opened.taxonomy, opened.decode, overlap)
        return JSONResponse(document) if document else sentence_answer(404, f"the frame of record {seq} was not cut")


def _picture(data: bytes) -> Response:
    # A record's frame never changes; the cache is the browser's own and private.
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _add_page(app: FastAPI) -> None:
    """The page's files, read now: what is asked for later is looked up in this list and opens nothing."""
    found = dict[str, tuple[bytes, str]]()
    folder = files("hffnet.runtime.dashboard") / "page"
    if folder.is_dir():
        for item in folder.iterdir():
            kind = _PAGE_TYPES.get(f".{item.name.rpartition('.')[2]}")
            if kind and item.is_file():
                found[item.name] = item.read_bytes(), kind

    def serve(name: str) -> Callable[[], Awaitable[Response]]:
        async def page_file() -> Response:
            data, kind = found[name]
            return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

        return page_file

    for name in found:
        app.add_api_route(f"/page/{name}", serve(name), include_in_schema=False)
    if "index.html" in found:
        app.add_api_route("/", serve("index.html"), include_in_schema=False)
