"""A folder for files that a library writes and reads by itself, such as engines of ONNX Runtime's TensorRT provider.

Such files are native code, and the library does not ask where they come from. So what lies there is compared with a
sealed list before the library sees it; anything added, changed or removed since empties the folder, with one line.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hffnet.runtime.engines.cache import FOLDER_SUFFIX, EngineCache

_log = logging.getLogger(__name__)


@contextmanager
def sealed_folder(cache: EngineCache, name: str) -> Iterator[Path | None]:
    """The folder, to be used by a library until the block ends; None where the cache cannot be used.

    Another process that wants the same folder waits.
    """
    with cache.held(name) as usable:
        if not usable:
            yield None
            return
        folder, listed = cache.folder / f"{name}{FOLDER_SUFFIX}", f"{name}-files"
        before = _list_of(folder)
        if before and cache.read(listed) != before:
            _log.warning("the files in %s are not as this machine left them; they are removed and made anew", folder)
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        os.utime(folder)  # most recently used
        yield folder
        after = _list_of(folder)
        if after != before:
            cache.write(listed, after)


def _list_of(folder: Path) -> bytes:
    """Names and hashes of all files; empty where there are none. A link counts as what it is, not as its target."""
    found = {
        str(path.relative_to(folder)): "link" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
    return json.dumps(found).encode() if found else b""
