"""The two things that change something: a person's decision, and a frame to be classified for a program."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import ClientDisconnect

from hffnet.runtime.dashboard import documents as said
from hffnet.runtime.dashboard.access import Rate, Refusal
from hffnet.runtime.dashboard.classified import evidence_document
from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.dashboard.view import BusyError, View
from hffnet.runtime.errors import RecordError
from hffnet.runtime.overrides import ACCEPT, draft_from_override
from hffnet.runtime.record import MOST_SEQ, Json, Record

_MOST_REVIEW_BYTES = 32 * 2**10
_REVIEW_S, _UPLOAD_S = 10.0, 60.0
_MOST_UPLOADS = 4
_Text = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")
]
"""One line of visible text."""


class ReviewAsked(BaseModel):
    """A person's decision: ``accept`` the answer, or ``override`` it with the path of any node of the tree."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    decision: Literal["accept", "override"]
    path: tuple[_Text, ...] = Field(default=(), max_length=32)
    operator: _Text
    reason: Annotated[str, StringConstraints(max_length=2000)] | None = None


def add_writes(app: FastAPI, view: View, choice: ViewChoice) -> None:
    """Add both routes."""
    _add_review(app, view)
    _add_classify(app, view, choice)


def _add_review(app: FastAPI, view: View) -> None:
    schema = ReviewAsked.model_json_schema()

    @app.post(
        "/v1/records/{seq}/review",
        tags=["records"],
        status_code=201,
        response_model=said.ReviewWritten,
        responses={408: {"model": said.ErrorSaid}, 413: {"model": said.ErrorSaid}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )
    async def review(seq: Annotated[int, Path(ge=1, le=MOST_SEQ)], request: Request) -> Response:
        """Put a person's decision on record, beside the model's and never instead of it."""
        opened = view.opened
        result = await asyncio.to_thread(opened.store.get, seq)
        asked = _review_from_body(await _body(request, _MOST_REVIEW_BYTES, _REVIEW_S))
        draft = _draft(view, result, asked)
        try:
            row = await asyncio.to_thread(opened.store.append, draft)
        except RecordError as error:
            raise BusyError(str(error)) from error
        view.wake()
        return JSONResponse({"schema_version": 1, "review": said.review_json(row), "hash": row.hash}, 201)


def _review_from_body(body: bytes) -> ReviewAsked:
    try:
        return ReviewAsked.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:8])
        raise Refusal(422, f"this is no decision: {faults}") from error


def _draft(view: View, result: Record, asked: ReviewAsked) -> Any:  # noqa: ANN401
    if asked.decision == "accept" and asked.path and asked.path != tuple(result.answer):
        raise Refusal(422, f"the answer of record {result.seq} is {list(result.answer)}; accept it, or override")
    if asked.decision == "override":
        _check_path(view, result, asked.path)
    decision = ACCEPT if asked.decision == "accept" else "/".join(asked.path)
    try:
        return draft_from_override(result, person=asked.operator, decision=decision, reason=asked.reason)
    except RecordError as error:
        raise Refusal(422, str(error)) from error


def _check_path(view: View, result: Record, path: tuple[str, ...]) -> None:
    """A path of the tree, from the top down to any node; for records of another model its scores have the say."""
    taxonomy, model = view.opened.taxonomy, view.opened.model
    bundle = model["bundle"]
    if not isinstance(bundle, dict) or bundle["sha256"] != result.bundle_sha256:
        return
    known = {taxonomy.path_of_leaf(leaf)[: len(path)] for leaf in range(taxonomy.num_leaves)}
    if not path or path not in known:
        leaves = ", ".join("/".join(taxonomy.path_of_leaf(leaf)) for leaf in range(taxonomy.num_leaves))
        raise Refusal(422, f"{'/'.join(path)!r} is no path of the class tree; it has {leaves}")


def _add_classify(app: FastAPI, view: View, choice: ViewChoice) -> None:
    rate = Rate(choice.max_classify_per_s, max(choice.max_classify_per_s, 2.0))
    most_bytes = round(choice.max_upload_mb * 2**20)
    num_uploads = 0
    binary = {"schema": {"type": "string", "format": "binary"}}

    @app.post(
        "/v1/classify",
        tags=["programs"],
        response_model=said.PredictionSaid,
        responses={code: {"model": said.ErrorSaid} for code in (408, 413, 500)},
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": binary}}},
    )
    async def classify(
        request: Request,
        evidence: Annotated[bool, Query(description="Also the evidence for the answer, as a PNG in base64.")] = False,
        name: Annotated[str, Query(min_length=1, max_length=200)] = "frame",
    ) -> Response:
        """Classify one TIFF, PNG, JPEG or BMP on the run's own engine; nothing is recorded."""
        nonlocal num_uploads
        if num_uploads >= _MOST_UPLOADS:
            raise BusyError(f"{num_uploads} frames are being sent already; send one when another is answered")
        if not rate.takes():
            raise Refusal(429, f"at most {choice.max_classify_per_s:g} frames a second are classified for programs")
        num_uploads += 1
        try:
            data = await _body(request, most_bytes, _UPLOAD_S)
            if not data:
                raise Refusal(422, "the body is empty; expected the bytes of a TIFF, PNG, JPEG or BMP")
            answer = await view.classify(data, name)
        finally:
            num_uploads -= 1
        document = answer.fields.get("document")
        status = answer.int_of("status")
        if not isinstance(document, dict):
            raise BusyError("the run's answer is not understood")
        if status == 200 and evidence:
            layer: Json = await asyncio.to_thread(evidence_document, answer, view.opened.taxonomy)
            document = {**document, "evidence": layer}
        return JSONResponse(document, status)


async def _body(request: Request, most_bytes: int, within_s: float) -> bytes:
    """The whole body; refused by its announced length before a byte is read, and by what really comes."""
    announced = request.headers.get("content-length", "0")
    too_large = f"at most {most_bytes} bytes are taken"
    if not announced.isdecimal() or len(announced) > 18 or int(announced) > most_bytes:
        raise Refusal(413, too_large)
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise Refusal(413, too_large)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not come within {within_s:.0f} s") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the client went away before the body was there") from error
    return bytes(body)
