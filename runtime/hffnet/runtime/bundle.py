"""Reading a bundle: one ``*.hffnet`` file, every byte of which is accounted for before anything parses it.

The file comes from outside and is treated as hostile: sizes and hashes first, unknown members refused, nothing is
ever unpacked to disk. What a graph may hold is checked in ``graph``; writing bundles is export's business.
"""

import hashlib
import io
import json
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from hffnet.runtime.errors import BundleError, GraphError
from hffnet.runtime.graph import GraphFacts, facts_from_onnx
from hffnet.runtime.manifest import FORMAT_VERSION, Graph, Manifest

MANIFEST = "manifest.json"
VECTOR_FRAMES = "vectors/frames.npy"
VECTOR_LOGITS = "vectors/logits.npy"
CALIBRATION = "calibration.json"
MODEL_CARD = "model_card.md"

_MAX_MANIFEST_BYTES = 4 << 20
_MAX_MEMBERS = 32
_MAX_BYTES = (4 << 30) - 1
_NPY_PREFIX = 8  # magic and version, before the header's length
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \((\d{1,10}(?:, \d{1,10})*,?)\), \} *\n"
)
T = TypeVar("T", bound=np.generic)


class Bundle:
    """A sound bundle: manifest read, every member's size and hash checked, every graph's facts known.

    Attributes:
        path: the file.
        manifest: what it says.
        sha256: of ``manifest.json``, which itself holds the hash of everything else: the model's identity.
        facts: per graph member, what its ONNX file really holds.
    """

    def __init__(self, path: Path, manifest: Manifest, sha256: str, facts: dict[str, GraphFacts]) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self.facts = facts

    def member(self, name: str) -> bytes:
        """The bytes of one member, hashed again as they are read: the file may have changed since.

        Raises:
            BundleError: the file changed or there is no such member.
        """
        with _opened(self.path) as archive:
            return _checked_bytes(self.path, archive, self.manifest, name)

    def sha256_of(self, name: str) -> str:
        """Hash of one member, from the manifest."""
        return next(member.sha256 for member in self.manifest.members if member.name == name)

    def vectors(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Test vectors: frames (K, size, size) uint8 and the float network's logits (K, ΣC) float32.

        Raises:
            BundleError: they are not of that form.
        """
        frames = _array_from_npy(self.path, VECTOR_FRAMES, self.member(VECTOR_FRAMES), np.uint8, 3)
        logits = _array_from_npy(self.path, VECTOR_LOGITS, self.member(VECTOR_LOGITS), np.float32, 2)
        size, columns = self.manifest.preprocess.size, sum(self.manifest.taxonomy.num_classes)
        if not len(frames) or frames.shape != (len(logits), size, size) or logits.shape[1] != columns:
            raise BundleError(
                f"{self.path}: test vectors have shapes {frames.shape} and {logits.shape};"
                f" expected (K, {size}, {size}) and (K, {columns}) with K ≥ 1"
            )
        return frames, logits


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and check all of it.

    Raises:
        BundleError: not a bundle, damaged, changed, made by a newer hffnet, or holding anything it may not.
    """
    with _opened(path) as archive:
        names = _checked_names(path, archive)
        text = _read(path, archive, MANIFEST, _MAX_MANIFEST_BYTES)
        manifest = _manifest_from_json(path, text)
        listed = {member.name for member in manifest.members}
        if names - {MANIFEST} != listed:
            extra, missing = sorted(names - {MANIFEST} - listed), sorted(listed - names)
            raise BundleError(f"{path} does not hold what its manifest lists: extra {extra}, missing {missing}")
        graphs = {graph.member: graph for graph in manifest.graphs}
        if needed := {VECTOR_FRAMES, VECTOR_LOGITS, *graphs} - listed:
            raise BundleError(f"{path} lacks {', '.join(sorted(needed))}: no engine could be run and trusted")
        facts = dict[str, GraphFacts]()
        for name in sorted(listed):
            if name in graphs:
                facts[name] = _graph_facts(path, graphs[name], _checked_bytes(path, archive, manifest, name))
            else:
                _checked_bytes(path, archive, manifest, name)
    return Bundle(path, manifest, hashlib.sha256(text).hexdigest(), facts)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as file:
            _check_file(path, file)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        raise BundleError(f"{path} is not a sound bundle (*.hffnet): {error}; copy or export it again") from error


def _check_file(path: Path, file: BinaryIO) -> None:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise BundleError(f"{path} has {size} bytes; at most {_MAX_BYTES} are read")
    if file.read(4) != b"PK\x03\x04":
        raise BundleError(f"{path} is not a bundle: expected a *.hffnet file written by hffnet export")
    file.seek(0)


def _checked_names(path: Path, archive: zipfile.ZipFile) -> set[str]:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise BundleError(f"{path} has {len(members)} members; a bundle has at most {_MAX_MEMBERS}")
    for info in members:
        name = info.filename
        if not name or info.orig_filename != name or ".." in name or name.startswith("/"):
            raise BundleError(f"{path}: member name {info.orig_filename!r} is not allowed")
        plain = (
            info.compress_type == zipfile.ZIP_STORED
            and info.compress_size == info.file_size
            and not info.flag_bits & 0x1
            and not stat.S_ISLNK(info.external_attr >> 16)
            and not info.is_dir()
        )
        if not plain:
            raise BundleError(f"{path}: member {name!r} is compressed, encrypted, a link or a folder")
    _check_layout(path, archive)
    names = {info.filename for info in members}
    if len(names) != len(members):
        raise BundleError(f"{path} holds two members of one name")
    if MANIFEST not in names:
        raise BundleError(f"{path} has no {MANIFEST}: it is not a bundle written by hffnet export")
    return names


def _check_layout(path: Path, archive: zipfile.ZipFile) -> None:
    """No two zip readers may see two different files: nothing is left over, and everything said twice agrees.

    zipfile believes the directory alone, and fills up from what it has where an entry is said to be longer. Version
    and flags are left out: no reader of stored members acts on them.
    """
    file, members = archive.fp, archive.infolist()
    assert file is not None  # the archive is open
    names = [info.filename.encode() for info in members]
    for info in members:
        expected = info.FileHeader()
        file.seek(info.header_offset)
        found = file.read(len(expected))
        if found[:4] != expected[:4] or found[8:] != expected[8:]:
            raise BundleError(f"{path}: member {info.filename!r} has a header that contradicts the archive's directory")
    # Lengths as in APPNOTE.TXT, 4.3: no gap, comment, extra field or second archive has room.
    directory = sum(46 + len(name) for name in names)
    needed = sum(30 + len(name) + info.file_size for name, info in zip(names, members, strict=True)) + directory + 22
    total = file.seek(0, io.SEEK_END)
    if total != needed or not _directory_agrees(file, names, total - directory - 22, directory):
        raise BundleError(
            f"{path} has {total} bytes where its {len(names)} members need {needed}, or a damaged directory;"
            " copy or export it again"
        )


def _directory_agrees(file: IO[bytes], names: list[bytes], start: int, size: int) -> bool:
    """Whether every entry states its name's true length, no extra field, no comment, and the end states the same."""
    file.seek(start)
    directory, end, at = file.read(size), file.read(), 0
    for name in names:
        if struct.unpack_from("<3H", directory, at + 28) != (len(name), 0, 0):
            return False
        at += 46 + len(name)
    return end == struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(names), len(names), size, start, 0)


