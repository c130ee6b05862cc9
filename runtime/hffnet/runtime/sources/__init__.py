"""Where frames come from: one protocol, one URI grammar, one module per kind of source.

==========================================  =============================================================
``dir:/data/out?pattern=*.tif&recursive=1``  watch a folder, for ever or until idle (``watch_folder``)
``/data/out``                                the same with the defaults, where this is a folder
``glob:/data/out/**/*.tif``                  the files that match now, in sorted order (``glob_source``)
``/data/out/frame.tif``                      one file
``video:FILE?every=1``                       the frames of a video file (``video_source``)
``-``                                        length-prefixed image files on stdin (``stream_source``)
``rtsp://…``                                 a network camera (``live_source``)
``v4l2:/dev/v4l/by-id/…?fps=30``             a camera or frame grabber, by its id
``screen:LEFT,TOP,WIDTH,HEIGHT?fps=10``      a rectangle of the screen
==========================================  =============================================================

The first six are archival: each item is offered until it is handed over, none is dropped, and a slow reader holds the
source back. The others are live: the newest frame is offered, what came in between is dropped and counted. Programs
hand over arrays with ``array_source``.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Protocol, Self
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hffnet.runtime.errors import ConfigError
from hffnet.runtime.record import EventName, Json
from hffnet.runtime.sources.live_options import LIVE_SCHEMES, address_from_uri

if TYPE_CHECKING:
    from hffnet.runtime.frame import Frame
    from hffnet.runtime.infobar import BarSetting

IMAGE_PATTERNS = ("*.tif", "*.tiff", "*.png", "*.jpg", "*.jpeg", "*.bmp")
"""What a watched folder offers where no pattern is given; compared without case."""

_SCHEME = re.compile(r"^([a-z][a-z0-9]+):(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells one version of a file from another without reading it.

    Attributes:
        size: bytes.
        mtime_ns: of its content, since 1970; times that 64 bits do not hold (before 1677, after 2262) are the nearest
            that they do, because records store them so.
        inode: of its name.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> Self:
        """The stamp in an ``lstat`` result."""
        return cls(status.st_size, min(max(status.st_mtime_ns, -(2**63)), 2**63 - 1), status.st_ino)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file that is ready to be read.

    Attributes:
        path: absolute, symbolic links in the file's own name never followed.
        name: for people: the path below the watched folder, or as found.
        stamp: the version of the file that was found settled.
        found_at: monotonic seconds when the file was first seen.
        settled_at: monotonic seconds when it was found complete; latency counts from here.
        final: whether the source has done its waiting: what cannot be read now is taken to stay so.
        problem: why the source gave up on it (locked); such an item is recorded and not read.
    """

    path: Path
    name: str
    stamp: FileStamp
    found_at: float
    settled_at: float
    final: bool = True
    problem: str | None = None

    def is_unchanged(self) -> bool:
        """Whether the file still is the regular file that was found settled."""
        try:
            status = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and FileStamp.from_stat(status) == self.stamp


class ReadFrame(Protocol):
    """Makes a frame of what is in memory."""

    def __call__(self, *, bar: "BarSetting | None" = None) -> "Frame":
        """Raises FrameError; ``bar`` is what is known of the instrument's info bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameItem:
    """A frame that is in memory already.

    Attributes:
        name: for people and records.
        read: makes the frame, on the reader's thread; raises FrameError.
        found_at, settled_at: monotonic seconds when it was captured or complete; its age counts from here.
        path, stamp: what it is known by across restarts, where the source can tell (frames of a video file).
        is_live: whether it is one of a live source, where a repeated picture is a fault.
        facts: for the record's details.
    """

    name: str
    read: ReadFrame
    found_at: float
    settled_at: float
    path: Path | None = None
    stamp: FileStamp | None = None
    is_live: bool = False
    facts: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened to the source, for the records; ``reason`` is a sentence."""

    event: EventName
    reason: str
    details: Mapping[str, Json]


IsDone = Callable[[Path, FileStamp], bool]
"""Asked for files that were there before the run: whether the records hold this version already."""


class Source(Protocol):
    """Offers items to one reader thread."""

    @property
    def is_live(self) -> bool:
        """Whether only the newest frame counts: the next is asked for when it can be classified at once."""

    def items(self, stop: Event) -> Iterator[Item | FrameItem | Notice]:
        """Every item exactly once, until the source ends or ``stop`` is set (which ends any waiting at once).

        Raises:
            SourceError: it has failed for good.
        """

    def retry(self, item: Item) -> bool:
        """Take back an item that could not be read; call before asking for the next one, on the same thread.

        Returns:
            Whether it will be offered again (or is gone for good reason), so that nothing is to be recorded now.
        """


