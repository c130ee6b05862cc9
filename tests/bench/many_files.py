"""A watched folder that holds a million frames already: what starting, watching and one new file cost.

``python -m tests.bench.many_files --files 1000000`` makes that many names (hard links: no disk is filled, a million
takes minutes) and a records file that says all of them are done, then restarts on it. Printed as markdown.
"""

import argparse
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer

from hffnet.runtime.pipeline import done_in
from hffnet.runtime.record import DRAFT_FIELDS
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sources import FolderOptions, Item
from hffnet.runtime.sources.watch_folder import WatchFolder

_LINKS = 60_000  # ext4 allows 65,000 names for one file
_BUNDLE, _SETTINGS = "0" * 64, "1" * 64
_WATCH_S = 5.0
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def fill(folder: Path, num: int) -> None:
    """So many names."""
    origins = folder.parent / "origins"
    origins.mkdir()
    for n in range(num):
        origin = origins / str(n // _LINKS)
        if n % _LINKS == 0:
            origin.write_bytes(b"frame")
            os.utime(origin, (1e9, 1e9))
        os.link(origin, folder / f"{n:08d}.tif")


def record_all(path: Path, folder: Path) -> None:
    """Say in a records file that every file is done: rows for ``is_done`` only, without chain."""
    RecordStore.open(path).close()
    values: dict[str, object] = dict.fromkeys(DRAFT_FIELDS, "{}")
    values |= {"kind": "result", "status": "failed", "name": "x", "refers_to": None}
    values |= {"bundle_sha256": _BUNDLE, "settings_sha256": _SETTINGS, "input_sha256": None}
    values |= {"created_utc": "", "hffnet_version": "", "row_version": 2, "prev_hash": "", "hash": ""}

    def rows() -> Iterator[dict[str, object]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat()
                file = {"input_path": entry.path, "input_size": status.st_size, "input_mtime_ns": status.st_mtime_ns}
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


def measure(root: Path, num: int) -> dict[str, float]:
    """Restart on a folder where all is done, watch it, and let one file come."""
    folder, figures = root / "in", dict[str, float]()
    folder.mkdir()
    fill(folder, num)
    record_all(root / "records.sqlite", folder)
    with RecordStore.open(root / "records.sqlite") as store:
        before_mb = memory_mb()
        is_done = done_in(store, bundle_sha256=_BUNDLE, settings_sha256=_SETTINGS)
        source = WatchFolder(folder, FolderOptions(), is_done=is_done)
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
    told = parser.parse_args()
    table = dict[int, dict[str, float]]()
    for num in told.files:
        with tempfile.TemporaryDirectory(prefix="hffnet-many-") as name:
            table[num] = measure(Path(name), num)
    print(f"| files there already | {' | '.join(f'{num:,}' for num in table)} |")
    print(f"| --- |{' --- |' * len(table)}")
    for row in next(iter(table.values())):
        print(f"| {row} | {' | '.join(f'{figures[row]:.2f}' for figures in table.values())} |")


if __name__ == "__main__":
    main()
