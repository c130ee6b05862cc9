"""What people and the service itself add to the audit trail, and how old rows leave it."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from typer.testing import CliRunner

from hffnet.runtime.errors import ConfigError, RecordError
from hffnet.runtime.events import ClockWatch, draft_from_event
from hffnet.runtime.overrides import draft_from_override
from hffnet.runtime.record import row_hash
from hffnet.runtime.recorder import Recorder
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_archive import Retention, archive_through, tidy, verify_archive
from hffnet.runtime.records_command import records as records_app
from hffnet.runtime.run_settings import settings_from_toml
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sinks.jsonl_sink import JsonlSink
from tests.runtime.drafts import draft


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


def filled(store: RecordStore, num: int) -> RecordStore:
    for n in range(1, num + 1):
        store.append(draft(n))
    return store


@pytest.mark.parametrize(
    ("decision", "answer", "said"),
    [
        pytest.param("accept", ("mechanical",), "accepted", id="accepted as answered"),
        pytest.param("thermal", ("thermal",), "overridden", id="another class"),
    ],
)
def test_a_decision_is_a_new_row_and_the_result_stays(
    store: RecordStore, decision: str, answer: tuple[str, ...], said: str
) -> None:
    result = store.append(draft(1))
    row = store.append(draft_from_override(result, person="A. Reader", decision=decision, reason="looked at it"))
    assert (row.kind, row.refers_to, row.person, tuple(row.answer)) == ("override", 1, "A. Reader", answer)
    assert row.details == {"decision": said}
    assert store.get(1) == result
    assert store.overrides(1) == [row]
    assert store.verify().is_sound


@pytest.mark.parametrize(
    ("changes", "decision", "person", "reason", "sentence"),
    [
        pytest.param({}, "mechanical/rust", "P", "so", "knows mechanical, thermal", id="unknown class"),
        pytest.param({}, "thermal", "P", None, "needs a reason", id="no reason"),
        pytest.param({}, "accept", " ", None, "name of the person", id="no person"),
        pytest.param({"answer": ()}, "accept", "P", None, "answers unsure", id="nothing to accept"),
        pytest.param(
            {"status": "failed", "answer": (), "class_path": ()}, "accept", "P", None, "answers failed", id="failed"
        ),
    ],
)
def test_a_decision_that_says_nothing_is_refused(
    store: RecordStore, changes: dict[str, object], decision: str, person: str, reason: str | None, sentence: str
) -> None:
    result = store.append(draft(1, **changes))
    with pytest.raises(RecordError, match=sentence):
        draft_from_override(result, person=person, decision=decision, reason=reason)


def test_a_decision_on_a_decision_names_the_result(store: RecordStore) -> None:
    row = store.append(draft_from_override(store.append(draft(1)), person="P", decision="accept", reason=None))
    with pytest.raises(RecordError, match="the result it is about is record 1"):
        draft_from_override(row, person="P", decision="accept", reason=None)


def test_override_archive_and_verify_from_the_command_line(store: RecordStore, tmp_path: Path) -> None:
    file, runner = str(filled(store, 3).path), CliRunner()
    arguments = ["override", file, "2", "--person", "P", "--decision", "thermal", "--reason", "spall", "--json"]
    said = json.loads(runner.invoke(records_app, arguments, catch_exceptions=False).stdout)
    assert said["record"]["refers_to"] == 2
    shown = json.loads(runner.invoke(records_app, ["show", file, "2"]).stdout)
    assert shown["decided"] == [{"seq": 4, "person": "P", "answer": ["thermal"], "reason": "spall"}]
    moved = runner.invoke(records_app, ["archive", file, str(tmp_path / "old"), "--keep-days", "0", "--json"])
    archive = json.loads(moved.stdout)
    assert archive["archived_to"] == 4
    assert runner.invoke(records_app, ["verify", archive["archive"]]).exit_code == 0
    assert runner.invoke(records_app, ["verify", file]).exit_code == 0


def test_archived_rows_are_gone_from_the_file_proven_in_the_archive_and_still_done(
    store: RecordStore, tmp_path: Path
) -> None:
    head = filled(store, 5).get(3).hash
    path = archive_through(store, tmp_path / "old", 3)
    assert [record.seq for record in store.iterate()] == [4, 5, 6]
    assert store.get(6).name == "archived"
    assert verify_archive(path).head == head
    assert store.verify().is_sound
    one = draft(1)
    key = (Path(str(one.input_path)), one.input_size or 0, one.input_mtime_ns or 0)
    assert store.is_done(*key, bundle_sha256="b" * 64, settings_sha256="c" * 64)
    assert not store.is_done(*key, bundle_sha256="d" * 64, settings_sha256="c" * 64)
    with pytest.raises(RecordError, match="moved to an archive"):
        store.get(2)


def test_everything_can_be_archived_and_the_chain_goes_on(store: RecordStore, tmp_path: Path) -> None:
    filled(store, 2)
    first = archive_through(store, tmp_path, 2)
    second = archive_through(store, tmp_path, store.last_seq())
    store.append(draft(9))
    assert store.verify().is_sound
    assert verify_archive(second, prev_hash=verify_archive(first).head).is_sound
    assert [record.seq for record in store.iterate()] == [4, 5]


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("DELETE FROM records WHERE seq = 4", id="first kept row removed"),
        pytest.param("UPDATE archives SET last_seq = 4", id="archive reaches further"),
        pytest.param("DELETE FROM archives", id="archive forgotten"),
        pytest.param("UPDATE records SET details = '{}' WHERE seq = 6", id="event changed"),
    ],
)
def test_a_change_behind_an_archive_is_found(store: RecordStore, tmp_path: Path, statement: str) -> None:
    archive_through(filled(store, 5), tmp_path, 3)
    with sqlite3.connect(store.path) as connection:
        connection.execute(statement)
    connection.close()
    assert not store.verify().is_sound


def test_a_changed_archive_is_found(store: RecordStore, tmp_path: Path) -> None:
    path = archive_through(filled(store, 3), tmp_path, 3)
    path.write_text(path.read_text().replace('"0.9', '"0.8').replace("0.4", "0.5", 1))
    report = verify_archive(path)
    assert report.broken_seq == 1


def test_an_archive_that_cannot_be_written_removes_nothing(store: RecordStore, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "records-000000001-000000002.jsonl").mkdir()
    with pytest.raises(RecordError):
        archive_through(filled(store, 2), tmp_path / "old", 2)
    assert [record.seq for record in store.iterate()] == [1, 2]


def test_an_archive_of_other_records_is_never_replaced(store: RecordStore, tmp_path: Path) -> None:
    """A records file that was moved away leaves its archives, and the new one begins with number 1 as well."""
    path = archive_through(filled(store, 2), tmp_path / "old", 2)
    before = path.read_bytes()
    with RecordStore.open(tmp_path / "new.sqlite") as new:
        new.append(draft(7))
        new.append(draft(8))
        with pytest.raises(RecordError, match="an archive of other records"):
            archive_through(new, tmp_path / "old", 2)
        assert [record.seq for record in new.iterate()] == [1, 2]
        assert path.read_bytes() == before
        path.write_bytes(before[:100])
        with pytest.raises(RecordError, match="an archive of other records"):
            archive_through(new, tmp_path / "old", 2)


def test_an_archive_of_a_run_that_ended_before_it_removed_the_rows_is_taken(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    filled(store, 3)
    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "drop_archived", killed)
        with pytest.raises(KeyboardInterrupt):
            archive_through(store, tmp_path / "old", 2)
    assert store.last_seq() == 3
    archive_through(store, tmp_path / "old", 2)
    assert store.archived().last_seq == 2


def test_a_folder_for_archives_that_cannot_be_made_is_told(store: RecordStore, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a file")
    with pytest.raises(RecordError, match="name another folder for archives"):
        archive_through(filled(store, 2), tmp_path / "old", 2)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(RecordStore.used_bytes, id="size"),
        pytest.param(lambda store: store.last_seq_before("2026"), id="age"),
        pytest.param(RecordStore.cursors, id="cursors"),
        pytest.param(RecordStore.archived, id="archived"),
        pytest.param(RecordStore.last_seq, id="last"),
        pytest.param(lambda store: store.overrides(1), id="decisions"),
        pytest.param(lambda store: store.forget_cursor("a"), id="forgetting"),
        pytest.param(lambda store: store.is_done(Path("/a"), 1, 1, bundle_sha256="", settings_sha256=""), id="done"),
    ],
)
def test_records_that_cannot_be_read_are_told_in_a_sentence(
    store: RecordStore, ask: Callable[[RecordStore], object]
) -> None:
    store._reader.close()
    with pytest.raises(RecordError, match=r"records\.sqlite"):
        ask(store)


@pytest.mark.parametrize("days", ["1e9", "-1", "nan"])
def test_days_that_no_calendar_holds_are_refused(store: RecordStore, tmp_path: Path, days: str) -> None:
    settings = tmp_path / "run.toml"
    settings.write_text(f'bundle = "b"\nsource = "s"\nrecords = {{ archive = "old", keep_days = {days} }}\n')
    with pytest.raises(ConfigError, match="keep_days"):
        settings_from_toml(settings)
    arguments = ["archive", str(store.path), str(tmp_path / "old"), "--keep-days", days]
    done = CliRunner().invoke(records_app, arguments)
    assert done.exit_code == 2, done.exception


def test_retention_moves_the_old_and_never_what_a_sink_still_waits_for(store: RecordStore, tmp_path: Path) -> None:
    filled(store, 4)
    store.set_cursor("mqtt:plant", 2)
    retention = Retention(archive=tmp_path / "old", keep_days=30)
    assert tidy(store, retention) is None
    tomorrow = datetime.now(UTC) + timedelta(days=31)
    assert tidy(store, retention, now=tomorrow) is not None
    assert [record.seq for record in store.iterate()] == [3, 4, 5]
    store.forget_cursor("mqtt:plant")
    tidy(store, retention, now=tomorrow)
    assert store.archived().last_seq == 5


def test_retention_waits_for_a_sink_that_never_delivered_anything(store: RecordStore, tmp_path: Path) -> None:
    class Away:
        name = "away"

        def start(self, cursor: int | None, last_seq: int) -> int:
            return last_seq if cursor is None else cursor

        def deliver(self, records: object) -> None:
            raise OSError(f"nobody takes {records}")

        def close(self) -> None:
            pass

    running = Delivery(Away(), store)
    running.notify(filled(store, 3).last_seq())
    assert running.close(0.1) == 3
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert tidy(store, Retention(archive=tmp_path / "old", keep_days=0.0), now=tomorrow) is None
    assert store.archived().last_seq == 0


def test_a_size_cap_holds(store: RecordStore, tmp_path: Path) -> None:
    filled(store, 400)
    cap = store.used_bytes() / 2**20 / 2
    tidy(store, Retention(archive=tmp_path / "old", max_mb=cap))
    assert store.used_bytes() / 2**20 < cap * 1.05
    assert store.verify().is_sound


def _back_to_schema_1(path: Path) -> None:
    """Take a file of one row back to what the first version wrote."""
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        row = {**connection.execute("SELECT * FROM records").fetchone(), "row_version": 1}
        connection.execute("UPDATE records SET row_version = 1, hash = ?", (row_hash(row, 1),))
        tables = ("archives", "archived_inputs", "ends")
        for statement in (*(f"TABLE {name}" for name in tables), "INDEX overrides_of", "INDEX contents"):
            connection.execute(f"DROP {statement}")
        connection.execute("ALTER TABLE records DROP COLUMN details")
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_a_file_of_the_first_schema_is_migrated_and_its_rows_stay_sound(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with RecordStore.open(path) as store:
        filled(store, 1)
    _back_to_schema_1(path)
    with RecordStore.open(path) as store:
        store.append(draft(2, details={"evidence": [1.5]}))
        assert [record.row_version for record in store.iterate()] == [1, 2]
        assert store.verify().is_sound
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE records SET details = '{}' WHERE seq = 1")
    connection.close()
    with RecordStore.open(path) as store:
        assert store.verify().broken_seq == 1


class Clocks:
    """A monotonic clock and a wall clock that are moved by hand."""

    def __init__(self) -> None:
        self.now, self.wall = 100.0, 1.8e9

    def watch(self) -> ClockWatch:
        return ClockWatch(lambda: self.now, lambda: self.wall)


@pytest.mark.parametrize(
    ("passed", "passed_wall", "jump"),
    [
        pytest.param(1.0, 3601.0, 3600.0, id="an hour forward"),
        pytest.param(1.0, -3599.0, -3600.0, id="an hour back"),
        pytest.param(1.0, -1.8e9, -1.8e9 - 1, id="to 1970"),
        pytest.param(86400.0, 86410.0, None, id="slewed over a day"),
        pytest.param(1.0, 1.5, None, id="small"),
    ],
)
def test_a_clock_that_is_set_is_told_once(passed: float, passed_wall: float, jump: float | None) -> None:
    clocks = Clocks()
    watch = clocks.watch()
    clocks.now, clocks.wall = clocks.now + passed, clocks.wall + passed_wall
    assert watch.jump_s() == (None if jump is None else pytest.approx(jump))
    assert watch.jump_s() is None


def test_a_night_of_sleep_is_no_clock_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s = [0.0]
    clocks = {time.CLOCK_BOOTTIME: slept_s, time.CLOCK_MONOTONIC: [0.0]}
    monkeypatch.setattr("time.clock_gettime", lambda clock: 100.0 + clocks[clock][0])
    watch = ClockWatch(wall_clock=lambda: 1.8e9 + slept_s[0])
    slept_s[0] = 8 * 3600.0
    assert watch.jump_s() is None


def test_the_recorder_puts_a_clock_jump_on_record_and_goes_on(store: RecordStore) -> None:
    clocks = Clocks()
    recorder = Recorder(store, [], Event(), None, clocks.watch())
    clocks.wall -= 1.8e9
    assert recorder.put(draft(1), clocks.now)
    recorder.finish()
    assert [(record.kind, record.name) for record in store.iterate()] == [("event", "clock_jump"), ("result", "1.tif")]
    assert store.verify().is_sound


def test_sinks_get_decisions_and_no_events(store: RecordStore, tmp_path: Path) -> None:
    store.append(draft_from_event("start", "started"))
    store.append(draft_from_override(store.append(draft(1)), person="P", decision="accept", reason=None))
    store.append(draft_from_event("stop", "stopped"))
    delivery = Delivery(JsonlSink(tmp_path / "a.jsonl"), store)
    delivery.notify(store.last_seq())
    assert delivery.close(10.0) == 0
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["result", "override"]