class FolderOptions(BaseModel):
    """Options after ``?`` in a ``dir:`` source.

    Attributes:
        pattern: which names are frames, ``*`` and ``?`` as in a shell; several with commas.
        recursive: sub-folders too.
        poll_s: pause between two looks. Events do not cross SMB or NFS, so looking is the main path.
        events: also look at once where the system tells of a new file (Linux, local disks).
        settle_s: a file whose size, time and inode stay the same this long, in two looks, is complete; a little below
            ``poll_s`` so that the second look suffices.
        patience_s: how long a file that is locked, empty, held open by its writer or not yet readable must stay
            unchanged before it is recorded with that reason.
        sidecar_s: how long a complete frame waits for the text file that JEOL and Hitachi instruments write beside it,
            and that may come later; after that its scale is "not said". None: 2 s in a folder where such a text has
            been seen, and not at all elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = ",".join(IMAGE_PATTERNS)
    recursive: bool = False
    poll_s: Annotated[float, Field(ge=0.01, le=3600.0)] = 0.1
    events: bool = True
    settle_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 0.08
    patience_s: Annotated[float, Field(ge=0.0, le=86400.0)] = 10.0
    sidecar_s: Annotated[float, Field(ge=0.0, le=3600.0)] | None = None


def open_source(uri: str, *, idle_exit_s: float | None = None, is_done: IsDone | None = None) -> Source:
    """Open a source of frames.

    Args:
        uri: see the module's table.
        idle_exit_s: a watched folder ends when nothing was new for this long; None watches for ever. Other
            sources end by themselves.
        is_done: skips files that were recorded by an earlier run.

    Raises:
        ConfigError: the URI has an unknown scheme or option.
        SourceAwayError: the folder or file does not exist now, or nothing matches.
        SourceError: what is there cannot be used.
    """
    match = _SCHEME.match(uri)
    if uri == "-":
        from hffnet.runtime.sources.stream_source import StreamSource

        return StreamSource()
    if match and not Path(uri).exists():
        return _open_by_scheme(uri, *match.groups(), idle_exit_s=idle_exit_s, is_done=is_done)
    if Path(uri).is_dir():
        return _watch_folder(uri, FolderOptions(), idle_exit_s, is_done)
    from hffnet.runtime.sources.glob_source import open_file

    return open_file(Path(uri), is_done=is_done)


def _open_by_scheme(uri: str, scheme: str, rest: str, *, idle_exit_s: float | None, is_done: IsDone | None) -> Source:
    if scheme in LIVE_SCHEMES:
        return _live(uri)
    match scheme:
        case "dir":
            folder, _, query = rest.partition("?")
            return _watch_folder(unquote(folder), _options_from_query(uri, query), idle_exit_s, is_done)
        case "glob":
            from hffnet.runtime.sources.glob_source import GlobSource

            return GlobSource(rest, is_done=is_done)
        case "video":
            from hffnet.runtime.sources.video_source import VideoSource

            return VideoSource(address_from_uri(uri), uri, is_done=is_done)
    raise ConfigError(
        f"source {uri!r} has the scheme {scheme!r}; expected dir:FOLDER, glob:PATTERN, video:FILE, "
        "v4l2:/dev/v4l/by-id/…, rtsp://…, screen:LEFT,TOP,WIDTH,HEIGHT, -, a folder or a file"
    )


def _live(uri: str) -> Source:
    from hffnet.runtime.sources.capture_process import CaptureProcess
    from hffnet.runtime.sources.live_source import LiveSource

    address = address_from_uri(uri)
    if address.scheme == "screen":
        from hffnet.runtime.sources.cameras import check_screen

        check_screen(address)  # mistakes are told here: a source that gives nothing is waited for
    return LiveSource(address.name, partial(CaptureProcess, uri), address.options)


def _watch_folder(folder: str, options: FolderOptions, idle_exit_s: float | None, is_done: IsDone | None) -> Source:
    from hffnet.runtime.sources.watch_folder import WatchFolder

    return WatchFolder(Path(folder), options, idle_exit_s=idle_exit_s, is_done=is_done)


def _options_from_query(uri: str, query: str) -> FolderOptions:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        return FolderOptions.model_validate(dict(pairs))
    except (ValidationError, ValueError) as error:
        options = ", ".join(FolderOptions.model_fields)
        raise ConfigError(f"source {uri!r} has options that cannot be used ({error}); it takes {options}") from error