def _manifest_from_json(path: Path, text: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
        json.loads(text, object_pairs_hook=_refuse_doubles)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the document"
        if place == "format_version":
            raise BundleError(
                f"{path} has format_version {first['input']!r}; this hffnet reads {FORMAT_VERSION}: update hffnet"
            ) from error
        raise BundleError(f"{path}: {MANIFEST} is refused at {place}: {first['msg']}") from error
    except ValueError as error:
        raise BundleError(f"{path}: {MANIFEST} is refused: {error}; export the bundle again") from error
    return manifest


def _refuse_doubles(pairs: list[tuple[str, object]]) -> None:
    """Of a key that stands twice two readers may each believe another value."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"it holds an object with one key twice, among {sorted(keys)[:12]}")


def _read(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > limit:
        raise BundleError(f"{path}: {name} has {size} bytes; at most {limit} are allowed")
    return archive.read(name)


def _checked_bytes(path: Path, archive: zipfile.ZipFile, manifest: Manifest, name: str) -> bytes:
    entry = next((member for member in manifest.members if member.name == name), None)
    if entry is None:
        raise BundleError(f"{path} has no member {name!r}")
    size = archive.getinfo(name).file_size
    if size != entry.size:
        raise BundleError(f"{path}: {name} has {size} bytes where the manifest says {entry.size}")
    content = archive.read(name)
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise BundleError(
            f"{path}: {name} was changed or damaged: its sha256 is {found[:12]}…, the manifest says"
            f" {entry.sha256[:12]}…; copy or export the bundle again"
        )
    return content


def _graph_facts(path: Path, graph: Graph, content: bytes) -> GraphFacts:
    try:
        facts = facts_from_onnx(content)
    except GraphError as error:
        raise BundleError(f"{path}: {graph.member} is refused: {error}") from error
    if facts.precision != graph.precision:
        raise BundleError(f"{path}: {graph.member} is called {graph.precision} but its own types say {facts.precision}")
    return facts


def _array_from_npy(path: Path, name: str, content: bytes, dtype: type[T], ndim: int) -> npt.NDArray[T]:
    """The array in the bytes of a ``.npy`` file, version 1.0, of which nothing but numpy's own spelling is read.

    numpy's reader parses the header as Python and raises what the tokenizer raises; this one compares first.
    """
    (length,) = struct.unpack_from("<H", content.ljust(_NPY_PREFIX + 2), _NPY_PREFIX)
    start = _NPY_PREFIX + 2 + length
    header = _NPY_HEADER.fullmatch(content[_NPY_PREFIX + 2 : start])
    shape = tuple(int(n) for n in header[2].split(b",") if n.strip()) if header else ()
    descr = np.dtype(dtype).str.encode()
    is_ours = header is not None and content.startswith(b"\x93NUMPY\x01\x00") and header[1] == descr
    if not is_ours or len(shape) != ndim or prod(shape) * np.dtype(dtype).itemsize != len(content) - start:
        raise BundleError(
            f"{path}: {name} is not a readable array: {len(content)} bytes begin with {content[:96]!r};"
            f" expected a .npy file of {np.dtype(dtype)} with {ndim} axes in C order"
        )
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape)
