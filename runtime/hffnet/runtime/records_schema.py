"""The tables of a records file, as the list of steps that made them; steps are added, never changed."""

APPLICATION_ID = 0x68666672  # "hffr": tells a records file from other SQLite files
"""SQLite's ``application_id``."""

_RECORDS = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    created_utc TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('result', 'override', 'event')),
    status TEXT CHECK (status IN ('classified', 'not_classified', 'failed')),
    reason TEXT,
    name TEXT NOT NULL,
    input_path TEXT,
    input_size INTEGER,
    input_mtime_ns INTEGER,
    input_sha256 TEXT,
    class_path TEXT NOT NULL,
    answer TEXT NOT NULL,
    confidence TEXT NOT NULL,
    probabilities TEXT NOT NULL,
    crop TEXT,
    acquisition TEXT,
    gates TEXT NOT NULL,
    engine TEXT,
    bundle_sha256 TEXT,
    settings_sha256 TEXT,
    timings_ms TEXT NOT NULL,
    refers_to INTEGER REFERENCES records (seq),
    person TEXT,
    hffnet_version TEXT NOT NULL,
    row_version INTEGER NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    CHECK ((kind = 'result') = (status IS NOT NULL))
)
"""
# One result per version of a file, bundle and settings: what a restart after a crash relies on.
_ONCE = """
CREATE UNIQUE INDEX results_once ON records
    (input_path, input_mtime_ns, input_size, bundle_sha256, settings_sha256, coalesce(input_sha256, ''))
    WHERE kind = 'result' AND input_path IS NOT NULL
"""
_CURSORS = "CREATE TABLE cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID"

_DETAILS = "ALTER TABLE records ADD COLUMN details TEXT"
# Where the chain goes on after its first rows were moved to an archive: one row per archive.
_ARCHIVES = """
CREATE TABLE archives (
    last_seq INTEGER PRIMARY KEY,
    last_hash TEXT NOT NULL,
    file_name TEXT NOT NULL,
    file_sha256 TEXT NOT NULL
)
"""
# 16 bytes per key of an archived result: a file that still lies in a watched folder stays done.
_ARCHIVED_INPUTS = "CREATE TABLE archived_inputs (key BLOB PRIMARY KEY) WITHOUT ROWID"
_OVERRIDES = "CREATE INDEX overrides_of ON records (refers_to) WHERE refers_to IS NOT NULL"

# How often the service ended while the engine had a frame (``in_hand``); a row per frame that ever ended it.
_ENDS = "CREATE TABLE ends (key BLOB PRIMARY KEY, num INTEGER NOT NULL) WITHOUT ROWID"
# The same bytes under the same bundle and settings: what a later row of a copy or a renamed file refers to.
_CONTENTS = """
CREATE INDEX contents ON records (input_sha256) WHERE kind = 'result' AND input_sha256 IS NOT NULL
"""
# Of an archived result: its version as before, its version with its content, and its content alone, each with the
# number of the row. Keys of earlier schemas have no number.
_ARCHIVED_SEQ = "ALTER TABLE archived_inputs ADD COLUMN seq INTEGER"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (_RECORDS, _ONCE, _CURSORS),
    (_DETAILS, _ARCHIVES, _ARCHIVED_INPUTS, _OVERRIDES),
    (_CONTENTS, _ARCHIVED_SEQ),
    (_ENDS,),
)
"""Statements that take a file from schema version n to n + 1; ``PRAGMA user_version`` counts them."""
