"""What the view's process knows of the run it belongs to; everything else stands in the records file."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Literal

from hffnet.runtime.dashboard.previews import Previews
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.limits import ReadingSettings
from hffnet.runtime.record import Json
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_search import RecordSearch
from hffnet.runtime.taxonomy import Taxonomy

Readiness = Literal["starting", "running", "stopping", "failed", "gone"]
"""``starting``: the engine is opened and proves itself. ``gone``: the run's process ended without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What there is once the run has its model and its records.

    Attributes:
        model: the document that ``/v1/model`` answers with.
        taxonomy, decode: the bundle's.
        tile_overlap: share of a tile that the next one covers; None where frames are not cut.
        store: for a person's decisions, the only thing written here.
        search: what clients ask for.
        follower: the same on a connection of its own, so that a long search does not hold live events up.
        first_seq: the last record before this run: figures of the run begin after it.
    """

    model: dict[str, Json]
    taxonomy: Taxonomy
    decode: DecodeSpec
    tile_overlap: float | None
    store: RecordStore
    search: RecordSearch
    follower: RecordSearch
    previews: Previews
    first_seq: int

    @classmethod
    def from_fields(cls, fields: dict[str, Json]) -> "Opened":
        """Open what a ``model`` message names; raises RecordError where the records cannot be opened."""
        path = Path(str(fields["records"]))
        taxonomy = Taxonomy.model_validate_json(str(fields["taxonomy"]))
        overlap = fields["tile_overlap"]
        model = fields["model"]
        assert isinstance(model, dict)
        return cls(
            model=model,
            taxonomy=taxonomy,
            decode=DecodeSpec.model_validate_json(str(fields["decode"])),
            tile_overlap=float(str(overlap)) if overlap is not None else None,
            store=RecordStore.open(path, create=False),
            search=RecordSearch.open(path),
            follower=RecordSearch.open(path),
            previews=Previews(taxonomy, reading=ReadingSettings.model_validate_json(str(fields["reading"]))),
            first_seq=int(str(fields["first_seq"])),
        )

    def close(self) -> None:
        """Close the files."""
        self.previews.close()
        self.search.close()
        self.follower.close()
        self.store.close()


@dataclass(slots=True)
class Session:
    """The run as last heard of; used on the event loop's thread alone."""

    source: str = ""
    readiness: Readiness = "starting"
    reason: str | None = None
    opened: Opened | None = None
    source_state: str = "starting"
    counts: dict[str, Json] = field(default_factory=dict)
    dropped: dict[str, Json] = field(default_factory=dict)
    stages_ms: dict[str, Json] = field(default_factory=dict)
    last_seq: int = 0
    told_seq: int = 0
    last_result_at: float | None = None
    began_at: float = field(default_factory=monotonic)

    def state_json(self, num_clients: int) -> dict[str, Json]:
        """What ``/v1/state`` answers with."""
        age_s = round(monotonic() - self.last_result_at, 3) if self.last_result_at is not None else None
        return {
            "schema_version": 1,
            "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "readiness": self.readiness,
            "reason": self.reason,
            "source": {"name": self.source, "state": self.source_state},
            "engine": self._engine(),
            "counts": self.counts,
            "dropped": self.dropped,
            "stages_ms": self.stages_ms,
            "last_record_seq": self.last_seq,
            "last_frame_age_s": age_s,
            "uptime_s": round(monotonic() - self.began_at, 1),
            "num_clients": num_clients,
        }

    def _engine(self) -> dict[str, Json] | None:
        engine = self.opened.model["engine"] if self.opened else None
        if not isinstance(engine, dict):
            return None
        return {name: engine[name] for name in ("name", "version", "device", "precision")}
