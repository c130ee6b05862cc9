"""Writing a bundle: members, their hashes, the manifest, one zip that nothing was half-written into.

The same content gives the same bytes: members are stored in order with one fixed date.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hffnet.runtime.bundle import MANIFEST, VECTOR_FRAMES, VECTOR_LOGITS, Bundle, open_bundle
from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.manifest import Manifest, Member

_DATE = (1980, 1, 1, 0, 0, 0)


def write_bundle(
    path: Path,
    manifest: Manifest,
    members: Mapping[str, bytes | Path],
    frames_NHW: npt.NDArray[np.uint8],
    logits_NC: npt.NDArray[np.float32],
) -> Bundle:
    """Write a bundle and read it back through every check of the runtime.

    Args:
        path: where to; an existing file is replaced only by a bundle that was read back soundly.
        manifest: everything but ``members``, which is computed here.
        members: bytes or file by member name; the test vectors are added.
        frames_NHW: test vectors, (K, size, size) uint8 real frames.
        logits_NC: the float network's logits for them, (K, ΣC).

    Raises:
        ConfigError: the path does not end in ``.hffnet`` or its folder is absent.
        BundleError: what was written would be refused by the runtime.
    """
    check_bundle_path(path)
    content = dict(members)
    content[VECTOR_FRAMES] = _npy_from_array(np.ascontiguousarray(frames_NHW, dtype=np.uint8))
    content[VECTOR_LOGITS] = _npy_from_array(np.ascontiguousarray(logits_NC, dtype=np.float32))
    listed = tuple(_member(name, content[name]) for name in sorted(content))
    document = manifest.model_copy(update={"members": listed}).model_dump_json(indent=1).encode()
    with whole_file(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_info(MANIFEST), document)
            for member in listed:
                value = content[member.name]
                archive.writestr(_info(member.name), value if isinstance(value, bytes) else value.read_bytes())
        open_bundle(temporary)
    return open_bundle(path)


def check_bundle_path(path: Path) -> None:
    """Refuse an output path before minutes of work are spent on what cannot be written.

    Raises:
        ConfigError: wrong ending, no such folder, or a folder in the way.
    """
    if path.suffix != ".hffnet":
        raise ConfigError(f"the output {path} does not end in .hffnet; name it like model.hffnet")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of the output does not exist; create it first")
    if path.is_dir():
        raise ConfigError(f"the output {path} is a folder; name a file")


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_DATE)
    info.external_attr = 0o100644 << 16
    return info


def _member(name: str, value: bytes | Path) -> Member:
    if isinstance(value, bytes):
        return Member(name=name, size=len(value), sha256=hashlib.sha256(value).hexdigest())
    with value.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Member(name=name, size=value.stat().st_size, sha256=digest)


def _npy_from_array(array: npt.NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
