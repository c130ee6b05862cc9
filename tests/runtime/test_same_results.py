"""One record per version of a file, also after archives, remounts and odd clocks; equal bytes are told."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from hffnet.runtime.pipeline import done_in
from hffnet.runtime.record import Record, RecordDraft
from hffnet.runtime.recorder import Recorder
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_archive import archive_through
from hffnet.runtime.records_inputs import AlreadyArchivedError, input_key
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sinks.jsonl_sink import JsonlSink
from hffnet.runtime.sources import FileStamp, Item
from tests.runtime.drafts import draft
from tests.runtime.folder_stand import Watched, write

BUNDLE, SETTINGS = "b" * 64, "c" * 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def watched(folder: Path, store: RecordStore) -> Watched:
    return Watched(folder, done_in(store, bundle_sha256=BUNDLE, settings_sha256=SETTINGS))


def of(item: Item, sha256: str = "a" * 64) -> RecordDraft:
    stamp = item.stamp
    file = {"input_path": str(item.path), "input_size": stamp.size, "input_mtime_ns": stamp.mtime_ns}
    return draft(1, name=item.name, input_sha256=sha256, **file)


def results(store: RecordStore) -> list[Record]:
    return [record for record in store.iterate() if record.kind == "result"]


@pytest.mark.parametrize("seconds", [2**34, 9_300_000_000, -(2**33), -1], ids=["2514", "2264", "1697", "1969"])
def test_a_file_of_any_age_gets_one_record(folder: Path, store: RecordStore, seconds: int) -> None:
    path = write(folder / "a.tif")
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
    stamp = FileStamp.from_stat(path.lstat())
    assert -(2**63) <= stamp.mtime_ns < 2**63
    running = watched(folder, store)
    (item,) = [*running.look(), *running.look()]
    assert item.is_unchanged()
    assert store.append(of(item)).input_mtime_ns == stamp.mtime_ns
    assert watched(folder, store).until_quiet() == []


def test_a_share_that_was_away_and_an_archive_in_between_repeat_nothing(
    folder: Path, store: RecordStore, tmp_path: Path
) -> None:
    running = watched(folder, store)
    for n in range(3):
        write(folder / f"{n}.tif")
    first = [item for _ in range(3) for item in running.look()]
    for n, item in enumerate(first):
        store.append(of(item, f"{n:064x}"))
    archive_through(store, tmp_path / "old", 3)
    folder.rename(tmp_path / "away")
    folder.mkdir()
    running.look()
    running.now += 60
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert running.until_quiet() == []
    recorder = Recorder(store, [], Event(), None)
    for n, item in enumerate(first):  # and were one offered all the same, it would not be recorded again
        assert recorder.put(of(item, f"{n:064x}"), 0.0)
    recorder.finish()
    assert recorder.error is None
    assert (recorder.counts, recorder.num_unrecorded, results(store)) == ({}, 0, [])


def test_an_archived_result_is_refused_and_other_content_of_that_time_is_not(
    store: RecordStore, tmp_path: Path
) -> None:
    store.append(draft(1))
    archive_through(store, tmp_path / "old", 1)
    with pytest.raises(AlreadyArchivedError, match="moved to an archive"):
        store.append(draft(1))
    assert store.append(draft(1, input_sha256="d" * 64)).seq == 3
    assert store.append(draft(1, bundle_sha256="e" * 64)).seq == 4


def _back_to_schema_2(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE ends")
        connection.execute("DROP INDEX contents")
        connection.execute("CREATE TABLE kept (key BLOB PRIMARY KEY) WITHOUT ROWID")
        one = draft(1)
        key = input_key(one.input_path, one.input_mtime_ns, one.input_size, one.bundle_sha256, one.settings_sha256)
        connection.execute("INSERT INTO kept VALUES (?)", (key,))
        connection.execute("DROP TABLE archived_inputs")
        connection.execute("ALTER TABLE kept RENAME TO archived_inputs")
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def test_archives_of_an_earlier_schema_still_tell_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with RecordStore.open(path) as store:
        store.append(draft(1))
        store.append(draft(2))
        archive_through(store, tmp_path / "old", 1)
    _back_to_schema_2(path)
    with RecordStore.open(path) as store:
        with pytest.raises(AlreadyArchivedError):
            store.append(draft(1))
        assert store.append(draft(3, input_sha256=draft(2).input_sha256)).details == {
            "same_as": 2,
            "renamed_from": "/data/2.tif",
        }
        assert store.verify().is_sound


def test_a_result_that_is_there_already_is_neither_counted_nor_told_again(store: RecordStore, tmp_path: Path) -> None:
    delivery, shown = Delivery(JsonlSink(tmp_path / "a.jsonl"), store), list[int]()
    recorder = Recorder(store, [delivery], Event(), lambda record, _times: shown.append(record.seq))
    for number in (1, 2, 1):
        assert recorder.put(draft(number), 0.0)
    recorder.finish()
    assert recorder.counts == {"classified": 2}
    assert shown == [1, 2]
    delivery.notify(1)  # an older number takes nothing back
    assert delivery.close(10.0) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2


def test_equal_bytes_are_told_with_the_last_record_of_them(store: RecordStore, folder: Path) -> None:
    there = str(write(folder / "a.tif"))
    first = store.append(draft(1, input_path=there))
    assert first.details is None
    sha256 = first.input_sha256
    copy = store.append(draft(2, input_path=str(write(folder / "b.tif")), input_sha256=sha256, details={"area": 1}))
    assert copy.details == {"area": 1, "same_as": 1}
    (folder / "b.tif").rename(folder / "c.tif")
    renamed = store.append(draft(3, input_path=str(folder / "c.tif"), input_sha256=sha256))
    assert renamed.details == {"same_as": 2, "renamed_from": str(folder / "b.tif")}
    again = store.append(draft(4, input_path=str(folder / "c.tif"), input_sha256=sha256))
    assert again.details == {"same_as": 3}
    for changes in ({"bundle_sha256": "e" * 64}, {"settings_sha256": "f" * 64}, {"input_sha256": None}):
        assert store.append(draft(5, **{"input_sha256": sha256, **changes})).details is None
    assert store.verify().is_sound


def test_equal_bytes_of_an_archived_record_are_told_too(store: RecordStore, tmp_path: Path) -> None:
    for n in (1, 2):
        store.append(draft(n, input_sha256="a" * 64))
    archive_through(store, tmp_path, 2)
    assert store.append(draft(9, input_sha256="a" * 64)).details == {"same_as": 2}


def test_a_name_that_text_cannot_hold_is_not_told_to_be_gone(store: RecordStore, folder: Path) -> None:
    store.append(draft(1, input_path=f"{folder}/\\xff.tif"))
    assert store.append(draft(2, input_sha256=draft(1).input_sha256)).details == {"same_as": 1}
