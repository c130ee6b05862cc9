"""Archives of frames: many files -> one JSONL file of results, continued where it was interrupted.

Knows the list of frames, what is done, and the document of one frame. Who classifies, a loop in this process
(``documents_in_turn``) or workers of a cluster (``ray_archive``), is handed in; both make documents with
``document_from_file``, so they say the same.
"""

import csv
import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hffnet.runtime.errors import ConfigError, EngineError, FrameError, HffnetError
from hffnet.runtime.record import Json, RecordDraft, text_from_name
from hffnet.runtime.result import draft_from_prediction, record_json
from hffnet.runtime.sinks.line_file import LineFile
from hffnet.runtime.sources import IMAGE_PATTERNS, FileStamp

if TYPE_CHECKING:
    from hffnet.runtime.classifier import Classifier

Document = dict[str, Json]
_log = logging.getLogger(__name__)
_SUFFIXES = tuple(pattern.lstrip("*") for pattern in IMAGE_PATTERNS)
_MAGIC = re.compile(r"[*?[]")
_LINES_AT_ONCE = 16
_Version = tuple[str, int | None, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSummary:
    """What was done.

    Attributes:
        counts: new results by status.
        num_skipped: frames whose result was in the file already.
    """

    counts: dict[str, int]
    num_skipped: int


def frames_from_arguments(arguments: Iterable[Path]) -> list[Path]:
    """Files, in order, each once.

    A named file stands as it is; a folder for the images in and below it, sorted; a pattern for what matches, sorted;
    a ``.csv`` for its column ``path``, relative to the CSV.

    Raises:
        FrameError: a folder, pattern or CSV holds no frame.
        ConfigError: a CSV has no column ``path`` or cannot be read.
    """
    found = dict[Path, None]()
    for argument in arguments:
        if argument.is_dir():
            paths = _images_below(argument)
        elif argument.suffix.lower() == ".csv":
            paths = _paths_from_csv(argument)
        elif _MAGIC.search(str(argument)) and not argument.exists():
            paths = [Path(name) for name in sorted(glob.glob(str(argument), recursive=True))]  # noqa: PTH207
            paths = [path for path in paths if path.is_file()]
        else:
            paths = [argument]
        if not paths:
            raise FrameError(f"{argument} holds no frame; expected files like {', '.join(IMAGE_PATTERNS)}")
        found |= dict.fromkeys(paths)
    return list(found)


def document_from_file(classifier: "Classifier", path: Path, settings_sha256: str) -> Document:
    """The result of one file, also where it cannot be read: the fields of a record, with the version of the file.

    Raises:
        EngineError: the engine failed; that is nobody's result.
    """
    from hffnet.runtime.classifier import Timings
    from hffnet.runtime.read import read_frame

    stamp, timings = _stamp(path), Timings()
    try:
        with timings.stage("read"):
            frame = read_frame(path)
        _check_unchanged(path, stamp)
        draft = draft_from_prediction(classifier.classify_frame(frame, timings), classifier.bundle.manifest.taxonomy)
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - a poisoned file must not end an archive, now and at every restart
        reason = str(error)
        if not isinstance(error, HffnetError):
            _log.exception("classifying %s ran into a defect", path)
            reason = f"classifying it ran into a defect: {type(error).__name__}: {error}"
        name = text_from_name(str(path))
        draft = RecordDraft(status="failed", reason=text_from_name(reason), name=name, timings_ms=timings)
    return record_json(
        replace(
            draft,
            input_path=text_from_name(str(path.absolute())),
            input_size=stamp.size if stamp else None,
            input_mtime_ns=stamp.mtime_ns if stamp else None,
            bundle_sha256=classifier.bundle.sha256,
            settings_sha256=settings_sha256,
        )
    )


def _check_unchanged(path: Path, stamp: FileStamp | None) -> None:
    if _stamp(path) != stamp:
        raise FrameError(f"{path} was written to while it was read; classify it again when it is complete")


def documents_in_turn(classifier: "Classifier", settings_sha256: str) -> Callable[[Sequence[Path]], Iterator[Document]]:
    """One frame after the other, in this process."""
    return lambda paths: (document_from_file(classifier, path, settings_sha256) for path in paths)


def classify_archive(
    paths: Sequence[Path],
    out: Path,
    documents: Callable[[Sequence[Path]], Iterable[Document]],
    *,
    bundle_sha256: str,
    settings_sha256: str,
    on_document: Callable[[Document], None] = lambda _: None,
) -> ArchiveSummary:
    """Append the results of all frames that are not in ``out`` yet, in the order of ``paths``.

    A frame is in it when a line has the same path, size and modification time and is no failure: failures are tried
    again, and written again only if they now succeed. What a crash left of a torn last line is removed.

    Args:
        paths: what to classify.
        out: JSONL file; created if absent.
        documents: yields one document per path, in order.
        bundle_sha256: of the model that ``documents`` uses; a file with results of another is refused.
        settings_sha256: of its settings; likewise.
        on_document: called for each new document when it is on the disk.

    Raises:
        ConfigError: ``out`` holds results of another bundle or settings, or is no such file.
        RecordError: it cannot be written. EngineError: the engine failed. What was written until then stays.
    """
    file = LineFile(out)
    try:
        done, failed = _finished(out, bundle_sha256, settings_sha256)
        left = [path for path in paths if _version_of(path) not in done]
        counts, waiting = Counter[str](), list[Document]()
        for document in documents(left) if left else ():
            counts[str(document["status"])] += 1
            waiting.append(document)
            if len(waiting) >= _LINES_AT_ONCE:
                _write(file, waiting, failed, on_document)
        _write(file, waiting, failed, on_document)
    finally:
        file.close()
    return ArchiveSummary(counts=dict(counts), num_skipped=len(paths) - len(left))


def _write(
    file: LineFile, waiting: list[Document], failed: set[_Version], on_document: Callable[[Document], None]
) -> None:
    """Append what waits and empty it; a failure that is in the file already is told again and not written again."""
    new = [document for document in waiting if document["status"] != "failed" or _version_in(document) not in failed]
    file.append(json.dumps(document, separators=(",", ":"), allow_nan=False) for document in new)
    for document in waiting:
        on_document(document)
    waiting.clear()


def _finished(out: Path, bundle_sha256: str, settings_sha256: str) -> tuple[set[_Version], set[_Version]]:
    """Which versions of which files have a result, and which failed."""
    done, failed = set[_Version](), set[_Version]()
    with out.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                document = json.loads(line)
                version, status = _version_in(document), document["status"]
                other = [document["bundle_sha256"], document["settings_sha256"]] != [bundle_sha256, settings_sha256]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{out} line {number} is not a result of hffnet classify; name another file"
                ) from error
            if other:
                raise ConfigError(
                    f"{out} line {number} is a result of another bundle, engine or precision; name another file, so"
                    " that one file holds the answers of one model"
                )
            (failed if status == "failed" else done).add(version)
    return done, failed - done


def _version_in(document: Document) -> _Version:
    size, mtime_ns = document["input_size"], document["input_mtime_ns"]
    return str(document["input_path"]), size, mtime_ns  # type: ignore[return-value]  # compared, never computed with


def _version_of(path: Path) -> _Version:
    stamp = _stamp(path)
    name = text_from_name(str(path.absolute()))
    return (name, stamp.size, stamp.mtime_ns) if stamp else (name, None, None)


def _stamp(path: Path) -> FileStamp | None:
    try:
        return FileStamp.from_stat(path.stat())
    except OSError:
        return None


def _images_below(folder: Path) -> list[Path]:
    found = list[Path]()
    for place, folders, names in os.walk(folder, onerror=lambda error: _log.warning("%s", error)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def _paths_from_csv(file: Path) -> list[Path]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if "path" not in (rows.fieldnames or ()):
                raise ConfigError(f"{file} has the columns {rows.fieldnames}; expected one called path")
            return [file.parent / row["path"] for row in rows if row["path"]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read as a CSV list of frames ({error}); expected a column path") from error
