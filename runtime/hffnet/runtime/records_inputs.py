"""How a result is found again by what it was made of: the version of a file, or its bytes; here or in an archive."""

import hashlib
from pathlib import Path

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import Json, canonical_json

# "input_path = ?", not "IS": only then is the index of results with a path used; else every commit reads every row.
SAME = """SELECT seq FROM records WHERE kind = 'result' AND input_path = ? AND input_mtime_ns IS ? AND input_size IS ?
    AND bundle_sha256 IS ? AND settings_sha256 IS ?"""

# Of several rows with one content the last is kept, as ``SAME_CONTENT`` finds it.
KEEP_KEYS = (
    """INSERT OR IGNORE INTO archived_inputs (key, seq) SELECT
    input_key(input_path, input_mtime_ns, input_size, bundle_sha256, settings_sha256), seq
    FROM records WHERE seq <= ? AND kind = 'result' AND input_path IS NOT NULL""",
    """INSERT OR IGNORE INTO archived_inputs (key, seq) SELECT
    input_key(input_path, input_mtime_ns, input_size, bundle_sha256, settings_sha256, input_sha256), seq
    FROM records WHERE seq <= ? AND kind = 'result' AND input_path IS NOT NULL""",
    """INSERT OR REPLACE INTO archived_inputs (key, seq) SELECT
    input_key(input_sha256, bundle_sha256, settings_sha256), max(seq) FROM records
    WHERE seq <= ? AND kind = 'result' AND input_sha256 IS NOT NULL
    GROUP BY input_sha256, bundle_sha256, settings_sha256""",
)
ARCHIVED = "SELECT seq FROM archived_inputs WHERE key = ?"
SAME_CONTENT = """SELECT seq, input_path FROM records WHERE kind = 'result' AND input_sha256 = ?
    AND bundle_sha256 IS ? AND settings_sha256 IS ? ORDER BY seq DESC LIMIT 1"""


class AlreadyArchivedError(RecordError):
    """This very result was recorded before, and its row stands in an archive now; nothing is to be done."""


def is_path_gone(text: str) -> bool:
    r"""Whether nothing has this name any more; False where that is not known (bytes that are not UTF-8, no access)."""
    if "\\x" in text:
        return False
    try:
        Path(text).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def input_key(*key: Json) -> bytes:
    """16 bytes for path, modification time, size, bundle and settings; or these and the content; or the content."""
    return hashlib.sha256(canonical_json(key).encode()).digest()[:16]
