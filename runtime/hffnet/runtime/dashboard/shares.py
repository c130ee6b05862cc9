"""Which share of the frames was answered how, over the last day, in bins of ten seconds."""

from collections import Counter, OrderedDict
from datetime import UTC, datetime

from hffnet.runtime.record import Json, Record

BIN_S = 10
_KEPT = 24 * 3600 // BIN_S


class Shares:
    """Counts by time; memory is bounded by a day and by the number of classes."""

    def __init__(self) -> None:
        self._bins = OrderedDict[int, Counter[tuple[int, str]]]()

    def add(self, record: Record) -> None:
        """Count one result; where the clock was set back, rows go where their own time says."""
        number = int(datetime.fromisoformat(record.created_utc).timestamp()) // BIN_S
        counts = self._bins.setdefault(number, Counter())
        counts[-1, ""] += 1
        if record.status != "classified":
            counts[-1, "not_classified"] += 1
        elif not record.answer:
            counts[-1, "unsure"] += 1
        for depth, name in enumerate(record.answer):
            counts[depth, name] += 1
        while len(self._bins) > _KEPT:
            self._bins.popitem(last=False)

    def document(self, level_names: list[str], *, num_bins: int, minutes: float, now_s: float) -> dict[str, Json]:
        """The last minutes, cut into at most so many equal bins, oldest first; bins without frames are empty."""
        per_bin = max(round(minutes * 60 / num_bins / BIN_S), 1)
        last = int(now_s) // BIN_S // per_bin
        bins = [self._merged(number * per_bin, per_bin, level_names) for number in range(last - num_bins + 1, last + 1)]
        return {"schema_version": 1, "bin_s": per_bin * BIN_S, "bins": bins}

    def _merged(self, first: int, num: int, level_names: list[str]) -> dict[str, Json]:
        counts = Counter[tuple[int, str]]()
        for number in range(first, first + num):
            counts.update(self._bins.get(number, {}))
        total = max(counts[-1, ""], 1)
        shares: dict[str, dict[str, float]] = {name: {} for name in level_names}
        for (depth, name), times in counts.items():
            if 0 <= depth < len(level_names):
                shares[level_names[depth]][name] = round(times / total, 6)
        return {
            "start": datetime.fromtimestamp(first * BIN_S, UTC).isoformat(),
            "num": counts[-1, ""],
            "shares": shares,
            "unsure": round(counts[-1, "unsure"] / total, 6),
            "not_classified": round(counts[-1, "not_classified"] / total, 6),
        }
