"""A watched folder that holds a million frames already: what starting, watching and one new file cost.

``python -m tests.bench.many_files --files 1000000`` makes that many names (hard links: no disk is filled, a million
takes minutes) and a records file that says all of them are done, then restarts on it. ``--folders 1000`` spreads them
over as many sub-folders; with ``--undone`` nothing is recorded, and all of them are offered to a reader that does
nothing with them: what is left is the cost of looking. Printed as markdown, with the machine and the date.
"""

import argparse
import os
import platform
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Timer

from hffnet.runtime.pipeline import done_in
from hffnet.runtime.record import DRAFT_FIELDS
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import FolderOptions, Item
from hffnet.runtime.sources.watch_folder import WatchFolder

_LINKS = 60_000  # ext4 allows 65,000 names for one file
_BUNDLE, _SETTINGS = "0" * 64, "1" * 64
_WATCH_S = 30.0  # the first seconds after a look of everything are busier than what follows
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def fill(folder: Path, num: int, num_folders: int) -> None:
    """So many names, in so many sub-folders; 0 for none."""
    for k in range(num_folders):
        (folder / f"{k:06d}").mkdir()
    origins = folder.parent / "origins"
    origins.mkdir()
    for n in range(num):
        origin = origins / str(n // _LINKS)
        if n % _LINKS == 0:
            origin.write_bytes(b"frame")
            os.utime(origin, (1e9, 1e9))
        place = folder / f"{n % num_folders:06d}" if num_folders else folder
        os.link(origin, place / f"{n:08d}.tif")


def record_all(path: Path, folder: Path) -> None:
    """Say in a records file that every file is done: rows for ``is_done`` only, without chain."""
    RecordStore.open(path).close()
    values: dict[str, object] = dict.fromkeys(DRAFT_FIELDS, "{}")
    values |= {"kind": "result", "status": "failed", "name": "x", "refers_to": None}
    values |= {"bundle_sha256": _BUNDLE, "settings_sha256": _SETTINGS, "input_sha256": None}
    values |= {"created_utc": "", "hffnet_version": "", "row_version": 2, "prev_hash": "", "hash": ""}

    def rows() -> Iterator[dict[str, object]]:
        for place, _, names in os.walk(folder):
            for name in names:
                path = f"{place}/{name}"
                status = os.stat(path)  # noqa: PTH116 - a million of them
                file = {"input_path": path, "input_size": status.st_size, "input_mtime_ns": status.st_mtime_ns}
                yield values | file

    names = ", ".join(values)
    with sqlite3.connect(path) as connection:
        marks = ", ".join(f":{name}" for name in values)
        connection.executemany(f"INSERT INTO records ({names}) VALUES ({marks})", rows())
    connection.close()


def memory_mb() -> float:
    """Of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


def processor_s() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure_undone(root: Path, num: int, num_folders: int) -> dict[str, float]:
    """Start on a folder where nothing is done, and take everything."""
    folder, figures = root / "in", dict[str, float]()
    folder.mkdir()
    fill(folder, num, num_folders)
    with RecordStore.open(root / "records.sqlite") as store:
        before_mb, most_mb = memory_mb(), 0.0
        is_done = done_in(store, bundle_sha256=_BUNDLE, settings_sha256=_SETTINGS)
        source = WatchFolder(folder, FolderOptions(recursive=num_folders > 0), idle_exit_s=0.0, is_done=is_done)
        began, used, num_offered = time.perf_counter(), processor_s(), 0
        for _ in source.items(Event()):
            if num_offered == 0:
                figures["until the first file is offered, s"] = time.perf_counter() - began
            if num_offered % 1000 == 0:
                most_mb = max(most_mb, memory_mb())
            num_offered += 1
        assert num_offered == num
        figures["all offered, processor per file, µs"] = (processor_s() - used) / num * 1e6
        figures["all offered, s"] = time.perf_counter() - began
        figures["most memory for it, MB"] = most_mb - before_mb
    return figures


def measure(root: Path, num: int, num_folders: int) -> dict[str, float]:
    """Restart on a folder where all is done, watch it, and let one file come."""
    folder, figures = root / "in", dict[str, float]()
    folder.mkdir()
    fill(folder, num, num_folders)
    record_all(root / "records.sqlite", folder)
    with RecordStore.open(root / "records.sqlite") as store:
        before_mb = memory_mb()
        is_done = done_in(store, bundle_sha256=_BUNDLE, settings_sha256=_SETTINGS)
        source = WatchFolder(folder, FolderOptions(recursive=num_folders > 0), is_done=is_done)
        began = time.perf_counter()
        assert source.scan() == []
        figures["first look, all asked for in the records, s"] = time.perf_counter() - began
        figures["memory for it, MB"] = memory_mb() - before_mb
        stop, came = Event(), float("nan")

        def new_file() -> None:
            nonlocal came
            (folder / ".new.part").write_bytes(b"frame")
            came = time.perf_counter()
            (folder / ".new.part").rename(folder / "new.tif")

        used, began = processor_s(), time.perf_counter()
        Timer(_WATCH_S, new_file).start()
        item = next(source.items(stop))
        assert isinstance(item, Item)
        assert item.name == "new.tif"
        ended = time.perf_counter()
        figures["processor while watching, % of one core"] = 100 * (processor_s() - used) / (ended - began)
        figures["new file: from its rename to being offered, ms (80 of them are settling)"] = (ended - came) * 1e3
    return figures


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--folders", type=int, default=0, help="spread over so many sub-folders")
    parser.add_argument("--undone", action="store_true", help="none of them is recorded")
    told = parser.parse_args()
    table = dict[int, dict[str, float]]()
    for num in told.files:
        with tempfile.TemporaryDirectory(prefix="hffnet-many-") as name:
            table[num] = (measure_undone if told.undone else measure)(Path(name), num, told.folders)
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f},", end=" "
    )
    print(f"{datetime.now(UTC):%Y-%m-%d}; {told.folders} sub-folders\n")
    print(f"| files there already | {' | '.join(f'{num:,}' for num in table)} |")
    print(f"| --- |{' --- |' * len(table)}")
    for row in next(iter(table.values())):
        print(f"| {row} | {' | '.join(f'{figures[row]:.2f}' for figures in table.values())} |")


if __name__ == "__main__":
    main()
