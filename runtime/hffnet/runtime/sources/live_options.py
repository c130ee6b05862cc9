"""Addresses of live sources and what may be set about them; knows no device."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hffnet.runtime.errors import ConfigError

LIVE_SCHEMES = ("rtsp", "rtsps", "v4l2", "screen")
_URI = re.compile(r"^([a-z0-9]+):(.*)$", re.DOTALL)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
_Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]


class LiveOptions(BaseModel):
    """Options after ``?`` (after ``#`` for rtsp, whose addresses may hold a ``?`` of their own).

    Attributes:
        open_timeout_s: how long opening and the first frame may take.
        stall_s: without a frame for so long the source is "stalled".
        read_timeout_s: without a frame for so long the capture process is killed and the source opened anew.
        max_age_s: frames older than this are not classified; a newer one is waited for.
        width, height, fps: asked of a V4L2 device; ``fps`` also is how often the screen is looked at (10).
        every: of a video file, only every so many-th frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    open_timeout_s: _Seconds = 10.0
    stall_s: _Seconds = 2.0
    read_timeout_s: _Seconds = 5.0
    max_age_s: _Seconds = 0.5
    width: Annotated[int, Field(ge=1, le=65536)] | None = None
    height: Annotated[int, Field(ge=1, le=65536)] | None = None
    fps: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    every: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAddress:
    """Where a live source is.

    Attributes:
        scheme: before the first colon.
        target: what is opened: a device, a whole URL, a rectangle, a file.
        name: the address for people, logs and records, without user name and password.
        options: how.
    """

    scheme: str
    target: str
    name: str
    options: LiveOptions


def address_from_uri(uri: str) -> LiveAddress:
    """Take an address apart.

    Raises:
        ConfigError: it has no scheme, or an option that is not known.

    >>> address_from_uri("rtsp://me:secret@camera/live?x=1#stall_s=3").name
    'rtsp://camera/live?x=1'
    """
    name = _CREDENTIALS.sub("", uri)
    match = _URI.match(uri)
    if match is None:
        raise ConfigError(f"source {name!r} has no scheme; expected rtsp://…, v4l2:DEVICE, screen:… or video:FILE")
    scheme, rest = match.groups()
    mark = "#" if scheme.startswith("rtsp") else "?"
    target, _, query = rest.partition(mark)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        options = LiveOptions.model_validate(dict(pairs))
    except (ValidationError, ValueError) as error:
        known = ", ".join(LiveOptions.model_fields)
        raise ConfigError(f"source {name!r} has options that cannot be used ({error}); it takes {known}") from error
    whole = f"{scheme}:{target}"
    return LiveAddress(
        scheme=scheme,
        target=whole if mark == "#" else target,
        name=_CREDENTIALS.sub("", whole),
        options=options,
    )
