"""Does a row fit where it stands? The arithmetic of the chain, for rows of the table and of archives alike."""

from collections.abc import Mapping
from dataclasses import dataclass

from hffnet.runtime.record import Json, hashed_fields, row_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a walk along the chain found.

    Attributes:
        num_rows: how many rows were walked.
        head: hash of the last row; note it elsewhere to prove later that nothing was cut off.
        broken_seq: the first row that does not fit; None where all do.
        reason: what does not fit.
    """

    num_rows: int
    head: str
    broken_seq: int | None = None
    reason: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether every row fits."""
        return self.broken_seq is None


def why_broken(row: Mapping[str, Json], expected_seq: int, prev_hash: str) -> str | None:
    """What speaks against this row following the one before it; None where nothing does.

    Args:
        row: as stored: nested fields are canonical JSON text.
        expected_seq: its number.
        prev_hash: hash of the row before.
    """
    if row["seq"] != expected_seq:
        return f"record {expected_seq} is missing"
    if row["prev_hash"] != prev_hash:
        return "it does not follow the record before it: one of the two was replaced"
    try:
        row_version = int(str(row["row_version"]))
        computed = row_hash(row, row_version)
        outside = set(row) - {*hashed_fields(row_version), "hash"}
    except (KeyError, ValueError, TypeError) as error:
        return f"its hash cannot be computed ({error!r}): a field was changed, or a newer hffnet wrote it"
    if any(row[name] is not None for name in outside):
        return "a field that its version did not have yet was filled in"
    return None if computed == row["hash"] else "its content does not match its hash: a field was changed"
