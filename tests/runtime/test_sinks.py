"""Sinks: every record arrives, in order, also after crashes and failures; spreadsheets run nothing."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import Record
from hffnet.runtime.records import RecordStore
from hffnet.runtime.sinks import Sink, delivery
from hffnet.runtime.sinks.csv_sink import COLUMNS, CsvSink, csv_line
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sinks.jsonl_sink import JsonlSink, StdoutSink
from tests.runtime.drafts import draft


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


def add(store: RecordStore, *numbers: int) -> None:
    for number in numbers:
        store.append(draft(number))


def deliver_all(sink: Sink, store: RecordStore) -> int:
    running = Delivery(sink, store)
    running.notify(store.last_seq())
    return running.close(10.0)


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def seqs(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_csv_says_what_was_decided(store: RecordStore, tmp_path: Path) -> None:
    store.append(draft(1))
    store.append(draft(2, answer=()))
    store.append(draft(3, status="failed", class_path=(), answer=(), confidence=(), reason="it is\ntorn", engine=None))
    assert deliver_all(CsvSink(tmp_path / "a.csv"), store) == 0
    sure, unsure, failed = csv_rows(tmp_path / "a.csv")
    assert (sure["class_path"], sure["answer"], sure["confidence"]) == ("mechanical/fatigue", "mechanical", "0.9")
    assert (sure["engine"], sure["precision"], sure["timings_ms"]) == ("onnxruntime", "int8", "62.5")
    assert unsure["answer"] == "unsure"
    assert (failed["answer"], failed["reason"], failed["status"]) == ("", "it is torn", "failed")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =cmd|' /C calc'!A0"])
def test_no_cell_is_a_formula(text: str) -> None:
    (cell,) = next(csv.reader([csv_line([text])]))
    assert cell.startswith("'")


def test_numbers_and_quotes_survive_csv() -> None:
    assert next(csv.reader([csv_line([-0.5, 'a "b", c', None, 7])])) == ["-0.5", 'a "b", c', "", "7"]


def test_a_sink_goes_on_after_its_cursor(store: RecordStore, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    add(store, 1, 2)
    deliver_all(JsonlSink(path), store)
    add(store, 3)
    deliver_all(JsonlSink(path), store)
    assert seqs(path) == [1, 2, 3]


def test_a_new_file_gets_everything(store: RecordStore, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    add(store, 1, 2)
    deliver_all(CsvSink(path), store)
    path.unlink()
    deliver_all(CsvSink(path), store)
    assert [row["seq"] for row in csv_rows(path)] == ["1", "2"]


def test_a_torn_last_line_is_removed_and_its_record_written_again(store: RecordStore, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    add(store, 1, 2)
    deliver_all(JsonlSink(path), store)
    store.set_cursor(JsonlSink(path).name, 1)  # the crash came before the cursor moved
    path.write_bytes(path.read_bytes()[:-40])
    deliver_all(JsonlSink(path), store)
    assert seqs(path) == [1, 2]


@pytest.mark.parametrize(("kind", "suffix"), [(CsvSink, "csv"), (JsonlSink, "jsonl")], ids=["csv", "jsonl"])
def test_a_crash_before_the_cursor_moved_repeats_nothing_in_a_file(
    store: RecordStore, tmp_path: Path, kind: type[CsvSink] | type[JsonlSink], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    add(store, 1, 2, 3)
    deliver_all(kind(path), store)
    store.set_cursor(kind(path).name, 1)
    before = path.read_bytes()
    deliver_all(kind(path), store)
    assert path.read_bytes() == before


def test_a_torn_header_is_written_again(store: RecordStore, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("seq,crea")
    add(store, 1)
    deliver_all(CsvSink(path), store)
    assert csv_rows(path)[0]["seq"] == "1"


def test_a_foreign_csv_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,weight\nx,1\n")
    with pytest.raises(RecordError, match="another program"):
        CsvSink(path)
    assert path.read_text() == "name,weight\nx,1\n"


def test_stdout_gets_what_this_run_adds(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, 1)
    running = Delivery(StdoutSink(), store)
    add(store, 2)
    running.notify(2)
    assert running.close(10.0) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [2]


class Flaky:
    """Fails a number of times, then delivers."""

    name = "flaky"

    def __init__(self, num_failures: int, error: Exception) -> None:
        self.left, self.error = num_failures, error
        self.got = list[int]()
        self.done = Event()

    def start(self, cursor: int | None, last_seq: int) -> int:
        del last_seq
        return cursor or 0

    def deliver(self, records: Sequence[Record]) -> None:
        if self.left:
            self.left -= 1
            raise self.error
        self.got += [record.seq for record in records]
        self.done.set()

    def close(self) -> None:
        pass


def test_a_sink_that_fails_is_tried_again_and_gets_everything(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 0.001)
    sink = Flaky(3, OSError("broker away"))
    running = Delivery(sink, store)
    add(store, 1, 2)
    running.notify(2)
    assert sink.done.wait(10)
    assert running.close(10.0) == 0
    assert sink.got == [1, 2]
    assert store.cursor("flaky") == 2


@pytest.mark.parametrize(("kind", "suffix"), [(CsvSink, "csv"), (JsonlSink, "jsonl")], ids=["csv", "jsonl"])
def test_a_kill_after_the_very_first_line_repeats_nothing(
    store: RecordStore, tmp_path: Path, kind: type[CsvSink | JsonlSink], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    assert deliver_all(kind(path), store) == 0  # started, nothing there yet
    add(store, 1, 2)
    sink = kind(path)
    sink.deliver([store.get(1)])  # and killed: the cursor did not move
    sink.close()
    assert deliver_all(kind(path), store) == 0
    got = seqs(path) if suffix == "jsonl" else [int(row["seq"]) for row in csv_rows(path)]
    assert got == [1, 2]


def test_a_sink_with_a_defect_ends_alone_and_is_told(store: RecordStore, caplog: pytest.LogCaptureFixture) -> None:
    running = Delivery(Flaky(1, ZeroDivisionError()), store)
    add(store, 1)
    running.notify(1)
    assert running.close(10.0) == 1
    assert "has a defect" in caplog.text


def test_a_full_disk_leaves_the_file_as_it_was(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    add(store, 1, 2)
    sink.deliver([store.get(1)])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            sink.deliver([store.get(2)])
    assert seqs(path) == [1]
    sink.deliver([store.get(2)])
    sink.close()
    assert seqs(path) == [1, 2]


def test_every_line_has_the_same_columns(store: RecordStore, tmp_path: Path) -> None:
    add(store, 1)
    deliver_all(CsvSink(tmp_path / "a.csv"), store)
    assert tuple(csv_rows(tmp_path / "a.csv")[0]) == COLUMNS
