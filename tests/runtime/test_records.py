"""The audit trail: nothing acknowledged is lost, nothing is there twice, nothing is changed unnoticed."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import GENESIS, canonical_json, plain, text_from_name
from hffnet.runtime.records import RecordStore
from tests.runtime.drafts import draft

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


def test_a_record_comes_back_as_it_was_given(store: RecordStore) -> None:
    record = store.append(draft(1))
    assert record.seq == 1
    assert record.prev_hash == GENESIS
    assert store.get(1) == record
    assert [*record.confidence] == [0.9, 0.4]
    with pytest.raises(RecordError, match="no record 2; its last is 1"):
        store.get(2)


def test_rows_are_chained_and_iterated_in_order(store: RecordStore) -> None:
    records = [store.append(draft(n)) for n in range(1, 321)]
    assert [r.prev_hash for r in records[1:]] == [r.hash for r in records[:-1]]
    assert [r.seq for r in store.iterate(after=5, limit=300)] == list(range(6, 306))
    report = store.verify()
    assert report.is_sound
    assert (report.num_rows, report.head) == (320, records[-1].hash)


def test_the_same_result_is_not_recorded_twice(store: RecordStore) -> None:
    first = store.append(draft(1))
    assert store.append(draft(1, class_path=("thermal", "spalling"))) == first
    assert store.last_seq() == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"input_mtime_ns": 5}, id="rewritten later"),
        pytest.param({"input_sha256": "d" * 64}, id="other content within one tick of the clock"),
        pytest.param({"input_path": "/data/copy.tif"}, id="a copy under another name"),
        pytest.param({"bundle_sha256": "e" * 64}, id="another model"),
        pytest.param({"settings_sha256": "f" * 64}, id="other settings"),
        pytest.param({"input_sha256": None, "status": "failed"}, id="unreadable"),
    ],
)
def test_what_differs_is_a_record_of_its_own(store: RecordStore, changes: dict[str, object]) -> None:
    store.append(draft(1))
    store.append(draft(1, **changes))
    store.append(draft(1, **changes))
    assert store.last_seq() == 2


def test_a_commit_does_not_get_slower_with_the_number_of_records(store: RecordStore) -> None:
    def steps(n: int) -> int:
        """SQLite's own count of the work that one commit and one question take."""
        count = [0]
        for connection in (store._writer, store._reader):
            connection.set_progress_handler(lambda: count.__setitem__(0, count[0] + 1), 1)
        record = store.append(draft(n))
        assert record.input_size is not None
        assert record.input_mtime_ns is not None
        key = (Path(str(record.input_path)), record.input_size, record.input_mtime_ns)
        assert store.is_done(*key, bundle_sha256=str(record.bundle_sha256), settings_sha256=str(record.settings_sha256))
        return count[0]

    steps(1)
    few = steps(2)
    for n in range(3, 300):
        store.append(draft(n))
    assert steps(300) <= few + 50


def test_a_file_is_done_under_its_bundle_and_settings_only(store: RecordStore) -> None:
    one = draft(1)
    store.append(one)
    key = (Path(str(one.input_path)), one.input_size or 0, one.input_mtime_ns or 0)
    assert store.is_done(*key, bundle_sha256="b" * 64, settings_sha256="c" * 64)
    assert not store.is_done(*key, bundle_sha256="b" * 64, settings_sha256="0" * 64)
    assert not store.is_done(key[0], 1, key[2], bundle_sha256="b" * 64, settings_sha256="c" * 64)


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        pytest.param("UPDATE records SET class_path = '[\"thermal\"]' WHERE seq = 3", 3, id="decision changed"),
        pytest.param("UPDATE records SET created_utc = '2020' WHERE seq = 1", 1, id="time changed"),
        pytest.param("UPDATE records SET confidence = '[1.0,0.40]' WHERE seq = 5", 5, id="last row changed"),
        pytest.param("DELETE FROM records WHERE seq = 2", 2, id="row removed"),
        pytest.param("DELETE FROM records WHERE seq = 5", 5, id="last row removed"),
        pytest.param("UPDATE records SET hash = prev_hash WHERE seq = 2", 2, id="hash changed"),
        pytest.param("UPDATE records SET row_version = 9 WHERE seq = 4", 4, id="unknown row version"),
        pytest.param("UPDATE records SET reason = x'00ff' WHERE seq = 4", 4, id="not text"),
    ],
)
def test_a_change_is_found_and_its_row_named(store: RecordStore, statement: str, broken: int) -> None:
    for n in range(1, 6):
        store.append(draft(n))
    with sqlite3.connect(store.path) as connection:
        connection.execute(statement)
    connection.close()
    report = store.verify()
    assert not report.is_sound
    assert report.broken_seq == broken
    assert report.reason


def test_two_writers_share_one_chain(store: RecordStore) -> None:
    with RecordStore.open(store.path) as other:
        threads = [
            Thread(target=lambda s=s, k=k: [s.append(draft(k + n)) for n in range(20)])
            for s, k in ((store, 0), (other, 10))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.last_seq() == 30
    assert store.verify().is_sound


def test_cursors_are_kept_by_name(store: RecordStore) -> None:
    assert store.cursor("csv:/a") == 0
    store.set_cursor("csv:/a", 7)
    with RecordStore.open(store.path) as again:
        assert (again.cursor("csv:/a"), again.cursor("csv:/b")) == (7, 0)


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at" * 99)


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (a)")
    connection.close()


def _newer(path: Path) -> None:
    RecordStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(_no_database, "cannot be opened", id="no database"),
        pytest.param(_foreign, "another program", id="foreign database"),
        pytest.param(_newer, "use a newer hffnet", id="newer schema"),
        pytest.param(lambda path: path.mkdir(), "cannot be opened", id="a folder"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, make: object, sentence: str) -> None:
    path = tmp_path / "records.sqlite"
    make(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(RecordError, match=sentence):
        RecordStore.open(path)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_missing_file_is_not_created_for_reading(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="does not exist"):
        RecordStore.open(tmp_path / "absent.sqlite", create=False)
    assert not (tmp_path / "absent.sqlite").exists()


_WRITER = """
import sys
from pathlib import Path
from hffnet.runtime.records import RecordStore
from tests.runtime.drafts import draft
with RecordStore.open(Path(sys.argv[1])) as store:
    n = store.last_seq()
    while True:
        n += 1
        print(store.append(draft(n)).seq, flush=True)
"""


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    path, chance, last = tmp_path / "records.sqlite", random.Random(7), 0
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT / 'runtime'}:{ROOT}", "PATH": ""},
        )
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 12)):
            last = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().splitlines(keepends=True)
        last = max([last, *(int(line) for line in rest if line.endswith("\n"))])
        writer.stdout.close()
        writer.wait()
        with RecordStore.open(path) as store:
            assert store.last_seq() in {last, last + 1}
            assert store.verify().is_sound
            last = store.last_seq()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_any_value_has_one_canonical_text(value: object) -> None:
    import json

    text = canonical_json(plain(value))
    assert canonical_json(json.loads(text)) == text


@given(st.binary(max_size=40))
def test_any_file_name_becomes_text_and_stays_distinct_from_its_bytes(name: bytes) -> None:
    text = text_from_name(name.decode("utf-8", "surrogateescape"))
    text.encode("utf-8")
