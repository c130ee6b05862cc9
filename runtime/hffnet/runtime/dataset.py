"""Labelled frames as a list: which file, which class path, which group, which split. No pixels, no torch.

Stands in the runtime because training, calibration, evaluation and benchmarks must agree on it. How frames are
divided is in ``split``.
"""

import csv
import hashlib
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from hffnet.runtime.errors import ConfigError, DatasetError
from hffnet.runtime.taxonomy import ClassPath, Taxonomy

Split = Literal["train", "val", "test"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
"""What counts as an image in a class folder; other files (vendors' sidecars) are passed over."""

_NOT_LEVELS = frozenset({"path", "group", "split", "source", "licence", "license"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """One labelled file.

    Attributes:
        path: the image file.
        classes: complete class path, first level first.
        group: frames of one group (specimen, source frame, exact duplicates) never stand in two splits.
        sha256: of the file's bytes, hexadecimal.
        split: None until split.
    """

    path: Path
    classes: ClassPath
    group: str
    sha256: str
    split: Split | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled frames and the class tree they live in."""

    root: Path
    taxonomy: Taxonomy
    frames: tuple[LabelledFrame, ...]

    def frames_of(self, split: Split) -> tuple[LabelledFrame, ...]:
        """Frames of one split, in the data set's order."""
        return tuple(frame for frame in self.frames if frame.split == split)

    def relative(self, frame: LabelledFrame) -> str:
        """The frame's path below ``root`` with forward slashes: its name on every machine."""
        return frame.path.relative_to(self.root).as_posix()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One frame as a folder or CSV names it; ``where`` is for error sentences."""

    path: Path
    classes: ClassPath
    where: str
    group: str | None = None
    split: Split | None = None


def open_dataset(path: Path, taxonomy: Taxonomy | None = None) -> Dataset:
    """Find labelled frames in folders ``<level1>/<level2>/*`` (any depth) or in a CSV.

    A CSV has the column ``path`` (relative to the CSV) and one column per level: those named ``level1``, ``level2``
    ... where there are such, else all but ``path, group, split, source, licence``, in order. Files with the same
    bytes always share a group; a ``group`` column joins more of them.

    Args:
        path: a folder or a ``.csv`` file, UTF-8.
        taxonomy: the tree that every class path must be in; None builds the smallest one from the data.

    Raises:
        DatasetError: nothing there, a file is missing or outside, a class is empty, unknown or the only one.
    """
    if path.is_dir():
        root, level_names, rows = path, None, list(_rows_from_folders(path))
    elif path.is_file():
        level_names, rows = _rows_from_csv(path)
        root = path.parent
    else:
        raise DatasetError(f"{path} does not exist; expected a folder of class folders, or a CSV with a column 'path'")
    if not rows:
        raise DatasetError(f"{path} holds no labelled frame; expected at least two classes with images")
    tree = _taxonomy_of_rows(path, rows, level_names) if taxonomy is None else taxonomy
    if taxonomy is not None:
        _check_known(rows, taxonomy)
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(_file_sha256, (row.path for row in rows)))
    groups = _groups([row.group for row in rows], digests)
    frames = tuple(
        LabelledFrame(path=row.path, classes=row.classes, group=group, sha256=digest, split=row.split)
        for row, group, digest in zip(rows, groups, digests, strict=True)
    )
    _warn_of_two_labels(frames)
    return Dataset(root=root, taxonomy=tree, frames=frames)


def dataset_sha256(dataset: Dataset) -> str:
    """Identity of the labelled data: every file's relative path, bytes and classes; not their order, not the split."""
    lines = sorted("\0".join((dataset.relative(f), f.sha256, *f.classes)) for f in dataset.frames)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _rows_from_folders(root: Path) -> Iterator[_Row]:
    # Folders that begin with a dot or underscore (.git, _src, __MACOSX) are not classes.
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "_")))
        here = Path(folder)
        images = sorted(n for n in files if Path(n).suffix.lower() in IMAGE_SUFFIXES and not n.startswith("."))
        if images and here == root:
            raise DatasetError(
                f"{here / images[0]} lies in no class folder; expected <level1>/<level2>/* below {root}, "
                "move the images into the folder of their class or give a CSV"
            )
        if not images and not subfolders and here != root:
            raise DatasetError(
                f"class folder {here} holds no image; expected {', '.join(sorted(IMAGE_SUFFIXES))}: "
                "add images or remove the folder"
            )
        for name in images:
            yield _Row(path=here / name, classes=here.relative_to(root).parts, where=str(here / name))


def _rows_from_csv(path: Path) -> tuple[tuple[str, ...], list[_Row]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start}; "
            "save it as UTF-8 (in spreadsheets: 'CSV UTF-8')"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        levels = _level_columns(path, columns)
        rows = [_row_from_record(path, reader.line_num, record, levels) for record in reader]
    except csv.Error as error:
        raise DatasetError(
            f"{path} line {reader.line_num} is not CSV: {error}; expected comma-separated rows"
        ) from error
    seen: dict[Path, str] = {}
    for row in rows:
        if row.path in seen:
            raise DatasetError(f"{row.where} names {row.path} again, as {seen[row.path]} does; a frame has one row")
        seen[row.path] = row.where
    return levels, rows


def _level_columns(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    if len(set(columns)) != len(columns):
        raise DatasetError(f"{path} has two columns of the same name: {', '.join(columns)}")
    if "path" not in columns:
        raise DatasetError(f"{path} has the columns {', '.join(columns) or 'none'}; a column 'path' is expected")
    numbered = sorted((c for c in columns if re.fullmatch(r"level[0-9]+", c)), key=lambda c: int(c[5:]))
    levels = numbered or [c for c in columns if c.lower() not in _NOT_LEVELS]
    if not levels:
        raise DatasetError(f"{path} has no level column beside {', '.join(columns)}; expected path,level1,level2,...")
    return tuple(levels)


def _row_from_record(csv_path: Path, line: int, record: dict[str, str | None], levels: Sequence[str]) -> _Row:
    where = f"{csv_path} line {line}"
    if None in record or None in record.values():
        raise DatasetError(f"{where} has not as many values as the header has columns ({len(record)})")
    values = {key: (value or "").strip() for key, value in record.items()}
    if missing := [key for key in ("path", *levels) if not values[key]]:
        raise DatasetError(f"{where} has no value for {missing[0]!r}; every frame needs a path and one class per level")
    root = csv_path.parent
    # By name, not by what links point to: a folder of links to a data store is a fair data set.
    relative = os.path.relpath(root / values["path"], root)
    if Path(relative).parts[0] == os.pardir:
        raise DatasetError(f"{where}: {values['path']} lies outside {root}; expected a path below the CSV's folder")
    file = root / relative
    if not file.is_file():
        raise DatasetError(f"{where}: {file} does not exist; correct the path or remove the row")
    split = values.get("split") or None
    if split is not None and split not in get_args(Split):
        raise DatasetError(f"{where} has the split {split!r}; expected train, val, test or nothing")
    classes = tuple(values[level] for level in levels)
    return _Row(path=file, classes=classes, where=where, group=values.get("group") or None, split=split)  # type: ignore[arg-type]


def _taxonomy_of_rows(path: Path, rows: Iterable[_Row], level_names: Sequence[str] | None) -> Taxonomy:
    try:
        tree = Taxonomy.from_paths((row.classes for row in rows), level_names)
    except (ConfigError, ValidationError) as error:
        raise DatasetError(f"{path}: {error}") from error
    if tree.num_leaves < 2:
        raise DatasetError(f"{path} has one class, {'/'.join(tree.path_of_leaf(0))}; expected at least two")
    return tree


def _check_known(rows: Iterable[_Row], taxonomy: Taxonomy) -> None:
    known = {taxonomy.path_of_leaf(leaf) for leaf in range(taxonomy.num_leaves)}
    for row in rows:
        if row.classes not in known:
            raise DatasetError(
                f"{row.where} has the class {'/'.join(row.classes)}, which the taxonomy has not; "
                f"expected one of {', '.join(sorted('/'.join(path) for path in known))}"
            )


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check the file and its permissions") from error


def _groups(labels: Sequence[str | None], digests: Sequence[str]) -> list[str]:
    """Union of given groups and exact duplicates: frames joined by either share the smallest name of their union."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = name = parent[above]
        return name

    # "group " keeps a label that looks like a digest apart from digests.
    names = [f"sha256 {d}" if label is None else f"group {label}" for label, d in zip(labels, digests, strict=True)]
    for name, digest in zip(names, digests, strict=True):
        low, high = sorted((find(name), find(f"sha256 {digest}")))
        parent[high] = low
    return [find(name) for name in names]


def _warn_of_two_labels(frames: Iterable[LabelledFrame]) -> None:
    first: dict[str, LabelledFrame] = {}
    for frame in frames:
        other = first.setdefault(frame.sha256, frame)
        if other.classes != frame.classes:
            _log.warning(
                "%s and %s have the same bytes but the classes %s and %s; correct one of them",
                *(other.path, frame.path, "/".join(other.classes), "/".join(frame.classes)),
            )
